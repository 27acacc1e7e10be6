"""Patterns of betas: what can be decoded from them, and which of them are alike."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist, squareform

from recon_lib.bold.betas import correlate_columns, same_trials
from recon_lib.brain.ridge import fit_ridge
from recon_lib.common.errors import DataError, as_numbers, check, one_label_each


def decode(betas: np.ndarray, target: np.ndarray | dict, groups: np.ndarray | None = None,
           seed: int = 0) -> float | dict:
    """What can be read from the betas by ridge regression, cross-validated.

    Parameters
    ----------
    betas : (trials, voxels) array
    target : (trials,) array, or dict of str to such arrays
        Numbers to predict, or names (strings) or integers to tell apart. Several at once take
        hardly longer than one.
    groups : (trials,) array, optional
        Trials of one group, such as a picture, are never split between training and test.

    Returns
    -------
    float, or dict of str to float
        For numbers the correlation of predicted with true ones. For categories the share
        named correctly (one ridge regression per category, the largest wins).
    """
    betas = check(betas, ("trials", "voxels"), False, "betas")
    betas = betas if betas.dtype.kind == "f" else betas.astype(float)
    several = target if isinstance(target, dict) else {"": target}
    several = {name: one_label_each(values) for name, values in several.items()}
    columns = []
    for values in several.values():
        same_trials(betas, values)
        kinds, which = np.unique(values, return_inverse=True)
        columns.append(values[:, None].astype(betas.dtype) if values.dtype.kind == "f" else
                       np.eye(len(kinds), dtype=betas.dtype)[which])
    fit = fit_ridge(betas, np.hstack(columns), groups, seed=seed)
    ends, read = np.cumsum([part.shape[1] for part in columns]), {}
    for name, true, guess in zip(several, columns, np.split(fit.out_of_fold, ends[:-1], 1),
                                 strict=True):
        read[name] = float(correlate_columns(guess, several[name][:, None])[0]
                           if several[name].dtype.kind == "f" else
                           (guess.argmax(1) == true.argmax(1)).mean())
    return read if isinstance(target, dict) else read[""]


def rdm(patterns: np.ndarray) -> np.ndarray:
    """Representational dissimilarity, 1 − correlation, of each two of the patterns (m, voxels).

    The matrix (m, m) is symmetric and 0 on the diagonal.
    """
    patterns = check(patterns, ("m", "voxels"), False, "the patterns").astype(float)
    return squareform(pdist(patterns, "correlation"))


def compare_rdms(a: np.ndarray, b: np.ndarray):
    """Rank correlation of two RDMs over their pairs: do they order pairs alike?

    Raises
    ------
    DataError
        If they are not square and of one size, or of fewer than three patterns.
    """
    from scipy.stats import spearmanr  # takes half a second to import

    a, b = (as_numbers(x, "an RDM") for x in (a, b))
    if a.shape != b.shape or a.ndim != 2 or a.shape[0] != a.shape[1] or len(a) < 3:
        raise DataError(f"RDMs of shapes {a.shape} and {b.shape}; expected the same, square, of "
                        "three patterns or more")
    pairs = np.triu_indices(len(a), 1)
    return float(spearmanr(a[pairs], b[pairs]).statistic)


def similarity(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Correlate every row of `a` with every row of `b`.

    Parameters
    ----------
    a : array_like (n, …)
        Reconstructions or their features, one a row; longer shapes are flattened.
    b : array_like (m, …)
        The candidates, in the same space.

    Returns
    -------
    ndarray (n, m)
        Pearson's r; 0 for a constant row, which carries no information.
    """
    a, b = unit_rows(a), unit_rows(b)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"found rows of {a.shape[1]} and {b.shape[1]} numbers, expected the same: "
                        "describe both sides by the same features")
    return a @ b.T


def unit_rows(x):
    """Rows of mean 0 and length 1; constant rows become 0."""
    x = as_numbers(x, "what is compared")
    if x.ndim == 0:
        raise DataError(f"found the single number {x}, expected one row for each item")
    x = x.astype(np.float64).reshape(len(x), -1) if len(x) else np.zeros((0, x[:0].size))
    if not np.isfinite(x).all():
        raise DataError("found NaN or infinite values, expected numbers: check what made them")
    centred = x - x.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    constant = length <= 1e-12 * np.sqrt(x.shape[1]) * np.abs(x).max(1, keepdims=True, initial=0)
    return np.where(constant, 0, centred / np.where(constant, 1, length))
