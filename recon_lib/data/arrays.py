"""Anybody's data: pictures, a (trials, voxels) array, and which trial showed which picture."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import pandas

from recon_lib.common.errors import DataError, as_numbers, check
from recon_lib.common.files import (
    arrays_in,
    find_array,
    read_array,
    read_dict,
    read_lines,
    read_table,
    values_of,
)
from recon_lib.data.pictures import picture_files, read_pictures, square_arrays
from recon_lib.data.splits import composed, plain_name

TABLES = (".csv", ".tsv", ".txt")
BETAS = ("betasmd", "modelmd", "betas", "values", "bold", "data", "X")  # GLMsingle's names first
NO_LABEL = ("", "nan", "n/a")
SESSIONS = ("session", "ses")
COLUMNS = {  # what the columns of people's tables are called
    "trial_image": ("trial_image", "stim_file", "imgname", "image", "picture", "stimulus", "stim",
                    "filename", "file", "name"),
    "groups": ("groups", "group", "category"),
    "runs": ("runs", "run"),
}


@dataclass
class ArrayData:
    """Pictures and responses that belong together.

    Attributes
    ----------
    images : (n, size, size, C) uint8 array
        Or, from `load_embedded`, (n, d) numbers.
    betas : (trials, voxels) float32 array
        As given: z-score them on training trials.
    trial_image : (trials,) int array
        Index into `images`.
    groups : (trials,) array
        What cross-validation keeps together; the picture unless something else was given.
    runs : (trials,) array or None
    voxels : (voxels,) int array
        Column of each kept voxel in the array given.
    report : tuple of str
        What was read, and how trials and pictures were paired: a line each.
    """

    images: np.ndarray
    betas: np.ndarray
    trial_image: np.ndarray
    groups: np.ndarray
    runs: np.ndarray | None
    voxels: np.ndarray
    report: tuple = ()


@dataclass
class Pictures:
    """Pictures of one size, and which they are."""

    images: np.ndarray  # (n, size, size, channels) uint8
    kept: np.ndarray  # (pictures,) bool: False where a file could not be read; not in `images`
    names: list | None = None  # paths inside the folder, for all of `kept`


@dataclass
class GLMsingle:
    """What GLMsingle left of a subject; voxels of a volume are in C order."""

    betas: np.ndarray  # (trials, voxels) float32, % signal change; NaN where a voxel has none
    hrf: np.ndarray | None  # (voxels,) index of each voxel's HRF in GLMsingle's library
    r2: np.ndarray | None  # (voxels,) variance explained, in percent


def load_pictures(source, size, channels=None):
    """Read a folder of pictures, an array file or an array as `Pictures`, `size` pixels square.

    `source` is a folder, a .npy, .npz, .mat or .h5 file (`file.npz:name` picks one array), or (n,
    H, W) or (n, H, W, C) numbers of any type (see `pictures.as_uint8`). `channels`: 1, 3, or None,
    which keeps grey as grey.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        paths = picture_files(source)
        names = [path.relative_to(source).as_posix() for path in paths]
        return Pictures(*read_pictures(paths, size, channels), names)
    if isinstance(source, str | Path):
        source = read_array(source, ("images", "stimuli", "stim"), ndim=(3, 4))
    images = square_arrays(source, size, channels)
    return Pictures(images, np.ones(len(images), bool))


