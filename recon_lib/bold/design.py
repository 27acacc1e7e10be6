"""Design matrices: what we expect to see in a run, one column per cause."""

from collections.abc import Sequence

import numpy as np

from recon_lib.bold.events import condition_regressors, per_event
from recon_lib.bold.regression import independent, orthonormal
from recon_lib.common.errors import DataError, check, one_label_each


def cosine_drift(volumes: int, tr: float, high_pass: float = 0.01) -> np.ndarray:
    """Slow cosines that soak up scanner drift, and a constant.

    Parameters
    ----------
    volumes : int
    tr : float
        Repetition time, in seconds.
    high_pass : float
        Cut-off in Hz: slower fluctuations than this are modelled as drift.

    Returns
    -------
    (volumes, k) array
        Orthogonal columns; the cosines have norm 1, and the last column is all ones.
        The discrete cosine basis of SPM; equal to nilearn's.

    Raises
    ------
    DataError
        If there is no volume, no time or no frequency.
    """
    if not (volumes >= 1 and 0 < tr < np.inf and 0 <= high_pass < np.inf):
        raise DataError(f"found {volumes} volumes, a TR of {tr} s and a cut-off of {high_pass} Hz; "
                        "expected volumes, a TR above 0 and a cut-off of 0 (no drift) or more")
    order = min(volumes - 1, int(2 * volumes * high_pass * tr))
    t = np.arange(volumes)[:, None] + 0.5
    cosines = np.sqrt(2 / volumes) * np.cos(np.pi / volumes * t * np.arange(1, order + 1))
    return np.hstack([cosines, np.ones((volumes, 1))])


def nuisance(volumes: int, tr: float, high_pass: float = 0.01,
             confounds: np.ndarray | None = None) -> np.ndarray:
    """Everything that is not an event: confounds (motion, noise components), drift, constant.

    Parameters
    ----------
    confounds : (volumes, c) array, optional

    Returns
    -------
    (volumes, c + k) array

    Raises
    ------
    DataError
        If the confounds have another number of volumes or are not finite.
    """
    drift = cosine_drift(volumes, tr, high_pass)
    if confounds is None:
        return drift
    confounds = check(np.reshape(confounds, (len(confounds), -1)), (volumes, "columns"),
                      what="the table of confounds (put 0 where fMRIPrep leaves NaN)")
    return np.hstack([confounds, drift])


def nuisance_basis(volumes, tr, high_pass=0.01, confounds=None):
    """An orthonormal basis of the `nuisance` columns: (volumes, rank) array.

    Confounds that the drift or other confounds explain, up to rounding, change nothing.
    """
    columns = nuisance(volumes, tr, high_pass, confounds)
    drifts = len(cosine_drift(volumes, tr, high_pass).T)
    return orthonormal(np.roll(columns, drifts, axis=1))  # the drift, which is exact, first


def design_matrix(volumes: int, tr: float, onsets: np.ndarray, conditions: Sequence,
                  durations: np.ndarray | float = 1.0, hrf: str | np.ndarray = "spm",
                  high_pass: float = 0.01, confounds: np.ndarray | None = None) -> tuple:
    """One run's design: a column (or a few) per condition, then nuisances.

    Parameters
    ----------
    volumes : int
    tr : float
        Repetition time, in seconds.
    onsets : (events,) array
        Seconds from the first volume.
    conditions : (events,) sequence of str
        What each event was.
    durations : (events,) array or float
        In seconds.
    hrf : str or array
        As in `hrf.kernels`.
    high_pass : float
        In Hz, see `cosine_drift`.
    confounds : (volumes, c) array, optional

    Returns
    -------
    design : (volumes, columns) array
    names : list of str
        In nilearn's order: conditions in alphabetical order, confounds, drifts, constant. Of an
        HRF of several kernels the columns are numbered. Confounds that the drift or other
        confounds explain, up to rounding, are left out.

    Raises
    ------
    DataError
        If there is not one condition per onset.
    """
    onsets, conditions = np.atleast_1d(onsets), one_label_each(conditions)
    if onsets.shape != conditions.shape:
        raise DataError(f"{onsets.size} onsets but {conditions.size} conditions; expected as many")
    durations = per_event(durations, onsets, "durations")
    blocks, names = [], []
    for condition in np.unique(conditions):
        mine = conditions == condition
        block = condition_regressors(onsets[mine], durations[mine], volumes, tr, hrf)
        suffixes = ["", "_derivative", "_dispersion"]
        if not isinstance(hrf, str) and block.shape[1] > 1:
            suffixes = [f"_{i + 1}" for i in range(block.shape[1])]
        blocks.append(block)
        names += [f"{condition}{suffix}" for suffix in suffixes[: block.shape[1]]]
    columns = nuisance(volumes, tr, high_pass, confounds)
    drifts = len(cosine_drift(volumes, tr, high_pass).T)
    kept = np.roll(independent(np.roll(columns, drifts, axis=1)), -drifts)
    labels = [f"confound_{i + 1}" for i in range(len(kept) - drifts)]
    labels += [f"drift_{i + 1}" for i in range(drifts - 1)] + ["constant"]
    blocks.append(columns[:, kept])
    names += [label for label, keep in zip(labels, kept, strict=True) if keep]
    return np.hstack(blocks), names


def variance_inflation(design: np.ndarray) -> np.ndarray:
    """How much each column's variance suffers from the others: 1 means independent.

    Parameters
    ----------
    design : (volumes, columns) array
        The constant must be the last column, as `design_matrix` leaves it.

    Returns
    -------
    (columns - 1,) array
        1 / (1 - R²) of each column regressed on all others; the constant has none.
    """
    design = check(design, ("volumes", "columns"), what="the design").astype(float)
    centred = design[:, :-1] - design[:, :-1].mean(0)
    centred = centred / np.linalg.norm(centred, axis=0)
    return np.diag(np.linalg.pinv(centred.T @ centred))
