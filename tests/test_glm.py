"""Designs, least squares and single-trial betas against nilearn and closed forms."""

import numpy as np
import pandas as pd
import pytest
from nilearn.glm.contrasts import compute_contrast
from nilearn.glm.first_level import make_first_level_design_matrix, run_glm

from recon_lib.bold import hrf
from recon_lib.bold.design import cosine_drift, design_matrix, variance_inflation
from recon_lib.bold.events import peak_height
from recon_lib.bold.glm import (
    fit_trials,
    percent_change,
    single_trial_betas,
    trial_design,
    trial_estimator,
)
from recon_lib.bold.regression import ar1, autocorrelation, ols, whiten
from recon_lib.common.errors import DataError

TR, VOLUMES = 2.0, 194
ONSETS = 6 + 10 * np.arange(37) + np.random.default_rng(3).uniform(0, 0.3, 37)


def nilearn_design(conditions, onsets=ONSETS, name="spm", **more):
    events = pd.DataFrame({"onset": onsets, "duration": 1.0, "trial_type": conditions})
    return make_first_level_design_matrix(
        np.arange(VOLUMES) * TR, events, hrf_model=name, high_pass=0.01, **more
    )


def ar_noise(rho, volumes, voxels, seed=0):
    noise = np.random.default_rng(seed).normal(size=(volumes, voxels))
    noise[0] /= np.sqrt(1 - rho**2)
    for t in range(1, volumes):
        noise[t] += rho * noise[t - 1]
    return noise


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(1)
    conditions = [("face", "house", "shoe")[i % 3] for i in range(37)]
    design, names = design_matrix(VOLUMES, TR, ONSETS, conditions)
    bold = 1000 + 10 * ar_noise(0.3, VOLUMES, 40)
    bold += design[:, :3] @ rng.normal(0, 100, (3, 40))
    return bold, design, names


@pytest.mark.parametrize("name", ["spm", "glover + derivative", "spm + derivative + dispersion"])
def test_design_equals_nilearn(name):
    conditions = [("face", "house")[i % 2] for i in range(37)]
    motion = np.random.default_rng(0).normal(size=(VOLUMES, 2))
    theirs = nilearn_design(conditions, name=name, add_regs=motion)
    mine, names = design_matrix(VOLUMES, TR, ONSETS, conditions, hrf=name, confounds=motion)
    np.testing.assert_allclose(mine, theirs.to_numpy(), atol=1e-10)
    assert [n for n in names if "drift" in n] == [n for n in theirs.columns if "drift" in n]


def test_drift_is_orthogonal():
    drift = cosine_drift(VOLUMES, TR)
    gram = drift.T @ drift
    np.testing.assert_allclose(gram, np.diag([1.0] * 7 + [VOLUMES]), atol=1e-10)
    assert cosine_drift(20, 2.0, high_pass=0.001).shape == (20, 1)


def test_ols_equals_nilearn(example):
    bold, design, _ = example
    labels, results = run_glm(bold, design, noise_model="ols")
    fit = ols(bold, design)
    np.testing.assert_allclose(fit.betas, results[labels[0]].theta, atol=1e-8)
    np.testing.assert_allclose(fit.r2, results[labels[0]].r_square, atol=1e-8)
    weights = np.eye(len(design.T))[0] - np.eye(len(design.T))[1]
    theirs = compute_contrast(labels, results, weights, stat_type="t")
    mine = fit.contrast(weights)
    np.testing.assert_allclose(mine.effect, theirs.effect.ravel(), atol=1e-8)
    np.testing.assert_allclose(mine.error**2, theirs.variance.ravel(), rtol=1e-8)
    np.testing.assert_allclose(mine.t, theirs.stat().ravel(), atol=1e-8)
    one_sided = np.where(mine.t > 0, mine.p / 2, 1 - mine.p / 2)
    np.testing.assert_allclose(one_sided, theirs.p_value(), atol=1e-8)


def test_f_test_equals_nilearn(example):
    bold, design, _ = example
    rows = np.eye(len(design.T))[:3]
    for noise_model, fit in (("ols", ols(bold, design)), ("ar1", ar1(bold, design))):
        labels, results = run_glm(bold, design, noise_model=noise_model)
        if noise_model == "ar1":
            fit = ar1(bold, design, rho=labels.astype(float))
        theirs = compute_contrast(labels, results, rows, stat_type="F")
        mine = fit.f_test(rows)
        np.testing.assert_allclose(mine.f, theirs.stat().ravel(), rtol=1e-8)
        np.testing.assert_allclose(mine.p, theirs.p_value().ravel(), atol=1e-8)


