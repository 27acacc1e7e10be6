"""Design matrices: what we expect to see in a run, one column per cause."""

import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas

from recon_lib.bold.events import condition_regressors, frame_times, per_event
from recon_lib.bold.hrf import fir_delays, makers
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


def polynomial_drift(volumes: int, degree: int) -> np.ndarray:
    """Slow drift as Legendre polynomials of degree 1 to `degree`, and a constant.

    Returns
    -------
    (volumes, degree + 1) array
        The last column is all ones. They span what nilearn's polynomial drift spans.
    """
    if not 0 <= degree < volumes:
        raise DataError(f"a degree of {degree} for {volumes} volumes; expected one from 0 to "
                        "below their number")
    columns = np.polynomial.legendre.legvander(np.linspace(-1, 1, volumes), degree)
    return np.roll(columns, -1, axis=1)


def drift(volumes, tr, high_pass=0.01):
    """`cosine_drift` below so many Hz, or for "polynomial 3" `polynomial_drift` to that degree."""
    if not isinstance(high_pass, str):
        return cosine_drift(volumes, tr, high_pass)
    asked = re.fullmatch(r"polynomial (\d+)", high_pass)
    if not asked:
        raise DataError(f"a drift of {high_pass!r}; expected a cut-off in Hz, or polynomials to a "
                        "degree: 'polynomial 3'")
    return polynomial_drift(volumes, int(asked[1]))


def nuisance(volumes: int, tr: float, high_pass: float | str = 0.01,
             confounds: np.ndarray | None = None) -> np.ndarray:
    """Everything that is not an event: confounds (motion, noise components), drift, constant.

    Parameters
    ----------
    high_pass : float or str
        In Hz, see `cosine_drift`; or "polynomial 3", see `polynomial_drift`.
    confounds : (volumes, c) array, optional

    Returns
    -------
    (volumes, c + k) array

    Raises
    ------
    DataError
        If the confounds have another number of volumes or are not finite.
    """
    slow = drift(volumes, tr, high_pass)
    if confounds is None:
        return slow
    confounds = check(np.reshape(confounds, (len(confounds), -1)), (volumes, "columns"),
                      what="the table of confounds (put 0 where fMRIPrep leaves NaN)")
    return np.hstack([confounds, slow])


def nuisance_basis(volumes, tr, high_pass=0.01, confounds=None):
    """An orthonormal basis of the `nuisance` columns: (volumes, rank) array.

    Confounds that the drift or other confounds explain, up to rounding, change nothing.
    """
    columns = nuisance(volumes, tr, high_pass, confounds)
    drifts = len(drift(volumes, tr, high_pass).T)
    return orthonormal(np.roll(columns, drifts, axis=1))  # the drift, which is exact, first


def design_matrix(volumes: int | np.ndarray, tr: float, onsets: np.ndarray,
                  conditions: Sequence | None = None, durations: np.ndarray | float = 1.0,
                  hrf: str | np.ndarray | Callable = "spm", high_pass: float | str = 0.01,
                  confounds: np.ndarray | None = None) -> tuple:
    """One run's design: a column (or a few) per condition, then nuisances.

    Parameters
    ----------
    volumes : int or (volumes,) array
        Their number, or their times as in `events.regressors`.
    tr : float
        Repetition time, in seconds.
    onsets : (events,) array, or a table of events
        Seconds from the first volume. A table has a column `onset`, and may have `trial_type`,
        `duration` and `modulation`, the weight of each event: parameters left out are read there.
    conditions : (events,) sequence of str
        What each event was.
    durations : (events,) array or float
        In seconds.
    hrf : str, array, function or list of functions
        As in `hrf.kernels`; or "fir 12" for twelve delays.
    high_pass : float or str
        As in `nuisance`.
    confounds : (volumes, c) array or table, optional

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

    Warns
    -----
    UserWarning
        If an event is there twice, so that it counts twice, or a condition has no event in the run.
    """
    onsets, conditions, durations, weights = _events(onsets, conditions, durations)
    frames, blocks, names = frame_times(volumes, tr), [], []
    for condition in np.unique(conditions):
        mine = conditions == condition
        block = condition_regressors(onsets[mine], durations[mine], frames, tr, hrf, weights[mine])
        if not block.any():
            warnings.warn(f"condition {condition}: none of its {mine.sum()} events is felt in the "
                          "run; its column is empty", stacklevel=2)
        blocks.append(block)
        names += [f"{condition}{suffix}" for suffix in _suffixes(hrf, block.shape[1])]
    columns = nuisance(len(frames), tr, high_pass, confounds)
    drifts = len(drift(len(frames), tr, high_pass).T)
    kept = np.roll(independent(np.roll(columns, drifts, axis=1)), -drifts)
    labels = [f"confound_{i + 1}" for i in range(len(kept) - drifts)]
    labels = list(map(str, confounds)) if isinstance(confounds, pandas.DataFrame) else labels
    labels += [f"drift_{i + 1}" for i in range(drifts - 1)] + ["constant"]
    blocks.append(columns[:, kept])
    names += [label for label, keep in zip(labels, kept, strict=True) if keep]
    return np.hstack(blocks), names


