"""Which of the candidates was seen? Identification scores and their null distributions."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from recon_lib.common.errors import DataError, check, one_label_each


def top_k(similarity: ArrayLike, target: ArrayLike, k: int = 1) -> float:
    """How often the right candidate is among the k most similar.

    A tie counts as the probability that a random order would put the right one among the k. So a
    decoder that gives all m candidates the same similarity scores exactly k / m.

    Parameters
    ----------
    similarity : array_like (trials, candidates)
        Correlations, log-likelihoods, anything that is larger for better.
    target : array_like (trials,) of int
        The right candidate of each trial.

    Returns
    -------
    float
        In [0, 1]; chance k / candidates.
    """
    return float(top_k_hits(similarity, target, k).mean())


def top_k_hits(similarity: ArrayLike, target: ArrayLike, k: int = 1) -> np.ndarray:
    """`top_k` of each trial (trials,): 1, 0, or a share where there are ties."""
    below, equal, rivals = _against_rivals(similarity, target)
    above = rivals - below - equal
    return np.clip((k - above) / (equal + 1), 0, 1)


def n_way_hits(similarity: ArrayLike, target: ArrayLike, n: int, k: int = 1) -> np.ndarray:
    """How probable it is that the right candidate is among the first k of n, for each trial.

    The n - 1 wrong candidates are drawn at random from all; with g of them above the right one, the
    number drawn of these is hypergeometric, so that all draws are counted at once.

    Parameters
    ----------
    similarity, target
        As for `top_k`.
    n, k : int

    Returns
    -------
    ndarray (trials,)
        Ties count as a random order; chance k / n.
    """
    from scipy.stats import hypergeom  # takes half a second to import

    below, equal, rivals = _against_rivals(similarity, target)
    if not 1 <= k <= n <= rivals.min() + 1:
        raise DataError(f"{n}-way top-{k} of {rivals.min() + 1} candidates; expected 1 <= k <= n "
                        f"<= {rivals.min() + 1}")
    return np.array([hypergeom.cdf(k - 1, m, m - b - e + np.arange(e + 1), n - 1).mean()
                     for b, e, m in zip(below, equal, rivals, strict=True)])


def bootstrap_interval(values: ArrayLike, target: ArrayLike, level: float = 0.95, n: int = 2000,
                       seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over trials, by drawing pictures with replacement.

    The trials of one picture stay together: they share what is easy or hard about it.

    Parameters
    ----------
    values : array_like (trials,)
        Of each trial: a hit, or the difference between the hits of two decoders.
    target : array_like (trials,) of int
        The picture of each.

    Returns
    -------
    low, high : float
    """
    _, index = np.unique(np.asarray(target), return_inverse=True)
    total, count = np.bincount(index, check(values, index.shape)), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(len(count), size=(n, len(count)))
    means = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def two_way(similarity: np.ndarray, target: np.ndarray) -> float:
    """How often the right candidate beats one wrong candidate, over all pairs; ties count half.

    It saturates: a decoder that knows nothing but one of ten categories reaches .95.

    Returns
    -------
    float
        In [0, 1]; chance .5. NaN when there is one candidate only.
    """
    return float(two_way_wins(similarity, target).mean())


def two_way_wins(similarity: np.ndarray, target: np.ndarray,
                 category: ArrayLike | None = None) -> np.ndarray:
    """`two_way`, or `two_way_within`, of each trial (trials,): the share of rivals that lose."""
    below, equal, rivals = _against_rivals(similarity, target, category)
    return (below + equal / 2) / np.where(rivals > 0, rivals, np.nan)


def two_way_within(similarity: np.ndarray, target: np.ndarray, category: ArrayLike) -> float:
    """`two_way` where the wrong candidate shares the category of the right one.

    A decoder that knows the category and no more scores exactly .5.

    Parameters
    ----------
    category : array_like (candidates,)
        Trials whose category has no second candidate are left out.

    Returns
    -------
    float
        In [0, 1]; chance .5. NaN when no trial has a rival.
    """
    wins = two_way_wins(similarity, target, category)
    wins = wins[np.isfinite(wins)]
    return float(wins.mean()) if len(wins) else np.nan


