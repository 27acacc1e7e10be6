"""What surrounds a training loop: devices, signals, logs, sample grids, starting and resuming."""

import csv
import os
import signal
import time
import warnings
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_tensorboard_available
from torchvision.utils import make_grid, save_image

from recon_lib.common.errors import DataError, atomic_write, writing
from recon_lib.common.folders import alone_in
from recon_lib.diffusion import SCHEDULES, denoiser
from recon_lib.samplers import dpm_solver, initial_noise
from recon_lib.training.checkpoints import load_checkpoint, located, read_weights, start_from


def pick_device(device="auto"):
    """Turn "auto" into "cuda" or "cpu"; "cuda" without a GPU warns and becomes "cpu"."""
    if device not in ("cuda", "cpu", "auto"):
        raise DataError(f"device is {device!r}; choose cuda, cpu or auto")
    if device == "cuda" and not torch.cuda.is_available():
        warnings.warn("no CUDA device found: using the CPU", stacklevel=4)
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


@cache
def bf16_is_faster(size=512, repeats=8):
    """Whether this CPU multiplies matrices much faster in bfloat16 than in full precision.

    Measured, in some milliseconds: with matrix units it is, without them it is far slower, and
    nothing public tells which it has.
    """
    def seconds(dtype):
        x = torch.ones(size, size, dtype=dtype)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            x @ x
            times.append(time.perf_counter() - start)
        return min(times)

    return 1.5 * seconds(torch.bfloat16) < seconds(torch.float32)


def pick_precision(device):
    """"bf16" on a GPU that has it and on a CPU where it is faster, else "no"."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if bf16_is_faster() else "no"


def autocast(device):
    """Networks run within this in the precision of `pick_precision`; device is a torch.device."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=pick_precision(device.type) == "bf16"
    )


def make_accelerator(device="auto", precision=None, **options):
    """An Accelerator for "cuda", "cpu" or "auto"; it serves `accelerate launch` too.

    Parameters
    ----------
    device : {"cuda", "cpu", "auto"}
        "cuda" without a GPU warns and takes the CPU.
    precision : {"no", "bf16"}, optional
        Default: see `pick_precision`.
    options
        Handed to `accelerate.Accelerator`.
    """
    device = pick_device(device)
    if "WORLD_SIZE" not in os.environ:  # a notebook may train twice, on different devices
        AcceleratorState._reset_state(reset_partial_state=True)
    precision = pick_precision(device) if precision is None else precision
    return Accelerator(cpu=device == "cpu", mixed_precision=precision, **options)


def part():
    """The processes of `accelerate launch` take leave of one another, after the last training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def tracking(out_dir, tensorboard):
    """Options of an Accelerator that logs to TensorBoard into `out_dir`, or of one that does not.

    Raises
    ------
    DataError
        If the package is not there: accelerate would go on without a word.
    """
    if not tensorboard:
        return {}
    if not is_tensorboard_available():
        raise DataError("the package tensorboard is not installed; `pip install tensorboard`, or "
                        "train without it: loss.csv has the same numbers")
    return {"log_with": "tensorboard", "project_dir": out_dir}


def first_batch(loader, image_size=None):
    """The loader's first pictures and vectors (or None), checked.

    Raises
    ------
    DataError
        If it is empty, its pictures are not `image_size` square or far from [-1, 1].
    """
    item = next(iter(loader), None)
    if item is None:
        raise DataError("the loader is empty; give it at least one batch of pictures")
    images, vectors = unpack(item, "cpu")
    height, width = images.shape[-2:]
    if image_size is not None and (height, width) != (image_size, image_size):
        raise DataError(
            f"the loader yields pictures of {height}x{width}, image_size is {image_size}; "
            "give create_loader and the training the same size"
        )
    low, high = images.aminmax()
    if not -1.5 <= low <= high <= 1.5:  # a resize may overshoot a little
        raise DataError(
            f"the loader yields pictures with values from {low:.3g} to {high:.3g}; bring them to "
            "[-1, 1], as create_loader does (0 to 255: x / 127.5 - 1)"
        )
    return images, vectors


def unpack(item, device):
    """Pictures and vectors (or None) of a loader's item, on the device."""
    images, vectors = (*item, None)[:2] if isinstance(item, (tuple, list)) else (item, None)
    images = images.to(device, torch.float32, memory_format=torch.channels_last)
    return images, None if vectors is None else vectors.to(device)


