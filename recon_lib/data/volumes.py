"""BOLD5000's volumes: ROI masks, and release 2's whole-brain betas.

Grids of the published volumes, in voxels of 2 mm: CSI1 71x89x72, CSI2 72x92x70, CSI3 72x88x67,
CSI4 70x89x70.
"""

import gzip
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np

from recon_lib.common.errors import DataError, atomic_write
from recon_lib.common.files import check_size, find, readable
from recon_lib.data.bold5000 import (
    R2_TYPES,
    ROIS,
    Betas,
    drop_voxels,
    empty_rows,
    find_r2,
    refuse_missing,
    roi_keys,
)
from recon_lib.data.stimuli import image_lists, read_stimuli, write_lines

MISNAMED = {  # published under these names
    ("CSI2", "LHLOC"): "LHLO",
    ("CSI2", "RHLOC"): "RHLO",
    ("CSI2", "RHRSC"): "RHRRSC",
    ("CSI3", "LHLOC"): "LHLO",
    ("CSI3", "RHLOC"): "RHLO",
}
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])  # 2 mm voxels


@dataclass
class Masks:
    """Where the voxels of some regions lie."""

    roi: np.ndarray  # (voxels,) str, in the order asked for, left before right
    ijk: np.ndarray  # (voxels, 3) int
    image: nibabel.Nifti1Image  # the first mask: its grid and affine
    # Whether another origin of a volume on this grid is overlooked, with a warning: release 2's
    # brain mask and betas have another than the masks of regions, on the same grid.
    by_index: bool = False
    path: Path | None = None  # the file of the whole brain's


def compact_box(voxels):
    """Places (voxels, 3) for voxels that have none: the smallest cube, filled in order."""
    side = int(np.ceil(voxels ** (1 / 3) - 1e-9))
    return np.stack(np.unravel_index(np.arange(voxels), (side,) * 3), 1)


def save_volume(path, array, affine=AFFINE, tr=None, scaling=None):
    """Write a volume; `scaling` (slope, intercept) says what its integers stand for."""
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    if tr is not None:
        image.header["pixdim"][4] = tr
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    with atomic_write(path) as partial:
        image.to_filename(partial)


def save_map(path, values, masks):
    """Write one number a voxel as a volume, NaN elsewhere."""
    box = np.full(masks.image.shape[:3], np.nan, np.float32)
    box[tuple(np.transpose(masks.ijk))] = values
    save_volume(path, box, masks.image.affine)


def load_volume(path: str | Path):
    """Open a NIfTI file; a compressed one is unpacked to its end, where its checksum stands."""
    with readable(path):
        image = nibabel.load(path)
        if not isinstance(image, nibabel.spatialimages.SpatialImage):
            raise DataError(f"{path}: a {type(image).__name__}; expected a volume, such as NIfTI: "
                            "surfaces are not read")
        if image.get_data_dtype().kind not in "biuf":
            raise DataError(f"{path}: holds values of type {image.get_data_dtype()}; expected real "
                            "numbers: keep the magnitude, or one channel")
        if Path(path).suffix != ".gz":
            return image
        check_size(path, image.shape, image.get_data_dtype())
        size = image.dataobj.offset + image.dataobj.dtype.itemsize * int(np.prod(image.shape))
        with gzip.open(path) as stream:
            whole = stream.read(size)
            while stream.read(2**20):  # whatever follows: not kept
                pass
        return type(image).from_bytes(whole)


def mask_path(subject: str, key: str):
    """Published place of an ROI mask, misnamed where the release misnames it."""
    key = MISNAMED.get((subject, key), key)
    return f"derivatives/spm/sub-{subject}/sub-{subject}_mask-{key}.nii.gz"


def write_masks(root, subject, roi, ijk, shape=None):
    """Write one mask a region, and `CSI1_brainmask.nii.gz`, on the smallest grid that holds `ijk`.

    `shape` asks for another grid. A voxel outside it, or twice in one region, is a `DataError`.
    """
    roi, ijk = np.asarray(roi), np.asarray(ijk)
    shape = _grid(ijk, shape)
    if len(roi) != len(ijk):
        raise DataError(f"{len(roi)} regions for {len(ijk)} voxels; expected one for each")
    places = np.column_stack([np.unique(roi, return_inverse=True)[1], ijk])
    copies = len(places) - len(np.unique(places, axis=0))
    if copies:
        raise DataError(f"{copies} voxels lie where another of the same region lies; expected each "
                        "voxel once, leave out the copies")
    brain = np.zeros(shape, np.uint8)
    for key in np.unique(roi).tolist():
        mask = np.zeros(shape, np.uint8)
        mask[tuple(ijk[roi == key].T)] = 1
        brain |= mask
        save_volume(Path(root, mask_path(subject, key)), mask)
    save_volume(Path(root, f"{subject}_brainmask.nii.gz"), brain)