def test_ar1_equals_nilearn_up_to_its_grid(example):
    bold, design, _ = example
    labels, results = run_glm(bold, design, noise_model="ar1")
    weights = np.eye(len(design.T))[0]
    theirs = compute_contrast(labels, results, weights, stat_type="t")
    same = ar1(bold, design, rho=labels.astype(float)).contrast(weights)
    np.testing.assert_allclose(same.effect, theirs.effect.ravel(), atol=1e-8)
    np.testing.assert_allclose(same.t, theirs.stat().ravel(), atol=1e-8)
    fit = ar1(bold, design)
    assert np.abs(fit.rho[fit.group] - labels.astype(float)).max() < 0.0101  # one grid step
    assert np.abs(fit.contrast(weights).t / theirs.stat().ravel() - 1).max() < 0.03


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_autocorrelation_corrected_for_a_large_design(rho):
    conditions = [f"trial{i:02d}" for i in range(37)]
    design, _ = design_matrix(VOLUMES, TR, ONSETS, conditions)
    residuals = ols(ar_noise(rho, VOLUMES, 2000, seed=4), design).residuals
    assert autocorrelation(residuals).mean() < rho - 0.2
    assert autocorrelation(residuals, design).mean() == pytest.approx(rho, abs=0.015)


def test_prewhitening_makes_t_honest():
    """Under slow noise OLS finds too much; whitening brings the false alarms back to 5 %."""
    conditions = ["task" if i % 8 < 4 else "rest" for i in range(37)]
    design, names = design_matrix(VOLUMES, TR, ONSETS, conditions)
    weights = np.array([n == "task" for n in names]) - 1.0 * np.array([n == "rest" for n in names])
    noise = ar_noise(0.5, VOLUMES, 3000, seed=5)
    naive = (ols(noise, design).contrast(weights).p < 0.05).mean()
    rho = autocorrelation(ols(noise, design).residuals, design)
    honest = (ar1(noise, design, rho).contrast(weights).p < 0.05).mean()
    assert naive > 0.15 and 0.035 < honest < 0.075


def test_float32_stays_float32(example):
    bold, design, _ = example
    fit = ols(bold.astype(np.float32), design)
    assert fit.betas.dtype == np.float32
    weights = np.eye(len(design.T))[0]
    exact = ols(bold, design).contrast(weights)
    assert np.abs(fit.contrast(weights).effect - exact.effect).max() < 0.01 * exact.error.min()


def test_variance_inflation_by_hand():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300))
    design = np.column_stack([a, a + b, np.ones(300)])
    r = np.corrcoef(a, a + b)[0, 1]
    np.testing.assert_allclose(variance_inflation(design), 1 / (1 - r**2))


def test_lsa_equals_nilearn():
    bold = 1000 + 10 * ar_noise(0.3, VOLUMES, 30)
    design = nilearn_design([f"trial{i:02d}" for i in range(37)])
    labels, results = run_glm(bold, design.to_numpy(), noise_model="ols")
    kernel = hrf.spm_hrf(TR)
    theirs = results[labels[0]].theta[:37] * peak_height(kernel, 1.0, TR)
    mine = trial_estimator(ONSETS, VOLUMES, TR, kernel) @ bold
    np.testing.assert_allclose(mine, theirs, atol=1e-8)
    betas = fit_trials(bold, ONSETS, TR)
    np.testing.assert_allclose(betas, mine, rtol=1e-5, atol=1e-4)


def test_lss_equals_one_model_per_trial():
    bold = 1000 + 10 * ar_noise(0.3, VOLUMES, 30)
    motion = np.random.default_rng(0).normal(size=(VOLUMES, 3))
    kernel = hrf.spm_hrf(TR)
    mine = trial_estimator(ONSETS, VOLUMES, TR, kernel, method="lss", confounds=motion) @ bold
    for i in range(0, 37, 6):
        conditions = np.where(np.arange(37) == i, "a", "others")
        design = nilearn_design(conditions, add_regs=motion).to_numpy()
        labels, results = run_glm(bold, design, noise_model="ols")
        theirs = results[labels[0]].theta[0] * peak_height(kernel, 1.0, TR)
        np.testing.assert_allclose(mine[i], theirs, atol=1e-8)