def read_labels(source, what):
    """One label a trial, from a list, an array, a text file (one a line), a table or array file.

    They are a (trials,) array of what came: "3" in a text file is text.
    """
    if isinstance(source, str | Path):
        table = Path(source).suffix in TABLES
        source = _label_column(source, what) if table else read_array(source, COLUMNS[what],
                                                                      text=True)
    if np.ma.is_masked(source):
        raise DataError(f"{what}: {np.ma.count_masked(source)} entries are masked; expected a "
                        "label for each trial: leave those trials out")
    try:
        labels = np.asarray(source).squeeze()
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{what}: cannot be made an array; expected one entry for each trial"
                        ) from error
    if labels.ndim != 1 or labels.dtype.kind in "cV" or (
            labels.dtype == bool and what == "trial_image"):
        raise DataError(f"{what} of shape {labels.shape} and type {labels.dtype}; expected one "
                        "entry for each trial")
    labels = np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
    missing = pandas.isna(labels) | np.isin(np.char.lower(labels.astype(str)), NO_LABEL)
    if missing.any():
        raise DataError(f"{what}: {missing.sum()} of {labels.size} entries are missing; expected a "
                        "label for each trial: leave those trials out")
    text = labels.dtype.kind in "US" or any(isinstance(label, str | PurePath) for label in labels)
    return np.char.strip(labels.astype(str)) if text else labels  # MATLAB pads them


def _label_column(path, what):
    """The cells of a list, or of the one column of a table that holds these labels."""
    lines = read_lines(path)
    if Path(path).suffix == ".txt" and "\t" not in lines[0]:
        return np.array(lines[1:] if lines[0].lower() in COLUMNS[what] else lines)
    cells = [cell.strip('" ').lower() for cell in re.split("[\t;,]", lines[0])]
    known = [name for name in COLUMNS[what] if name in cells]
    table = read_table(path, bool(known) or cells[0] == "", dtype=str, keep_default_na=False)
    columns = [c for c in table if str(c).strip().lower() in known[:1]] or list(table)
    if known and cells.count(known[0]) > 1:
        raise DataError(f"{path}: {cells.count(known[0])} columns are called {known[0]}; expected "
                        "one: rename the others")
    if not known and len(columns) != 1:
        raise DataError(f"{path}: {len(columns)} columns; expected one, or a heading that calls "
                        f"one of them {what}")
    sessions = [c for c in table if str(c).strip().lower() in SESSIONS and what == "runs"]
    if len(cells) > 1:
        warnings.warn(f"{path}: {what} is column {columns[0]!r}"
                      + "".join(f" of each {name}" for name in sessions), stacklevel=4)
    for name in sessions:  # runs count from 1 anew in each
        both = table[[name, columns[0]]].apply(lambda cells: cells.str.strip())
        lacks = both.apply(lambda cells: cells.str.lower().isin(NO_LABEL)).any(axis=1)
        table[columns[0]] = (both[name] + " " + both[columns[0]]).mask(lacks, "")
    return table[columns[0]].str.strip().to_numpy(str)


def load_labels(source, what):
    """Labels as `read_labels` finds them: (trials,) int if all are whole numbers, else str."""
    labels = read_labels(source, what)
    try:
        numbers = labels.astype(float)
    except (TypeError, ValueError):
        return labels.astype(str)
    if not (np.isfinite(numbers) & (numbers == np.rint(numbers))).all():
        raise DataError(f"{what} holds numbers that are not whole; expected indices or names")
    merged = labels.dtype.kind == "U" and len(np.unique(numbers)) < len(np.unique(labels))
    return labels if merged else numbers.astype(int)  # "1" and "01" are two labels


def load_betas(source):
    """(trials, voxels) float32 from a file, GLMsingle's too, or array; infinities become NaN."""
    name = source if isinstance(source, str | Path) else "betas"
    source = values_of(source, name) if isinstance(source, pandas.DataFrame) else source
    if isinstance(source, str | Path) and Path(source).suffix not in TABLES:
        if _is_dict(Path(source)):
            return read_glmsingle(source).betas
        path, key = find_array(source, BETAS, ndim=(2, 4))
        if key.rpartition("/")[2] in BETAS[:2]:
            return read_glmsingle(path, key).betas
        if len(shape := arrays_in(path)[key][0]) != 2:  # NSD's have 4 axes and a gigabyte
            raise DataError(f"{path}: {key or 'betas'} of shape {tuple(shape)}; expected (trials, "
                            "voxels): choose the voxels first, docs/real_data.md has lines for it")
        source = f"{path}:{key}" if key else path
    betas = as_numbers(source if name == "betas" else read_array(source), str(name))
    if betas.ndim != 2 or 0 in betas.shape:
        raise DataError(
            f"{name}: {betas.dtype} of shape {betas.shape}; expected numbers (trials, voxels)")
    return _finite(betas)


