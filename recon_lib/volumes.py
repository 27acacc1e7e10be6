"""BOLD5000's volumes: raw BIDS runs (OpenNeuro ds001499), ROI masks, whole-brain betas.

Grids of the published volumes, in voxels of 2 mm: CSI1 71x89x72, CSI2 72x92x70, CSI3 72x88x67,
CSI4 70x89x70.
"""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from recon_lib.bold5000 import (
    R2_TYPES,
    ROIS,
    SHOWN,
    TR,
    Betas,
    drop_voxels,
    find_r2,
    roi_keys,
)
from recon_lib.errors import DataError, atomic_write
from recon_lib.files import check_size, find, read_lines, readable
from recon_lib.stimuli import image_lists, picture_folder, plain_name, read_stimuli, write_lines

MISNAMED = {  # published under these names
    ("CSI2", "LHLOC"): "LHLO",
    ("CSI2", "RHLOC"): "RHLO",
    ("CSI2", "RHRSC"): "RHRRSC",
    ("CSI3", "LHLOC"): "LHLO",
    ("CSI3", "RHLOC"): "RHLO",
}
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])  # 2 mm voxels
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


def compact_box(voxels):
    """Places (voxels, 3) for voxels that have none: the smallest cube, filled in order."""
    side = int(np.ceil(voxels ** (1 / 3) - 1e-9))
    return np.stack(np.unravel_index(np.arange(voxels), (side,) * 3), 1)


def _save(path, array, affine=AFFINE, tr=None, scaling=None):
    """Write a volume; `scaling` (slope, intercept) says what its integers stand for."""
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    if tr is not None:
        image.header["pixdim"][4] = tr
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    with atomic_write(path) as partial:
        image.to_filename(partial)


def _load(path):
    with readable(path):
        return nibabel.load(path)


# Masks -----------------------------------------------------------------------------------


def mask_path(subject, key):
    """Published place of an ROI mask, misnamed where the release misnames it."""
    key = MISNAMED.get((subject, key), key)
    return f"derivatives/spm/sub-{subject}/sub-{subject}_mask-{key}.nii.gz"


def write_masks(root, subject, roi, ijk, shape=None, affine=AFFINE):
    """Write one mask a region, and `CSI1_brainmask.nii.gz`.

    Parameters
    ----------
    root : path
    subject : str
    roi : (voxels,) sequence of str
    ijk : (voxels, 3) int array
    shape : tuple of 3 int, optional
        Grid; default: the smallest that holds `ijk`.
    """
    roi, ijk = np.asarray(roi), np.asarray(ijk)
    shape = tuple(ijk.max(0) + 1) if shape is None else shape
    brain = np.zeros(shape, np.uint8)
    for key in np.unique(roi).tolist():
        mask = np.zeros(shape, np.uint8)
        mask[tuple(ijk[roi == key].T)] = 1
        brain |= mask
        _save(Path(root, mask_path(subject, key)), mask, affine)
    _save(Path(root, f"{subject}_brainmask.nii.gz"), brain, affine)


def read_masks(root, subject, rois=ROIS):
    """Read ROI masks.

    Returns
    -------
    roi : (voxels,) str array
        In the order of `rois`, left before right.
    ijk : (voxels, 3) int array
    image : nibabel image
        The last mask: its grid and affine.
    """
    names, places, image, shape = [], [], None, None
    for key in roi_keys(rois):
        try:
            path = find(root, mask_path(subject, key))
        except DataError:  # somebody may have renamed the misnamed ones
            path = find(root, f"derivatives/spm/sub-{subject}/sub-{subject}_mask-{key}.nii.gz")
        image = _load(path)
        if shape is not None and image.shape != shape:
            raise DataError(f"{path}: grid {image.shape}, the other masks have {shape}")
        shape = image.shape
        with readable(path):
            ijk = np.argwhere(np.asarray(image.dataobj) > 0)
        if len(ijk) == 0:
            raise DataError(f"{path}: an empty mask; expected the voxels of {key}, fetch it again")
        names.append(np.full(len(ijk), key))
        places.append(ijk)
    return np.concatenate(names), np.concatenate(places), image


