"""What surrounds a training: processes, the place in the data, log, grids, checkpoints, signals."""

import copy
import csv
import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from accelerate.utils import is_tensorboard_available
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from recon_lib.common.errors import DataError, Interrupted, atomic_write, enough_memory, writing
from recon_lib.common.folders import alone_in
from recon_lib.common.paths import results_folder
from recon_lib.data.loader import BatchLoader, batch_of
from recon_lib.diffusion import SCHEDULES, denoiser
from recon_lib.samplers import initial_noise, walk
from recon_lib.training.checkpoints import (
    load_checkpoint,
    located,
    read_weights,
    save_checkpoint,
    save_model,
    start_from,
)
from recon_lib.training.device import make_accelerator, pick_device
from recon_lib.training.muon import Muon
from recon_lib.training.step import refuse_infinite_loss

COLUMNS = ("step", "epoch", "seconds", "loss", "lr", "gradient")


def distribute(loader, accelerator):
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
            draw.manual_seed(2**31 + int(seed) * 1_000_003 + epoch)
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        for i, item in enumerate(loader, start=1):
            if i > batch:
                yield item, (epoch + 1, 0) if i == len(loader) else (epoch, i)
        epoch, batch = epoch + 1, 0


def first_batch(loader, image_size=None):
    """The loader's first pictures and vectors (or None), checked.

    An empty loader, and pictures that are not `image_size` square or far from [-1, 1], are a
    `DataError`.
    """
    if not hasattr(loader, "__len__") or isinstance(getattr(loader, "dataset", None),
                                                    IterableDataset):
        raise DataError("the loader has no length, as of an iterable data set; expected one that "
                        "has: give create_loader the pictures")
    item = next(iter(loader), None)
    if item is None:
        raise DataError("the loader is empty; give it at least one batch of pictures")
    images, vectors = unpack(item, "cpu")
    height, width = images.shape[-2:]
    if image_size is not None and (height, width) != (image_size, image_size):
        raise DataError(
            f"the loader yields pictures of {height}x{width}, image_size is {image_size}; "
            "give create_loader and the training the same size")
    low, high = images.aminmax()
    if low >= 0 and not isinstance(loader, BatchLoader):
        raise DataError(
            f"the loader yields pictures with values from {low:.3g} to {high:.3g}; bring them to "
            "[-1, 1], as create_loader does (0 to 1: 2 * x - 1)")
    return images, vectors


def unpack(item, device):
    """Pictures and vectors (or None) of a loader's item, on the device."""
    images, vectors = batch_of(item)
    images = images.to(device, torch.float32, memory_format=torch.channels_last)
    return images, None if vectors is None else vectors.to(device, torch.float32)  # as MPS needs


def resume(path, model, optimizer, average, info):
    """Load `path` into all three; return the place to go on from, empty for a new training.

    A checkpoint of the same network is resumed. A model, or a checkpoint of the other kind of
    network (with or without a condition), gives its averaged weights to a new training. `info`
    notes how many steps were behind them. A file that is damaged, of another architecture, trained
    for another prediction, or that has seen pictures that this training holds out, is a
    `DataError`.
    """
    info["steps_before"] = 0
    if path is None:
        return {}
    _, config, stored = read_weights(path)
    for key in ("prediction", "schedule"):
        if stored.get(key, info[key]) != info[key]:
            raise DataError(f"{path} was trained with {key} {stored[key]!r}, not {info[key]!r}; "
                            f"pass {key}={stored[key]!r} or start without model_in")
    both = stored.keys() & info.keys() >= {"split", "held"}
    if both and (stored["split"] != info["split"] or not {*info["held"]} <= {*stored["held"]}):
        raise DataError(
            f"{path} was trained with the split {stored['split']!r} (held out: {stored['held']}), "
            f"so it has seen what {info['split']!r} (held out: {info['held']}) keeps for the test; "
            "start from a model of the same split, or without one")
    if located(path).suffix == ".safetensors" or config != model.config:
        info["steps_before"] = stored.get("steps", 0)
        start_from(model, path)
        average.load_state_dict(model.state_dict())
        return {}
    state = load_checkpoint(path)
    info["steps_before"] = stored.get("steps_before", 0)
    try:
        model.load_state_dict(state["model_state_dict"])
        average.load_state_dict(state["ema_state_dict"])
        optimizer.load_state_dict(state["optimizer_state_dict"])
        place = {name: state[name] for name in ("step", "last_epoch", "batch", "seconds")}
        return place | {"scaler_state_dict": state.get("scaler_state_dict")}
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path} lacks its training state; use a checkpoint.pt that training wrote, or a "
            ".safetensors model") from error


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


def exclusive(out_dir):
    """Within, no other training writes into this folder: a second one is refused."""
    return alone_in(out_dir, f"another training is writing into {out_dir}; wait for its end, or "
                    "choose another out_dir")


@contextmanager
def noted_signals():
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
    if caught:  # it came after the last step, so it acts now
        signal.raise_signal(caught[0])


