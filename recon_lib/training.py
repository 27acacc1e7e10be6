"""Training: one loop for the unconditional and the conditional network.

Every random draw of step n is a function of (seed, n) alone, so a resumed run repeats an unbroken
one bit for bit on the CPU, and several processes draw what one would have drawn.
"""

import copy
import csv
import math
import os
import signal
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

from recon_lib.checkpoints import (
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
    start_from,
)
from recon_lib.diffusion import SCHEDULES, denoiser, diffusion_loss, stratified_times
from recon_lib.errors import DataError, atomic_write
from recon_lib.samplers import dpm_solver, initial_noise
from recon_lib.unet import UNet

__all__ = [
    "load_model", "save_model", "train", "train_conditional_diffusion",
    "train_unconditional_diffusion",
]  # fmt: skip

COLUMNS = ("step", "epoch", "seconds", "loss", "lr", "gradient")


def train_unconditional_diffusion(
    loader, epochs=10, lr=3e-4, image_size=64, device="cuda", model_in=None, *,
    model=None, out_dir="results/unconditional", **options,
):  # fmt: skip
    """Train a diffusion model on pictures alone.

    Parameters
    ----------
    loader : BatchLoader or DataLoader
        Yields pictures (b, C, H, W) in [-1, 1], or tuples that begin with them.
    epochs, lr, device, out_dir, options
        See `train`.
    image_size : int
        Height and width of the pictures, checked against the loader.
    model_in : str or Path, optional
        A checkpoint (.pt) of the same network: training goes on where it stopped. A
        .safetensors model: training starts from its weights.
    model : UNet, optional
        The network; by default a `UNet` with its defaults.

    Returns
    -------
    UNet
        The averaged network, ready to sample from.
    """
    images, _ = first_batch(loader, image_size)
    model = model or UNet(image_channels=images.shape[1])
    return train(model, loader, epochs, lr, device, model_in, out_dir, **options)


