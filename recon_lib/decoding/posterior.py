"""The posterior over the pictures of the retrieval prior, given all voxels.

Bayes' rule over a finite set: the pictures that training showed are the prior, an encoding model of
every voxel is the likelihood. The likeliest picture is the MAP retrieval (Nishimoto et al. 2011,
doi:10.1016/j.cub.2011.08.031). The network is told more: the mean of the latent under the
posterior, which lies between the likely pictures and is none of them. The picture nearest to that
mean is another search, and a better one where what counts is to be like what was seen. And the
posterior says how sure one may be: which categories, backgrounds and lights share it, and how far
the likely pictures differ at each place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from recon_lib.brain.decoder import BrainDecoder
from recon_lib.brain.encoding import EncodingModel
from recon_lib.brain.families import feature_families
from recon_lib.brain.features import NAMED, PIXEL_SIDE
from recon_lib.brain.latents import ImageLatent
from recon_lib.brain.patterns import similarity
from recon_lib.decoding.retrieval_prior import add_trials, check_prior

# By how much log-likelihoods are divided: the misfit of an encoding model is common to all voxels
# and counts as if it were new in each. Chosen on training trials that were held out (see
# benchmarks/posterior.py): the larger of those at which sets of categories that are given 90 % hold
# the true one in .87 to .93, for there the true one is given more.
TEMPERATURE = 1.75
# The error of a coarse picture is so many times the variance of the likely ones, and this floor:
# what no latent holds, and what the encoding model misses. Chosen there, too.
GROWTH, FLOOR = 1.6, 0.051
ROWS = 128  # trials at a time: a number for each of them and each picture of the prior


@dataclass
class Found:
    """What the posterior says of each of n trials."""

    index: np.ndarray  # (n,) the likeliest picture: a row of the prior
    nearest: np.ndarray  # (n,) the picture whose latent correlates best with the mean: a row, too
    mean: np.ndarray  # (n, d) of the latent
    # (n, classes) probability of each category, background and light, as the encoder names them
    share: dict[str, np.ndarray]
    # (n, 16, 16) expected error of the mean coarse picture at each place, as a share of the pixels'
    # range: the root of the mean square over its channels
    spread: np.ndarray

    def take(self, rows):
        """What it says of some of these trials."""
        return Found(self.index[rows], self.nearest[rows], self.mean[rows],
                     {k: v[rows] for k, v in self.share.items()}, self.spread[rows])


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
    edges : function or None
        See `edges.fit_edges`, if the encoding model was fitted to them.
    """

    decoder: BrainDecoder
    encoding: EncodingModel
    latent: ImageLatent
    edges: Callable | None = None

    @cached_property
    def pictures(self):
        """The prior as the encoding model takes it, its names, and its coarse pictures squared."""
        check_prior(self.latent.prior, len(self.decoder.noise_cholesky))
        families = feature_families(self.latent, self.latent.prior, self.edges)
        seen, start = {}, {"object": 0, "scene": 0}
        for name, classes in NAMED.items() if "object" in families else ():
            family = "object" if name == "category" else "scene"
            seen[name] = families[family][:, start[family] :][:, : len(classes)]
            start[family] += len(classes)
        return self.encoding.candidates(families), seen, self.coarse(self.latent.prior)[1]

    def coarse(self, latents):
        """Coarse pictures (n, C, 16, 16) of latents, in 0 to 1, and their squares' mean over C."""
        pixels = self.latent.pixels
        x = latents[:, : pixels.axes.shape[1]] @ np.linalg.pinv(pixels.axes) + pixels.mean
        x = (x.reshape(len(x), -1, PIXEL_SIDE, PIXEL_SIDE) + 1) / 2
        return x, np.square(x).mean(1)

    def log_weights(self, betas, repeats=1):
        """log p(picture | betas) (n, pictures of the prior), up to a number for each row."""
        fit = self.encoding.rank(betas, self.pictures[0], repeats) / TEMPERATURE
        return fit - fit.max(1, keepdims=True)

    def find(self, betas, repeats=1):
        """What the posterior says of each trial.

        Parameters
        ----------
        betas : (n, voxels) array
        repeats : int or (n,) array
            How many trials each row is the mean of.

        Returns
        -------
        Found
        """
        repeats, parts = np.broadcast_to(repeats, len(betas)), []
        _, names, squares = self.pictures
        for i in range(0, len(betas), ROWS):
            rows = slice(i, i + ROWS)
            weights = np.exp(self.log_weights(betas[rows], repeats[rows])).astype(np.float32)
            index = weights.argmax(1)
            weights /= weights.sum(1, keepdims=True)
            mean = weights @ self.latent.prior
            nearest = similarity(mean, self.latent.prior).argmax(1)
            shares = [weights @ seen for seen in names.values()]
            square = (weights @ squares.reshape(len(squares), -1)).reshape(-1, *squares.shape[1:])
            variance = np.maximum(square - self.coarse(mean)[1], 0)
            spread = np.sqrt(GROWTH * variance + FLOOR**2)
            parts.append((index, nearest, mean, *shares, spread))
        index, nearest, mean, *shares, spread = map(np.concatenate, zip(*parts, strict=True))
        return Found(index, nearest, mean, dict(zip(names, shares, strict=True)), spread)

    def map_and_mean(self, betas, repeats=1):
        """The likeliest picture for each trial (n,), and the mean of the latent (n, d): `find`."""
        found = self.find(betas, repeats)
        return found.index, found.mean

    def vectors(self, betas, repeats=1, pseudo_trials=60.0, found=None):
        """Brain vectors (n, d + 1) after the posterior mean has been counted as further trials.

        Parameters
        ----------
        betas, repeats
            As for `find`.
        pseudo_trials : float
            0 or more: how many further trials.
        found : Found, optional
            What `find` says of them, where that is known.
        """
        vectors = self.decoder.vector(betas, repeats)
        found = found or self.find(betas, repeats)
        return add_trials(self.decoder, vectors, found.mean, pseudo_trials)

    def likelihood(self, measured):
        """A function pictures (b, C, H, W) -> log p(betas | picture) (b,), to choose among them.

        `measured` (b, voxels + 1) holds the betas and, last, the number of trials behind each row.
        """
        betas, repeats = np.split(measured.cpu().numpy(), [-1], axis=1)

        def log_likelihood(pictures):
            latents = self.latent.encode(pictures.cpu()).detach().numpy()
            seen = feature_families(self.latent, latents, self.edges)
            fit = self.encoding.rank(betas, seen, repeats)
            return torch.from_numpy(np.diag(fit).copy()).to(pictures.device)

        return log_likelihood

