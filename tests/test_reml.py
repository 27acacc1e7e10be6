"""REML shrinkage against Henderson's mixed model equations, a textbook likelihood and the truth."""

import numpy as np
import pytest

from recon_lib.bold import hrf, reml, single_trial
from recon_lib.bold.betas import correlate_columns
from recon_lib.bold.design import cosine_drift
from recon_lib.bold.glm import percent_change, trial_design
from recon_lib.common.errors import DataError
from recon_lib.data.bold5000 import TR
from recon_lib.world import subject

VOLUMES, VOXELS = 60, 6
ONSETS = [np.array([4.0, 12.0, 21.0, 30.0, 41.0, 52.0, 77.0]), np.array([2.5, 10.0, 26.0, 61.0])]


@pytest.fixture(scope="module")
def small():
    """Two short runs of other trials, in float64, a confound each, and each voxel's HRF."""
    rng = np.random.default_rng(0)
    shape = np.array([4, 4, 9, 9, 15, 15])
    runs, confounds = [], []
    for onsets in ONSETS:
        signal = np.column_stack([
            trial_design(onsets, VOLUMES, TR, hrf.library(TR)[s]) @ rng.normal(1, 1, len(onsets))
            for s in shape])
        confounds.append(rng.normal(size=(VOLUMES, 1)))
        runs.append((1000 + 10 * (signal + rng.normal(0, 1, (VOLUMES, VOXELS))), onsets))
    return runs, confounds, shape


def textbook(runs, confounds, shape, rho, v):
    """y, fixed effects F, random effects Z of one voxel, whitened by hand, all runs stacked."""
    parts, trials = [], sum(len(o) for _, o in runs)
    drifts = [np.c_[c, cosine_drift(VOLUMES, TR)] for c in confounds]
    columns, row = sum(d.shape[1] for d in drifts), 0
    at = 0
    for (bold, onsets), drift in zip(runs, drifts, strict=True):
        white = np.eye(VOLUMES) - rho * np.eye(VOLUMES, k=-1)
        X = trial_design(onsets, VOLUMES, TR, hrf.library(TR)[shape[v]])
        F, Z = np.zeros((VOLUMES, columns + 1)), np.zeros((VOLUMES, trials))
        F[:, at : at + drift.shape[1]], F[:, -1] = drift, X.sum(1)
        Z[:, row : row + len(onsets)] = X
        at, row = at + drift.shape[1], row + len(onsets)
        y = 100 * (bold[:, v] / bold[:, v].mean() - 1)
        parts.append((white @ y, white @ F, white @ Z))
    return (np.concatenate([p[i] for p in parts]) for i in range(3))


@pytest.mark.parametrize("given", [0.0, 0.05, 3.0])
def test_the_betas_solve_hendersons_mixed_model_equations(small, given):
    runs, confounds, shape = small
    got = reml.reml_betas(runs, TR, shape, confounds, ratio=given)
    for v in range(VOXELS):
        y, F, Z = textbook(*small, got.rho[v], v)
        if given == 0:  # no deviations at all: least squares for the mean
            mean, d = np.linalg.lstsq(F, y)[0][-1], 0
        else:
            both = np.hstack([F, Z])
            left = both.T @ both
            left[F.shape[1] :, F.shape[1] :] += np.eye(Z.shape[1]) / given
            found = np.linalg.solve(left, both.T @ y)
            mean, d = found[F.shape[1] - 1], found[F.shape[1] :]
        np.testing.assert_allclose(got.mean[v], mean, atol=1e-8)
        np.testing.assert_allclose(got.betas[:, v], mean + d, atol=1e-8)


def log_likelihoods(small, shape, rho, v):
    """-2 log L = (n - p) log yᵀPy + log|V| + log|FᵀV⁻¹F| for each of `RATIOS`, by hand."""
    y, F, Z = textbook(*small[:2], shape, rho[v], v)
    for ratio in reml.RATIOS:
        V = np.eye(len(y)) + ratio * Z @ Z.T
        inner = F.T @ np.linalg.solve(V, F)
        P = np.linalg.inv(V) - np.linalg.solve(V, F) @ np.linalg.solve(
            inner, np.linalg.solve(V, F).T)
        yield -0.5 * ((len(y) - F.shape[1]) * np.log(y @ P @ y)
                      + np.linalg.slogdet(V)[1] + np.linalg.slogdet(inner)[1])


