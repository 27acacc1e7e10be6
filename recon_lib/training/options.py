"""The options of a training, which travel together."""

import math
from dataclasses import dataclass, field

from recon_lib.common.errors import DataError, as_count, check
from recon_lib.diffusion import PREDICTIONS, SCHEDULES

RANGES = {"lr": math.inf, "drop": 1, "ema": 1, "checkpoint_minutes": 1e9}


@dataclass
class Training:
    """How to train a network.

    Parameters
    ----------
    epochs : int or None
        Passes over the data; None: without end, until `seconds` are over.
    lr : float
        Peak learning rate: linear warm-up, then half a cosine down to zero at the end.
    steps : int, optional
        Train for so many steps, whatever `epochs` says.
    max_steps, seconds : number, optional
        Stop after so many steps or seconds at the latest, with the learning rate at zero by then.
    optimizer : {"adamw", "muon"}
        "muon": AdamW, but Muon for the convolutions inside, see `muon.Muon`. A checkpoint goes on
        with its own.
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
    checkpoint_minutes : float
        Time between checkpoints.
    grids : int
        Sample grids, spread evenly over the training.
    precision : {"no", "bf16", "fp16"}, optional
        Default: what the device is good at, see `device.pick_precision`.
    compiled : bool
        Compile the network, for trainings of an hour: up to a quarter faster, or not at all
        (measure), after a minute or more of compiling; needs a C++ compiler on a CPU.
    tensorboard : bool
        Log to TensorBoard too, into the training's folder (needs the package).
    info : dict
        Stored with the model.
    beside : dict of str to bytes
        Files that the model needs: kept in the checkpoint, and written when the model is.
    quiet : bool
        No progress bar.

    Raises
    ------
    DataError
        If epochs or steps are below 1, an option is out of its range, or there is no end.
    """

    epochs: int | None = 10
    lr: float = 3e-4
    steps: int | None = None
    max_steps: int | None = None
    seconds: float | None = None
    optimizer: str = "adamw"
    prediction: str = "x0"
    schedule: str = "cosine"
    drop: float = 0.0
    ema: float = 0.999
    warmup: int = 200
    seed: int = 0
    checkpoint_minutes: float = 5.0
    grids: int = 10
    precision: str | None = None
    compiled: bool = False
    tensorboard: bool = False
    info: dict = field(default_factory=dict)
    beside: dict = field(default_factory=dict)
    quiet: bool = False

    def __post_init__(self):
        limits = {name: getattr(self, name) for name in ("epochs", "steps", "max_steps")}
        for name, number in limits.items():
            if number is not None:
                as_count(number, name, 1)
        for name in ("warmup", "seed", "grids"):
            as_count(getattr(self, name), name)
        for name, most in RANGES.items():
            value = check(getattr(self, name), (), what=name)
            if not (0 <= value <= most and (value > 0 or name != "lr")):
                raise DataError(f"{name} is {value}; expected a number from 0 to {most}"
                                + (", and not 0" if name == "lr" else ""))
        for name, known in (("prediction", PREDICTIONS), ("schedule", tuple(SCHEDULES)),
                            ("optimizer", ("adamw", "muon"))):
            if getattr(self, name) not in known:
                raise DataError(f"{name} is {getattr(self, name)!r}; expected one of "
                                f"{', '.join(known)}")
        if not any(limits.values()) and self.seconds is None:
            raise DataError("found a training without an end; give epochs, steps or seconds")

    def last_step(self, batches):
        """The step after which a training with so many batches an epoch ends; may be infinite."""
        if self.steps is None:
            wanted = math.inf if self.epochs is None else self.epochs * batches
        else:
            wanted = self.steps
        return min(wanted, math.inf if self.max_steps is None else self.max_steps)

    def progress(self, step, seconds, batches):
        """The share of the training that is behind it after so many steps and seconds."""
        return max(step / self.last_step(batches), seconds / (self.seconds or math.inf))
