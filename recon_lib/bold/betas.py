"""What betas are worth: z-scores, reliability, noise ceilings, areas.

Betas are `(trials, voxels)`; `labels` says which picture each trial showed.
"""

import warnings

import numpy as np

from recon_lib.common.errors import DataError, as_count, as_numbers, one_label_each


def zscore_sessions(betas: np.ndarray, session: np.ndarray,
                    train: np.ndarray | None = None) -> np.ndarray:
    """Put every session on the same scale: z-score each voxel within each session.

    Parameters
    ----------
    betas : (trials, voxels) array
    session : (trials,) array
        Session of each trial.
    train : (trials,) boolean array, optional
        Trials that set the mean and the standard deviation; all when left out. Test trials
        must not: give the training mask.

    Returns
    -------
    (trials, voxels) float32 array
        A voxel that never varies in a session is 0 there.

    Raises
    ------
    DataError
        If lengths disagree, or a session has fewer than two training trials.
    """
    betas, session = as_numbers(betas, "betas", 2), one_label_each(session)
    train = np.ones(len(betas), bool) if train is None else _mask(train)
    same_trials(betas, session, train)
    out = np.empty(betas.shape, np.float32)
    for one in np.unique(session):
        mine = session == one
        known = betas[mine & train]
        if len(known) < 2:
            raise DataError(
                f"session {one} has {len(known)} training trials; z-scoring needs 2 or more: "
                "leave the session out or move trials to the training set")
        mean, sd = known.mean(0, dtype=np.float64), known.std(0, dtype=np.float64)
        scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=(sd > 0) | np.isnan(sd))
        out[mine] = (betas[mine] - mean) * scale
    return out


def average_repeats(betas: np.ndarray, labels: np.ndarray) -> tuple:
    """Mean over the trials of each picture.

    Parameters
    ----------
    betas : (trials, voxels) array
    labels : (trials,) array

    Returns
    -------
    means : (pictures, voxels) array
        Of the type of `betas` where that has fractions, in the order of `names`.
    names : (pictures,) array
        The labels, sorted.
    counts : (pictures,) int array
        Trials of each.
    """
    betas, labels = as_numbers(betas, "betas", 2), one_label_each(labels)
    same_trials(betas, labels)
    names, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), betas.shape[1]))
    np.add.at(sums, which, betas)
    kind = betas.dtype if betas.dtype.kind == "f" else np.float64
    return (sums / counts[:, None]).astype(kind), names, counts