def _voxels(path, image, ijk, like):
    """Values (volumes, voxels) of a 4-D image at `ijk`, after checking that the grids agree."""
    if image.ndim != 4 or image.shape[:3] != like.shape:
        raise DataError(
            f"{path}: grid {image.shape[:3]}, the masks have {like.shape}; they fit volumes in "
            "the subject's T1w space (fMRIPrep's space-T1w runs, release 2 betas)"
        )
    check_size(path, image.shape, np.float32)
    with readable(path):  # integers are scaled after selecting: less memory, less time
        scaled = hasattr(image.dataobj, "get_unscaled")
        data = image.dataobj.get_unscaled() if scaled else np.asarray(image.dataobj)
        flat = np.ravel_multi_index(ijk.T, like.shape, order="F")
        values = data.reshape(-1, data.shape[3], order="F")[flat].T.astype(np.float32)
        if scaled and (image.dataobj.slope, image.dataobj.inter) != (1, 0):
            values *= np.float32(image.dataobj.slope)
            values += np.float32(image.dataobj.inter)
    return np.ascontiguousarray(values)


def origin_offset(image, like):
    """Distance in mm between two origins whose grids are otherwise the same; warns if not 0.

    Release 2 stores its betas with another origin than the masks, on the same grid. Voxel i,j,k
    is then the same place in both: match by index, never by millimetres.
    """
    offset = image.affine[:3, 3] - like.affine[:3, 3]
    if np.abs(offset).max() > 0.01:
        warnings.warn(
            f"betas and masks share a grid, but their origins differ by "
            f"{np.array2string(offset, precision=1)} mm; voxels are matched by index", stacklevel=3
        )  # fmt: skip
    return offset


# Raw runs --------------------------------------------------------------------------------


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
    low, high = min(0.0, float(np.min(bold))), max(0.0, float(np.max(bold)))
    if not np.isfinite([low, high]).all():
        raise DataError(f"{stem}: BOLD holds NaN or infinite values; expected finite ones")
    slope, middle = (high - low) / 65000 or 1.0, (high + low) / 2
    levels = np.rint((bold.T - np.float32(middle)) * np.float32(1 / slope)).astype(np.int16)
    box = np.full((int(np.prod(shape)), len(bold)), round(-middle / slope), np.int16, order="F")
    box[np.ravel_multi_index(ijk.T, shape, order="F")] = levels  # outside the brain: 0
    _save(
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
    image = _load(path)
    bold = _voxels(path, image, ijk, like)
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


# Release 2, whole brain ------------------------------------------------------------------


def write_r2_volumes(root, subject, values, ijk, session, stimuli, shape=None, kind="D",
                     origin=(0.0, 0.0, 0.0)):  # fmt: skip
    """Write whole-brain betas, one `CSI1_GLMbetas-..._ses-01.nii.gz` a session, NaN outside.

    Parameters
    ----------
    root : path
    subject : str
    values : (trials, voxels) array
        % signal change.
    ijk : (voxels, 3) int array
    session : (trials,) int array
    stimuli : list of str
        Picture of each trial; written to `CSI1_imgnames.txt`.
    shape : tuple of 3 int, optional
    kind : {"A", "B", "C", "D"}
    origin : tuple of 3 float
        Added to the affine's origin, in mm: the published betas and masks disagree there.
    """
    ijk, session = np.asarray(ijk), np.asarray(session)
    shape = tuple(ijk.max(0) + 1) if shape is None else shape
    affine = AFFINE.copy()
    affine[:3, 3] = origin
    for s in np.unique(session).tolist():
        box = np.full((*shape, int((session == s).sum())), np.nan, np.float32)
        box[tuple(ijk.T)] = values[session == s].T
        name = f"{subject}_GLMbetas-{R2_TYPES[kind]}_ses-{s:02d}.nii.gz"
        _save(Path(root, name), box, affine)
    write_lines(Path(root, f"{subject}_imgnames.txt"), stimuli)


def read_r2_volumes(root, subject, rois=ROIS, kind="D"):
    """Read release 2's whole-brain betas in the ROI masks, a session at a time.

    Returns
    -------
    Betas

    Raises
    ------
    DataError
        Missing or damaged files, other grids, or a session with another number of betas than
        of pictures.
    """
    stimuli, session, run, listed = read_stimuli(root, subject, *image_lists(subject))
    roi, ijk, like = read_masks(root, subject, rois)
    values = np.empty((len(stimuli), len(ijk)), np.float32)
    for s in np.unique(session).tolist():
        path = find_r2(root, "", subject, kind, f"ses-{s:02d}.nii.gz")
        image = _load(path)
        if s == 1:
            origin_offset(image, like)
        part = _voxels(path, image, ijk, like)
        if len(part) != (session == s).sum():
            raise DataError(
                f"{path}: {len(part)} betas, but {(session == s).sum()} pictures of session {s} in "
                f"{listed.name}; is one of them another subject's?"
            )
        part[:, (part == 0).all(0)] = np.nan  # not acquired
        values[session == s] = part
    return drop_voxels(Betas(values, roi, stimuli, session, run, subject))
