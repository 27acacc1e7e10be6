"""Better single-trial betas: an HRF for each voxel, ridge, and noise regressors.

The three ideas of GLMsingle (Prince et al. 2022, doi:10.7554/eLife.77599), each a function.
`runs` is a sequence of `(bold, onsets)`, one per run; `bold` is anything that gives a
`(volumes, voxels)` array when sliced, such as an array or an h5py data set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recon_lib.bold import hrf as responses
from recon_lib.bold.design import nuisance_basis
from recon_lib.bold.glm import percent_change, trial_design
from recon_lib.bold.regression import autocorrelation, ols, whiten
from recon_lib.bold.shrinkage import (
    choose_fraction,
    project_out,
    ridge_betas,
    some_runs,
    without_drift,
)
from recon_lib.common.errors import DataError


@dataclass
class Estimate:
    """Betas with what was chosen for each voxel on the way.

    Attributes
    ----------
    betas : (trials, voxels) float32 array
        Percent signal change, trials in order of the runs.
    hrf : (voxels,) int array
        Row of `hrf.library`.
    fraction : (voxels,) array
        Length of the ridge betas relative to the unregularised ones; 1 means no ridge.
    """

    betas: np.ndarray
    hrf: np.ndarray
    fraction: np.ndarray


def estimate(runs, tr, labels=None, confounds=None, durations=1.0, high_pass=0.01):
    """The whole chain: choose an HRF per voxel, then a ridge fraction, then give the betas.

    Parameters
    ----------
    runs : sequence of (bold, onsets)
    tr : float
        Repetition time, in seconds.
    labels : (trials,) array, optional
        Which picture each trial showed, -1 for trials that may not vote. Pictures that occur
        in two runs or more choose the ridge fraction; without labels there is no ridge.
    confounds : list of (volumes, c) arrays, optional
        One per run, for instance `noise_components`.
    durations : float
        Seconds for which each picture was shown.
    high_pass : float
        In Hz.

    Returns
    -------
    Estimate
    """
    settings = {"confounds": confounds, "durations": durations, "high_pass": high_pass}
    runs = [(np.asarray(bold[:]), onsets) for bold, onsets in runs]
    hrf = hrf_fit(runs, tr, **settings).argmax(0)
    if labels is None:
        fraction = np.ones(len(hrf))
    else:
        fraction = choose_fraction(runs, tr, labels, hrf, **settings)
    betas = ridge_betas(runs, tr, hrf, fraction, **settings)
    return Estimate(betas, hrf, fraction)


def hrf_fit(runs: Sequence, tr: float, confounds: np.ndarray | None = None,
            durations: np.ndarray | float = 1.0, high_pass: float = 0.01):
    """How well each response shape of the library explains each voxel.

    All trials share one regressor here, and both sides are whitened with the typical
    autocorrelation of the run. Free trial regressors on raw series would fit the noise too, and
    since BOLD noise is slow, wide shapes would win in every voxel.

    Returns
    -------
    (20, voxels) array
        Share of the whitened, drift-free variance that the shape explains, as a mean over runs.
        `argmax(0)` chooses.

    Raises
    ------
    DataError
        If there is no run, or not one set of confounds for each.
    """
    some_runs(runs, confounds)
    shapes = responses.library(tr)
    explained = 0.0
    for i, (bold, onsets) in enumerate(runs):
        series = percent_change(bold)
        extra = None if confounds is None else confounds[i]
        drift = nuisance_basis(len(series), tr, high_pass, extra)
        models = np.stack(
            [trial_design(onsets, len(series), tr, s, durations).sum(1) for s in shapes], axis=1
        )
        middle = np.column_stack([models[:, len(shapes) // 2], drift])
        rho = np.nanmedian(autocorrelation(ols(series, middle).residuals, middle))
        series, models, drift = (whiten(part, rho) for part in (series, models, drift))
        basis, _ = np.linalg.qr(drift)
        series = project_out(basis, series)
        models = project_out(basis, models)
        models /= np.linalg.norm(models, axis=0)
        with np.errstate(invalid="ignore"):
            explained = explained + (models.T.astype(series.dtype) @ series) ** 2 / np.einsum(
                "tv,tv->v", series, series
            )
    return explained / len(runs)


def noise_components(runs: Sequence, tr: float, pool: np.ndarray, count: int,
                     high_pass: float = 0.01) -> list[np.ndarray]:
    """What voxels that do not care for the pictures have in common, as confounds.

    Principal components of the drift-free series of the noise pool, each voxel scaled to length
    1, run by run (GLMdenoise: Kay et al. 2013, doi:10.3389/fnins.2013.00247).

    Parameters
    ----------
    runs : sequence of (bold, onsets)
    pool : (voxels,) boolean array
        The noise pool: for instance the voxels that `hrf_fit` explains worst.
    count : int
        Number of components.

    Returns
    -------
    list of (volumes, count) arrays

    Raises
    ------
    DataError
        If the pool is no mask of the voxels, or too small for so many components.
    """
    pool = np.asarray(pool)
    if pool.dtype != bool:  # indices would be taken for it without a word
        raise DataError(f"the noise pool holds {pool.dtype}; expected one True or False per voxel")
    if count < 1:
        raise DataError(f"{count} noise components; expected 1 or more")
    components = []
    for bold, _ in runs:
        if pool.shape != bold.shape[1:]:
            raise DataError(f"the noise pool has shape {pool.shape}; expected one True or False "
                            f"for each of {bold.shape[1]} voxels")
        series, _ = without_drift(bold[:, np.flatnonzero(pool)], tr, high_pass, None, 0)
        series = series[:, np.isfinite(series).all(0)].astype(np.float64)
        length = np.linalg.norm(series, axis=0)
        series = series[:, length > 0] / length[length > 0]
        if min(series.shape) < count:
            raise DataError(
                f"a noise pool of {series.shape[1]} voxels cannot give {count} components; enlarge "
                "the pool or ask for fewer"
            )
        _, vectors = np.linalg.eigh(series @ series.T)  # (volumes, volumes)
        components.append(vectors[:, ::-1][:, :count])
    return components