def agree(accelerator, progress, stop):
    """Progress and signal for all processes: the furthest clock and any signal count for all."""
    if accelerator.num_processes > 1:
        flags = torch.tensor([[progress, stop]], device=accelerator.device)
        progress, stop = accelerator.gather(flags).amax(0).tolist()
    return progress, int(stop)


def draw_grid(model, info, images, vectors, path, n=16):
    """Save samples from fixed noise; with vectors, the pictures they belong to stand above."""
    from torchvision.utils import make_grid, save_image  # takes seconds to import

    if vectors is not None:
        n = min(n, len(vectors))
        n -= n % 8 if n > 8 else 0  # whole rows
        images, vectors = images[:n], vectors[:n]
    noise = initial_noise(n, images.shape[1:]).to(images.device, memory_format=torch.channels_last)
    alpha_bar = SCHEDULES[info["schedule"]]().to(images.device)
    denoise = denoiser(model, info["prediction"], alpha_bar, vectors)
    samples = walk(denoise, noise, alpha_bar, info.get("ladder", 20))
    if vectors is not None:
        samples = torch.cat([images, samples])
    grid = make_grid(samples.cpu(), nrow=min(8, n), normalize=True, value_range=(-1, 1))
    with atomic_write(path) as partial:
        save_image(grid, partial)


def _settings(training, model, model_in, device):
    """Precision (None: what the device is good at) and optimizer; resumed, as it began."""
    precision, optimizer = training.precision, training.optimizer
    if model_in is not None and located(model_in).suffix != ".safetensors":
        _, config, stored = read_weights(model_in)
        if config == model.config:
            optimizer = stored.get("optimizer", "adamw")
            known = stored.get("precision")
            precision = precision or (None if known == "fp16" and device != "cuda" else known)
    return precision, optimizer


