"""BOLD5000's raw runs in BIDS, as OpenNeuro ds001499 has them: BOLD, events, confounds."""

import fnmatch
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas

from recon_lib.common.errors import DataError, check
from recon_lib.common.files import (
    NO_VALUE,
    find,
    find_any,
    read_table,
    readable,
    visible,
    write_table,
)
from recon_lib.data.bold5000 import ROIS, SHOWN
from recon_lib.data.splits import composed, plain_name
from recon_lib.data.stimuli import picture_folder, picture_name
from recon_lib.data.volumes import (
    Masks,
    load_volume,
    read_masks,
    refuse_empty,
    save_volume,
    voxels_at,
)

MOTION = ("X", "Y", "Z", "RotX", "RotY", "RotZ")
NEW_MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")  # since fMRIPrep 1.2
CONFOUNDS = ("bold_confounds", "desc-confounds_regressors", "desc-confounds_timeseries")
TYPE_NAMES = {"COCO": "coco", "ImageNet": "imagenet", "Scene": "scenes"}


@dataclass
class Run:
    """One run of BOLD in the ROI voxels.

    Attributes
    ----------
    bold : (volumes, voxels) float32 array
        Scanner units.
    roi : (voxels,) str array
    ijk : (voxels, 3) int array
        Place of each voxel in the volume.
    onsets, durations : (trials,) float arrays
        In seconds from the first volume, or from the time that it stands for where slice timing
        was corrected: see `timing`.
    names : list of str
        Picture of each trial, without `rep_`.
    tr : float
        Seconds.
    session, run : int
    path : Path, optional
        The file that was read.
    start : float
        The time that the first volume stands for, in seconds; `onsets` are without it.
    """

    bold: np.ndarray
    roi: np.ndarray
    ijk: np.ndarray
    onsets: np.ndarray
    durations: np.ndarray
    names: list
    tr: float
    session: int
    run: int
    path: Path | None = None
    start: float = 0.0


@dataclass
class Timing:
    """Seconds between volumes, the time that the first stands for, and what said so of the latter.

    `source` is "StartTime", "SliceTimingRef" or "SliceTimingCorrected"; "" where nothing did.
    """

    tr: float
    start: float = 0.0
    source: str = ""

    def __str__(self):
        return (f"a volume every {self.tr:g} s, the first at {self.start:g} s"
                + f" ({self.source})" * bool(self.source))


@dataclass
class Events:
    """When which picture was shown in a run: see `Run`; and the table of all other events."""

    onsets: np.ndarray
    durations: np.ndarray
    names: list
    others: pandas.DataFrame


def run_stem(subject: str, session: int, run: int):
    """BIDS path of a run without its ending: `sub-CSI1/ses-01/func/sub-CSI1_ses-01_...run-01`."""
    name = f"sub-{subject}_ses-{session:02d}_task-5000scenes_run-{run:02d}"
    return f"sub-{subject}/ses-{session:02d}/func/{name}"


