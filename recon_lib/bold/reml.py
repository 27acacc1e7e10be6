"""Shrinkage that keeps the units: the mean response stays whole, deviations from it are shortened.

In each voxel, with y whitened (AR(1)) and free of drift, the model of all runs together is

    y = X (m + d) + e,   d ~ N(0, t s² I),   e ~ N(0, s² I).

m, the mean response, is one number for all runs and is not penalised. d, what sets each trial
apart, is. Given the ratio t of the two variances the best linear unbiased prediction of m + d
(Henderson 1975, doi:10.2307/2529430) has a closed form in the eigenbasis of each run's XᵀX; t
itself is found by restricted maximum likelihood, REML (Patterson and Thompson 1971,
doi:10.1093/biomet/58.3.545). One voxel says little about its own t, so all
voxels together estimate how common each value is, and each voxel's likelihood is weighed by that
(empirical Bayes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from recon_lib.bold import hrf as responses
from recon_lib.bold.design import nuisance_basis
from recon_lib.bold.glm import percent_change, trial_design
from recon_lib.bold.regression import autocorrelation, ols, project_out, whiten
from recon_lib.common.errors import DataError, as_numbers

RATIOS = np.r_[0, np.logspace(-3, 1, 25)]  # of the variances: trials' deviations / noise


@dataclass
class Shrinkage:
    """Betas and what was chosen for them.

    Attributes
    ----------
    betas : (trials, voxels) array
        Percent signal change, trials in order of the runs.
    mean : (voxels,) array
        The mean response m.
    ratio : (voxels,) array
        t: variance of the deviations / variance of the whitened noise; 0 gives every trial m.
    rho : (voxels,) array
        AR(1) coefficient of the noise, to one digit.
    prior : (ratios,) array or None
        Share of the voxels at each of `RATIOS`; None where the ratio was given.
    error : (trials, voxels) array
        Standard error of each beta, of m + d about its prediction, as if HRF, rho and t were known:
        in simulated scans with all three estimated, errors are 1.0 to 1.1 times as large, and 1.3
        to 1.5 times where the HRFs are of no library. `single_trial.standard_errors` counts that
        the HRF was chosen.
    """

    betas: np.ndarray
    mean: np.ndarray
    ratio: np.ndarray
    rho: np.ndarray
    prior: np.ndarray | None
    error: np.ndarray


def reml_betas(runs: Sequence, tr: float, hrf: np.ndarray, confounds: Sequence | None = None,
               durations: Sequence | float = 1.0, high_pass: float | str = 0.01,
               ratio: np.ndarray | float | None = None, prior: np.ndarray | None = None):
    """Single-trial betas that are shrunk to the voxel's mean response, not to 0.

    Parameters
    ----------
    runs : sequence of (bold, onsets)
    tr : float
        Repetition time, in seconds.
    hrf : (voxels,) int array
        A row of `hrf.library` each.
    confounds : list of (volumes, c) arrays, optional
        One per run.
    durations : float, or list of float or (trials,) arrays
        Seconds for which each picture was shown: all, or in each run.
    high_pass : float or str
        As in `design.nuisance`.
    ratio : (voxels,) array or float, optional
        t of each voxel; default: by REML, under a prior that all voxels share.
    prior : (ratios,) array, optional
        That prior, for instance `Shrinkage.prior` of other voxels; default: of these voxels.

    Returns
    -------
    Shrinkage
        A voxel that holds NaN in a run has no betas there.

    Raises
    ------
    DataError
        If there is no run, `hrf` is not a choice for each voxel, or a ratio is below 0.
    """
    spaces, rho = rotated(runs, tr, hrf, confounds, durations, high_pass)
    if ratio is None:
        likelihood = restricted_likelihood(spaces)
        prior = common_prior(likelihood) if prior is None else as_numbers(prior, "the prior")
        chance = likelihood * prior[:, None]
        ratio = RATIOS @ (chance / chance.sum(0))
    ratio = as_numbers(ratio, "the ratio")
    if ratio.shape not in ((), rho.shape) or (ratio < 0).any():
        raise DataError(f"ratios of shape {ratio.shape}, the smallest {ratio.min(initial=0):.3g}; "
                        f"expected one of 0 or more for each of {len(rho)} voxels")
    betas, mean, error = _predict(spaces, ratio)
    return Shrinkage(betas, mean, np.broadcast_to(ratio, rho.shape), rho, prior, error)


def rotated(runs, tr, hrf, confounds=None, durations=1.0, high_pass=0.01):
    """Every run as a `Space`, and the AR(1) coefficient of each voxel."""
    rho = autocorrelations(runs, tr, confounds, durations, high_pass)
    hrf, shapes = responses.check_choice(hrf, len(rho)), responses.library(tr)
    return [_rotate(series, drift, {one: design(shapes[one]) for one in np.unique(hrf)}, hrf, rho)
            for series, drift, design in each_run(runs, tr, confounds, durations, high_pass)], rho


def each_run(runs, tr, confounds=None, durations=1.0, high_pass=0.01):
    """Yield of each run the series in percent, drift's basis, and a function kernel -> design."""
    some_runs(runs, confounds, durations)
    for i, (bold, onsets) in enumerate(runs):
        series = percent_change(bold[:])
        drift = nuisance_basis(len(series), tr, high_pass, of_run(confounds, i))
        yield series, drift, partial(
            trial_design, onsets, len(series), tr, durations=of_run(durations, i))


