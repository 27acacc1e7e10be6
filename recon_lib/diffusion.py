"""Noise and its undoing: schedules, forward noising, three parameterisations, loss, denoisers.

A picture x0 at time t is x_t = a x0 + s eps, with a² = alpha_bar[t], s² = 1 - alpha_bar[t] and eps
standard normal (DDPM, Ho et al. 2020, eq. 4). A *denoiser* is any function (x_t, t) -> estimate of
x0: samplers need nothing else.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_lib.common.errors import DataError

PREDICTIONS = ("x0", "eps", "v")
FLOOR = 1 / 6  # of s² in the weight of the loss


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """alpha_bar when beta grows linearly (Ho et al. 2020).

    Returns
    -------
    Tensor (steps,), float32
        Share of the picture's variance that is left; falls from nearly 1 to nearly 0.
    """
    _check_steps(steps)
    # the published end points belong to 1000 steps; fewer steps take larger ones
    beta = torch.linspace(first, last, steps, dtype=torch.float64) * (1000 / steps)
    return (1 - beta.clamp(max=0.999)).cumprod(0).float()


def cosine_schedule(steps: int = 1000, offset: float = 0.008) -> Tensor:
    """alpha_bar as a squared cosine (Nichol & Dhariwal 2021, eq. 17), beta at most 0.999.

    Returns
    -------
    Tensor (steps,), float32
    """
    _check_steps(steps)
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    level = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return (level[1:] / level[:-1]).clamp(min=0.001).cumprod(0).float()


def _check_steps(steps):
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected 1 or more")


def shift_schedule(alpha_bar: Tensor, factor: float):
    """The same schedule with its SNR divided by factor² (Hoogeboom et al. 2023, sec. 3.1).

    Larger pictures need more noise before they stop being recognisable. Where there is no noise
    at all, none comes.
    """
    if not factor > 0:
        raise ValueError(f"the factor is {factor}; expected more than 0")
    left = alpha_bar.double()
    return (left / (left + factor**2 * (1 - left))).to(alpha_bar.dtype)


SCHEDULES: dict = {"cosine": cosine_schedule, "linear": linear_schedule}


def snr(alpha_bar: Tensor):
    """Signal-to-noise ratio (of variances) alpha_bar / (1 - alpha_bar), elementwise."""
    return alpha_bar / (1 - alpha_bar)


def amplitudes(t: Tensor, alpha_bar: Tensor):
    """Signal and noise amplitudes a and s at time t, shaped (b, 1, 1, 1) for pictures.

    Parameters
    ----------
    t : LongTensor (b,)
        In 0 … steps - 1.
    alpha_bar : Tensor (steps,)
    """
    if t.device.type == "cpu" and (t < 0).any():  # elsewhere asking would hold up the work
        raise ValueError(f"time {int(t.min())}; expected 0 to {len(alpha_bar) - 1}")
    left = alpha_bar.to(t.device)[t].view(-1, 1, 1, 1)
    return left.sqrt(), (1 - left).sqrt()


def _amplitudes_for(x, t, alpha_bar, *others):
    """`amplitudes` for pictures (b, C, H, W): other shapes would be broadcast unnoticed."""
    for y in (x, *others):
        if y.ndim != 4:
            raise ValueError(f"pictures of shape {tuple(y.shape)}; expected (b, C, H, W)")
        if len(y) not in (1, t.numel()):  # one picture may be shown at many times
            raise DataError(f"{t.numel()} times for {len(y)} pictures; expected a time for each: "
                            "use t.expand(b) for one time")
    return amplitudes(t, alpha_bar)


def add_noise(x0: Tensor, t: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noise pictures in one jump: x_t = a x0 + s noise.

    Parameters
    ----------
    x0, noise : Tensor (b, C, H, W)
        Either may be a single one (1, C, H, W), for all times.
    t : LongTensor (b,)
    alpha_bar : Tensor (steps,)

    Returns
    -------
    Tensor (b, C, H, W)

    Raises
    ------
    DataError
        If there is not one time for each picture.
    """
    a, s = _amplitudes_for(x0, t, alpha_bar, noise)
    return a * x0 + s * noise


def target(x0: Tensor, t: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: str):
    """What a network is asked for: x0, the noise eps, or v = a eps - s x0 (Salimans & Ho 2022)."""
    a, s = _amplitudes_for(x0, t, alpha_bar)
    if prediction == "x0":
        return x0
    if prediction == "eps":
        return noise
    if prediction == "v":
        return a * noise - s * x0
    raise ValueError(f"prediction is {prediction!r}; choose one of {', '.join(PREDICTIONS)}")


def to_x0(output: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor, prediction: str,
          floor: float = 1e-3):
    """The clean picture that a network's output stands for.

    Parameters
    ----------
    output, x_t : Tensor (b, C, H, W)
    t : LongTensor (b,)
    alpha_bar : Tensor (steps,)
    prediction : {"x0", "eps", "v"}
    floor : float
        Smallest amplitude ever divided by.
    """
    a, s = _amplitudes_for(output, t, alpha_bar)
    if prediction == "x0":
        return output
    if prediction == "eps":
        return (x_t - s * output) / a.clamp(min=floor)
    if prediction == "v":
        return a * x_t - s * output
    raise ValueError(f"prediction is {prediction!r}; choose one of {', '.join(PREDICTIONS)}")


