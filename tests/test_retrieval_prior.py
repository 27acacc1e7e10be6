"""The retrieval prior: MAP picture against scipy, pseudo-trials against a mean over trials."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from recon_lib.brain.decoder import fit_decoder
from recon_lib.brain.latents import Basis, ImageLatent, load_latent, packed
from recon_lib.common.errors import DataError
from recon_lib.decoding import retrieval_prior
from recon_lib.decoding.sampling import PLAIN, Guidance, sample_pictures
from recon_lib.training.checkpoints import load_model
from recon_lib.world.scenes import CATEGORIES, draw, sample_factors

D, VOXELS, EXTRA = 5, 30, 25


@pytest.fixture(scope="module")
def world():
    """A decoder of noisy linear voxels, sixty latents of a prior, vectors of seven trials."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(D, VOXELS))
    latents = rng.normal(size=(600, D)).astype(np.float32)
    decoder = fit_decoder(latents @ weights + 2 * rng.normal(size=(600, VOXELS)), latents)
    known = rng.normal(size=(60, D)).astype(np.float32)
    seen = known[[3, 59, 0, 17, 17, 8, 30]]
    betas = seen @ weights + rng.normal(size=(7, VOXELS))
    return decoder, known, decoder.vector(betas, np.array([1, 1, 2, 4, 4, 3, 1]))


def test_the_likeliest_is_the_one_of_the_largest_density(world):
    decoder, known, vectors = world
    covariance = decoder.noise_cholesky @ decoder.noise_cholesky.T
    expected = [
        np.argmax([multivariate_normal.logpdf(v[:-1], mean, covariance * v[-1] ** 2)
                   for mean in decoder.forward.predict(known)])
        for v in vectors.astype(float)
    ]
    found = retrieval_prior.map_retrieval(decoder, known, vectors)
    assert found.tolist() == expected
    assert (found == [3, 59, 0, 17, 17, 8, 30]).sum() >= 5  # and it is mostly the one seen


def test_what_was_seen_without_noise_is_recalled(world):
    decoder, known, _ = world
    vectors = np.column_stack([decoder.forward.predict(known), np.ones(60)]).astype(np.float32)
    assert retrieval_prior.map_retrieval(decoder, known, vectors).tolist() == list(range(60))
    told = retrieval_prior.with_pseudo_trials(decoder, known, vectors, 8)
    assert np.allclose(told[:, :-1], vectors[:, :-1], atol=1e-5)
    assert np.allclose(told[:, -1], 1 / 3)


def test_the_nearest_to_the_mean_is_found_by_hand(world):
    """Bayes' rule picture by picture, and numpy's own correlation of the last layer."""
    decoder, known, vectors = world
    vectors = vectors * np.array([1] * D + [6])  # as noisy as a small part of a trial
    rng = np.random.default_rng(1)
    d, pixels = known.shape[1], 1
    axes = rng.normal(size=(9, d - pixels))  # layers of 4 and 5 features
    latent = ImageLatent(SimpleNamespace(widths=[4, 5]), Basis(np.zeros(3), np.ones((3, pixels))),
                         Basis(np.zeros(9), axes))
    last = (np.linalg.inv(axes.T @ axes) @ axes.T)[:, 4:]
    covariance = decoder.noise_cholesky @ decoder.noise_cholesky.T
    expected = []
    for v in vectors.astype(float):
        density = np.array([multivariate_normal.pdf(v[:-1], mean, covariance * v[-1] ** 2) ** (
            1 / retrieval_prior.MILDER) for mean in decoder.forward.predict(known)])
        mean = np.average(known[:, pixels:], axis=0, weights=density) @ last
        expected.append(np.argmax([np.corrcoef(mean, k[pixels:] @ last)[0, 1] for k in known]))
    found = retrieval_prior.mean_retrieval(decoder, latent, known, vectors)
    assert found.tolist() == expected
    assert (found != retrieval_prior.map_retrieval(decoder, known, vectors)).any()
    missing = vectors.copy()
    missing[1, 0] = np.nan
    for prior, some, said in ((known, missing, "hold NaN"), (None, vectors, "retrieval prior")):
        with pytest.raises(DataError, match=said):
            retrieval_prior.mean_retrieval(decoder, latent, prior, some)


