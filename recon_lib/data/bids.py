"""BOLD5000's raw runs in BIDS, as OpenNeuro ds001499 has them: BOLD, events, confounds."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon_lib.common.errors import DataError
from recon_lib.common.files import find, read_lines, readable
from recon_lib.data.bold5000 import ROIS, SHOWN, TR
from recon_lib.data.splits import plain_name
from recon_lib.data.stimuli import picture_folder, write_lines
from recon_lib.data.volumes import load_volume, read_masks, save_volume, voxels_at

MOTION = ("X", "Y", "Z", "RotX", "RotY", "RotZ")
EVENTS = ("onset", "duration", "Subj", "Sess", "Run", "Trial", "ImgName", "ImgType", "StimOn(s)",
          "StimOff(s)", "Response", "RT", "stim_file")  # fmt: skip
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


def write_run(root, subject, session, run, bold, ijk, onsets, names, tr=TR, shape=None,
              repeated=(), confounds=None):  # fmt: skip
    """Write one run as BIDS: `*_bold.nii.gz` (int16 with a slope), `*_events.tsv`, confounds.

    Parameters
    ----------
    root : path
    subject : str
    session, run : int
        From 1.
    bold : (volumes, voxels) float32 array
    ijk : (voxels, 3) int array
        For instance `compact_box(voxels)`.
    onsets : (trials,) array
        Seconds.
    names : sequence of str
        Picture of each trial.
    tr : float
    shape : tuple of 3 int, optional
        Grid; default: the smallest that holds `ijk`.
    repeated : collection of str
        Pictures whose type is written as `rep_coco`, `rep_imagenet` or `rep_scenes`.
    confounds : (volumes, 6) array, optional
        Motion: three shifts in mm, three turns in rad.
    """
    ijk, stem = np.asarray(ijk), run_stem(subject, session, run)
    shape = tuple(int(n) for n in ijk.max(0) + 1) if shape is None else shape
    if not np.isfinite(bold).all():
        raise DataError(f"{stem}: BOLD holds NaN or infinite values; expected finite ones")
    low, high = min(0.0, float(np.min(bold))), max(0.0, float(np.max(bold)))
    slope, middle = (high - low) / 65000 or 1.0, (high + low) / 2
    levels = np.rint((bold.T - np.float32(middle)) * np.float32(1 / slope)).astype(np.int16)
    box = np.full((int(np.prod(shape)), len(bold)), round(-middle / slope), np.int16, order="F")
    box[np.ravel_multi_index(ijk.T, shape, order="F")] = levels  # outside the brain: 0
    save_volume(
        Path(root, f"{stem}_bold.nii.gz"), box.reshape(*shape, -1, order="F"),
        tr=tr, scaling=(slope, middle),
    )  # fmt: skip
    rows = ["\t".join(EVENTS)]
    for trial, (onset, name) in enumerate(zip(onsets, names, strict=True), 1):
        kind = ("rep_" if name in repeated else "") + TYPE_NAMES[picture_folder(name)]
        start, end = f"{onset:.4f}", f"{onset + SHOWN:.4f}"
        row = (start, f"{SHOWN:.4f}", subject.removeprefix("CSI"), session, run, trial, name, kind,
               start, end, "n/a", "n/a", name)  # fmt: skip
        rows.append("\t".join(map(str, row)))
    write_lines(Path(root, f"{stem}_events.tsv"), rows)
    if confounds is not None:
        rows = ["\t".join(MOTION)] + ["\t".join(f"{x:.6f}" for x in row) for row in confounds]
        write_lines(Path(root, "derivatives/fmriprep", f"{stem}_bold_confounds.tsv"), rows)


def _events(path):
    """Onsets and durations in seconds, and picture names, from a BIDS events file."""
    lines = read_lines(path)
    columns = lines[0].split("\t")
    name = next((c for c in ("stim_file", "ImgName") if c in columns), None)
    if "onset" not in columns or name is None or len(lines) < 2:
        raise DataError(f"{path}: columns {columns}; expected onset and ImgName or stim_file")
    with readable(path):
        rows = [dict(zip(columns, line.split("\t"), strict=False)) for line in lines[1:]]
        onsets = np.array([float(row["onset"]) for row in rows])
        durations = np.array([float(row.get("duration", SHOWN)) for row in rows])
        names = [plain_name(Path(row[name]).name) for row in rows]
    return onsets, durations, names


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
    masks : tuple, optional
        What `read_masks` returned, to read them only once.

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
    roi, ijk, like = read_masks(root, subject, rois) if masks is None else masks
    image = load_volume(path)
    bold = voxels_at(path, image, ijk, like)
    events = find(root, f"{stem}_events.tsv")
    onsets, durations, names = _events(events)
    tr = float(image.header.get_zooms()[3]) or TR
    tr = tr / 1000 if tr > 100 else tr  # some converters write milliseconds
    if onsets.max() > len(bold) * tr:
        raise DataError(
            f"{events}: a trial at {onsets.max():.0f} s, but {path.name} has {len(bold)} volumes "
            f"({len(bold) * tr:.0f} s); is the run truncated?"
        )
    return Run(bold, roi, ijk, onsets, durations, names, tr, session, run)


def read_confounds(root, subject, session, run, columns=MOTION):
    """Read fMRIPrep's confounds of a run: (volumes, columns) float32, NaN as 0."""
    stem = f"derivatives/fmriprep/{run_stem(subject, session, run)}"
    try:
        path = find(root, f"{stem}_bold_confounds.tsv")
    except DataError:  # its name since fMRIPrep 1.2
        path = find(root, f"{stem}_desc-confounds_regressors.tsv")
    lines = read_lines(path)
    names = lines[0].split("\t")
    absent = [column for column in columns if column not in names]
    if absent:
        raise DataError(f"{path}: no column {', '.join(absent)}; it holds {', '.join(names[:8])}")
    with readable(path):
        rows = [line.split("\t") for line in lines[1:]]
        places = [names.index(column) for column in columns]
        values = [[float(row[i].replace("n/a", "nan")) for i in places] for row in rows]
    return np.nan_to_num(np.array(values, np.float32))


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
                    for p in paths})  # fmt: skip
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