def test_the_likelihood_is_the_restricted_one(small):
    runs, confounds, shape = small
    spaces, rho = reml.rotated(runs, TR, shape, confounds)
    likelihood = np.log(reml.restricted_likelihood(spaces))
    for v in range(VOXELS):
        want = np.array(list(log_likelihoods(small, shape, rho, v)))
        np.testing.assert_allclose(likelihood[:, v], want - want.max(), atol=1e-7)


def test_the_likelihood_of_each_shape_can_be_compared(small):
    runs, confounds, _ = small
    rho, shapes = reml.autocorrelations(runs, TR, confounds), [2, 9, 18]
    found = reml.shape_likelihood(runs, TR, confounds)[shapes]
    for v in range(2):
        want = np.array([list(log_likelihoods(small, np.full(VOXELS, k), rho, v)) for k in shapes])
        np.testing.assert_allclose(found[..., v] - found[0, 0, v], want - want[0, 0], atol=1e-6)


def test_hrf_and_ratio_are_chosen_together(small):
    """The likeliest pair under a prior that all voxels share; betas are those of that pair."""
    runs, confounds, _ = small
    chain = single_trial.estimate(runs, TR, confounds)
    likelihood = np.exp(reml.shape_likelihood(runs, TR, confounds))
    posterior = likelihood * chain.prior[:, :, None]
    posterior = posterior / posterior.sum((0, 1))
    assert chain.prior.sum() == pytest.approx(1)
    np.testing.assert_array_equal(chain.hrf, posterior.sum(1).argmax(0))
    for v in range(VOXELS):
        mine = posterior[chain.hrf[v], :, v]
        assert chain.ratio[v] == pytest.approx(mine @ reml.RATIOS / mine.sum())
    same = reml.reml_betas(runs, TR, chain.hrf, confounds, ratio=chain.ratio)
    np.testing.assert_allclose(chain.betas, same.betas)
    fit = single_trial.hrf_fit(runs, TR, confounds)
    np.testing.assert_allclose(chain.r2, fit[chain.hrf, np.arange(VOXELS)])


def test_standard_errors_count_the_choice_of_the_hrf(small):
    """The law of total variance, a shape at a time, from posterior chances made by hand."""
    runs, confounds, _ = small
    chain = single_trial.estimate(runs, TR, confounds)
    got = single_trial.standard_errors(runs, TR, chain, confounds)
    posterior = np.exp(reml.shape_likelihood(runs, TR, confounds)) * chain.prior[:, :, None]
    posterior = posterior / posterior.sum((0, 1))
    want = 0
    for shape, chance in enumerate(posterior):
        one = reml.reml_betas(runs, TR, np.full(VOXELS, shape), confounds,
                              ratio=reml.RATIOS @ chance / np.maximum(chance.sum(0), 1e-300))
        away = one.betas - chain.betas
        want = want + chance.sum(0) * (one.error**2 + away**2)
    np.testing.assert_allclose(got, np.sqrt(want), rtol=0.005)  # shapes below .001 are left out
    dead = [(bold * np.r_[0, np.ones(VOXELS - 1)], onsets) for bold, onsets in runs]
    found = single_trial.estimate(dead, TR, confounds)
    errors = single_trial.standard_errors(dead, TR, found, confounds)
    assert np.isnan(errors[:, 0]).all() and np.isfinite(errors[:, 1:]).all()


@pytest.mark.slow
def test_errors_are_as_large_as_they_are_said_to_be():
    runs, truth = scanned(0.03, True)
    chain = single_trial.estimate(runs, TR)
    said = single_trial.standard_errors(runs, TR, chain)
    alone = reml.reml_betas(runs, TR, chain.hrf, ratio=chain.ratio).error
    ratio, plain = (np.sqrt(((chain.betas - truth) ** 2).mean() / (error**2).mean())
                    for error in (said, alone))
    assert 0.9 < ratio < 1.15 and ratio < plain


def test_the_common_prior_is_the_likeliest(small):
    """No other prior, of many, makes the data of all voxels likelier (by more than 1 %)."""
    runs, confounds, shape = small
    likelihood = reml.restricted_likelihood(reml.rotated(runs, TR, shape, confounds)[0])
    best = np.log(reml.common_prior(likelihood) @ likelihood).sum()
    rng = np.random.default_rng(0)
    others = rng.dirichlet(np.full(len(likelihood), 0.3), 2000)
    one = np.eye(len(likelihood))
    assert np.log(np.vstack([others, one]) @ likelihood).sum(1).max() < best + 0.01


