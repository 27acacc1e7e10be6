"""Banded ridge, families of features, and the posterior over a finite set of pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from recon_lib.brain.decoder import fit_decoder
from recon_lib.brain.edges import COMPONENTS, contrast_energy, fit_edges
from recon_lib.brain.encoding import fit_encoding_model, log_likelihood
from recon_lib.brain.families import CHOICES, PLACED, PLACES, feature_families
from recon_lib.brain.features import load_factor_net, read_factors
from recon_lib.brain.latents import fit_latent
from recon_lib.brain.ridge import fit_banded_ridge, fit_ridge
from recon_lib.common.errors import DataError
from recon_lib.decoding.posterior import FLOOR, GROWTH, TEMPERATURE, Posterior
from recon_lib.decoding.retrieval_prior import add_trials
from recon_lib.world.scenes import CATEGORIES, draw, sample_factors


@pytest.fixture(scope="module")
def world():
    """Pictures, their latent, and voxels that follow one family each, with noise."""
    images = draw(sample_factors(400, 3))
    latent = fit_latent(images, load_factor_net("feature_encoder"), 12, 80)
    latents = latent.transform(images)
    families = feature_families(latent, latents)
    rng = np.random.default_rng(0)
    signal = np.hstack([_unit(families[k] @ rng.normal(size=(families[k].shape[1], 20)))
                        for k in ("object", "scene")])
    betas = signal + 1.5 * rng.standard_normal(signal.shape)
    return images, replace(latent, prior=latents), families, signal, betas


def _unit(x):
    return (x - x.mean(0)) / x.std(0)


def some(families, rows):
    return {k: v[rows] for k, v in families.items()}


def test_families_say_what_the_encoder_reads_from_the_picture(world):
    images, latent, families, *_ = world
    read = read_factors(latent.encoder, images)
    classes = read["category"].shape[1]
    named = families["object"][:, :classes].argmax(1) == read["category"].argmax(1)
    assert named.mean() > 0.95  # 80 of 96 numbers of the embedding are left
    names = families["scene"][:, :read["background"].shape[1]].argmax(1)
    assert (names == read["background"].argmax(1)).mean() > 0.95
    assert families["object"].shape[1] == classes + 2 + 12 * classes
    both = families["object"][:, classes + 2 :].reshape(len(images), classes, 4, 3) / PLACED
    places = both.sum(1)  # of whatever category
    across = PLACES[0][places.max(2).argmax(1)]
    assert np.corrcoef(across, read["x"])[0, 1] > 0.9
    assert np.allclose(both.sum((2, 3)), families["object"][:, :classes]
                       * places.sum((1, 2))[:, None], atol=1e-5)
    blocks = np.hstack([families["pixels"], families["features"]])
    assert np.array_equal(blocks, latent.transform(images))


def test_banded_ridge_finds_the_family_of_each_voxel(world):
    _, _, families, signal, betas = world
    fit = fit_banded_ridge(families, betas, [c for c in CHOICES if "edges" not in c])
    plain = fit_ridge(np.hstack(list(families.values())), betas)
    assert (fit.r2 >= plain.r2 - 0.02).all() and fit.r2.mean() > plain.r2.mean() + 0.01
    owner = np.repeat(list(families), [v.shape[1] for v in families.values()])
    assert (fit.weights[owner == "scene"][:, :20] == 0).all(0).mean() > 0.5  # voxels of objects
    assert (fit.weights[owner == "object"][:, 20:] == 0).all(0).mean() > 0.5  # voxels of scenes
    seen = fit.predict(np.hstack(list(families.values())))
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(seen.T, signal.T, strict=True)]) > 0.8


def test_banded_ridge_of_one_choice_is_scikit_learns(world):
    _, _, families, _, betas = world
    fit = fit_banded_ridge(families, betas[:, :3], [("scene",)])
    x = families["scene"] / np.sqrt(families["scene"].var(0).sum())
    x = x.astype(np.float64) - x.mean(0)
    unit = np.trace(x.T @ x) / x.shape[1]
    owner = np.repeat(list(families), [v.shape[1] for v in families.values()])
    for i in range(3):
        oracle = SklearnRidge(unit * fit.strength[i]).fit(x, betas[:, i])
        seen = fit.predict(np.hstack(list(families.values())))[:, i]
        assert np.allclose(seen, oracle.predict(x), atol=1e-4)
    assert (fit.weights[owner != "scene"] == 0).all()


def test_ranks_are_those_of_the_gaussian_density(world):
    _, _, families, _, betas = world
    model = fit_encoding_model(some(families, slice(300)), betas[:300])
    candidates = some(families, slice(300, 400))
    expected = model.ridge.predict(np.hstack(list(candidates.values())))
    for repeats in (1, 4):
        oracle = log_likelihood(betas[300:], expected, model.noise / repeats)
        difference = oracle - model.rank(betas[300:], candidates, repeats)
        assert np.ptp(difference, axis=1).max() < 1e-4 * repeats  # a number for each trial
    one = model.rank(betas[300:], candidates, np.arange(1, 101))
    assert np.allclose(one[3] * 1, 4 * model.rank(betas[303:304], candidates)[0])


@pytest.fixture(scope="module")
def posterior(world):
    _, latent, families, _, betas = world
    rows = slice(0, 300)
    decoder = fit_decoder(betas[rows], latent.prior[rows])
    encoding = fit_encoding_model(some(families, rows), betas[rows])
    return Posterior(decoder, encoding, latent)


def test_posterior_is_bayes_rule_over_the_prior(posterior, world):
    _, latent, families, _, betas = world
    few = betas[300:310]
    index, mean = posterior.map_and_mean(few, 2)
    expected = posterior.encoding.ridge.predict(np.hstack(list(families.values())))
    joint = log_likelihood(few, expected, posterior.encoding.noise / 2)
    weights = np.exp((joint - joint.max(1, keepdims=True)) / TEMPERATURE)
    weights /= weights.sum(1, keepdims=True)
    assert np.array_equal(index, weights.argmax(1))
    assert np.allclose(mean, weights @ latent.prior, atol=1e-4)
    likeness = np.corrcoef(weights @ latent.prior, latent.prior)[:10, 10:]
    nearest = posterior.find(few, 2).nearest
    assert np.array_equal(nearest, likeness.argmax(1)) and (nearest != index).any()
    sure, _ = posterior.map_and_mean(few, 10**6)
    assert np.allclose(posterior.map_and_mean(few, 10**6)[1], latent.prior[sure], atol=1e-4)


def test_what_is_found_are_moments_of_the_posterior(posterior, world):
    images, latent, families, _, betas = world
    few = betas[300:310]
    weights = np.exp(posterior.log_weights(few, 2))
    weights /= weights.sum(1, keepdims=True)
    found = posterior.find(few, 2)
    draws = np.random.default_rng(0).choice(len(images), 20_000, p=weights[0])
    for name, family, columns in (("category", "object", slice(0, len(CATEGORIES))),
                                  ("light", "scene", slice(6, 9))):
        drawn = families[family][draws][:, columns].mean(0)
        assert np.abs(found.share[name][0] - drawn).max() < 0.02
        assert np.allclose(found.share[name].sum(1), 1, atol=1e-4)
    basis = latent.pixels
    coarse = latent.prior[:, : latent.blocks[0]] @ np.linalg.pinv(basis.axes) + basis.mean
    coarse = (coarse.astype(np.float64) / 2).reshape(-1, 3, 16, 16)
    centre = np.tensordot(weights[0], coarse, 1)
    variance = np.tensordot(weights[0], np.square(coarse - centre), 1).mean(0)
    spread = (GROWTH * variance + FLOOR**2) ** 0.5
    assert np.allclose(found.spread[0], spread, atol=2e-3) and spread.max() > FLOOR + 0.005
    some = found.take([3, 1])
    assert np.array_equal(some.mean, found.mean[[3, 1]])
    assert np.array_equal(some.nearest, found.nearest[[3, 1]])
    assert np.array_equal(some.share["light"], found.share["light"][[3, 1]])
    assert np.allclose(posterior.find(few, 10**6).spread, FLOOR, atol=2e-3)  # with many trials


def test_brain_vectors_of_the_posterior(posterior, world):
    betas = world[-1][300:310]
    vectors = posterior.vectors(betas, 2, 60)
    found = posterior.find(betas, 2)
    assert np.allclose(vectors, add_trials(posterior.decoder, posterior.decoder.vector(betas, 2),
                                           found.mean, 60))
    assert np.array_equal(vectors, posterior.vectors(betas, 2, 60, found))
    assert np.allclose(vectors[:, -1], 62**-0.5)
    assert np.allclose(posterior.vectors(betas, 2, 0), posterior.decoder.vector(betas, 2),
                       atol=1e-5)
    with pytest.raises(DataError, match="retrieval prior"):
        replace(posterior, latent=replace(posterior.latent, prior=None)).vectors(betas)


def test_contrast_energy_knows_direction_and_not_phase():
    x = np.arange(64)
    across = [128 + 100 * np.sin(2 * np.pi * x / 16 + phase) for phase in (0, 1, 2)]  # 8 of 32
    gratings = np.stack([np.broadcast_to(wave, (64, 64)) for wave in across])
    pictures = np.repeat(gratings[..., None], 3, 3).astype(np.uint8)
    energy = contrast_energy(np.concatenate([pictures, pictures.transpose(0, 2, 1, 3)]))
    assert energy.shape == (6, 11, 8, 8)
    middle = energy[:, 7:, 2:6, 2:6]  # the four directions of the long wavelength
    assert np.allclose(middle[0], middle[1], rtol=0.05, atol=0.01)
    assert np.allclose(middle[0], middle[2], rtol=0.05, atol=0.01)
    directions = middle.mean((2, 3))
    assert (directions.argmax(1) == [0, 0, 0, 2, 2, 2]).all()  # along x, along y
    assert np.allclose(directions[0, 0], 0.5 * 200 / 255, rtol=0.1)  # half the wave's amplitude
    assert np.abs(energy[:, 1:3]).max() < 1e-6  # no colour


def test_edges_are_told_from_latents(world):
    images, latent, *_ = world
    edges = fit_edges(latent.prior[:300], images[:300])
    maps = contrast_energy(images)
    maps = (maps / (maps[:300].std((0, 2, 3), keepdims=True) + 1e-6)).reshape(400, -1)
    maps -= maps[:300].mean(0)
    _, _, axes = np.linalg.svd(maps[:300], full_matrices=False)
    found, wanted = edges(latent.prior), maps @ axes[:COMPONENTS].T
    found = found * np.sign((found[:300][:, ::-1] * wanted[:300]).sum(0))[::-1]  # a sign each
    found = found[:, ::-1]  # the largest first
    left = np.square(found - wanted)[:, :10].sum((1,)) / np.square(wanted[:, :10]).sum(1).mean()
    assert left[:300].mean() < 0.05 and left[300:].mean() < 0.4
    assert np.array_equal(edges(latent.prior[5:8]), fit_edges(latent.prior[:300], images[:300])(
        latent.prior[5:8]))


def test_the_likelihood_of_pictures_is_that_of_their_latents(posterior, world):
    images, latent, families, _, betas = world
    x = torch.from_numpy(images[300:305]).permute(0, 3, 1, 2) / 127.5 - 1
    measured = np.column_stack([betas[300:305], np.arange(1, 6)])
    found = posterior.likelihood(torch.from_numpy(measured))(x).numpy()
    ranks = posterior.encoding.rank(betas[300:305], some(families, slice(300, 305)),
                                    np.arange(1, 6))
    assert np.allclose(found, np.diag(ranks), rtol=1e-3)
