"""The likelihood against the density it claims to be, the steered sampler against Bayes' rule."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from recon_lib.brain.decoder import brain_log_likelihood, fit_decoder
from recon_lib.brain.features import FactorNet
from recon_lib.brain.latents import fit_latent
from recon_lib.common.errors import DataError
from recon_lib.data.loader import to_batch
from recon_lib.decoding.sampling import PLAIN, Guidance, sample_pictures
from recon_lib.diffusion import amplitudes, cosine_schedule
from recon_lib.guidance import steer
from recon_lib.samplers import dpm_solver, initial_noise
from recon_lib.unet import UNet
from recon_lib.world import scenes

VOXELS = 40


@pytest.fixture(scope="module")
def world():
    """Pictures, a latent, a decoder of noisy linear voxels and the vectors of twelve trials."""
    pictures = scenes.draw(scenes.sample_factors(300, 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        latent = fit_latent(pictures, FactorNet().eval(), 6, 5)
    latents = latent.transform(pictures)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(latents.shape[1], VOXELS))
    betas = (latents @ weights + rng.normal(size=(300, VOXELS))).astype(np.float32)
    decoder = fit_decoder(betas, latents)
    return pictures, latent, decoder, decoder.vector(betas[:12], np.arange(1, 13) % 4 + 1)


@pytest.mark.slow
def test_a_tensor_has_the_latent_of_its_picture(world):
    pictures, latent, *_ = world
    encoded = latent.encode(to_batch(pictures[:5])).detach().numpy()
    assert np.allclose(encoded, latent.transform(pictures[:5]), atol=1e-4)
    grey = pictures[:5, ::2, ::2, :1]
    x = torch.from_numpy(grey).permute(0, 3, 1, 2) / 127.5 - 1
    assert np.allclose(latent.encode(x).detach().numpy(), latent.transform(grey), atol=1e-4)


def test_evidence_goes_where_the_vectors_are(world, monkeypatch):
    """The "meta" device stands for a GPU: it refuses to compute with what is elsewhere."""
    _, latent, decoder, vectors = world
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no "meta"
    fit = brain_log_likelihood(decoder, latent, torch.from_numpy(vectors).to("meta"))
    assert fit(torch.zeros(12, 3, 64, 64, device="meta")).shape == (12,)
    assert {p.device.type for p in latent.encoder.parameters()} == {"cpu"}  # others use it there


def test_evidence_is_the_decoders_log_likelihood(world):
    pictures, latent, decoder, vectors = world
    fit = brain_log_likelihood(decoder, latent, torch.from_numpy(vectors))
    for shift in (0, 5):
        shown = np.roll(pictures[:12], shift, axis=0)
        expected = np.diag(decoder.log_likelihood(vectors, latent.transform(shown)))
        assert np.allclose(fit(to_batch(shown)).detach(), expected, rtol=1e-3)


def test_the_gradient_is_that_of_finite_differences(world):
    pictures, latent, decoder, vectors = world
    fit = brain_log_likelihood(decoder, latent, torch.from_numpy(vectors[:1]))
    x = to_batch(pictures[40:41]).clone().requires_grad_()
    gradient, = torch.autograd.grad(fit(x).sum(), x)
    direction = gradient / gradient.norm()
    step = 0.05
    difference = (fit(x + step * direction) - fit(x - step * direction)).item() / (2 * step)
    assert difference == pytest.approx((gradient * direction).sum().item(), rel=0.02)


def test_steering_is_bayes_rule_in_a_gaussian_world():
    """Prior N(0, v), y = x0 + noise of variance w: the posterior mean of x0 given x_t and y."""
    v, w, y = 0.04, 0.5, 0.3
    alpha_bar = cosine_schedule()

    def prior_mean(x_t, t):
        a, s = amplitudes(t, alpha_bar)
        return a * v / (a**2 * v + s**2) * x_t

    t = torch.tensor([200, 500, 800])
    x_t = torch.tensor([0.2, -0.1, 0.4]).view(3, 1, 1, 1)
    a, s = amplitudes(t, alpha_bar)
    left = v * s**2 / (a**2 * v + s**2)  # variance of x0 given x_t
    # p(y | x_t) is taken at the estimate of x0, so without that estimate's own variance
    expected = prior_mean(x_t, t) + left * (y - prior_mean(x_t, t)) / w
    steered = steer(prior_mean, lambda x0: -((y - x0) ** 2).sum((1, 2, 3)) / (2 * w), alpha_bar)
    assert torch.allclose(steered(x_t, t), expected, atol=1e-6)
    off = steer(prior_mean, lambda x0: -((y - x0) ** 2).sum((1, 2, 3)), alpha_bar, strength=0)
    assert torch.equal(off(x_t, t), prior_mean(x_t, t))


def test_outside_the_interval_the_denoiser_is_left_alone():
    alpha_bar = cosine_schedule()
    steered = steer(lambda x, t: 0.5 * x, lambda x0: x0.sum((1, 2, 3)), alpha_bar,
                    interval=(0.3, 0.9))
    x_t = torch.ones(1, 3, 8, 8)
    for s, moved in ((0.2, False), (0.6, True), (0.95, False)):
        t = (1 - alpha_bar - s**2).abs().argmin()[None]
        assert torch.equal(steered(x_t, t), 0.5 * x_t) is not moved


def test_a_step_is_never_larger_than_asked():
    steered = steer(lambda x, t: 0.5 * x, lambda x0: 1e6 * x0.sum((1, 2, 3)), cosine_schedule(),
                    largest=0.1)
    x_t = torch.zeros(2, 3, 8, 8)
    assert torch.allclose(steered(x_t, torch.tensor([900, 900])), torch.full_like(x_t, 0.1))


def test_the_steered_and_the_best_of_several_explain_the_vector_better(world):
    """With a denoiser that knows nothing but the mean picture of each pixel's surroundings."""
    pictures, latent, decoder, vectors = world
    alpha_bar, v = cosine_schedule(), torch.from_numpy(vectors)
    centre = to_batch(pictures).mean(0)
    fit = brain_log_likelihood(decoder, latent, v)

    def prior_mean(x_t, t):
        a, s = amplitudes(t, alpha_bar)
        return centre + a * 0.1 / (a**2 * 0.1 + s**2) * (x_t - a * centre)

    noise = initial_noise(12, (3, 64, 64))
    free = dpm_solver(prior_mean, noise, alpha_bar, 10)
    led = dpm_solver(steer(prior_mean, fit, alpha_bar), noise, alpha_bar, 10)
    gain = (fit(led) - fit(free)).detach()
    assert (gain > 0).sum() >= 9 and gain.mean() > 100  # in nats


