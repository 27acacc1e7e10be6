"""Ridge against scikit-learn; the baselines against what they must do."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from recon_lib.brain.ridge import STRENGTHS, fit_ridge
from recon_lib.common.errors import DataError
from recon_lib.decoding import baselines
from recon_lib.scores.metrics import pixel_correlation


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize(("n", "p"), [(60, 12), (30, 80)])
def test_ridge_is_scikit_learns_at_the_strength_chosen(rng, n, p):
    x = rng.standard_normal((n, p)) + 5
    y = x @ rng.standard_normal((p, 3)) / np.sqrt(p) + rng.standard_normal((n, 3)) * [0.1, 1, 9]
    fit = fit_ridge(x, y)
    unit = np.square(x - x.mean(0)).sum() / p
    for k in range(3):
        peer = SklearnRidge(alpha=unit * fit.strength[k], solver="svd").fit(x, y[:, k])
        assert fit.weights[:, k] == pytest.approx(peer.coef_, rel=1e-7, abs=1e-9)
        assert fit.predict(x[:5])[:, k] == pytest.approx(peer.predict(x[:5]))


def test_ridge_chooses_the_strength_that_predicts_best_out_of_fold(rng):
    x = rng.standard_normal((50, 20))
    y = x[:, :1] + rng.standard_normal((50, 1))
    best = fit_ridge(x, y)
    each = [fit_ridge(x, y, strengths=[s]) for s in STRENGTHS]
    errors = [np.square(fit.out_of_fold - y).sum() for fit in each]
    assert best.strength[0] == STRENGTHS[np.argmin(errors)]
    assert best.out_of_fold == pytest.approx(each[np.argmin(errors)].out_of_fold)
    assert best.r2[0] == pytest.approx(1 - min(errors) / np.square(y - y.mean()).sum())


def test_out_of_fold_predictions_have_not_seen_their_group(rng):
    """A group's own targets cannot be learnt: with pure noise, nothing is predicted."""
    groups = np.repeat(np.arange(12), 5)
    x = rng.standard_normal((12, 40))[groups] + 0.01 * rng.standard_normal((60, 40))
    y = rng.standard_normal((12, 4))[groups]
    assert fit_ridge(x, y, groups).r2.max() < 0.3
    assert fit_ridge(x, y).r2.min() > 0.9  # the leak, if repeats straddle folds


def test_ridge_refuses(rng):
    x = rng.standard_normal((10, 3))
    with pytest.raises(DataError, match="one row for each trial"):
        fit_ridge(x, x[:5])
    with pytest.raises(DataError, match="NaN"):
        fit_ridge(x, np.full((10, 1), np.nan))
    with pytest.raises(DataError, match="groups"):
        fit_ridge(x, x, groups=np.zeros(10))


def test_mean_image(rng):
    train = rng.integers(0, 256, (9, 5, 4, 3), dtype=np.uint8)
    mean = baselines.mean_image(train, 3)
    assert mean.shape == (3, 5, 4, 3) and mean.dtype == np.uint8
    assert np.abs(mean[2] - train.mean(0)).max() <= 0.5


def test_ridge_to_pixels_recovers_pictures_that_are_linear_in_the_betas(rng):
    basis = rng.standard_normal((6, 8 * 8 * 3))
    sources = rng.standard_normal((240, 6))
    images = np.clip(128 + 15 * sources @ basis, 0, 255).astype(np.uint8).reshape(-1, 8, 8, 3)
    betas = sources @ rng.standard_normal((6, 50)) + 0.1 * rng.standard_normal((240, 50))
    draw = baselines.ridge_to_pixels(betas[:200], images[:200])
    drawn = draw(betas[200:])
    assert drawn.dtype == np.uint8 and drawn.shape == (40, 8, 8, 3)
    assert pixel_correlation(drawn, images[200:]).mean() > 0.95
    with pytest.raises(DataError, match="one picture for each trial"):
        baselines.ridge_to_pixels(betas[:100], images)


def test_retrieval(rng):
    features, images = rng.standard_normal((20, 7)), np.arange(20).reshape(20, 1, 1, 1)
    found = baselines.retrieval(3 * features[[5, 11]] + 2, features, images)
    assert found.ravel().tolist() == [5, 11]


def test_baselines_refuse_pictures_from_0_to_1(rng):
    images, betas = rng.integers(0, 256, (20, 4, 4, 3)), rng.standard_normal((20, 5))
    for call in (lambda x: baselines.mean_image(x, 1),
                 lambda x: baselines.ridge_to_pixels(betas, x)(betas),
                 lambda x: baselines.retrieval(betas, betas, x)):
        assert np.array_equal(call(images.astype(float)), call(images.astype(np.uint8)))
        with pytest.raises(DataError, match="values from 0 to 1, expected whole numbers"):
            call(images / 255)


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_brain_gives_every_image_the_betas_of_one_other(seed):
    image = np.random.default_rng(seed).permutation(np.repeat(np.arange(9), [1, 2, 3] * 3))
    order = baselines.shuffled_brain(image, seed)
    assert (image[order] != image).all()
    donors = [set(image[order[image == k]]) for k in range(9)]
    assert all(len(d) == 1 for d in donors) and len(set.union(*donors)) == 9
    assert (order == baselines.shuffled_brain(image, seed)).all()


def test_shuffled_brain_needs_two_images():
    with pytest.raises(DataError, match="nothing to shuffle"):
        baselines.shuffled_brain([0, 0])
