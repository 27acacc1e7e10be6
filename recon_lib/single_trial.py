"""Better single-trial betas: an HRF for each voxel, ridge, and noise regressors.

The three ideas of GLMsingle (Prince et al. 2022, doi:10.7554/eLife.77599), each a function.
`runs` is a sequence of `(bold, onsets)`, one per run; `bold` is anything that gives a
`(volumes, voxels)` array when sliced, such as an array or an h5py data set.
"""

from dataclasses import dataclass

import numpy as np

from recon_lib import hrf as responses
from recon_lib.design import nuisance
from recon_lib.errors import DataError
from recon_lib.glm import percent_change, trial_design

FRACTIONS = np.linspace(1.0, 0.1, 10)


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


def hrf_fit(runs, tr, confounds=None, durations=1.0, high_pass=0.01):
    """How well each response shape of the library explains each voxel.

    Returns
    -------
    (20, voxels) array
        Share of the drift-free variance, over all runs, that trial regressors of this shape
        explain. `argmax(0)` chooses.
    """
    shapes = responses.library(tr)
    explained, total = 0.0, 0.0
    for i, (bold, onsets) in enumerate(runs):
        series, drift = _without_drift(bold, tr, high_pass, confounds, i)
        bases = [_basis(onsets, drift, tr, shape, durations)[0] for shape in shapes]
        n = bases[0].shape[1]
        scores = np.hstack(bases).T.astype(np.float32) @ series  # (20 n, voxels)
        explained = explained + (scores**2).reshape(len(shapes), n, -1).sum(1, dtype=np.float64)
        total = total + np.einsum("tv,tv->v", series, series, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return explained / total


def fractional_ridge(scores, values, fraction, alpha=0.0):
    """The ridge penalty that shortens the betas to a given fraction of their length.

    Works in the eigenbasis of XᵀX, where the ridge betas are `scores / (values + alpha)`. A
    fraction is easier to choose than a penalty: it means the same in every voxel (Rokem and
    Kay 2020, doi:10.1093/gigascience/giaa133). Newton's method on 1 / length, which is almost
    straight in alpha (Moré and Sorensen 1983, doi:10.1137/0904038), starting from below.

    Parameters
    ----------
    scores : (n, voxels) array
        EᵀXᵀy, with E the eigenvectors of XᵀX.
    values : (n,) array
        The eigenvalues.
    fraction : float or (voxels,) array
        In (0, 1].
    alpha : float or (voxels,) array
        A starting point that is not too large.

    Returns
    -------
    (voxels,) array
        The penalty of each voxel.
    """
    values = values[:, None].astype(scores.dtype)
    goal = fraction * np.linalg.norm(scores / values, axis=0)
    alpha = np.zeros(scores.shape[1], scores.dtype) + alpha
    for _ in range(8):
        betas = scores / (values + alpha)
        squares = betas**2
        length = np.sqrt(squares.sum(0))
        slope = (squares / (values + alpha)).sum(0)
        step = np.divide(
            length**2 * (length - goal), slope * goal, out=np.zeros_like(alpha), where=slope > 0
        )
        alpha = np.maximum(alpha + step, 0)
        if np.abs(length - goal).max(initial=0.0) <= 1e-4 * goal.max(initial=0.0):
            break
    return alpha


def choose_fraction(runs, tr, labels, hrf, confounds=None, durations=1.0, high_pass=0.01):
    """The ridge fraction of each voxel, by leave-one-run-out over repeated pictures.

    For each fraction: average a picture's ridge betas over all runs but one, and predict its
    unregularised beta in the run left out. The fraction with the smallest squared error wins.
    Betas are taken relative to their run's mean.

    Parameters
    ----------
    As in `estimate`; `hrf` is (voxels,), a row of the library each.

    Returns
    -------
    (voxels,) array

    Raises
    ------
    DataError
        If no picture occurs in two runs.
    """
    labels = np.asarray(labels)
    run_of = np.repeat(np.arange(len(runs)), [len(onsets) for _, onsets in runs])
    if len(run_of) != len(labels):
        raise DataError(f"{len(labels)} labels for {len(run_of)} trials; expected one per trial")
    known = labels != -1
    names, first = np.unique(labels[known], return_inverse=True)
    seen = [len(np.unique(run_of[known][first == i])) for i in range(len(names))]
    voters = np.isin(labels, names[np.array(seen) > 1]) & known
    if not voters.any():
        raise DataError(
            "no picture was shown in two runs, so a ridge fraction cannot be chosen by "
            "leave-one-run-out; give no labels to do without ridge"
        )
    tables = []  # per run with voters: (fractions, voters, voxels)
    for i, (bold, onsets) in enumerate(runs):
        mine = voters[run_of == i]
        if mine.any():
            series, drift = _without_drift(bold, tr, high_pass, confounds, i)
            tables.append(_ridge_path(series, drift, onsets, tr, hrf, durations, mine))
    betas = np.concatenate(tables, axis=1)

    error = np.zeros((len(FRACTIONS), len(hrf)))
    run_of, labels = run_of[voters], labels[voters]
    for name in np.unique(labels):
        for trial in np.flatnonzero(labels == name):
            others = (labels == name) & (run_of != run_of[trial])
            if others.any():
                error += (betas[:, others].mean(1) - betas[0, trial]) ** 2
    return FRACTIONS[error.argmin(0)]


def ridge_betas(runs, tr, hrf, fraction, confounds=None, durations=1.0, high_pass=0.01):
    """Single-trial betas with a given HRF and ridge fraction for each voxel.

    Parameters
    ----------
    As in `estimate`; `hrf` and `fraction` are (voxels,) arrays.

    Returns
    -------
    (trials, voxels) float32 array
        Percent signal change. With a fraction of 1, exactly LSA.
    """
    shapes = responses.library(tr)
    tables = []
    for i, (bold, onsets) in enumerate(runs):
        series, drift = _without_drift(bold, tr, high_pass, confounds, i)
        betas = np.empty((len(onsets), series.shape[1]), np.float32)
        for shape in np.unique(hrf):
            mine = hrf == shape
            basis, values, vectors = _basis(onsets, drift, tr, shapes[shape], durations)
            scores = (basis * np.sqrt(values)).T.astype(np.float32) @ series[:, mine]
            alpha = fractional_ridge(scores, values, fraction[mine])
            shrunk = scores / (values[:, None] + alpha)
            betas[:, mine] = vectors @ shrunk
        tables.append(betas)
    return np.concatenate(tables)


def noise_components(runs, tr, pool, count, high_pass=0.01):
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
    """
    components = []
    for bold, _ in runs:
        series, _ = _without_drift(bold[:, np.flatnonzero(pool)], tr, high_pass, None, 0)
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


def _without_drift(bold, tr, high_pass, confounds, run):
    """Percent signal change without drift, and the orthonormal basis that was taken out."""
    series = percent_change(bold)
    extra = None if confounds is None else confounds[run]
    drift, _ = np.linalg.qr(nuisance(len(series), tr, high_pass, extra))
    return series - drift.astype(series.dtype) @ (drift.T.astype(series.dtype) @ series), drift


def _basis(onsets, drift, tr, kernel, durations):
    """Orthonormal basis of the drift-free trial regressors X, and XᵀX = E diag(values) Eᵀ."""
    design = trial_design(onsets, len(drift), tr, kernel, durations)
    design -= drift @ (drift.T @ design)
    values, vectors = np.linalg.eigh(design.T @ design)
    if values[0] <= 1e-10 * values[-1]:
        raise DataError(
            f"the {len(values)} trials of a run of {len(drift)} volumes cannot be told apart; check "
            "that the onsets are in seconds, differ, and lie inside the run"
        )
    return design @ vectors / np.sqrt(values), values, vectors


def _ridge_path(series, drift, onsets, tr, hrf, durations, trials):
    """Betas of some trials, relative to the run's mean, at every fraction."""
    shapes = responses.library(tr)
    path = np.empty((len(FRACTIONS), trials.sum(), len(hrf)), np.float32)
    for shape in np.unique(hrf):
        mine = hrf == shape
        basis, values, vectors = _basis(onsets, drift, tr, shapes[shape], durations)
        scores = (basis * np.sqrt(values)).T.astype(np.float32) @ series[:, mine]
        rows = (vectors - vectors.mean(0))[trials].astype(np.float32)
        alpha = 0.0
        for f, fraction in enumerate(FRACTIONS):  # from 1 down: each penalty starts the next
            alpha = fractional_ridge(scores, values, fraction, alpha)
            path[f][:, mine] = rows @ (scores / (values[:, None].astype(np.float32) + alpha))
    return path
