"""From a subject's runs to betas on disk: in the regions, as releases have them, or everywhere.

The betas of regions are estimated as the course does it (`glm.single_trial_betas`), those of the
whole brain with an HRF for each voxel and shrunk to its mean response (`single_trial.estimate`).
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas
from tqdm import tqdm

from recon_lib.bold.diagnosis import diagnose
from recon_lib.bold.glm import single_trial_betas, without_data
from recon_lib.bold.hrf import PEAKS
from recon_lib.bold.single_trial import find_noise
from recon_lib.bold.whole_brain import digest, estimate_to_file, read_estimate, spool, spread
from recon_lib.common.errors import DataError
from recon_lib.common.files import write_table
from recon_lib.common.folders import completed, mark_complete, withdraw_mark
from recon_lib.common.paths import experiment_folder
from recon_lib.data import bids, bold5000, fmriprep, stimuli
from recon_lib.data.release import BETAS, SUBJECT
from recon_lib.data.volumes import Masks, read_brain_mask, read_masks, save_map

OURS = ".estimated-{}"  # beside a subject's betas: they were estimated here, not fetched


def estimate_betas(root=None, name=SUBJECT, points=("34",), **options):
    """Estimate single-trial betas from the raw runs and write them as the releases do.

    Release 2's form holds the betas in % signal change, release 1's the signal itself at some time
    `points` after onset, also in % signal change: "1" is the first volume after onset, "2" the
    second, …, "34" the mean of the third and the fourth, 4 to 8 s after onset. `options` are those
    of `glm.single_trial_betas`; `root` is by default the embedded experiment. Betas that lie there
    already and were not estimated here, such as the published ones, are a `DataError`.

    Returns a line of what was read. Trials whose response the end of a run cuts off
    (`glm.without_data`) are named there and left out: nobody downstream could tell their betas, of
    many times the usual spread, from large responses.
    """
    root, lost = Path(experiment_folder() if root is None else root), []
    _refuse_published(root, name)
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
    stimuli.write_lines(root / BETAS / OURS.format(name), [])
    for point in points:
        bold5000.write_r1(root, of_subject(signal[point]), tr=point)
    bold5000.write_r2(root, of_subject(values))
    mark_complete(root / BETAS, {"subject": name})
    return (f"{name}: {len(shown)} trials of {len(set(shown))} pictures in {total} runs such as "
            f"{last.path}, {len(last.roi)} voxels, a volume every {last.tr:g} s, the first at "
            f"{last.start:g} s"
            + "".join(f"; left out, as the run ends before its response: {one}" for one in lost))


def _refuse_published(root, name):
    """Stop before betas that were not estimated here would be written over."""
    there = [*Path(root, BETAS).glob(f"**/{name}_*"), *Path(root, "ROIs", name).glob("**/*_ROIs_*")]
    ours = (Path(root, BETAS, OURS.format(name)).exists() or "simulator" in (completed(root) or {})
            or (completed(root / BETAS) or {}).get("subject") == name)
    if there and not ours:
        raise DataError(f"{there[0]}: betas of {name} that this command did not make, and would "
                        "write over; expected raw runs alone: move those betas to another folder")


def _with_data(one):
    """A run without the trials that its end cuts off, and what these are."""
    gone = without_data(one.onsets, len(one.bold), one.tr, one.durations)
    lost = [f"{one.names[i]}, session {one.session} run {one.run}, at {one.onsets[i]:.0f} of "
            f"{len(one.bold) * one.tr:.0f} s" for i in np.flatnonzero(gone)]
    kept = np.flatnonzero(~gone)
    return replace(one, onsets=one.onsets[kept], durations=one.durations[kept],
                   names=[one.names[i] for i in kept]), lost


@dataclass
class Scans:
    """A subject's runs in memory, for `report`; lists have an entry a run."""

    runs: list  # (bold, onsets) of each
    tr: float
    where: list  # (session, run) of each
    names: list
    durations: list
    confounds: list | None
    masks: Masks


def raw_scans(root=None, name=SUBJECT):
    """BOLD5000's raw runs in the regions, as `Scans`."""
    root = Path(experiment_folder() if root is None else root)
    runs = [_with_data(one)[0] for one in bids.iter_runs(root, name)]
    return Scans([(one.bold, one.onsets) for one in runs], runs[0].tr,
                 [(one.session, one.run) for one in runs], [one.names for one in runs],
                 [one.durations for one in runs], None, read_masks(root, name))


def preprocessed_scans(runs, masks):
    """fMRIPrep's runs, as `fmriprep.read_subject` gives them, with their voxels."""
    return Scans([(fmriprep.read_voxels(one, masks), one.onsets) for one in runs],
                 runs[0].times.tr, [(one.session, one.run) for one in runs],
                 [one.names for one in runs], [one.durations for one in runs],
                 [one.confounds for one in runs], masks)


def report(scans, folder, name=SUBJECT):
    """Runs diagnosed, see `bold.diagnosis`: writes two tables, and a map of each number a voxel.

    The files are `NAME_voxels.csv`, `NAME_runs.csv`, `NAME_explained.nii.gz` and its like.
    """
    found = diagnose(scans.runs, scans.tr, np.concatenate(scans.names), scans.durations,
                     scans.confounds)
    place = dict(zip("ijk", scans.masks.ijk.T, strict=True))
    session, run = zip(*scans.where, strict=True)
    tables = {"voxels": {"area": scans.masks.roi} | place | found.voxels,
              "runs": {"session": session, "run": run} | found.runs}
    for table, columns in tables.items():
        write_table(folder / f"{name}_{table}.csv", columns, float_format="%.4g")
    for key, values in found.voxels.items():
        save_map(folder / f"{name}_{key}.nii.gz", values, scans.masks)
    return found


