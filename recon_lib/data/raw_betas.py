"""From a subject's raw runs to betas on disk: in the regions, as releases have them, or everywhere.

The betas of regions are estimated as the course does it (`glm.single_trial_betas`), those of the
whole brain with an HRF for each voxel and shrunk to its mean response (`single_trial.estimate`).
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
from tqdm import tqdm

from recon_lib.bold.diagnosis import diagnose
from recon_lib.bold.glm import single_trial_betas, without_data
from recon_lib.bold.whole_brain import estimate_to_file, spool
from recon_lib.common.errors import DataError, atomic_write
from recon_lib.common.folders import mark_complete, withdraw_mark
from recon_lib.common.paths import experiment_folder
from recon_lib.data import bids, bold5000
from recon_lib.data.release import BETAS, SUBJECT
from recon_lib.data.volumes import read_brain_mask


def estimate_betas(root=None, name=SUBJECT, points=("34",), **options):
    """Estimate single-trial betas from the raw runs and write them as the releases do.

    Release 2's form holds the betas in % signal change, release 1's the signal itself at some
    time after onset, also in % signal change.

    Parameters
    ----------
    root : path, optional
        Default: the embedded experiment.
    name : str
        The subject.
    points : sequence of {"1", …, "5", "34"}
        Time points of release 1: the first volume after onset, the second, …; 34: the mean of the
        third and the fourth, 4 to 8 s after onset.
    **options
        For `glm.single_trial_betas`.

    Returns
    -------
    str
        What was read, in a line. Trials whose response the end of a run cuts off
        (`glm.without_data`) are named there and left out: nobody downstream could tell their betas,
        of many times the usual spread, from large responses.
    """
    root, lost = Path(experiment_folder() if root is None else root), []
    values, signal, shown, session, run = [], {point: [] for point in points}, [], [], []
    total = len(bids.list_runs(root, name))
    for one in tqdm(bids.iter_runs(root, name), "betas", total, unit="run", disable=None):
        one, cut = _with_data(one)
        lost += cut
        settings = {"durations": one.durations} | options
        values.append(single_trial_betas(one.bold, one.onsets, one.tr, **settings))
        first, mean = np.round(one.onsets / one.tr).astype(int), one.bold.mean(0)
        percent = 100 * (one.bold / np.where(mean > 0, mean, np.nan) - 1)
        for point in points:  # "34" averages its digits
            late = first.max() + int(point[-1]) - len(percent)
            if late > 0:
                raise DataError(f"{one.path}: ends {late} volumes too soon for time point {point} "
                                "of its last picture; leave that event out, or fetch the run again")
            signal[point].append(np.mean([percent[first + int(n) - 1] for n in point], axis=0))
        shown += one.names
        session += [one.session] * len(one.names)
        run += [one.run] * len(one.names)
        last = one

    def of_subject(parts):
        values = np.concatenate(parts).astype(np.float32)  # (trials, voxels)
        return bold5000.Betas(values, last.roi, shown, np.array(session), np.array(run), name)

    withdraw_mark(root / BETAS)  # a kill in the middle leaves areas of two methods
    for point in points:
        bold5000.write_r1(root, of_subject(signal[point]), tr=point)
    bold5000.write_r2(root, of_subject(values))
    mark_complete(root / BETAS, {"subject": name})
    return (f"{name}: {len(shown)} trials of {len(set(shown))} pictures in {total} runs such as "
            f"{last.path}, {len(last.roi)} voxels, a volume every {last.tr:g} s"
            + "".join(f"; left out, as the run ends before its response: {one}" for one in lost))


def _with_data(one):
    """A run without the trials that its end cuts off, and what these are."""
    gone = without_data(one.onsets, len(one.bold), one.tr, one.durations)
    lost = [f"{one.names[i]}, session {one.session} run {one.run}, at {one.onsets[i]:.0f} of "
            f"{len(one.bold) * one.tr:.0f} s" for i in np.flatnonzero(gone)]
    kept = np.flatnonzero(~gone)
    return replace(one, onsets=one.onsets[kept], durations=one.durations[kept],
                   names=[one.names[i] for i in kept]), lost


def report(root=None, name=SUBJECT):
    """A subject's raw runs diagnosed, see `bold.diagnosis`; writes two tables beside the betas.

    Returns
    -------
    Diagnosis, (voxels,) str array, Path
        The areas of the voxels; and the folder, of `NAME_voxels.csv` and `NAME_runs.csv`.
    """
    root = Path(experiment_folder() if root is None else root)
    runs = [_with_data(one)[0] for one in bids.iter_runs(root, name)]
    lengths = np.unique(np.concatenate([one.durations for one in runs]))
    found = diagnose([(one.bold, one.onsets) for one in runs], runs[0].tr,
                     np.concatenate([one.names for one in runs]), float(np.median(lengths)))
    folder = root / "derivatives/betas"
    tables = {"voxels": {"area": runs[0].roi} | found.voxels,
              "runs": {"session": [one.session for one in runs], "run": [one.run for one in runs]}
              | found.runs}
    for table, columns in tables.items():
        with atomic_write(folder / f"{name}_{table}.csv") as partial:
            pandas.DataFrame(columns).to_csv(partial, index=False, float_format="%.4g",
                                             lineterminator="\n")
    return found, runs[0].roi, folder


def _dated(*paths):
    """Names, sizes and dates of files: another one, or a newer one, has another."""
    return ", ".join(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in paths)


def estimate_whole_brain(root=None, name=SUBJECT, block=8192):
    """Estimate betas of every voxel of the brain mask, in little memory; killed, it goes on.

    While it works the runs lie unpacked in a folder beside the file (4 bytes a volume and voxel).

    Parameters
    ----------
    root : path, optional
        Default: the embedded experiment.
    name : str
        The subject.
    block : int
        Voxels worked on at a time.

    Returns
    -------
    Path
        `derivatives/betas/NAME_whole-brain.h5` under `root`: `betas` (trials, voxels) in % signal
        change, `hrf` and `ratio` (voxels,) as `single_trial.estimate` chooses them, `ijk`
        (voxels, 3) places in the volume, `stimuli`, `session` and `run` of each trial.

    Raises
    ------
    DataError
        If the file is there already, or a run's TR is not BOLD5000's.
    """
    root = Path(experiment_folder() if root is None else root)
    path = Path(root, "derivatives/betas", f"{name}_whole-brain.h5")
    if path.exists():
        raise DataError(f"{path} is there already; remove it to estimate the betas anew")
    masks = read_brain_mask(root, name)
    numbers = bids.list_runs(root, name)

    def load(session, run):
        one = bids.read_run(root, name, session, run, masks=masks)
        if abs(one.tr - bold5000.TR) > 1e-3:
            raise DataError(f"session {session} run {run} has a TR of {one.tr} s; expected "
                            f"{bold5000.TR} s as in all of BOLD5000's runs")
        return one.bold, one.onsets

    folder = path.with_suffix(".runs")
    loaders = [lambda n=n: load(*n) for n in numbers]
    sources = [_dated(masks.path, bids.find_run(root, name, *n), bids.find_events(root, name, *n))
               for n in numbers]
    runs = spool(tqdm(loaders, "unpack", unit="run", disable=None), folder, sources)
    events = [bids.read_events(root, name, *n) for n in numbers]
    lengths = np.unique(np.concatenate([one.durations for one in events]))
    if len(lengths) > 1:
        raise DataError(f"pictures of {lengths[0]:g} to {lengths[-1]:g} s; expected all to last as "
                        "long: estimate the regions' betas, which need not")
    trials = pandas.DataFrame([(*n, shown) for n, one in zip(numbers, events, strict=True)
                               for shown in one.names], columns=["session", "run", "stimuli"])
    beside = {"ijk": masks.ijk, "session": trials.session.to_numpy(), "run": trials.run.to_numpy(),
              "stimuli": trials.stimuli.to_numpy("S")}
    try:
        estimate_to_file(runs, path, bold5000.TR, block, beside, durations=float(lengths[0]))
    finally:
        for bold, _ in runs:
            bold.file.close()
    shutil.rmtree(folder, ignore_errors=True)
    return path
