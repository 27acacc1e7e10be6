"""Autoguidance against scores of Gaussians differentiated by PyTorch, and what it refuses."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_unet
from torch.distributions import Normal

from recon_lib.common.errors import DataError
from recon_lib.data.arrays import ArrayData
from recon_lib.decoding import crossval, haxby, reconstruct
from recon_lib.decoding.sampling import (
    GUIDANCE_MODELS,
    PLAIN,
    Guidance,
    guided_denoiser,
    load_guidance_model,
    sample_pictures,
)
from recon_lib.diffusion import amplitudes, cosine_schedule
from recon_lib.guidance import guided
from recon_lib.samplers import dpm_solver
from recon_lib.training.checkpoints import load_model, located, null_branch, save_model
from recon_lib.world.scenes import draw, sample_factors

INFO = dict(prediction="x0", schedule="cosine", image_size=16)
ALPHA_BAR = cosine_schedule()


def gaussian(mean, sd):
    """The exact denoiser of a world of independent pixels N(mean, sd²)."""
    def denoise(x, t):
        a, s = amplitudes(t, ALPHA_BAR)
        return mean + a * sd**2 / (a**2 * sd**2 + s**2) * (x - a * mean)
    return denoise


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 3.5])
def test_the_score_is_extrapolated_away_from_the_worse(scale):
    """By Tweedie's formula x0 = (x + s² score) / a: score = other + scale (better - other)."""
    better, other = (0.1, 0.2), (0.0, 0.5)
    t = torch.tensor([200, 500, 800])
    x = torch.tensor([0.15, -0.1, 0.3]).view(3, 1, 1, 1).requires_grad_()
    a, s = (level.detach() for level in amplitudes(t, ALPHA_BAR))
    scores = []
    for mean, sd in (better, other):
        log_p = Normal(a * mean, (a**2 * sd**2 + s**2).sqrt()).log_prob(x)
        scores.append(torch.autograd.grad(log_p.sum(), x)[0])
    expected = (x + s**2 * (scores[1] + scale * (scores[0] - scores[1]))) / a
    guess = guided(gaussian(*better), gaussian(*other), ALPHA_BAR, scale)
    torch.testing.assert_close(guess(x.detach(), t), expected.detach().clamp(-1, 1))


