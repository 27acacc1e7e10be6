"""Samplers on worlds whose denoiser is known exactly."""

import pytest
import torch

from recon_lib.diffusion import amplitudes, cosine_schedule, ideal_denoiser, linear_schedule, snr
from recon_lib.samplers import ddim, ddpm, dpm_solver, even_times, initial_noise, log_snr_times

MEAN, SD = 0.4, 0.3


def gaussian_denoiser(alpha_bar):
    """E[x0 | x_t] when every pixel is N(MEAN, SD²)."""

    def denoise(x_t, t):
        a, s = amplitudes(t, alpha_bar)
        gain = a * SD**2 / (a**2 * SD**2 + s**2)
        return MEAN + gain * (x_t - a * MEAN)

    return denoise


def noise(n=1, shape=(1, 64, 64), seed=0):
    return initial_noise(n, shape, seed).double()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [linear_schedule, cosine_schedule])
@pytest.mark.parametrize(
    "sampler, steps", [(ddpm, 1000), (ddim, 400), (dpm_solver, 50)]
)
def test_gaussian_world_is_sampled_with_the_right_moments(schedule, sampler, steps):
    alpha_bar = schedule()
    x = sampler(gaussian_denoiser(alpha_bar), noise(4), alpha_bar, steps)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(SD, rel=0.04)


def flow(x_T, alpha_bar):
    """Exact solution of the probability flow from the last time to no noise, Gaussian world."""
    left = alpha_bar[-1].double()
    return MEAN + SD * (x_T - left.sqrt() * MEAN) / (left * SD**2 + 1 - left).sqrt()


def test_solvers_converge_with_their_orders():
    alpha_bar, x_T = linear_schedule(), noise(1, (1, 16, 16))
    exact = flow(x_T, alpha_bar)

    def error(sampler, steps):
        x = sampler(gaussian_denoiser(alpha_bar), x_T, alpha_bar, steps)
        return (x - exact).square().mean().sqrt().item()

    first = error(ddim, 25) / error(ddim, 100)
    second = error(dpm_solver, 25) / error(dpm_solver, 100)
    assert 3 < first < 6  # a quarter of the step: a quarter of the error
    assert second > 9  # … a sixteenth
    assert error(dpm_solver, 50) < error(ddim, 50) / 2.5
    assert error(dpm_solver, 200) < 1e-4


@pytest.mark.parametrize("sampler, steps", [(ddpm, 200), (ddim, 50), (dpm_solver, 20)])
def test_ideal_denoiser_leads_to_training_pictures(sampler, steps):
    alpha_bar = cosine_schedule()
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = sampler(ideal_denoiser(images, alpha_bar), initial_noise(12, (3, 8, 8)), alpha_bar, steps)
    distance = torch.cdist(x.flatten(1), images.flatten(1))  # (12, 6)
    assert distance.min(1).values.max() < 0.05
    assert distance.argmin(1).unique().numel() >= 3


@pytest.mark.parametrize("sampler", [ddpm, ddim, dpm_solver])
def test_samples_do_not_depend_on_the_batch(sampler):
    alpha_bar = cosine_schedule()
    denoise, shape = gaussian_denoiser(alpha_bar), (3, 8, 8)
    seeded = {"seed": 5} if sampler is not dpm_solver else {}
    whole = sampler(denoise, initial_noise(6, shape, 5), alpha_bar, 20, **seeded)
    parts = []
    for first in (0, 2, 4):
        part = {**seeded, "first": first} if seeded else {}
        parts.append(sampler(denoise, initial_noise(2, shape, 5, first), alpha_bar, 20, **part))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


def test_noise_differs_between_seeds_samples_and_from_the_fresh_noise():
    x = torch.cat([initial_noise(3, (1, 16, 16), 0), initial_noise(3, (1, 16, 16), 1)])
    correlation = torch.corrcoef(x.flatten(1)) - torch.eye(6)
    assert correlation.abs().max() < 0.3
    alpha_bar = cosine_schedule()
    ddpm_1 = ddpm(gaussian_denoiser(alpha_bar), noise(1), alpha_bar, 50, seed=0)
    ddpm_2 = ddpm(gaussian_denoiser(alpha_bar), noise(1), alpha_bar, 50, seed=1)
    assert (ddpm_1 - ddpm_2).abs().mean() > 0.05


def test_ddpm_is_ddim_with_fresh_noise():
    alpha_bar, x_T = cosine_schedule(), noise(2, (1, 8, 8))
    denoise = gaussian_denoiser(alpha_bar)
    torch.testing.assert_close(
        ddpm(denoise, x_T, alpha_bar, 10, seed=3), ddim(denoise, x_T, alpha_bar, 10, 1.0, seed=3)
    )


def test_ladder_starts_at_pure_noise_and_can_take_every_step():
    alpha_bar = cosine_schedule()
    assert even_times(alpha_bar, 1000) == list(range(999, -1, -1))
    assert even_times(alpha_bar, 4) == [999, 749, 499, 249]
    assert even_times(alpha_bar, 1) == [999]
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            even_times(alpha_bar, steps)


@pytest.mark.parametrize("schedule", [linear_schedule, cosine_schedule])
@pytest.mark.parametrize("steps", [1, 2, 16, 20, 100, 999, 1000])
def test_log_snr_ladder_is_even_in_log_snr(schedule, steps):
    alpha_bar = schedule()
    times = torch.tensor(log_snr_times(alpha_bar, steps))
    assert len(times) == steps and times[0] == 999 and times[-1] == even_times(alpha_bar, steps)[-1]
    assert (times.diff() < 0).all()
    if steps in (16, 20):
        level = snr(alpha_bar.double()[times]).log() / 2
        stride = level[1:].diff()  # the first step comes down from pure noise
        assert stride.mean() == pytest.approx((level[-1] - max(level[0], -5)).item() / (steps - 1),
                                              rel=0.02)
        assert (stride / stride.mean() - 1).abs().max() < 0.15  # times are whole numbers


def test_few_steps_go_where_many_go():
    """In a world of low-contrast and high-contrast scenes, whose light is decided early."""
    alpha_bar = cosine_schedule()
    light = torch.linspace(-1, 1, 9).view(9, 1, 1, 1)
    ideal = ideal_denoiser(light.expand(9, 3, 16, 16), alpha_bar)
    start = initial_noise(64, (3, 16, 16), 3)
    end, few = (dpm_solver(ideal, start, alpha_bar, steps) for steps in (400, 16))
    equal = ddim(ideal, start, alpha_bar, 16)
    assert (few - end).abs().mean() < 0.5 * (equal - end).abs().mean()


@pytest.mark.parametrize("sampler", [ddpm, ddim, dpm_solver])
def test_callback_sees_every_step(sampler):
    alpha_bar, seen = cosine_schedule(), []
    x = sampler(
        gaussian_denoiser(alpha_bar), noise(1), alpha_bar, 7,
        callback=lambda i, t, x_t, x0: seen.append((i, t, x_t.std().item(), x0)),
    )
    times = log_snr_times if sampler is dpm_solver else even_times
    assert [(i, t) for i, t, *_ in seen] == list(enumerate(times(alpha_bar, 7)))
    assert seen[0][2] > seen[-1][2]
    torch.testing.assert_close(x, seen[-1][3])  # the last step, to no noise, is the estimate
