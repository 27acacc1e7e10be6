"""The numbers behind the denoising stepper."""

import numpy as np
import pytest
import torch

from recon_lib.course import explore_sampling
from recon_lib.diffusion import cosine_schedule, ideal_denoiser
from recon_lib.samplers import ddim, ddpm, dpm_solver, initial_noise

ALPHA_BAR = cosine_schedule()
WORLD = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def box():
    """A stepper through a world of five pictures."""
    ideal = ideal_denoiser(WORLD, ALPHA_BAR)
    return explore_sampling.denoising_stepper(ideal, ALPHA_BAR, (3, 8, 8), n=3, steps=12, seed=4)


def test_trajectory_is_the_sampler_seen_from_inside():
    ideal, noise = ideal_denoiser(WORLD, ALPHA_BAR), initial_noise(2, (3, 8, 8), 1)
    way = explore_sampling.trajectory(ddim, ideal, noise, ALPHA_BAR, 10)
    times, x_t, x0 = way.times, way.x_t, way.x0
    assert x_t.shape == x0.shape == (11, 2, 3, 8, 8) and len(times) == 10
    assert times[0] == 999 and (np.diff(times) < 0).all()
    assert torch.equal(x_t[0], noise) and torch.equal(x_t[-1], ddim(ideal, noise, ALPHA_BAR, 10))
    t = torch.full((2,), int(times[4]))
    assert torch.equal(ideal(x_t[4], t), x0[4])


@pytest.mark.slow
def test_stepper_ends_at_the_sample(box):
    noise = initial_noise(3, (3, 8, 8), 4)
    ends = {"DPM-Solver++": dpm_solver, "DDIM": ddim, "DDPM": ddpm}
    for name, sampler in ends.items():
        box.controls["sampler"].value = name
        sample = sampler(ideal_denoiser(WORLD, ALPHA_BAR), noise, ALPHA_BAR, 12)
        for picture in (0, 2):
            box.controls["picture"].value = picture
            box.controls["step"].value = 0
            assert torch.equal(box.numbers["x_t"], noise[picture])
            assert box.numbers["s"] == pytest.approx(1, abs=1e-3) and box.numbers["t"] == 999
            box.controls["step"].value = 12
            assert torch.equal(box.numbers["x_t"], sample[picture])
            assert box.numbers["t"] is None and box.numbers["s"] == 0
            assert box.numbers["far"][-1] == 0
            # the samples of an ideal denoiser are the pictures of its world
            assert (sample[picture] - WORLD).square().mean((1, 2, 3)).min() < 1e-3
    box.reset.click()
    assert box.numbers["step"] == 5 and box.controls["sampler"].value == "DPM-Solver++"


def test_a_step_changes_the_figure_and_the_distance(box):
    box.controls["step"].value = 2
    before, first = box.children[-1].value, box.numbers
    assert first["far"][2] == pytest.approx(
        float((first["x0"] - first["sample"]).square().mean().sqrt()))
    assert first["far"][2] > 0.1  # the guess is still a mixture
    box.controls["step"].value = 11
    assert box.children[-1].value != before
    assert box.numbers["far"][11] < first["far"][2] and box.numbers["s"] < first["s"]
    assert box.numbers["pictures"].shape == (3, 8, 8, 3)
