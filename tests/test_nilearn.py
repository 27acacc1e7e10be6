"""What a user of nilearn reaches for, each against nilearn: designs, contrasts, sample masks."""

import numpy as np
import pandas as pd
import pytest

from recon_lib import bold as bold_
from recon_lib.bold import reml
from recon_lib.bold.design import contrast_weights, design_matrix, nuisance, polynomial_drift
from recon_lib.bold.events import condition_regressors
from recon_lib.bold.glm import censor, percent_change, single_trial_betas, trial_design
from recon_lib.bold.hrf import glover_hrf, kernels, spm_hrf
from recon_lib.bold.regression import ar1, fixed_effects, ols, whiten
from recon_lib.bold.single_trial import estimate, hrf_fit
from recon_lib.common.errors import DataError

nilearn = pytest.importorskip("nilearn.glm.first_level")
contrasts = pytest.importorskip("nilearn.glm.contrasts")

TR, VOLUMES = 2.0, 120
RNG = np.random.default_rng(0)
ONSETS = np.sort(RNG.uniform(2, 220, 21))
KINDS = [("face", "house", "shoe")[i % 3] for i in range(21)]
EVENTS = pd.DataFrame({"onset": ONSETS, "duration": RNG.uniform(0.5, 4, 21), "trial_type": KINDS,
                       "modulation": RNG.normal(1, 0.5, 21)})
BOLD = 1000 + 10 * RNG.normal(size=(VOLUMES, 30))


FRAMES = np.arange(VOLUMES) * TR


def theirs(events=EVENTS, frames=FRAMES, hrf="spm", **more):
    more = {"high_pass": 0.01} | more
    return nilearn.make_first_level_design_matrix(frames, events, hrf_model=hrf, **more)


def test_a_table_of_events_with_durations_and_parametric_modulation():
    design, names = design_matrix(VOLUMES, TR, EVENTS)
    expected = theirs()
    assert names == list(expected.columns)
    np.testing.assert_allclose(design, expected, atol=1e-10)
    plain, _ = design_matrix(VOLUMES, TR, ONSETS, KINDS, EVENTS.duration)
    np.testing.assert_allclose(plain, theirs(EVENTS.drop(columns="modulation")), atol=1e-10)
    with pytest.raises(DataError, match="expected onset"):
        design_matrix(VOLUMES, TR, EVENTS.drop(columns="onset"))


@pytest.mark.parametrize("start", [1.0, 0.44])
def test_times_of_volumes_and_the_slice_that_they_stand_for(start):
    """nilearn's grid is stretched by what the first volume is late: half a sample here."""
    frames = start + np.arange(VOLUMES) * TR
    design, _ = design_matrix(frames, TR, EVENTS)
    away = np.abs(design - theirs(frames=frames).to_numpy()).max()
    assert away < 0.02 * np.abs(design[:, :3]).max()
    shifted, _ = design_matrix(VOLUMES, TR, EVENTS.assign(onset=ONSETS - start))
    np.testing.assert_allclose(design, shifted, atol=1e-12)
    gaps = np.delete(np.arange(VOLUMES), [5, 6, 40]) * TR  # volumes that were not measured
    here = condition_regressors(ONSETS, 1.0, gaps, TR)
    all_ = condition_regressors(ONSETS, 1.0, VOLUMES, TR)
    np.testing.assert_allclose(here, np.delete(all_, [5, 6, 40], 0), atol=1e-12)
    with pytest.raises(DataError, match="do not rise"):
        design_matrix(gaps[::-1], TR, EVENTS)


def test_finite_impulse_responses_and_functions_as_hrfs():
    on_volumes = EVENTS.assign(onset=np.round(ONSETS / TR) * TR, duration=TR)
    expected = theirs(on_volumes, hrf="fir", fir_delays=range(6))
    design, names = design_matrix(VOLUMES, TR, on_volumes, hrf="fir 6")
    assert names == list(expected.columns)
    np.testing.assert_allclose(design, expected, atol=1e-9)
    for hrf in (glover_hrf, [spm_hrf, glover_hrf]):
        expected = theirs(hrf=hrf)
        design, names = design_matrix(VOLUMES, TR, EVENTS, hrf=hrf)
        assert names == list(expected.columns)
        np.testing.assert_allclose(design, expected, atol=1e-10)
    np.testing.assert_array_equal(single_trial_betas(BOLD, ONSETS, TR, glover_hrf),
                                  single_trial_betas(BOLD, ONSETS, TR, "glover"))
    for call in (lambda: design_matrix(VOLUMES, TR, EVENTS, hrf="fir"),
                 lambda: kernels("fir 6", TR)):
        with pytest.raises(DataError, match="'fir 12'"):
            call()


