"""Least squares for every voxel at once: OLS, AR(1) prewhitening and contrasts.

Arrays are `(volumes, voxels)`. Products run in the precision of the BOLD, so that float32 stays
small and fast; designs, their inverses and sums of squares are float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import fdtrc, ndtri, stdtr

from recon_lib.common.errors import DataError, as_numbers, check

DEPENDENT = 1e-3  # of its length that a column must add to those before


@dataclass
class Contrast:
    """A weighted sum of betas per voxel: its size, standard error, t, two-sided p, freedom."""

    effect: np.ndarray
    error: np.ndarray
    t: np.ndarray
    p: np.ndarray
    df: int

    @property
    def z(self):
        """(voxels,) array: the normal deviate that is as unlikely as t, at most 37 in size."""
        return np.copysign(_deviate(self.p / 2), self.t)


@dataclass
class FTest:
    """Several weighted sums of betas tested together: F per voxel, p, degrees of freedom."""

    f: np.ndarray
    p: np.ndarray
    df: int

    @property
    def z(self):
        """(voxels,) array: the normal deviate that is as unlikely as F, at most 37."""
        return _deviate(self.p)


def _deviate(p):
    return -ndtri(np.maximum(p, 1e-300))


@dataclass
class Fit:
    """A fitted GLM. Voxels in one `group` share an autocorrelation, hence a covariance.

    Attributes
    ----------
    bold : (volumes, voxels) array
    design : (volumes, k) array
    betas : (k, voxels) array
    rho : (groups,) array
        AR(1) coefficient of each group; a single 0 for OLS.
    group : (voxels,) int array
    covariance : (groups, k, k) array
        (XᵀX)⁻¹ of the whitened design; times `variance` it is the covariance of the betas.
    df : int
        Volumes minus the rank of the design.
    """

    bold: np.ndarray
    design: np.ndarray
    betas: np.ndarray
    rho: np.ndarray
    group: np.ndarray
    covariance: np.ndarray
    df: int

    @property
    def residuals(self):
        """(volumes, voxels) array: what the design does not explain, not whitened."""
        return self.bold - self.design.astype(self.bold.dtype) @ self.betas

    @cached_property
    def constant(self):
        """(voxels,) bool array: which voxels never vary, so that nothing can be tested there."""
        return np.ptp(self.bold, axis=0) == 0

    @cached_property
    def variance(self):
        """(voxels,) array: variance of the whitened noise."""
        rss = np.empty(self.bold.shape[1])
        design = self.design.astype(self.bold.dtype)
        for start in range(0, len(rss), 1024):  # so few residuals stay in the cache
            some = slice(start, start + 1024)
            residuals = self.bold[:, some] - design @ self.betas[:, some]
            for g, columns in _groups(self.group[some], len(self.rho)):
                white = whiten(residuals[:, columns], self.rho[g])
                rss[some][columns] = np.einsum("tv,tv->v", white, white)
        return rss / self.df

    @property
    def errors(self):
        """(k, voxels) array: standard error of every beta."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2)[self.group].T * self.variance)

    @cached_property
    def r2(self):
        """(voxels,) array: share of the variance over time that the design explains."""
        return 1 - self.residuals.var(0) / self.bold.var(0)

    def contrast(self, weights):
        """Test one weighted sum of betas in every voxel.

        Parameters
        ----------
        weights : (k,) array

        Returns
        -------
        Contrast
            t and p are NaN where a voxel never varies.

        Raises
        ------
        DataError
            If there are several rows, or the design cannot tell it, see `estimable`.
        """
        weights = estimable(weights, self.design)
        if len(weights) != 1:
            raise DataError(f"a contrast of {len(weights)} rows; expected one row of weights: test "
                            "several together with f_test")
        effect = weights[0] @ self.betas
        scale = np.einsum("i,gij,j->g", weights[0], self.covariance, weights[0])[self.group]
        error = np.sqrt(scale * self.variance)
        return _tested(np.where(self.constant, np.nan, effect), effect, error, self.df)

    def f_test(self, weights):
        """Test several weighted sums together: is any of them not zero?

        Parameters
        ----------
        weights : (rows, k) array
            Rows that are sums of others add no degree of freedom.

        Returns
        -------
        FTest

        Raises
        ------
        DataError
            If the design cannot tell one of them, see `estimable`.
        """
        weights = _svd(estimable(weights, self.design))[2]  # independent rows, the same question
        effect = weights @ self.betas  # (rows, voxels)
        inverse = np.linalg.inv(weights @ self.covariance @ weights.T)  # (groups, rows, rows)
        f = np.empty(effect.shape[1])
        for g, columns in _groups(self.group, len(self.rho)):
            f[columns] = np.einsum(
                "iv,ij,jv->v", effect[:, columns], inverse[g], effect[:, columns], optimize=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            f = np.where(self.constant, np.nan, f / (len(weights) * self.variance))
        return FTest(f, fdtrc(len(weights), self.df, np.maximum(f, 0)), len(weights))


def _tested(known, effect, error, df):
    """The `Contrast` of an effect; t is NaN where it is not known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = known / error
    return Contrast(effect, error, t, 2 * stdtr(df, -np.abs(t)), df)


def fixed_effects(contrasts: Sequence, weighted: bool = False) -> Contrast:
    """One contrast of several runs (or subjects) taken together: fixed effects.

    Parameters
    ----------
    contrasts : sequence of Contrast
        The same contrast of each run, of the same voxels.
    weighted : bool
        Weigh each run by 1 / its variance in the voxel, instead of alike.

    Returns
    -------
    Contrast
        Equal to nilearn's `compute_fixed_effects`; degrees of freedom add up.

    Raises
    ------
    DataError
        If there is no contrast, or they are of different voxels.
    """
    if not contrasts or len({np.shape(one.effect) for one in contrasts}) > 1:
        raise DataError(f"{len(contrasts)} contrasts of voxels "
                        f"{[np.shape(one.effect) for one in contrasts]}; expected one of each run, "
                        "of the same voxels")
    effect, error, t = (np.stack([getattr(one, name) for one in contrasts]).astype(float)
                        for name in ("effect", "error", "t"))
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = 1 / error**2 if weighted else np.ones_like(error)
        weight = weight / weight.sum(0)
    together = (weight * effect).sum(0)
    known = np.where(np.isfinite(t).all(0), together, np.nan)
    return _tested(known, together, np.sqrt((weight**2 * error**2).sum(0)),
                   sum(one.df for one in contrasts))


def ols(bold: np.ndarray, design: np.ndarray) -> Fit:
    """Ordinary least squares: one pseudo-inverse, one matrix product.

    With float32 BOLD every beta is within (volumes + 3) · 6e-8 · ‖X⁺‖ ‖bold‖ of the exact one, X⁺
    being the pseudo-inverse of the design: a product of so many terms rounds no worse.

    Parameters
    ----------
    bold : (volumes, voxels) array
    design : (volumes, k) array

    Returns
    -------
    Fit
        The betas of a voxel that holds NaN or infinite values are NaN.

    Raises
    ------
    DataError
        If the two disagree in volumes, or no degrees of freedom are left.
    """
    bold, design = _pair(bold, design)
    return _fit(bold, design, np.zeros(1), np.zeros(bold.shape[1], int))


def ar1(bold: np.ndarray, design: np.ndarray, rho: np.ndarray | float | None = None) -> Fit:
    """Least squares after taking out first-order autocorrelation (prewhitening).

    Each voxel is whitened with its own coefficient, rounded to 0.01. nilearn's `run_glm` with
    `noise_model="ar1"` cuts the same estimate off to 0.01 instead: results differ by what one
    step of that grid does, and are equal when both are given the same coefficients.

    Parameters
    ----------
    bold : (volumes, voxels) array
    design : (volumes, k) array
    rho : (voxels,) array or float, optional
        AR(1) coefficients, between -1 and 1; NaN is taken for 0. When left out,
        `autocorrelation` of the OLS residuals.

    Raises
    ------
    DataError
        As `ols`, or if `rho` is not one coefficient for each voxel.
    """
    bold, design = _pair(bold, design)
    voxels = bold.shape[1]
    if rho is None:
        rho = autocorrelation(ols(bold, design).residuals)
    else:
        rho = as_numbers(rho, "rho")
        if rho.shape not in ((), (voxels,)) or (np.abs(rho) >= 1).any():
            raise DataError(f"rho has shape {rho.shape} and is at most "
                            f"{np.abs(rho).max(initial=0):.3g}; expected a coefficient between -1 "
                            f"and 1 for each of {voxels} voxels")
        rho = np.broadcast_to(rho, voxels)
    levels, group = np.unique(np.round(np.nan_to_num(rho), 2), return_inverse=True)
    return _fit(bold, design, levels, group)


def autocorrelation(residuals: np.ndarray, design: np.ndarray | None = None) -> np.ndarray:
    """Correlation of each voxel's residuals with themselves one volume later.

    Parameters
    ----------
    residuals : (volumes, voxels) array
    design : (volumes, k) array, optional
        Taking out a design pulls the estimate down, the more the larger the design. Given the
        design, undo this: find the rho for which the *expected* ratio of lag-1 to lag-0
        products of residuals is the observed one. With R = I - XX⁺ and V(rho) the AR(1)
        correlation, E[rᵀDr] = tr(RDR V(rho)) is a polynomial in rho (the idea of Worsley et
        al. 2002, doi:10.1006/nimg.2001.0933).

    Returns
    -------
    (voxels,) array
    """
    residuals, volumes = as_floats(residuals, "the residuals"), len(residuals)
    products = np.einsum("tv,tv->v", residuals[1:], residuals[:-1], dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a voxel that never varies has no autocorrelation: NaN
        ratio = products / np.einsum("tv,tv->v", residuals, residuals, dtype=np.float64)
    if design is None:
        return ratio * volumes / (volumes - 1)
    design = check(design, (volumes, "columns"), what="the design").astype(float)
    project = np.eye(volumes) - design @ np.linalg.pinv(design)
    shifted = project[:, 1:] @ project[:-1]
    lags = np.arange(volumes)
    powers = np.linspace(-0.95, 0.98, 387)[:, None] ** lags  # (grid, lags)

    def expected(matrix):  # tr(matrix V): add up the diagonals, weigh them by rho**lag
        matrix = matrix + matrix.T
        sums = np.array([np.trace(matrix, lag) for lag in lags])
        sums[0] /= 2
        return powers @ sums

    curve = expected(shifted) / expected(project)
    rising = np.maximum.accumulate(curve)  # interp wants an increasing curve
    return np.interp(ratio, rising, powers[:, 1])


def whiten(series: np.ndarray, rho: np.ndarray | float):
    """Subtract `rho` times the volume before; the first volume stays as it is."""
    series, rho = as_numbers(series, "the series"), as_numbers(rho, "rho")
    if rho == 0:
        return series
    out = np.array(series, np.result_type(series, np.float32))  # a share of an integer is none
    out[1:] -= out[:-1] * out.dtype.type(rho)
    return out


def as_floats(bold, what="the BOLD"):
    """BOLD (volumes, voxels), no axis empty, as floats: float64 stays, all else becomes float32."""
    bold = check(bold, ("volumes", "voxels"), False, what)
    if 0 in bold.shape:
        raise DataError(f"{what} has shape {bold.shape}; expected (volumes, voxels), none empty")
    return bold if bold.dtype == np.float64 else bold.astype(np.float32, copy=False)


def _pair(bold, design):
    """BOLD and a design of as many volumes, as floats."""
    bold = as_floats(bold)
    return bold, check(design, (len(bold), "columns"), what="the design").astype(float)


def orthonormal(columns):
    """An orthonormal basis (volumes, rank) of what columns span: as many vectors as directions.

    What is exact comes before what was read from a table, see `independent`.
    """
    return np.linalg.qr(columns[:, independent(columns)])[0]


def project_out(basis, series):
    """Remove from each series what the orthonormal basis explains."""
    basis = basis.astype(series.dtype)
    return series - basis @ (basis.T @ series)


def independent(columns):
    """Which columns are more than a sum of earlier ones: (k,) bool.

    Rounding, to float32 or to the few digits of a table, makes copies and sums look as if they
    pointed in directions of their own, and these are accidents. So a column counts only if more
    than 1/1000 of its length (about its mean) is not in the span of those before.
    """
    columns = np.asarray(columns, dtype=float)
    basis, chosen = np.empty((len(columns), 0)), np.zeros(columns.shape[1], bool)
    for i, column in enumerate(columns.T):
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)  # the second time takes out the rounding of the first
        length, varies = np.linalg.norm(rest), np.linalg.norm(column - column.mean())
        chosen[i] = length > max(DEPENDENT * varies, 1e-6 * np.linalg.norm(column))
        if chosen[i]:
            basis = np.column_stack([basis, rest / length])
    return chosen


def estimable(weights, design):
    """Contrasts as (rows, k), held against a design: only sums of its rows have one answer.

    Where columns are copies or sums of others, betas can be moved from one to the other without any
    change to the fit, so a contrast of them would be an accident of the algorithm: a `DataError`.
    """
    weights = np.atleast_2d(as_numbers(weights, "the contrast").astype(float))
    k = design.shape[1]
    if weights.ndim != 2 or weights.shape[1] != k:
        raise DataError(f"the contrast has {weights.shape[-1]} weights; the design has {k} columns")
    if not weights.any(1).all():
        raise DataError("a row of the contrast holds zeros alone; expected a weight somewhere")
    _, _, rows = _svd(design)  # (rank, k), orthonormal
    away = np.linalg.norm(weights - weights @ rows.T @ rows, axis=1)
    if not (away <= 1e-6 * np.linalg.norm(weights, axis=1)).all():
        raise DataError(f"the contrast cannot be estimated from a design of {k} columns and rank "
                        f"{len(rows)}; leave out the columns that are sums of others, or weigh "
                        "them alike")
    return weights


def _svd(design):
    """Singular value decomposition without the values that are 0 but for rounding."""
    u, values, vt = np.linalg.svd(design, full_matrices=False)
    keep = values > values.max(initial=0) * max(design.shape) * np.finfo(float).eps
    return u[:, keep], values[keep], vt[keep]


def _fit(bold, design, rho, group):
    parts = [_svd(whiten(design, level)) for level in rho]
    inverses = [(vt.T / values) @ u.T for u, values, vt in parts]
    rank = len(parts[0][1])  # whitening can be undone, so it is the same for all
    df = len(design) - rank
    if df < 1:
        raise DataError(
            f"a design of rank {rank} leaves no degrees of freedom in {len(design)} volumes; use "
            "fewer columns or more volumes")
    covariance = np.stack([inverse @ inverse.T for inverse in inverses])
    if len(rho) == 1:
        betas = inverses[0].astype(bold.dtype) @ whiten(bold, rho[0])
    else:
        betas = np.empty((design.shape[1], bold.shape[1]), bold.dtype)
        for g, columns in _groups(group, len(rho)):
            betas[:, columns] = inverses[g].astype(bold.dtype) @ whiten(bold[:, columns], rho[g])
    betas[~np.isfinite(betas)] = np.nan  # an infinite volume leaves nothing to know of the voxel
    return Fit(bold, design, betas, rho, group, covariance, df)


def _groups(group, count):
    """Pairs of group number and its columns; a lone group is a slice, which copies nothing."""
    if count == 1:
        return [(0, slice(None))]
    order = np.argsort(group, kind="stable")
    return enumerate(np.split(order, np.cumsum(np.bincount(group, minlength=count))[:-1]))
