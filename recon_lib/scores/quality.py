"""How good are generated pictures? Scores of a whole set of samples, against real pictures.

Scores compare the features that a classifier gives of pictures. The evaluation classifier was
trained on TinyScenes: nothing is downloaded, and its features fit these scenes, as those of a
network trained on ImageNet would not.
"""

import numpy as np
from torch import nn

from recon_lib.brain.encoding import square_distances
from recon_lib.brain.features import NAMED, FactorNet, embed, read_factors
from recon_lib.common.errors import DataError, check
from recon_lib.scores.metrics import nearest_training_distance

SURE = 0.9  # a reading is called confident from this probability on


def classifier_features(images: np.ndarray, classifier: nn.Module):
    """Features of pictures (n, H, W, C) uint8: (n, 96) float64, each in [-1, 1]."""
    return np.tanh(embed(classifier, images)).astype(float)


def kid(real: np.ndarray, made: np.ndarray) -> tuple:
    """Kernel distance of two sets of features, and how uncertain it is.

    The unbiased estimate of the squared maximum mean discrepancy with the kernel
    (x·y / d + 1)³ (Binkowski et al. 2018, arXiv 1801.01401), over all pairs. 0 is expected when
    both sets come from one source, so that it may come out below 0. Unlike FID it has no bias
    that depends on the number of samples.

    Parameters
    ----------
    real : (n, d) array
    made : (m, d) array

    Returns
    -------
    value : float
    error : float
        Standard error: first term of the variance of a U-statistic, for both sets.

    Raises
    ------
    DataError
        If a set has fewer than two rows, the widths differ, or something is not finite.
    """
    x, y = _pair(real, made, least=2)
    n, m = len(x), len(y)
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    xx = (xx.sum(1) - xx.diagonal()) / (n - 1)  # (n,) mean kernel with all others
    yy = (yy.sum(1) - yy.diagonal()) / (m - 1)
    value = xx.mean() + yy.mean() - 2 * xy.mean()
    # What one sample adds; the estimate is twice the mean of either, up to a constant.
    spread = np.var(xx - xy.mean(1), ddof=1) / n + np.var(yy - xy.mean(0), ddof=1) / m
    return float(value), float(2 * spread**0.5)


def precision_recall(real, made, k=3):
    """Precision, recall: do samples (m, d) look real, and is all that is real (n, d) among them?

    A set covers the balls around its members that reach to their k-th neighbours. Precision is the
    share of samples that the real pictures cover; recall the share of real pictures that the
    samples cover (Kynkäänniemi et al. 2019, arXiv 1904.06991). A model that draws one perfect
    picture again and again has high precision and low recall. Give about as many of both: balls
    shrink as their set grows. A `DataError` is raised for sets of k rows or fewer, of different
    widths, or with numbers that are not finite.
    """
    if not k >= 1:
        raise DataError(f"k is {k}; expected the number of a neighbour, 1 or more")
    x, y = _pair(real, made, least=k + 1)
    between = square_distances(x, y)  # (n, m)
    radius = [np.sort(square_distances(a, a), axis=1)[:, k] for a in (x, y)]  # 0 is itself
    precision = (between <= radius[0][:, None]).any(0).mean()
    recall = (between <= radius[1][None]).any(1).mean()
    return float(precision), float(recall)


def read_confidently(images, classifier, sure=SURE):
    """Share of pictures in which a classifier is sure of the category, the background, the light.

    Sure: the likeliest name has probability `sure` at least. A classifier may be sure of nonsense
    too, so compare with the share of real pictures.
    """
    read = read_factors(classifier, images)
    return {factor: float((read[factor].max(1) >= sure).mean()) for factor in NAMED}


def memorised(made: np.ndarray, train_images: np.ndarray, real: np.ndarray) -> tuple:
    """How close do samples come to training pictures, beside new pictures of the same source?

    Parameters
    ----------
    made, train_images, real : uint8 array (·, H, W, C)
        `real`: pictures of the same kind that no training saw.

    Returns
    -------
    share : float
        Share of samples nearer to a training picture than all but 1 % of the new pictures are;
        about .01 is expected of a source that has memorised nothing.
    nearest : metrics.Nearest
        Of each sample.
    """
    nearest = nearest_training_distance(made, train_images)
    usual = nearest_training_distance(real, train_images).distance
    return float((nearest.distance < np.quantile(usual, 0.01)).mean()), nearest


def quality_scores(made: np.ndarray, real: np.ndarray, classifier: FactorNet,
                   train_images: np.ndarray | None = None) -> dict[str, float]:
    """All scores of a set of samples as one dict.

    Parameters
    ----------
    made : (n, H, W, C) uint8 array
        Samples: all that were drawn, not a selection.
    real : (m, H, W, C) uint8 array
        Real pictures that no training saw, about as many.
    classifier : FactorNet
        Its features are compared; `features.load_factor_net("evaluation_classifier")`.
    train_images : (·, H, W, C) uint8 array, optional
        What the model was trained on, or part of it, for the share of samples that are `memorised`.

    Returns
    -------
    dict of str to float
        `kid`, `kid_error`, `precision`, `recall`, `sure_category`, `sure_background`, `sure_light`,
        and `memorised` when there are training pictures.
    """
    x, y = classifier_features(real, classifier), classifier_features(made, classifier)
    scores = dict(zip(("kid", "kid_error"), kid(x, y), strict=True))
    scores |= zip(("precision", "recall"), precision_recall(x, y), strict=True)
    confident = read_confidently(made, classifier)
    scores |= {f"sure_{factor}": share for factor, share in confident.items()}
    if train_images is not None:
        scores["memorised"] = memorised(made, train_images, real)[0]
    return scores


def _pair(real, made, least):
    x = check(real, ("n", "d"), what="the array of real features").astype(float)
    y = check(made, ("m", x.shape[1]), what="the array of features made").astype(float)
    if min(len(x), len(y)) < least:
        raise DataError(f"found {len(x)} and {len(y)} rows of features; expected at least {least} "
                        "rows each: use more pictures")
    return x, y
