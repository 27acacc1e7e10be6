"""The parts of a training step: its noise, its way down the gradient, its share in the average."""

import math

import torch
from torch import nn

from recon_lib.diffusion import diffusion_loss, stratified_times


def draw_noise(images, times, drop, accelerator):
    """What is random in a step on images (b, C, H, W): times (b,), noise, condition mask (b,).

    One of so many `times`, see `diffusion.stratified_times`; the mask is False for a share `drop`
    of samples, which go without their condition. Every process draws for the whole batch and takes
    its own rows, so that several draw together what one would have drawn.
    """
    rank, world, device = accelerator.process_index, accelerator.num_processes, images.device
    n = world * len(images)
    t = stratified_times(n, times, device=device)[rank::world]
    noise = torch.randn(n, *images.shape[1:], device=device)[rank::world]
    mask = (torch.rand(n, device=device) >= drop)[rank::world]
    return t, noise, mask


def gradient_step(accelerator, net, optimizer, loss, rate):
    """Go one step of the learning rate down the gradient; return the loss and its gradient's norm.

    In float16 a gradient may overflow: then accelerate leaves the step out and halves the factor by
    which it scales the loss. A loss or gradient that is not finite is a FloatingPointError.
    """
    accelerator.backward(loss)
    gradient = float(accelerator.clip_grad_norm_(net.parameters(), 1.0))
    loss = accelerator.reduce(loss.detach(), "mean").item()
    scaled = accelerator.scaler is not None and accelerator.scaler.get_scale() >= 1
    if not math.isfinite(loss) or not (scaled or math.isfinite(gradient)):
        raise FloatingPointError(f"the loss is {loss} and its gradient {gradient}")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return loss, gradient


def learning_rate(step: int, progress: float, warmup: int):
    """Factor on the peak rate: linear warm-up, half a cosine over the progress from 0 to 1."""
    warm = max((step + 1) / warmup, progress / 0.05)
    return min(1.0, warm) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, beta: float) -> None:
    """Move the averaged weights a share 1 - beta towards the model's."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - beta)


@torch.no_grad()
def refuse_infinite_loss(model, images, vectors, alpha_bar, prediction):
    """A FloatingPointError before weights are kept that no longer give a finite loss.

    The loss of a step is that of the weights before it.
    """
    t = stratified_times(len(images), len(alpha_bar), device=images.device)
    noise = torch.randn_like(images)
    loss = diffusion_loss(model, images, alpha_bar, t, noise, prediction, vectors)
    if not loss.isfinite():
        raise FloatingPointError(f"the loss of the new weights is {loss.item()}")
