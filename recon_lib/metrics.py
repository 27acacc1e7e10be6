"""How much of a picture came back: pixel scores, memorisation, and all scores as one table."""

from functools import partial

import numpy as np
import torch

from recon_lib.encoding import square_distances
from recon_lib.errors import DataError, as_numbers
from recon_lib.features import load_factor_net, read_factors
from recon_lib.identification import (
    permutation_p,
    similarity,
    top_k,
    two_way,
    two_way_within,
    unit_rows,
)
from recon_lib.referee import load_referee

READ = {"object": "kind", "background": "background", "light": "light"}  # what the readers name
SECOND = "_referee"  # ends the name of what the referee reads; without it, the judge
METRICS = ("top1", "two_way", "p_value", "two_way_within_category", "p_within_category",
           "two_way_within_scene", "pixcorr", "ssim", *READ, *(name + SECOND for name in READ),
           "nearest_train", "variance")


def pixel_correlation(reconstructions, truth):
    """Correlate the pixels of each reconstruction with those of its picture.

    Parameters
    ----------
    reconstructions, truth : array_like (n, H, W, C)
        Of one shape; uint8 or float on any scale.

    Returns
    -------
    ndarray (n,)
        Pearson's r over pixels and channels; 0 where either picture is constant.
    """
    a, b = _same_shape(reconstructions, truth)
    return (unit_rows(a) * unit_rows(b)).sum(1)


def ssim(reconstructions, truth):
    """Structural similarity of each reconstruction with its picture (Wang et al. 2004).

    Gaussian window of 11 pixels, σ = 1.5, K = (.01, .03), averaged where the window lies inside
    the picture. Unrelated pictures do not score 0: show the mean image and the shuffled
    brain beside it.

    Parameters
    ----------
    reconstructions, truth : array_like (n, H, W, C)
        Values from 0 to 255; H and W at least 11.

    Returns
    -------
    ndarray (n,)

    Raises
    ------
    DataError
        If pictures are too small, or on another scale: that of 0 to 1 would make all of them alike.
    """
    # torchmetrics takes seconds to import, and only this function needs it.
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = _same_shape(reconstructions, truth)
    if a.ndim != 4 or min(a.shape[1:3]) < 11:
        raise DataError(f"found pictures of shape {a.shape[1:]}, expected (H, W, C) with sides of "
                        "11 pixels or more: enlarge them before asking for SSIM")
    for x in (a, b):
        low, high = x.min(initial=0), x.max(initial=0)
        if not (low >= 0 and high <= 255) or (x.dtype.kind == "f" and 0 < high <= 1):
            raise DataError(f"found pictures with values from {low:.3g} to {high:.3g}, expected "
                            "0 to 255: bring them to uint8 before asking for SSIM")
    a, b = (torch.tensor(np.ascontiguousarray(x), dtype=torch.float32).permute(0, 3, 1, 2) / 255
            for x in (a, b))
    scores = []
    for x, y in zip(a.split(32), b.split(32), strict=True):  # small batches stay in the cache
        _, index = structural_similarity_index_measure(
            x, y, data_range=1.0, reduction="none", return_full_image=True
        )  # (n, C, H, W)
        scores.append(index[..., 5:-5, 5:-5].mean((1, 2, 3)))
    return torch.cat(scores).numpy().astype(float)


def nearest_training_distance(images, train_images, chunk=512):
    """Distance from each image to the most similar training image: near 0 means memorised.

    Parameters
    ----------
    images : array_like (n, …)
        Pictures, or features of pictures; uint8 is scaled to [0, 1].
    train_images : array_like (m, …)
        In the same space.
    chunk : int
        Training images held as floats at a time.

    Returns
    -------
    distance : ndarray (n,)
        Root-mean-square difference per number.
    index : ndarray (n,) of int
        The nearest training image.

    Raises
    ------
    DataError
        If there are no training images, they are in another space, or values are missing.
    """
    images, train_images = _one_space(images, train_images)
    a = _rows(images)
    best, index = np.full(len(a), np.inf), np.zeros(len(a), int)
    for start in range(0, len(train_images), chunk):
        distance = square_distances(a, _rows(train_images[start : start + chunk]))
        nearest = distance.argmin(1)
        value = distance[np.arange(len(a)), nearest]
        better = value < best
        best[better], index[better] = value[better], start + nearest[better]
    # A matrix product rounds; the distance that is reported does not.
    return np.sqrt(np.square(a - _rows(train_images[index])).mean(1)), index


