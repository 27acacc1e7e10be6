"""Splits, scores, betas, responses of any kind: right by a plain loop, or refused in one line."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import gamma, spearmanr

from recon_lib.bold import betas, glm, hrf
from recon_lib.bold.design import nuisance
from recon_lib.bold.events import condition_regressors, fir, regressors
from recon_lib.brain.patterns import compare_rdms, decode, rdm
from recon_lib.brain.ridge import fit_ridge
from recon_lib.common.errors import DataError
from recon_lib.data import splits, volumes
from recon_lib.data.bold5000 import TR, Betas
from recon_lib.scores import metrics, report

ANY = settings(max_examples=40, deadline=None, derandomize=True)
SEED = st.integers(0, 999)
NAMES = st.sampled_from(["a", "b", "rep_a", "COCO_1.jpg", "", "é"])
LABELS = st.one_of(st.lists(NAMES, min_size=1, max_size=20),
                   st.lists(st.integers(-3, 9), min_size=1, max_size=20))
ODD = [["a", 1, 2], [1.0, math.nan], [None, "a"], [[1, 2], [3, 4]], [(1, 2), (3, 4)], [], "abc"]
KINDS = st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.dtype(">f4")])


def refused(call, words="; |: "):  # what was found, and what to do
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---- Splits ----


@ANY
@given(LABELS, st.data(), st.booleans())
def test_a_split_keeps_groups_whole(labels, data, as_array):
    chosen = data.draw(st.lists(st.sampled_from(labels), max_size=4))
    given_ = np.array(labels) if as_array else labels
    wanted = [i for i, one in enumerate(labels) if one in chosen]
    if not 0 < len(wanted) < len(labels):
        refused(lambda: splits.split_by_group(given_, chosen), "expected some of both")
        return
    train, test = splits.split_by_group(given_, chosen)
    assert test.tolist() == wanted
    assert sorted([*train, *test]) == list(range(len(labels)))


@ANY
@given(LABELS, st.integers(-1, 12) | st.none(), SEED)
def test_folds_test_every_trial_once(labels, k, seed):
    names = set(labels)
    if not 2 <= (len(names) if k is None else k) <= len(names):
        refused(lambda: splits.folds(labels, k, seed), "folds of")
        return
    parts = splits.folds(labels, k, seed)
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(len(labels)))
    sizes = []
    for train, test in parts:
        assert sorted([*train, *test]) == list(range(len(labels)))
        sizes.append(len({labels[i] for i in test}))
        assert not {labels[i] for i in test} & {labels[i] for i in train}
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == len(names)


@ANY
@given(LABELS, st.floats(-0.5, 1.5), SEED)
def test_a_share_of_the_groups_is_held_out(labels, fraction, seed):
    names = set(labels) - {""}
    if len(names) < 2 or not 0 < fraction < 1:
        refused(lambda: splits.some_categories(labels, fraction, seed))
        return
    chosen = splits.some_categories(labels, fraction, seed)
    train, test = splits.split_by_group(labels, chosen)
    held = {labels[i] for i in test}
    assert held <= names and not held & {labels[i] for i in train}
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert len(held) == min(max(round(fraction * len(names)), 1), len(names) - 1)
    assert chosen == splits.some_categories(labels, fraction, seed)


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_labels_that_could_be_taken_for_others_are_refused(odd):
    for call in (lambda: splits.split_by_group(odd, odd[:1]), lambda: splits.folds(odd),
                 lambda: splits.some_categories(odd)):
        refused(call)


@ANY
@given(SEED, KINDS, KINDS, st.integers(0, 3), st.booleans())
def test_the_same_picture_is_found_whatever_its_type(seed, one, two, shared, listed):
    rng = np.random.default_rng(seed)
    train = rng.integers(0, 256, (4, 3, 2, 3))
    test = rng.integers(0, 256, (3, 3, 2, 3))
    test[:shared] = train[rng.permutation(4)[:shared]]
    train, test = train.astype(one), test.astype(two)
    train = list(train) if listed else train
    if shared:
        refused(lambda: splits.refuse_leak(train, test), f"{shared} of 3 test pictures")
    else:
        splits.refuse_leak(train, test)
    marks = splits.fingerprints(np.concatenate([test, test / 512]))  # fractions are kept
    assert len(set(marks)) == 6


# ---- Scores ----


@ANY
@given(SEED, KINDS, KINDS, st.integers(1, 6), st.integers(1, 9), st.integers(1, 7))
def test_the_nearest_picture_by_brute_force(seed, one, two, n, m, chunk):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (n, 3, 2)), rng.integers(0, 256, (m, 3, 2))
    a, b = a.astype(one), b.astype(two)
    if (a.dtype == np.uint8) != (b.dtype == np.uint8):  # 0-255 and 0-1 are no one space
        refused(lambda: metrics.nearest_training_distance(a, b, chunk), "0 to 1")
        a, b = (x if x.dtype == np.uint8 else x / 255 for x in (a, b))
    unit = 255 if np.uint8 in (a.dtype, b.dtype) else 1
    plain = [np.asarray(x, float) / (255 if x.dtype == np.uint8 else 1) for x in (a, b)]
    away = np.sqrt(((plain[0][:, None] - plain[1][None]) ** 2).mean((2, 3)))
    nearest = metrics.nearest_training_distance(a, b, chunk)
    distance, index = nearest.distance, nearest.index
    np.testing.assert_allclose(distance, away.min(1), atol=0.5 / unit, rtol=1e-3)
    np.testing.assert_allclose(distance, away[np.arange(n), index], atol=1e-3 / unit, rtol=1e-4)


def test_distances_that_have_no_answer_are_refused():
    a = np.ones((2, 4))
    refused(lambda: metrics.nearest_training_distance(a, a[:0]), r"training images of \(0")
    refused(lambda: metrics.nearest_training_distance(a, a[:, :3]), r"images of \(\d+, 3\)")
    refused(lambda: metrics.nearest_training_distance(a * np.nan, a), "NaN")
    refused(lambda: metrics.nearest_training_distance(a, a * np.inf), "NaN")
    refused(lambda: metrics.nearest_training_distance(a, [["x"] * 4]), "real numbers")


@pytest.mark.slow
@ANY
@given(SEED, st.sampled_from(["same", "shifted", "0 to 1", "-1 to 1", "NaN", "float", "int64"]))
def test_ssim_knows_its_scale(seed, what):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 3, 11, 12, 3)).astype(np.uint8)
    score = metrics.ssim(a, b)
    if what in ("float", "int64"):
        np.testing.assert_allclose(metrics.ssim(a.astype(what), b.astype(what)), score, atol=1e-6)
    elif what == "same":
        np.testing.assert_allclose(metrics.ssim(a, a), 1, atol=1e-5)
        np.testing.assert_allclose(metrics.ssim(b, a), score, atol=1e-5)
        assert (np.abs(score) < 0.5).all()
        np.testing.assert_allclose(metrics.ssim(a[::-1], b[::-1]), score[::-1], atol=1e-5)
    else:
        bad = {"shifted": lambda x: x - 10.0, "0 to 1": lambda x: x / 255,
               "-1 to 1": lambda x: x / 127.5 - 1, "NaN": lambda x: np.where(x > 250, np.nan, x)}
        refused(lambda: metrics.ssim(bad[what](a), bad[what](b)), "0 to 255")


@ANY
@given(SEED, st.integers(2, 6), st.integers(2, 8))
def test_scores_of_a_ranking_ask_for_the_order_alone(seed, candidates, trials):
    rng = np.random.default_rng(seed)
    matrix, target = rng.normal(size=(trials, candidates)), rng.integers(0, candidates, trials)
    category = rng.integers(0, 2, candidates)
    scores = report.score_ranking(matrix, target, category, 20, seed)
    for name, value in scores.items():
        assert 0 <= value <= 1, name
    stretched = np.exp(matrix) * rng.uniform(1, 9, (trials, 1)) - 5
    assert report.score_ranking(stretched, target, category, 20, seed) == scores
    order = rng.permutation(candidates)
    moved = report.score_ranking(matrix[:, order], np.argsort(order)[target], category[order], 0)
    for name in ("top1", "two_way", "two_way_within_category"):
        assert moved.get(name) == pytest.approx(scores.get(name))


# ---- Betas ----


@ANY
@given(SEED, st.integers(3, 6), st.integers(1, 4), st.booleans(), st.integers(1, 5))
def test_reliability_has_no_scale(seed, pictures, voxels, names, splits_):
    rng = np.random.default_rng(seed)
    shown = np.concatenate([np.repeat(np.arange(pictures), 2), rng.integers(0, pictures + 3, 5)])
    labels = np.array([f"p{i}" for i in shown]) if names else shown
    x = rng.normal(size=(len(shown), voxels))
    score = betas.split_half_reliability(x, labels, splits_, seed)
    assert score.shape == (voxels,) and (np.abs(score) <= 1 + 1e-9).all()
    np.testing.assert_allclose(
        betas.split_half_reliability(3 - 0 * x + 2.5 * x, labels, splits_, seed), score, atol=1e-9)
    ideal = rng.normal(size=(pictures + 3, voxels))[shown]
    np.testing.assert_allclose(betas.split_half_reliability(ideal, labels, splits_, seed), 1)
    refused(lambda: betas.split_half_reliability(x, labels, 0), "splits")


@pytest.mark.parametrize("repeats", [0, -1, math.nan])
def test_a_ceiling_of_no_repeats_is_refused(repeats):
    refused(lambda: betas.noise_ceiling(np.eye(4), [0, 0, 1, 1], repeats), "repeats")


@ANY
@given(SEED, st.lists(st.sampled_from(["LHPPA", "RHPPA", "LHLOC", "V1"]), min_size=1, max_size=8),
       st.sets(st.sampled_from(["PPA", "LOC", "V1", "FFA"]), max_size=3), KINDS)
def test_silenced_areas_say_nothing_and_the_rest_is_kept(seed, roi, areas, kind):
    x = np.random.default_rng(seed).integers(1, 9, (3, len(roi))).astype(kind)
    bare = [name.removeprefix("LH").removeprefix("RH") for name in roi]
    if not areas <= set(bare):
        refused(lambda: betas.silence(x, roi, *areas), "no voxel lies in")
        return
    found = betas.silence(x, roi, *areas)
    for column, name in enumerate(bare):
        np.testing.assert_array_equal(found[:, column], 0 if name in areas else x[:, column])
    refused(lambda: betas.silence(x[:, :1], [*roi, "V1"], *areas), "voxels")


@ANY
@given(SEED, KINDS, st.sampled_from(["numbers", "names", "integers"]))
def test_decoding_is_ridge_whatever_the_types(seed, kind, what):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 200, (24, 5)).astype(kind)
    numbers = x.astype(float)
    weights = rng.normal(size=5)
    target = numbers @ weights / 100 + rng.normal(size=24) / 4
    if what == "numbers":
        fit = fit_ridge(numbers, target[:, None]).out_of_fold[:, 0]
        expected = np.corrcoef(fit, target)[0, 1]
    else:
        which = (target > np.median(target)).astype(int) + (target > np.quantile(target, 0.8))
        target = which if what == "integers" else np.array(["a", "b", "c"])[which]
        expected = (fit_ridge(numbers, np.eye(3)[which]).out_of_fold.argmax(1) == which).mean()
    assert decode(x, target) == pytest.approx(expected, abs=0.05)


@ANY
@given(SEED, st.integers(1, 6), st.integers(2, 7), KINDS)
def test_rdms_by_a_plain_loop(seed, m, voxels, kind):
    rng = np.random.default_rng(seed)
    patterns, others = rng.integers(0, 200, (2, m, voxels)).astype(kind)
    assume(all(p.std() > 0 for p in [*patterns, *others]))
    matrix, other = rdm(patterns), rdm(others)
    assert matrix.shape == (m, m)
    for i in range(m):
        for j in range(m):
            r = np.corrcoef(patterns[i].astype(float), patterns[j].astype(float))[0, 1]
            assert matrix[i, j] == pytest.approx(0 if i == j else 1 - r, abs=1e-9)
    if m < 3:
        refused(lambda: compare_rdms(matrix, other), "three patterns")
        return
    pairs = np.triu_indices(m, 1)
    assume(np.ptp(matrix[pairs]) > 1e-6 < np.ptp(other[pairs]))
    expected = spearmanr(matrix[pairs], other[pairs]).statistic
    assert compare_rdms(matrix, other.tolist()) == pytest.approx(expected)
    refused(lambda: compare_rdms(matrix, rdm(np.eye(m + 1))), "expected the same")
    refused(lambda: compare_rdms(matrix[0], other[0]), "square")


# ---- Responses ----


@ANY
@given(st.floats(-5, 40), st.floats(2, 9), st.floats(8, 20), st.floats(0.3, 2), st.floats(0, 1),
       st.floats(-3, 5))
def test_a_double_gamma_is_two_gammas(t, delay, undershoot, width, ratio, start):
    found = hrf.double_gamma(np.array([[t]]), delay, undershoot, width, 1.0, ratio, start)
    later = t - start
    expected = 0.0
    if later > 0:
        shape = delay / width
        expected = later ** (shape - 1) * math.exp(-later / width) / (
            math.gamma(shape) * width**shape)
        expected -= ratio * gamma(undershoot).pdf(later)
    assert found.shape == (1, 1) and found[0, 0] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@ANY
@given(st.floats(-1, 40), st.integers(-1, 80), st.sampled_from(["spm", "glover"]))
def test_kernels_sum_to_one_or_are_refused(tr, oversampling, name):
    if not (tr > 0 and oversampling >= 1 and tr / oversampling <= 4):
        refused(lambda: hrf.kernels(name, tr, oversampling), "tr .* oversampling")
        return
    assume(tr / oversampling > 0.005)  # some ten thousand samples
    row, = hrf.kernels(name, tr, oversampling)
    assert row.sum() == pytest.approx(1) and row.shape == (round(32 * oversampling / tr),)
    top = row.argmax() * tr / oversampling
    assert abs(top - 5) < 0.5 + 1.5 * tr / oversampling


@ANY
@given(SEED, st.integers(1, 60), st.sampled_from([0.8, 1.0, 2.0, 2.5]), st.integers(1, 5))
def test_regressors_are_a_convolution(seed, volumes, tr, events):
    """Against a plain sum over the fine grid on which events, volumes and the kernel lie."""
    rng = np.random.default_rng(seed)
    over, step = 20, tr / 20
    kernel = rng.normal(size=rng.integers(1, 200))
    start = rng.integers(-round(20 / step), volumes * over, events)  # in samples
    lasts = rng.integers(1, 60, events)
    found = regressors(start * step - step / 4, lasts * step, volumes, tr, kernel, over)
    assert found.shape == (volumes, events)
    assume(abs(24 / step - round(24 / step)) < 1e-9)  # else the grid is moved by part of a sample
    for i in range(events):
        for v in range(volumes):
            age = v * over - start[i] - np.arange(lasts[i])  # samples since each of its samples
            age = age[(age >= 0) & (age < len(kernel)) & (start[i] + np.arange(lasts[i])
                                                          < volumes * over)]
            assert found[v, i] == pytest.approx(kernel[age].sum(), abs=1e-9)


@ANY
@given(SEED, st.integers(1, 40), st.sampled_from([0.8, 2.0]), st.integers(1, 4))
def test_regressors_never_answer_early_and_shift_with_their_events(seed, volumes, tr, events):
    rng = np.random.default_rng(seed)
    onsets = rng.uniform(-20, volumes * tr + 5, events)
    lasts = rng.uniform(0, 9, events)
    kernel = hrf.spm_hrf(tr)
    found = regressors(onsets, lasts, volumes, tr, kernel)
    early = np.arange(volumes)[:, None] * tr < onsets
    assert (found[early] == 0).all()
    later = regressors(onsets + 3 * tr, lasts, volumes + 3, tr, kernel)
    np.testing.assert_allclose(later[3:], found, atol=2e-3)
    together = condition_regressors(onsets, lasts, volumes, tr, "spm", np.arange(events))
    np.testing.assert_allclose(together[:, 0], found @ np.arange(events), atol=1e-12)


@pytest.mark.parametrize("change", [
    dict(durations=-1.0), dict(durations=math.nan), dict(durations=[1.0, 2.0, 3.0]),
    dict(onsets=[math.nan, 1.0]), dict(onsets=[[1.0, 2.0]]), dict(onsets=["a", "b"]),
    dict(volumes=0), dict(tr=0.0), dict(tr=-2.0), dict(kernel=np.ones((2, 9))),
    dict(kernel=[math.nan, 1.0]), dict(oversampling=0),
], ids=str)
def test_events_that_make_no_sense_are_refused(change):
    good = dict(onsets=[2.0, 9.0], durations=1.0, volumes=20, tr=2.0, kernel=hrf.spm_hrf(2.0))
    assert regressors(**good).shape == (20, 2)
    refused(lambda: regressors(**{**good, **change}))


@ANY
@given(st.lists(st.floats(-30, 60), min_size=1, max_size=6), st.integers(1, 30),
       st.sampled_from([0.8, 2.0]), st.integers(0, 12))
def test_fir_by_a_plain_loop(onsets, volumes, tr, delays):
    found = fir(onsets, volumes, tr, delays)
    expected = np.zeros((volumes, delays))
    for onset in onsets:
        for d in range(delays):
            for v in range(volumes):  # the first volume at or after the onset, and d later
                lag = v * tr - onset - d * tr
                expected[v, d] += -1e-8 < lag < tr - 1e-8
    assume(min(abs(o / tr - round(o / tr)) for o in onsets) > 1e-6
           or all(o % tr == 0 for o in onsets))
    np.testing.assert_array_equal(found, expected)
    refused(lambda: fir([*onsets, math.nan], volumes, tr, delays), "onset")


# ---- The linear model ----


@ANY
@given(SEED, KINDS, st.floats(0.5, 50))
def test_percent_change_has_no_unit(seed, kind, gain):
    bold = np.random.default_rng(seed).integers(60, 200, (12, 3)).astype(kind)
    found = glm.percent_change(bold)
    numbers = bold.astype(float)
    np.testing.assert_allclose(found, 100 * (numbers / numbers.mean(0) - 1), atol=1e-3)
    np.testing.assert_allclose(glm.percent_change(numbers * gain), found, atol=1e-3)
    refused(lambda: glm.percent_change(numbers - numbers.mean(0) + 1e-9), "a positive one, above")


@ANY
@given(SEED, st.integers(1, 8), st.sampled_from(["lsa", "lss"]), st.floats(0.5, 4), st.booleans())
def test_single_trial_betas_of_any_run(seed, trials, method, lasts, confounded):
    """Each trial against a model of its own, by least squares; LSA gives noise-free betas back."""
    rng = np.random.default_rng(seed)
    onsets = np.sort(rng.permutation(20)[:trials]) * 6.0 + rng.uniform(0, 2, trials)
    volumes = 75
    confounds = rng.normal(size=(volumes, 2)) if confounded else None
    design = glm.trial_design(onsets, volumes, TR, hrf.spm_hrf(TR), lasts)
    drift = nuisance(volumes, TR, 0.01, confounds)
    true = rng.normal(size=(trials, 3))
    bold = design @ true + drift @ rng.normal(size=(drift.shape[1], 3))
    found = glm.fit_trials(bold, onsets, TR, "spm", lasts, method, confounds)
    assert found.shape == (trials, 3) and found.dtype == np.float32
    for i in range(trials):
        own = design[:, i : i + 1]
        others = np.delete(design, i, 1)
        if method == "lss" and trials > 1:
            others = others.sum(1, keepdims=True)
        model = np.hstack([own, others, drift])
        np.testing.assert_allclose(found[i], np.linalg.lstsq(model, bold)[0][0], atol=2e-3)
    if method == "lsa":
        np.testing.assert_allclose(found, true, atol=2e-3)


@pytest.mark.parametrize("change, words", [
    (dict(hrf="spm + derivative"), "one response"), (dict(hrf=hrf.library(TR)), "one response"),
    (dict(hrf=np.array([0, 20, 3])), "0 to 19"), (dict(hrf=np.array([0, -1, 3])), "0 to 19"),
    (dict(hrf=np.array([0, 1])), "one per voxel"), (dict(method="lsx"), "lsa"),
    (dict(onsets=[10.0], method="lsx"), "lsa"), (dict(durations=-1.0), "duration"),
    (dict(tr=0.0), "tr"), (dict(durations=[1.0, 2.0, 3.0]), "duration"),
    (dict(durations=1000.0), "a run that ends at"),
], ids=str)
def test_models_that_would_be_another_are_refused(change, words):
    good = dict(bold=np.random.default_rng(0).uniform(90, 110, (40, 3)), onsets=[10.0, 30.0], tr=TR)
    assert glm.single_trial_betas(**good).shape == (2, 3)
    refused(lambda: glm.single_trial_betas(**{**good, **change}), words)


@pytest.mark.parametrize("groups", [np.arange(8), np.arange(20), ["a", 1] * 6])
def test_a_ridge_wants_a_group_for_each_trial(groups):
    x = np.random.default_rng(0).normal(size=(12, 4))
    refused(lambda: fit_ridge(x, x[:, :2], groups), "one label each|12 rows of x")


def test_a_ridge_predicts_from_the_columns_that_it_was_fitted_to():
    x = np.random.default_rng(0).normal(size=(12, 4))
    fit = fit_ridge(x, x[:, :2])
    np.testing.assert_allclose(fit.predict(x[3]), fit.predict(x)[3])
    for other in (x[:, :1], x[:, :3], x[:, [0, 1, 2, 3, 3]], 1.0):
        refused(lambda other=other: fit.predict(other), "the columns that")


def test_masks_hold_every_voxel_or_are_refused(tmp_path):
    ijk = np.array([[0, 0, 0], [0, 1, 0], [2, 1, 3], [2, 1, 3]])
    roi = np.array(["LHPPA", "LHPPA", "LHPPA", "RHPPA"])  # a voxel may lie in two regions
    volumes.write_masks(tmp_path / "good", "CSI1", roi, ijk)
    found = volumes.read_masks(tmp_path / "good", "CSI1", ("PPA",))
    assert found.roi.tolist() == roi.tolist() and found.ijk.tolist() == ijk.tolist()
    for index, place in ((0, [0, 0, -1]), (1, [0, 0, 0]), (2, [3, 1, 3])):
        bad = ijk.copy()
        bad[index] = place
        refused(lambda bad=bad: volumes.write_masks(tmp_path / "bad", "CSI1", roi, bad, (3, 2, 4)))
    refused(lambda: volumes.write_masks(tmp_path / "bad", "CSI1", roi, ijk / 2))
    refused(lambda: volumes.write_masks(tmp_path / "bad", "CSI1", roi[:3], ijk))
    one = np.ones(2, int)
    bad = Betas(np.ones((2, 4)), roi, ["a.jpg", "b.jpg"], one, one, "CSI1")
    refused(lambda: volumes.write_r2_volumes(tmp_path / "bad", bad, ijk - 1))
    assert not (tmp_path / "bad").exists()