def test_pseudo_trials_count_as_so_many_trials(world):
    """Against the mean over a list of trials, measured and imagined."""
    decoder, known, vectors = world
    told = retrieval_prior.with_pseudo_trials(decoder, known, vectors, 6)
    likeliest = retrieval_prior.map_retrieval(decoder, known, vectors)
    for v, new, best in zip(vectors, told, likeliest, strict=True):
        imagined = decoder.forward.predict(known[best : best + 1])[0]
        trials = [v[:-1]] * round(v[-1] ** -2) + [imagined] * 6
        assert np.allclose(new[:-1], np.mean(trials, axis=0), atol=1e-5)
        assert np.isclose(new[-1], 1 / np.sqrt(len(trials)))
    assert told.dtype == np.float32
    assert np.array_equal(retrieval_prior.with_pseudo_trials(decoder, None, vectors, 0), vectors)
    hardly = retrieval_prior.with_pseudo_trials(decoder, known, vectors, 1e-9)
    assert np.allclose(hardly, vectors, atol=1e-6)
    sure = retrieval_prior.with_pseudo_trials(decoder, known, vectors, 1e9)
    best = decoder.forward.predict(known[retrieval_prior.map_retrieval(decoder, known, vectors)])
    assert np.allclose(sure[:, :-1], best, atol=1e-5) and (sure[:, -1] < 1e-4).all()


def test_what_is_dreamt_has_the_moments_of_the_density_it_is_drawn_from(world):
    """Mean and covariance of a kernel density estimate, in closed form."""
    decoder, known, _ = world
    made = retrieval_prior.sample_prior(decoder, known, 20_000, pseudo_trials=4, seed=3)
    centres = decoder.forward.predict(known)
    spread = np.cov(centres.T, ddof=0) + decoder.noise_cholesky @ decoder.noise_cholesky.T / 4
    deviation = np.sqrt(np.diag(spread))
    assert made.dtype == np.float32 and (made[:, -1] == 0.5).all()
    assert np.abs((made[:, :-1].mean(0) - centres.mean(0)) / deviation).max() < 0.04
    error = np.cov(made[:, :-1].T) - spread
    assert np.abs(error / np.outer(deviation, deviation)).max() < 0.05
    again, other = (retrieval_prior.sample_prior(decoder, known, 20_000, 4, s) for s in (3, 4))
    assert np.array_equal(made, again) and not np.array_equal(made, other)


def test_nothing_can_be_dreamt_without_memory_or_trust(world):
    decoder, known, _ = world
    for pseudo_trials in (0, -1, np.nan, np.inf):
        with pytest.raises(DataError, match="more than 0"):
            retrieval_prior.sample_prior(decoder, known, 3, pseudo_trials)
    for other in (None, known[:0], known[:, :-1]):
        with pytest.raises(DataError, match="expected \\(pictures, 5\\)"):
            retrieval_prior.sample_prior(decoder, other, 3)


@pytest.mark.parametrize("pseudo_trials", [-1, np.nan, np.inf])
def test_no_fewer_than_no_trials(world, pseudo_trials):
    with pytest.raises(DataError, match="expected 0 or more"):
        retrieval_prior.with_pseudo_trials(*world, pseudo_trials)


@pytest.mark.parametrize("rows", [np.s_[:0], np.s_[:, :-1]])
def test_a_memory_of_something_else_is_refused(world, rows):
    decoder, known, vectors = world
    for other in (known[rows], None):
        with pytest.raises(DataError, match="found a retrieval prior of shape"):
            retrieval_prior.map_retrieval(decoder, other, vectors)


def test_some_rows_are_those_rows(loaded):
    whole = retrieval_prior.training_pictures(loaded, EXTRA)
    own = len(whole) - EXTRA
    assert own == len(np.unique(loaded.image[~loaded.test]))
    rows = np.array([own + 2, 0, own - 1, own + EXTRA - 1, 0])
    assert np.array_equal(retrieval_prior.training_pictures(loaded, EXTRA, rows), whole[rows])
    first = sample_factors(retrieval_prior.EXTRA, retrieval_prior.EXTRA_SEED)[:EXTRA]
    assert np.array_equal(whole[own:], draw(first))


def test_no_scene_of_a_category_that_is_held_out(loaded):
    """Against the kinds of the scenes: the others come, in their order."""
    held = ("cat", "house")
    factors = sample_factors(retrieval_prior.EXTRA, retrieval_prior.EXTRA_SEED)[:EXTRA]
    rest = factors[~np.isin(np.array(CATEGORIES)[factors["category"]], held)]
    assert 0 < len(rest) < EXTRA
    pictures = retrieval_prior.training_pictures(replace(loaded, held=held), EXTRA)
    assert np.array_equal(pictures[-len(rest) :], draw(rest))
    assert len(pictures) == len(np.unique(loaded.image[~loaded.test])) + len(rest)


