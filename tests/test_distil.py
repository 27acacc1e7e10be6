"""Distillation against what its parts promise: exact steps, and a student that follows its way."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon_lib import recipes
from recon_lib.common.errors import DataError
from recon_lib.data.loader import create_loader
from recon_lib.decoding.sampling import (
    FEW_STEPS,
    SAMPLING,
    Guidance,
    load_conditional,
    load_drawing,
    sample_pictures,
    sampling_for,
)
from recon_lib.diffusion import cosine_schedule, denoiser, ideal_denoiser
from recon_lib.samplers import ddim, dpm_solver, initial_noise, log_snr_times, walk
from recon_lib.training.checkpoints import load_model, save_model
from recon_lib.training.distil import LADDER, STEPS, distillation, ladder, lessons
from recon_lib.training.loop import train
from recon_lib.training.options import Training
from recon_lib.unet import UNet

ALPHA_BAR = cosine_schedule()
PICTURES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Teacher(torch.nn.Module):
    """The exact posterior mean over six pictures; a condition says which are likely."""

    def forward(self, x_t, t, condition=None, mask=None):
        told = 0 if condition is None else condition * (1 if mask is None else mask[:, None])
        return ideal_denoiser(PICTURES, ALPHA_BAR, 0 * x_t[:, 0, 0, :1] + told)(x_t, t)


def test_steps_of_ddim_with_the_wanted_estimates_are_the_teachers_way():
    denoise, noise = ideal_denoiser(PICTURES, ALPHA_BAR), initial_noise(5, (3, 16, 16))
    x_t, t, x0 = lessons(denoise, noise, ALPHA_BAR)
    assert t.reshape(4, 5).tolist() == [[now] * 5 for now in ladder(ALPHA_BAR)]
    assert ladder(ALPHA_BAR) == [log_snr_times(ALPHA_BAR, STEPS)[i] for i in LADDER]
    wanted = dict(zip(ladder(ALPHA_BAR), x0.reshape(4, 5, 3, 16, 16), strict=True))
    states = []
    made = ddim(lambda x, t: wanted[int(t[0])], noise, ALPHA_BAR, ladder(ALPHA_BAR),
                callback=lambda i, t, x, x0: states.append(x))
    assert torch.allclose(torch.cat(states), x_t, atol=1e-5)
    assert torch.allclose(made, dpm_solver(denoise, noise, ALPHA_BAR, STEPS), atol=1e-5)


def student(out, steps, model_in=None, **options):
    """A small network that is taught by the exact teacher."""
    vectors = 20 * torch.eye(6)
    loader = create_loader(16, 6, images=np.asarray((PICTURES + 1) * 127.5, np.uint8).transpose(
        0, 2, 3, 1), vectors=vectors.numpy(), seed=0)
    torch.manual_seed(0)
    model = UNet(3, (16, 32), patch=4, attention=(), condition_size=6, width=32)
    training = Training(steps=steps, lr=3e-3, drop=0.2, ema=0.9, warmup=5, quiet=True,
                        info={"ladder": ladder(ALPHA_BAR)}, **options)
    return train(model, loader, training, "cpu", model_in, out,
                 distillation(Teacher(), None, 1.0, None))


@pytest.mark.slow
def test_a_student_learns_where_its_teacher_ends(tmp_path):
    noise, told = initial_noise(6, (3, 16, 16), seed=5), 20 * torch.eye(6)
    end = dpm_solver(denoiser(Teacher(), "x0", ALPHA_BAR, told), noise, ALPHA_BAR, STEPS)
    assert torch.allclose(end, PICTURES, atol=0.05)  # told the picture, the teacher draws it
    model = student(tmp_path, 120, grids=1)
    made = walk(denoiser(model, "x0", ALPHA_BAR, told), noise, ALPHA_BAR, ladder(ALPHA_BAR))
    off, others = (made - end).square().mean(), (made - end.roll(1, 0)).square().mean()
    assert off < 0.1 * others
    assert (tmp_path / "training_progression").is_dir()


def test_a_student_is_sampled_in_the_steps_that_it_learnt(tiny_student):
    net = load_conditional(tiny_student)
    assert net.guidance_model is None and sampling_for(net.info) == FEW_STEPS
    assert sampling_for({}) == SAMPLING
    vectors = np.random.default_rng(0).normal(size=(2, 15)).astype(np.float32)
    one = replace(FEW_STEPS, candidates=1)
    asked, forward = [], net.model.forward
    net.model.forward = lambda x, t, *rest: asked.append(int(t[0])) or forward(x, t, *rest)
    sample_pictures(net.model, net.info, vectors, 0, one)
    assert asked == net.info["ladder"]
    for change in ({"steps": 8}, {"scale": 3.0}):
        with pytest.raises(DataError, match="is a student: it draws in 4 steps"):
            sample_pictures(net.model, net.info, vectors, 0, replace(one, **change))


@pytest.mark.slow
def test_the_shipped_student_draws_what_its_teacher_draws():
    """In four evaluations it ends nearer to the teacher's eight steps than the teacher in four."""
    net, student = load_conditional(), load_conditional("student")
    rows = np.random.default_rng(1).choice(len(net.latent.prior), 6, replace=False)
    vectors = np.column_stack([net.latent.prior[rows], np.full(6, 1 / 8, np.float32)])
    one, away = replace(SAMPLING, candidates=1), Guidance(net.guidance_model)
    goal, short = (sample_pictures(net.model, net.info, vectors, 0, replace(one, steps=n), away)
                   for n in (8, 4))
    made = sample_pictures(student.model, student.info, vectors, 0,
                           replace(FEW_STEPS, candidates=1))
    off, others = (np.square(p / 255 - goal / 255).mean((1, 2, 3)) for p in (made, short))
    assert off.mean() < 0.8 * others.mean()
    assert student.info["ladder"] == ladder(ALPHA_BAR)


def test_a_student_teaches_nobody(loaded, tiny_student, tmp_path):
    with pytest.raises(DataError, match="is a student itself"):
        recipes.train_student(loaded, tmp_path / "new", tiny_student, extra=0, device="cpu")


@pytest.mark.parametrize("times", [[], [5, 5], [3, 4], [2000, 5], [9.5], "999", [-1], [True]])
def test_a_model_with_odd_times_is_refused(tiny_student, times):
    model, info = load_model(tiny_student)
    save_model(model, tiny_student, info | {"ladder": times})
    with pytest.raises(DataError, match="does not say its ladder"):
        load_drawing(tiny_student)
