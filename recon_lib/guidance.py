"""What may be put around a denoiser: guidance away from another one, and steering by a likelihood.

All of them take a denoiser, a function (x_t, t) -> estimate of x0, and give one, so they compose:
`steer(guided(denoise, other, alpha_bar), log_likelihood, alpha_bar)`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from recon_lib.common.errors import DataError
from recon_lib.diffusion import amplitudes


def inside(interval: tuple[float, float], t: Tensor, alpha_bar: Tensor):
    """Does a batch that is all at one time lie in an interval of amplitudes s? In None it does."""
    s = float((1 - alpha_bar[int(t[0])]).sqrt())
    return interval is None or interval[0] <= s <= interval[1]


def check_guidance(scale: float, interval: tuple[float, float] | None, name: str = "scale") -> None:
    """Stop with a `DataError` if the scale is not finite, or the interval (low, high) is empty."""
    if not math.isfinite(scale):
        raise DataError(f"{name} is {scale}; expected a number, neither NaN nor infinite")
    if interval is not None and not interval[0] < interval[1]:
        raise DataError(f"the interval runs from {interval[0]} to {interval[1]}; expected (low, "
                        "high), such as (0.3, 1.0)")


def guided(denoise: Callable, other: Callable, alpha_bar: Tensor, scale: float = 2.0,
           interval: tuple[float, float] | None = None, clamp: bool = True) -> Callable:
    """A denoiser that moves away from another one: the estimate is o + scale (d - o).

    With d told the condition and o the same network without it, this is classifier-free guidance
    (Ho & Salimans 2022): 0 is unconditional, 1 conditional, more exaggerates the condition. With o
    a smaller network that was trained for a shorter time, it is autoguidance (Karras et al. 2024,
    arXiv 2406.02507): what the two disagree about is what the smaller has not learnt, and going
    further in that direction mends what the larger still does wrong in the same way.

    Parameters
    ----------
    denoise, other : function (x_t, t) -> Tensor (b, C, H, W)
        See `diffusion.denoiser`.
    alpha_bar : Tensor (steps,)
    scale : float
        Guidance scale; 1 is `denoise` alone.
    interval : (float, float), optional
        Guide only where the noise amplitude s lies between these two, low < high; elsewhere `other`
        is not evaluated (Kynkäänniemi et al. 2024, arXiv 2404.07724).
    clamp : bool
        Keep estimates in [-1, 1].

    Returns
    -------
    function (x_t (b, C, H, W), t LongTensor (b,)) -> Tensor (b, C, H, W)

    Raises
    ------
    DataError
        If the scale is not finite, or the interval is empty.
    """
    check_guidance(scale, interval)

    def guess(x_t, t):
        if scale == 1 or not inside(interval, t, alpha_bar):
            x0 = denoise(x_t, t)
        else:
            x0 = other(x_t, t)
            if scale != 0:
                x0 = x0 + scale * (denoise(x_t, t) - x0)
        return x0.clamp(-1, 1) if clamp else x0

    return guess


def steer(denoise: Callable, log_likelihood: Callable, alpha_bar: Tensor, strength: float = 1.0,
          interval: tuple[float, float] | None = None, largest: float = 0.3) -> Callable:
    """A denoiser that leans towards pictures that explain a measurement y.

    By Tweedie's formula the best estimate of x0 from x_t and y is the one from x_t alone plus
    (s² / a) ∇ log p(y | x_t), the gradient with respect to x_t; p(y | x_t) is taken at the
    estimate of x0 (Chung et al. 2023, arXiv 2209.14687). The gradient runs back through the
    network, so it only asks for changes that the network can make.

    Parameters
    ----------
    denoise : function (x_t, t) -> Tensor (b, C, H, W)
    log_likelihood : function (b, C, H, W) -> Tensor (b,)
        Of y, given pictures; differentiable. See `decoder.brain_log_likelihood`.
    alpha_bar : Tensor (steps,)
    strength : float
        1 is Bayes' rule; 0 does nothing.
    interval : (float, float), optional
        Steer only where the noise amplitude s lies in this interval: what a picture is of is
        decided while there is much noise, and a step without a gradient costs a third.
    largest : float
        A step's root-mean-square change at most, before `strength`: the estimate of x0 is poor
        while there is much noise, and its gradient can be huge.

    Returns
    -------
    function (x_t, t) -> Tensor (b, C, H, W)

    Raises
    ------
    DataError
        If the strength is not finite, or the interval is empty; from the denoiser, if the
        likelihood or its gradient is not finite.
    """
    check_guidance(strength, interval, "strength")

    def guess(x_t, t):
        if not inside(interval, t, alpha_bar):
            return denoise(x_t, t)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            x0 = denoise(x, t)
            value = log_likelihood(x0).sum()
            gradient, = torch.autograd.grad(value, x)
        if not (value.isfinite() & gradient.isfinite().all()):
            raise DataError(f"the log-likelihood is {value.item():.4g}, or its gradient NaN; "
                            "expected finite numbers: look at the brain vectors and the decoder")
        a, s = amplitudes(t, alpha_bar)
        change = s.square() / a.clamp(min=0.05) * gradient
        size = change.square().mean((1, 2, 3), keepdim=True).sqrt()
        change = change * (largest / size.clamp(min=1e-12)).clamp(max=1)
        return (x0.detach() + strength * change).clamp(-1, 1)

    return guess
