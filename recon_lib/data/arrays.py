"""Anybody's data: pictures, a (trials, voxels) array, and which trial showed which picture."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon_lib.common.errors import DataError
from recon_lib.common.files import arrays_in, read_array, read_lines
from recon_lib.data.pictures import picture_files, read_pictures, square_arrays
from recon_lib.data.splits import plain_name


@dataclass
class ArrayData:
    """Pictures and responses that belong together.

    Attributes
    ----------
    images : (n, size, size, C) uint8 array
    betas : (trials, voxels) float32 array
        As given: z-score them on training trials.
    trial_image : (trials,) int array
        Index into `images`.
    groups : (trials,) array
        What cross-validation keeps together; the picture unless something else was given.
    runs : (trials,) array or None
    voxels : (voxels,) int array
        Column of each kept voxel in the array given.
    """

    images: np.ndarray
    betas: np.ndarray
    trial_image: np.ndarray
    groups: np.ndarray
    runs: np.ndarray | None
    voxels: np.ndarray


def load_pictures(source, size, channels=None):
    """Read a folder of pictures, an array file or an array, as squares of one size.

    Parameters
    ----------
    source : path or array
        A folder; a .npy, .npz, .mat or .h5 file (`file.npz:name` picks one array); or
        (n, H, W) or (n, H, W, C) numbers of any type (see `recon_lib.data.pictures.as_uint8`).
    size : int
        Side in pixels.
    channels : {None, 1, 3}
        None keeps grey as grey.

    Returns
    -------
    images : (n, size, size, channels) uint8 array
    kept : (pictures,) bool array
        False where a file of the folder could not be read: it is not among `images`.
    names : list of str, or None
        File names inside the folder.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        paths = picture_files(source)
        images, kept = read_pictures(paths, size, channels)
        return images, kept, [path.relative_to(source).as_posix() for path in paths]
    if isinstance(source, str | Path):
        source = read_array(source, ("images", "stimuli", "stim"), ndim=(3, 4))
    images = square_arrays(source, size, channels)
    return images, np.ones(len(images), bool), None


def read_labels(source, what):
    """One label a trial, from a list, an array, a text file (one a line) or an array file.

    Returns
    -------
    (trials,) array
        As they came: "3" in a text file is text.
    """
    if isinstance(source, str | Path):
        text = Path(source).suffix in (".txt", ".csv", ".tsv")
        if text:
            source = [line.split(",")[-1].split("\t")[-1].strip() for line in read_lines(source)]
        elif Path(source).suffix == ".npy" and arrays_in(source)[""][1].kind in "US":
            source = np.load(source, allow_pickle=False)
        else:
            source = read_array(source, (what,))
    labels = np.asarray(source).squeeze()
    if labels.ndim != 1:
        raise DataError(f"{what} of shape {labels.shape}; expected one entry for each trial")
    return labels


def load_labels(source, what):
    """Labels as `read_labels` finds them: (trials,) int if all are whole numbers, else str."""
    labels = read_labels(source, what)
    try:
        numbers = labels.astype(float)
    except ValueError:
        return labels.astype(str)
    if not (np.isfinite(numbers) & (numbers == np.rint(numbers))).all():
        raise DataError(f"{what} holds numbers that are not whole; expected indices or names")
    return numbers.astype(int)


def load_betas(source):
    """Read a (trials, voxels) array from a file or array, as float32; infinities become NaN."""
    name = source if isinstance(source, str | Path) else "betas"
    if isinstance(source, str | Path):
        source = read_array(source, ("betas", "values", "bold", "data", "X"), ndim=(2,))
    betas = np.asarray(source)
    if betas.ndim != 2 or 0 in betas.shape or betas.dtype.kind not in "uifb":
        raise DataError(
            f"{name}: {betas.dtype} of shape {betas.shape}; expected numbers (trials, voxels)"
        )
    betas = betas.astype(np.float32)
    betas[~np.isfinite(betas)] = np.nan
    return betas


def drop_useless(betas):
    """Find trials without any value, then voxels with a missing or a constant value; say how many.

    Returns
    -------
    trials, voxels : int arrays
        Those worth keeping.
    """
    trials = ~np.isnan(betas).all(axis=1)
    missing = np.isnan(betas[trials]).any(axis=0)
    constant = ~missing & (np.ptp(betas[trials], axis=0) == 0) if trials.any() else missing
    for count, of, what in (
        ((~trials).sum(), len(trials), "trials dropped: no values at all"),
        (missing.sum(), len(missing), "voxels dropped: values missing (NaN)"),
        (constant.sum(), len(constant), "voxels dropped: the same value in every trial"),
    ):
        if count:
            warnings.warn(f"{int(count)} of {of} {what}", stacklevel=3)
    voxels = np.flatnonzero(~missing & ~constant)
    if not trials.any() or len(voxels) == 0:
        raise DataError(
            "betas: no voxel with finite, varying values is left; expected at least one"
        )
    return np.flatnonzero(trials), voxels


