"""Controls that every reconstruction paper should report, as a picture cannot show them."""

import numpy as np
from numpy.typing import ArrayLike

from recon_lib.common.errors import DataError, check, one_label_each


def decode_unseen(betas: ArrayLike, targets: ArrayLike, group: ArrayLike, new_betas: ArrayLike,
                  new_group: ArrayLike, penalty: float) -> np.ndarray:
    """Decode each new trial by a ridge regression that never saw its group.

    The group may be a category, or a combination such as *a blue cup*. One inverse serves all
    groups: without the rows a of one, the inverse of M = x'x + penalty becomes
    (M − a'a)⁻¹ = M⁻¹ + M⁻¹a' (1 − a M⁻¹a')⁻¹ a M⁻¹ (Woodbury).

    Parameters
    ----------
    betas : array_like (n, voxels)
        Of the training trials.
    targets : array_like (n, d)
        What to decode them to, such as latents of the pictures shown.
    group : array_like (n,)
    new_betas : array_like (m, voxels)
    new_group : array_like (m,)
        For a group without training trials nothing is left out.
    penalty : float
        On the squared norm of the weights, above 0; the intercept is free.

    Returns
    -------
    ndarray (m, d)

    Raises
    ------
    DataError
        If the shapes disagree, leaving a group out leaves nothing, or the penalty is none.
    """
    group, new_group = one_label_each(group), one_label_each(new_group)
    x = check(betas, (len(group), "voxels"), what="the array of betas").astype(np.float64)
    y = check(targets, (len(group), "d"), what="the array of targets").astype(np.float64)
    new = check(new_betas, (len(new_group), x.shape[1]), what="the array of new betas")
    if len(np.unique(group)) < 2:
        raise DataError("found one group, expected two or more: nothing is left to learn from")
    if not 0 < penalty < np.inf:
        raise DataError(f"found a penalty of {penalty}, expected a number above 0: below, weights "
                        "would be made longer, not shorter")
    x, new = (np.column_stack([a, np.ones(len(a))]) for a in (x, new))
    inverse = np.linalg.inv(x.T @ x + np.diag(np.r_[np.full(x.shape[1] - 1, float(penalty)), 0]))
    both = x.T @ y
    out = np.empty((len(new), y.shape[1]))
    for one in np.unique(new_group):
        a, b = x[group == one], y[group == one]
        half = inverse @ a.T  # (voxels + 1, rows of the group)
        weights = inverse @ (both - a.T @ b)
        weights += half @ np.linalg.solve(np.eye(len(a)) - a @ half, a @ weights)
        out[new_group == one] = new[new_group == one] @ weights
    return out


def bits(share: float, candidates: int) -> float:
    """The least information, in bits, that naming this share of candidates right must have used.

    Fano's inequality with all candidates alike: log2 m + P log2 P + (1 − P) log2((1 − P)/(m − 1)),
    which is also the rate by which brain-computer interfaces are compared (Wolpaw et al. 2002).

    Parameters
    ----------
    share : float
        Top-1 identification, P.
    candidates : int
        m, at least 2.

    Returns
    -------
    float
        From 0 at chance (and below) to log2 m.
    """
    if not 0 <= share <= 1 or candidates < 2:
        raise DataError(f"found a share of {share} among {candidates} candidates, expected 0 to 1 "
                        "among 2 or more")
    if share <= 1 / candidates:
        return 0.0
    wrong = 1 - share
    rest = wrong * np.log2(wrong / (candidates - 1)) if wrong else 0.0
    return float(np.log2(candidates) + share * np.log2(share) + rest)
