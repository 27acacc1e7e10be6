"""Scores against values by hand, scikit-learn, scikit-image's formula and closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter

from recon_lib.brain.encoding import fit_encoding_model, log_likelihood
from recon_lib.brain.patterns import similarity
from recon_lib.common.errors import DataError
from recon_lib.scores import metrics, report
from recon_lib.scores.identification import (
    bootstrap_interval,
    permutation_null,
    permutation_p,
    top_k,
    top_k_hits,
    two_way,
    two_way_null_sd,
    two_way_within,
)
from recon_lib.world.scenes import draw, sample_factors


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def pictures(rng, n, size=16, channels=3):
    return rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8)


# ---- Pictures ----


def test_pixel_correlation_is_pearson(rng):
    a, b = pictures(rng, 4), pictures(rng, 4)
    expected = [stats.pearsonr(x.ravel(), y.ravel())[0] for x, y in zip(a, b, strict=True)]
    assert metrics.pixel_correlation(a, b) == pytest.approx(expected, abs=1e-12)
    assert metrics.pixel_correlation(a, 255 - a) == pytest.approx(-np.ones(4))


def test_a_constant_picture_scores_zero(rng):
    grey = np.full((2, 16, 16, 3), 77, np.uint8)
    assert (metrics.pixel_correlation(grey, pictures(rng, 2)) == 0).all()


def test_ssim_is_one_for_equal_and_the_luminance_term_for_flat_pictures(rng):
    a = pictures(rng, 2)
    assert metrics.ssim(a, a) == pytest.approx(np.ones(2), abs=1e-5)
    x, y, c = 100 / 255, 150 / 255, 0.01**2
    dark, light = (np.full((1, 16, 16, 1), v, np.uint8) for v in (100, 150))
    expected = (2 * x * y + c) / (x * x + y * y + c)
    assert metrics.ssim(dark, light)[0] == pytest.approx(expected, abs=1e-3)


def test_ssim_is_the_formula_of_the_paper(rng):
    a, b = (gaussian_filter(rng.random((32, 32)), 1) for _ in range(2))
    a, b = (((x - x.min()) / np.ptp(x) * 255).round().astype(np.uint8) for x in (a, b))

    def mean(x):  # 11 pixels, σ = 1.5
        return gaussian_filter(x, 1.5, truncate=5 / 1.5, mode="mirror")

    x, y = a / 255, b / 255
    c1, c2 = 0.01**2, 0.03**2
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    index = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    ours = metrics.ssim(a[None, :, :, None], b[None, :, :, None])[0]
    assert ours == pytest.approx(index[5:-5, 5:-5].mean(), abs=1e-4)


@pytest.mark.slow  # the import takes seconds
@pytest.mark.parametrize("shape", [(70, 64, 64, 3), (9, 16, 17, 1), (3, 200, 200, 1)])
def test_ssim_is_that_of_torchmetrics_to_the_bit(rng, shape):
    from torchmetrics.functional.image import structural_similarity_index_measure

    a = rng.integers(0, 256, shape).astype(np.uint8)
    b = np.clip(a + rng.normal(0, 40, shape), 0, 255).astype(np.uint8)
    x, y = (torch.from_numpy(p).float().permute(0, 3, 1, 2) / 255 for p in (a, b))
    index = torch.cat([structural_similarity_index_measure(
        *some, data_range=1.0, reduction="none", return_full_image=True)[1]
        for some in zip(x.split(32), y.split(32), strict=True)])
    assert np.array_equal(metrics.ssim(a, b), index[..., 5:-5, 5:-5].mean((1, 2, 3)).numpy())


def test_pictures_must_agree_in_shape(rng):
    with pytest.raises(DataError, match="expected"):
        metrics.pixel_correlation(pictures(rng, 2), pictures(rng, 3))
    with pytest.raises(DataError, match="11 pixels"):
        metrics.ssim(pictures(rng, 2, 8), pictures(rng, 2, 8))


# ---- Identification ----


def test_similarity_is_corrcoef(rng):
    a, b = rng.standard_normal((5, 20)), rng.standard_normal((7, 20))
    assert similarity(a, b) == pytest.approx(np.corrcoef(a, b)[:5, 5:], abs=1e-12)
    assert (similarity(np.full((2, 20), 0.1), b) == 0).all()


def test_identification_by_hand():
    table = np.array([[0.9, 0.5, 0.1, 0.3],  # target 0: best of four
                      [0.9, 0.5, 0.1, 0.3],  # target 1: beats two of three
                      [0.9, 0.5, 0.1, 0.3]])  # target 2: beats none
    target = np.array([0, 1, 2])
    assert top_k(table, target) == pytest.approx(1 / 3)
    assert top_k(table, target, 2) == pytest.approx(2 / 3)
    assert two_way(table, target) == pytest.approx((3 / 3 + 2 / 3 + 0 / 3) / 3)
    # rivals within a category: 0 against 1 wins, 1 against 0 loses, 2 against 3 loses
    assert two_way_within(table, target, ["a", "a", "b", "b"]) == pytest.approx(1 / 3)
    # 2 has no rival and does not count
    assert two_way_within(table, target, ["a", "a", "b", "c"]) == pytest.approx(1 / 2)
    assert np.isnan(two_way_within(table, target, list("abcd")))


def test_saying_the_same_of_all_scores_exactly_chance():
    table, target = np.zeros((6, 8)), np.arange(6)
    assert top_k(table, target) == pytest.approx(1 / 8)
    assert top_k(table, target, 3) == pytest.approx(3 / 8)
    assert two_way(table, target) == 0.5


def test_knowing_only_the_category_fools_two_way_but_not_within():
    category = np.repeat(np.arange(10), 12)
    target = np.arange(120)
    oracle = (category[:, None] == category[None, :]).astype(float)
    wrong_category, same = 108, 11
    assert two_way(oracle, target) == pytest.approx((wrong_category + same / 2) / 119)
    assert two_way(oracle, target) > 0.95
    assert two_way_within(oracle, target, category) == 0.5
    assert top_k(oracle, target) == pytest.approx(1 / 12)


def test_two_way_is_the_area_under_the_roc_curve(rng):
    from sklearn.metrics import roc_auc_score

    table, target = rng.standard_normal((30, 9)), rng.integers(0, 9, 30)
    auc = [roc_auc_score(np.arange(9) == t, row) for row, t in zip(table, target, strict=True)]
    assert two_way(table, target) == pytest.approx(np.mean(auc))


@pytest.mark.parametrize("n", [20, 113])
def test_null_sd_of_two_way(n):
    rng = np.random.default_rng(0)
    draws = [two_way(rng.standard_normal((n, n)), np.arange(n)) for _ in range(600)]
    assert np.std(draws) == pytest.approx(two_way_null_sd(n), rel=0.1)
    assert two_way_null_sd(n) == pytest.approx(1 / np.sqrt(12 * n), rel=1.5 / n)
    assert np.mean(draws) == pytest.approx(0.5, abs=4 * two_way_null_sd(n) / np.sqrt(600))


@pytest.mark.slow
def test_permutation_p_is_uniform_under_the_null_with_repeats():
    """Repeats that share a spurious resemblance must not count as independent evidence."""
    values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        target = np.repeat(np.arange(15), 4)
        common = np.repeat(rng.standard_normal((15, 15)), 4, axis=0)  # the same for all repeats
        table = common + 0.1 * rng.standard_normal((60, 15))
        values.append(permutation_p(table, target, two_way, n=99, seed=seed))
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert 0.01 < np.mean(np.array(values) <= 0.05) < 0.11


def test_permutation_p_finds_information_and_is_reproducible(rng):
    target = np.arange(20)
    table = rng.standard_normal((20, 20)) + 2 * np.eye(20)
    assert permutation_p(table, target, two_way, n=199, seed=1) == 1 / 200
    first = permutation_null(table, target, top_k, 50, seed=3)
    assert (first == permutation_null(table, target, top_k, 50, seed=3)).all()


def test_permuting_within_categories_asks_for_more_than_the_category(rng):
    category = np.repeat(np.arange(4), 6)
    oracle = (category[:, None] == category) + 1e-3 * rng.standard_normal((24, 24))
    target = np.arange(24)
    assert permutation_p(oracle, target, two_way, n=199, seed=0) == 1 / 200
    assert permutation_p(oracle, target, two_way, n=199, seed=0, within=category) > 0.05


@pytest.mark.parametrize(
    ("table", "target", "message"),
    [
        (np.zeros((3, 4)), np.arange(2), "one target a trial"),
        (np.zeros((3, 4)), np.array([0, 1, 4]), "no columns"),
        (np.zeros((3, 4)), np.array([0.0, 1, 2]), "expected int"),
        (np.full((3, 4), np.nan), np.arange(3), "NaN"),
    ],
)
def test_identification_refuses(table, target, message):
    with pytest.raises(DataError, match=message):
        two_way(table, target)


# ---- What could be reached ----


def test_log_likelihood_is_the_normal_density(rng):
    betas, responses = rng.standard_normal((4, 6)), rng.standard_normal((3, 6))
    a = rng.standard_normal((6, 6))
    covariance = a @ a.T + np.eye(6)
    expected = [[stats.multivariate_normal(r, covariance).logpdf(b) for r in responses]
                for b in betas]
    assert log_likelihood(betas, responses, covariance) == pytest.approx(np.array(expected))
    variance = np.diag(covariance)
    assert log_likelihood(betas, responses, variance) == pytest.approx(
        log_likelihood(betas, responses, np.diag(variance)))


def test_ideal_observer_of_two_candidates_reaches_phi_of_half_d_prime():
    """Naming one of two Gaussians a distance d' apart (in noise SDs) succeeds with Φ(d'/2)."""
    rng, voxels, trials, d_prime = np.random.default_rng(0), 12, 40_000, 1.3
    a = rng.standard_normal((voxels, voxels))
    covariance = a @ a.T / voxels + 0.2 * np.eye(voxels)
    step = rng.standard_normal(voxels)
    step *= d_prime / np.sqrt(step @ np.linalg.solve(covariance, step))
    responses = np.stack([np.zeros(voxels), step])
    target = rng.integers(0, 2, trials)
    betas = responses[target] + rng.multivariate_normal(np.zeros(voxels), covariance, trials)
    right = top_k(log_likelihood(betas, responses, covariance), target)
    assert right == pytest.approx(stats.norm.cdf(d_prime / 2), abs=4 * np.sqrt(0.25 / trials))
    # ignoring the correlations costs something: the ideal is the ideal
    assert right > top_k(log_likelihood(betas, responses, np.diag(covariance)), target)


def test_log_likelihood_refuses(rng):
    betas, responses = rng.standard_normal((4, 3)), rng.standard_normal((2, 3))
    for noise in (np.ones(4), np.zeros(3), -np.eye(3), np.full(3, np.inf), np.ones((3, 3, 3))):
        with pytest.raises(DataError):
            log_likelihood(betas, responses, noise)
    with pytest.raises(DataError, match="not symmetric"):
        log_likelihood(betas, responses, np.eye(3) + np.triu(np.full((3, 3), 0.3), 1))
    for i in range(3):  # a NaN row would name candidate 0
        odd = [betas.copy(), responses.copy(), np.ones(3)]
        odd[i].flat[1] = np.nan
        with pytest.raises(DataError, match="NaN"):
            log_likelihood(*odd)


def test_encoding_model_identifies_new_pictures(rng):
    weights = rng.standard_normal((10, 40))
    features = rng.standard_normal((400, 10))
    mixing = np.linalg.cholesky(0.5 * np.eye(40) + 0.5)  # correlated noise
    noise = 3 * rng.standard_normal((400, 40)) @ mixing.T
    betas = features @ weights + noise
    model = fit_encoding_model(features[:300], betas[:300])
    error = model.ridge.predict(features) - features @ weights
    assert np.square(error).mean() < 2 * 9 * 10 / 300  # the variance of least squares, doubled
    true_noise = 9 * mixing @ mixing.T
    error = np.linalg.norm(model.noise - true_noise) / np.linalg.norm(true_noise)
    assert error < 0.25
    target = np.arange(100)
    found = top_k(model.rank(betas[300:], features[300:]), target)
    ideal = top_k(log_likelihood(betas[300:], features[300:] @ weights, true_noise), target)
    assert 0.7 * ideal < found <= ideal + 0.05


def test_nearest_training_distance(rng):
    train = pictures(rng, 30)
    images = train[[4, 17]].copy()
    images[1, 0, 0, 0] ^= 64
    nearest = metrics.nearest_training_distance(images, train, chunk=7)
    assert nearest.index.tolist() == [4, 17]
    assert nearest.distance == pytest.approx([0, 64 / 255 / np.sqrt(16 * 16 * 3)], abs=1e-7)
    new = rng.standard_normal((5, 8))
    known = rng.standard_normal((20, 8))
    nearest = metrics.nearest_training_distance(new, known)
    full = np.sqrt(((new[:, None] - known) ** 2).mean(2))
    assert nearest.index.tolist() == full.argmin(1).tolist()
    assert nearest.distance == pytest.approx(full.min(1), rel=1e-5)


# ---- All of it ----


def test_report(rng):
    truth = pictures(rng, 12)
    target = np.repeat(np.arange(12), 2)
    noisy = np.clip(truth[target] + rng.normal(0, 30, (24, 16, 16, 3)), 0, 255).astype(np.uint8)

    def flat(images):
        return images.reshape(len(images), -1)

    criteria = report.Criteria(truth, target, flat, category=np.repeat([0, 1], 6))
    table = report.score_table({"diffusion": noisy, "shuffled_brain": pictures(rng, 24)}, criteria,
                          {"ideal_observer": np.eye(12)[target]}, permutations=199)
    without = {"two_way_within_scene"}  # no factors, no training images
    assert set(table["diffusion"]) == set(report.METRICS[:10]) - without
    assert table["diffusion"]["top1"] == 1 and table["diffusion"]["p_value"] == 1 / 200
    assert table["shuffled_brain"]["p_value"] > 0.01
    assert "pixcorr" not in table["ideal_observer"] and table["ideal_observer"]["two_way"] == 1
    assert table["chance"] == {"top1": 1 / 12, "two_way": 0.5, "two_way_within_category": 0.5}
    assert all(type(v) is float for row in table.values() for v in row.values())
    text = report.format_report(table)
    assert len(text.splitlines()) == 5 and "ideal_observer" in text
    with pytest.raises(DataError, match="one for each trial"):
        report.score_table({"diffusion": noisy[:3]}, criteria)


def test_the_whole_checklist_against_answers_that_are_known(rng):
    """Pictures with the right thing at another place and in other light, beside copies."""
    factors = sample_factors(20, seed=3)
    truth, train = draw(factors), draw(sample_factors(30, seed=4))
    moved = factors.copy()
    moved["light"] = (moved["light"] + 1) % 3
    criteria = report.Criteria(
        truth, np.arange(20), lambda images: images.reshape(len(images), -1), factors["category"],
        factors, report.load_classifiers(), train)
    table = report.score_table({"moved": draw(moved), "copies": train[:20]}, criteria, ceiling=0.04,
                          permutations=19)
    assert set().union(*table.values()) == set(report.METRICS)
    seen = similarity(draw(moved).reshape(20, -1), truth.reshape(20, -1))
    place = factors["background"]
    wins = [np.mean([seen[i, i] > seen[i, j] for j in range(20) if j != i and place[j] == place[i]])
            for i in range(20) if (place == place[i]).sum() > 1]
    assert table["moved"]["two_way_within_scene"] == pytest.approx(np.mean(wins))
    assert table["truth"]["object"] > 0.9 < table["moved"]["object"]
    assert table["truth"]["light"] > 0.9 and table["moved"]["light"] < 0.1
    assert table["copies"]["nearest_train"] == 0 and table["copies"]["object"] < 0.4
    full = np.sqrt(((truth[:, None] / 255.0 - train / 255.0) ** 2).mean((2, 3, 4))).min(1).mean()
    assert table["truth"]["nearest_train"] == pytest.approx(full, rel=1e-4)
    assert table["noise_ceiling"] == {"variance": 0.04}
    _, counts = np.unique(factors["background"], return_counts=True)
    assert table["chance"]["background"] == counts.max() / 20
    assert "nearest_train" in report.format_report(table)


def test_factors_are_no_use_without_classifiers(rng):
    factors = sample_factors(4, seed=3)
    with pytest.raises(DataError, match="no classifiers; give those of `load_classifiers`"):
        report.Criteria(draw(factors), np.arange(4), lambda x: x.reshape(4, -1), factors=factors)


def test_p_within_asks_for_more_than_the_category(rng):
    category = np.repeat(np.arange(4), 6)
    oracle = (category[:, None] == category) + 1e-3 * rng.standard_normal((24, 24))
    row = report.score_ranking(oracle, np.arange(24), category, 199)
    assert row["p_value"] == 1 / 200 and row["p_within_category"] > 0.05
    row = report.score_ranking(oracle + 0.01 * np.eye(24), np.arange(24), category, 199)
    assert row["p_within_category"] == 1 / 200


@pytest.mark.parametrize("labels", [3, 12])
def test_categories_of_another_number_of_candidates_are_refused(labels):
    scores = np.eye(10) + np.random.default_rng(0).normal(size=(10, 10))
    with pytest.raises(DataError, match="10 candidates"):
        permutation_p(scores, np.arange(10), two_way, 9, within=np.zeros(labels, int))


def test_bootstrap_interval_keeps_the_trials_of_a_picture_together(rng):
    """Against scipy, drawing pictures; wider than if trials were independent."""
    target = np.repeat(np.arange(60), 4)
    easy = rng.random(60)[target]
    hits = (rng.random(240) < easy).astype(float)
    low, high = bootstrap_interval(hits, target)
    means = hits.reshape(60, 4).mean(1)
    oracle = stats.bootstrap((means,), np.mean, method="percentile", rng=0,
                             n_resamples=9999).confidence_interval
    assert low == pytest.approx(oracle.low, abs=0.015)
    assert high == pytest.approx(oracle.high, abs=0.015)
    alone = bootstrap_interval(hits, np.arange(240))
    assert high - low > 1.1 * (alone[1] - alone[0])
    assert bootstrap_interval(np.ones(240), target) == (1, 1)
    assert bootstrap_interval(hits, target) == (low, high)  # the seed decides
    assert top_k_hits(np.eye(3), [0, 2, 2]).tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="expected"):
        bootstrap_interval(hits[:5], target)


def test_paired_differences_are_of_the_same_trials(loaded):
    from recon_lib.scores.report import criteria_of, load_classifiers, paired_differences

    seen = loaded.images[loaded.test_index]
    target = np.repeat(np.arange(len(seen)), 4)
    half = seen[np.where(np.arange(len(target)) % 2, target, (target + 1) % len(seen))]
    results = {"single_trial": {"target": target, "pictures": {
        "diffusion": seen[target], "map_retrieval": half}}}
    criteria = criteria_of(loaded, results, load_classifiers())
    found = paired_differences(results, criteria)["single_trial"]
    assert found["top1"] == 0.5 and found["top1_low"] == found["top1_high"] == 0.5
    assert paired_differences(results, criteria, one="ridge") == {}


def test_a_posterior_is_held_against_the_truth(loaded):
    from recon_lib.scores.report import criteria_of, how_sure, load_classifiers

    factors = loaded.factors[loaded.test_index]
    n = len(factors)
    share = np.full((n, 14), 0.05 / 13)
    share[np.arange(n), factors["category"]] = 0.95
    share[0] = np.roll(share[0], 1)  # as sure, and wrong
    share[1] = 1 / 14 + np.eye(14)[factors["category"][1]] * 1e-3  # right, and unsure
    results = {"averaged": {"target": np.arange(n), "pictures": {}, "posterior": {
        "category": share, "spread": np.zeros((n, 16, 16))}}}
    criteria = criteria_of(loaded, results, load_classifiers())
    numbers = how_sure(results, criteria)["averaged"]["category"]
    assert numbers["right"] == pytest.approx((n - 1) / n)
    assert numbers["share_sure"] == pytest.approx((n - 1) / n)
    assert numbers["right_sure"] == pytest.approx((n - 2) / (n - 1))
    assert numbers["said"] == pytest.approx((0.95 * (n - 1) + 1 / 14 + 1e-3) / n)
    del results["averaged"]["posterior"]
    assert how_sure(results, criteria) == {}