def some_runs(runs, confounds=None, durations=1.0):
    """Stop unless there are runs of the same voxels, and confounds for each or for none."""
    if len(runs) == 0 or (confounds is not None and len(confounds) != len(runs)):
        count = "no" if confounds is None else len(confounds)
        raise DataError(f"{len(runs)} runs with {count} sets of confounds; expected one run or "
                        "more, and confounds for each or for none")
    if isinstance(durations, (list, tuple)) and len(durations) != len(runs):
        raise DataError(f"{len(durations)} durations for {len(runs)} runs; expected a list of "
                        "those of each run, or one number for all")
    voxels = [np.shape(bold)[1:] for bold, _ in runs]
    if len(set(voxels)) > 1:
        other = next(i for i, shape in enumerate(voxels) if shape != voxels[0])
        raise DataError(f"run {other + 1} has {voxels[other]} voxels, the first has {voxels[0]}; "
                        "expected the same voxels in all: take those that all runs have")


def of_run(values, run):
    """What belongs to one run: its entry of a list, or the value that is the same for all."""
    return values[run] if isinstance(values, (list, tuple)) or np.ndim(values) == 3 else values


def autocorrelations(runs, tr, confounds=None, durations=1.0, high_pass=0.01):
    """AR(1) coefficient of each voxel's noise, as a mean over runs, to one digit: (voxels,).

    The residuals are those of the mean response: all trials in one regressor, of a shape from the
    middle of the library. A voxel's coefficient depends on no other voxel. Parameters as in
    `reml_betas`.
    """
    middle, found = responses.library(tr)[10], []
    for series, drift, design in each_run(runs, tr, confounds, durations, high_pass):
        model = np.column_stack([design(middle).sum(1), drift])
        found.append(autocorrelation(ols(series, model).residuals, model))
    known = np.isfinite(found)
    mean = np.where(known, found, 0).sum(0) / np.maximum(known.sum(0), 1)
    return np.round(np.clip(mean, -0.9, 0.9), 1)


@dataclass
class Space:
    """One run, whitened and free of drift, each voxel in the eigenbasis E of its own XᵀX."""

    scores: np.ndarray  # (trials, voxels) EᵀXᵀy
    values: np.ndarray  # (trials, voxels) eigenvalues
    load: np.ndarray  # (trials, voxels) Eᵀ1, where the mean response lies
    vectors: list  # of (voxels of a group, E)
    power: np.ndarray  # (voxels,) yᵀy
    freedom: int  # volumes less the drift's columns


def _rotate(series, drift, designs, hrf, rho):
    trials = next(iter(designs.values())).shape[1]
    scores, values, load = (np.empty((trials, len(hrf)), series.dtype) for _ in range(3))
    power, vectors = np.empty(len(hrf)), []
    for level in np.unique(rho):
        mine = np.flatnonzero(rho == level)
        basis, _ = np.linalg.qr(whiten(drift, level))
        white = project_out(basis, whiten(series[:, mine], level))
        power[mine] = np.einsum("tv,tv->v", white, white, dtype=float)
        for shape in np.unique(hrf[mine]):
            here = hrf[mine] == shape
            design = project_out(basis, whiten(designs[shape], level))
            spectrum, back = np.linalg.eigh(design.T @ design)
            some = mine[here]
            scores[:, some] = (design @ back).T.astype(series.dtype) @ white[:, here]
            values[:, some] = np.maximum(spectrum, 0)[:, None]
            load[:, some] = back.sum(0)[:, None]
            vectors.append((some, back.astype(series.dtype)))
    return Space(scores, values, load, vectors, power, len(series) - drift.shape[1])


def _mean_response(spaces, ratio):
    """Generalised least squares for m, and 1 / its variance in units of the noise: (voxels,)."""
    top = bottom = 0.0
    for s in spaces:
        weight = s.load / (1 + ratio * s.values)
        top = top + np.nan_to_num((weight * s.scores).sum(0, dtype=float))
        bottom = bottom + np.where(np.isfinite(s.power), (weight * s.load * s.values).sum(0), 0)
    with np.errstate(invalid="ignore"):
        return top / bottom, bottom


def restricted_likelihood(spaces):
    """Restricted likelihood of each of `RATIOS`, beside that of the best: (ratios, voxels)."""
    sums = np.zeros((4, len(RATIOS), len(spaces[0].power)))  # of yᵀV⁻¹y, m's two sums, log |V|
    freedom = -1
    for s in spaces:
        known = np.isfinite(s.power)
        freedom = freedom + s.freedom * known
        parts = s.scores**2, s.load * s.scores, s.load**2 * s.values
        for i, ratio in enumerate(RATIOS):
            grown = 1 + ratio * s.values
            weight = 1 / grown
            explained, top, bottom = (np.einsum("tv,tv->v", p, weight) for p in parts)
            terms = s.power - ratio * explained, top, bottom, np.log(grown).sum(0)
            sums[:, i] += np.where(known, terms, 0)
    out = _log_likelihood(sums, freedom)
    return np.exp(out - out.max(0))


