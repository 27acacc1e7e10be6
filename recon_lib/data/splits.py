"""Which trials train and which test; and a guard against the same picture in both.

Two showings of one picture never stand on both sides: a decoder that has seen the picture
once need not read the brain the second time.
"""

import hashlib
import unicodedata
from typing import Any

import numpy as np

from recon_lib.common.errors import DataError, as_numbers, one_label_each


def plain_name(name):
    """Strip the `rep_` that BOLD5000's lists put before a picture shown again."""
    return name.removeprefix("rep_")


def composed(name):
    """A path as all systems spell it: `/` between folders, an accent joined to its letter (NFC)."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def split_by_group(groups, test_groups):
    """Indices of training and test trials, every trial of `test_groups` being test.

    `groups` (trials,) holds the picture, category or run of each. An empty side is a `DataError`.
    """
    labels, wanted = one_label_each(groups).tolist(), set(test_groups)
    held = np.array([label in wanted for label in labels], bool)
    if held.all() or not held.any():
        raise DataError(
            f"a split with {int((~held).sum())} training and {int(held.sum())} test trials; "
            "expected some of both: do the test names occur in the data?")
    return np.flatnonzero(~held), np.flatnonzero(held)


def some_categories(categories, fraction=0.1, seed=0):
    """A random share of the categories (of each trial), never "" (no single category, as in COCO).

    At least one is held out, and not all; fewer than two, or a share not between 0 and 1, is a
    `DataError`.
    """
    names = np.unique([c for c in one_label_each(categories).tolist() if c != ""])
    if not 0 < fraction < 1:
        raise DataError(f"a share of {fraction} to hold out; expected more than 0 and less than 1")
    if len(names) < 2:
        raise DataError(f"{len(names)} group(s) to split; expected two or more")
    count = min(len(names) - 1, max(1, round(fraction * len(names))))
    return np.random.default_rng(seed).permutation(names)[:count].tolist()


def folds(groups: Any, k: int | None = None, seed: int = 0) -> list[np.ndarray]:
    """Cross-validation that keeps groups whole.

    Parameters
    ----------
    groups : (trials,) array or list
        Picture, category or run of each trial.
    k : int, optional
        Number of folds; default: leave one group out, in sorted order.
    seed : int
        Which groups share a fold when there are fewer folds than groups.

    Returns
    -------
    list of (train, test) index arrays
        Every trial is test exactly once.
    """
    names = np.unique(one_label_each(groups))
    k = len(names) if k is None else k
    if not 2 <= k <= len(names):
        raise DataError(f"{k} folds of {len(names)} groups; expected 2 or more groups, and 2 folds "
                        "up to as many")
    if k < len(names):
        names = np.random.default_rng(seed).permutation(names)
    return [split_by_group(groups, part.tolist()) for part in np.array_split(names, k)]


def fingerprints(images):
    """Hash each picture (n, H, W, C): equal pixels, equal fingerprint, whatever name or type."""
    marks = []
    for image in images:
        image = as_numbers(image, "a picture")
        if image.dtype != np.uint8:
            with np.errstate(invalid="ignore"):  # a cast of NaN
                whole = image.astype(np.uint8)
            image = whole if np.array_equal(whole, image) else image.astype(float)
        marks.append(hashlib.sha1(np.ascontiguousarray(image)).hexdigest())
    return marks


def refuse_leak(train: Any, test: Any) -> None:
    """Stop when something tested was also trained on.

    Parameters
    ----------
    train, test : sequences of str, or (n, H, W, C) arrays or tensors
        Picture names (`rep_` is ignored) or the pictures themselves, compared by pixels; a copy
        from 0 to 1 or from −1 to 1 is known again.

    Raises
    ------
    DataError
        With the number of pictures on both sides, and one of them; or if pictures cannot be
        compared, being of two shapes.
    """
    if not any(np.ndim(next(iter(side), "")) for side in (train, test)):
        train = [plain_name(str(name)) for name in train]
        _refuse_shared(train, [plain_name(str(name)) for name in test])
        return
    train, test = ([as_numbers(image, "a picture") for image in side] for side in (train, test))
    shapes = {image.shape for image in train + test}
    if len(shapes) > 1:
        raise DataError(f"pictures of shapes {', '.join(map(str, sorted(shapes)[:3]))} cannot be "
                        "compared: bring all to one size and order of axes")
    scales = [(train, test)]
    if any(image.dtype != np.uint8 for image in train + test):
        scales.append((_to_255(train), _to_255(test)))
    for one, other in scales:
        names = [f"test picture {i}" for i in range(len(test))]
        _refuse_shared(fingerprints(one), fingerprints(other), names)


def _to_255(images):
    """Pictures of a set from 0 to 1 or from -1 to 1 brought to 0-255; a set of others as it is."""
    low = min((image.min(initial=0) for image in images), default=0)
    high = max((image.max(initial=0) for image in images), default=0)
    if low < -1 or high > 1:
        return images
    scaled = (image * 255.0 if low >= 0 else (image + 1) * 127.5 for image in images)
    return (np.where(abs(x - np.rint(x)) < 0.1, np.rint(x), x) for x in scaled)  # float16: .06


def refuse_divided(groups, image):
    """Stop if a picture has trials in several groups: with one held out, it would train."""
    pairs = {(one, i) for one, i in zip(np.asarray(groups).tolist(), image.tolist(), strict=True)}
    shown = {i for _, i in pairs}
    if len(pairs) > len(shown):
        raise DataError(
            f"{len(pairs) - len(shown)} showings of the {len(shown)} pictures are in another group "
            "(run) than the first, so a picture held out would be trained on; leave out groups and "
            "runs, and pictures are held out, or give groups that hold all showings of theirs")


def _refuse_shared(train, test, names=None):
    where = dict(reversed(list(zip(test, names or test, strict=True))))
    both = where.keys() & set(train)
    if both:
        raise DataError(f"{len(both)} of {len(where)} test pictures are in the training set too "
                        f"({where[min(both)]}, ...); split by picture, not by trial")