def write_run(root, subject, run, shape=None, repeated=(), confounds=None):
    """Write one run as BIDS: `*_bold.nii.gz` (int16 with a slope), `*_events.tsv`, confounds.

    `shape` is the grid, by default the smallest that holds the voxels. The type of `repeated`
    pictures is written as `rep_coco`, `rep_imagenet` or `rep_scenes`. `confounds` (volumes, 6) are
    motion: three shifts in mm, three turns in rad.
    """
    stem, ijk = run_stem(subject, run.session, run.run), np.asarray(run.ijk)
    bold = check(run.bold, ("volumes", len(ijk)), what=f"{stem}: BOLD")
    shape = tuple(int(n) for n in ijk.max(0) + 1) if shape is None else shape
    low, high = min(0.0, float(np.min(bold))), max(0.0, float(np.max(bold)))
    slope, middle = (high - low) / 65000 or 1.0, (high + low) / 2
    levels = np.rint((bold.T - np.float32(middle)) * np.float32(1 / slope)).astype(np.int16)
    box = np.full((int(np.prod(shape)), len(bold)), round(-middle / slope), np.int16, order="F")
    box[np.ravel_multi_index(ijk.T, shape, order="F")] = levels  # outside the brain: 0
    save_volume(Path(root, f"{stem}_bold.nii.gz"), box.reshape(*shape, -1, order="F"),
                tr=run.tr, scaling=(slope, middle))
    kinds = [("rep_" if name in repeated else "") + TYPE_NAMES[picture_folder(name)]
             for name in run.names]
    as_bids = {"sep": "\t", "na_rep": "n/a"}
    write_table(Path(root, f"{stem}_events.tsv"), {
        "onset": run.onsets, "duration": run.durations, "Subj": subject.removeprefix("CSI"),
        "Sess": run.session, "Run": run.run, "Trial": range(1, len(kinds) + 1),
        "ImgName": run.names, "ImgType": kinds, "StimOn(s)": run.onsets,
        "StimOff(s)": run.onsets + run.durations, "Response": None, "RT": None,
        "stim_file": run.names,
    }, float_format="%.4f", **as_bids)
    if confounds is not None:
        path = Path(root, "derivatives/fmriprep", f"{stem}_bold_confounds.tsv")
        write_table(path, dict(zip(MOTION, np.transpose(confounds), strict=True)),
                    float_format="%.6f", **as_bids)


def find_events(root, subject, session, run):
    """Where the events of a run lie."""
    return find(root, f"{run_stem(subject, session, run)}_events.tsv")


def read_events(root, subject, session, run):
    """Read the events of a run that show a picture, as `Events`: see `events_in`.

    Pictures are without folders before them, as in BOLD5000's lists.
    """
    found = events_in(find_events(root, subject, session, run))
    return replace(found, names=[picture_name(name) for name in found.names])


def events_in(path, pictures=("stim_file", "ImgName"), where="", then="left out"):
    """Read a file of events: those that show a picture, and the others.

    Of the columns `pictures` that may name the pictures the first that names any is taken. `where`:
    only rows with one of these values are trials, `"trial_type=image,scene"`. Events without a
    picture or an onset, before the first volume, or there twice are left out with a warning; `then`
    says what becomes of those without a picture. A duration that is not known is taken for one
    second, with a warning. A column that is missing, an onset or duration that is no time, and two
    pictures at once are a `DataError`.
    """
    table = read_table(path, heading=True, dtype=str).apply(lambda cells: cells.str.strip())
    table = table.replace(["n/a", ""], np.nan)
    refuse_twice(path, table, ("onset", "duration", "trial_type", *pictures))
    names = _shown(path, table, pictures, where)
    onsets = _seconds(path, table["onset"])
    durations = _seconds(path, table["duration"]) if "duration" in table else (
        pandas.Series(np.nan, table.index))
    if (durations < 0).any():
        raise DataError(f"{path}: a duration of {durations.min():g} s; expected 0 or more")
    out = {"without a picture": names.isna(), "without an onset": onsets.isna(),
           "before the first volume": onsets < 0,
           "that are there twice": table.assign(onset=onsets, name=names)[["name", "onset"]]
           .duplicated() & names.notna()}
    keep = ~np.logical_or.reduce(list(out.values()))
    notes = [f"{rows.sum()} events {what} {then if what == 'without a picture' else 'left out'}"
             for what, rows in out.items() if rows.any()]
    at = onsets[keep].sort_values()
    long = durations[at.index].to_numpy()[:-1] > np.diff(at) + 0.1
    if long.any():
        notes.append(f"{long.sum()} pictures stay on after the next one has come, for up to "
                     f"{durations[keep].max():g} s: are durations in seconds?")
    if durations[keep].isna().any():
        notes.append(f"{durations[keep].isna().sum()} durations not known: {SHOWN:g} s each")
    if notes:
        warnings.warn(f"{path}: {'; '.join(notes)}", stacklevel=3)
    if not keep.any():
        kinds = table[where.partition("=")[0].strip()].dropna().unique()[:8] if where else ()
        raise DataError(f"{path}: none of {len(table)} events is a trial ({'; '.join(notes)}); "
                        "expected pictures with onsets in the run"
                        + (f", as {where}: it holds {', '.join(kinds)}" if where else ""))
    if onsets[keep].duplicated().any():
        raise DataError(f"{path}: {keep.sum()} pictures at {onsets[keep].nunique()} times; "
                        "expected one picture at a time")
    kinds = table.get("trial_type", pandas.Series("other", table.index)).fillna("other")
    others = pandas.DataFrame({"onset": onsets, "duration": durations.fillna(SHOWN),
                               "trial_type": kinds})[names.isna() & onsets.notna()]
    return Events(onsets[keep].to_numpy(), durations[keep].fillna(SHOWN).to_numpy(),
                  names[keep].tolist(), others)


