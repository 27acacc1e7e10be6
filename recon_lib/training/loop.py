"""Training: one loop for the unconditional and the conditional network.

Every random draw of step n is a function of (seed, n) alone. So a resumed run repeats an unbroken
one bit for bit on the CPU, and several processes draw together what one would have drawn.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from recon_lib.common.errors import DataError
from recon_lib.common.paths import results_folder
from recon_lib.diffusion import diffusion_loss
from recon_lib.training.checkpoints import read_weights
from recon_lib.training.options import Training
from recon_lib.training.run import Run, first_batch
from recon_lib.training.step import draw_noise, gradient_step, learning_rate, update_average
from recon_lib.unet import UNet


def denoising(run: Run, images: torch.Tensor, vectors: torch.Tensor | None) -> torch.Tensor:
    """The loss of pictures (b, C, H, W) with fresh noise at all levels, some without a vector."""
    t, noise, mask = draw_noise(images, len(run.alpha_bar), run.training.drop, run.accelerator)
    return diffusion_loss(run.net, images, run.alpha_bar, t, noise, run.training.prediction,
                          vectors, mask)


def train(model: UNet, loader: Any, training: Training, device: str | torch.device = "cuda",
          model_in: str | Path | None = None, out_dir: str | Path | None = None,
          loss_of: Callable = denoising) -> UNet:
    """Train a network; the loop that all kinds of training share.

    Parameters
    ----------
    model : UNet
    loader : BatchLoader or DataLoader
    training : Training
        All options.
    device, model_in, out_dir
        See `run.Run`, which says what is written and raised, too.
    loss_of : function (run, images (b, C, H, W), vectors (b, d) or None) -> Tensor ()
        The loss of a batch; see also `distil.distillation`.

    Returns
    -------
    UNet
        The averaged network, in evaluation mode.
    """
    with Run(model, loader, training, device, model_in, out_dir) as run:
        for images, vectors in run.batches():  # (b, C, H, W), (b, d) or None
            step = run.step
            torch.manual_seed(int(training.seed) * 1_000_003 + step)
            loss = loss_of(run, images, vectors)
            rate = training.lr * learning_rate(step, run.progress, training.warmup)
            loss, gradient = gradient_step(run.accelerator, run.net, run.optimizer, loss, rate)
            update_average(run.average, run.net, min(training.ema, (1 + step) / (10 + step)))
            run.record(loss, gradient, rate)
        return run.finish()


def train_unconditional_diffusion(loader: Any, epochs: int = 10, lr: float = 3e-4,
                                  image_size: int = 64, device: str | torch.device = "cuda",
                                  model_in: str | Path | None = None, *, model: UNet | None = None,
                                  out_dir: str | Path | None = None,
                                  **options: Any) -> UNet:
    """Train a diffusion model on pictures alone.

    Parameters
    ----------
    loader : BatchLoader or DataLoader
        Yields pictures (b, C, H, W) in [-1, 1], or tuples that begin with them.
    image_size : int
        Height and width of the pictures, checked against the loader.
    model_in : str or Path, optional
        A checkpoint (.pt) of the same network: training goes on where it stopped. A
        .safetensors model: a new training starts from its weights. Of a conditional network it
        starts from the null branch, see `checkpoints.null_branch`.
    model : UNet, optional
        The network; by default a `UNet` as it comes, or the one of `model_in`.
    epochs, lr, options
        See `options.Training`; `steps=2000` trains for so many steps, whatever `epochs` says.
    device, out_dir
        See `run.Run`.

    Returns
    -------
    UNet
        The averaged network, ready to sample from.
    """
    images, _ = first_batch(loader, image_size)
    if model is None:
        model = UNet(**{**config_of(model_in, images), "condition_size": None})
    out_dir = out_dir or results_folder() / "unconditional"
    return train(model, loader, Training(epochs, lr, **options), device, model_in, out_dir)


def train_conditional_diffusion(loader: Any, epochs: int = 10, lr: float = 3e-4,
                                image_size: int = 64, device: str | torch.device = "cuda",
                                model_in: str | Path | None = None, *, model: UNet | None = None,
                                out_dir: str | Path | None = None, drop: float = 0.1,
                                **options: Any) -> UNet:
    """Train a diffusion model on pictures with the brain vectors that they evoked.

    Parameters
    ----------
    loader : BatchLoader or DataLoader
        Yields pictures (b, C, H, W) in [-1, 1] and vectors (b, d).
    model_in : str or Path, optional
        As for `train_unconditional_diffusion`. An unconditional model or checkpoint is a warm
        start: the conditional network begins as exactly that model.
    model : UNet, optional
        The network; by default one that fits `model_in` and the vectors.
    drop : float
        Share of samples trained without their vector (classifier-free guidance).
    epochs, lr, image_size, device, out_dir, options
        As for `train_unconditional_diffusion`.

    Returns
    -------
    UNet
        The averaged network, ready to sample from.
    """
    images, vectors = first_batch(loader, image_size)
    if vectors is None:
        raise DataError("the loader yields pictures alone; give create_loader the brain vectors")
    if model is None:
        config = config_of(model_in, images)
        model = UNet(**{**config, "condition_size": vectors.shape[1]})
    training = Training(epochs, lr, drop=drop, **options)
    out_dir = out_dir or results_folder() / "conditional"
    return train(model, loader, training, device, model_in, out_dir)


def config_of(path, images):
    """The config of the network in a file; without one, as it comes for these pictures."""
    return {"image_channels": images.shape[1]} if path is None else read_weights(path)[1]
