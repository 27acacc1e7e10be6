"""BOLD5000's raw runs in BIDS, as OpenNeuro ds001499 has them: BOLD, events, confounds."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas

from recon_lib.common.errors import DataError, atomic_write, check
from recon_lib.common.files import find, read_table, readable
from recon_lib.data.bold5000 import ROIS, SHOWN, TR
from recon_lib.data.splits import plain_name
from recon_lib.data.stimuli import picture_folder
from recon_lib.data.volumes import load_volume, read_masks, save_volume, voxels_at

MOTION = ("X", "Y", "Z", "RotX", "RotY", "RotZ")
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
        In seconds from the first volume.
    names : list of str
        Picture of each trial, without `rep_`.
    tr : float
        Seconds.
    session, run : int
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


def run_stem(subject, session, run):
    """BIDS path of a run without its ending: `sub-CSI1/ses-01/func/sub-CSI1_ses-01_...run-01`."""
    name = f"sub-{subject}_ses-{session:02d}_task-5000scenes_run-{run:02d}"
    return f"sub-{subject}/ses-{session:02d}/func/{name}"


def write_run(root, subject, run, shape=None, repeated=(), confounds=None):
    """Write one run as BIDS: `*_bold.nii.gz` (int16 with a slope), `*_events.tsv`, confounds.

    Parameters
    ----------
    root : path
    subject : str
    run : Run
    shape : tuple of 3 int, optional
        Grid; default: the smallest that holds the voxels.
    repeated : collection of str
        Pictures whose type is written as `rep_coco`, `rep_imagenet` or `rep_scenes`.
    confounds : (volumes, 6) array, optional
        Motion: three shifts in mm, three turns in rad.
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
    _write_table(Path(root, f"{stem}_events.tsv"), "%.4f", {
        "onset": run.onsets, "duration": run.durations, "Subj": subject.removeprefix("CSI"),
        "Sess": run.session, "Run": run.run, "Trial": range(1, len(kinds) + 1),
        "ImgName": run.names, "ImgType": kinds, "StimOn(s)": run.onsets,
        "StimOff(s)": run.onsets + run.durations, "Response": None, "RT": None,
        "stim_file": run.names,
    })
    if confounds is not None:
        path = Path(root, "derivatives/fmriprep", f"{stem}_bold_confounds.tsv")
        _write_table(path, "%.6f", dict(zip(MOTION, np.transpose(confounds), strict=True)))


def _write_table(path, digits, columns):
    with atomic_write(path) as partial:
        pandas.DataFrame(columns).to_csv(partial, sep="\t", index=False, na_rep="n/a",
                                         float_format=digits, lineterminator="\n")


def read_events(root, subject, session, run):
    """Onsets and durations in seconds, and picture names, of one run's trials."""
    path = find(root, f"{run_stem(subject, session, run)}_events.tsv")
    table = read_table(path)
    name = next((c for c in ("stim_file", "ImgName") if c in table), None)
    if "onset" not in table or name is None or len(table) == 0:
        raise DataError(f"{path}: columns {list(table)}; expected onset and ImgName or stim_file")
    with readable(path):
        onsets = table["onset"].to_numpy(float)
        durations = table.get("duration", pandas.Series(SHOWN, table.index)).to_numpy(float)
        return onsets, durations, [plain_name(Path(one).name) for one in table[name]]


def read_run(root, subject, session, run, rois=ROIS, masks=None):
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
    stem = run_stem(subject, session, run)
    try:
        path = find(root, f"derivatives/fmriprep/{stem}_bold_space-T1w_preproc.nii.gz")
    except DataError:
        path = find(root, f"{stem}_bold.nii.gz")
    masks, image = masks or read_masks(root, subject, rois), load_volume(path)
    bold = voxels_at(path, image, masks)
    onsets, durations, names = read_events(root, subject, session, run)
    tr = float(image.header.get_zooms()[3]) or TR
    tr = tr / 1000 if tr > 100 else tr  # some converters write milliseconds
    if onsets.max() > len(bold) * tr:
        raise DataError(
            f"{stem}_events.tsv: a trial at {onsets.max():.0f} s, but {path.name} has {len(bold)} "
            f"volumes ({len(bold) * tr:.0f} s); is the run truncated?"
        )
    return Run(bold, masks.roi, masks.ijk, onsets, durations, names, tr, session, run)


def read_confounds(root, subject, session, run, columns=MOTION):
    """Read fMRIPrep's confounds of a run: (volumes, columns) float32, NaN as 0."""
    stem = f"derivatives/fmriprep/{run_stem(subject, session, run)}"
    try:
        path = find(root, f"{stem}_bold_confounds.tsv")
    except DataError:  # its name since fMRIPrep 1.2
        path = find(root, f"{stem}_desc-confounds_regressors.tsv")
    table = read_table(path)
    absent = [column for column in columns if column not in table]
    if absent:
        raise DataError(f"{path}: no column {', '.join(absent)}; it holds "
                        f"{', '.join(map(str, table.columns[:8]))}")
    with readable(path):
        return np.nan_to_num(table[list(columns)].to_numpy(np.float32))


def list_runs(root, subject):
    """Session and run numbers of a subject's raw runs, in order.

    Raises
    ------
    DataError
        If there are none, or one between others is missing.
    """
    folder = find(root, f"sub-{subject}")
    paths = sorted(folder.glob("ses-*/func/*_task-5000scenes_run-*_events.tsv"))
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


def iter_runs(root, subject, rois=ROIS):
    """Yield every raw run of a subject as a `Run`, session by session, one in memory at a time."""
    masks = read_masks(root, subject, rois)
    for session, run in list_runs(root, subject):
        yield read_run(root, subject, session, run, rois, masks)
