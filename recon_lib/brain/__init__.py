"""From betas to a brain vector, and models of what evokes betas."""

from recon_lib.brain.decoder import brain_log_likelihood, fit_decoder, vector_source
from recon_lib.brain.encoders import ENCODERS, choose_encoder, load_encoder
from recon_lib.brain.encoding import fit_encoding_model, log_likelihood
from recon_lib.brain.families import feature_families
from recon_lib.brain.features import NAMED, embed, load_factor_net, read_factors
from recon_lib.brain.latents import coarse_pixels, fit_latent
from recon_lib.brain.patterns import compare_rdms, decode, rdm, similarity
from recon_lib.brain.ridge import fit_ridge