def _events(onsets, conditions, durations):
    """Onset, condition, duration and weight of each event, from lists or one table."""
    weights = 1.0
    if isinstance(onsets, pandas.DataFrame):
        table = onsets
        if "onset" not in table:
            raise DataError(f"a table of events with columns {', '.join(map(str, table))}; "
                            "expected onset, and trial_type, duration, modulation where known")
        onsets, weights = table["onset"].to_numpy(), table.get("modulation", 1.0)
        durations = table.get("duration", durations)
        conditions = table.get("trial_type", ["event"] * len(table)) if conditions is None else (
            conditions)
    onsets, conditions = np.atleast_1d(onsets), one_label_each(conditions)
    if onsets.shape != conditions.shape:
        raise DataError(f"{onsets.size} onsets but {conditions.size} conditions; expected as many")
    twice = len(onsets) - len(set(zip(onsets.tolist(), conditions.tolist(), strict=True)))
    if twice:
        warnings.warn(f"{twice} events are there twice, of one condition at one time; they count "
                      "twice: leave out the copies", stacklevel=3)
    return (onsets, conditions, per_event(durations, onsets, "durations"),
            per_event(weights, onsets, "modulation"))


def _suffixes(hrf, count):
    """What the columns of one condition are called, behind its name."""
    if fir_delays(hrf):
        return [f"_delay_{i}" for i in range(count)]
    if made := makers(hrf):
        return [f"_{make.__name__}" for make in made]
    if isinstance(hrf, str) or count == 1:
        return ["", "_derivative", "_dispersion"][:count]
    return [f"_{i + 1}" for i in range(count)]


def contrast_weights(expression: str, names: Sequence[str]):
    """One weight for each column of a design, from words: `"face - (house + shoe) / 2"`.

    Parameters
    ----------
    expression : str
        The name of a column, or sums, differences and multiples of such; names that are no Python
        identifiers stand in backticks.
    names : sequence of str
        Of the columns, as `design_matrix` gives them.

    Returns
    -------
    (k,) array

    Raises
    ------
    DataError
        If it names no column, or is no weighted sum.
    """
    names = list(names)
    if expression in names:
        return np.eye(len(names))[names.index(expression)]
    trial = np.arange(2.0, len(names) + 2)  # on which only a weighted sum is what its weights say
    table = pandas.DataFrame(np.vstack([np.eye(len(names)), trial]), columns=names)
    try:
        weights = np.asarray(table.eval(expression, engine="python"), float)
    except Exception as error:  # pandas raises whatever the words make Python raise
        raise DataError(f"the contrast {expression!r} cannot be read; expected a sum of columns "
                        f"such as {', '.join(names[:12])}") from error
    if weights.shape != (len(table),) or not np.isclose(trial @ weights[:-1], weights[-1]):
        raise DataError(f"the contrast {expression!r} is no weighted sum of columns; expected one "
                        "such as 'face - house'")
    return weights[:-1]


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