def train_conditional_diffusion(
    loader, epochs=10, lr=3e-4, image_size=64, device="cuda", model_in=None, *,
    model=None, out_dir="results/conditional", drop=0.1, **options,
):  # fmt: skip
    """Train a diffusion model on pictures with the brain vectors that they evoked.

    Parameters
    ----------
    loader : BatchLoader or DataLoader
        Yields pictures (b, C, H, W) in [-1, 1] and vectors (b, d).
    model_in : str or Path, optional
        As for `train_unconditional_diffusion`; an unconditional model or checkpoint is a warm
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
        config = {"image_channels": images.shape[1]} if model_in is None else config_of(model_in)
        model = UNet(**{**config, "condition_size": vectors.shape[1]})
    return train(model, loader, epochs, lr, device, model_in, out_dir, drop=drop, **options)


def train(
    model, loader, epochs=10, lr=3e-4, device="cuda", model_in=None, out_dir="results/run", *,
    prediction="x0", schedule="cosine", drop=0.0, ema=0.999, warmup=200, seed=0,
    max_steps=None, seconds=None, checkpoint_minutes=5.0, grids=10, precision=None,
    info=None, quiet=False,
):  # fmt: skip
    """The loop that both kinds of training share.

    Writes into `out_dir`: `loss.csv` (a row a step), `checkpoint.pt` (to resume from),
    `training_progression/` (sample grids) and, at the end, `model.safetensors`. Ctrl-C and SIGTERM
    end it in good order: checkpoint, then return.

    Parameters
    ----------
    model : UNet
    loader : BatchLoader or DataLoader
    epochs : int
        Passes over the data.
    lr : float
        Peak learning rate: linear warm-up, then half a cosine down to zero at the end.
    device : {"cuda", "cpu", "auto"}
    model_in, out_dir : path
    prediction : {"x0", "eps", "v"}
    schedule : {"cosine", "linear"}
    drop : float
        Share of samples trained without their condition.
    ema : float
        Ceiling of the averaging factor, min(ema, (1 + n) / (10 + n)) at step n.
    warmup : int
        Steps of warm-up.
    seed : int
        Of noise, times and dropout. The loader has its own.
    max_steps, seconds : number, optional
        Stop early after so many steps or seconds, with the learning rate at zero by then.
    checkpoint_minutes : float
        Time between checkpoints.
    grids : int
        Sample grids, spread evenly over the training.
    precision : {"no", "bf16", "fp16"}, optional
        Default: bf16 on a GPU that has it, else full precision.
    info : dict, optional
        Stored with the model.
    quiet : bool
        No progress bar.

    Returns
    -------
    UNet
        The averaged network, in evaluation mode.

    Raises
    ------
    DataError
        If `model_in` does not fit the network.
    FloatingPointError
        If the loss stops being a finite number; the last checkpoint stays.
    """
    out_dir = Path(out_dir)
    accelerator = make_accelerator(device, precision)
    rank, world = accelerator.process_index, accelerator.num_processes
    if world > 1 and hasattr(loader, "shard"):
        loader = loader.shard(rank, world)
    alpha_bar = SCHEDULES[schedule]().to(accelerator.device)
    info = {**(info or {}), "prediction": prediction, "schedule": schedule, "seed": seed}
    info["image_size"] = first_batch(loader)[0].shape[-1]

    model = model.to(accelerator.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), fused=True)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    step, epoch, batch, spent = begin(model_in, model, optimizer, average)
    net, optimizer = accelerator.prepare(model, optimizer)

    end = min(epochs * len(loader), max_steps or math.inf)
    log = Log(out_dir / "loss.csv", step) if accelerator.is_main_process else None
    bar = tqdm(total=end, initial=step, unit="step", disable=True if quiet or rank else None)
    start = saved = time.monotonic()
    progress = step / max(end, 1)

    def checkpoint():
        if accelerator.is_main_process:
            save_checkpoint(out_dir / "checkpoint.pt", dict(
                model_state_dict=model.state_dict(), ema_state_dict=average.state_dict(),
                optimizer_state_dict=optimizer.state_dict(), config=model.config,
                last_epoch=epoch, batch=batch, step=step, seconds=spent, info=info,
            ))  # fmt: skip

    with torch.random.fork_rng(), interruptible() as interrupted:
        stop = step >= end
        while not stop:
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            for i, item in enumerate(loader):
                if i < batch:  # resumed in the middle of an epoch
                    continue
                images, vectors = unpack(item, accelerator.device)
                torch.manual_seed(seed * 1_000_003 + step)
                draws = draw(images, world * len(images), len(alpha_bar), drop)
                t, noise, keep = (d[rank::world] for d in draws)
                if model.config["condition_size"] is None:
                    vectors = keep = None
                with accelerator.autocast():
                    loss = diffusion_loss(
                        net, images, alpha_bar, t, noise, prediction, vectors, keep
                    )
                accelerator.backward(loss)
                gradient = accelerator.clip_grad_norm_(model.parameters(), 1.0)
                loss_now = accelerator.reduce(loss.detach(), "mean").item()
                if not math.isfinite(loss_now):
                    raise FloatingPointError(
                        f"the loss is {loss_now} at step {step}; the last checkpoint is kept in "
                        f"{out_dir}: resume from it with a lower lr than {lr}"
                    )
                rate = lr * learning_rate(step, progress, warmup)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad()
                update_average(average, model, min(ema, (1 + step) / (10 + step)))

                step, batch = step + 1, i + 1
                if batch == len(loader):
                    epoch, batch = epoch + 1, 0
                now = time.monotonic()
                spent, start = spent + now - start, now
                before, progress = progress, max(step / end, spent / (seconds or math.inf))
                # one process's clock or signal must stop all
                flags = torch.tensor(
                    [progress, float(bool(interrupted))], device=accelerator.device
                )
                if world > 1:
                    flags = accelerator.gather(flags).view(world, 2).amax(0)
                progress, stop = flags[0].item(), bool(flags[1]) or flags[0].item() >= 1
                bar.update()
                bar.set_postfix(loss=f"{loss_now:.4f}", refresh=False)
                if log:
                    log.write(step, epoch, f"{spent:.1f}", loss_now, rate, float(gradient))
                    if int(progress * grids) > int(before * grids):
                        folder = out_dir / "training_progression"
                        draw_grid(average, info, images, vectors, folder / f"step_{step:07d}.png")
                if stop or time.monotonic() - saved > 60 * checkpoint_minutes:
                    checkpoint()
                    saved = time.monotonic()
                if stop:
                    break
    bar.close()
    if accelerator.is_main_process:
        log.close()
        save_model(average, out_dir / "model.safetensors", {**info, "steps": step})
    return average


def first_batch(loader, image_size=None):
    """The loader's first pictures and vectors (or None), checked.

    Raises
    ------
    DataError
        If it is empty or its pictures are not `image_size` square.
    """
    item = next(iter(loader), None)
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(0)
    if item is None:
        raise DataError("the loader is empty; give it at least one batch of pictures")
    images, vectors = unpack(item, "cpu")
    height, width = images.shape[-2:]
    if image_size is not None and (height, width) != (image_size, image_size):
        raise DataError(
            f"the loader yields pictures of {height}x{width}, image_size is {image_size}; "
            "give create_loader and the training the same size"
        )
    return images, vectors


def unpack(item, device):
    """Pictures and vectors (or None) of a loader's item, on the device."""
    images, vectors = (item[0], item[1]) if isinstance(item, (tuple, list)) else (item, None)
    images = images.to(device, torch.float32, memory_format=torch.channels_last)
    return images, None if vectors is None else vectors.to(device)