def _shown(path, table, pictures, where):
    """The picture of each event, NaN where it is no trial."""
    known = [c for c in pictures if c in table and table[c].notna().any()]
    column, _, values = (part.strip() for part in where.partition("="))
    if where and not values:
        raise DataError(f"trials are asked for as {where!r}; expected COLUMN=VALUE, such as "
                        "trial_type=image")
    if "onset" not in table or not known or (where and column not in table):
        raise DataError(f"{path}: columns {', '.join(table)}; expected onset"
                        f"{f', {column}' if where else ''} and {' or '.join(pictures[::-1])} with "
                        "the pictures")
    names = table[known[0]].where(~table[known[0]].str.lower().isin(NO_VALUE))
    names = names.map(_without_mark, na_action="ignore")
    wanted = [value.strip() for value in values.split(",")]
    return names.where(table[column].isin(wanted)) if where else names


def _without_mark(path):
    """A picture's path without the `rep_` of a picture that is shown again."""
    folder, slash, name = composed(path).rpartition("/")
    return folder + slash + plain_name(name)


def refuse_twice(path, table, names):
    """Stop where a table has two columns of one of these names: which one is meant?"""
    for name in names:
        if f"{name}.1" in table:  # pandas' name for the second
            raise DataError(f"{path}: two columns {name}; expected one: leave the other out")


def refuse_outside(path, events, run, volumes, tr):
    """Stop where a picture comes after the end of a run, or stays longer than the run."""
    for what, worst in (("trial at", events.onsets.max()), ("picture of", events.durations.max())):
        if worst > volumes * tr:
            raise DataError(f"{path}: a {what} {worst:.0f} s, but {run.name} has {volumes} volumes "
                            f"({volumes * tr:.0f} s); is the run truncated, or are these no "
                            "seconds?")


def _seconds(path, cells):
    """A column of times; NaN where a cell holds nothing."""
    times = pandas.to_numeric(cells, errors="coerce")
    bad = cells[cells.notna() & ~np.isfinite(times)]
    if len(bad):
        raise DataError(f"{path}: {cells.name} {bad.iloc[0]!r}; expected seconds, or n/a")
    return times.astype(float)


def find_run(root, subject, session, run):
    """Where a run lies: fMRIPrep's in T1w space where it has made any, else the raw one."""
    stem = run_stem(subject, session, run)
    folder = find_any(root, f"derivatives/fmriprep/{Path(stem).parent}") or Path(root, "nowhere")
    made = [path for path in sorted(folder.glob(f"{Path(stem).name}_*.nii.gz"))
            if "_bold" in path.name and "preproc" in path.name]  # its names have changed
    in_place = [path for path in made if "space-T1w" in path.name]
    if made and len(in_place) != 1:
        raise DataError(f"{folder}: holds {', '.join(path.name for path in in_place or made)}; "
                        "expected one run in space-T1w, where the masks are")
    return in_place[0] if made else find(root, f"{stem}_bold.nii.gz")


