"""Distillation: a student that draws in four evaluations what its teacher draws in 15.

The teacher walks from noise to a picture, guided away from a smaller network. The student keeps
four of the states on that way; from each it learns the estimate of x0 with which a single step of
DDIM leads to the next. So what the guidance adds is learnt, too. This is progressive distillation
(Salimans & Ho 2022, arXiv 2202.00512, with guidance Meng et al. 2023, arXiv 2210.03142), with all
halvings in one training and with states of the teacher's own ways in place of noisy pictures.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from recon_lib.diffusion import FLOOR, amplitudes, denoiser
from recon_lib.guidance import guided
from recon_lib.samplers import dpm_solver, log_snr_times
from recon_lib.training.device import autocast
from recon_lib.training.step import draw_noise

STEPS = 8  # of the teacher
LADDER = (0, 3, 5, 6)  # the steps before which the student keeps the state: these cost least


def ladder(alpha_bar: Tensor) -> list:
    """The times at which a student is asked, falling."""
    times = log_snr_times(alpha_bar, STEPS)
    return [times[i] for i in LADDER]


@torch.no_grad()
def lessons(denoise: Callable, noise: Tensor, alpha_bar: Tensor) -> tuple:
    """What one way of the teacher teaches.

    A step of DDIM leads from x at noise level (a, s) to y at (a', s') with the estimate
    x0 = (y - x s'/s) / (a' - a s'/s); for y the teacher's state is put in.

    Parameters
    ----------
    denoise : function (x_t, t) -> Tensor (b, C, H, W)
        The teacher.
    noise : Tensor (b, C, H, W)
        Where it starts.
    alpha_bar : Tensor (steps,)

    Returns
    -------
    x_t, t, x0 : Tensor (4 b, C, H, W), LongTensor (4 b,), Tensor (4 b, C, H, W)
        States, their times, and what the student should estimate; state k of all b, then k + 1.
    """
    states: list = []
    end = dpm_solver(denoise, noise, alpha_bar, STEPS, lambda i, t, x, x0: states.append(x))
    x, times = torch.stack([states[i] for i in LADDER]), ladder(alpha_bar)  # (4, b, C, H, W)
    y = torch.cat([x[1:], end[None]])
    a, s = amplitudes(torch.tensor(times), alpha_bar.cpu())
    a, s = (level.to(x).unsqueeze(-1) for level in (a, s))  # (4, 1, 1, 1, 1)
    a_next, s_next = torch.cat([a[1:], torch.ones_like(a[:1])]), torch.cat([s[1:], 0 * s[:1]])
    x0 = (y - x * s_next / s) / (a_next - a * s_next / s)
    t = torch.tensor(times, device=x.device).repeat_interleave(len(noise))
    return x.flatten(0, 1), t, x0.flatten(0, 1)


def distillation(teacher: nn.Module, other: nn.Module | None, scale: float,
                 interval: tuple[float, float] | None) -> Callable:
    """The loss of a student, for `loop.train`; of the loader's pictures only the shape counts.

    Parameters
    ----------
    teacher : UNet
        A conditional network that predicts x0.
    other : UNet or None
        The guidance model; None: the teacher without its condition.
    scale, interval
        Of the guidance, see `guidance.guided`.

    Returns
    -------
    function (run, images (b, C, H, W), vectors (b, d)) -> Tensor ()
        The squared error of the estimates over s², as in `diffusion.diffusion_loss`.
    """
    def loss(run, images, vectors):
        _, noise, mask = draw_noise(images, 1, run.training.drop, run.accelerator)
        told = denoiser(partial(teacher, mask=mask), "x0", run.alpha_bar, vectors)
        away = denoiser(other or teacher, "x0", run.alpha_bar)
        with autocast(images.device):
            x_t, t, x0 = lessons(guided(told, away, run.alpha_bar, scale, interval), noise,
                                 run.alpha_bar)
        made = run.net(x_t, t, vectors.repeat(len(LADDER), 1), mask.repeat(len(LADDER))).float()
        s = amplitudes(t, run.alpha_bar)[1]
        return ((made - x0).square() / s.square().clamp(min=FLOOR)).mean()

    return loss
