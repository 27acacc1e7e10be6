"""Responses laid down at the events of a run: what a voxel is expected to do, volume by volume.

Equal to nilearn's, and causal: nothing happens before the picture.
"""

import numpy as np

from recon_lib.bold.hrf import check_sampling, fir_delays, kernels
from recon_lib.common.errors import DataError, as_numbers, check

EARLIEST = -24.0  # seconds: an event this long before the first volume can still be felt in it


def per_event(values, onsets, what):
    """One finite number for each event, from one for all or one each."""
    values = as_numbers(values, what).astype(float)
    values = values.reshape(()) if values.size == 1 else values
    if values.shape not in ((), onsets.shape) or not np.isfinite(values).all():
        raise DataError(f"{what} of shape {values.shape} for {len(onsets)} events; expected one "
                        "finite number, or one for each event")
    return np.broadcast_to(values, onsets.shape)


def frame_times(volumes, tr):
    """When each volume was acquired: (volumes,) seconds, from their number or as they came."""
    if np.ndim(volumes) == 0:
        return np.arange(volumes) * tr
    frames = check(volumes, ("volumes",), what="the times of the volumes").astype(float)
    if len(frames) == 0 or (np.diff(frames) <= 0).any():
        raise DataError("the times of the volumes do not rise; expected seconds, one each")
    return frames


def regressors(onsets: np.ndarray | float, durations: np.ndarray | float, volumes: int | np.ndarray,
               tr: float, kernel: np.ndarray, oversampling: int = 50) -> np.ndarray:
    """The BOLD response to each event, one column per event.

    A picture shown for a while is a box, and a box convolved with a kernel is the difference
    of two cumulative sums of that kernel: no convolution is needed. The sum over columns
    equals nilearn's `compute_regressor`; like it, this rounds onsets up to the next sample
    (40 ms at TR 2 s and 50 samples per TR).

    Parameters
    ----------
    onsets, durations : (events,) array or float
        In seconds; the first volume is at time 0. A duration of 0 lasts one sample.
    volumes : int or (volumes,) array
        Number of volumes in the run, or the time that each stands for, in seconds: its start, or
        with slice timing corrected the time of the reference slice (`StartTime` in BIDS).
    tr : float
        Repetition time, in seconds.
    kernel : (samples,) array
        A response sampled every `tr / oversampling` seconds.

    Returns
    -------
    (volumes, events) array
        Zero until each event's onset.

    Raises
    ------
    DataError
        If an onset is not a number or lies more than 24 s before the first volume, a duration is
        negative or missing, or there is no kernel or no volume.
    """
    onsets = np.atleast_1d(as_numbers(onsets, "the list of onsets")).astype(float)
    if onsets.ndim != 1:
        raise DataError(f"onsets of shape {onsets.shape}; expected one for each event, in seconds")
    check_sampling(tr, oversampling)
    durations = per_event(durations, onsets, "durations")
    kernel = check(kernel, ("samples",), what="the kernel").astype(float)
    frames = frame_times(volumes, tr)
    if len(frames) == 0 or (durations < 0).any():
        raise DataError(f"found {len(frames)} volumes and durations from "
                        f"{durations.min(initial=0)} s; expected volumes, and no duration below 0")
    onsets, frames = onsets - frames[0], frames - frames[0]
    if not (onsets >= EARLIEST).all():
        worst = onsets[~(onsets >= EARLIEST)][0]
        raise DataError(
            f"an event has its onset at {worst} s; expected seconds from the first volume, "
            f"not before {EARLIEST:.0f} s; leave that event out")
    # nilearn's fine grid: frames lie on it when 24 s is a whole number of samples
    end = frames[-1] + tr
    samples = round((end - EARLIEST) / tr * oversampling) + 1
    grid, step = np.linspace(EARLIEST, end, samples, retstep=True)
    on = np.minimum(np.searchsorted(grid, onsets), samples - 1)
    off = np.minimum(np.searchsorted(grid, onsets + durations), samples - 1)
    off = np.where((off == on) & (on < samples - 1), on + 1, off)

    total = np.concatenate([[0.0], np.cumsum(kernel)])  # total[i]: sum of the first i samples

    def response(index):  # (volumes, 1) grid index -> (volumes, events)
        def since(start):
            return total[np.clip(index - start + 1, 0, len(kernel))]

        return since(on) - since(off)

    position = (frames - EARLIEST) / step
    below = np.floor(position + 1e-9).astype(int)[:, None]
    weight = np.maximum(position[:, None] - below, 0.0)
    if weight.max() < 1e-6:
        return response(below)
    return (1 - weight) * response(below) + weight * response(below + 1)


def condition_regressors(onsets, durations, volumes, tr, hrf="spm", amplitudes=1.0,
                         oversampling=50):
    """The predicted response to one condition, events summed: (volumes, k), a column per kernel.

    Derivative columns are made orthogonal to the columns before them, as nilearn does. `hrf` is as
    in `kernels`, or `"fir 12"` for twelve delays, see `fir`, where no duration counts; `amplitudes`
    weigh the events; all else is as in `regressors`.
    """
    if delays := fir_delays(hrf):
        return fir(onsets, volumes, tr, delays, amplitudes)
    weights = per_event(amplitudes, np.atleast_1d(onsets), "amplitudes")
    columns = np.stack([regressors(onsets, durations, volumes, tr, row, oversampling) @ weights
                        for row in kernels(hrf, tr, oversampling)], axis=1)
    for i in range(1, columns.shape[1]):
        before = columns[:, :i]
        columns[:, i] -= before @ np.linalg.lstsq(before, columns[:, i])[0]
    return columns


def fir(onsets: np.ndarray, volumes: int | np.ndarray, tr: float, delays: int,
        amplitudes: np.ndarray | float = 1.0) -> np.ndarray:
    """Finite impulse response: one free number per delay, no shape assumed.

    Column d is 1 in the volumes acquired between `d * tr` and `(d + 1) * tr` seconds after an
    event. An event between two volumes first shows in the later one, so this stays causal.
    (nilearn's FIR credits it to the earlier one, up to a TR before the picture.)

    Parameters
    ----------
    onsets : (events,) array
        In seconds from the first volume.
    volumes : int or (volumes,) array
        As in `regressors`.
    delays : int
        Number of delays, each of one TR.
    amplitudes : (events,) array or float
        Weight of each event.

    Returns
    -------
    (volumes, delays) array
        Overlapping events add.

    Raises
    ------
    DataError
        If an onset is not a number.
    """
    check_sampling(tr, 1)
    onsets = np.atleast_1d(as_numbers(onsets, "the list of onsets"))
    if onsets.ndim != 1 or not np.isfinite(onsets).all():
        raise DataError("an onset is missing or infinite; expected seconds from the first volume: "
                        "leave that event out")
    weights = per_event(amplitudes, onsets, "amplitudes")
    delay = np.floor((frame_times(volumes, tr)[:, None] - onsets) / tr + 1e-9)
    return weights @ (delay[:, :, None] == np.arange(delays))


def peak_height(kernel: np.ndarray, duration: float, tr: float, oversampling: int = 50):
    """Height of the response to one event of `duration` seconds, to scale regressors to 1."""
    kernel = check(kernel, ("samples",), what="the kernel").astype(float)
    box = max(1, round(duration * oversampling / tr))
    total = np.concatenate([np.zeros(box), np.cumsum(kernel)])
    return (total[box:] - total[:-box]).max()