def test_polynomial_drift_and_names_of_confounds():
    motion = pd.DataFrame(RNG.normal(size=(VOLUMES, 2)), columns=["trans_x", "rot_z"])
    expected = theirs(drift_model="polynomial", drift_order=3, add_regs=motion)
    design, names = design_matrix(VOLUMES, TR, EVENTS, high_pass="polynomial 3", confounds=motion)
    assert names == list(expected.columns)
    mine, other = ols(BOLD, design), ols(BOLD, expected.to_numpy())
    np.testing.assert_allclose(mine.betas[:5], other.betas[:5], atol=1e-9)
    np.testing.assert_allclose(mine.variance, other.variance)
    betas = single_trial_betas(BOLD, ONSETS, TR, high_pass="polynomial 3", confounds=motion)
    x = np.hstack([trial_design(ONSETS, VOLUMES, TR, spm_hrf(TR)), expected.to_numpy()[:, 3:]])
    np.testing.assert_allclose(betas, np.linalg.lstsq(x, percent_change(BOLD))[0][:21], atol=1e-4)
    assert polynomial_drift(9, 0).tolist() == [[1.0]] * 9
    for wrong in ("polynomials", "polynomial 120", "cosine"):
        with pytest.raises(DataError, match="degree"):
            nuisance(VOLUMES, TR, wrong)


def test_contrasts_by_expression():
    names = design_matrix(VOLUMES, TR, EVENTS)[1]
    for words in ("face", "face - house", "face - (house + shoe) / 2", "2 * drift_1"):
        np.testing.assert_array_equal(
            contrast_weights(words, names),
            contrasts.expression_to_contrast_vector(words, names))
    assert contrast_weights("a-1", ["a-1", "b"]).tolist() == [1, 0]
    assert contrast_weights("`a-1` - b", ["a-1", "b"]).tolist() == [1, -1]
    for wrong in ("cat - face", "face -", "face * house + face", "face + 1", "3"):
        with pytest.raises(DataError, match="the contrast .*sum of columns"):
            contrast_weights(wrong, names)