def _finite(betas):
    """As float32; infinities become NaN, and what would become them or 0 is refused."""
    size = np.abs(betas[np.isfinite(betas) & (betas != 0)])
    if size.size and not 1e-15 < np.median(size) < 1e15:
        raise DataError(f"betas of about {np.median(size):.1g}; expected numbers between 1e-15 and "
                        "1e15: bring them to another unit, such as % signal change")
    with np.errstate(over="ignore"):
        betas = betas.astype(np.float32)
    betas[~np.isfinite(betas)] = np.nan
    return betas


def _is_dict(path):
    return path.suffix == ".npy" and arrays_in(path)[""] == ((), np.dtype(object))


def read_glmsingle(path, key=None):
    """Read a result of GLMsingle, its .npy, .hdf5 or .mat file of one of the types A to D.

    `key` is the name of the betas inside, by default `betasmd` (Python) or `modelmd` (MATLAB).
    """
    path = Path(path)
    if _is_dict(path):
        held = read_dict(path)
        found = [held.get(key) for key in (*BETAS[:2], "HRFindex", "R2")]
        found = [found[1] if found[0] is None else found[0], *found[2:]]
    else:
        key, held = key or find_array(path, BETAS[:2], ndim=(2, 4))[1], arrays_in(path)
        names = (key, *(f"{key[: key.rfind('/') + 1]}{name}" for name in ("HRFindex", "R2")))
        found = [read_array(f"{path}:{name}") if name in held else None for name in names]
    betas = as_numbers(found[0], f"{path}: betas")
    if betas.ndim not in (2, 4) or 0 in betas.shape:
        raise DataError(f"{path}: betas of shape {betas.shape}; expected (x, y, z, trials) or "
                        "(voxels, trials), as GLMsingle writes them")
    betas = _finite(betas.reshape(-1, betas.shape[-1]).T)
    return GLMsingle(betas, *(x if x is None else np.ravel(x) for x in found[1:]))


def drop_useless(betas):
    """Indices of the trials and of the voxels worth keeping; a warning says what is not."""
    trials = ((betas != 0) & ~np.isnan(betas)).any(axis=1)
    missing = np.isnan(betas[trials]).any(axis=0)
    constant = ~missing & (np.ptp(betas[trials], axis=0) == 0) if trials.any() else missing
    for bad, what in (
        (~trials, "trials dropped: 0 or no number in all voxels"),
        (missing, "voxels dropped: values missing (NaN)"),
        (constant, "voxels dropped: the same value in every trial"),
    ):
        if bad.any():
            warnings.warn(f"{bad.sum()} of {len(bad)} {what}", stacklevel=3)
    voxels = np.flatnonzero(~missing & ~constant)
    if not trials.any() or len(voxels) == 0:
        raise DataError(
            "betas: no voxel with finite, varying values is left; expected at least one")
    return np.flatnonzero(trials), voxels