def test_a_model_that_remembers_the_test_is_refused(loaded, tiny_model):
    latent = load_latent(tiny_model.with_name("latent.safetensors"))
    test = loaded.images[loaded.test_index]
    retrieval_prior.refuse_trained_on(latent, test)
    retrieval_prior.refuse_trained_on(replace(latent, prior=None), test)
    seen = np.concatenate([latent.prior, latent.transform(test[3:5])]).astype(np.float16)
    with pytest.raises(DataError, match=f"trained on 2 of the {len(test)} test pictures"):
        retrieval_prior.refuse_trained_on(replace(latent, prior=seen.astype(np.float32)), test)
    where = retrieval_prior.prior_rows(seen, latent.transform(test))
    assert where[3:5].tolist() == [len(seen) - 2, len(seen) - 1]
    assert (np.delete(where, [3, 4]) == -1).all()


def test_a_picture_that_trains_one_subject_and_tests_another_is_refused(loaded):
    images = loaded.images.copy()
    images[np.unique(loaded.image[~loaded.test])[0]] = 77  # of no use to the other's test …
    other = replace(loaded, images=images)
    assert len(retrieval_prior.training_pictures([loaded, other], 0))
    images = images.copy()
    images[loaded.test_index[0]], images[np.unique(loaded.image[~loaded.test])[0]] = (
        images[np.unique(loaded.image[~loaded.test])[0]], images[loaded.test_index[0]])
    with pytest.raises(DataError, match="1 of .* test pictures"):  # … and its very test picture
        retrieval_prior.training_pictures([loaded, replace(loaded, images=images)], 0)


def test_remembered_pictures_are_those_recalled(loaded, tiny_model):
    latent = load_latent(tiny_model.with_name("latent.safetensors"))
    decoder = fit_decoder(loaded.betas[~loaded.test], latent.transform(loaded.train_pictures))
    pictures = retrieval_prior.training_pictures(loaded, 25)
    vectors = decoder.vector(loaded.betas[loaded.test])
    found = retrieval_prior.map_pictures(loaded, decoder, latent, vectors)
    likeliest = retrieval_prior.map_retrieval(decoder, latent.prior, vectors)
    assert np.array_equal(found, pictures[likeliest])
    many = np.concatenate([*[latent.prior + 100] * 250, latent.prior])  # more than there are
    for other in (None, latent.prior[::-1], latent.prior[5:], many):
        changed = replace(latent, prior=other)
        assert retrieval_prior.map_pictures(loaded, decoder, changed, vectors) is None


def test_a_latent_keeps_its_memory(tiny_model, tmp_path):
    latent = load_latent(tiny_model.with_name("latent.safetensors"))
    assert latent.prior.dtype == np.float32
    (tmp_path / "a.safetensors").write_bytes(packed(latent))
    assert np.array_equal(load_latent(tmp_path / "a.safetensors").prior, latent.prior)
    (tmp_path / "b.safetensors").write_bytes(packed(replace(latent, prior=None)))
    assert load_latent(tmp_path / "b.safetensors").prior is None


def test_the_network_is_told_and_the_likelihood_is_not(tiny_model):
    model, info = load_model(tiny_model)
    vectors = np.random.default_rng(0).normal(size=(5, 15)).astype(np.float32)
    other = vectors[::-1].copy()
    two = replace(PLAIN, steps=2)
    draw_some = partial(sample_pictures, model, info, seed=1, sampling=two)
    told = draw_some(vectors, guidance=Guidance(prior=lambda v, pseudo_trials: other[: len(v)]))
    assert np.array_equal(told, draw_some(other))
    asked, counted = [], []

    def likelihood(v):
        asked.append(v)
        return lambda pictures: torch.zeros(len(pictures))

    def prior(v, pseudo_trials):
        counted.append(pseudo_trials)
        return other

    draw_some(vectors, sampling=replace(two, candidates=2, pseudo_trials=3.0),
              guidance=Guidance(None, likelihood, prior))
    assert np.array_equal(asked[0].numpy(), vectors) and counted == [3.0]
