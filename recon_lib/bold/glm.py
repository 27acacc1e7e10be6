"""The general linear model: from BOLD and a design to numbers with error bars.

Arrays are `(volumes, voxels)`. Work happens in the precision of the BOLD (float32 stays
float32), designs and their inverses are float64.
"""

from typing import Any

import numpy as np

from recon_lib.bold import hrf as responses
from recon_lib.bold.design import nuisance_basis
from recon_lib.bold.events import frame_times, peak_height, per_event, regressors
from recon_lib.bold.regression import as_floats
from recon_lib.common.errors import DataError, as_numbers


def single_trial_betas(bold: np.ndarray, onsets: np.ndarray, tr: float, hrf: Any = "spm",
                       durations: np.ndarray | float = 1.0, method: str = "lsa",
                       confounds: np.ndarray | None = None,
                       high_pass: float | str = 0.01) -> np.ndarray:
    """One beta per trial and voxel: how strongly the voxel answered that one picture, in percent.

    Parameters
    ----------
    bold : (volumes, voxels) array
        One run, in scanner units.
    onsets : (trials,) array
        Seconds from the first volume; with slice timing corrected, from the time that this volume
        stands for (take BIDS' `StartTime` off).
    tr : float
        Repetition time, in seconds.
    hrf : str, (samples,) array, function or (voxels,) integer array
        A name, a kernel sampled 50 times per TR, what makes one as in `hrf.kernels`, or for each
        voxel a row of `hrf.library`.
    durations : (trials,) array or float
        In seconds.
    method : "lsa" or "lss"
        One model with a regressor per trial (least squares, all), or for each trial a model
        with that trial against all others in one regressor (least squares, separate;
        Mumford et al. 2012, doi:10.1016/j.neuroimage.2011.08.076).
    confounds : (volumes, c) array, optional
        Those of bad volumes come from `censor`.
    high_pass : float or str
        As in `design.nuisance`.

    Returns
    -------
    (trials, voxels) float32 array
        A beta of 1 is a response to one picture that peaks 1 % above the voxel's mean over the
        run. NaN for voxels that hold NaN or have no signal.

    Raises
    ------
    DataError
        If shapes disagree, the trials cannot be told apart, or `hrf` is several responses.
    """
    return fit_trials(percent_change(bold), onsets, tr, hrf, durations, method, confounds,
                      high_pass)


def fit_trials(series, onsets, tr, hrf="spm", durations=1.0, method="lsa", confounds=None,
               high_pass=0.01):
    """`single_trial_betas` of series that are not BOLD in scanner units: betas in their unit."""
    series = as_floats(series, "the series")
    hrf, voxels = responses.kernels(hrf, tr) if responses.makers(hrf) else hrf, series.shape[1]
    hrf = hrf if isinstance(hrf, str) else as_numbers(hrf, "the HRF")

    def fit(kernel, columns):
        matrix = trial_estimator(
            onsets, len(series), tr, kernel, durations, method, confounds, high_pass)
        return matrix.astype(series.dtype) @ series[:, columns]

    if isinstance(hrf, str) or (hrf.dtype.kind == "f" and not (  # a choice, written as floats
            hrf.shape == (voxels,) and np.array_equal(hrf, np.rint(hrf)))):
        kernels = responses.kernels(hrf, tr)
        if len(kernels) != 1:
            raise DataError(f"the HRF has {len(kernels)} parts; a trial has one response: give one "
                            "kernel, or for each voxel a row of hrf.library")
        betas = fit(kernels[0], slice(None))
    else:
        hrf, shapes = responses.check_choice(hrf, voxels), responses.library(tr)
        betas = np.empty((len(np.atleast_1d(onsets)), voxels), series.dtype)
        for shape in np.unique(hrf):
            betas[:, hrf == shape] = fit(shapes[shape], hrf == shape)
    return betas.astype(np.float32, copy=False)


def percent_change(bold: np.ndarray) -> np.ndarray:
    """BOLD as percent of each voxel's mean over the run, minus 100.

    Parameters
    ----------
    bold : (volumes, voxels) array

    Returns
    -------
    (volumes, voxels) array
        NaN for voxels that hold NaN, never vary (outside the brain) or have no positive mean.

    Raises
    ------
    DataError
        If most voxels have no positive mean, of a tenth of their range at least: they were
        demeaned before.
    """
    bold = as_floats(bold)
    mean = bold.mean(0, dtype=np.float64)
    spread = np.ptp(bold, axis=0)
    mean[spread == 0] = np.nan
    alive = mean[np.isfinite(mean)]  # none at all: a block outside the brain
    if len(alive) and not np.median(alive) > 0.1 * np.median(spread[np.isfinite(mean)]):
        raise DataError(
            f"the BOLD has a median baseline of {np.median(alive):.3g}; percent signal change "
            "needs a positive one, above the deviations from it: give data that are not demeaned "
            "(or use fit_trials)")
    mean[mean <= 0] = np.nan  # its betas would change their sign
    return (bold - mean.astype(bold.dtype)) * (100 / mean).astype(bold.dtype)


