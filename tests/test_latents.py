"""Latents against scikit-learn; the brain decoder against a world whose answer is known."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA

from recon_lib.brain.decoder import fit_decoder, vector_source
from recon_lib.brain.encoding import shrunk_covariance
from recon_lib.brain.features import FactorNet, embed
from recon_lib.brain.latents import (
    arrays_of,
    coarse_pixels,
    fit_basis,
    fit_latent,
    load_latent,
    packed,
)
from recon_lib.common.errors import DataError
from recon_lib.world.scenes import draw, sample_factors

TRIALS, VOXELS, D = 4000, 30, 4
NOISE = 3.0


@pytest.fixture(scope="module")
def pictures():
    return draw(sample_factors(40, 0), 32)


@pytest.fixture(scope="module")
def latent(pictures):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return fit_latent(pictures, FactorNet().eval(), pixels=5, features=7)


def world(n, seed, repeats=1):
    """Latents ~ N(0, 1), betas linear in them, with white noise, averaged over repeats."""
    weights = np.array([[2], [1], [0.5], [0.2]]) * np.random.default_rng(0).normal(size=(D, VOXELS))
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(n, D)).astype(np.float32)
    noise = rng.normal(size=(n, VOXELS)) * NOISE / np.sqrt(repeats)
    return latents @ weights + noise, latents, weights


@pytest.fixture(scope="module")
def decoder():
    betas, latents, _ = world(TRIALS, 1)
    return fit_decoder(betas, latents)


def close(matrix, expected, share):
    """Compare two matrices by the norm of their difference."""
    return np.linalg.norm(matrix - expected) < share * np.linalg.norm(expected)


def test_basis_is_whitened_pca():
    x = np.random.default_rng(0).normal(size=(50, 8)) @ np.diag(np.arange(1, 9.0)) + 3
    ours, theirs = fit_basis(x, 4).transform(x), PCA(4, whiten=True).fit_transform(x)
    sign = np.sign((ours * theirs).sum(0))
    assert np.allclose(ours, theirs * sign, atol=1e-4)
    assert np.allclose(np.cov(ours.T), np.eye(4), atol=1e-4)


def test_basis_has_no_axes_that_the_data_have_not():
    x = np.random.default_rng(0).normal(size=(40, 3)) @ np.random.default_rng(1).normal(size=(3, 9))
    assert fit_basis(x, 8).axes.shape == (9, 3)
    few = fit_basis(np.random.default_rng(2).normal(size=(4, 9)), 8)
    assert few.axes.shape == (9, 3) and np.isfinite(few.axes).all()


@pytest.mark.parametrize(("n", "p"), [(200, 6), (12, 30), (40, 1)])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_shrunk_covariance_is_ledoit_and_wolfs(n, p, kind):
    rng = np.random.default_rng(n)
    x = (3 + rng.standard_normal((n, p)) @ rng.standard_normal((p, p))).astype(kind)
    found, exact = shrunk_covariance(x), 1e-10 if kind is np.float64 else 1e-4
    assert found.dtype == kind
    assert np.allclose(found, ledoit_wolf(x.astype(float))[0], rtol=exact, atol=exact)


def test_coarse_pixels_are_means_of_squares():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    blocks = images.reshape(3, 16, 4, 16, 4, 3).mean((2, 4)) / 127.5 - 1  # (3, 16, 16, 3)
    expected = blocks.transpose(0, 3, 1, 2).reshape(3, -1)
    assert np.allclose(coarse_pixels(images), expected, atol=1e-5)
    grey = images[..., :1]
    assert np.allclose(coarse_pixels(grey), coarse_pixels(np.repeat(grey, 3, 3)))


def test_latent_joins_pixels_and_features(latent, pictures):
    assert latent.blocks == (5, 7)
    vectors = latent.transform(pictures)
    assert vectors.shape == (40, 12) and vectors.dtype == np.float32
    assert np.allclose(vectors.mean(0), 0, atol=1e-4)
    assert np.allclose(vectors.std(0, ddof=1), 1, atol=1e-3)
    assert np.allclose(vectors[:, :5], latent.pixels.transform(coarse_pixels(pictures)))
    assert np.allclose(vectors[:, 5:], latent.features.transform(embed(latent.encoder, pictures)))


def test_latent_survives_the_disk(latent, pictures, tmp_path):
    path = tmp_path / "latent.safetensors"
    path.write_bytes(packed(latent))
    assert np.array_equal(load_latent(path).transform(pictures), latent.transform(pictures))


def test_files_that_hold_no_latent(latent, tmp_path):
    path = tmp_path / "latent.safetensors"
    with pytest.raises(DataError, match="no file"):
        load_latent(path)
    path.write_bytes(packed(latent))
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:20], b"", b"\x00" * 500):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="does not hold a latent") as error:
            load_latent(path)
        assert "\n" not in str(error.value)
    save_file({"something": np.zeros(3)}, path)
    with pytest.raises(DataError, match="does not hold a latent"):
        load_latent(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError):
        load_latent(path)


@pytest.mark.parametrize("name, shape", [
    ("pixels.mean", (1,)), ("pixels.axes", (5, 4)), ("features.mean", (1, 96)),
    ("features.axes", (96,)), ("memory", (40, 11)), ("memory", (12,)),
])
def test_arrays_of_a_latent_that_do_not_fit_together(latent, tmp_path, name, shape):
    path = tmp_path / "latent.safetensors"
    save_file(arrays_of(latent) | {name: np.zeros(shape, np.float32)}, path)
    with pytest.raises(DataError, match="shape .*; expected .*; use a file that") as error:
        load_latent(path)
    assert "\n" not in str(error.value)


def test_the_same_latent_is_the_same_file(latent, tmp_path):
    written = set()
    for _ in range(8):  # safetensors alone shuffles the metadata
        (tmp_path / "latent.safetensors").write_bytes(packed(latent))
        written.add((tmp_path / "latent.safetensors").read_bytes())
    assert len(written) == 1


def test_decoder_is_the_posterior_mean_of_a_linear_gaussian_world(decoder):
    """With enough trials ridge is E[f | b], whose gain and errors have a closed form."""
    betas, latents, weights = world(4000, 2)
    precision = weights @ weights.T / NOISE**2  # (D, D)
    shrink = np.linalg.inv(np.eye(D) + precision)
    found = decoder.vector(betas)[:, :-1]
    assert np.allclose(found, betas @ (weights.T / NOISE**2 @ shrink), atol=0.25)
    assert close(decoder.forward.weights, precision @ shrink, 0.05)
    root = decoder.noise_cholesky
    assert close(root @ root.T, shrink @ precision @ shrink, 0.08)


@pytest.mark.parametrize("repeats", [1, 4])
def test_fresh_trials_err_as_the_decoder_expects(decoder, repeats):
    betas, latents, _ = world(6000, 3, repeats)
    vectors = decoder.vector(betas, repeats)
    assert vectors.dtype == np.float32 and np.allclose(vectors[:, -1], repeats**-0.5)
    error = vectors[:, :-1] - decoder.forward.predict(latents)
    assert close(np.cov(error.T), decoder.noise_cholesky @ decoder.noise_cholesky.T / repeats, 0.12)


def test_errors_are_those_of_new_trials_when_trials_are_few():
    betas, latents, _ = world(60, 4)
    small = fit_decoder(betas, latents)
    betas, latents, _ = world(4000, 5)
    error = np.var(small.vector(betas)[:, :-1] - small.forward.predict(latents), axis=0).sum()
    assert np.trace(small.noise_cholesky @ small.noise_cholesky.T) == pytest.approx(error, rel=0.35)


def test_repeats_may_differ_by_row(decoder):
    vectors = decoder.vector(world(3, 6)[0], np.array([1, 4, 16]))
    assert np.allclose(vectors[:, -1], [1, 0.5, 0.25])


def test_simulated_vectors_have_the_moments_claimed(decoder):
    one = torch.tensor([[1.0, -2.0, 0.5, 0.0]])
    generator = torch.Generator().manual_seed(0)
    for repeats in (1, 3):
        level = torch.full((40_000,), repeats)
        drawn = decoder.simulate(one.expand(40_000, -1), level, generator).numpy().astype(float)
        covariance = decoder.noise_cholesky @ decoder.noise_cholesky.T / repeats
        standard_error = np.sqrt(np.diag(covariance) / 40_000)
        away = drawn[:, :-1].mean(0) - decoder.forward.predict(one.numpy())[0]
        assert (np.abs(away) < 4 * standard_error).all()
        assert close(np.cov(drawn[:, :-1].T), covariance, 0.03)
        assert np.allclose(drawn[:, -1], repeats**-0.5)


def test_log_likelihood_is_the_normal_density_up_to_a_constant(decoder):
    betas, latents, _ = world(5, 7)
    repeats = np.array([1, 2, 3, 4, 1])
    vectors = decoder.vector(betas, repeats)
    candidates = world(9, 8)[1]
    found, root = decoder.log_likelihood(vectors, candidates), decoder.noise_cholesky  # (5, 9)
    expected = np.array([[
        multivariate_normal(mean, root @ root.T / n).logpdf(vector[:-1])
        for mean in decoder.forward.predict(candidates)
    ] for vector, n in zip(vectors, repeats, strict=True)])
    difference = found - expected
    assert np.allclose(difference, difference[:, :1], rtol=1e-4, atol=1e-3)


def test_the_likelihood_names_what_was_seen(decoder):
    betas, latents, _ = world(200, 9, repeats=50)
    named = decoder.log_likelihood(decoder.vector(betas, 50), latents).argmax(1)
    assert (named == np.arange(200)).mean() > 0.3  # chance: 0.005


def test_wrong_number_of_voxels(decoder):
    with pytest.raises(DataError, match=f"29.; expected .trials, {VOXELS}."):
        decoder.vector(np.zeros((2, VOXELS - 1)))


def test_trials_of_one_group_are_left_out_together():
    """Betas that tell nothing but the group: only folds that split groups would find signal."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 8)
    betas = rng.normal(size=(30, VOXELS))[groups] + 0.01 * rng.normal(size=(240, VOXELS))
    latents = rng.normal(size=(30, D))[groups]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = fit_decoder(betas, latents, groups)
        split = fit_decoder(betas, latents)
    assert kept.ridge.r2.max() < 0.3 and split.ridge.r2.min() > 0.9