def match_trials(labels, trials, pictures):
    """Index of the picture of each trial, from indices, from names, or from equal numbers.

    `labels` are those of `read_labels`, or None; `pictures` are `Pictures`. Text that fits names is
    taken for names, even if it looks like a number. It is a `DataError` if there are not as many
    labels as trials, a picture does not exist, a name fits two pictures, text could be names as
    well as other pictures' indices, indices may count from 1, or the pictures have more than one
    natural order.
    """
    count, names = len(pictures.kept), pictures.names
    if labels is None:
        if trials != count:
            raise DataError(
                f"{trials} trials but {count} pictures; give trial_image (--trials), the picture "
                "(index from 0, or file name) of each trial")
        return in_one_order(np.arange(trials), names)
    if len(labels) != trials:
        raise DataError(f"{trials} trials but {len(labels)} entries in trial_image; expected equal")
    unknown = []
    if labels.dtype.kind == "U" and names is not None:
        shown, unknown = _by_name(labels.tolist(), names)
        index = np.array([int(one) if one.isdecimal() else -1 for one in labels.tolist()])
        if not unknown and (index >= 0).all() and (index < count).all() and (index != shown).any():
            raise DataError(
                f"trial_image holds the text {labels[0]}, ..., which could be file names or "
                f"indices from 0; give names with their ending ({Path(names[shown[0]]).name}), "
                "or a list or .npy file of integers")
        if not unknown:
            return shown
    shown = load_labels(labels, "trial_image")
    if shown.dtype.kind == "i":
        return in_one_order(_from_zero(shown, count), names)
    if names is None:
        raise DataError(f"trial_image holds names ({shown[0]}), but the pictures are an array")
    raise DataError(f"trial_image: {len(unknown)} names without a picture, such as {unknown[0]}; "
                    f"expected names such as {names[0]}")


def _from_zero(shown, count):
    """Indices that are there and cannot be MATLAB's, which count from 1."""
    if shown.min() < 0 or shown.max() >= count:
        hint = "; count from 0, not from 1" if shown.max() == count else ""
        raise DataError(
            f"trial_image runs from {shown.min()} to {shown.max()}, but there are {count} "
            f"pictures (0 to {count - 1}){hint}")
    if shown.min() == 1:
        raise DataError(
            f"trial_image runs from 1 to {shown.max()} for {count} pictures: it may count from 1; "
            "expected indices from 0: subtract 1, or if it does, leave out the first picture, "
            "which no trial shows, and subtract 1")
    return shown