@pytest.mark.parametrize("method", ["lsa", "lss"])
def test_true_betas_come_back_in_percent(method):
    """Without noise LSA is exact with each voxel's own HRF; LSS nearly, trials being apart."""
    rng = np.random.default_rng(2)
    choice = np.array([0, 5, 5, 13, 19])
    truth = rng.normal(1, 0.3, (37, 5))
    signal = np.column_stack([
        trial_design(ONSETS, VOLUMES, TR, hrf.library(TR)[shape]) @ truth[:, v]
        for v, shape in enumerate(choice)
    ])
    drift = cosine_drift(VOLUMES, TR) @ rng.normal(size=(8, 5))
    drift -= (signal + drift).mean(0)  # the baseline is the mean over the run
    bold = rng.uniform(500, 1500, 5) * (1 + (signal + drift) / 100)
    betas = single_trial_betas(bold, ONSETS, TR, hrf=choice, method=method)
    assert betas.dtype == np.float32
    if method == "lsa":
        np.testing.assert_allclose(betas, truth, atol=1e-4)
    else:
        each = [np.corrcoef(b, t)[0, 1] for b, t in zip(betas.T, truth.T, strict=True)]
        assert min(each) > 0.8


def test_one_trial_is_enough():
    bold = 100 + ar_noise(0.0, 40, 3)
    kernel = hrf.spm_hrf(TR)
    lsa = trial_estimator([10.0], 40, TR, kernel)
    np.testing.assert_allclose(trial_estimator([10.0], 40, TR, kernel, method="lss"), lsa)
    assert single_trial_betas(bold, [10.0], TR).shape == (1, 3)


def test_nan_and_flat_voxels_stay_their_own_problem():
    bold = (1000 + 10 * ar_noise(0.3, VOLUMES, 5)).astype(np.float32)
    good = single_trial_betas(bold, ONSETS, TR)
    bold[:, 1] = 0
    bold[7, 3] = np.nan
    betas = single_trial_betas(bold, ONSETS, TR)
    assert np.isnan(betas[:, [1, 3]]).all()
    np.testing.assert_allclose(betas[:, [0, 2, 4]], good[:, [0, 2, 4]], rtol=1e-4, atol=1e-5)


def test_bad_input_is_one_line():
    bold = 1000 + ar_noise(0.0, VOLUMES, 4)
    with pytest.raises(DataError, match="cannot be told apart"):
        single_trial_betas(bold, [10.0, 10.0, 30.0], TR)
    with pytest.raises(DataError, match="cannot be told apart"):
        single_trial_betas(bold, [10.0, 5000.0], TR)  # milliseconds, or another run's
    with pytest.raises(DataError, match="demeaned"):
        percent_change(bold - bold.mean(0))
    with pytest.raises(DataError, match="expected \\(194, columns\\)"):
        single_trial_betas(bold, ONSETS, TR, confounds=np.ones((10, 2)))
    with pytest.raises(DataError, match="NaN"):
        single_trial_betas(bold, ONSETS, TR, confounds=np.full((VOLUMES, 1), np.nan))
    with pytest.raises(DataError, match="unknown method"):
        single_trial_betas(bold, ONSETS, TR, method="lsq")
    with pytest.raises(DataError, match="one per voxel"):
        single_trial_betas(bold, ONSETS, TR, hrf=np.zeros(3, int))
    with pytest.raises(DataError, match="expected \\(volumes, voxels\\)"):
        ols(bold[0], np.ones((VOLUMES, 1)))
    with pytest.raises(DataError, match="expected \\(194, columns\\)"):
        ols(bold, np.ones((10, 1)))
    with pytest.raises(DataError, match="degrees of freedom"):
        ols(bold, np.eye(VOLUMES))
    with pytest.raises(DataError, match="37 onsets but 2 conditions"):
        design_matrix(VOLUMES, TR, ONSETS, ["a", "b"])
    with pytest.raises(DataError, match="9 columns"):
        ols(bold, np.random.default_rng(0).normal(size=(VOLUMES, 9))).contrast([1, -1])


def test_only_contrasts_that_the_design_can_tell_have_an_answer():
    rng = np.random.default_rng(0)
    a = rng.normal(size=60)
    once = np.column_stack([a, np.ones(60)])
    twice = np.column_stack([a, a, np.ones(60)])
    bold = 3 * a[:, None] + rng.normal(size=(60, 4))
    expected = ols(bold, once).contrast([1, 0])
    together = ols(bold, twice).contrast([1, 1, 0])
    for name, theirs in vars(expected).items():
        np.testing.assert_allclose(getattr(together, name), theirs, rtol=1e-9)
    for weights in ([1, 0, 0], [1, -1, 0], [2, 1, 0]):
        for call in (ols(bold, twice).contrast, ar1(bold, twice).f_test):
            with pytest.raises(DataError, match="3 columns and rank 2"):
                call(weights)
    kinds, noise = ["a"] * 36 + ["b"], rng.normal(size=(VOLUMES, 4))
    design, names = design_matrix(VOLUMES, TR, ONSETS, kinds, hrf="glover + derivative")
    for row in np.eye(len(names)):  # of full rank everything can be told
        fit = ols(noise, design * np.logspace(-3, 3, len(names)))
        assert np.isfinite(fit.contrast(row).t).all()


