"""Ridge regression for many targets at once, its strength chosen per target by cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh

from recon_lib.common import errors
from recon_lib.common.errors import DataError, as_numbers
from recon_lib.data import splits

# Strengths to try, in units of the mean eigenvalue of x'x, so that the scale of x does not matter.
STRENGTHS = np.logspace(-3, 3, 13)


@dataclass
class Ridge:
    """A fitted ridge regression, with the predictions that it was chosen by.

    Attributes
    ----------
    weights : ndarray (p, targets)
    x_mean, y_mean : ndarray (p,), (targets,)
    strength : ndarray (targets,)
        The penalty in units of the mean eigenvalue of x'x.
    out_of_fold : ndarray (n, targets)
        What was predicted for each training row by a fit that had not seen its group. These
        predictions are as noisy as those for new data; those of the final fit are not.
    r2 : ndarray (targets,)
        Cross-validated share of variance; negative when the mean predicts better.
    """

    weights: np.ndarray
    x_mean: np.ndarray
    y_mean: np.ndarray
    strength: np.ndarray
    out_of_fold: np.ndarray
    r2: np.ndarray

    def predict(self, x):
        """Predict the targets (n, targets) of the rows `x` (n, p).

        Raises
        ------
        DataError
            If `x` has other columns than the fit.
        """
        x = as_numbers(x, "x").astype(self.weights.dtype, copy=False)
        if x.shape[-1:] != self.x_mean.shape:
            raise DataError(f"found x {x.shape}, expected (n, {len(self.x_mean)}): give the "
                            "columns that the ridge was fitted to")
        return (x - self.x_mean) @ self.weights + self.y_mean


def fit_ridge(x: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None,
              strengths: ArrayLike = STRENGTHS, seed: int = 0) -> Ridge:
    """Fit y ≈ x w + b with a squared-norm penalty on w, one strength for each target.

    The strength of a target is the one whose predictions, out of five folds, have the least squared
    error. One eigendecomposition per fold serves all strengths and all targets: of x'x, or of
    xx' where there are fewer rows than columns.

    Parameters
    ----------
    x : array_like (n, p)
    y : array_like (n, targets)
    groups : array_like (n,), optional
        Rows of one group (an image's repeats, a run's trials) are never split between
        folds. Default: every row is its own group.
    strengths : array_like
        Penalties to try, in units of the mean eigenvalue of x'x.

    Returns
    -------
    Ridge
        float32 when x and y are, else float64.

    Raises
    ------
    DataError
        If the shapes disagree, something is not finite, or there is not one group a row.
    """
    x = errors.check(x, ("n", "p"), what="x (drop trials or voxels without a value)")
    y = errors.check(y, (len(x), "targets"), what="y (one row for each trial, none missing)")
    kind = np.float32 if x.dtype == y.dtype == np.float32 else np.float64
    x, y = x.astype(kind, copy=False), y.astype(kind, copy=False)
    groups = errors.one_label_each(np.arange(len(x)) if groups is None else groups)
    if len(groups) != len(x):
        raise DataError(f"found {len(groups)} groups for {len(x)} rows of x, expected as many: "
                        "give the group of each trial")
    parts = splits.folds(groups, min(5, len(np.unique(groups))), seed)
    strengths = errors.check(strengths, ("strengths",), what="the list of strengths").astype(kind)

    # First pass: the squared error of each strength and target, summed over folds.
    fits, error = [], np.zeros((len(strengths), y.shape[1]))
    for train, test in parts:
        fits.append(_decompose(x[train], y[train]))
        seen = (x[test] - fits[-1]["x_mean"]) @ fits[-1]["basis"]  # (test rows, rank)
        fits[-1]["seen"], left = seen, y[test] - fits[-1]["y_mean"]
        if len(seen) > seen.shape[1]:  # error that no weights can explain: once, then drop rows
            whole = np.square(left, dtype=np.float64).sum(0)
            turned, seen = np.linalg.qr(seen)
            left = turned.T @ left  # (rank, targets)
            error += whole - np.square(left, dtype=np.float64).sum(0)
        for i, strength in enumerate(strengths):
            error[i] += np.square(left - seen @ _shrink(fits[-1], strength),
                                  dtype=np.float64).sum(0)
    strength = strengths[error.argmin(0)]  # (targets,)

    # Second pass: the predictions at the strengths chosen, then the fit to all rows.
    out_of_fold = np.empty_like(y)
    for (_, test), fit in zip(parts, fits, strict=True):
        out_of_fold[test] = fit["seen"] @ _shrink(fit, strength) + fit["y_mean"]
    fit = _decompose(x, y)
    spread = np.square(y - y.mean(0), dtype=np.float64).sum(0)
    return Ridge(weights=fit["basis"] @ _shrink(fit, strength),
                 x_mean=fit["x_mean"],
                 y_mean=fit["y_mean"],
                 strength=strength,
                 out_of_fold=out_of_fold,
                 r2=1 - error.min(0) / np.where(spread > 0, spread, 1))


def fit_banded_ridge(families: dict, y: ArrayLike, choices: Sequence[Sequence[str]],
                     groups: ArrayLike | None = None, seed: int = 0) -> Ridge:
    """Fit a ridge regression for each target to the families of features that predict it best.

    With one penalty for all features, a target that needs few of them is predicted worse because of
    the rest. So each of the `choices`, sets of families, is fitted, and each target keeps the set
    with the best cross-validated R²: a banded ridge whose bands are on or off (cf. Dupré la Tour et
    al. 2022, doi:10.1016/j.neuroimage.2022.119728).

    Each family (n, p) is scaled to a total variance of 1; `groups` are as for `fit_ridge`. The
    `Ridge` predicts the targets from all families side by side, in their order; the weights of
    families that a target does not use are 0.
    """
    scale = {k: np.sqrt(np.var(v, axis=0).sum()) or 1.0 for k, v in families.items()}
    owner = np.repeat(list(families), [np.shape(v)[1] for v in families.values()])  # of each column
    scales = np.array([scale[k] for k in owner])[:, None]
    best = None
    for names in choices:
        fit = fit_ridge(np.hstack([families[k] / scale[k] for k in names]), y, groups, seed=seed)
        if best is None:
            targets = fit.weights.shape[1]
            best = Ridge(np.zeros((len(owner), targets), fit.weights.dtype),
                         np.hstack([np.mean(v, axis=0) for v in families.values()]), fit.y_mean,
                         fit.strength.copy(), fit.out_of_fold.copy(), np.full(targets, -np.inf))
        better = fit.r2 > best.r2
        used = np.concatenate([np.flatnonzero(owner == k) for k in names])
        best.weights[:, better] = 0
        best.weights[np.ix_(used, better)] = fit.weights[:, better] / scales[used]
        best.strength[better], best.r2[better] = fit.strength[better], fit.r2[better]
        best.out_of_fold[:, better] = fit.out_of_fold[:, better]
    return best


def _decompose(x, y):
    """Write the ridge weights as basis @ (projected / (eigenvalues + penalty))."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    if len(x) >= x.shape[1]:
        eigenvalues, basis = eigh(x.T @ x, driver="evd")
        projected = basis.T @ (x.T @ y)
    else:  # the same weights by the other road: w = x' (xx' + penalty)⁻¹ y
        eigenvalues, vectors = eigh(x @ x.T, driver="evd")
        basis, projected = x.T @ vectors, vectors.T @ y
    eigenvalues = np.maximum(eigenvalues, 0)
    unit = eigenvalues.sum() / x.shape[1]  # the mean eigenvalue of x'x, by either road
    return {"x_mean": x_mean, "y_mean": y_mean, "basis": basis, "projected": projected,
            "eigenvalues": eigenvalues, "unit": unit if unit > 0 else x.dtype.type(1)}


def _shrink(fit, strength):
    """Weights in the basis (rank, targets), for one strength or one for each target."""
    return fit["projected"] / (fit["eigenvalues"][:, None] + fit["unit"] * strength)
