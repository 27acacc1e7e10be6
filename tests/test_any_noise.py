"""Samplers, diffusion and the posterior on any schedule, size and step: what must hold of them all.

Each is compared with a closed form or a plain sum in float64.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from recon_lib import diffusion, guidance, samplers
from recon_lib.brain.decoder import brain_log_likelihood

ANY = settings(max_examples=40, deadline=None, derandomize=True)
SEED = st.integers(0, 999)
ETA = st.sampled_from([0.0, 0.3, 1.0])


@st.composite
def schedules(draw, ends=False):
    """alpha_bar (T,) of the house or anybody's; with `ends` it may run from no noise to no picture.
    """
    steps = draw(st.integers(1, 300))
    kind = draw(st.sampled_from(["cosine", "linear", "any"]))
    if kind != "any":
        return diffusion.SCHEDULES[kind](steps)
    g = torch.Generator().manual_seed(draw(SEED))
    levels = torch.rand(steps, generator=g).mul(0.98).add(0.01).sort(descending=True).values
    if ends and steps > 2:
        levels[0] = draw(st.sampled_from([1.0, 0.995]))
        levels[-1] = draw(st.sampled_from([0, 0.003]))
    return levels


@st.composite
def batches(draw, schedule=None):
    """Pictures (b, C, H, W) in float64, noise, times (b,) and a schedule, also in float64."""
    alpha_bar = draw(schedule or schedules()).double()
    g = torch.Generator().manual_seed(draw(SEED))
    shape = [draw(st.integers(1, 4)) for _ in range(4)]
    x0, noise = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.randint(len(alpha_bar), (shape[0],), generator=g)
    return x0, noise, t, alpha_bar


def close(a, b, **options):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), check_dtype=False,
                               **{"rtol": 1e-5, "atol": 1e-6, **options})


# ---- Schedules ----


@ANY
@given(st.integers(-3, 3000), st.sampled_from(sorted(diffusion.SCHEDULES)))
def test_schedules_of_any_length(steps, name):
    if steps < 1:
        with pytest.raises(ValueError, match=f"steps is {steps}; expected 1 or more"):
            diffusion.SCHEDULES[name](steps)
        return
    alpha_bar = diffusion.SCHEDULES[name](steps)
    assert alpha_bar.shape == (steps,) and alpha_bar.dtype == torch.float32
    assert (alpha_bar > 0).all() and (alpha_bar < 1).all() and (alpha_bar.diff() < 0).all()


@ANY
@given(schedules(ends=True), st.floats(0.05, 20), st.floats(0.05, 20))
def test_shifts_add_up_and_keep_the_ends(alpha_bar, one, two):
    alpha_bar = alpha_bar.double()
    shifted = diffusion.shift_schedule(alpha_bar, one)
    for before, after in zip(alpha_bar.tolist(), shifted.tolist(), strict=True):
        odds = math.inf if before == 1 else before / (1 - before) / one**2
        assert after == pytest.approx(1 if before == 1 else odds / (1 + odds), rel=1e-6)
    close(diffusion.shift_schedule(shifted, two), diffusion.shift_schedule(alpha_bar, one * two))
    close(diffusion.shift_schedule(shifted, 1 / one), alpha_bar)
    for bad in (0.0, -one, math.nan):
        with pytest.raises(ValueError, match="factor"):
            diffusion.shift_schedule(alpha_bar, bad)


# ---- Pictures, noise and v ----


@ANY
@given(batches())
def test_noise_is_put_in_and_taken_out(batch):
    x0, noise, t, alpha_bar = batch
    assume((alpha_bar[t] > 1e-6).all())  # no picture can be told from noise alone
    x_t = diffusion.add_noise(x0, t, noise, alpha_bar)
    for i, time in enumerate(t.tolist()):
        a, s = math.sqrt(alpha_bar[time]), math.sqrt(1 - alpha_bar[time])
        close(x_t[i], a * x0[i] + s * noise[i])
        close(diffusion.target(x0, t, noise, alpha_bar, "v")[i], a * noise[i] - s * x0[i])
    for prediction in diffusion.PREDICTIONS:
        asked = diffusion.target(x0, t, noise, alpha_bar, prediction)
        close(diffusion.to_x0(asked, x_t, t, alpha_bar, prediction), x0)
    close(diffusion.to_eps(x0, x_t, t, alpha_bar), noise)


@ANY
@given(batches(), st.sampled_from(["too late", "too early", "an axis less", "an axis more"]))
def test_times_and_shapes_that_do_not_belong_are_refused(batch, wrong):
    x0, noise, t, alpha_bar = batch
    if wrong.startswith("too"):
        t = t.clone()
        t[-1] = len(alpha_bar) if wrong == "too late" else -1
        with pytest.raises((ValueError, IndexError)):
            diffusion.add_noise(x0, t, noise, alpha_bar)
        return
    x0, noise = (x.flatten(2) if wrong == "an axis less" else x[None] for x in (x0, noise))
    for call in (lambda: diffusion.add_noise(x0, t, noise, alpha_bar),
                 lambda: diffusion.target(x0, t, noise, alpha_bar, "v"),
                 lambda: diffusion.to_x0(x0, noise, t, alpha_bar, "eps"),
                 lambda: diffusion.to_eps(x0, noise, t, alpha_bar)):
        with pytest.raises(ValueError, match=r"expected \(b, C, H, W\)"):
            call()


@ANY
@given(batches(), st.sampled_from(diffusion.PREDICTIONS), st.floats(0.01, 1))
def test_the_loss_is_a_plain_sum(batch, prediction, floor):
    x0, noise, t, alpha_bar = batch

    def model(x_t, time, condition, keep):
        return x_t.sin() * (1 + time.view(-1, 1, 1, 1))

    total = 0.0
    for i, time in enumerate(t.tolist()):
        a, s = math.sqrt(alpha_bar[time]), math.sqrt(1 - alpha_bar[time])
        said = torch.sin(a * x0[i] + s * noise[i]) * (1 + time)
        wanted = {"x0": x0[i], "eps": noise[i], "v": a * noise[i] - s * x0[i]}[prediction]
        weight = 1 / max(s**2, floor) if prediction == "x0" else 1
        total += weight * (said - wanted).square().sum().item()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "FLOOR", floor)
        found = diffusion.diffusion_loss(model, x0, alpha_bar, t, noise, prediction)
    assert found.item() == pytest.approx(total / x0.numel(), rel=1e-4)


@ANY
@given(st.integers(0, 300), st.integers(1, 2000), SEED)
def test_one_time_from_each_share(n, steps, seed):
    times = diffusion.stratified_times(n, steps, torch.Generator().manual_seed(seed))
    assert times.shape == (n,) and times.dtype == torch.long
    for i, time in enumerate(sorted(times.tolist())):  # a share's end may round up into the next
        assert math.floor(i * steps / n) <= time <= min(steps - 1, math.floor((i + 1) * steps / n))


@ANY
@given(batches(), st.integers(1, 6), SEED, st.floats(0, 3))
def test_the_ideal_denoiser_is_a_weighted_mean(batch, n, seed, spread):
    x0, noise, t, alpha_bar = batch
    g = torch.Generator().manual_seed(seed)
    images = torch.randn((n, *x0.shape[1:]), generator=g, dtype=torch.float64)
    prior = spread * torch.randn((len(x0), n), generator=g, dtype=torch.float64)
    prior[:, 1:][torch.rand((len(x0), n - 1), generator=g) < 0.3] = -math.inf  # never that one
    x_t = diffusion.add_noise(images[:1].expand_as(x0), t, noise, alpha_bar)
    found = diffusion.ideal_denoiser(images, alpha_bar, prior)(x_t, t)
    for i, time in enumerate(t.tolist()):
        a, variance = math.sqrt(alpha_bar[time]), 1 - alpha_bar[time].item()
        away = (x_t[i] - a * images).square().flatten(1).sum(1)
        weight = torch.softmax(prior[i] - away / (2 * variance), 0)
        close(found[i], torch.einsum("n,nchw->chw", weight, images), atol=1e-5)


@ANY
@given(st.integers(0, 99), SEED, st.floats(1e-3, 3e-2))
def test_the_ideal_denoiser_tells_near_pictures_apart(time, seed, apart):
    """Little noise, and pictures that are nearly alike: where single precision would be lost."""
    g = torch.Generator().manual_seed(seed)
    alpha_bar = diffusion.cosine_schedule(1000)
    one = torch.rand((1, 3, 32, 32), generator=g)
    images = torch.cat([one, one + apart * torch.randn(one.shape, generator=g)])
    t = torch.tensor([time])
    x_t = diffusion.add_noise(images[:1], t, torch.randn(one.shape, generator=g), alpha_bar)
    left, exact = alpha_bar[time].double(), images.double()
    away = (x_t.double() - left.sqrt() * exact).square().flatten(1).sum(1)
    weight = torch.softmax(-away / (2 * (1 - left)), 0)
    found = diffusion.ideal_denoiser(images, alpha_bar)(x_t, t)
    assert found.dtype == images.dtype
    close(found[0], torch.einsum("n,nchw->chw", weight, exact), atol=1e-2 * apart, rtol=0)


@ANY
@given(batches(), st.floats(-2, 6), st.sampled_from(diffusion.PREDICTIONS),
       st.sampled_from([None, (0.0, 1.0), (0.4, 0.8)]))
def test_guidance_goes_from_one_answer_through_the_other(batch, scale, prediction, interval):
    x_t, condition, t, alpha_bar = batch
    t = t[:1].expand_as(t)  # a sampler's batch is all at one time

    def model(x, time, condition):
        return x.cos() + (0 if condition is None else condition.mean((1, 2, 3), keepdim=True))

    pair = (diffusion.denoiser(model, prediction, alpha_bar, y, clamp=False)
            for y in (condition, None))
    guided = guidance.guided(*pair, alpha_bar, scale, interval, clamp=False)(x_t, t)
    s = math.sqrt(1 - alpha_bar[t[0]])
    scale = scale if interval is None or interval[0] <= s <= interval[1] else 1
    c, u = (diffusion.to_x0(model(x_t, t, y), x_t, t, alpha_bar, prediction)
            for y in (condition, None))
    assert guided.dtype == torch.float32
    close(guided, u + scale * (c - u), rtol=1e-3, atol=1e-3)


# ---- Samplers ----


@ANY
@given(schedules(ends=True), st.integers(-1, 320), st.floats(-30, 5))
def test_ladders_fall_and_keep_their_ends(alpha_bar, steps, noisiest):
    if not 1 <= steps <= len(alpha_bar):
        with pytest.raises(ValueError, match=f"steps is {steps}; choose 1 to {len(alpha_bar)}"):
            samplers.even_times(alpha_bar, steps)
        return
    plain = samplers.even_times(alpha_bar, steps)
    even = [len(alpha_bar) * (steps - i) / steps - 1 for i in range(steps)]
    assert max(abs(a - b) for a, b in zip(plain, even, strict=True)) < 0.501
    for times in (plain, samplers.log_snr_times(alpha_bar, steps, noisiest)):
        assert len(times) == steps and times[0] == len(alpha_bar) - 1 and times[-1] >= 0
        assert all(a > b for a, b in zip(times, times[1:], strict=False))


def sample(name, denoise, x_T, alpha_bar, steps, eta, **options):
    if name == "dpm_solver":
        return samplers.dpm_solver(denoise, x_T, alpha_bar, steps)
    return samplers.ddim(denoise, x_T, alpha_bar, steps, eta, **options)


@ANY
@given(schedules(ends=True), st.integers(1, 40), SEED, ETA, st.sampled_from(["ddim", "dpm_solver"]))
def test_a_denoiser_that_knows_the_picture_ends_there(alpha_bar, steps, seed, eta, name):
    assume(steps <= len(alpha_bar))
    x_T = samplers.initial_noise(2, (3, 2, 2), seed)
    picture = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)
    made = sample(name, lambda x, t: picture.expand_as(x), x_T, alpha_bar, steps, eta)
    assert made.dtype == x_T.dtype
    close(made, picture.expand_as(made), atol=1e-5)
    moved = sample(name, lambda x, t: x.tanh(), x_T, alpha_bar, steps, eta)
    assert moved.isfinite().all() and moved.abs().max() <= 1


@pytest.mark.parametrize("name", ["ddim", "dpm_solver"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_schedule_may_end_without_any_noise(name, eta):
    alpha_bar = torch.tensor([1.0, 0.9, 0.5, 0.1, 0.0])
    x_T = samplers.initial_noise(2, (1, 2, 2))
    for steps in range(1, 6):
        last = samplers.even_times(alpha_bar, steps)[-1]
        assert samplers.log_snr_times(alpha_bar, steps)[-1] == last
        made = sample(name, lambda x, t: x.tanh(), x_T, alpha_bar, steps, eta)
        assert made.isfinite().all() and made.abs().max() <= 1


@ANY
@given(schedules(), st.integers(1, 40), SEED, st.floats(0.05, 4))
def test_ddim_in_a_gaussian_world_is_a_product(alpha_bar, steps, seed, variance):
    """Pictures N(0, variance): the best estimate is a multiple of x_t, and so is each step."""
    assume(steps <= len(alpha_bar))
    level = alpha_bar.double()

    def share(left):
        return left.sqrt() * variance / (left * variance + 1 - left)

    def denoise(x, t):
        return share(level[t]).view(-1, 1, 1, 1) * x

    factor, times = 1.0, samplers.even_times(alpha_bar, steps)
    for t, later in zip(times, [*times[1:], None], strict=True):
        left, after = level[t], torch.tensor(1.0) if later is None else level[later]
        eps = (1 - left.sqrt() * share(left)) / (1 - left).sqrt()
        factor *= (after.sqrt() * share(left) + (1 - after).sqrt() * eps).item()
    x_T = samplers.initial_noise(2, (1, 2, 2), seed).double()
    close(samplers.ddim(denoise, x_T, alpha_bar, steps), factor * x_T, rtol=1e-4)


@ANY
@given(st.integers(1, 7), st.integers(0, 9), SEED, st.integers(1, 20), ETA,
       st.sampled_from(["ddim", "dpm_solver"]))
def test_a_sample_knows_nothing_of_its_batch(n, first, seed, steps, eta, name):
    alpha_bar = diffusion.cosine_schedule(50)
    whole = samplers.initial_noise(n, (1, 3, 2), seed, first)
    assert whole.shape == (n, 1, 3, 2) and whole.dtype == torch.float32
    together = sample(name, lambda x, t: x.tanh(), whole, alpha_bar, steps, eta,
                      **({} if name == "dpm_solver" else dict(seed=seed, first=first)))
    for i in range(n):
        alone = samplers.initial_noise(1, (1, 3, 2), seed, first + i)
        assert torch.equal(alone, whole[i : i + 1])
        close(sample(name, lambda x, t: x.tanh(), alone, alpha_bar, steps, eta,
                     **({} if name == "dpm_solver" else dict(seed=seed, first=first + i))),
              together[i : i + 1])


@pytest.mark.parametrize("eta", [-0.5, 1.5, math.nan])
def test_more_fresh_noise_than_there_is_is_refused(eta):
    with pytest.raises(ValueError, match="eta"):
        samplers.ddim(lambda x, t: x, torch.zeros(1, 1, 2, 2), diffusion.cosine_schedule(), 5, eta)


# ---- Posterior ----


@ANY
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), SEED)
def test_brain_log_likelihood_is_a_normal_density(b, d, pixels, seed):
    rng = np.random.default_rng(seed)
    weights, x_mean, y_mean = rng.normal(size=(3, d)), rng.normal(size=3), rng.normal(size=d)
    encode = torch.as_tensor(rng.normal(size=(pixels, 3)), dtype=torch.float32)
    root = np.tril(rng.normal(size=(d, d)) / 4, -1) + np.diag(rng.uniform(0.5, 2, d))
    decoder = SimpleNamespace(noise_cholesky=root, forward=SimpleNamespace(
        weights=weights, x_mean=x_mean, y_mean=y_mean))
    latent = SimpleNamespace(encode=lambda pictures: pictures.flatten(1) @ encode,
                             on=lambda device: latent)
    repeats = rng.integers(1, 5, b)
    vectors = np.column_stack([rng.normal(size=(b, d)), 1 / np.sqrt(repeats)])
    pictures = rng.normal(size=(2, b, 1, 1, pixels))  # two candidates for each vector
    fit = brain_log_likelihood(decoder, latent, torch.as_tensor(vectors, dtype=torch.float32))
    found = [fit(torch.as_tensor(p, dtype=torch.float32)).numpy() for p in pictures]
    for i in range(b):
        means = (pictures[:, i].reshape(2, pixels) @ encode.numpy() - x_mean) @ weights + y_mean
        density = [multivariate_normal(mean, root @ root.T / repeats[i]).logpdf(vectors[i, :-1])
                   for mean in means]
        gap = density[0] - density[1]  # what does not depend on the picture is left out
        assert found[0][i] - found[1][i] == pytest.approx(gap, rel=2e-3, abs=2e-3)


@ANY
@given(batches(), st.floats(0, 5), st.floats(0.01, 1), st.floats(0.2, 5), st.floats(-2, 2),
       st.sampled_from([None, (0.3, 0.9)]))
def test_steering_with_a_gradient_that_is_known(batch, strength, largest, width, share, interval):
    """x0 = share x_t and a likelihood exp(-|x0 - wanted|² / 2 width²)."""
    x_t, wanted, t, alpha_bar = batch
    t = t[:1].expand_as(t)
    steered = guidance.steer(
        lambda x, _: share * x, lambda x0: -(x0 - wanted).square().sum((1, 2, 3)) / (2 * width**2),
        alpha_bar, strength, interval, largest)(x_t, t)
    s2 = 1 - alpha_bar[t[0]].item()
    if interval is not None and not interval[0] <= math.sqrt(s2) <= interval[1]:
        close(steered, share * x_t)
        return
    change = s2 / max(math.sqrt(1 - s2), 0.05) * share * (wanted - share * x_t) / width**2
    for i, step in enumerate(change):
        size = step.square().mean().sqrt().item()
        step = step * min(1, largest / max(size, 1e-12))
        close(steered[i], (share * x_t[i] + strength * step).clamp(-1, 1))
