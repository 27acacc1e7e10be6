"""Noising, parameterisations, loss and guidance against closed forms."""

import math
from functools import partial

import pytest
import torch

from recon_lib.diffusion import (
    PREDICTIONS,
    add_noise,
    cosine_schedule,
    denoiser,
    diffusion_loss,
    ideal_denoiser,
    linear_schedule,
    shift_schedule,
    snr,
    stratified_times,
    target,
    to_eps,
    to_x0,
)
from recon_lib.guidance import guided


def pictures(n=4, seed=0, shape=(3, 8, 8)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise_like(x, seed=1):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", [linear_schedule, cosine_schedule])
def test_schedules_fall_from_picture_to_noise(schedule):
    alpha_bar = schedule()
    assert alpha_bar.shape == (1000,) and alpha_bar.dtype == torch.float32
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar[0] > 0.999 and 0 < alpha_bar[-1] < 1e-4


def test_linear_schedule_is_the_published_one():
    beta = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    product, wanted = 1.0, []
    for b in beta:
        product *= 1 - b
        wanted.append(product)
    torch.testing.assert_close(linear_schedule(), torch.tensor(wanted), rtol=1e-5, atol=0)


def test_cosine_schedule_is_the_published_one():
    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    alpha_bar = cosine_schedule()
    for t in (0, 10, 499, 900):
        assert alpha_bar[t].item() == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-5)


def test_shifting_divides_the_snr():
    alpha_bar = cosine_schedule()[5:900]
    shifted = snr(shift_schedule(alpha_bar, 2.0))
    torch.testing.assert_close(shifted, snr(alpha_bar) / 4, rtol=1e-4, atol=0)


def test_one_jump_has_the_moments_of_many_steps():
    alpha_bar = linear_schedule(50)
    beta = 1 - alpha_bar / torch.cat([torch.ones(1), alpha_bar[:-1]])
    generator = torch.Generator().manual_seed(0)
    x0 = torch.full((200_000, 1, 1, 1), 0.7)
    x = x0
    for b in beta[:20]:
        x = (1 - b).sqrt() * x + b.sqrt() * torch.randn(x.shape, generator=generator)
    jump = add_noise(x0, torch.full((len(x0),), 19), noise_like(x0), alpha_bar)
    for sample in (x, jump):
        assert sample.mean().item() == pytest.approx(0.7 * alpha_bar[19].sqrt().item(), abs=0.01)
        assert sample.var().item() == pytest.approx(1 - alpha_bar[19].item(), rel=0.01)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_three_views_are_one_thing(prediction):
    alpha_bar, x0 = cosine_schedule(), pictures(5)
    noise, t = noise_like(x0), torch.tensor([0, 100, 500, 800, 950])
    x_t = add_noise(x0, t, noise, alpha_bar)
    asked = target(x0, t, noise, alpha_bar, prediction)
    back = to_x0(asked, x_t, t, alpha_bar, prediction)
    torch.testing.assert_close(back, x0, atol=2e-4, rtol=0)
    torch.testing.assert_close(to_eps(x0, x_t, t, alpha_bar), noise, atol=2e-3, rtol=0)
    a, s = alpha_bar[t].sqrt().view(-1, 1, 1, 1), (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1)
    v = target(x0, t, noise, alpha_bar, "v")
    torch.testing.assert_close(s * v, a * x_t - x0, atol=1e-5, rtol=0)


def test_unknown_prediction_is_refused():
    x0, t = pictures(1), torch.tensor([3])
    with pytest.raises(ValueError, match="x0, eps, v"):
        target(x0, t, x0, cosine_schedule(), "score")
    with pytest.raises(ValueError, match="x0, eps, v"):
        to_x0(x0, x0, t, cosine_schedule(), "score")


def test_weighted_x0_loss_is_the_v_loss():
    alpha_bar, x0 = cosine_schedule(), pictures(6)
    noise, t = noise_like(x0), torch.tensor([300, 400, 500, 700, 900, 999])  # s² above the floor
    guess = pictures(6, seed=3)
    x_t = add_noise(x0, t, noise, alpha_bar)
    as_x0 = diffusion_loss(lambda *_: guess, x0, alpha_bar, t, noise, "x0")
    a, s = alpha_bar[t].sqrt().view(-1, 1, 1, 1), (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1)
    v = (a * x_t - guess) / s
    as_v = diffusion_loss(lambda *_: v, x0, alpha_bar, t, noise, "v")
    torch.testing.assert_close(as_x0, as_v, rtol=1e-4, atol=0)


def test_loss_weight_is_floored_and_loss_of_the_truth_is_zero():
    alpha_bar, x0 = cosine_schedule(), pictures(2)
    t = torch.zeros(2, dtype=torch.long)
    loss = diffusion_loss(lambda *_: x0 + 0.1, x0, alpha_bar, t, noise_like(x0))
    assert loss.item() == pytest.approx(6 * 0.01, rel=1e-4)
    for prediction in PREDICTIONS:
        answer = target(x0, t, noise_like(x0), alpha_bar, prediction)
        loss = diffusion_loss(
            lambda *_, a=answer: a, x0, alpha_bar, t, noise_like(x0), prediction
        )
        assert loss.item() == 0