def test_z_scores_and_standard_errors_of_all_betas():
    design, names = design_matrix(VOLUMES, TR, EVENTS)
    signal = BOLD + 40 * design[:, :1] * np.linspace(-3, 3, 30)  # t from -90 to 90
    labels, results = nilearn.run_glm(signal, design, noise_model="ols")
    fit, weights = ols(signal, design), contrast_weights("face - house", names)
    both = contrasts.compute_contrast(labels, results, weights, stat_type="t")
    np.testing.assert_allclose(fit.contrast(weights).z, both.z_score(), atol=1e-6)
    rows = np.eye(len(names))[:2]
    both = contrasts.compute_contrast(labels, results, rows, stat_type="F")
    z = fit.f_test(rows).z  # nilearn lets them sink below -38; of no use, and not to 37
    np.testing.assert_allclose(z, both.z_score(), atol=1e-5)
    for fit in (ols(BOLD, design), ar1(BOLD, design)):
        expected = [fit.contrast(row).error for row in np.eye(len(names))]
        np.testing.assert_allclose(fit.errors, expected, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_fixed_effects_over_runs(weighted):
    design, names = design_matrix(VOLUMES, TR, EVENTS)
    runs = [BOLD + s * RNG.normal(size=BOLD.shape) for s in (1, 5, 20)]
    found = [ols(run, design).contrast(contrast_weights("face - house", names)) for run in runs]
    together = fixed_effects(found, weighted)
    effect, variance, t, z = contrasts._compute_fixed_effects_params(
        [one.effect for one in found], [one.error**2 for one in found], weighted,
        [one.df for one in found])
    np.testing.assert_allclose(together.effect, effect)
    np.testing.assert_allclose(together.error**2, variance)
    np.testing.assert_allclose(together.t, np.ravel(t))
    np.testing.assert_allclose(together.z, np.ravel(z), atol=1e-8)
    assert together.df == 3 * found[0].df
    for wrong in ([], [found[0], ols(BOLD[:, :3], design).contrast(np.eye(len(names))[0])]):
        with pytest.raises(DataError, match="expected one of each run"):
            fixed_effects(wrong)


def test_left_out_volumes_are_as_if_not_measured():
    """OLS without the rows, as nilearn does with a sample mask; percent of the other volumes."""
    kept = np.setdiff1d(np.arange(VOLUMES), [0, 1, 30, 31, 77])
    broken = BOLD.copy()
    broken[[0, 1, 30, 31, 77]] += 400.0
    clean, spikes = censor(broken, kept)
    design, names = design_matrix(VOLUMES, TR, EVENTS, confounds=spikes)
    mine = ols(percent_change(clean), design)
    percent = 100 * (broken[kept] / broken[kept].mean(0) - 1)
    labels, results = nilearn.run_glm(percent, theirs().to_numpy()[kept], noise_model="ols")
    np.testing.assert_allclose(mine.betas[:3], results[labels[0]].theta[:3], atol=1e-9)
    np.testing.assert_allclose(mine.variance, results[labels[0]].dispersion)
    mask = np.isin(np.arange(VOLUMES), kept)
    np.testing.assert_array_equal(censor(broken, mask)[0], clean)
    # nothing that stands in a volume left out gets through the whole chain
    other = broken.copy()
    other[~mask] = 7.0
    runs = [[(censor(one, kept)[0], ONSETS)] for one in (broken, other)]
    first, second = (estimate(one, TR, [spikes]).betas for one in runs)
    np.testing.assert_array_equal(first, second)
    for wrong in (mask[:-1], np.zeros(VOLUMES, bool), [0, 0], [-1, 2], [0.5], [500]):
        with pytest.raises(DataError, match="expected True or False"):
            censor(broken, np.array(wrong))


def test_events_that_are_there_twice_or_not_felt_are_told():
    twice = pd.concat([EVENTS, EVENTS[:2]])
    with pytest.warns(UserWarning, match="2 events are there twice"):
        design, _ = design_matrix(VOLUMES, TR, twice)
    with pytest.warns(UserWarning):
        expected = theirs(twice)
    np.testing.assert_allclose(design, expected, atol=1e-10)  # nilearn adds them, too
    late = pd.DataFrame({"onset": [4.0, 500.0], "duration": 1.0, "trial_type": ["a", "late"]})
    with pytest.warns(UserWarning, match="condition late: none of its 1 events"):
        design_matrix(VOLUMES, TR, late)


def test_standard_errors_of_shrunk_betas_solve_hendersons_equations():
    """Prediction error variance: the inverse of the mixed model equations, and s² by REML."""
    shape, ratio = np.array([4, 4, 9, 15]), 0.3
    runs = [(BOLD[:, :4], ONSETS[:8]), (BOLD[:, 4:8], ONSETS[3:16])]
    got = reml.reml_betas(runs, TR, shape, ratio=ratio)
    for v in range(4):
        parts, at = [], 0
        for i, (bold, onsets) in enumerate(runs):
            x, slow = trial_design(onsets, VOLUMES, TR, bold_.hrf.library(TR)[shape[v]]), (
                nuisance(VOLUMES, TR))
            fixed = np.zeros((VOLUMES, 2 * slow.shape[1] + 1))
            fixed[:, i * slow.shape[1] : (i + 1) * slow.shape[1]], fixed[:, -1] = slow, x.sum(1)
            random = np.zeros((VOLUMES, 21))
            random[:, at : at + len(onsets)] = x
            series = percent_change(bold)[:, v]
            parts.append([whiten(p, got.rho[v]) for p in (fixed, random, series)])
            at += len(onsets)
        fixed, random, y = (np.concatenate([p[k] for p in parts]) for k in range(3))
        both = np.hstack([fixed, random])
        left = both.T @ both
        left[len(fixed.T) :, len(fixed.T) :] += np.eye(21) / ratio
        solution = np.linalg.solve(left, both.T @ y)
        noise = y @ (y - both @ solution) / (len(y) - len(fixed.T))
        pick = np.hstack([np.zeros((21, len(fixed.T) - 1)), np.ones((21, 1)), np.eye(21)])
        error = np.sqrt(noise * np.einsum("ij,jk,ik->i", pick, np.linalg.inv(left), pick))
        np.testing.assert_allclose(got.error[:, v], error, rtol=1e-6)


def test_durations_of_each_trial_and_run_in_the_whole_chain():
    runs = [(BOLD[:, :5], ONSETS[:9]), (BOLD[:, 5:10], ONSETS[9:])]
    same = [np.ones(9), np.ones(12)]
    for call in (lambda d: hrf_fit(runs, TR, durations=d), lambda d: estimate(
            runs, TR, durations=d).betas):
        np.testing.assert_allclose(call(same), call(1.0), rtol=1e-6, atol=1e-9)
        assert np.abs(call([np.linspace(0.5, 6, 9), np.ones(12)]) - call(1.0)).max() > 1e-3
        with pytest.raises(DataError, match="3 durations for 2 runs"):
            call([1.0, 1.0, 1.0])