def test_candidates_are_chosen_by_the_likelihood_alone(world):
    _, latent, decoder, vectors = world
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = UNet(channels=(8, 16), attention=(), width=16, condition_size=vectors.shape[1])
        torch.nn.init.normal_(model.conv_out.weight, std=0.3)
    model, info = model.eval(), {"prediction": "x0", "schedule": "cosine", "image_size": 64}
    guidance, three = Guidance(None, partial(brain_log_likelihood, decoder, latent)), replace(
        PLAIN, steps=3)
    draw = partial(sample_pictures, model, info, vectors, guidance=guidance)
    best = draw(sampling=replace(three, candidates=4, batch_size=5))
    alone = sample_pictures(  # candidate k starts from noise k·12 + i
        model, info, np.resize(vectors, (48, vectors.shape[1])), sampling=three
    ).reshape(4, 12, 64, 64, 3)
    fit = np.stack([np.diag(decoder.log_likelihood(vectors, latent.transform(p))) for p in alone])
    expected = alone[fit.argmax(0), np.arange(12)]
    assert np.abs(best.astype(int) - expected).max() <= 2
    with pytest.raises(DataError, match="without a likelihood"):
        sample_pictures(model, info, vectors, sampling=replace(PLAIN, steps=1, candidates=2))
    with pytest.raises(DataError, match="without brain vectors"):
        sample_pictures(model, info, 2, sampling=three, guidance=guidance)
    one = draw(sampling=three)
    assert np.abs(one.astype(int) - alone[0]).max() <= 2
