"""From pictures to betas: an encoding model, and the likelihood of betas under any such model."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cholesky, solve_triangular

from recon_lib.brain.families import CHOICES, UNNAMED
from recon_lib.brain.ridge import Ridge, fit_banded_ridge, fit_ridge
from recon_lib.common.errors import DataError, check


def log_likelihood(betas: ArrayLike, responses: ArrayLike, noise: ArrayLike) -> np.ndarray:
    """log p(betas | candidate) under Gaussian noise, for every trial and candidate.

    With the true responses and the true noise this is the ideal observer: no decoder names
    the candidate more often than the one that picks the largest value (equal priors).
    With the responses that an encoding model predicts it ranks candidates by that model.

    Parameters
    ----------
    betas : array_like (trials, voxels)
    responses : array_like (candidates, voxels)
        The response that each candidate would evoke without noise.
    noise : array_like (voxels,) or (voxels, voxels)
        Variances of independent noise, or a covariance matrix. For means of r trials give
        the noise of one trial divided by r.

    Returns
    -------
    ndarray (trials, candidates)

    Raises
    ------
    DataError
        If the numbers of voxels disagree, something is not finite, or the noise is no valid
        (co)variance.
    """
    betas = check(betas, ("trials", "voxels"), what="the array of betas").astype(np.float64)
    voxels = betas.shape[1]
    responses = check(responses, ("candidates", voxels), what="the array of responses")
    responses = responses.astype(np.float64)
    axes = min(max(np.ndim(noise), 1), 2)
    noise = check(noise, (voxels,) * axes, what="the noise").astype(np.float64)
    if noise.ndim == 1:
        if not (noise > 0).all():
            raise DataError("found noise variances that are not positive: drop constant voxels")
        scale = np.sqrt(noise)
        betas, responses, log_det = betas / scale, responses / scale, np.log(noise).sum()
    else:
        if np.abs(noise - noise.T).max(initial=0) > 1e-5 * np.abs(noise).max(initial=0):
            raise DataError("found a noise covariance that is not symmetric, expected one that is "
                            "its own transpose: average it with its transpose if that is meant")
        try:
            root = cholesky(noise, lower=True)
        except np.linalg.LinAlgError as error:
            raise DataError("found a noise covariance that is not positive definite: shrink it "
                            "towards its diagonal") from error
        betas, responses = (solve_triangular(root, x.T, lower=True).T for x in (betas, responses))
        log_det = 2 * np.log(np.diag(root)).sum()
    distance = square_distances(betas, responses)
    return -0.5 * (distance + log_det + voxels * np.log(2 * np.pi))


def square_distances(a, b):
    """Squared distances (n, m) between rows, as one matrix product."""
    centre = b.mean(0)  # distances do not change, rounding errors do
    a, b = a - centre, b - centre
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)


def shrunk_covariance(x):
    """Covariance (p, p) of rows x (n, p), shrunk towards a multiple of the identity.

    By the share with the least expected squared error, which is estimated as Ledoit & Wolf (2004,
    doi:10.1016/S0047-259X(03)00096-4) say. Equal to scikit-learn's `ledoit_wolf`, with one large
    product in place of three: the fourth moments are the squared lengths of rows.
    """
    x = x - x.mean(0)
    n, p = x.shape
    covariance = x.T @ x / n
    scale, size = np.trace(covariance) / p, np.square(covariance).sum()
    apart = size - p * scale**2  # from the multiple of the identity
    error = (np.square(np.square(x).sum(1)).sum() / n - size) / n  # of the covariance, expected
    share = min(max(error / apart, 0), 1) if apart > 0 else 0.0
    return (1 - share) * covariance + share * scale * np.eye(p, dtype=x.dtype)


@dataclass
class Candidates:
    """What the likelihood needs of pictures, see `EncodingModel.candidates`."""

    x: np.ndarray  # (candidates, p) features, less the mean of training
    size: np.ndarray  # (candidates,) |G x|²


@dataclass
class EncodingModel:
    """A voxelwise model of the response to a picture, with the covariance of what it misses."""

    ridge: Ridge  # from features (p,) to voxels
    noise: np.ndarray  # (voxels, voxels) shrunk covariance of its out-of-fold residuals

    @cached_property
    def whitened(self):
        """Cholesky factor of the noise, and the weights (voxels, p) whitened by it."""
        root = cholesky(self.noise, lower=True)
        return root, solve_triangular(root, self.ridge.weights.T, lower=True)

    def candidates(self, features):
        """What `rank` needs of pictures, computed once for many calls with other betas.

        `features` are (candidates, p), or a dict of families as the model was fitted to.
        """
        if isinstance(features, dict):
            features = np.hstack(list(features.values()))
        x = check(features, ("candidates", len(self.ridge.x_mean)), what="the array of features")
        x = x - self.ridge.x_mean
        _, gain = self.whitened
        return Candidates(x, ((x @ (gain.T @ gain)) * x).sum(1))

    def rank(self, betas, features, repeats=1):
        """log p(betas | picture) up to a number for each trial: (trials, candidates).

        With the noise covariance Σ = L L', whitened betas z = L⁻¹ (betas - mean) and whitened
        weights G = L⁻¹ W', it is -repeats/2 |z - G x|². G'G is only (p, p), so that it is quick for
        tens of thousands of candidates and a thousand voxels. `features` are those of `candidates`,
        or what it returned; `repeats` says how many trials each row is the mean of.
        """
        betas = check(betas, ("trials", len(self.noise)), what="the array of betas")
        seen = features if isinstance(features, Candidates) else self.candidates(features)
        root, gain = self.whitened
        z = solve_triangular(root, (betas - self.ridge.y_mean).T, lower=True)  # (voxels, trials)
        distance = (z * z).sum(0)[:, None] + seen.size - 2 * (z.T @ gain) @ seen.x.T
        return -0.5 * np.reshape(repeats, (-1, 1)) * distance


def fit_encoding_model(features: ArrayLike | dict, betas: ArrayLike,
                       groups: ArrayLike | None = None, seed: int = 0) -> EncodingModel:
    """Fit a ridge regression from picture features to each voxel, and its noise.

    Out-of-fold residuals hold the measurement noise and the model's misfit, as betas of new
    pictures will. Their covariance is shrunk by Ledoit & Wolf (2004), so that it can be
    inverted with fewer trials than voxels.

    Parameters
    ----------
    features : array_like (trials, p), or dict of str to such arrays
        Of the picture shown in each training trial. Families of features, see
        `families.feature_families`: each voxel takes those that predict it best, of the choices
        that `families` lists.
    betas : array_like (trials, voxels)
    groups : array_like (trials,), optional
        The image of each trial, so that its repeats stay in one fold.
    """
    if isinstance(features, dict):
        choices = [names for names in (CHOICES if "object" in features else UNNAMED)
                   if set(names) <= set(features)]
        ridge = fit_banded_ridge(features, betas, choices, groups, seed)
    else:
        ridge = fit_ridge(features, betas, groups, seed=seed)
    noise = shrunk_covariance(np.asarray(betas, np.float64) - ridge.out_of_fold)
    return EncodingModel(ridge, noise)
