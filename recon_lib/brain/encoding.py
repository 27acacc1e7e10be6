"""From pictures to betas: an encoding model, and the likelihood of betas under any such model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cholesky, solve_triangular
from sklearn.covariance import ledoit_wolf

from recon_lib.brain.ridge import Ridge, fit_ridge
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


@dataclass
class EncodingModel:
    """A voxelwise model of the response to a picture, with the covariance of what it misses.

    Attributes
    ----------
    ridge : Ridge
        From features (p,) to voxels.
    noise : ndarray (voxels, voxels)
        Shrunk covariance of its out-of-fold residuals.
    """

    ridge: Ridge
    noise: np.ndarray

    def rank(self, betas, features):
        """log p(betas | picture) (trials, candidates), for candidates with these features."""
        return log_likelihood(betas, self.ridge.predict(features), self.noise)


def fit_encoding_model(features: ArrayLike, betas: ArrayLike, groups: ArrayLike | None = None,
                       seed: int = 0) -> EncodingModel:
    """Fit a ridge regression from picture features to each voxel, and its noise.

    Out-of-fold residuals hold the measurement noise and the model's misfit, as betas of new
    pictures will. Their covariance is shrunk by Ledoit & Wolf (2004), so that it can be
    inverted with fewer trials than voxels.

    Parameters
    ----------
    features : array_like (trials, p)
        Of the picture shown in each training trial.
    betas : array_like (trials, voxels)
    groups : array_like (trials,), optional
        The image of each trial, so that its repeats stay in one fold.

    Returns
    -------
    EncodingModel
    """
    ridge = fit_ridge(features, betas, groups, seed=seed)
    residuals = np.asarray(betas, np.float64) - ridge.out_of_fold
    noise, _ = ledoit_wolf(residuals)
    return EncodingModel(ridge, noise)
