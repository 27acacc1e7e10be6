"""The denoising stepper: slide along a sampler's way from noise to picture."""

import numpy as np
import torch

from recon_lib.course.explorer import choice, explorer, sheet, slider
from recon_lib.course.plots import tile
from recon_lib.course.style import BLUE, GREY, RED, WIDTH, styled
from recon_lib.samplers import ddim, ddpm, dpm_solver, initial_noise, to_uint8

SAMPLERS = {"DPM-Solver++": dpm_solver, "DDIM": ddim, "DDPM": ddpm}


def trajectory(sampler, denoise, x_T, alpha_bar, steps):
    """All that a sampler passes through.

    Parameters
    ----------
    sampler, denoise, x_T (b, C, H, W), alpha_bar, steps
        See `samplers`.

    Returns
    -------
    times : (steps,) int array
        t of each evaluation, falling.
    x_t : Tensor (steps + 1, b, C, H, W)
        Before each evaluation; the last is the sample.
    x0 : Tensor (steps + 1, b, C, H, W)
        The estimate of the clean picture at each; the last is the sample again.
    """
    times, x_t, x0 = [], [], []

    def keep(_, t, x, guess):
        times.append(t)
        x_t.append(x)
        x0.append(guess)

    sample = sampler(denoise, x_T, alpha_bar, steps, callback=keep)
    return np.array(times), torch.stack([*x_t, sample]), torch.stack([*x0, sample])


def denoising_stepper(denoise, alpha_bar, shape=(3, 64, 64), n=4, steps=25, seed=0):
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
    ipywidgets.VBox
        `numbers`: `step` (of `steps`), `t` (None at the end), `s` (amplitude of the noise), `x_t`
        and `x0` (C, H, W), `sample` (C, H, W), `far` (steps + 1,): root-mean-square difference
        of the guess at every step from the sample, and `pictures` (3, H, W, C) uint8: x_t, guess,
        sample.
    """
    noise = initial_noise(n, shape, seed)
    ways = {name: trajectory(sampler, denoise, noise, alpha_bar, steps)
            for name, sampler in SAMPLERS.items()}

    def numbers(step, picture, sampler):
        times, x_t, x0 = ways[sampler]
        x_t, x0 = x_t[:, picture], x0[:, picture]  # (steps + 1, C, H, W) each
        t = int(times[step]) if step < steps else None
        return {
            "step": step, "steps": steps, "t": t,
            "s": 0.0 if t is None else float((1 - alpha_bar[t]).sqrt()),
            "x_t": x_t[step], "x0": x0[step], "sample": x_t[-1],
            "far": (x0 - x0[-1]).square().mean((1, 2, 3)).sqrt().numpy(),
            "pictures": to_uint8(torch.stack([x_t[step], x0[step], x_t[-1]])),
        }  # fmt: skip

    controls = {
        "step": slider("step", min(5, steps), 0, steps, 1),
        "picture": slider("another noise", 0, 0, n - 1, 1),
        "sampler": choice("sampler", list(SAMPLERS)),
    }
    return explorer(controls, numbers, draw_step, lambda now: (
        f"after {now['step']} of {steps} steps the noise has amplitude {now['s']:.2f}; the guess "
        f"is {now['far'][now['step']]:.3f} away from where this ends"
    ))  # fmt: skip


def lay_step(fig):
    """Pictures above a curve."""
    fig.add_axes((0, 0.36, 1, 0.57))
    fig.add_axes((0.1, 0.14, 0.87, 0.19))


@styled
def draw_step(numbers, fig=None):
    """x_t, the guess and the sample; below, how far each step's guess is from the sample."""
    fig = sheet(fig, (WIDTH, 3.9), lay_step)
    ax, curve = fig.axes
    step, pictures = numbers["step"], numbers["pictures"]
    width, gap = pictures.shape[2], max(2, pictures.shape[2] // 16)
    ax.imshow(tile(pictures, 3, gap), interpolation="nearest")
    ax.axis("off")
    t = "the picture" if numbers["t"] is None else f"x_t, t = {numbers['t']}"
    for i, title in enumerate((t, "guess of x0", "the end")):
        ax.text(i * (width + gap) + width / 2, -gap / 2, title, ha="center", va="bottom")
    far = numbers["far"]
    curve.plot(far, color=GREY)
    curve.plot(np.arange(step + 1), far[: step + 1], color=BLUE)
    curve.plot(step, far[step], "o", color=RED, markersize=9)
    curve.set(xlabel="step", ylabel="away", ylim=(-0.03, 1.1 * max(far.max(), 0.1)),
              xticks=(0, numbers["steps"] // 2, numbers["steps"]), yticks=(0, 0.2, 0.4))
    return fig