def timing(path, image, sidecar=None):
    """Seconds between volumes, and the time that the first stands for: JSON first, then header.

    Where slice timing was corrected, a volume stands for the time of the slice that all others were
    moved to. BIDS calls that time of the first volume `StartTime`, in seconds, and fMRIPrep writes
    it; others write `SliceTimingRef`, a share of the TR. Both say the same thing, so one of them is
    taken, never their sum. Where the JSON says that it was corrected but not to what, half a TR is
    taken, fMRIPrep's default. nilearn's `slice_time_ref` is `start / tr`.

    The JSON lies beside the run `path`, else `sidecar` is read. A `Timing` comes back; a warning
    says if the header has another TR than the JSON, if `StartTime` and `SliceTimingRef` differ by
    more than a tenth of the TR, and if neither is there although slice timing was corrected.
    """
    header = float(image.header.get_zooms()[3])
    if header > 100 or image.header.get_xyzt_units()[1] == "msec":  # as some converters write
        header /= 1000
    header = header if 0 < header < 100 else None
    beside = path.with_name(re.sub(r"\.nii(\.gz)?$", ".json", path.name))
    sidecar = beside if beside.exists() or beside.is_symlink() else sidecar  # a link: not fetched
    told = {} if sidecar is None else _sidecar(sidecar)
    if told.get("VolumeTiming") is not None:
        raise DataError(f"{sidecar}: VolumeTiming, volumes at times of their own; expected one "
                        "every RepetitionTime: resample the run")
    tr = _number(sidecar, told, "RepetitionTime", header, 100)
    if tr is None:
        raise DataError(f"{path}: its header does not say how long a volume takes, nor does "
                        f"{beside.name}; expected seconds: write RepetitionTime there")
    share = _number(sidecar, told, "SliceTimingRef", 0.5, 1)
    start = _number(sidecar, told, "StartTime", share * tr, tr)
    if header and abs(tr - header) > 1e-3:
        warnings.warn(f"{path.name}: a volume every {tr:g} s, as {sidecar.name} says; the header "
                      f"says {header:g} s", stacklevel=3)
    known = [key for key in ("StartTime", "SliceTimingRef") if told.get(key) is not None]
    if len(known) == 2 and abs(start - share * tr) > tr / 10:
        warnings.warn(f"{sidecar}: StartTime {start:g} s, but SliceTimingRef {share:g} of {tr:g} "
                      "s; StartTime is taken", stacklevel=3)
    if not known and told.get("SliceTimingCorrected") is True:
        known = ["SliceTimingCorrected"]
        warnings.warn(f"{sidecar}: slice timing was corrected, but neither StartTime nor "
                      f"SliceTimingRef says to what time; half a TR, {start:g} s, is taken, as is "
                      "usual in fMRIPrep: write StartTime there if it was another", stacklevel=3)
    return Timing(tr, start, known[0]) if known else Timing(tr)


def _sidecar(path):
    """What a JSON says: a dict."""
    with readable(path):
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(told, dict):
        raise DataError(f"{path}: a {type(told).__name__}; expected names and values in braces")
    return told


def _number(path, told, key, default, most):
    """A number of a JSON, from 0 to `most`; `default` where it has none."""
    value = told.get(key)
    if value is None:
        return default
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (plain and 0 <= value <= most) or (key == "RepetitionTime" and value == 0):
        unit = "a share of the TR" if key == "SliceTimingRef" else "seconds"
        raise DataError(f"{path}: {key} {value!r}; expected {unit}, from 0 to {most:g}")
    return float(value)


def read_run(root: str | Path, subject: str, session: int, run: int, rois: Sequence[str] = ROIS,
             masks: Masks | None = None) -> Run:
    """Read one run's BOLD in the ROIs, and its events.

    fMRIPrep's run in T1w space is taken where the release has it, else the raw run.

    Parameters
    ----------
    root : path
    subject : str
    session, run : int
        From 1.
    rois : sequence of str
    masks : Masks, optional
        To read them only once.

    Returns
    -------
    Run

    Raises
    ------
    DataError
        Missing or damaged file, another grid than the masks, events after the end.
    """
    path = find_run(root, subject, session, run)
    masks, image = masks or read_masks(root, subject, rois), load_volume(path)
    bold = voxels_at(path, image, masks)
    events = read_events(root, subject, session, run)
    refuse_empty(path, bold)
    times = timing(path, image, find_any(root, "task-5000scenes_bold.json"))
    refuse_outside(find_events(root, subject, session, run), events, path, len(bold), times.tr)
    return Run(bold, masks.roi, masks.ijk, events.onsets - times.start, events.durations,
               events.names, times.tr, session, run, path, times.start)


