"""The numbers behind the guidance and lesion explorers, against the parts that they are made of."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from explorers import FACTORS, IMAGES, simple_brain

from recon_lib.bold.betas import silence
from recon_lib.brain.decoder import brain_log_likelihood
from recon_lib.brain.features import load_factor_net, read_factors
from recon_lib.course import explore_guidance
from recon_lib.decoding import retrieval_prior
from recon_lib.decoding.sampling import PLAIN, SAMPLING, Guidance, sample_pictures

NOT_AT_THE_END = explore_guidance.INTERVALS["not at the end"]
GUIDED = replace(PLAIN, scale=SAMPLING.scale, interval=SAMPLING.interval, steps=5)
OPENS = replace(GUIDED, steps=explore_guidance.STEPS)  # how an explorer opens


@pytest.fixture(scope="module")
def world():
    return simple_brain()


@pytest.fixture(scope="module")
def guidance(world):
    model, info, latent, decoder, betas, _ = world
    vectors = decoder.vector(betas)
    likelihood = partial(brain_log_likelihood, decoder, latent)
    prior = partial(retrieval_prior.with_pseudo_trials, decoder, latent.transform(IMAGES))
    leads = Guidance(None, likelihood, prior)
    return explore_guidance.guidance_explorer(model, info, leads, vectors, IMAGES), vectors, leads


@pytest.fixture(scope="module")
def lesion(world):
    model, info, _, decoder, betas, roi = world
    return explore_guidance.lesion_explorer(
        model, info, decoder, betas, 1, roi, IMAGES, FACTORS)


@pytest.mark.slow
def test_the_guided_picture_is_the_one_that_sampling_gives(world, guidance):
    model, info, *_ = world
    box, vectors, leads = guidance
    for settings, options in (
        ({"steps": 5}, {"scale": SAMPLING.scale, "interval": NOT_AT_THE_END}),
        ({"steps": 5, "scale": 1.0, "strength": 1.0, "seed": 3},
         {"interval": NOT_AT_THE_END, "strength": 1.0}),
        ({"steps": 5, "scale": 2.0, "interval": "always", "seed": 0, "pseudo_trials": 20},
         {"scale": 2.0, "interval": (0.0, 1.0), "strength": 1.0, "pseudo_trials": 20}),
    ):
        box.set(**settings)
        expected = sample_pictures(model, info, vectors[:1], settings.get("seed", 0),
                                   replace(PLAIN, steps=5, **options), leads)[0]
        assert np.abs(box.numbers["made"].astype(int) - expected).max() <= 2
        assert np.array_equal(box.numbers["guesses"][-1], box.numbers["made"])
    box.reset.click()


@pytest.mark.slow
def test_evaluations_are_those_of_the_network(world, guidance, monkeypatch):
    model, (box, *_) = world[0], guidance
    rows = []
    handle = model.register_forward_hook(lambda _, inputs, out: rows.append(len(out)))
    for settings in ({"scale": 2.0}, {"interval": "always"}, {"scale": 1.0}, {"steps": 11}):
        rows.clear()
        box.set(picture=5, **settings)
        assert box.numbers["evaluations"] == sum(rows)  # a guided step is two of them
    handle.remove()
    box.reset.click()
    spent = []
    for interval in explore_guidance.INTERVALS:  # each is seen to differ, as the explorer opens
        box.set(interval=interval)
        spent.append(box.numbers["evaluations"])
    assert len(set(spent)) == len(spent)
    box.reset.click()


@pytest.mark.slow
def test_weights_in_bfloat16_make_the_same_pictures(world, monkeypatch):
    model, info, _, decoder, betas, _ = world
    assert explore_guidance.nimble(model) is model  # nothing is gained without fast bfloat16
    vectors = decoder.vector(betas[:3])
    exact = sample_pictures(model, info, vectors, sampling=GUIDED).astype(float)
    monkeypatch.setattr("recon_lib.training.device.cpu_has_bf16_units", lambda: True)
    quick = explore_guidance.nimble(model)
    assert {p.dtype for p in quick.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    off = sample_pictures(quick, info, vectors, sampling=GUIDED) - exact
    other = sample_pictures(model, info, vectors, seed=1, sampling=GUIDED) - exact
    assert 0 < np.sqrt((off**2).mean()) < 0.12 * np.sqrt((other**2).mean())
    latent = world[2]
    prior = partial(retrieval_prior.with_pseudo_trials, decoder, latent.prior)
    leads = Guidance(None, partial(brain_log_likelihood, decoder, latent), prior)
    box = explore_guidance.guidance_explorer(model, info, leads, vectors, IMAGES[:3])
    box.set(steps=5, strength=1.0)  # its gradient passes through such a network
    assert np.isfinite(box.numbers["misfit"])


@pytest.mark.slow
def test_scale_zero_does_not_hear_the_brain_and_steering_fits_it(guidance):
    box, vectors, leads = guidance
    box.set(scale=0.0, interval="always", picture=0, seed=1)
    deaf, misfit = box.numbers["made"], box.numbers["misfit"]
    x = torch.from_numpy(deaf).permute(2, 0, 1)[None] / 127.5 - 1
    fit = leads.log_likelihood(torch.from_numpy(vectors[:1]))(x).item()
    by_hand = -2 * fit / (vectors.shape[1] - 1)
    assert misfit == pytest.approx(by_hand, rel=0.02)
    box.set(strength=1.0, scale=1.0)
    assert box.numbers["misfit"] < misfit
    box.reset.click()


@pytest.mark.slow
def test_a_whole_brain_is_no_lesion_and_none_is_the_mean(world, lesion):
    whole = lesion.numbers
    assert whole["off"] == () and whole["left"] == 1
    assert np.array_equal(whole["pictures"][1], whole["pictures"][2])
    model, info, _, decoder, betas, roi = world
    lesion.set(EarlyVis=False, LOC=False, OPA=False, PPA=False, RSC=False)
    assert lesion.numbers["voxels"] == 0
    mean = decoder.vector(np.zeros_like(betas[:1]))
    expected = sample_pictures(model, info, mean, sampling=OPENS)[0]
    assert np.array_equal(lesion.numbers["pictures"][2], expected)
    lesion.reset.click()


@pytest.mark.slow
def test_a_lesion_is_told_by_the_evaluation_classifier(world, lesion):
    _, _, latent, decoder, betas, roi = world
    lesion.set(LOC=False, picture=4)
    read = read_factors(load_factor_net("evaluation_classifier"), lesion.numbers["pictures"])
    expected = read["background"][1:, FACTORS["background"][4]]
    assert np.allclose(lesion.numbers["right"]["background"], expected)
    lesion.reset.click()
    # in this brain only LOC and the place areas know features, only EarlyVis and they know pixels
    whole = decoder.vector(betas)
    lost = {a: np.abs(decoder.vector(silence(betas, roi, a)) - whole).mean(0)[:-1]
            for a in ("LOC", "EarlyVis")}
    pixels = latent.blocks[0]
    assert lost["LOC"][:pixels].mean() < 0.8 * lost["EarlyVis"][:pixels].mean()
    assert lost["EarlyVis"][pixels:].mean() < 0.8 * lost["LOC"][pixels:].mean()


def test_silence_leaves_the_others_and_the_original_alone():
    betas = np.arange(8, dtype=np.float32).reshape(2, 4) + 1
    roi = np.array(["LHPPA", "RHPPA", "LHLOC", "RHOPA"])
    off = silence(betas, roi, "PPA", "OPA")
    assert off.tolist() == [[0, 0, 3, 0], [0, 0, 7, 0]] and betas.min() == 1
    assert off.dtype == np.float32 and np.array_equal(silence(betas, roi), betas)
