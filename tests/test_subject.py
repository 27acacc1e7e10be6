"""The simulated subject against closed forms, Monte Carlo and its own promises."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import DESIGN, VOXELS

from recon_lib.bold import hrf
from recon_lib.bold.glm import fit_trials, single_trial_betas
from recon_lib.common.errors import DataError
from recon_lib.data.bold5000 import TR, TRIALS_PER_RUN, VOLUMES
from recon_lib.world import scenes, subject
from recon_lib.world.subject import (
    ar1_noise,
    bold_runs,
    design_for,
    event_columns,
    make_design,
    make_subject,
)
from recon_lib.world.tuning import responses


@pytest.fixture(scope="module")
def pictures():
    factors = scenes.sample_factors(200, 0)
    return scenes.draw(factors, 32), factors


@pytest.fixture(scope="module")
def base(pictures):
    return responses(*pictures, VOXELS, 0)


def columns(*names):
    """Which columns lie in areas with one of these names, "LHLOC" or "LOC"."""
    roi = np.repeat(list(VOXELS), list(VOXELS.values()))
    return np.isin(roi, names) | np.isin([r[2:] for r in roi], names)


def shuffled(factors, name):
    out = factors.copy()
    out[name] = np.random.default_rng(1).permutation(out[name])
    return out


def same(a, b):
    """Correlation over pictures of each voxel with itself."""
    return (a * b).mean(0) / (a.std(0) * b.std(0))


def test_the_design_is_that_of_bold5000():
    design = make_design(0)
    assert len(design.image) == 5254
    shown, counts = np.unique(design.image, return_counts=True)
    assert np.array_equal(shown, np.arange(4916))
    assert np.array_equal(shown[counts > 1], design.repeated) and len(design.repeated) == 113
    assert design.test.sum() == 451 and counts[counts > 1].min() == 3 and counts.max() == 4
    runs, trials = np.unique(np.stack([design.session, design.run]), axis=1, return_counts=True)
    assert runs.shape[1] == 142 and (trials == TRIALS_PER_RUN).all()
    _, per_session = np.unique(runs[0], return_counts=True)
    assert sorted(per_session) == [9] * 8 + [10] * 7
    planned = np.tile(6 + 10.0 * np.arange(37), 142)
    late = design.onset - planned
    assert late.min() >= 0 and late.max() <= 0.1 and late.std() > 0.02
    assert design.onset.max() + 10 < VOLUMES * TR  # the last response is still seen
    assert not np.array_equal(make_design(1).image, design.image)
    assert np.array_equal(make_design(0).image, design.image)


@pytest.mark.parametrize("pictures", [60, 500, 4916, 20_000])
def test_a_design_for_any_number_of_pictures(pictures):
    options = design_for(pictures)
    design = make_design(0, **options)
    shown, counts = np.unique(design.image, return_counts=True)
    assert pictures - TRIALS_PER_RUN < len(shown) <= pictures or sum(
        options["runs_per_session"]) == 142
    assert set(counts) == {1, 4} and np.array_equal(shown[counts == 4], design.repeated)
    assert 2 <= len(design.repeated) <= 113 and max(options["runs_per_session"]) <= 10


def test_too_few_pictures_for_a_design():
    with pytest.raises(DataError, match="found 19 pictures"):
        design_for(19)


@pytest.mark.slow
def test_responses_are_standardised_and_repeatable(pictures, base):
    assert base.shape == (200, sum(VOXELS.values())) and base.dtype == np.float32
    assert np.abs(base.mean(0)).max() < 1e-4
    assert np.abs(base.var(0) - 1).max() < 1e-3
    assert np.array_equal(base, responses(*pictures, VOXELS, 0))
    assert np.abs(same(base, responses(*pictures, VOXELS, 1))).mean() < 0.4  # another subject


def test_each_hemisphere_sees_the_other_half(pictures, base):
    images, factors = pictures
    left = images.copy()
    left[:, :, :16] = left[np.random.default_rng(0).permutation(200)][:, :, :16]
    kept = same(base, responses(left, factors, VOXELS, 0))
    assert np.median(kept[columns("LHEarlyVis")]) > 0.95  # looks right: does not notice
    assert np.median(kept[columns("RHEarlyVis")]) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, follows, ignores",
    [("category", ["LOC"], ["OPA", "PPA", "RSC"]), ("hue", ["LOC"], ["OPA", "PPA", "RSC"]),
     ("x", ["LOC"], ["OPA", "PPA", "RSC"]), ("background", ["OPA", "PPA", "RSC"], ["LOC"]),
     ("light", ["OPA", "PPA", "RSC"], ["LOC"]), ("detail", [], ["LOC", "OPA", "PPA", "RSC"])],
)
def test_higher_areas_follow_their_factors_and_no_others(pictures, base, name, follows, ignores):
    images, factors = pictures
    kept = same(base, responses(images, shuffled(factors, name), VOXELS, 0))
    assert kept[columns(*ignores)].min() > 0.999
    if follows:
        assert kept[columns(*follows)].mean() < 0.95


@pytest.mark.slow
def test_pictures_without_factors_drive_every_area_by_what_they_show(pictures):
    images = pictures[0]
    plain = responses(images, None, VOXELS, 0)
    assert np.abs(plain.mean(0)).max() < 1e-4 and np.abs(plain.var(0) - 1).max() < 1e-3
    order = np.random.default_rng(2).permutation(200)
    assert np.allclose(responses(images[order], None, VOXELS, 0), plain[order], atol=2e-3)
    other = images.copy()
    other[:100] = 255 - other[:100]
    assert (same(plain, responses(other, None, VOXELS, 0))[columns("LOC", "PPA")] < 0.95).all()


def test_higher_areas_answer_to_the_layer_that_is_given_and_early_ones_do_not(pictures):
    """A voxel follows the layer, but no linear readout of the layer is the voxel."""
    images, _ = pictures
    rng = np.random.default_rng(0)
    layer = rng.normal(size=(len(images), 10))
    first, again, other = (responses(images, None, VOXELS, 0, x)
                           for x in (layer, layer.copy(), layer[::-1]))
    assert np.array_equal(first, again)
    moved = same(first, other)
    assert (moved[columns("EarlyVis")] > 0.999).all()
    assert np.abs(moved[columns("LOC", "PPA")]).mean() < 0.3
    design = np.column_stack([layer, np.ones(len(layer))])
    left = first - design @ np.linalg.lstsq(design, first, rcond=None)[0]
    share = 1 - left[:, columns("LOC", "PPA")].var(0)
    assert 0.3 < share.mean() < 0.95



@pytest.mark.parametrize("rho", [0.1, 0.4, 0.8])
def test_ar1_moments(rho):
    noise = ar1_noise(rho, 100, 20_000, np.random.default_rng(0)).astype(float)
    assert np.abs(noise.var(1) - 1).max() < 0.06  # stationary: every volume, the first included
    assert noise.var() == pytest.approx(1, abs=0.02)
    for lag in (1, 2, 5):
        assert (noise[lag:] * noise[:-lag]).mean() == pytest.approx(rho**lag, abs=0.01)


def test_beta_variance_agrees_with_monte_carlo():
    rng, rho = np.random.default_rng(1), 0.4
    noise = np.empty((VOLUMES, 3000))
    noise[0] = rng.normal(size=3000)
    for t in range(1, VOLUMES):  # the definition of AR(1), step by step
        noise[t] = rho * noise[t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=3000)
    onsets = 6 + 10.0 * np.arange(TRIALS_PER_RUN)
    design = np.column_stack([event_columns(onsets, hrf.library(TR)[10]), np.ones(VOLUMES),
                              subject.drifts()])
    betas = np.linalg.lstsq(design, noise, rcond=None)[0][:TRIALS_PER_RUN]
    assert subject.beta_variance(rho) == pytest.approx(betas.var(), rel=0.02)


def test_event_columns_peak_at_one():
    fine = np.arange(0, 10, 0.1)  # an onset at every phase of the TR: one of them hits the peak
    for kernel in hrf.library(TR)[[0, 10, 19]]:
        assert event_columns(fine, kernel).max() == pytest.approx(1, abs=0.02)


@pytest.fixture(scope="module")
def quiet():
    """A subject without noise, its design, responses of its own and true betas."""
    design = make_design(0, **DESIGN)
    person = make_subject(VOXELS, 3, sessions=2)
    response = np.random.default_rng(0).normal(size=(design.image.max() + 1, len(person.roi)))
    person = replace(person, sigma=np.zeros(len(person.roi)))
    return person, design, subject.true_betas(person, response, design)


def test_true_betas_follow_gain_mean_and_amplitude(quiet):
    person, design, betas = quiet
    for session in (1, 2):
        mine = (design.session == session) & ~design.test
        gain = person.gain[session - 1]
        error = np.abs(betas[mine].mean(0) - gain * person.mean)
        assert (error < 5 * np.abs(gain) * person.amplitude / np.sqrt(mine.sum())).all()
    assert np.allclose(betas[mine].std(0) / np.abs(gain), person.amplitude, rtol=0.35)


def test_nothing_precedes_the_onset(quiet):
    person, design, betas = quiet
    one = np.zeros_like(betas)
    one[20] = betas[20]
    silent = next(iter(bold_runs(person, np.zeros_like(betas), design, 0)))[3]
    bold = next(iter(bold_runs(person, one, design, 0)))[3]
    evoked = np.abs(bold - silent) / person.baseline * 100
    before = np.arange(VOLUMES) * TR <= design.onset[20]
    assert evoked[before].max() < 1e-4
    assert (evoked[~before].max(0) > 0.7 * np.abs(betas[20])).all()
    after = np.arange(VOLUMES) * TR > design.onset[20] + 34
    assert evoked[after].max() < 1e-4  # and it ends


def test_glm_with_the_true_hrf_recovers_the_true_betas(quiet):
    person, design, betas = quiet
    seen = np.zeros(len(betas), bool)
    for session, run, trials, bold in bold_runs(person, betas, design, 0):
        assert (design.session[trials] == session).all() and (design.run[trials] == run).all()
        percent = 100 * (bold.astype(np.float64) / person.baseline - 1)
        found = fit_trials(percent, design.onset[trials], TR, person.shape)
        assert np.abs(found - betas[trials]).max() < 2e-3
        seen[trials] = True
    assert seen.all()


def test_a_run_depends_on_seed_session_and_run_only(quiet):
    person, design, betas = quiet
    noisy = replace(person, sigma=np.ones(len(person.roi)))
    runs = list(bold_runs(noisy, betas, design, 5))
    again = list(bold_runs(noisy, betas, design, 5))
    assert len(runs) == 6
    assert all(np.array_equal(a[3], b[3]) for a, b in zip(runs, again, strict=True))
    assert runs[0][3].shape == (VOLUMES, len(person.roi)) and runs[0][3].dtype == np.float32
    second = design.session == 2
    alone = replace(design, image=design.image[second], session=design.session[second],
                    run=design.run[second], onset=design.onset[second])
    part = list(bold_runs(noisy, betas[second], alone, 5))
    assert np.array_equal(part[1][3], runs[4][3])
    other = next(iter(bold_runs(noisy, betas, design, 6)))
    assert not np.allclose(other[3], runs[0][3])


def test_betas_have_the_snr_asked_for():
    design = make_design(1, **DESIGN)
    voxels = {"LHLOC": 150}
    response = np.random.default_rng(0).normal(size=(design.image.max() + 1, 150))
    person = make_subject(voxels, 2, sessions=2, snr=0.03)
    betas = subject.true_betas(person, response, design)
    error = np.empty_like(betas)
    for _, _, trials, bold in bold_runs(person, betas, design, 0):
        found = single_trial_betas(bold, design.onset[trials], TR, person.shape)
        error[trials] = found - betas[trials]
    snr = person.amplitude**2 / error.var(0)
    assert snr.mean() == pytest.approx(0.03, rel=0.15)
    correlation = np.corrcoef(error.T)  # a quarter of the noise is shared, over five sources
    share = (correlation[np.triu_indices(150, 1)] ** 2).mean() - 1 / len(error)
    assert share == pytest.approx(subject.SHARED**2 / subject.SOURCES, rel=0.6)