def begin(path, model, optimizer, average, info):
    """Load `path` into all three; return step, finished epochs, batch and seconds to go on from.

    Notes in `info` how many steps the weights have behind them before this training's first.

    A checkpoint of the same network is resumed. A model, or a checkpoint of the other kind of
    network (with or without a condition), gives its averaged weights to a new training.

    Raises
    ------
    DataError
        If the file is damaged, of another architecture, trained for another prediction, or has
        seen pictures that this training holds out.
    """
    info["steps_before"] = 0
    if path is None:
        return 0, 0, 0, 0.0
    _, config, stored = read_weights(path)
    for key in ("prediction", "schedule"):
        if stored.get(key, info[key]) != info[key]:
            raise DataError(
                f"{path} was trained with {key} {stored[key]!r}, not {info[key]!r}; "
                f"pass {key}={stored[key]!r} or start without model_in"
            )
    both = stored.keys() & info.keys() >= {"split", "held"}
    if both and (stored["split"] != info["split"] or not {*info["held"]} <= {*stored["held"]}):
        raise DataError(
            f"{path} was trained with the split {stored['split']!r} (held out: {stored['held']}), "
            f"so it has seen what {info['split']!r} (held out: {info['held']}) keeps for the test; "
            "start from a model of the same split, or without one"
        )
    if located(path).suffix == ".safetensors" or config != model.config:
        info["steps_before"] = steps_behind(path, stored)
        start_from(model, path)
        average.load_state_dict(model.state_dict())
        return 0, 0, 0, 0.0
    state = load_checkpoint(path)
    info["steps_before"] = stored.get("steps_before", 0)
    try:
        model.load_state_dict(state["model_state_dict"])
        average.load_state_dict(state["ema_state_dict"])
        optimizer.load_state_dict(state["optimizer_state_dict"])
        return state["step"], state["last_epoch"], state["batch"], state["seconds"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path} lacks its training state; use a checkpoint.pt that training wrote, or a "
            ".safetensors model"
        ) from error


def steps_behind(path, info):
    """Steps of all trainings that led to a model or checkpoint; `info` is stored with it."""
    if located(path).suffix == ".safetensors":
        return info.get("steps", 0)
    return load_checkpoint(path).get("step", 0) + info.get("steps_before", 0)


def trim_log(path, columns, step):
    """Start the CSV log at `path`, or keep its rows up to `step` when training goes on."""
    rows = []
    if step and path.is_file():
        with open(path, newline="") as file:
            rows = [r for r in csv.reader(file) if r and r[0].isdigit() and int(r[0]) <= step]
    with atomic_write(path) as partial, open(partial, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def log_row(path, row):
    """Append a row to a CSV file."""
    with writing(path), open(path, "a", newline="") as file:
        csv.writer(file).writerow(row)


def alone(out_dir, main=True):
    """Within, no other training writes into this folder: a second one is refused."""
    if not main:
        return nullcontext()
    return alone_in(out_dir, f"another training is writing into {out_dir}; wait for its end, or "
                    "choose another out_dir")


@contextmanager
def interruptible():
    """Within, the first Ctrl-C or SIGTERM is only noted in the list; the second acts as usual."""
    caught, usual = [], {}

    def restore():
        for number, handler in usual.items():
            signal.signal(number, handler)

    def catch(number, frame):
        caught.append(number)
        restore()

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            usual[number] = signal.signal(number, catch)
    except ValueError:  # not in the main thread: signals go elsewhere
        pass
    try:
        yield caught
    finally:
        restore()


@contextmanager
def all_present(accelerator, path):
    """Within, a process of the training that has gone is told from any other error.

    Parameters
    ----------
    accelerator : Accelerator
    path : path
        The checkpoint to go on from.

    Raises
    ------
    DataError
        If another process of the training is gone.
    """
    try:
        yield
    except RuntimeError as error:
        words = ("gloo", "NCCL", "Connection", "Broken pipe")
        lost = isinstance(error, torch.distributed.DistError) or any(w in str(error) for w in words)
        if accelerator.num_processes == 1 or not lost:
            raise
        step = load_checkpoint(path)["step"] if Path(path).exists() else 0
        raise DataError(
            "another process of this training is gone (see what it said), so this one stops; "
            + (f"go on from step {step} with {path}, on any number of processes" if step else
               "there is no checkpoint yet, start again")
        ) from error


def draw_grid(model, info, images, vectors, path, n=16):
    """Save samples from fixed noise; with vectors, the pictures they belong to stand above."""
    if vectors is not None:
        n = min(n, len(vectors))
        n -= n % 8 if n > 8 else 0  # whole rows
        images, vectors = images[:n], vectors[:n]
    noise = initial_noise(n, images.shape[1:]).to(images.device, memory_format=torch.channels_last)
    alpha_bar = SCHEDULES[info["schedule"]]().to(images.device)
    samples = dpm_solver(denoiser(model, info["prediction"], alpha_bar, vectors), noise, alpha_bar)
    if vectors is not None:
        samples = torch.cat([images, samples])
    grid = make_grid(samples.cpu(), nrow=min(8, n), normalize=True, value_range=(-1, 1))
    with atomic_write(path) as partial:
        save_image(grid, partial)