def read_confounds(root: str | Path, subject: str, session: int, run: int,
                   columns: Sequence[str] = MOTION):
    """Read fMRIPrep's confounds of a run: (volumes, columns) float32, NaN as 0.

    The six columns of motion are found under their new names too.
    """
    stem = f"derivatives/fmriprep/{run_stem(subject, session, run)}"
    path = find(root, *(f"{stem}_{ending}.tsv" for ending in CONFOUNDS))
    return confounds_in(path, columns).to_numpy(np.float32)


def confounds_in(path, columns=MOTION):
    """Columns of a table of fMRIPrep's confounds, by names or patterns (`a_comp_cor_0*`), NaN as 0.

    Motion has its old names in the result, whichever the file has. A column that is missing, there
    twice or of no finite numbers is a `DataError`; a value missing below the first row, where
    differences have none, is a warning.
    """
    table = read_table(path, heading=True)
    refuse_twice(path, table, table.columns)
    old = dict(zip(NEW_MOTION, MOTION, strict=True))
    written = {old.get(name, name): name for name in table}
    table, wanted = table.rename(columns=old), [old.get(name, name) for name in columns]
    found = {name: fnmatch.filter(map(str, table.columns), name) for name in wanted}
    absent = [name for name, there in found.items() if not there]
    if absent:
        raise DataError(f"{path}: no column {', '.join(absent)}; it holds "
                        f"{', '.join(map(str, table.columns[:8]))}")
    table = table[list(dict.fromkeys(sum(found.values(), [])))]
    numbers = table.apply(pandas.to_numeric, errors="coerce").astype(float)
    for name, column in numbers.items():
        bad = table[name][table[name].notna() & ~np.isfinite(column)]
        if len(bad):
            raise DataError(f"{path}: {written[name]} is {str(bad.iloc[0])!r} in row "
                            f"{bad.index[0] + 2}; expected numbers, or n/a")
    if len(gaps := [name for name in numbers if numbers[name][1:].isna().any()]):
        warnings.warn(f"{path}: values of {', '.join(written[name] for name in gaps[:6])} are "
                      f"missing below the first row, {numbers[1:].isna().sum().sum()} in all; 0 is "
                      "taken", stacklevel=3)
    return numbers.fillna(0.0)


def list_runs(root: str | Path, subject: str):
    """Session and run numbers of a subject's raw runs, in order.

    Raises
    ------
    DataError
        If there are none, or one between others is missing.
    """
    folder = find(root, f"sub-{subject}")
    paths = visible(folder, "ses-*/func/*_task-5000scenes_run-*_events.tsv")
    found = sorted({tuple(map(int, re.search(r"_ses-(\d+)_.*_run-(\d+)_", p.name).groups()))
                    for p in paths})
    if not found:
        raise DataError(f"{folder}: no runs; expected {run_stem(subject, 1, 1)}_events.tsv")
    for session in range(1, found[-1][0] + 1):
        runs = [run for s, run in found if s == session]
        for run in range(1, max(runs, default=1) + 1):
            if run not in runs:
                missing = folder.parent / f"{run_stem(subject, session, run)}_events.tsv"
                raise DataError(f"{missing}: no such file, though later runs are there; fetch it")
    return found


def iter_runs(root, subject):
    """Yield every raw run of a subject as a `Run`, session by session, one in memory at a time.

    Runs of several TRs are a `DataError`.
    """
    masks, tr = read_masks(root, subject), None
    for session, run in list_runs(root, subject):
        one = read_run(root, subject, session, run, masks=masks)
        tr = tr or one.tr
        if abs(one.tr - tr) > 1e-3:
            raise DataError(f"{one.path}: a volume every {one.tr:g} s, but every {tr:g} s in the "
                            "runs before; expected one TR: write RepetitionTime into its JSON")
        yield one