class Run:
    """What surrounds the loop of a training; `loop.train` shows the loop.

    It resumes and places the network, its average and the optimiser; within its `with` block no
    other training may write into `out_dir`, and the first Ctrl-C or SIGTERM waits for the end of a
    step. Into `out_dir` go `loss.csv` (a row a step), `checkpoint.pt` (to resume from),
    `training_progression/` (sample grids) and, by `finish`, `model.safetensors`.

    Parameters
    ----------
    model : UNet
    loader : BatchLoader or DataLoader
    training : Training
    device : {"cuda", "mps", "cpu", "auto"}
    model_in : path, optional
        See `loop.train_unconditional_diffusion`.
    out_dir : path, optional
        By default a folder of the results folder, wherever the program was started.

    Attributes
    ----------
    net, average, optimizer, accelerator, alpha_bar
        What a step needs; `net` is the model, compiled or one of several processes' where asked.
    step, progress
        Steps behind it, and the share of the whole training.

    Raises
    ------
    DataError
        If `model_in` does not fit the network or the split, the pictures do not fit the network,
        another training writes into `out_dir`, a batch does not fit in memory, TensorBoard is
        missing, or another process of the training is gone.
    FloatingPointError
        If the loss stops being a finite number; the last checkpoint stays.
    Interrupted
        After Ctrl-C or SIGTERM, once the checkpoint is written.
    """

    def __init__(self, model, loader, training, device="cuda", model_in=None, out_dir=None):
        self.training, self.out_dir = training, Path(out_dir or results_folder() / "run")
        self.checkpoint = self.out_dir / "checkpoint.pt"
        device = pick_device(device)
        precision, kind = _settings(training, model, model_in, device)
        self.accelerator = make_accelerator(device, precision, **self._trackers())
        self.main = self.accelerator.is_main_process
        self.loader = distribute(loader, self.accelerator)
        pictures, _ = first_batch(self.loader)
        model.refuse_misfits(pictures)  # before a file is touched
        self.info = {**training.info, "prediction": training.prediction,
                     "schedule": training.schedule, "optimizer": kind, "seed": training.seed,
                     "image_size": pictures.shape[-1],
                     "precision": self.accelerator.mixed_precision}
        device = self.accelerator.device
        self.model = model.to(device, memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        fused = device.type != "mps"
        optimizer = (Muon(model, training.lr, fused=fused) if kind == "muon" else torch.optim.AdamW(
            model.parameters(), training.lr, betas=(0.9, 0.99), fused=fused))
        state = resume(model_in, model, optimizer, self.average, self.info)
        self.step, self.seconds = state.get("step", 0), state.get("seconds", 0.0)
        self.epoch, self.batch = state.get("last_epoch", 0), state.get("batch", 0)
        net = torch.compile(model, dynamic=False) if training.compiled else model
        self.net, self.optimizer = self.accelerator.prepare(net, optimizer)
        if self.accelerator.scaler is not None and state.get("scaler_state_dict"):
            self.accelerator.scaler.load_state_dict(state["scaler_state_dict"])
        self.alpha_bar = SCHEDULES[training.schedule]().to(device)
        self.progress = training.progress(self.step, self.seconds, len(self.loader))

    def _trackers(self):
        if not self.training.tensorboard:
            return {}
        if not is_tensorboard_available():  # accelerate would go on without a word
            raise DataError("the package tensorboard is not installed; `pip install tensorboard`, "
                            "or train without it: loss.csv has the same numbers")
        return {"log_with": "tensorboard", "project_dir": self.out_dir}

    def __enter__(self):
        device, training = self.accelerator.device, self.training
        with ExitStack() as stack:
            if self.main:
                stack.enter_context(exclusive(self.out_dir))
            stack.enter_context(
                torch.random.fork_rng([device] if device.type == "cuda" else []))
            self.signals = stack.enter_context(noted_signals())
            self.bar = stack.enter_context(tqdm(
                total=training.last_step(len(self.loader)), initial=self.step, unit="step",
                disable=True if training.quiet or not self.main else None))
            stack.enter_context(self._errors_explained())
            stack.enter_context(
                enough_memory("the batch size of the loader, or the network's width"))
            if training.tensorboard:
                self.accelerator.init_trackers("tensorboard")
                stack.callback(lambda: [tracker.finish() for tracker in self.accelerator.trackers])
            if self.main:
                trim_log(self.out_dir / "loss.csv", COLUMNS, self.step)
            self.clock = self.saved = time.monotonic()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def batches(self):
        """Yield pictures and vectors (or None) on the device, from where it stands to the end."""
        conditional = self.model.config["condition_size"] is not None
        for item, place in endless(self.loader, self.epoch, self.batch, self.training.seed):
            if self.progress >= 1:
                return
            self.epoch, self.batch = place
            images, vectors = unpack(item, self.accelerator.device)
            self.shown = images, vectors if conditional else None
            yield self.shown

    def record(self, loss, gradient, rate):
        """Log a step that was taken, and draw, save or stop where it is time."""
        before, now = self.progress, time.monotonic()
        self.step, self.seconds, self.clock = self.step + 1, self.seconds + now - self.clock, now
        progress = self.training.progress(self.step, self.seconds, len(self.loader))
        self.progress, stop = agree(self.accelerator, progress, max(self.signals, default=0))
        row = (self.step, self.epoch, round(self.seconds, 2), loss, rate, gradient)
        if self.training.tensorboard:
            self.accelerator.log(dict(zip(COLUMNS, row, strict=True)), step=self.step)
        self.bar.update()
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        if self.main:
            log_row(self.out_dir / "loss.csv", row)
            grids = self.training.grids
            if int(min(self.progress, 1.0) * grids) > int(before * grids):
                grid = self.out_dir / "training_progression" / f"step_{self.step:07d}.png"
                draw_grid(self.average, self.info, *self.shown, grid)
            late = now - self.saved > 60 * self.training.checkpoint_minutes
            if stop or late or self.progress >= 1:
                self.save()
        if stop:
            raise Interrupted(
                f"the training in {self.out_dir} was stopped by {signal.Signals(stop).name} after "
                f"step {self.step} and is not finished; go on from {self.checkpoint}: model_in, or "
                "`train --start` in a shell", 128 + stop)

    def save(self):
        """Write the checkpoint, if the weights still give a finite loss."""
        self.saved = self.clock
        refuse_infinite_loss(self.model, *self.shown, self.alpha_bar, self.training.prediction)
        state = dict(
            model_state_dict=self.model.state_dict(), ema_state_dict=self.average.state_dict(),
            optimizer_state_dict=self.optimizer.state_dict(), config=self.model.config,
            last_epoch=self.epoch, batch=self.batch, step=self.step, seconds=self.seconds,
            info=self.info,
            beside={name: torch.frombuffer(bytearray(whole), dtype=torch.uint8)
                    for name, whole in self.training.beside.items()})
        if self.accelerator.scaler is not None:
            state["scaler_state_dict"] = self.accelerator.scaler.state_dict()
        save_checkpoint(self.checkpoint, state)

    def finish(self):
        """Write `model.safetensors` and what belongs beside it: the training is finished.

        Returns
        -------
        UNet
            The averaged network, in evaluation mode.
        """
        if self.main:
            info = {**self.info, "steps": self.info["steps_before"] + self.step}
            save_model(self.average, self.out_dir / "model.safetensors", info)
            for name, whole in self.training.beside.items():
                with atomic_write(self.out_dir / name) as partial:
                    partial.write_bytes(whole)
        self.accelerator.wait_for_everyone()  # another training of these processes may follow
        return self.average

    @contextmanager
    def _errors_explained(self):
        """Within, an error says where the training stands and how to go on."""
        try:
            yield
        except FloatingPointError as error:
            kept = (f"the last checkpoint in {self.out_dir} is kept: resume from it"
                    if self.checkpoint.exists() else "there is no checkpoint yet: start again")
            raise FloatingPointError(
                f"{error} at step {self.step}; {kept} with lr below {self.training.lr}") from error
        except RuntimeError as error:
            # gloo's errors have no class: plain RuntimeErrors that name one of gloo's files
            lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
            if self.accelerator.num_processes == 1 or not lost:
                raise
            step = load_checkpoint(self.checkpoint)["step"] if self.checkpoint.exists() else 0
            raise DataError(
                "another process of this training is gone (see what it said), so this one stops; "
                + (f"go on from step {step} with {self.checkpoint}, on any number of processes"
                   if step else "there is no checkpoint yet, start again")) from error
