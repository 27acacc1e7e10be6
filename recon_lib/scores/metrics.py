"""How much of a picture came back: pixel scores, and the distance to the training pictures."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike

from recon_lib.brain.encoding import square_distances
from recon_lib.brain.patterns import unit_rows
from recon_lib.common.errors import DataError, as_numbers, check


def pixel_correlation(reconstructions: ArrayLike, truth: ArrayLike) -> np.ndarray:
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
    a = as_numbers(reconstructions, "the array of reconstructions")
    b = check(truth, a.shape, finite=False, what="the array of pictures seen")
    return (unit_rows(a) * unit_rows(b)).sum(1)


def ssim(reconstructions: ArrayLike, truth: ArrayLike) -> np.ndarray:
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
    a = as_numbers(reconstructions, "the array of reconstructions")
    b = check(truth, a.shape, finite=False, what="the array of pictures seen")
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
    a, b = (F.pad(x, (5, 5, 5, 5), mode="reflect") for x in (a, b))  # torchmetrics to the last bit
    window = torch.exp(-((torch.arange(-5.0, 6) / 1.5) ** 2) / 2)
    window = window / window.sum()
    window = torch.outer(window, window).expand(a.shape[1], 1, 11, 11)
    scores = []
    for x, y in zip(a.split(32), b.split(32), strict=True):  # small batches stay in the cache
        five = torch.cat([x, y, x * x, y * y, x * y])
        m_x, m_y, xx, yy, xy = F.conv2d(five, window, groups=a.shape[1]).chunk(5)
        spread = (xx - m_x**2).clamp(0) + (yy - m_y**2).clamp(0)
        top = (2 * m_x * m_y + 0.01**2) * (2 * (xy - m_x * m_y) + 0.03**2)
        index = top / ((m_x**2 + m_y**2 + 0.01**2) * (spread + 0.03**2))  # (n, C, H, W)
        scores.append(index[..., 5:-5, 5:-5].mean((1, 2, 3)))
    return torch.cat(scores).numpy().astype(float)


@dataclass
class Nearest:
    """The nearest training image of each image: its root-mean-square distance, and which it is."""

    distance: np.ndarray  # (n,), per number
    index: np.ndarray  # (n,) of int


def nearest_training_distance(images: ArrayLike, train_images: ArrayLike,
                              chunk: int = 512) -> Nearest:
    """Distance from each image to the most similar training image: near 0 means memorised.

    Parameters
    ----------
    images : array_like (n, …)
        Pictures, or features of pictures; uint8 is scaled to [0, 1].
    train_images : array_like (m, …)
        In the same space.
    chunk : int
        Training images held as floats at a time.

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
    # The matrix product in `square_distances` rounds, so the distances reported are made anew.
    return Nearest(np.sqrt(np.square(a - _rows(train_images[index])).mean(1)), index)


def _rows(x):
    """One float row for each item; uint8 to [0, 1]."""
    return x.reshape(len(x), -1).astype(np.float32) / (255 if x.dtype == np.uint8 else 1)


def _one_space(images, train_images):
    """Both as arrays, if they have as many numbers each, on the same scale."""
    a = check(images, what="the array of images")
    b = check(train_images, what="the array of training images")
    if min(a.ndim, b.ndim) < 2 or not len(b) or np.prod(a.shape[1:]) != np.prod(b.shape[1:]):
        raise DataError(f"found images of shape {a.shape} and training images of {b.shape}; "
                        "expected (n, …) and (m, …) with as many numbers each, m above 0")
    if (a.dtype == np.uint8) != (b.dtype == np.uint8):  # uint8 is scaled to [0, 1]
        other = a if b.dtype == np.uint8 else b
        if other.size and (other.min() < 0 or other.max() > 1):
            raise DataError(f"one set of images is uint8, the other has values from "
                            f"{other.min():.3g} to {other.max():.3g}; expected 0 to 1, or uint8")
    return a, b