def score_ranking(similarity, target, category=None, permutations=1000, seed=0):
    """Identification scores of one similarity matrix.

    Returns
    -------
    dict
        ``top1``, ``two_way`` and ``p_value``, its permutation p-value. When `category` gives some
        trial a rival, also ``two_way_within_category``, and ``p_within_category`` by permuting
        within categories: is there information beyond the category?
    """
    scores = {"top1": top_k(similarity, target), "two_way": two_way(similarity, target)}
    scores["p_value"] = permutation_p(similarity, target, two_way, permutations, seed)
    within = np.nan if category is None else two_way_within(similarity, target, category)
    if np.isfinite(within):
        scores["two_way_within_category"] = within
        scores["p_within_category"] = permutation_p(
            similarity, target, partial(two_way_within, category=category), permutations, seed,
            within=category,
        )
    return scores


def factors_read(pictures, factors):
    """Share of pictures in which the object, background and light that were seen can be read.

    By two readers that had no part in making any picture: the judge, see `features`, and the
    `referee`, who is no relative of the eye that steers.

    Parameters
    ----------
    pictures : uint8 array (n, H, W, C)
    factors : structured array (n,)
        What was seen, see `scenes.FACTORS`.

    Returns
    -------
    dict of str to float
        ``object``, ``background``, ``light`` by the judge; ``object_referee``, … by the referee.
    """
    scores = {}
    for reader, suffix in ((load_factor_net("judge"), ""), (load_referee(), SECOND)):
        read = read_factors(reader, np.asarray(pictures))
        scores |= {name + suffix: float((read[key].argmax(1) == factors[key]).mean())
                   for name, key in READ.items()}
    return scores


def report(reconstructions, truth, target, features, category=None, rankings=None,
           permutations=1000, seed=0, factors=None, train_images=None, noise_ceiling=None):
    """Score every decoder on the same trials and candidates: the reporting checklist as one table.

    Parameters
    ----------
    reconstructions : dict of str to uint8 array (trials, H, W, C)
        One picture for each trial and decoder. Never the best of several.
    truth : uint8 array (candidates, H, W, C)
        The test images.
    target : array_like (trials,) of int
        Which of them was seen.
    features : callable
        ``features(images) -> (n, d)``: the space of the similarity. Fix it in advance.
    category : array_like (candidates,), optional
    rankings : dict of str to array (trials, candidates), optional
        Decoders that rank the candidates and draw nothing: an encoding model, the ideal observer.
    factors : structured array (candidates,), optional
        What the test images were drawn from: adds what `factors_read` returns, and
        ``two_way_within_scene``, two-way where the wrong candidate has the same background.
    train_images : uint8 array (m, H, W, C), optional
        Adds ``nearest_train``, the mean distance to the nearest of them.
    noise_ceiling : float, optional
        Share of the betas' variance that the best model could explain, see `betas.noise_ceiling`.

    Returns
    -------
    dict of dict
        ``{decoder: {metric: float}}`` with the metrics of `METRICS` that have a meaning for it;
        ``"chance"``; where there are factors or training images ``"truth"``, the test images
        themselves under the same yardsticks; and ``"noise_ceiling"``, if given.
    """
    truth, target = np.asarray(truth), np.asarray(target)
    known = features(truth)
    seen = None if factors is None else factors[target]
    table = {}

    def named(matrix):
        row = score_ranking(matrix, target, category, permutations, seed)
        if factors is not None:
            row["two_way_within_scene"] = two_way_within(matrix, target, factors["background"])
        return {metric: value for metric, value in row.items() if np.isfinite(value)}

    for name, pictures in reconstructions.items():
        if len(pictures) != len(target):
            raise DataError(f"found {len(pictures)} pictures by {name} for {len(target)} trials: "
                            "give one for each trial")
        matrix = similarity(features(np.asarray(pictures)), known)
        table[name] = named(matrix)
        table[name]["pixcorr"] = float(pixel_correlation(pictures, truth[target]).mean())
        if min(truth.shape[1:3]) >= 11:
            table[name]["ssim"] = float(ssim(pictures, truth[target]).mean())
        table[name] |= _beyond_identification(pictures, seen, train_images)
    for name, matrix in (rankings or {}).items():
        table[name] = named(matrix)
    itself = _beyond_identification(truth[target], seen, train_images)
    if itself:
        table["truth"] = itself
    table["chance"] = {"top1": 1 / len(truth), "two_way": 0.5}
    for within in ("two_way_within_category", "two_way_within_scene"):
        if any(within in row for row in table.values()):
            table["chance"][within] = 0.5
    if seen is not None:  # always naming the most common one
        table["chance"] |= {name + suffix: float(np.bincount(seen[key]).max() / len(seen))
                            for name, key in READ.items() for suffix in ("", SECOND)}
    if noise_ceiling is not None:
        table["noise_ceiling"] = {"variance": float(noise_ceiling)}
    return table