def _grid(ijk, shape=None):
    """The grid, by default the smallest that holds all voxels; stop where one lies outside."""
    if ijk.ndim != 2 or ijk.shape[1] != 3 or ijk.dtype.kind not in "iu" or len(ijk) == 0:
        raise DataError(f"places of shape {ijk.shape} and type {ijk.dtype}; expected (voxels, 3) "
                        "whole numbers")
    shape = tuple(ijk.max(0) + 1) if shape is None else shape
    if (ijk < 0).any() or (ijk >= shape).any():  # NumPy would count -1 from the end
        raise DataError(f"a voxel lies at {ijk[((ijk < 0) | (ijk >= shape)).any(1)][0].tolist()}; "
                        f"expected places in a grid of {[int(n) for n in shape]}, from 0")
    return shape


def read_masks(root: str | Path, subject: str, rois: Sequence[str] = ROIS):
    """Read the masks of some regions, both hemispheres, as `Masks`."""
    names, places, first = [], [], None
    for key in roi_keys(rois):
        path = find(root, mask_path(subject, key),  # somebody may have renamed the misnamed ones
                    f"derivatives/spm/sub-{subject}/sub-{subject}_mask-{key}.nii.gz")
        image, ijk = _mask(path, key)
        first = image if first is None else first
        if image.shape != first.shape or not np.allclose(image.affine, first.affine, atol=0.01):
            raise DataError(f"{path}: grid {image.shape} at {_origin(image)}, the other masks have "
                            f"{first.shape} at {_origin(first)}; expected one grid")
        names.append(np.full(len(ijk), key))
        places.append(ijk)
    return Masks(np.concatenate(names), np.concatenate(places), first)


def read_brain_mask(root, subject):
    """Read release 2's mask of the whole brain, as `Masks` with one region, "brain"."""
    path = find(root, f"{subject}_brainmask.nii.gz")
    image, ijk = _mask(path, "the brain")
    return Masks(np.full(len(ijk), "brain"), ijk, image, by_index=True, path=path)


def _mask(path, what):
    """A mask, and the places (voxels, 3) where it is 1, at least one."""
    image = nibabel.squeeze_image(load_volume(path))
    ijk = np.argwhere(inside(path, image))
    if len(ijk) == 0:
        raise DataError(f"{path}: an empty mask; expected the voxels of {what}, fetch it again")
    return image, ijk


def _origin(image):
    return f"{np.round(image.affine[:3, 3], 1).tolist()} mm"


def inside(path, image):
    """Where a mask is 1; an interpolated one counts from one half on, labels are refused."""
    with readable(path):
        values = np.nan_to_num(np.asanyarray(image.dataobj).astype(np.float32))
    if values.ndim != 3:
        raise DataError(f"{path}: shape {values.shape}; expected a mask of one volume")
    found = np.unique(values)
    if len(found) <= 2 and found[0] == 0 or found.tolist() == [1]:
        return values > 0
    if found[0] < -0.2 or found[-1] > 1.2:
        raise DataError(f"{path}: values from {found[0]:.4g} to {found[-1]:.4g}; expected a mask "
                        "of 0 and 1: choose one label")
    warnings.warn(f"{path}: an interpolated mask; voxels of one half and more are taken",
                  stacklevel=3)
    return values >= 0.5


def refuse_empty(path, bold, kept=None):
    """Stop where a run (volumes, voxels), or a whole volume of those kept, holds nothing."""
    kept = np.ones(len(bold), bool) if kept is None else kept
    empty = np.flatnonzero(empty_rows(bold) & kept)
    if len(empty):
        raise DataError(f"{path}: {len(empty)} of {len(bold)} volumes are empty (0 or no number in "
                        f"all {bold.shape[1]} voxels), the first at index {empty[0]}; fetch or "
                        "make the run again, or leave those volumes out")
    bold = bold[kept]
    varies = np.isfinite(bold).all(0) & (np.ptp(bold, axis=0) > 0)
    if not varies.any():
        raise DataError(f"{path}: none of {bold.shape[1]} voxels varies and is a number in all "
                        "volumes; expected BOLD: fetch or make the run again")
    mean, sd = (np.median(one(0)[varies]) for one in (bold.mean, bold.std))
    if not mean > sd:
        raise DataError(f"{path}: the median voxel has a mean of {mean:.3g} and a standard "
                        f"deviation of {sd:.3g}; percent signal change needs a baseline above "
                        "that: give a run that is not demeaned")