def test_one_coefficient_for_all_or_one_for_each_voxel(example):
    bold, design = example[0][:, :4], example[1]
    each = ar1(bold, design, np.full(4, 0.3))
    np.testing.assert_array_equal(ar1(bold, design, 0.3).betas, each.betas)
    np.testing.assert_array_equal(ar1(bold, design, 0.3).variance, each.variance)
    mixed = ar1(bold, design, [0.3, np.nan, 0.3, -0.2])
    np.testing.assert_allclose(mixed.betas[:, 1], ols(bold, design).betas[:, 1])
    np.testing.assert_allclose(mixed.betas[:, 2], each.betas[:, 2])
    for rho in ([0.3, 0.5], 7, [0.1, 0.2, -1.0, 0.3], np.inf, np.full((4, 1), 0.3)):
        with pytest.raises(DataError, match="rho has shape"):
            ar1(bold, design, rho)


def test_an_infinite_voxel_stays_its_own_problem(example):
    bold, design = example[:2]
    calls = ols, lambda y, x: ar1(y, x, np.arange(40) % 3 / 10)
    for call, good in [(call, call(bold, design).betas) for call in calls]:
        odd = bold.copy()
        odd[3, 5] = np.inf
        with np.errstate(invalid="ignore"):
            found = call(odd, design).betas
        assert np.isnan(found[:, 5]).all()
        np.testing.assert_allclose(np.delete(found, 5, 1), np.delete(good, 5, 1))


def test_conditions_and_cut_offs_that_would_be_lost_are_refused():
    for missing in ([1.0, np.nan, 1.0], ["a", np.nan, "a"], np.array(["a", None, "a"], object)):
        with pytest.raises(DataError, match="none missing"):
            design_matrix(50, TR, [4.0, 20.0, 40.0], missing)
    assert cosine_drift(100, TR, 0).tolist() == [[1.0]] * 100  # no drift was asked for
    for volumes, tr, cut in ((100, TR, -0.01), (100, TR, np.nan), (100, -TR, 0.01), (0, TR, 0.01)):
        with pytest.raises(DataError, match="expected volumes, a TR above 0 and a cut-off"):
            cosine_drift(volumes, tr, cut)


def test_names_fit_the_columns_of_kernels():
    for hrf_, count in (("spm + derivative", 2), (hrf.library(TR)[:4], 4), (hrf.library(TR)[3], 1)):
        conditions = [("face", "house")[i % 2] for i in range(37)]
        design, names = design_matrix(VOLUMES, TR, ONSETS, conditions, hrf=hrf_)
        assert design.shape[1] == len(names) == len(set(names)) == 2 * count + 8
    assert "house" in names


def test_a_contrast_of_several_rows_is_not_its_first(example):
    bold, design, _ = example
    fit, rows = ols(bold, design), np.eye(design.shape[1])[:2]
    with pytest.raises(DataError, match="2 rows; .* f_test"):
        fit.contrast(rows)
    with pytest.raises(DataError, match="zeros alone"):
        fit.contrast(rows[0] * 0)
    plain = fit.f_test(rows)
    for again in (np.vstack([rows, rows[:1] - 2 * rows[1:]]), np.vstack([rows, rows])):
        found = fit.f_test(again)  # the same question, two degrees of freedom
        assert found.df == plain.df == 2
        np.testing.assert_allclose(found.f, plain.f, rtol=1e-9)
        np.testing.assert_allclose(found.p, plain.p, rtol=1e-6, atol=1e-12)


def test_a_voxel_that_never_varies_has_no_t(example):
    bold, design = example[0][:, :3].copy(), example[1]
    bold[:, 1] = 512.3
    fit = ols(bold, design)
    weights = np.eye(design.shape[1])[0]
    for found in (fit.contrast(weights).t, fit.contrast(weights).p, fit.f_test(weights).f):
        assert np.isnan(found).tolist() == [False, True, False]


def test_whole_numbers_are_whitened_too():
    series = np.array([[10], [20], [30]])
    for kind in (int, np.int8, np.uint16, np.float32):
        np.testing.assert_allclose(whiten(series.astype(kind), 0.3), [[10], [17], [24]], rtol=1e-6)


def test_percent_change_of_a_block_outside_the_brain_is_missing():
    assert np.isnan(percent_change(np.zeros((20, 3)))).all()
    mixed = np.column_stack([np.zeros(4), [99, 101, 99, 101]])
    np.testing.assert_allclose(percent_change(mixed)[:, 1], [-1, 1, -1, 1])