def two_way_null_sd(n: int):
    """Standard deviation of `two_way` over n images under chance, one independent guess each.

    Each of the n scores is uniform on 0, 1/(n−1), …, 1, which gives √((n+1) / (12 n (n−1))),
    or nearly 1/√(12 n). The n (n−1) comparisons are not independent: a binomial with that many
    trials gives √(.25 / (n (n−1))), several times too small.
    """
    return float(np.sqrt((n + 1) / (12 * n * (n - 1))))


def permutation_null(similarity: ArrayLike, target: ArrayLike, statistic: Callable, n: int = 1000,
                     seed: int = 0, within: ArrayLike | None = None) -> np.ndarray:
    """The statistic under random pairings of brain responses with images.

    Images are permuted, not trials: all repeats of an image keep a common label, for they
    are no independent evidence.

    Parameters
    ----------
    similarity : array_like (trials, candidates)
    target : array_like (trials,) of int
    statistic : callable
        ``statistic(similarity, target) -> float``, such as `two_way`.
    within : array_like (candidates,), optional
        Permute within these categories only, to ask for information beyond the category.

    Returns
    -------
    ndarray (n,)

    Raises
    ------
    DataError
        If there is not one category for each candidate.
    """
    similarity, target = checked(similarity, target)
    rng, count = np.random.default_rng(seed), similarity.shape[1]
    blocks = [np.arange(count)]
    if within is not None:
        within = _categories(within, count)
        blocks = [np.flatnonzero(within == c) for c in np.unique(within)]
    null = np.empty(n)
    for i in range(n):
        label = np.arange(count)
        for block in blocks:
            label[block] = rng.permutation(block)
        null[i] = statistic(similarity, label[target])
    return null


def permutation_p(similarity: np.ndarray, target: np.ndarray, statistic: Callable, n: int = 1000,
                  seed: int = 0, within: np.ndarray | None = None):
    """One-sided permutation p-value, (1 + #{null ≥ observed}) / (1 + n).

    Parameters are those of `permutation_null`. The least possible value is 1 / (1 + n).
    """
    null = permutation_null(similarity, target, statistic, n, seed, within)
    observed = statistic(np.asarray(similarity), np.asarray(target))
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + n))


def checked(similarity, target):
    """Similarities without NaN, and for each trial a column of them; anything else is refused."""
    similarity = check(similarity, ("trials", "candidates"), finite=False, what="the similarity")
    target = check(target, (len(similarity),), what="the array of one target a trial")
    if np.isnan(similarity).any():
        raise DataError("found NaN in the similarity, expected numbers: check what made it")
    if not np.issubdtype(target.dtype, np.integer):
        raise DataError(f"found targets of type {target.dtype}, expected int: give the column of "
                        "each trial's image")
    if len(target) == 0 or target.min() < 0 or target.max() >= similarity.shape[1]:
        raise DataError(f"found targets that are no columns of {similarity.shape[1]} candidates: "
                        "number the candidates from 0")
    return similarity, target


def _categories(category, count):
    category = one_label_each(category)
    if len(category) != count:
        raise DataError(f"{len(category)} categories for {count} candidates; expected one for each")
    return category


def _against_rivals(similarity, target, category=None):
    """For each trial: how many rivals score below the target, how many equal, how many at all."""
    similarity, target = checked(similarity, target)
    trial = np.arange(len(target))
    own = similarity[trial, target][:, None]
    rival = np.ones(similarity.shape, bool)
    if category is not None:
        category = _categories(category, similarity.shape[1])
        rival = category[target][:, None] == category
    rival[trial, target] = False
    return ((similarity < own) & rival).sum(1), ((similarity == own) & rival).sum(1), rival.sum(1)
