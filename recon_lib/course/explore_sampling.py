"""The denoising stepper: slide along a sampler's way from noise to picture."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon_lib.course.explorer import Explorer, choice, sheet, slider
from recon_lib.course.plots import show
from recon_lib.course.style import BLUE, GREY, RED
from recon_lib.samplers import ddim, ddpm, dpm_solver, initial_noise, to_uint8

SAMPLERS = {"DPM-Solver++": dpm_solver, "DDIM": ddim, "DDPM": ddpm}


@dataclass
class Trajectory:
    """All that a sampler passes through."""

    times: np.ndarray  # (steps,) t of each evaluation, falling
    x_t: torch.Tensor  # (steps + 1, b, C, H, W) before each evaluation; the last is the sample
    x0: torch.Tensor  # as x_t: the estimate of the clean picture; the last is the sample again


def trajectory(sampler: Callable, denoise: Callable, x_T: Tensor, alpha_bar: Tensor, steps: int):
    """The `Trajectory` of one of `samplers`, which describes the arguments."""
    seen = []
    sample = sampler(denoise, x_T, alpha_bar, steps, callback=lambda *now: seen.append(now[1:]))
    times, x_t, x0 = zip(*seen, strict=True)
    return Trajectory(np.array(times), torch.stack([*x_t, sample]), torch.stack([*x0, sample]))


def denoising_stepper(denoise: Callable, alpha_bar: Tensor, shape: tuple[int, ...] = (3, 64, 64),
                      n: int = 4, steps: int = 25, seed: int = 0) -> Explorer:
    """Step from noise to picture: x_t beside the guess of what it will be.

    All ways are walked when the explorer is made, so that sliding is quick.

    Parameters
    ----------
    denoise : function (x_t, t) -> Tensor (b, C, H, W)
        See `diffusion.denoiser`.
    alpha_bar : Tensor (T,)
    shape : tuple of int
        (C, H, W).
    n : int
        Pictures, each from noise of its own.
    steps : int
        Evaluations of every sampler.
    seed : int

    Returns
    -------
    Explorer
        `numbers`: `step` (of `steps`), `t` (None at the end), `s` (amplitude of the noise), `x_t`
        and `x0` (C, H, W), `sample` (C, H, W), `far` (steps + 1,): root-mean-square difference
        of the guess at every step from the sample, and `pictures` (3, H, W, C) uint8: x_t, guess,
        sample.
    """
    noise = initial_noise(n, shape, seed)
    ways = {name: trajectory(sampler, denoise, noise, alpha_bar, steps)
            for name, sampler in SAMPLERS.items()}

    def numbers(step, picture, sampler):
        way = ways[sampler]
        x_t, x0 = way.x_t[:, picture], way.x0[:, picture]  # (steps + 1, C, H, W) each
        t = int(way.times[step]) if step < steps else None
        return {
            "step": step, "steps": steps, "t": t,
            "s": 0.0 if t is None else float((1 - alpha_bar[t]).sqrt()),
            "x_t": x_t[step], "x0": x0[step], "sample": x_t[-1],
            "far": (x0 - x0[-1]).square().mean((1, 2, 3)).sqrt().numpy(),
            "pictures": to_uint8(torch.stack([x_t[step], x0[step], x_t[-1]])),
        }

    controls = {
        "step": slider("step", min(5, steps), 0, steps, 1),
        "picture": slider("another noise", 0, 0, n - 1, 1),
        "sampler": choice("sampler", list(SAMPLERS)),
    }
    return Explorer(controls, numbers, draw_step, lambda now: (
        f"after {now['step']} of {steps} steps the noise has amplitude {now['s']:.2f}; the guess "
        f"is {now['far'][now['step']]:.3f} away from where this ends"))


@sheet(3.9, lambda fig: [fig.add_axes((0, 0.36, 1, 0.57)), fig.add_axes((0.1, 0.14, 0.87, 0.19))])
def draw_step(fig, numbers):
    """x_t, the guess and the sample; below, how far each step's guess is from the sample."""
    ax, curve = fig.axes
    step, pictures, far = numbers["step"], numbers["pictures"], numbers["far"]
    t = "the picture" if numbers["t"] is None else f"x_t, t = {numbers['t']}"
    show(ax, pictures, 3, max(2, pictures.shape[2] // 16), (t, "guess of x0", "the end"))
    curve.plot(far, color=GREY)
    curve.plot(np.arange(step + 1), far[: step + 1], color=BLUE)
    curve.plot(step, far[step], "o", color=RED, markersize=9)
    curve.set(xlabel="step", ylabel="away", ylim=(-0.03, 1.1 * max(far.max(), 0.1)),
              xticks=(0, numbers["steps"] // 2, numbers["steps"]), yticks=(0, 0.2, 0.4))