def shape_likelihood(runs, tr, confounds=None, durations=1.0, high_pass=0.01):
    """Log restricted likelihood of each shape of `hrf.library` with each of `RATIOS`.

    A (20, ratios, voxels) array, up to a number that is the same for all shapes and ratios of a
    voxel. All shapes have a peak of 1, so that m and the deviations have the same unit under each,
    and their likelihoods can be compared. Parameters as in `reml_betas`.
    """
    rho = autocorrelations(runs, tr, confounds, durations, high_pass)
    order = np.argsort(rho, kind="stable")  # voxels of one level lie together
    levels, starts = np.unique(rho[order], return_index=True)
    slices = [slice(*ends) for ends in zip(starts, [*starts[1:], len(rho)], strict=True)]
    shapes, freedom = responses.library(tr), np.full(len(rho), -1)
    sums = np.zeros((4, len(shapes), len(RATIOS), len(rho)))
    for series, drift, design in each_run(runs, tr, confounds, durations, high_pass):
        series, designs = series[:, order], list(map(design, shapes))
        known = np.isfinite(series).all(0)
        series[:, ~known] = 0
        freedom += (len(series) - drift.shape[1]) * known
        for level, some in zip(levels, slices, strict=True):
            basis, _ = np.linalg.qr(whiten(drift, level))
            white = project_out(basis, whiten(series[:, some], level))
            for k, one in enumerate(designs):
                sums[:, k, :, some] += known[some] * _sums(
                    project_out(basis, whiten(one, level)), white)
    out = np.empty(sums.shape[1:])
    out[..., order] = _log_likelihood(sums, freedom)
    return out


def _sums(design, white):
    """What a run adds to the four sums of the likelihood: (4, ratios, voxels)."""
    values, back = np.linalg.eigh(design.T @ design)
    values, load = np.maximum(values, 0), back.sum(0)
    scores = (design @ back).T.astype(white.dtype) @ white
    grown = 1 + RATIOS[:, None] * values  # (ratios, trials)
    weight = (1 / grown).astype(white.dtype)
    out = np.empty((4, len(RATIOS), white.shape[1]))
    out[0] = np.einsum("tv,tv->v", white, white, dtype=float) - RATIOS[:, None] * (
        weight @ scores**2)
    out[1] = (weight * load.astype(white.dtype)) @ scores
    out[2] = (weight @ (load**2 * values))[:, None]
    out[3] = np.log(grown).sum(1)[:, None]
    return out


def _log_likelihood(sums, freedom):
    rest, top, bottom, volume = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = rest - top**2 / bottom
        return -0.5 * (freedom * np.log(rest) + volume + np.log(bottom))


def common_prior(likelihood):
    """How common each ratio is among voxels: the shares, (ratios,), that make all data likeliest.

    Expectation maximisation from equal shares; voxels without a likelihood (NaN) do not count.
    """
    likelihood = likelihood[:, np.isfinite(likelihood).all(0)]
    prior = np.full(len(likelihood), 1 / len(likelihood))
    for _ in range(200 if likelihood.size else 0):
        prior = prior * (likelihood / (prior @ likelihood)).mean(1)
    return prior


def _predict(spaces, ratio):
    """Best linear unbiased prediction of m + d, m, and the prediction's standard error.

    The error of d where m is known and that of m do not correlate, so that their squares add up.
    """
    mean, weight = _mean_response(spaces, ratio)
    noise = _noise_variance(spaces, ratio, mean, weight)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a voxel without data
        of_mean = noise / weight
    tables, errors = [], []
    for s in spaces:
        grown = 1 + ratio * s.values
        shrunk = ratio * (s.scores - s.values * s.load * mean) / grown
        betas, error = np.empty_like(s.scores), np.empty_like(s.scores)
        for mine, back in s.vectors:
            betas[:, mine] = mean[mine] + back @ shrunk[:, mine]
            own = back**2 @ (np.broadcast_to(ratio, mean.shape)[mine] / grown[:, mine])
            shared = (back @ (s.load[:, mine] / grown[:, mine])) ** 2
            error[:, mine] = np.sqrt(noise[mine] * own + of_mean[mine] * shared)
        tables.append(betas)
        errors.append(error)
    return np.concatenate(tables), mean, np.concatenate(errors)


def _noise_variance(spaces, ratio, mean, weight):
    """s² of each voxel by REML, given the ratio: (voxels,)."""
    rest, freedom = -weight * mean**2, -1
    for s in spaces:
        known = np.isfinite(s.power)
        explained = (s.scores**2 / (1 + ratio * s.values)).sum(0, dtype=float)
        rest = rest + np.where(known, s.power - ratio * explained, 0)
        freedom = freedom + s.freedom * known
    with np.errstate(invalid="ignore"):
        return rest / freedom
