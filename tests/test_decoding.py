"""The main job on a miniature: every decoder, every score, and what does not fit together."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_unet
from scipy.special import softmax

from recon_lib import recipes
from recon_lib.bold.betas import zscore
from recon_lib.brain.decoder import fit_decoder
from recon_lib.brain.encoding import fit_encoding_model, log_likelihood
from recon_lib.brain.features import load_factor_net, read_factors
from recon_lib.brain.latents import fingerprint
from recon_lib.brain.patterns import similarity
from recon_lib.common.errors import DataError
from recon_lib.data import release
from recon_lib.data.haxby import haxby_blocks
from recon_lib.data.splits import folds
from recon_lib.decoding import baselines, sampling
from recon_lib.decoding.haxby import (
    TEMPERATURE,
    brain_vectors,
    category_of,
    drive,
    others_in_run,
)
from recon_lib.decoding.reconstruct import fit_all, posterior_sampler, reconstruct_experiment
from recon_lib.decoding.retrieval_prior import map_retrieval, prior_rows
from recon_lib.decoding.sampling import (
    PLAIN,
    SAMPLING,
    Guidance,
    load_conditional,
    sample_pictures,
)
from recon_lib.samplers import to_uint8
from recon_lib.scores.haxby import score_blocks as scores_of_blocks
from recon_lib.scores.report import METRICS, evaluation_space, load_classifiers, score
from recon_lib.training.checkpoints import load_model, save_model
from recon_lib.world.scenes import CATEGORIES, draw, sample_factors

ONE_STEP = replace(SAMPLING, steps=1, candidates=1)
TWO_STEPS = replace(SAMPLING, steps=2)
PICTURES = {"diffusion", "conditional", "map_retrieval", "posterior_retrieval", "ridge",
            "retrieval", "mean_image", "unconditional", "shuffled_brain"}
VECTORS = np.random.default_rng(0).normal(size=(5, 15)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def classifiers():
    return load_classifiers()


def drawn(model, vectors=VECTORS, seed=1, steps=3, **options):
    return sample_pictures(*model, vectors, seed, replace(PLAIN, steps=steps, **options))


@pytest.fixture(scope="module")
def results(loaded, tiny_model):
    said = []
    out = reconstruct_experiment(loaded, tiny_model, sampling=TWO_STEPS, say=said.append)
    assert len(said) >= 3
    return out


@pytest.fixture(scope="module")
def scores(loaded, results, classifiers):
    return score(loaded, results, classifiers, permutations=50)


def near(a, b):
    """Equal but for rounding."""
    difference = np.abs(a.astype(int) - b)
    return difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_to_uint8():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 1, 5)
    assert to_uint8(x).ravel().tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)


def test_samples_do_not_depend_on_their_batch(model):
    whole = drawn(model)
    assert whole.shape == (5, 64, 64, 3) and whole.dtype == np.uint8
    assert np.array_equal(whole, drawn(model))
    assert near(whole, drawn(model, batch_size=2))
    assert near(whole[:3], drawn(model, VECTORS[:3]))
    assert not near(whole, drawn(model, seed=2))


@pytest.mark.parametrize(("options", "message"), [
    ({"vectors": np.where(VECTORS == VECTORS[2, 4], np.nan, VECTORS)}, "brain vectors.*NaN"),
    ({"scale": np.nan}, "scale is nan; expected a number"),
    ({"scale": 2.0, "interval": (1.0, 0.3)}, "from 1.0 to 0.3; expected .low, high."),
    ({"interval": (1.0, 0.3)}, "from 1.0 to 0.3; expected .low, high."),
    ({"strength": np.nan}, "strength is nan; expected a number"),
])
def test_no_pictures_are_drawn_from_what_is_no_number(model, options, message):
    with pytest.raises(DataError, match=message):
        drawn(model, **{"steps": 1} | options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_brain_vectors_come_from_what_is_no_number(bad):
    rng = np.random.default_rng(0)
    betas, latents = rng.normal(size=(60, 8)), rng.normal(size=(60, 3))
    decoder = fit_decoder(betas, latents)
    damaged = betas[:4].copy()
    damaged[2, 5] = bad
    with pytest.raises(DataError, match="NaN or infinite of 32"):
        decoder.vector(damaged)
    for repeats in (0, -1, bad, np.array([1, 2, 0, 1]), [1, 2, bad, 1]):
        with pytest.raises(DataError, match="repeats holds a number that is not above 0"):
            decoder.vector(betas[:4], repeats)
    vectors = decoder.vector(betas[:4], [1, 2, 4, 1])
    assert np.allclose(vectors[:, -1], [1, 0.5**0.5, 0.5, 1])
    vectors[1, 0] = bad
    with pytest.raises(DataError, match="brain vectors hold NaN"):
        map_retrieval(decoder, latents.astype(np.float32), vectors)


def test_samples_follow_vector_noise_and_guidance(model):
    base = drawn(model).astype(float)
    other = drawn(model, VECTORS[::-1])
    assert (np.abs(base - other).mean((1, 2, 3))[[0, 1, 3, 4]] > 0.1).all()
    assert np.array_equal(base[2], other[2])  # the same vector, the same noise
    free = drawn(model, 5)
    assert np.abs(base - free).mean() > 0.1
    strong = drawn(model, scale=2.0)
    assert np.abs(strong - free).mean() > np.abs(base - free).mean()
    assert near(drawn(model, scale=0.0), free)


def test_samples_in_bfloat16_look_the_same(model, monkeypatch):
    full = drawn(model).astype(float)
    monkeypatch.setattr("recon_lib.training.device.cpu_has_bf16_units", lambda: True)
    half = drawn(model).astype(float)
    assert 0 < np.abs(full - half).mean() < 2  # of 255


def test_all_decoders_are_there(results, loaded):
    assert set(results) == {"single_trial", "averaged"}
    for name, n in (("single_trial", 24), ("averaged", 6)):
        part = results[name]
        assert set(part["pictures"]) == PICTURES
        for pictures in part["pictures"].values():
            assert pictures.shape == (n, 64, 64, 3) and pictures.dtype == np.uint8
        assert {k: v.shape for k, v in part["rankings"].items()} == {
            "brain_vector": (n, 6), "encoding_model": (n, 6),
            "ideal_observer": (n, 6)}
    again = results["averaged"]["other_seeds"]
    assert set(again) == {"seed_2", "seed_3"} and again["seed_2"].shape == (6, 64, 64, 3)
    assert not np.array_equal(again["seed_2"], again["seed_3"])
    assert np.array_equal(results["single_trial"]["target"], loaded.target)
    assert results["averaged"]["target"].tolist() == list(range(6))


def test_what_the_baselines_show(results, loaded):
    pictures = results["single_trial"]["pictures"]
    train = {bytes(p) for p in loaded.train_pictures}
    assert all(bytes(p) in train for p in pictures["retrieval"])
    mean = loaded.train_pictures.mean(0)
    assert np.abs(pictures["mean_image"] - mean).max() <= 0.5
    for name in ("diffusion", "ridge", "shuffled_brain"):
        assert len({bytes(p) for p in pictures[name]}) > 12  # each trial has its own


def test_the_model_is_told_the_posterior_mean_or_the_brain_vector(loaded, tiny_model):
    net, betas = load_conditional(tiny_model), loaded.betas[loaded.test][:3]
    posterior = fit_all(loaded, net, 0, len)[1]
    trials = baselines.Trials(betas, posterior.decoder.vector(betas), np.ones(3, int))
    bare = replace(posterior, latent=replace(net.latent, prior=None))
    sampling = replace(ONE_STEP, steps=4)
    for which, told in ((bare, trials.vectors), (posterior, posterior.vectors(betas))):
        made = posterior_sampler(net, which, sampling, 0)(trials)
        assert near(made, sample_pictures(net.model, net.info, told, 0, sampling,
                                          Guidance(net.guidance_model)))
        steered = posterior_sampler(net, which, replace(sampling, strength=1.0), 0)(trials)
        assert not near(made, steered)


@pytest.mark.slow
def test_the_same_again(loaded, tiny_model, results):
    again = reconstruct_experiment(loaded, tiny_model, sampling=TWO_STEPS, say=lambda text: None)
    for name, part in results.items():
        for key, pictures in part["pictures"].items():
            assert np.array_equal(pictures, again[name]["pictures"][key])
        for key, ranking in part["rankings"].items():
            assert np.array_equal(ranking, again[name]["rankings"][key])


@pytest.mark.slow
def test_no_score_looks_at_the_test_pictures_in_advance(loaded, tiny_model, results):
    """Other test pictures, same brain: the reconstructions must not change."""
    images = loaded.images.copy()
    images[loaded.test_index] = 255 - images[loaded.test_index]
    swapped = replace(loaded, images=images)
    other = reconstruct_experiment(swapped, tiny_model, sampling=TWO_STEPS, say=lambda text: None)
    for name, part in results.items():
        for key, pictures in part["pictures"].items():
            assert np.array_equal(pictures, other[name]["pictures"][key]), key


def test_scores_have_every_decoder_and_metric(scores):
    for table in scores.values():
        assert set(table) == PICTURES | {"brain_vector", "encoding_model", "ideal_observer",
                                         "chance", "truth", "noise_ceiling"}
        for name, row in table.items():
            assert set(row) <= set(METRICS)
            if name not in ("truth", "noise_ceiling"):
                assert {"top1", "two_way"} <= set(row)
            if name in PICTURES:
                assert {"pixcorr", "ssim", "p_value", "object", "nearest_train"} <= set(row)
            assert all(np.isfinite(value) and -1 <= value <= 1 for value in row.values())
        assert table["chance"]["top1"] == 1 / 6 and table["chance"]["two_way"] == 0.5
        assert table["mean_image"]["top1"] == pytest.approx(1 / 6)


def test_retrieval_copies_and_averaging_raises_the_ceiling(scores):
    one, mean = scores["single_trial"], scores["averaged"]
    for table in (one, mean):
        assert table["retrieval"]["nearest_train"] == 0 < table["truth"]["nearest_train"]
    assert one["noise_ceiling"]["variance"] < mean["noise_ceiling"]["variance"] < 1


def test_ideal_observer_beats_chance_and_averages_help(scores):
    one, mean = (scores[name]["ideal_observer"] for name in ("single_trial", "averaged"))
    assert one["two_way"] > 0.75 and one["top1"] > 0.35
    assert mean["two_way"] >= 0.9 > 0.75
    assert mean["p_value"] < 0.05


def test_ideal_observer_of_other_candidates(loaded):
    betas, *_ = loaded.averaged()
    some = loaded.test_index[[4, 0]]
    assert np.allclose(baselines.ideal_observer(loaded, some)(betas),
                       baselines.ideal_observer(loaded)(betas)[:, [4, 0]])


def test_ideal_observer_is_the_gaussian_classifier(loaded, results):
    """By hand: Mahalanobis distance to slope x response under the covariance it was given."""
    from scipy.stats import multivariate_normal
    from sklearn.covariance import ledoit_wolf

    response = release.read_truth(loaded.truth, "responses", loaded.names)
    train, shown = loaded.betas[~loaded.test], response[loaded.image[~loaded.test]]
    slope = np.array([np.linalg.lstsq(a[:, None], b, rcond=None)[0][0]
                      for a, b in zip(shown.T, train.T, strict=True)])
    noise = ledoit_wolf(train - shown * slope)[0]
    expected = np.stack([multivariate_normal(m * slope, noise).logpdf(loaded.betas[loaded.test])
                         for m in response[loaded.test_index]], axis=1)
    assert np.allclose(results["single_trial"]["rankings"]["ideal_observer"], expected, atol=0.02)


def test_a_perfect_decoder_scores_one(loaded, classifiers):
    truth = loaded.images[loaded.test_index]
    perfect = {"single_trial": {"target": loaded.target, "rankings": {},
                                "pictures": {"diffusion": truth[loaded.target]}}}
    row = score(loaded, perfect, classifiers, permutations=20)["single_trial"]["diffusion"]
    assert row["top1"] == row["two_way"] == 1 and row["pixcorr"] == pytest.approx(1)
    assert row["ssim"] == pytest.approx(1) and row["p_value"] < 0.1


def test_evaluation_space_sees_things_and_pixels(loaded, classifiers):
    features = evaluation_space(loaded.train_pictures, classifiers[""])
    known = features(loaded.train_pictures)
    things, pixels = known[:, :96], known[:, 96:]
    assert np.abs(known.mean(0)).max() < 1e-4
    assert (things**2).sum(1).mean() == pytest.approx((pixels**2).sum(1).mean(), rel=0.1)
    assert (pixels**2).sum(1).mean() == pytest.approx(1, rel=0.1)


@pytest.mark.slow
def test_some_areas_and_lost_voxels(loaded, miniature, tiny_model):
    """Fewer voxels than were simulated: still every decoder that makes sense."""
    part = release.load_experiment(miniature, rois=("LOC", "EarlyVis"))
    out = reconstruct_experiment(part, tiny_model, sampling=ONE_STEP, say=lambda text: None)
    rankings = out["averaged"]["rankings"]
    response = release.read_truth(part.truth, "responses", part.names)
    here = np.concatenate([np.flatnonzero(loaded.roi == r) for r in dict.fromkeys(part.roi)])
    assert np.array_equal(part.betas, loaded.betas[:, here]) and response.shape[1] == 74
    assert (rankings["ideal_observer"].argmax(1) == np.arange(6)).mean() > 0.5
    lost = replace(part, betas=part.betas[:, 1:], roi=part.roi[1:])
    said = []
    out = reconstruct_experiment(lost, tiny_model, sampling=ONE_STEP, say=said.append)
    rankings = out["averaged"]["rankings"]
    assert set(rankings) == {"brain_vector", "encoding_model"}
    assert any("ideal observer" in text for text in said)


@pytest.mark.slow
def test_a_release_without_truth_has_no_ideal_observer(loaded, tiny_model, classifiers):
    real = replace(loaded, truth=None, factors=None)
    out = reconstruct_experiment(real, tiny_model, sampling=ONE_STEP, say=lambda text: None)
    assert set(out["averaged"]["rankings"]) == {"brain_vector", "encoding_model"}
    table = score(real, out, classifiers, permutations=10)["averaged"]
    assert "two_way_within_category" not in table["diffusion"]


def test_model_and_latent_of_different_trainings(loaded, tiny_model, tmp_path):
    info = dict(prediction="x0", schedule="cosine", image_size=64)
    path = tmp_path / "model.safetensors"
    save_model(random_unet(11), path, info)
    with pytest.raises(DataError, match="no file .*latent.safetensors"):
        reconstruct_experiment(loaded, path, sampling=ONE_STEP)
    shutil.copy(tiny_model.with_name("latent.safetensors"), tmp_path)
    with pytest.raises(DataError, match="brain vectors of 11 numbers, the latent .* gives 15"):
        reconstruct_experiment(loaded, path, sampling=ONE_STEP)
    save_model(random_unet(None), path, info)
    with pytest.raises(DataError, match="draws without brain vectors; expected a cond"):
        reconstruct_experiment(loaded, path, sampling=ONE_STEP)
    save_model(random_unet(15), path, info | {"image_size": 32})
    with pytest.raises(DataError, match="pictures of 32"):
        reconstruct_experiment(loaded, path, sampling=ONE_STEP)
    save_model(random_unet(15), path)  # nobody noted what it predicts
    with pytest.raises(DataError, match="prediction"):
        reconstruct_experiment(loaded, path, sampling=ONE_STEP)


def test_shuffled_blocks_stay_in_their_run():
    run = np.repeat([0, 1, 2], 5)
    other = others_in_run(run, seed=1)
    assert np.array_equal(np.sort(other), np.arange(15))
    assert (other != np.arange(15)).all() and np.array_equal(run[other], run)


@pytest.fixture(scope="module")
def haxby(tiny_model):
    return drive(tiny_model, steps=1, say=lambda text: None)


@pytest.mark.slow
def test_haxby_drives_a_model(haxby):
    assert haxby["reconstruction"].shape == haxby["shuffled"].shape == (96, 64, 64, 3)
    assert np.bincount(haxby["run"]).tolist() == [8] * 12
    names, counts = np.unique(haxby["category"], return_counts=True)
    assert counts.tolist() == [12] * 8
    assert set(np.array(CATEGORIES)[names]) == {"bottle", "cat", "chair", "face", "house",
                                                "scissors", "shoe", "scrambled"}
    read = read_factors(load_factor_net("evaluation_classifier"), haxby["seen"])
    assert (read["category"].argmax(1) == haxby["category"]).mean() > 0.9
    # the shuffled vectors are those of the same runs, none its own
    assert not any(np.array_equal(a, b) for a, b in
                   zip(haxby["reconstruction"], haxby["shuffled"], strict=True))
    assert all(len(rows) == 8 for rows in haxby["figure"].values())
    assert category_of(["scrambledpix", "cat"]).tolist() == [CATEGORIES.index("scrambled"), 1]


@pytest.mark.slow
def test_haxby_tells_the_mean_over_categories(tiny_model):
    """By the Gaussian density of a whole pattern, for the blocks of the last run."""
    blocks = brain_vectors(load_conditional(tiny_model).latent, say=len)
    patterns = haxby_blocks().patterns
    train, test = folds(blocks.run)[-1]
    known, held = zscore(patterns[train], patterns[test])
    fit = fit_encoding_model(blocks.latents[train], known, blocks.run[train])
    each = np.unique(blocks.latents, axis=0)
    density = log_likelihood(held, fit.ridge.predict(each), fit.noise) / TEMPERATURE
    mean = softmax(density, axis=1) @ each
    decoder = fit_decoder(known, blocks.latents[train], blocks.run[train])
    expected = (blocks.vectors[test, :-1] + 60 * decoder.forward.predict(mean)) / 61
    assert np.allclose(blocks.told[test, :-1], expected, atol=1e-3)
    assert np.allclose(blocks.told[:, -1], 61**-0.5)
    which = np.array([np.flatnonzero((each == own).all(1))[0] for own in blocks.latents])
    decoded, told = (similarity(vectors[:, :-1], each).argmax(1) == which
                     for vectors in (blocks.vectors, blocks.told))
    assert told.mean() > max(0.8, decoded.mean())


@pytest.mark.slow
def test_haxby_scores_of_a_mind_reader_and_of_a_coin(haxby, classifiers):
    score_blocks = partial(scores_of_blocks, classifiers=classifiers)
    perfect = score_blocks(haxby | {"reconstruction": haxby["seen"]}, permutations=100)["scores"]
    assert perfect["category read"] > 0.9 and perfect["category read, p-value"] < 0.02
    assert perfect["two-way"] == 1 == perfect["two-way within category"]
    assert abs(perfect["two-way within category, other scenes"] - 0.5) < 0.08
    assert perfect["category read, chance"] == 1 / 8
    # the right category and a fresh scene of it: all of the category, nothing within it
    factors = sample_factors(96, 12345)
    factors["category"] = haxby["category"]
    semantic = score_blocks(haxby | {"reconstruction": draw(factors)}, permutations=100)["scores"]
    assert semantic["category read"] > 0.9
    assert semantic["two-way"] > 0.6
    assert abs(semantic["two-way within category"] - 0.5) < 0.15
    grey = np.full_like(haxby["seen"], 128)
    coin = score_blocks(haxby | {"reconstruction": grey}, permutations=100)["scores"]
    assert coin["category read"] == 1 / 8 and coin["category read, p-value"] > 0.5
    assert coin["two-way"] == 0.5


def test_the_shipped_model_is_the_default():
    assert sampling.MODEL.name == "conditional.safetensors"
    assert sampling.MODEL.with_name(sampling.LATENT).exists()


@pytest.mark.slow
def test_sampling_is_chosen_on_training_trials(loaded, tiny_model, monkeypatch):
    """With the pictures seen in place of samples all are named; with another's, none."""
    shown, given = loaded.train_pictures, []

    def pictures_seen(model, info, vectors, seed, turn, guidance):
        given.append(vectors)
        assert guidance.model is None  # none stands beside this model
        known = guidance.prior.args[1]
        assert (prior_rows(known, latent.transform(shown)) < 0).all()  # what was seen is not
        assert len(known) == 25  # in the prior, and nothing else is missing
        whole = np.linalg.norm(fold[:, None] - given[0][None, :, :-1], axis=2).argmin(0)
        return np.roll(shown[whole], turn, axis=0)

    def watched(betas, latents, groups, seed):
        decoder = fit_decoder(betas, latents, groups, seed)
        fold[:] = decoder.ridge.out_of_fold
        assert len(betas) == (~loaded.test).sum()  # no test trial is touched
        return decoder

    latent = sampling.load_conditional(tiny_model).latent
    fold = np.zeros((len(shown), sum(latent.blocks)), np.float32)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import choose_sampling as choice

    monkeypatch.setattr(choice, "sample_pictures", pictures_seen)
    monkeypatch.setattr(recipes, "fit_decoder", watched)
    right, wrong = choice.choose_sampling(loaded, tiny_model, [0, 1], n=12)
    assert right["top1"] == 1 and wrong["top1"] == 0
    assert right["object"] > 0.9 > wrong["object"]
    choice.choose_sampling(loaded, tiny_model, [0], n=12, repeats=4)
    assert (given[0][:, -1] == 1).all() and (given[-1][:, -1] == 0.5).all()


def test_the_shipped_model_is_found_by_its_name_and_fits_its_latent():
    net = sampling.load_conditional("conditional", size=64)
    assert net.info["latent"] == fingerprint(net.latent) and net.latent.prior is not None


@pytest.mark.parametrize("wrong", [dict(vectors=0), dict(vectors=None), dict(batch_size=0),
                                   dict(candidates=0), dict(vectors=np.zeros((0, 15)))])
def test_nothing_to_draw_is_refused(model, wrong):
    with pytest.raises(DataError, match="expected 1 or more"):
        drawn(model, **wrong)