def _dated(*paths):
    """Names, sizes and dates of files: another one, or a newer one, has another."""
    return ", ".join(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in paths)


def estimate_whole_brain(root=None, name=SUBJECT, block=8192):
    """Estimate betas of every voxel of the brain mask, in little memory; killed, it goes on.

    Returns the path `derivatives/betas/NAME_whole-brain.h5` under `root` (by default the embedded
    experiment), and the `Noise` that some 2,000 voxels told to take out. The file holds `betas`
    (trials, voxels) in % signal change, `hrf`, `ratio` and `r2` (voxels,) as
    `single_trial.estimate` chooses them, `ijk` (voxels, 3) places in the volume, `stimuli`,
    `session` and `run` of each trial. While it works, on `block` voxels at a time, the runs lie
    unpacked in a folder beside the file (4 bytes a volume and voxel). A file that is there already,
    or a run whose TR is not BOLD5000's, is a `DataError`.
    """
    root = Path(experiment_folder() if root is None else root)
    path = Path(root, "derivatives/betas", f"{name}_whole-brain.h5")
    refuse_there(path)
    masks = read_brain_mask(root, name)
    numbers = bids.list_runs(root, name)

    def load(session, run):
        one = bids.read_run(root, name, session, run, masks=masks)
        if abs(one.tr - bold5000.TR) > 1e-3:
            raise DataError(f"session {session} run {run} has a TR of {one.tr} s; expected "
                            f"{bold5000.TR} s as in all of BOLD5000's runs")
        return one.bold, one.onsets

    sources = [_dated(masks.path, bids.find_run(root, name, *n), bids.find_events(root, name, *n))
               for n in numbers]
    events = [bids.read_events(root, name, *n) for n in numbers]
    trials = _trials(numbers, [one.names for one in events])
    return path, _to_file(path, [lambda n=n: load(*n) for n in numbers], sources, bold5000.TR,
                          block, {"ijk": masks.ijk} | _encoded(trials),
                          (trials.stimuli.to_numpy(str), [one.durations for one in events]))


def refuse_there(path):
    """Stop, before any work, if a file of betas is there."""
    if path.exists():
        raise DataError(f"{path} is there already; remove it to estimate the betas anew")


def _trials(where, names):
    """Session, run and picture of each trial: a table."""
    return pandas.DataFrame([(*n, shown) for n, mine in zip(where, names, strict=True)
                             for shown in mine], columns=["session", "run", "stimuli"])


def _encoded(table):
    """The columns of a table, text as UTF-8."""
    return {key: column.to_numpy() if column.dtype.kind in "iu" else
            np.char.encode(column.to_numpy(str), "utf-8") for key, column in table.items()}


def _to_file(path, loaders, sources, tr, block, beside, design):
    """Unpack runs beside `path`, and estimate their betas into it: the `Noise` taken out.

    `design` holds the picture of each trial, and durations and, if any, confounds of each run.
    """
    folder = path.with_suffix(".runs")
    runs = spool(tqdm(loaders, "unpack", unit="run", disable=None), folder, sources)
    try:
        noise = find_noise(spread(runs), tr, *design)
        estimate_to_file(runs, path, tr, block, beside, durations=design[1],
                         confounds=noise.confounds)
    finally:
        for bold, _ in runs:
            bold.file.close()
    shutil.rmtree(folder, ignore_errors=True)
    return noise


def estimate_preprocessed(runs, masks, path, block=8192):
    """Betas of fMRIPrep's runs (`fmriprep.read_subject`), in little memory; killed, it goes on.

    `path` gets what `estimate_whole_brain` writes, and `area` of each voxel, `affine` and `shape`
    of the volume. Beside it lie the trials as a table, and maps of the variance explained (`r2`),
    of the time of the HRF's peak and of the ratio of variances. Returns the `Noise` that
    some 2,000 voxels told to take out.
    """
    refuse_there(path)
    trials = _trials([(one.session, one.run) for one in runs], [one.names for one in runs])
    design = (trials.stimuli.to_numpy(str), [one.durations for one in runs],
              [one.confounds for one in runs])
    beside = {"ijk": masks.ijk, "area": masks.roi.astype("S"), "affine": masks.image.affine,
              "shape": masks.image.shape[:3]} | _encoded(trials)
    noise = _to_file(
        path, [lambda one=one: (fmriprep.read_voxels(one, masks), one.onsets) for one in runs],
        [f"{_dated(one.path)} {digest(masks.ijk, one.kept, one.onsets)}" for one in runs],
        runs[0].times.tr, block, beside, design)
    write_table(path.with_name(f"{path.stem}_trials.csv"),
                trials.rename(columns={"stimuli": "stim_file"}))
    done = read_estimate(path)
    maps = {"r2": done.r2, "peak": PEAKS[done.hrf], "ratio": done.ratio}
    for key, values in maps.items():
        save_map(path.with_name(f"{path.stem}_{key}.nii.gz"), values, masks)
    return noise