def test_samples_lie_closer_where_the_worse_is_too_wide():
    """Both are too wide in the same way; the other more. Away from it lies the truth."""
    x = torch.randn(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    better, other = gaussian(0.0, 0.2), gaussian(0.0, 0.3)
    spread = [dpm_solver(guided(better, other, ALPHA_BAR, scale), x, ALPHA_BAR, 50).std()
              for scale in (1.0, 1.5, 2.0)]
    assert spread[0] == pytest.approx(0.2, rel=0.02)
    assert spread[0] > 1.05 * spread[1] > 1.1 * spread[2]


def test_the_worse_is_asked_only_where_it_guides():
    asked = []

    def other(x, t):
        asked.append(round(amplitudes(t, ALPHA_BAR)[1][0].item(), 2))
        return 0 * x

    x = torch.full((2, 3, 4, 4), 0.1)
    guess = guided(lambda x, t: x, other, ALPHA_BAR, 3.0, (0.3, 0.9))
    seen = [guess(x, torch.full((2,), t)).mean().item() for t in (20, 500, 980)]
    assert asked == [0.71] and seen == pytest.approx([0.1, 0.3, 0.1])
    guided(lambda x, t: x, other, ALPHA_BAR, 1.0)(x, torch.full((2,), 500))
    assert len(asked) == 1
    assert guess(10 * x, torch.full((2,), 500)).max() == 1


@pytest.mark.parametrize(("options", "message"), [
    ({"scale": math.nan}, "scale is nan; expected a number"),
    ({"scale": math.inf}, "scale is inf; expected a number"),
    ({"interval": (0.9, 0.3)}, r"from 0.9 to 0.3; expected \(low, high\)"),
])
def test_guidance_that_means_nothing_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        guided(gaussian(0, 1), gaussian(0, 2), ALPHA_BAR, **options)


def drawn(model, vectors=3, other=None, **options):
    return sample_pictures(model, INFO, vectors, 1, replace(PLAIN, steps=3, **options),
                           Guidance(other))


def test_pictures_away_from_a_worse_model():
    model, other = random_unet(None), random_unet(None)
    for parameter in other.parameters():
        parameter.data *= 0.9
    plain = drawn(model)
    away = drawn(model, other=(other, INFO), scale=2.0)
    assert not np.array_equal(away, plain)
    same = [dict(other=(other, INFO), scale=1.0), dict(other=(model, INFO), scale=2.0), {}]
    for setting in same:
        again = drawn(model, **setting)
        assert np.abs(again.astype(int) - plain).max() <= 1  # w + 2 (d - w), rounded
    noise = dict(prediction="eps", schedule="cosine", image_size=16)  # may be asked for otherwise
    other = drawn(model, other=(other, noise), scale=2.0)
    assert not np.array_equal(other, away)


def test_with_vectors_the_worse_stands_in_for_the_null_branch():
    """The null branch as a network of its own, for the other one: classifier-free guidance."""
    model, other = random_unet(5), random_unet(None)
    other.load_state_dict(null_branch(model.state_dict()))
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    options = dict(scale=2.5, interval=(0.3, 0.99))
    plain = drawn(model, vectors, **options)
    same = drawn(model, vectors, (other, INFO), **options)
    # not to the last bit: there the halves are clamped before, not after
    assert np.abs(same.astype(float) - plain).mean() < 0.1 * np.abs(
        plain.astype(float) - drawn(model, vectors)).mean()
    for parameter in other.parameters():
        parameter.data *= 0.9
    other = drawn(model, vectors, (other, INFO), **options)
    assert np.abs(other.astype(float) - plain).mean() > 10 * np.abs(
        same.astype(float) - plain).mean()


@pytest.mark.parametrize(("other", "info", "message"), [
    (random_unet(None), {**INFO, "image_size": 32}, "'image_size': 32.*expected the same"),
    (random_unet(None), {**INFO, "schedule": "linear"}, "'linear'.*expected the same"),
    (random_unet(None, 1), INFO, "'image_channels': 1.*expected the same"),
])
def test_a_worse_model_that_does_not_fit_is_refused(other, info, message, tmp_path):
    model = random_unet(None)
    with pytest.raises(DataError, match=message):
        drawn(model, 2, (other, info), scale=2.0)
    save_model(other, tmp_path / "guidance.safetensors", info)
    with pytest.raises(DataError, match=message):
        load_guidance_model(tmp_path / "model.safetensors", model, INFO)


@pytest.mark.parametrize("name", GUIDANCE_MODELS)
def test_the_guidance_model_stands_beside_the_model(tmp_path, name):
    """Under its name, or under the one that it had once."""
    model, path = random_unet(None), tmp_path / "model.safetensors"
    assert load_guidance_model(path, model, INFO) is None
    save_model(random_unet(None), path.with_name(name), INFO, half=False)
    small, info = load_guidance_model(path, model, INFO)
    assert info == INFO and all(map(torch.equal, small.parameters(), model.parameters()))
    path.with_name(name).write_bytes(b"half a file")
    with pytest.raises(DataError, match="not a model"):
        load_guidance_model(path, model, INFO)
    model, info = load_model("conditional")
    assert load_guidance_model("conditional", model, info)[0].config["condition_size"] is None


@pytest.mark.slow
def test_reconstructions_move_away_from_the_other(loaded, tiny_model, tmp_path, monkeypatch):
    """The main job, the choice of its settings, own data and Haxby's subject all do."""
    for name in ("model.safetensors", "latent.safetensors"):
        shutil.copy(tiny_model.with_name(name), tmp_path / name)
    model, info = load_model(tmp_path / "model.safetensors")
    save_model(random_unet(None), tmp_path / "guidance.safetensors", info)
    told = []

    def noted(model, info, vectors, seed=0, sampling=None, guidance=None, measured=None):
        brain = np.ndim(vectors) > 0
        told.append((brain, guidance is not None and guidance.model is not None))
        return np.zeros((len(vectors) if brain else vectors, 64, 64, 3), np.uint8)

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import choose_sampling as choice

    for module in (reconstruct, crossval, haxby, choice):
        monkeypatch.setattr(module, "sample_pictures", noted)
    x, path = loaded, tmp_path / "model.safetensors"
    rng = np.random.default_rng(0)
    which = np.arange(24) % 12
    own = ArrayData(draw(sample_factors(12, 5)), rng.normal(size=(24, 9)), which, which, None,
                  np.arange(9))
    for job in (lambda: reconstruct.reconstruct_experiment(x, path, say=len),
                lambda: choice.choose_sampling(x, path, [PLAIN], n=4),
                lambda: crossval.cross_validate(own, crossval.CrossValidation(2, path), say=len),
                lambda: haxby.drive(path, steps=1, say=len)):
        told.clear()
        job()
        assert any(brain for brain, _ in told)
        assert all(brain == guided for brain, guided in told), job


def test_the_shipped_guidance_model_is_small_and_drew_the_same_pictures():
    (model, info), (small, its) = load_model("unconditional"), load_model("guidance")
    size, its_size = (sum(p.numel() for p in net.parameters()) for net in (model, small))
    assert its_size < size / 2 and its["steps"] < info["steps"] / 2
    assert its["pictures"] == info["pictures"]
    assert located("guide") == located("guidance")  # its name once


@pytest.mark.parametrize("scale, passes", [(0.0, 1), (1.0, 1), (3.0, 1)])
@pytest.mark.parametrize("n", [1, 3, 12])
def test_few_pictures_are_guided_in_one_evaluation(n, scale, passes):
    """The formula by hand, and how often the network is asked: twice only for many pictures."""
    model, asked = random_unet(condition_size=7), []
    alpha_bar, info = cosine_schedule(), {"prediction": "x0"}
    x, condition = torch.randn(n, 3, 16, 16), torch.randn(n, 7)
    model.register_forward_hook(lambda *_: asked.append(1))
    sampling = replace(PLAIN, scale=scale, interval=(0.3, 1.0))
    denoise = guided_denoiser(model, info, alpha_bar, condition, sampling)
    for t in (torch.full((n,), 600), torch.full((n,), 20), torch.full((n,), 600)):
        asked.clear()
        with torch.no_grad():
            made = denoise(x, t)
            assert len(asked) == (2 if n > 8 and scale == 3 and t[0] == 600 else passes)
            told, free = model(x, t, condition), model(x, t)
        by_hand = told if t[0] == 20 else free + scale * (told - free)
        assert torch.allclose(made, by_hand.clamp(-1, 1), atol=1e-5)
