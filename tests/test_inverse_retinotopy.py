"""Pictures from few trials: receptive fields and a Gaussian posterior, against other arithmetic."""

import numpy as np
import pytest

from recon_lib.brain.features import coarse_pixels
from recon_lib.data.pictures import square_arrays
from recon_lib.decoding import inverse_retinotopy as ir
from recon_lib.decoding.baselines import Training, Trials, fit_ridge_to_pixels

RNG = np.random.default_rng(0)


def test_the_posterior_mean_is_that_of_the_precisions_and_of_the_joint_gaussian():
    """Of random matrices; also with fewer voxels than pixels, where one inverse is smaller."""
    for p, v in ((6, 9), (9, 4)):
        w, a, b = RNG.normal(size=(p, v)), RNG.normal(size=(p, p)), RNG.normal(size=(v, v))
        prior, noise, errors = a @ a.T + np.eye(p), b @ b.T + np.eye(v), RNG.normal(size=(3, v))
        found = ir.posterior_mean(errors, w, noise, prior)
        precise = np.linalg.inv(noise)
        by_precision = np.linalg.solve(np.linalg.inv(prior) + w @ precise @ w.T,
                                       w @ precise @ errors.T).T
        np.testing.assert_allclose(found, by_precision, atol=1e-9)
        joint = np.block([[prior, prior @ w], [w.T @ prior, w.T @ prior @ w + noise]])
        inverse = np.linalg.inv(joint)  # the conditional mean from the joint's precision
        by_joint = -np.linalg.solve(inverse[:p, :p], inverse[:p, p:] @ errors.T).T
        np.testing.assert_allclose(found, by_joint, atol=1e-9)


def test_the_prior_lies_between_what_was_seen_and_smooth_pictures():
    pictures = RNG.normal(size=(8, 2 * 256))
    mean, covariance = ir.prior(pictures, 2)
    np.testing.assert_allclose(mean, pictures.mean(0))
    seen = np.cov(pictures.T, ddof=0)
    smooth = 2 * covariance - seen  # eight pictures weigh as much as the neighbours do
    assert np.trace(smooth) == pytest.approx(np.trace(seen))
    assert smooth[0, 2] / smooth[0, 0] == pytest.approx(np.exp(-1))  # two pixels apart
    assert smooth[0, 256] / smooth[0, 0] == pytest.approx(smooth[5, 261] / smooth[5, 5])
    assert np.linalg.eigvalsh(covariance).min() > 0


def retinotopic(n=20, repeats=4, voxels=150, noise=1.0):
    """Blocky pictures of two grey levels, and voxels that each see one place, with noise."""
    rng = np.random.default_rng(2)
    images = square_arrays((rng.random((n, 8, 8, 1)) < 0.4).astype(np.uint8) * 255, 32)
    centre, size = rng.uniform(0, 16, (voxels, 2)), rng.uniform(1, 3, voxels)
    far = np.square(ir.PLACES[:, None] - centre).sum(2)
    fields = np.exp(-far / (2 * size**2))
    seen = coarse_pixels(images)[:, :256]
    signal = (seen - seen.mean(0)) @ fields
    shown = np.repeat(np.arange(n), repeats)
    betas = (signal / signal.std(0))[shown]
    return images, fields, shown, betas + noise * rng.normal(size=betas.shape)


def test_receptive_fields_are_found():
    images, fields, shown, betas = retinotopic(noise=0.5)
    found = ir.receptive_fields(coarse_pixels(images)[shown, :256], betas)
    likeness = [np.corrcoef(a, b)[0, 1] for a, b in zip(found.T, fields.T, strict=True)]
    assert np.median(likeness) > 0.9
    silent = ir.receptive_fields(np.zeros((9, 256)), np.zeros((9, 2)))  # nothing was shown
    assert (silent == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_more_is_read_of_new_pictures_than_by_ridge(channels):
    images, _, shown, betas = retinotopic()
    images = np.repeat(images, channels, 3)
    train = shown < 15
    training = Training(betas[train], images[shown[train]], shown[train])
    seen, error = images[shown[~train]].astype(float), {}
    for name, fit in (("fields", ir.fit_inverse_retinotopy), ("ridge", fit_ridge_to_pixels)):
        drawn = fit(training)(Trials(betas[~train]))
        assert drawn.shape == seen.shape and drawn.dtype == np.uint8
        error[name] = np.square(drawn - seen).mean()
    assert error["fields"] < 0.9 * error["ridge"]