def scanned(snr, dense, silent=0, seed=0):
    """Ten simulated runs of 240 voxels: (runs, truth)."""
    design = subject.make_design(seed, (10,), *((92, 370) if dense else (8, 32)))
    person = subject.make_subject({"LHPPA": 240}, seed, 1, snr)
    person.mean[:silent] = person.amplitude[:silent] = 0
    rng = np.random.default_rng(seed)
    truth = subject.true_betas(person, rng.normal(size=(design.image.max() + 1, 240)), design)
    runs, order = [], []
    for _, _, mine, bold in subject.bold_runs(person, truth, design, seed):
        runs.append((bold, design.onset[mine]))
        order.append(mine)
    return runs, truth[np.concatenate(order)]


def ridge_betas(run, shape, ratio):
    """The same shrinkage towards 0, of one run, by the textbook: (trials, voxels)."""
    bold, onsets = run
    y = percent_change(bold).astype(float)
    drift = np.linalg.qr(cosine_drift(len(y), TR))[0]
    y -= drift @ (drift.T @ y)
    out = np.empty((len(onsets), len(shape)))
    for v, kernel in enumerate(hrf.library(TR)[shape]):
        X = trial_design(onsets, len(y), TR, kernel)
        X -= drift @ (drift.T @ X)
        out[:, v] = np.linalg.solve(X.T @ X + np.eye(len(onsets)) / ratio[v], X.T @ y[:, v])
    return out


@pytest.mark.parametrize("snr, dense, silent", [(0.03, False, 0), *(
    pytest.param(*kind, marks=pytest.mark.slow)
    for kind in ((0.03, True, 0), (0.2, True, 0), (0.1, True, 120)))])
def test_units_are_kept_and_the_truth_is_nearer_than_by_ridge(snr, dense, silent):
    runs, truth = scanned(snr, dense, silent)
    choice = single_trial.hrf_fit(runs, TR).argmax(0)
    mine = reml.reml_betas(runs, TR, choice)
    ridge = np.concatenate([ridge_betas(run, choice, mine.ratio) for run in runs])
    seen = np.arange(truth.shape[1]) >= silent

    def error(betas):
        return np.sqrt(((betas - truth)[:, seen] ** 2).mean(0)) / truth[:, seen].std(0)

    gain = (correlate_columns(mine.betas, truth) - correlate_columns(ridge, truth))[seen]
    assert gain.mean() > 2 * gain.std() / np.sqrt(seen.sum())
    assert np.median(error(mine.betas)) < 1.1 and np.median(error(ridge)) > 1.5
    large = seen & (np.abs(truth.mean(0)) > 0.3)
    kept = np.median(mine.betas.mean(0)[large] / truth.mean(0)[large])  # of the mean response
    assert kept == pytest.approx(1, abs=0.05)
    if silent:  # voxels without a response: shared noise looks like one, but less so
        assert mine.ratio[:silent].mean() < 0.7 * mine.ratio[seen].mean()


def test_a_trial_without_data_gets_the_mean_response(small):
    runs, confounds, shape = small
    late = [(bold, np.r_[onsets, VOLUMES * TR - 0.5]) for bold, onsets in runs]
    got = reml.reml_betas(late, TR, shape, confounds, ratio=0.1)
    ends = np.cumsum([len(o) for _, o in late]) - 1
    np.testing.assert_allclose(got.betas[ends], np.tile(got.mean, (2, 1)), atol=1e-12)


def test_odd_voxels_and_choices(small):
    runs, confounds, shape = small
    whole = reml.reml_betas(runs, TR, shape, confounds, ratio=0.1)
    broken = [(bold.copy(), onsets) for bold, onsets in runs]
    broken[0][0][5, 1] = np.nan  # one voxel of one run
    broken[1][0][:, 2] = 0  # outside the brain
    got = reml.reml_betas(broken, TR, shape, confounds, ratio=0.1)
    first = len(runs[0][1])
    assert np.isnan(got.betas[:first, 1]).all() and np.isfinite(got.betas[first:, 1]).all()
    assert np.isnan(got.betas[first:, 2]).all() and np.isfinite(got.betas[:first, 2]).all()
    np.testing.assert_allclose(got.betas[:, 3:], whole.betas[:, 3:], atol=1e-12)
    assert np.isfinite(reml.reml_betas(broken, TR, shape, confounds).betas[:, 3:]).all()
    for ratio in (-1, np.ones(VOXELS - 1)):
        with pytest.raises(DataError, match="expected one of 0 or more for each of 6 voxels"):
            reml.reml_betas(runs, TR, shape, confounds, ratio=ratio)