def named_places(names):
    """Which pictures a name may mean: its whole path only one, other keys maybe several.

    Returns
    -------
    dict of str to set of int
        By path, path without ending, file name, and file name without ending.
    """
    places = {}
    for i, name in enumerate(names):
        path = Path(name)
        for key in {path.with_suffix("").as_posix(), path.name, path.stem}:
            places.setdefault(key, set()).add(i)
    return places | {name: {i} for i, name in enumerate(names)}


def match_trials(trial_image, trials, pictures, names):
    """Index of the picture of each trial, from indices, from names, or from equal numbers.

    Text that fits names is taken for names, even if it looks like a number.

    Raises
    ------
    DataError
        If there are not as many as trials, a picture does not exist, a name fits two pictures, or
        text could be names as well as other pictures' indices.
    """
    if trial_image is None:
        if trials != pictures:
            raise DataError(
                f"{trials} trials but {pictures} pictures; give trial_image, the picture (index "
                "from 0, or file name) of each trial"
            )
        return np.arange(trials)
    given = read_labels(trial_image, "trial_image")
    if len(given) != trials:
        raise DataError(f"{trials} trials but {len(given)} entries in trial_image; expected equal")
    text = given.dtype.kind in "US" or any(isinstance(label, str) for label in given)
    given = given.astype(str) if text else given
    plain = [plain_name(str(label)) for label in given.tolist()]
    places = named_places(names or [])
    if text and set(plain) <= places.keys():
        shown = _by_name(plain, places, names)
        index = np.array([int(label) if label.isdecimal() else -1 for label in given.tolist()])
        if (index >= 0).all() and (index < pictures).all() and (index != shown).any():
            raise DataError(
                f"trial_image holds the text {plain[0]}, ..., which could be file names or indices "
                f"from 0; give names with their ending ({Path(names[shown[0]]).name}), or a list "
                "or .npy file of integers"
            )
        return shown
    shown = load_labels(given, "trial_image")
    if shown.dtype.kind == "i":
        if shown.min() < 0 or shown.max() >= pictures:
            hint = "; count from 0, not from 1" if shown.max() == pictures else ""
            raise DataError(
                f"trial_image runs from {shown.min()} to {shown.max()}, but there are {pictures} "
                f"pictures (0 to {pictures - 1}){hint}"
            )
        return shown
    if names is None:
        raise DataError(f"trial_image holds names ({shown[0]}), but the pictures are an array")
    unknown = sorted(set(plain) - places.keys())
    raise DataError(f"trial_image: {len(unknown)} names without a picture, such as {unknown[0]}")


def _by_name(plain, places, names):
    for name in plain:
        if len(places[name]) > 1:
            one, other = (names[i] for i in sorted(places[name])[:2])
            raise DataError(f"trial_image: {name} could be {one} or {other}; give the path inside "
                            "the folder, with its ending")
    return np.array([min(places[name]) for name in plain], int)


def load_trials(images, betas, trial_image=None, groups=None, runs=None, size=64, channels=None):
    """Bring anybody's pictures and responses into one shape, or say in one line why not.

    Parameters
    ----------
    images : path or array
        A folder of pictures of any kind, or an array or array file; see `load_pictures`.
    betas : path or array
        (trials, voxels): .npy, .npz, .mat, .h5, .csv, or an array.
    trial_image : list, array or path, optional
        Picture of each trial: index from 0, or file name, with or without its folder and ending.
        Default: trial i saw picture i.
    groups, runs : list, array or path, optional
        One label a trial: what cross-validation keeps together (default: the picture), and
        the run, within which betas may be z-scored.
    size : int
        Side of the square pictures in pixels.
    channels : {None, 1, 3}
        None keeps grey as grey.

    Returns
    -------
    ArrayData

    Raises
    ------
    DataError
        Numbers that disagree, files that cannot be read, nothing left to use.

    Warns
    -----
    UserWarning
        For pictures skipped, and trials and voxels dropped, with their number.
    """
    pictures, kept, names = load_pictures(images, size, channels)
    betas = load_betas(betas)
    trials = len(betas)
    shown = match_trials(trial_image, trials, len(kept), names)
    labels = {"groups": groups, "runs": runs}
    for what, source in labels.items():
        labels[what] = None if source is None else load_labels(source, what)
        if source is not None and len(labels[what]) != trials:
            raise DataError(f"{trials} trials but {len(labels[what])} {what}; expected equal")
    useful, voxels = drop_useless(betas)
    seen = kept[shown[useful]]
    if not seen.all():
        warnings.warn(
            f"{int((~seen).sum())} of {trials} trials dropped: their picture cannot be read",
            stacklevel=2,
        )
        useful = useful[seen]
    if len(useful) < 2:
        raise DataError(f"{len(useful)} usable trials; expected two or more")
    shown = (np.cumsum(kept) - 1)[shown[useful]]
    groups = shown if groups is None else labels["groups"][useful]
    runs = None if runs is None else labels["runs"][useful]
    return ArrayData(pictures, betas[np.ix_(useful, voxels)], shown, groups, runs, voxels)
