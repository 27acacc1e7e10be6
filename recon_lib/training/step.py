"""A step of training: its batch, its way down the gradient, its share in the average.

Alone, or in several processes.
"""

import math

import torch
from torch.utils.data import DataLoader

from recon_lib.diffusion import diffusion_loss, stratified_times


def shard(loader, accelerator):
    """This process's share of the loader."""
    if isinstance(loader, DataLoader):
        return accelerator.prepare(loader)
    if accelerator.num_processes > 1:
        return loader.shard(accelerator.process_index, accelerator.num_processes)
    return loader


def endless(loader, epoch, batch, seed):
    """Yield items from `batch` of `epoch` on, each with the (epoch, batch) that comes after it.

    A DataLoader that shuffles does so by seed and epoch alone.
    """
    own = getattr(loader, "synchronized_generator", None)  # among several processes, accelerate's
    if own is None and isinstance(loader, DataLoader):
        own = getattr(getattr(loader.batch_sampler, "sampler", None), "generator", None)
    while True:
        for draw in (torch, own) if own is not None else (torch,):
            draw.manual_seed(2**31 + seed * 1_000_003 + epoch)
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        for i, item in enumerate(loader, start=1):
            if i > batch:
                yield item, (epoch + 1, 0) if i == len(loader) else (epoch, i)
        epoch, batch = epoch + 1, 0


def train_step(
    accelerator, net, optimizer, rate, images, vectors, alpha_bar, prediction="x0", drop=0.0
):
    """One step down the gradient; returns the loss and the gradient's norm as floats."""
    rank, world = accelerator.process_index, accelerator.num_processes
    # every process draws for the whole batch and takes its own rows
    n = world * len(images)
    t = stratified_times(n, len(alpha_bar), device=images.device)[rank::world]
    noise = torch.randn(n, *images.shape[1:], device=images.device)[rank::world]
    keep = (torch.rand(n, device=images.device) >= drop)[rank::world]
    loss = diffusion_loss(
        net, images, alpha_bar, t, noise, prediction, vectors, None if vectors is None else keep
    )
    accelerator.backward(loss)
    gradient = accelerator.clip_grad_norm_(net.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss, gradient = accelerator.reduce(loss.detach(), "mean").item(), float(gradient)
    if math.isfinite(loss + gradient):
        optimizer.step()
    optimizer.zero_grad()
    return loss, gradient


@torch.no_grad()
def sound(model, images, vectors, alpha_bar, prediction):
    """Whether the weights as they are now still give a finite loss: else they are not to be kept.

    The loss of a step is that of the weights before it.
    """
    t = stratified_times(len(images), len(alpha_bar), device=images.device)
    noise = torch.randn_like(images)
    loss = diffusion_loss(model, images, alpha_bar, t, noise, prediction, vectors)
    return bool(loss.isfinite())


def burst(what, step, out_dir, lr):
    """The error of a loss that is not a finite number."""
    return FloatingPointError(
        f"the loss {what} at step {step}; the last checkpoint in {out_dir} is kept: resume from it "
        f"with lr below {lr}"
    )


def learning_rate(step, progress, warmup):
    """Factor on the peak rate: linear warm-up, half a cosine over the progress from 0 to 1."""
    warm = max((step + 1) / warmup, progress / 0.05)
    return min(1.0, warm) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@torch.no_grad()
def update_average(average, model, beta):
    """Move the averaged weights a share 1 - beta towards the model's."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - beta)


def together(accelerator, progress, stop):
    """Progress and stop for all processes: the furthest clock and any signal count for all."""
    if accelerator.num_processes > 1:
        flags = torch.tensor([[progress, float(stop)]], device=accelerator.device)
        progress, stop = accelerator.gather(flags).amax(0).tolist()
    return progress, bool(stop)