def draws(decoder, latents, n=30_000, seed=0, **options):
    source = vector_source(decoder, latents, (1, 3), **options)
    index = torch.arange(n) % len(latents)
    return source(index, torch.Generator().manual_seed(seed)).numpy()


def test_vector_source_repeats_itself_and_levels_are_equally_likely(decoder):
    latents = world(50, 10)[1]
    a, b, c = (draws(decoder, latents, 6000, seed) for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    level, counts = np.unique(np.round(a[:, -1] ** -2), return_counts=True)
    assert np.array_equal(level, [1, 2, 3, 4, 16, 64, 256])
    assert np.abs(counts / 6000 - 1 / 7).max() < 0.03


def test_weakened_blocks_shrink_towards_the_mean(decoder):
    _, latents, _ = world(TRIALS, 1)  # the decoder's own training pictures
    whole = draws(decoder, latents, weaken=0.0, repeats=(1,))[:, :-1]
    weak = draws(decoder, latents, weaken=1.0, repeats=(1,))[:, :-1]
    estimates = decoder.ridge.out_of_fold
    assert np.allclose(whole.mean(0), estimates.mean(0), atol=0.03)
    assert np.allclose(whole.std(0), estimates.std(0), rtol=0.05)
    assert np.allclose(weak.mean(0), estimates.mean(0), atol=0.03)
    # E[1 / (1 + e)] for log(e) uniform from log(.3) to log(30)
    factor = (np.log(30 / 31) - np.log(0.3 / 1.3)) / np.log(100)
    assert np.allclose(weak.var(0) / estimates.var(0), factor, rtol=0.07)
    # a block is weakened as a whole, and one block whatever happens to the other
    some = draws(decoder, latents, weaken=0.5, repeats=(1,))[:, :-1]
    moved = some != whole  # the same draws but for the weakening
    assert (moved[:, 1:] == moved[:, 1:2]).mean() > 0.999  # rounding hides a few
    assert np.corrcoef(moved[:, 0], moved[:, 1])[0, 1] == pytest.approx(0, abs=0.03)
    assert moved[:, 0].mean() == pytest.approx(0.5, abs=0.02)
