"""From noise to pictures. A sampler is a function of a denoiser and a noise schedule.

All three take `denoise`, a function (x_t, t) -> estimate of x0, and walk down a ladder of
`steps` times. They call it `steps` times, and never look inside.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recon_lib.common.errors import DataError
from recon_lib.diffusion import snr, to_eps


def initial_noise(n: int, shape: tuple[int, ...], seed: int = 0, first: int = 0) -> Tensor:
    """Standard normal noise; sample i is a function of (seed, first + i) alone.

    So a batch of 16 and sixteen batches of 1 start from the same noise.

    Parameters
    ----------
    n : int
        Number of samples.
    shape : tuple of int
        Shape of one, (C, H, W).
    seed, first : int
        Seed of the set, and number of its first sample.

    Returns
    -------
    Tensor (n, C, H, W), float32, on the CPU
    """
    return torch.stack([torch.randn(shape, generator=g) for g in noise_generators(n, seed, first)])


def noise_generators(n: int, seed: int, first: int, stream: int = 0) -> list[torch.Generator]:
    """One generator for each of n samples, from number `first` on, whatever the batch size."""
    return [
        torch.Generator().manual_seed((int(seed) * 1_000_003 + first + i) * 2 + stream)
        for i in range(n)
    ]


def even_times(alpha_bar: Tensor, steps: int) -> list:
    """Times from the noisiest downwards, equally spaced.

    Starts at the very last time, where x_T is pure noise, and stops one step short of the
    picture itself ("trailing" in Lin et al. 2024, table 2).

    Returns
    -------
    list of int, length `steps`, strictly falling
    """
    if not 1 <= steps <= len(alpha_bar):
        raise DataError(f"steps is {steps}; choose 1 to {len(alpha_bar)}")
    return (torch.linspace(len(alpha_bar), 0, steps + 1)[:-1].round().long() - 1).tolist()


def log_snr_times(alpha_bar: Tensor, steps: int, noisiest: float = -5.0) -> list:
    """Times from the noisiest downwards, equally spaced in log(a / s).

    This is the time in which DPM-Solver's curve is smooth (Lu et al. 2022, sec. 4). On a cosine
    schedule it takes shorter steps at the noisy end, where light and layout are decided: with few
    equal steps of t those are decided in one or two.

    Parameters
    ----------
    alpha_bar : Tensor (T,)
    steps : int
    noisiest : float
        log(a / s) where the equal steps begin, unless the schedule has less noise. The first time
        is the very last of the schedule all the same.

    Returns
    -------
    list of int, length `steps`, strictly falling
        It ends where `even_times` does.
    """
    equal = even_times(alpha_bar, steps)
    first, last = equal[0], equal[-1]
    log_ratio = snr(alpha_bar.cpu().double()).log() / 2  # (T,), falling with t; MPS has no float64
    log_ratio = log_ratio.clamp(max=8.5)  # infinite without noise; float32 knows no less than this
    low = max(noisiest, log_ratio[first].item())
    wanted = torch.linspace(low, max(low, log_ratio[last].item()), steps, dtype=torch.float64)
    times = (wanted[:, None] - log_ratio).abs().argmin(1).tolist()
    times[0] = first
    for i in range(1, steps):  # no time twice …
        times[i] = min(times[i], times[i - 1] - 1)
    return [max(t, steps - 1 - i) for i, t in enumerate(times)]  # … and none below 0


def _times(x, t):
    return torch.full((len(x),), t, dtype=torch.long, device=x.device)


def _amplitudes(alpha_bar, t):
    """Amplitudes (a, s) at time t as floats; after the last time there is no noise."""
    if t is None:
        return 1.0, 0.0
    left = alpha_bar[t].cpu().double()
    return float(left.sqrt()), float((1 - left).sqrt())


@torch.no_grad()
def ddim(denoise: Callable, x_T: Tensor, alpha_bar: Tensor, steps: int | Sequence[int] = 50,
         eta: float = 0.0, seed: int = 0, first: int = 0,
         callback: Callable | None = None) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12): keep the estimated noise, move to the next level.

    Parameters
    ----------
    denoise : function (x_t, t) -> Tensor (b, C, H, W)
    x_T : Tensor (b, C, H, W)
        Initial noise.
    alpha_bar : Tensor (T,)
    steps : int or sequence of int
        Number of evaluations; or their times, falling, such as a student was taught
        (`training.distil`).
    eta : float
        Share of fresh noise: 0 is deterministic, 1 is DDPM.
    seed, first : int
        Seed of the fresh noise and number of the first sample, as in `initial_noise`.
    callback : function (i, t, x_t, x0), optional
        Called at every step with the picture before it and the estimate.

    Returns
    -------
    Tensor (b, C, H, W)
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; choose 0 (no fresh noise) to 1 (DDPM)")
    generators = noise_generators(len(x_T), seed, first, stream=1) if eta else []
    times = list(steps) if isinstance(steps, Sequence) else even_times(alpha_bar, steps)
    x = x_T
    for i, (t, t_next) in enumerate(zip(times, [*times[1:], None], strict=True)):
        x0 = denoise(x, _times(x, t))
        if callback is not None:
            callback(i, t, x, x0)
        (a, s), (a_next, s_next) = _amplitudes(alpha_bar, t), _amplitudes(alpha_bar, t_next)
        # the fresh noise that a Gaussian posterior of x_{t_next} given x_t and x0 asks for
        fresh = eta * (s_next / s) * max(0.0, 1 - (a / a_next) ** 2) ** 0.5 if s else 0.0
        eps = to_eps(x0, x, _times(x, t), alpha_bar)
        x = a_next * x0 + max(0.0, s_next**2 - fresh**2) ** 0.5 * eps
        if fresh > 0:
            noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])
            x = x + fresh * noise.to(x)
    return x


def ddpm(denoise: Callable, x_T: Tensor, alpha_bar: Tensor, steps: int = 1000, seed: int = 0,
         first: int = 0, callback: Callable | None = None):
    """DDPM's ancestral sampling (Ho et al. 2020, alg. 2) on any number of steps.

    Each step draws from the Gaussian posterior of the next picture given this one and the
    estimate: DDIM with eta = 1. Parameters as there.
    """
    return ddim(denoise, x_T, alpha_bar, steps, 1.0, seed, first, callback)


@torch.no_grad()
def dpm_solver(denoise: Callable, x_T: Tensor, alpha_bar: Tensor, steps: int = 20,
               callback: Callable | None = None):
    """DPM-Solver++(2M) (Lu et al. 2022, alg. 2): second order, one evaluation a step.

    Parameters as in `ddim`; deterministic. Its steps are those of `log_snr_times`; the last one,
    to no noise at all, returns the estimate itself.
    """
    times = log_snr_times(alpha_bar, steps)
    x, before, h_before = x_T, None, None
    for i, (t, t_next) in enumerate(zip(times, [*times[1:], None], strict=True)):
        x0 = denoise(x, _times(x, t))
        if callback is not None:
            callback(i, t, x, x0)
        if t_next is None:
            return x0
        (a, s), (a_next, s_next) = _amplitudes(alpha_bar, t), _amplitudes(alpha_bar, t_next)
        ratio = (a * s_next) / (s * a_next)  # exp(-h), h the step in log(a / s)
        h = -torch.tensor(ratio, dtype=torch.float64).log().item()
        guess = x0
        if before is not None and s_next > 0:  # extrapolate the estimate to the middle of the step
            guess = x0 + h / (2 * h_before) * (x0 - before)
        x = (s_next / s) * x + a_next * (1 - ratio) * guess
        before, h_before = x0, h
    return x


def walk(denoise: Callable, x_T: Tensor, alpha_bar: Tensor, steps: int | Sequence[int]):
    """DPM-Solver++ in so many steps, or for a student DDIM at the times that it was taught."""
    sampler = ddim if isinstance(steps, Sequence) else dpm_solver
    return sampler(denoise, x_T, alpha_bar, steps)


def to_uint8(x: Tensor):
    """Tensor (n, C, H, W) in [-1, 1] -> uint8 array (n, H, W, C)."""
    x = ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return x.permute(0, 2, 3, 1).cpu().numpy()
