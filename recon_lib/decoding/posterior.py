"""The posterior over the pictures of the retrieval prior, given all voxels.

Bayes' rule over a finite set: the pictures that training showed are the prior, an encoding model of
every voxel is the likelihood. The likeliest picture is the MAP retrieval (Nishimoto et al. 2011,
doi:10.1016/j.cub.2011.08.031). The network is told more: the mean of the latent under the
posterior, which lies between the likely pictures and is none of them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from recon_lib.brain.decoder import BrainDecoder
from recon_lib.brain.encoding import EncodingModel
from recon_lib.brain.families import feature_families
from recon_lib.brain.latents import ImageLatent
from recon_lib.decoding.retrieval_prior import add_trials, check_prior

# By how much log-likelihoods are divided: the misfit of an encoding model is common to all voxels
# and counts as if it were new in each. Chosen by benchmarks/posterior.py on training trials, so
# that sets of categories that are given 90 % hold the true one in nine of ten.
TEMPERATURE = 1.25
ROWS = 128  # trials at a time: a number for each of them and each picture of the prior


@dataclass
class Posterior:
    """How likely is each picture of the prior, given betas?

    Attributes
    ----------
    decoder : BrainDecoder
    encoding : EncodingModel
        Of the same trials, fitted to `families.feature_families`.
    latent : ImageLatent
        With its `prior`.
    """

    decoder: BrainDecoder
    encoding: EncodingModel
    latent: ImageLatent

    @cached_property
    def families(self):
        """Features of the pictures of the prior."""
        check_prior(self.latent.prior, len(self.decoder.noise_cholesky))
        return feature_families(self.latent, self.latent.prior)

    def log_weights(self, betas, repeats=1):
        """log p(picture | betas) (n, pictures of the prior), up to a number for each row."""
        fit = self.encoding.rank(betas, self.families, repeats) / TEMPERATURE
        return fit - fit.max(1, keepdims=True)

    def map_and_mean(self, betas, repeats=1):
        """The likeliest picture for each trial, and the mean of the latent over all pictures.

        Parameters
        ----------
        betas : (n, voxels) array
        repeats : int or (n,) array
            How many trials each row is the mean of.

        Returns
        -------
        index : (n,) int array
            Rows of the prior.
        mean : (n, d) array
        """
        repeats = np.broadcast_to(repeats, len(betas))
        index, mean = [], []
        for i in range(0, len(betas), ROWS):
            rows = slice(i, i + ROWS)
            weights = np.exp(self.log_weights(betas[rows], repeats[rows]))
            index.append(weights.argmax(1))
            mean.append(weights @ self.latent.prior / weights.sum(1, keepdims=True))
        return np.concatenate(index), np.concatenate(mean)

    def vectors(self, betas, repeats=1, pseudo_trials=60.0):
        """Brain vectors (n, d + 1) after the posterior mean has been counted as further trials.

        Parameters
        ----------
        betas, repeats
            As for `map_and_mean`.
        pseudo_trials : float
            0 or more: how many further trials.
        """
        vectors = self.decoder.vector(betas, repeats)
        return add_trials(self.decoder, vectors, self.map_and_mean(betas, repeats)[1],
                          pseudo_trials)

    def likelihood(self, measured):
        """A function pictures (b, C, H, W) -> log p(betas | picture) (b,), to choose among them.

        `measured` (b, voxels + 1) holds the betas and, last, the number of trials behind each row.
        """
        betas, repeats = np.split(measured.cpu().numpy(), [-1], axis=1)

        def log_likelihood(pictures):
            latents = self.latent.encode(pictures.cpu()).detach().numpy()
            seen = feature_families(self.latent, latents)
            fit = self.encoding.rank(betas, seen, repeats)
            return torch.from_numpy(np.diag(fit).copy()).to(pictures.device)

        return log_likelihood

