"""What patterns of betas tell: what can be decoded from them, and which of them are alike."""

import numpy as np
from scipy.stats import rankdata

from recon_lib.betas import correlate_columns, same_trials
from recon_lib.errors import DataError, as_numbers
from recon_lib.ridge import fit_ridge


def decode(betas, target, groups=None, seed=0):
    """What can be read from the betas by ridge regression, cross-validated.

    Parameters
    ----------
    betas : (trials, voxels) array
    target : (trials,) array
        Numbers to predict, or names (strings) or integers to tell apart.
    groups : (trials,) array, optional
        Trials of one group, such as a picture, are never split between training and test.

    Returns
    -------
    float
        For numbers the correlation of predicted with true ones. For categories the share
        named correctly (one ridge regression per category, the largest wins).
    """
    betas, target = as_numbers(betas, "betas", 2), np.asarray(target)
    betas = betas if betas.dtype.kind == "f" else betas.astype(float)
    same_trials(betas, target)
    if target.dtype.kind == "f":
        fit = fit_ridge(betas, target[:, None].astype(betas.dtype), groups, seed=seed)
        return float(correlate_columns(fit.out_of_fold, target[:, None])[0])
    names, which = np.unique(target, return_inverse=True)
    one_hot = np.eye(len(names), dtype=betas.dtype)[which]
    fit = fit_ridge(betas, one_hot, groups, seed=seed)
    return float((fit.out_of_fold.argmax(1) == which).mean())


def rdm(patterns):
    """Representational dissimilarity: 1 − correlation between each two patterns.

    Parameters
    ----------
    patterns : (m, voxels) array

    Returns
    -------
    (m, m) array
        Symmetric, 0 on the diagonal.
    """
    patterns = as_numbers(patterns, "the patterns", 2).astype(float)
    matrix = 1 - np.atleast_2d(np.corrcoef(patterns))
    np.fill_diagonal(matrix, 0)
    return matrix


def compare_rdms(a, b):
    """Rank correlation of two RDMs over their pairs: do they order pairs alike?

    Raises
    ------
    DataError
        If they are not square and of one size, or of fewer than three patterns.
    """
    a, b = (as_numbers(x, "an RDM") for x in (a, b))
    if a.shape != b.shape or a.ndim != 2 or a.shape[0] != a.shape[1] or len(a) < 3:
        raise DataError(f"RDMs of shapes {a.shape} and {b.shape}; expected the same, square, of "
                        "three patterns or more")
    pairs = np.triu_indices(len(a), 1)
    ranks = [rankdata(matrix[pairs])[:, None] for matrix in (a, b)]
    return float(correlate_columns(*ranks)[0])