def draw(images, n, steps, drop):
    """Times (n,), noise (n, C, H, W) and keep (n,) for a global batch of n, from torch's seed."""
    t = stratified_times(n, steps, device=images.device)
    noise = torch.randn(n, *images.shape[1:], device=images.device)
    keep = torch.rand(n, device=images.device) >= drop
    return t, noise.to(memory_format=torch.channels_last), keep


def learning_rate(step, progress, warmup):
    """Factor on the peak rate: linear warm-up over steps, half a cosine over progress 0 … 1."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@torch.no_grad()
def update_average(average, model, beta):
    """Move the averaged weights a share 1 - beta towards the model's."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - beta)


def make_accelerator(device, precision=None):
    """An Accelerator for "cuda", "cpu" or "auto"; it also serves `accelerate launch`."""
    if device not in ("cuda", "cpu", "auto"):
        raise DataError(f"device is {device!r}; choose cuda, cpu or auto")
    if device == "cuda" and not torch.cuda.is_available():
        warnings.warn("no CUDA device found: training on the CPU", stacklevel=4)
        device = "cpu"
    if "WORLD_SIZE" not in os.environ:  # a notebook may train twice, on different devices
        AcceleratorState._reset_state(reset_partial_state=True)
    if precision is None:
        gpu = device != "cpu" and torch.cuda.is_available()
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported() else "no"
    return Accelerator(cpu=device == "cpu", mixed_precision=precision)


def config_of(path):
    """The config of the network in a checkpoint or model file."""
    return load_model(path)[0].config


def begin(path, model, optimizer, average):
    """Load `path` into the three; returns step, finished epochs, batch and seconds to go on from.

    A checkpoint of the same network is resumed; everything else is a start from its weights.
    """
    if path is None:
        return 0, 0, 0, 0.0
    state = load_checkpoint(path) if Path(path).suffix != ".safetensors" else None
    if state is None or state["config"] != model.config:
        start_from(model, path)
        average.load_state_dict(model.state_dict())
        return 0, 0, 0, 0.0
    try:
        model.load_state_dict(state["model_state_dict"])
        average.load_state_dict(state["ema_state_dict"])
        optimizer.load_state_dict(state["optimizer_state_dict"])
        return state["step"], state["last_epoch"], state["batch"], state["seconds"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path} does not fit the network or lacks its training state; "
            "use a checkpoint.pt that training wrote, or a .safetensors model"
        ) from error


class Log:
    """The loss as CSV, a row a step; resuming drops rows later than the checkpoint."""

    def __init__(self, path, step):
        rows = []
        if step and path.is_file():
            with open(path, newline="") as file:
                rows = [r for r in csv.reader(file) if r and r[0].isdigit() and int(r[0]) <= step]
        with atomic_write(path) as partial, open(partial, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        self.file = open(path, "a", newline="", buffering=1)
        self.write = lambda *row: csv.writer(self.file).writerow(row)
        self.close = self.file.close


@contextmanager
def interruptible():
    """Within, the first Ctrl-C or SIGTERM only appends to the list; the second acts as usual."""
    caught, usual = [], {}

    def catch(number, frame):
        caught.append(number)
        for n, handler in usual.items():
            signal.signal(n, handler)

    try:
        for n in (signal.SIGINT, signal.SIGTERM):
            usual[n] = signal.signal(n, catch)
    except ValueError:  # not in the main thread: signals go elsewhere
        pass
    try:
        yield caught
    finally:
        for n, handler in usual.items():
            signal.signal(n, handler)


def draw_grid(model, info, images, vectors, path, n=16):
    """Save samples from fixed noise; with vectors, the pictures they belong to stand above."""
    if vectors is not None:
        vectors = vectors[:n]
        n = len(vectors)
    noise = initial_noise(n, images.shape[1:]).to(images.device, memory_format=torch.channels_last)
    alpha_bar = SCHEDULES[info["schedule"]]().to(images.device)
    samples = dpm_solver(denoiser(model, info["prediction"], alpha_bar, vectors), noise, alpha_bar)
    if vectors is not None:
        samples = torch.cat([images[:n], samples])
    grid = make_grid(samples.float().cpu(), nrow=8, normalize=True, value_range=(-1, 1))
    with atomic_write(path) as partial:
        save_image(grid, partial)