def censor(bold: np.ndarray, kept: np.ndarray):
    """Leave bad volumes out of everything that follows: what nilearn calls a sample mask.

    A regressor of its own for a volume, a spike, takes that volume out of a GLM: in OLS exactly
    as if it had not been measured, and in AR(1) with the gap in time kept.

    Parameters
    ----------
    bold : (volumes, voxels) array
        In scanner units.
    kept : (volumes,) bool array, or indices of the good volumes

    Returns
    -------
    bold : (volumes, voxels) array
        Bad volumes hold each voxel's mean over the good ones, so that `percent_change` is in
        percent of that.
    spikes : (volumes, bad) array
        To be among the confounds.

    Raises
    ------
    DataError
        If no volume is kept, or `kept` is of another run.
    """
    bold, kept = as_floats(bold), np.asarray(kept)
    good = kept if kept.dtype == bool else np.isin(np.arange(len(bold)), kept)
    if good.shape != (len(bold),) or not good.any() or (kept.dtype != bool and (
            kept.dtype.kind not in "iu" or good.sum() != kept.size)):
        raise DataError(f"the volumes kept are {kept.dtype} of shape {kept.shape}; expected True "
                        f"or False for each of {len(bold)}, or indices of some")
    out = np.where(good[:, None], bold, bold[good].mean(0, dtype=np.float64).astype(bold.dtype))
    return out, np.eye(len(bold))[:, ~good]


def trial_design(onsets: np.ndarray, volumes: int, tr: float, kernel: np.ndarray,
                 durations: np.ndarray | float = 1.0) -> np.ndarray:
    """One regressor per trial, each scaled so that an isolated response peaks at 1.

    Returns
    -------
    (volumes, trials) array
    """
    onsets = np.atleast_1d(as_numbers(onsets, "the list of onsets")).astype(float)
    if onsets.ndim != 1 or len(onsets) == 0:
        raise DataError(f"onsets of shape {onsets.shape}; expected one for each trial, in seconds")
    durations = per_event(durations, onsets, "durations")
    end = frame_times(volumes, tr)[-1] + tr
    if durations.max() > end:
        raise DataError(f"a duration of {durations.max():g} s in a run that ends at {end:g} s; "
                        "expected seconds")
    columns = regressors(onsets, durations, volumes, tr, kernel)
    lengths, which = np.unique(durations, return_inverse=True)
    heights = np.array([peak_height(kernel, length, tr) for length in lengths])
    return columns / heights[which]


def without_data(onsets: np.ndarray, volumes: int, tr: float, durations: np.ndarray | float = 1.0):
    """Trials whose response the end of the run cuts off, so that their beta is next to unknown.

    (trials,) bool: the run ends less than 12 s after the onset, and the beta's standard error in
    LSA, SPM's HRF and white noise, is more than three times the median of the run.
    """
    drift = nuisance_basis(volumes, tr)
    design = trial_design(onsets, volumes, tr, responses.spm_hrf(tr), durations)
    gram = design.T @ design - (drift.T @ design).T @ (drift.T @ design)
    tiny = 1e-9 * np.diag(gram).max()  # where nothing at all was measured the error is just large
    error = np.sqrt(np.diag(np.linalg.inv(gram + tiny * np.eye(len(gram)))))
    return (np.atleast_1d(onsets) > volumes * tr - 12) & (error > 3 * np.median(error))


def trial_estimator(onsets: np.ndarray, volumes: int, tr: float, kernel: np.ndarray,
                    durations: np.ndarray | float = 1.0, method: str = "lsa",
                    confounds: np.ndarray | None = None,
                    high_pass: float | str = 0.01) -> np.ndarray:
    """The matrix that turns a run's BOLD into single-trial betas.

    Both methods are linear in the BOLD, so each is one matrix, worked out once per run and
    applied to all voxels at once. Drift is projected out first (Frisch, Waugh, Lovell). With
    G = XᵀX of the projected trial regressors, LSA is G⁻¹Xᵀ. For LSS, trial i's model has two
    columns, x_i and the sum of the others, whose 2 x 2 normal equations hold only sums of G:
    solved by hand for all trials together.

    Parameters
    ----------
    As in `single_trial_betas`, for one `kernel` (samples,).

    Returns
    -------
    (trials, volumes) array
    """
    if method not in ("lsa", "lss"):
        raise DataError(f"unknown method {method!r}; expected 'lsa' or 'lss'")
    drift = nuisance_basis(volumes, tr, high_pass, confounds)
    design = trial_design(onsets, volumes, tr, kernel, durations)
    most = (design**2).sum(0).max()
    design -= drift @ (drift.T @ design)
    values, vectors = np.linalg.eigh(design.T @ design)
    if values[0] <= 1e-10 * max(values[-1], most):  # the second where confounds explain them all
        raise DataError(
            f"the {len(values)} trials of a run of {volumes} volumes cannot be told apart; check "
            "that the onsets are in seconds, differ, and lie inside the run")
    if method == "lsa" or len(values) == 1:
        return (vectors / values) @ vectors.T @ design.T
    gram = design.T @ design  # (trials, trials)
    own = np.diag(gram)
    row = gram.sum(1)
    cross = row - own  # x_i . others
    rest = gram.sum() - 2 * row + own  # others . others
    others = design.sum(1, keepdims=True) - design  # (volumes, trials)
    return ((rest * design - cross * others) / (own * rest - cross**2)).T