def _beyond_identification(pictures, seen, train_images):
    scores = {} if seen is None else factors_read(pictures, seen)
    if train_images is not None:
        scores["nearest_train"] = float(nearest_training_distance(pictures, train_images)[0].mean())
    return scores


def format_report(table, metrics=METRICS):
    """The table of `report` as lines of text, one decoder a row, for some of its metrics or all.

    Two numbers in a cell are what the judge and what the referee read.
    """
    metrics = [m for m in metrics
               if not m.endswith(SECOND) and any(m in row for row in table.values())]
    heads = [m.replace("_category", "").replace("two_way_within", "within") for m in metrics]
    width = max(map(len, table)) + 2
    room = [max(len(head) + 2, 15 if any(m + SECOND in row for row in table.values()) else 9)
            for m, head in zip(metrics, heads, strict=True)]
    lines = ["".ljust(width) + "".join(map(str.rjust, heads, room))]
    for name, row in table.items():
        cells = (" / ".join(f"{row[k]:.3f}" for k in (m, m + SECOND) if k in row) or "–"
                 for m in metrics)
        lines.append(name.ljust(width) + "".join(map(str.rjust, cells, room)))
    return "\n".join(lines)


def _rows(x):
    """One float row for each item; uint8 to [0, 1]."""
    if not np.isfinite(x).all():
        raise DataError("images or training images hold NaN or infinite values; leave those out")
    return x.reshape(len(x), -1).astype(np.float32) / (255 if x.dtype == np.uint8 else 1)


def _one_space(images, train_images):
    """Both as arrays, when one can be held against the other."""
    both = as_numbers(images, "the images"), as_numbers(train_images, "the training images")
    if any(x.ndim < 2 for x in both) or len(both[1]) == 0:
        raise DataError(f"found images of shape {both[0].shape} and no training images (shape "
                        f"{both[1].shape}), expected (n, …) and (m, …)")
    sizes = [int(np.prod(x.shape[1:])) for x in both]
    if sizes[0] != sizes[1]:
        raise DataError(f"found images of {sizes[0]} numbers and training images of {sizes[1]}: "
                        "bring them to one size")
    bytes_ = [x.dtype == np.uint8 for x in both]
    if bytes_[0] != bytes_[1]:  # uint8 is brought to 0-1, and the others had better be there too
        other = both[bytes_.index(False)]
        if other.size and (other.min() < 0 or other.max() > 1):
            raise DataError(f"one set of images is uint8, the other has values from "
                            f"{other.min():.3g} to {other.max():.3g}; expected 0 to 1, or uint8")
    return both


def _same_shape(a, b):
    a, b = as_numbers(a, "reconstructions"), as_numbers(b, "truth")
    if a.shape != b.shape:
        raise DataError(f"found pictures of shape {a.shape} and {b.shape}, expected the same: "
                        "give each reconstruction its picture, at one size")
    return a, b