def in_one_order(shown, names):
    """Stop if indices mean other pictures when files are sorted as people and file lists do."""
    natural = sorted(range(len(names or [])), key=lambda i: [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", names[i].lower())])
    for one in shown.tolist() if names else []:
        if natural[one] != one:
            raise DataError(f"picture {one} could be {names[one]} (by letter) or "
                            f"{names[natural[one]]} (by number); expected one order: give the "
                            "names of the pictures in trial_image, or pad their numbers with 0")
    return shown


def _by_name(given, names):
    """Index of the picture of each name (-1: none), and the names without one.

    Folders before pictures, case and `rep_` are overlooked where the name as it stands is no
    picture's.
    """
    places, found, moved = {}, {}, {}
    for i, name in enumerate(names):
        path = PurePosixPath(composed(name))
        for key in {str(path), str(path.with_suffix("")), path.name, path.stem}:
            for spelt in (key, (key.lower(),)):  # the second: whatever its case
                places.setdefault(spelt, set()).add(i)
        places.setdefault(path, set()).add(i)  # its whole path can mean no other
    for label in dict.fromkeys(given):
        some, folder = _places_of(composed(label).split("/"), places)
        if len(some) > 1:
            one, other = (names[i] for i in sorted(some)[:2])
            raise DataError(f"trial_image: {label} could be {one} or {other}; give the path inside "
                            "the folder, with its ending")
        found[label] = index = min(some, default=-1)
        if folder and moved.setdefault(index, folder) != folder:
            raise DataError(f"trial_image: {label} and the same name in {moved[index]} are two "
                            "pictures, but the folder holds one; add the other")
    if moved:
        warnings.warn(f"trial_image: names matched without the folders before them "
                      f"({next(iter(moved.values()))}/...)", stacklevel=4)
    return np.array([found[label] for label in given], int), [k for k in found if found[k] < 0]


def _places_of(parts, places):
    """The pictures that a path may mean, and the folders that had to be left out before it."""
    for start in range(0 if ".." in parts else len(parts)):
        tail = "/".join(parts[start:])
        for name in (tail, plain_name(tail)):
            for key in (PurePosixPath(name), name, (name.lower(),)):
                if key in places:
                    return places[key], "/".join(parts[:start])
    return set(), ""


def load_trials(images: str | Path | np.ndarray, betas: str | Path | np.ndarray,
                trial_image: Any = None, groups: Any = None, runs: Any = None, size: int = 64,
                channels: int | None = None) -> ArrayData:
    """Bring anybody's pictures and responses into one shape, or say in one line why not.

    Parameters
    ----------
    images : path or array
        A folder of pictures of any kind, or an array or array file; see `load_pictures`.
    betas : path or array
        (trials, voxels): .npy, .npz, .mat, .h5, .csv, GLMsingle's own files, or an array.
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

    Raises
    ------
    DataError
        Numbers that disagree, files that cannot be read, nothing left to use.

    Warns
    -----
    UserWarning
        For pictures skipped, trials and voxels dropped, and all that was assumed.
    """
    return paired(load_pictures(images, size, channels), images, betas, trial_image, groups, runs)


def load_embedded(features: str | Path | np.ndarray, betas: str | Path | np.ndarray,
                  trial_image: Any = None, groups: Any = None) -> ArrayData:
    """`load_trials` with a vector for each picture, such as CLIP's embedding, and no picture.

    Parameters
    ----------
    features : path or array
        (pictures, d): .npy, .npz, .mat, .h5 or a table, or an array.
    betas, trial_image, groups
        As for `load_trials`; pictures are named by their row, from 0.

    Returns
    -------
    ArrayData
        Its `images` are the vectors.
    """
    vectors = features
    if isinstance(features, str | Path):
        vectors = read_array(features, ("features", "embeddings"), ndim=(2,))
    vectors = check(vectors, ("pictures", "d"), what="the features")
    whole = Pictures(vectors, np.ones(len(vectors), bool))
    return paired(whole, features, betas, trial_image, groups, None)


def paired(pictures, source, betas, trial_image, groups, runs):
    """Pictures and responses in one shape; `source` is where the pictures are from."""
    values = load_betas(betas)
    trials = len(values)
    labels = None if trial_image is None else read_labels(trial_image, "trial_image")
    told = len(pictures.kept if labels is None else labels)
    if told == values.shape[1] != trials:
        raise DataError(f"betas of shape {values.shape} for {told} trials; expected (trials, "
                        "voxels): they look transposed, turn them round")
    shown = match_trials(labels, trials, pictures)
    groups = shown if groups is None else load_labels(groups, "groups")
    runs = None if runs is None else load_labels(runs, "runs")
    for what, given in (("groups", groups), ("runs", runs)):
        if given is not None and len(given) != trials:
            raise DataError(f"{trials} trials but {len(given)} {what}; expected equal")
    useful, voxels = drop_useless(values)
    seen = pictures.kept[shown[useful]]
    if not seen.all():
        warnings.warn(f"{(~seen).sum()} of {trials} trials dropped: their picture cannot be read",
                      stacklevel=3)
        useful = useful[seen]
    if len(useful) < 2:
        raise DataError(f"{len(useful)} usable trials; expected two or more")
    index = (np.cumsum(pictures.kept) - 1)[shown]  # among those that could be read
    first, names = shown[useful[0]], pictures.names
    report = (
        f"betas: {len(useful)} of {trials} trials, {len(voxels)} of {values.shape[1]} voxels"
        + (f", from {betas}" if isinstance(betas, str | Path) else ""),
        f"pictures: {len(pictures.images)} of {len(pictures.kept)}"
        + (f", from {source}" if isinstance(source, str | Path) else "")
        + f"; {len(np.unique(index[useful]))} were shown; the first trial saw "
        + (names[first] if names else f"picture {first}"),
    )
    groups = index if groups is shown else groups
    return ArrayData(pictures.images, values[np.ix_(useful, voxels)], index[useful],
                     groups[useful], None if runs is None else runs[useful], voxels, report)