def voxels_at(path, image, masks):
    """Values (volumes, voxels) of a 4-D image in the masks, wherever its axes lead.

    The image (x, y, z, volumes) is on the grid of the masks; axes may run the other way or be
    swapped. Another grid, or another place of it, is a `DataError`.
    """
    ijk = _places_in(path, image, masks)
    check_size(path, image.shape, np.float32)
    with readable(path):  # integers are scaled after selecting: less memory, less time
        scaled = hasattr(image.dataobj, "get_unscaled")
        data = image.dataobj.get_unscaled() if scaled else np.asarray(image.dataobj)
        flat = np.ravel_multi_index(ijk.T, image.shape[:3], order="F")
        values = data.reshape(-1, data.shape[3], order="F")[flat].T.astype(np.float32)
        if scaled and (image.dataobj.slope, image.dataobj.inter) != (1, 0):
            values *= np.float32(image.dataobj.slope)
            values += np.float32(image.dataobj.inter)
    return np.ascontiguousarray(values)


def _places_in(path, image, masks):
    """Index (voxels, 3) of the masks' voxels in another image, by millimetres."""
    if image.ndim != 4:
        raise DataError(f"{path}: shape {image.shape}; expected volumes over time, (x, y, z, time)")
    like, shape = masks.image, np.array(image.shape[:3])
    with readable(path):  # an affine may have no inverse
        step = np.linalg.inv(image.affine) @ like.affine  # from the masks' indices to the image's
    axes = np.rint(step[:3, :3])
    known = any(int(image.header[code]) for code in ("sform_code", "qform_code"))
    axes = axes if known else np.eye(3)
    same = np.array_equal(abs(axes) @ np.ones(3), np.ones(3)) and abs(np.linalg.det(axes)) == 1
    if not same or not np.array_equal(abs(axes) @ like.shape, shape) or (
            known and np.abs(step[:3, :3] - axes).max() * max(shape) > 0.5):
        raise DataError(
            f"{path}: grid {image.shape[:3]}, the masks have {like.shape}"
            f"{'' if tuple(shape) != like.shape else ' of other axes'}; they fit volumes in "
            "the subject's T1w space (fMRIPrep's space-T1w runs, release 2 betas)")
    start = np.where(axes.sum(1) < 0, shape - 1, 0)  # where index 0 of the masks lies
    offset = (image.affine @ [*start, 1] - like.affine @ [0, 0, 0, 1])[:3]  # mm
    if known and not masks.by_index and np.abs(step[:3, 3] - start).max() > 0.5:
        raise DataError(f"{path}: the masks' grid, but {np.array2string(offset, precision=1)} mm "
                        "away; expected volumes in their place: resample them to the masks")
    if not known or np.abs(offset).max() > 0.01:
        what = (f"their origins differ by {np.array2string(offset, precision=1)} mm" if known
                else f"{path} says nothing of its orientation")
        warnings.warn(f"betas and masks share a grid, but {what}; voxels are matched by index",
                      stacklevel=4)
    return (masks.ijk @ axes.T + start).astype(int)


def write_r2_volumes(root, betas, ijk, shape=None, kind="D", origin=(0.0, 0.0, 0.0)):
    """Write whole-brain betas, one `CSI1_GLMbetas-..._ses-01.nii.gz` a session, NaN outside.

    Pictures are written to `CSI1_imgnames.txt`. `origin` is added to the affine's origin, in mm:
    the published betas and masks disagree there.
    """
    ijk = np.asarray(ijk)
    shape, affine = _grid(ijk, shape), AFFINE.copy()
    affine[:3, 3] = origin
    for s in np.unique(betas.session).tolist():
        mine = betas.values[betas.session == s]
        box = np.full((*shape, len(mine)), np.nan, np.float32)
        box[tuple(ijk.T)] = mine.T
        name = f"{betas.subject}_GLMbetas-{R2_TYPES[kind]}_ses-{s:02d}.nii.gz"
        save_volume(Path(root, name), box, affine)
    write_lines(Path(root, f"{betas.subject}_imgnames.txt"), betas.stimuli)


def read_r2_volumes(root, subject, rois=ROIS, kind="D"):
    """Read release 2's whole-brain betas in the ROI masks, a session at a time, as `Betas`.

    Files that are missing, damaged or on other grids, or a session with another number of betas
    than of pictures, are a `DataError`.
    """
    trials = read_stimuli(root, subject, *image_lists(subject))
    masks = replace(read_masks(root, subject, rois), by_index=True)
    values = np.empty((len(trials.stimuli), len(masks.ijk)), np.float32)
    for s in np.unique(trials.session).tolist():
        path = find_r2(root, "", subject, kind, f"ses-{s:02d}.nii.gz")
        image, mine = load_volume(path), trials.session == s
        with warnings.catch_warnings():
            if s != trials.session[0]:  # said once: all sessions are alike
                warnings.simplefilter("ignore")
            part = voxels_at(path, image, masks)
        if len(part) != mine.sum():
            raise DataError(
                f"{path}: {len(part)} betas, but {mine.sum()} pictures of session {s} in "
                f"{trials.path.name}; is one of them another subject's?")
        refuse_missing(path, part)
        part[:, (part == 0).all(0)] = np.nan  # not acquired
        values[mine] = part
    return drop_voxels(
        Betas(values, masks.roi, trials.stimuli, trials.session, trials.run, subject, path))