def to_eps(x0: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor, floor: float = 1e-3):
    """The noise that takes x0 to x_t: (x_t - a x0) / s, with s at least `floor`."""
    a, s = _amplitudes_for(x0, t, alpha_bar)
    return (x_t - a * x0) / s.clamp(min=floor)


def stratified_times(n: int, steps: int, generator: torch.Generator | None = None,
                     device: str | torch.device = "cpu") -> Tensor:
    """One random time step from each of n equal shares of the schedule, in random order.

    Every batch sees all noise levels, so the loss is less noisy than with n independent draws.

    Returns
    -------
    LongTensor (n,), in 0 … steps - 1
    """
    place = torch.rand(n, generator=generator) + torch.randperm(n, generator=generator)
    return (place / n * steps).long().clamp(max=steps - 1).to(device)


def diffusion_loss(model: Callable, x0: Tensor, alpha_bar: Tensor, t: Tensor, noise: Tensor,
                   prediction: str = "x0", condition: Tensor | None = None,
                   mask: Tensor | None = None) -> Tensor:
    """The training loss of a batch.

    For "x0" the squared error of the clean picture over s²: exactly the loss of v, put to a
    network that is asked for a picture. But s² counts as `FLOOR` at least, or the last specks of
    noise, which matter least to the eye, would outweigh all else: the weight is then
    min(SNR + 1, 1 / FLOOR), as in min-SNR weighting (Hang et al. 2023, arXiv 2303.09556).
    For "eps" and "v" the plain squared error.

    Parameters
    ----------
    model : function (x_t, t, condition, mask) -> Tensor (b, C, H, W)
    x0, noise : Tensor (b, C, H, W)
    alpha_bar : Tensor (steps,)
    t : LongTensor (b,)
    prediction : {"x0", "eps", "v"}
    condition : Tensor (b, d), optional
    mask : BoolTensor (b,), optional
        False drops the condition of a sample.

    Returns
    -------
    Tensor ()
    """
    x_t = add_noise(x0, t, noise, alpha_bar)
    output = model(x_t, t, condition, mask).float()
    error = F.mse_loss(output, target(x0, t, noise, alpha_bar, prediction), reduction="none")
    if prediction == "x0":
        error = error / amplitudes(t, alpha_bar)[1].square().clamp(min=FLOOR)
    return error.mean()


def denoiser(model: Callable, prediction: str, alpha_bar: Tensor, condition: Tensor | None = None,
             clamp: bool = True) -> Callable:
    """Turn a network into a function (x_t, t) -> x0; see `guidance` for what may be put around it.

    Parameters
    ----------
    model : UNet
    prediction : {"x0", "eps", "v"}
        What the network was trained to predict.
    alpha_bar : Tensor (steps,)
    condition : Tensor (b, d), optional
    clamp : bool
        Keep estimates in [-1, 1], where pictures live.

    Returns
    -------
    function (x_t (b, C, H, W), t LongTensor (b,)) -> Tensor (b, C, H, W)
    """
    def denoise(x_t, t):
        x0 = to_x0(model(x_t, t, condition), x_t, t, alpha_bar, prediction).float()
        return x0.clamp(-1, 1) if clamp else x0

    return denoise


def ideal_denoiser(images: Tensor, alpha_bar: Tensor, log_prior: Tensor | None = None) -> Callable:
    """The best possible denoiser for a world that holds only these pictures: the posterior mean.

    A perfectly trained, perfectly overfitted network would compute this; its samples are the
    training pictures themselves. An exact oracle for losses and samplers.

    Parameters
    ----------
    images : Tensor (n, C, H, W)
        All the pictures there are.
    alpha_bar : Tensor (steps,)
    log_prior : Tensor (b, n), optional
        How probable each picture is for each sample, before any x_t is seen: log p(brain vector |
        picture) makes the denoiser conditional. Default: all alike.

    Returns
    -------
    function (x_t (b, C, H, W), t LongTensor (b,)) -> Tensor (b, C, H, W)
    """
    flat = images.flatten(1)  # (n, pixels)
    centre = flat.mean(0)  # nothing depends on it but rounding: pictures may be nearly alike
    away = flat - centre

    def denoise(x_t, t):
        a, s = (level.view(-1, 1) for level in amplitudes(t, alpha_bar))  # (b, 1)
        # log N(x_t; a x, s²) = x_t.x a/s² - a²|x|²/2s² + what does not depend on x
        fit = a * ((x_t.flatten(1) - a * centre) @ away.T) - a**2 * away.square().sum(1) / 2
        fit = fit / s.square().clamp(min=1e-8)
        weight = torch.softmax(fit if log_prior is None else fit + log_prior, dim=1)
        return (centre + weight @ away).view_as(x_t)

    return denoise
