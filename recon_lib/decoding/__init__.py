"""From brain vectors to pictures: baselines, samplers with a brain, cross-validation."""

from recon_lib.decoding import haxby
from recon_lib.decoding.baselines import (
    ideal_observer, mean_image, retrieval, ridge_to_pixels, shuffled_brain)
from recon_lib.decoding.crossval import CrossValidation, cross_validate
from recon_lib.decoding.embeddings import decode_embeddings
from recon_lib.decoding.posterior import Posterior
from recon_lib.decoding.pretrained import (
    Pretrained, PretrainedSampling, embed_pictures, fit_pretrained, like_embeddings,
    load_pretrained, sample_embeddings, untrained)
from recon_lib.decoding.reconstruct import reconstruct_experiment
from recon_lib.decoding.retrieval_prior import (
    EXTRA, EXTRA_SEED, brain_guidance, map_pictures, prior_pictures, sample_prior,
    training_pictures, with_pseudo_trials)
from recon_lib.decoding.sampling import (
    AUTOGUIDANCE, MODEL, PLAIN, SAMPLING, Guidance, Sampling, guided_denoiser, load_conditional,
    load_guidance_model, sample_pictures)
