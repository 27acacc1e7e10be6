"""Training: one loop for the unconditional and the conditional network.

Every random draw of step n is a function of (seed, n) alone. So a resumed run repeats an unbroken
one bit for bit on the CPU, and several processes draw together what one would have drawn.
"""

import copy
import math
import time
from pathlib import Path

import torch
from tqdm import tqdm

from recon_lib.common.errors import DataError, enough_memory
from recon_lib.diffusion import SCHEDULES
from recon_lib.training.checkpoints import read_weights, save_checkpoint, save_model
from recon_lib.training.run import (
    all_present,
    alone,
    begin,
    draw_grid,
    first_batch,
    interruptible,
    log_row,
    make_accelerator,
    tracking,
    trim_log,
    unpack,
)
from recon_lib.training.step import (
    burst,
    endless,
    learning_rate,
    shard,
    sound,
    together,
    train_step,
    update_average,
)
from recon_lib.unet import UNet

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
    image_size : int
        Height and width of the pictures, checked against the loader.
    model_in : str or Path, optional
        A checkpoint (.pt) of the same network: training goes on where it stopped. A
        .safetensors model: a new training starts from its weights. Of a conditional network it
        starts from the null branch, see `checkpoints.null_branch`.
    model : UNet, optional
        The network; by default a `UNet` as it comes, or the one of `model_in`.
    epochs, lr, device, out_dir, options
        See `train`.

    Returns
    -------
    UNet
        The averaged network, ready to sample from.
    """
    images, _ = first_batch(loader, image_size)
    if model is None:
        model = UNet(**{**config_of(model_in, images), "condition_size": None})
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
    return train(model, loader, epochs, lr, device, model_in, out_dir, drop=drop, **options)


def train(
    model, loader, epochs=10, lr=3e-4, device="cuda", model_in=None, out_dir="results/run", *,
    prediction="x0", schedule="cosine", drop=0.0, ema=0.999, warmup=200, seed=0,
    max_steps=None, seconds=None, checkpoint_minutes=5.0, grids=10, precision=None,
    compiled=False, tensorboard=False, info=None, prepare=None, quiet=False,
):  # fmt: skip
    """Run the loop that both kinds of training share.

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
        Steps of warm-up (5 % of the training if that is less).
    seed : int
        Of noise, times, dropout and the order of a DataLoader. A BatchLoader has its own.
    max_steps, seconds : number, optional
        Stop after so many steps or seconds, with the learning rate at zero by then.
    checkpoint_minutes : float
        Time between checkpoints.
    grids : int
        Sample grids, spread evenly over the training.
    precision : {"no", "bf16"}, optional
        Default: bf16 where it is faster, see `run.pick_precision`.
    compiled : bool
        Compile the network, for trainings of an hour: up to a quarter faster, or not at all
        (measure), after a minute or more of compiling; needs a C++ compiler on a CPU.
    tensorboard : bool
        Log to TensorBoard too, into `out_dir` (needs the package).
    info : dict, optional
        Stored with the model.
    prepare : function, optional
        Called without arguments once this training has `out_dir` to itself, before its first step.
    quiet : bool
        No progress bar.

    Returns
    -------
    UNet
        The averaged network, in evaluation mode.

    Raises
    ------
    DataError
        If `model_in` does not fit the network or the split, the pictures do not fit the network,
        epochs or steps are below 1, another training writes into `out_dir`, a batch does
        not fit in memory, TensorBoard is missing, or another process of the training is gone.
    FloatingPointError
        If the loss stops being a finite number; the last checkpoint stays.
    """
    if epochs < 1 or (max_steps is not None and max_steps < 1):
        raise DataError(f"epochs is {epochs} and max_steps {max_steps}; expected 1 or more")
    out_dir = Path(out_dir)
    tracker = tracking(out_dir, tensorboard)
    if precision is None and model_in is not None and Path(model_in).suffix == ".pt":
        precision = read_weights(model_in)[2].get("precision")  # a resumed run chooses as before
    accelerator = make_accelerator(device, precision, **tracker)
    loader = shard(loader, accelerator)
    info = {**(info or {}), "prediction": prediction, "schedule": schedule, "seed": seed}
    pictures, _ = first_batch(loader)
    model.refuse_misfits(pictures)  # before a file is touched
    info["image_size"] = pictures.shape[-1]
    info["precision"] = accelerator.mixed_precision

    model = model.to(accelerator.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), fused=True)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    step, *place, spent = begin(model_in, model, optimizer, average, info)
    net = torch.compile(model, dynamic=False) if compiled else model
    net, optimizer = accelerator.prepare(net, optimizer)
    alpha_bar = SCHEDULES[schedule]().to(accelerator.device)

    end = min(epochs * len(loader), math.inf if max_steps is None else max_steps)
    progress = max(step / end, spent / (seconds or math.inf))
    main = accelerator.is_main_process
    if tensorboard:
        accelerator.init_trackers("tensorboard")
    bar = tqdm(total=end, initial=step, unit="step", disable=None if main and not quiet else True)
    clock = saved = time.monotonic()
    cuda = [accelerator.device] if accelerator.device.type == "cuda" else []

    lasting = all_present(accelerator, out_dir / "checkpoint.pt")
    with (alone(out_dir, main), torch.random.fork_rng(cuda), interruptible() as signals, bar,
          lasting):
        if main:
            trim_log(out_dir / "loss.csv", COLUMNS, step)
            if prepare is not None:
                prepare()
        for item, (epoch, batch) in endless(loader, *place, seed):
            if progress >= 1:
                break
            torch.manual_seed(seed * 1_000_003 + step)
            images, vectors = unpack(item, accelerator.device)
            if model.config["condition_size"] is None:
                vectors = None
            rate = lr * learning_rate(step, progress, warmup)
            with enough_memory("the batch size of the loader, or the network's width"):
                loss, gradient = train_step(
                    accelerator, net, optimizer, rate, images, vectors, alpha_bar, prediction, drop
                )
            if not math.isfinite(loss + gradient):
                raise burst(f"is {loss} and its gradient {gradient}", step, out_dir, lr)
            update_average(average, model, min(ema, (1 + step) / (10 + step)))
            step += 1

            spent, clock = spent + time.monotonic() - clock, time.monotonic()
            before, progress = progress, max(step / end, spent / (seconds or math.inf))
            progress, stop = together(accelerator, progress, len(signals))
            row = (step, epoch, round(spent, 2), loss, rate, gradient)
            if tensorboard:
                accelerator.log(dict(zip(COLUMNS, row, strict=True)), step=step)
            bar.update()
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if main:
                log_row(out_dir / "loss.csv", row)
                if int(min(progress, 1.0) * grids) > int(before * grids):
                    grid = out_dir / "training_progression" / f"step_{step:07d}.png"
                    draw_grid(average, info, images, vectors, grid)
                if stop or progress >= 1 or clock - saved > 60 * checkpoint_minutes:
                    saved = clock
                    if not sound(model, images, vectors, alpha_bar, prediction):
                        raise burst("is no longer finite", step, out_dir, lr)
                    save_checkpoint(out_dir / "checkpoint.pt", dict(
                        model_state_dict=model.state_dict(), ema_state_dict=average.state_dict(),
                        optimizer_state_dict=optimizer.state_dict(), config=model.config,
                        last_epoch=epoch, batch=batch, step=step, seconds=spent, info=info,
                    ))  # fmt: skip
            if stop:
                break
        if main:
            save_model(average, out_dir / "model.safetensors", {
                **info, "steps": info["steps_before"] + step,
            })  # fmt: skip
        accelerator.wait_for_everyone()  # the processes stay together: another training may follow
    for track in accelerator.trackers:
        track.finish()
    return average


def config_of(path, images):
    """The config of the network in a file; without one, as it comes for these pictures."""
    return {"image_channels": images.shape[1]} if path is None else read_weights(path)[1]