def test_stratified_times_fall_one_in_each_share():
    t = stratified_times(50, 1000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.long and t.tolist() != sorted(t.tolist())
    assert (t.sort().values // 20).tolist() == list(range(50))
    assert stratified_times(8, 1000, torch.Generator().manual_seed(1)).max() < 1000


class Linear(torch.nn.Module):
    """Predicts x0 = 0.3 mean(condition), or 0.1 without one; counts its evaluations."""

    sizes: list

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x, t, condition=None, mask=None):
        self.sizes.append(len(x))
        if condition is None:
            return torch.full_like(x, 0.1)
        value = 0.3 * condition.mean(1)
        value = value if mask is None else torch.where(mask, value, 0.1)
        return value.view(-1, 1, 1, 1).expand_as(x)


def classifier_free(model, scale, interval=None):
    guess = partial(denoiser, model, "x0", cosine_schedule(), clamp=False)
    return guided(guess(torch.ones(3, 5)), guess(), cosine_schedule(), scale, interval)


@pytest.mark.parametrize("scale, wanted", [(0.0, 0.1), (1.0, 0.3), (2.0, 0.5), (9.0, 1.0)])
def test_guidance_algebra(scale, wanted):
    x, t = pictures(3), torch.full((3,), 400)
    guess = classifier_free(Linear(), scale)(x, t)
    torch.testing.assert_close(guess, torch.full_like(x, wanted))


def test_guidance_costs_two_only_inside_its_interval():
    model, x = Linear(), pictures(3)
    denoise = classifier_free(model, 2.0, (0.3, 0.9))
    for t in (20, 500, 980):  # s = .04, .72, 1
        denoise(x, torch.full((3,), t))
    assert model.sizes == [3, 3, 3, 3]


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_guidance_has_a_scale(scale):
    with pytest.raises(ValueError, match=f"scale is {scale}; expected a number"):
        classifier_free(Linear(), scale)


@pytest.mark.parametrize("interval", [(1.0, 0.3), (0.5, 0.5), (math.nan, 1.0)])
def test_an_interval_without_anything_in_it_is_refused(interval):
    with pytest.raises(ValueError, match=r"expected \(low, high\)"):
        classifier_free(Linear(), 2.0, interval)


def test_each_picture_has_its_time():
    x, alpha_bar = pictures(4), cosine_schedule()
    for n in (1, 2, 5):
        t = torch.full((n,), 300)
        for call in (lambda t=t: add_noise(x, t, noise_like(x), alpha_bar),
                     lambda t=t: add_noise(x[:1], t, noise_like(x), alpha_bar),
                     lambda t=t: target(x, t, noise_like(x), alpha_bar, "v"),
                     lambda t=t: to_x0(x, x, t, alpha_bar, "eps")):
            with pytest.raises(ValueError, match=f"{n} times for 4 pictures; expected a time"):
                call()
    t = torch.tensor([0, 300, 900, 999])  # one picture at many times, in one noise or in several
    wanted = add_noise(x[:1].expand(4, -1, -1, -1), t, noise_like(x), alpha_bar)
    assert torch.equal(add_noise(x[:1], t, noise_like(x), alpha_bar), wanted)
    assert torch.equal(add_noise(x[:1], t, noise_like(x)[:1], alpha_bar)[0], wanted[0])


def test_ideal_denoiser_is_the_posterior_mean():
    alpha_bar, images = cosine_schedule(), pictures(7).double()
    x_t, t = noise_like(images[:2]).double(), torch.tensor([300, 800])
    guess = ideal_denoiser(images, alpha_bar)(x_t, t)
    for i in range(2):
        left = alpha_bar[t[i]].double()
        log = [-((x_t[i] - left.sqrt() * y) ** 2).sum() / (2 * (1 - left)) for y in images]
        weight = torch.softmax(torch.stack(log), 0)
        wanted = sum(w * y for w, y in zip(weight, images, strict=True))
        torch.testing.assert_close(guess[i], wanted, atol=1e-5, rtol=0)


def test_no_denoiser_beats_the_ideal_one():
    alpha_bar, images = cosine_schedule(), pictures(5, shape=(1, 2, 2))
    x0 = images.repeat(40, 1, 1, 1)
    t = stratified_times(len(x0), 1000, torch.Generator().manual_seed(0))
    ideal = ideal_denoiser(images, alpha_bar)

    def error(denoise):
        return diffusion_loss(
            lambda x, t, *_: denoise(x, t), x0, alpha_bar, t, noise_like(x0), "x0"
        ).item()

    best = error(ideal)
    assert best < error(lambda x, t: images.mean(0).expand_as(x))
    assert best < error(lambda x, t: 0.9 * ideal(x, t))
    assert best < error(lambda x, t: ideal(x, (t - 150).clamp(min=0)))