def split_half_reliability(betas: np.ndarray, labels: np.ndarray, splits: int = 10,
                           seed: int = 0) -> np.ndarray:
    """How alike a voxel's answers to the same pictures are, one half of the trials to the other.

    Each split deals the trials of every repeated picture into two halves, averages them, and
    correlates the halves over pictures.

    Parameters
    ----------
    betas : (trials, voxels) array
    labels : (trials,) array
    splits : int
        Random splits to average over.
    seed : int

    Returns
    -------
    (voxels,) array
        Mean correlation.

    Raises
    ------
    DataError
        If fewer than three pictures were shown twice, or there is no split.
    """
    splits = as_count(splits, "splits", 1)
    betas, labels = _repeated(betas, labels, 3)
    rng = np.random.default_rng(seed)
    total = np.zeros(betas.shape[1])
    for _ in range(splits):
        order = rng.permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        sizes = np.unique(labels, return_counts=True)[1]
        place = np.concatenate([np.arange(n) for n in sizes])
        half = np.concatenate([np.full(n, n // 2) for n in sizes])
        first, second = order[place < half], order[place >= half]
        one = average_repeats(betas[first], labels[first])[0]
        two = average_repeats(betas[second], labels[second])[0]
        total += correlate_columns(one, two)
    return total / splits


def noise_ceiling(betas: np.ndarray, labels: np.ndarray, repeats: float = 1) -> np.ndarray:
    """The share of a voxel's variance that the best model could explain, in percent.

    Betas must be z-scored, so that signal and noise variance add up to 1. The noise is the
    spread over repeats of a picture: v = √mean(variance), SNR = √(1 − v²) / v and
    NC = 100 · SNR² / (SNR² + 1/n) (Allen et al. 2022, doi:10.1038/s41593-021-00962-x).

    Parameters
    ----------
    betas : (trials, voxels) array
        Z-scored. Only pictures shown twice or more count.
    labels : (trials,) array
    repeats : float
        n: how many trials are averaged before the model is compared with them.

    Returns
    -------
    (voxels,) array
        Percent; 0 where repeats differ as much as pictures do, NaN where betas are missing.
    """
    if not repeats > 0:
        raise DataError(f"repeats is {repeats}; expected the trials that are averaged, 1 or more")
    size = np.nanmedian(np.var(as_numbers(betas, "betas", 2), axis=0))
    if not 0.2 < size < 5:
        warnings.warn(f"betas with a median variance of {size:.2g}; a noise ceiling expects "
                      "z-scores, of variance 1: use zscore_sessions first", stacklevel=2)
    noise = np.minimum(noise_variance(betas, labels), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr2 = (1 - noise) / noise
        return np.where(noise == 0, 100.0, 100 * snr2 / (snr2 + 1 / repeats))


def noise_variance(betas, labels):
    """Mean over pictures of the (unbiased) variance over repeats: (voxels,) array."""
    betas, labels = _repeated(betas, labels, 1)
    means, names, counts = average_repeats(betas.astype(np.float64), labels)
    away = (betas - means[np.searchsorted(names, labels)]) ** 2
    weight = 1 / ((counts - 1) * len(names))
    return weight[np.searchsorted(names, labels)] @ away


def areas_of(roi):
    """The area of each voxel, (voxels,) str: "PPA" for "LHPPA", "RHPPA" and "PPA"."""
    return np.array([name[2:] if name[:2] in ("LH", "RH") else name for name in roi])


def in_areas(roi: np.ndarray, *areas: str):
    """Which voxels lie in these areas, in either hemisphere: `in_areas(roi, "PPA", "OPA")`.

    Raises
    ------
    DataError
        If an area is not there.
    """
    there = areas_of(roi)
    for area in areas:
        if area not in there:
            raise DataError(f"no voxel lies in {area!r}; the areas are {sorted(set(there))}")
    return np.isin(there, areas)


def silence(betas, roi, *areas):
    """Switch areas off: a copy of z-scored betas whose voxels in these areas all say "as usual", 0.

    Raises
    ------
    DataError
        If an area is not there, or the betas are of other voxels.
    """
    betas, off = as_numbers(betas, "betas"), in_areas(roi, *areas)
    if betas.shape[-1:] != off.shape:
        raise DataError(f"betas of shape {betas.shape}, but {len(off)} voxels have an area; "
                        "expected the same voxels")
    return np.where(off, np.float32(0), betas)


def correlate_columns(a: np.ndarray, b: np.ndarray):
    """Pearson correlation of each column of `a` with that of `b`: (columns,) array.

    NaN where a column does not vary.
    """
    a, b = (as_numbers(x, "what is correlated", 2) for x in (a, b))
    if a.shape != b.shape:
        raise DataError(f"columns of shapes {a.shape} and {b.shape}; expected the same")
    a = a - a.mean(0, dtype=np.float64)
    b = b - b.mean(0, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def _mask(train):
    train = np.asarray(train)
    if train.dtype != bool:  # indices would be taken for it without a word
        raise DataError(f"train holds {train.dtype}; expected one True or False for each trial")
    return train


def _repeated(betas, labels, least):
    """Trials of pictures shown twice or more."""
    betas, labels = as_numbers(betas, "betas", 2), one_label_each(labels)
    same_trials(betas, labels)
    names, counts = np.unique(labels, return_counts=True)
    names = names[counts > 1]
    if len(names) < least:
        raise DataError(
            f"{len(names)} pictures were shown more than once; at least {least} are needed to "
            "tell signal from noise: include trials with repeats")
    keep = np.isin(labels, names)
    return betas[keep], labels[keep]


def same_trials(betas, *others):
    """Stop unless betas are (trials, voxels) and each of the others has one entry a trial."""
    shapes = [np.shape(other) for other in others]
    if betas.ndim != 2 or 0 in betas.shape or any(s != betas.shape[:1] for s in shapes):
        raise DataError(f"betas of shape {betas.shape} with {shapes} entries per trial; "
                        "expected (trials, voxels) and one entry for each trial")
    for other in map(np.asarray, others):
        if other.dtype.kind == "f" and np.isnan(other).any():
            raise DataError("a trial's label, session or target is NaN; leave those trials out")


def zscore(train: np.ndarray, test: np.ndarray):
    """Standardise both by the mean and standard deviation of the training trials."""
    train, test = as_numbers(train, "the training trials"), as_numbers(test, "the test trials")
    mean, spread = train.mean(0), train.std(0)
    spread = np.where(spread > 0, spread, 1)
    return (train - mean) / spread, (test - mean) / spread
