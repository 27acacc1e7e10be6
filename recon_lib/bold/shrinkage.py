"""Ridge for single-trial betas: shorten them in each voxel by as much as its noise asks for."""

from collections.abc import Sequence

import numpy as np

from recon_lib.bold import hrf as responses
from recon_lib.bold.design import nuisance_basis
from recon_lib.bold.glm import percent_change, trial_space
from recon_lib.common.errors import DataError, as_numbers

FRACTIONS = np.linspace(1.0, 0.1, 10)


def fractional_ridge(scores, values, fraction, penalty=0.0):
    """The ridge penalty that shortens the betas to a given fraction of their length.

    Works in the eigenbasis of XᵀX, where the ridge betas are `scores / (values + penalty)`. A
    fraction is easier to choose than a penalty: it means the same in every voxel (Rokem and
    Kay 2020, doi:10.1093/gigascience/giaa133). Newton's method on 1 / length, which is almost
    straight in the penalty (Moré and Sorensen 1983, doi:10.1137/0904038), from below.

    Parameters
    ----------
    scores : (n, voxels) array
        EᵀXᵀy, with E the eigenvectors of XᵀX.
    values : (n, voxels) or (n, 1) array
        The eigenvalues.
    fraction : float or (voxels,) array
        In (0, 1].
    penalty : float or (voxels,) array
        A starting point that is not too large.

    Returns
    -------
    (voxels,) array
        The penalty of each voxel; lengths are right to 1 in 10,000.

    Raises
    ------
    DataError
        If there is not one fraction for all voxels or for each, above 0 and at most 1.
    """
    fraction = as_numbers(fraction, "the fraction")
    if fraction.shape not in ((), scores.shape[1:]) or not ((fraction > 0) & (fraction <= 1)).all():
        raise DataError(f"fractions of shape {fraction.shape} from {fraction.min(initial=1):.3g} "
                        f"to {fraction.max(initial=0):.3g} for {scores.shape[1]} voxels; expected "
                        "one for each, above 0 and at most 1 (1: no ridge)")
    goal = np.linalg.norm(scores / values, axis=0) * np.asarray(fraction, scores.dtype)
    penalty = np.zeros_like(goal) + np.asarray(penalty, scores.dtype)
    for _ in range(20):
        shrunk = values + penalty
        squares = (scores / shrunk) ** 2
        length = np.sqrt(squares.sum(0))
        if not (np.abs(length - goal) > 1e-4 * goal).any():
            break
        slope = (squares / shrunk).sum(0)
        step = np.zeros_like(goal)
        np.divide(length**2 * (length - goal), slope * goal, out=step, where=slope > 0)
        penalty = np.maximum(penalty + step, 0)
    return penalty


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
    if labels.shape != run_of.shape:
        raise DataError(f"{labels.size} labels for {len(run_of)} trials, of shape {labels.shape}; "
                        "expected a list of one per trial")
    known = (labels != -1) & (labels.astype(str) != "-1")  # among names NumPy makes -1 a text
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
            series, drift = without_drift(bold, tr, high_pass, confounds, i)
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


def ridge_betas(runs: Sequence, tr: float, hrf: np.ndarray, fraction: np.ndarray,
                confounds: np.ndarray | None = None, durations: np.ndarray | float = 1.0,
                high_pass: float = 0.01) -> np.ndarray:
    """Single-trial betas with a given HRF and ridge fraction for each voxel.

    Parameters
    ----------
    As in `estimate`; `hrf` and `fraction` are (voxels,) arrays.

    Returns
    -------
    (trials, voxels) float32 array
        Percent signal change. With a fraction of 1, exactly LSA.

    Raises
    ------
    DataError
        If there is no run, or `hrf` or `fraction` is not a possible one for each voxel.
    """
    some_runs(runs, confounds)
    tables = []
    for i, (bold, onsets) in enumerate(runs):
        series, drift = without_drift(bold, tr, high_pass, confounds, i)
        scores, values, vectors = _rotate(series, drift, onsets, tr, hrf, durations)
        shrunk = scores / (values + fractional_ridge(scores, values, fraction))
        betas = np.empty_like(scores)
        for shape, back in vectors.items():
            betas[:, hrf == shape] = back @ shrunk[:, hrf == shape]
        tables.append(betas)
    return np.concatenate(tables)


def some_runs(runs, confounds=None):
    """Stop unless there are runs of the same voxels, and confounds for each or for none."""
    if len(runs) == 0 or (confounds is not None and len(confounds) != len(runs)):
        count = "no" if confounds is None else len(confounds)
        raise DataError(f"{len(runs)} runs with {count} sets of confounds; expected one run or "
                        "more, and confounds for each or for none")
    voxels = [np.shape(bold)[1:] for bold, _ in runs]
    if len(set(voxels)) > 1:
        other = next(i for i, shape in enumerate(voxels) if shape != voxels[0])
        raise DataError(f"run {other + 1} has {voxels[other]} voxels, the first has {voxels[0]}; "
                        "expected the same voxels in all: take those that all runs have")


def without_drift(bold, tr, high_pass, confounds, run):
    """Percent signal change without drift, and the orthonormal basis that was taken out."""
    series = percent_change(bold)
    extra = None if confounds is None else confounds[run]
    drift = nuisance_basis(len(series), tr, high_pass, extra)
    return project_out(drift, series), drift


def project_out(basis, series):
    """Remove from each series what the orthonormal basis explains."""
    basis = basis.astype(series.dtype)
    return series - basis @ (basis.T @ series)


def _rotate(series, drift, onsets, tr, hrf, durations):
    """Every voxel in the eigenbasis of its own HRF's XᵀX.

    Returns
    -------
    scores, values : (trials, voxels) arrays
        As `fractional_ridge` wants them.
    vectors : dict of {shape: (trials, trials) array}
        Back to trials: `vectors[shape] @ scores`.
    """
    hrf, shapes = responses.check_choice(hrf, series.shape[1]), responses.library(tr)
    scores = np.empty((len(onsets), len(hrf)), series.dtype)
    values, vectors = np.empty_like(scores), {}
    for shape in np.unique(hrf):
        mine = hrf == shape
        design, spectrum, basis = trial_space(onsets, drift, tr, shapes[shape], durations)
        vectors[shape] = basis.astype(series.dtype)
        scores[:, mine] = (design @ basis).T.astype(series.dtype) @ series[:, mine]
        values[:, mine] = spectrum[:, None]
    return scores, values, vectors


def _ridge_path(series, drift, onsets, tr, hrf, durations, trials):
    """Betas of some trials, relative to the run's mean, at every fraction."""
    scores, values, vectors = _rotate(series, drift, onsets, tr, hrf, durations)
    path = np.empty((len(FRACTIONS), trials.sum(), len(hrf)), series.dtype)
    penalty = 0.0
    for f, fraction in enumerate(FRACTIONS):  # from 1 down: each penalty starts the next
        penalty = fractional_ridge(scores, values, fraction, penalty)
        shrunk = scores / (values + penalty)
        for shape, back in vectors.items():
            path[f][:, hrf == shape] = (back - back.mean(0))[trials] @ shrunk[:, hrf == shape]
    return path
