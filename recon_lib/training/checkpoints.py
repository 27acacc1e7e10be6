"""Weights on disk: checkpoints to resume from (.pt) and finished models to share (.safetensors).

Neither kind can run code when it is read: .pt files are opened with `weights_only=True`.
"""

import json
import zipfile
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from recon_lib.common.errors import DataError, atomic_write
from recon_lib.common.files import refuse_broken_seal, sealed
from recon_lib.common.paths import shipped
from recon_lib.unet import UNet

CHECKPOINTS = shipped("checkpoints")
SHIPPED = ("unconditional", "conditional", "student", "guidance")
FORMER_SHIPPED = {"guide": "guidance"}
WANTED = f"give the path of a .pt or .safetensors file, or one of {', '.join(SHIPPED)}"
FORMER_NAMES = {"enter.": "conv_in.", "rise.": "up_conv.", "leave.": "conv_out.",
                "encoder.enter.": "encoder.first.", "encoder.leave.": "encoder.last."}


def save_checkpoint(path, state):
    """Write a training state (a dict of tensors, numbers, strings) whole or not at all."""
    whole = BytesIO()  # written by Python, which says why a disk takes no more; PyTorch does not
    torch.save(state, whole)
    with atomic_write(path) as partial:
        partial.write_bytes(whole.getbuffer())


def renamed(weights):
    """Weights under today's names of the layers, whichever version of the network wrote them."""
    def today(name):
        former = next((old for old in FORMER_NAMES if str(name).startswith(old)), None)
        return name if former is None else FORMER_NAMES[former] + name.removeprefix(former)

    return {today(name): w for name, w in weights.items()}


def load_checkpoint(path: str | Path):
    """Read a training state; keys `model_state_dict`, `optimizer_state_dict`, `last_epoch`, ….

    Raises
    ------
    DataError
        If the file is missing, damaged, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}; {WANTED}")
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch does not look at the checksums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("wrong checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for hostile files
        raise DataError(
            f"{path} is not a readable checkpoint (damaged, or holding more than tensors and "
            f"plain values: {type(error).__name__}); use one that training wrote") from error
    if not (isinstance(state, dict) and {"model_state_dict", "config"} <= state.keys()
            and isinstance(info := state.get("info", {}), dict)
            and all(isinstance(n, int) for n in (state.get("step", 0), info.get("steps_before", 0)))
            and isinstance(beside := state.get("beside", {}), dict)
            and all(getattr(one, "dtype", None) == torch.uint8 for one in beside.values())):
        raise DataError(
            f"{path} has no 'model_state_dict' and 'config'; use a checkpoint that training wrote")
    for kind in ("model_state_dict", "ema_state_dict"):
        if isinstance(state.get(kind), dict):
            state[kind] = renamed(state[kind])
    return state


def save_model(model: UNet, path: str | Path, info: dict | None = None, half: bool = True) -> None:
    """Write a network as safetensors, with its config and `info` as metadata.

    Parameters
    ----------
    model : UNet
    path : str or Path
    info : dict, optional
        Anything JSON can hold: prediction, schedule, image_size, seeds, scores, ….
    half : bool
        Store the weights as float16: half the size, no visible difference.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items()}
    metadata = {"config": json.dumps(model.config), "info": json.dumps(info or {})}
    with atomic_write(path) as partial:
        partial.write_bytes(sealed(save(tensors, metadata)))


def located(path):
    """The path of a model: of a shipped one by its name."""
    name = FORMER_SHIPPED.get(str(path), str(path))
    return CHECKPOINTS / f"{name}.safetensors" if name in SHIPPED else Path(path)


def load_model(path: str | Path, device: str = "cpu") -> tuple:
    """Read a network from safetensors or from a checkpoint (then its averaged weights).

    Parameters
    ----------
    path : str or Path
        "unconditional", "conditional", "student" and "guidance" are the shipped ones.
    device : str

    Returns
    -------
    model : UNet
        In evaluation mode, float32, on `device`.
    info : dict
        What was stored beside it: at least prediction, schedule and image_size when training
        wrote the file.

    Raises
    ------
    DataError
        If the file is missing, damaged or of another architecture.
    """
    weights, config, info = read_weights(path)
    model = UNet(**config)
    model.load_state_dict(weights)
    model.to(device, memory_format=torch.channels_last)
    return model.requires_grad_(False).eval(), info


def refuse_misfits(path, config, weights):
    """Hold the config against the weights before a network of that size takes any memory.

    Those that do not belong together, or a weight that is not a finite number, are a `DataError`.
    """
    try:
        if len(config["channels"]) * config["blocks"] > len(weights) or config["patch"] < 1:
            raise ValueError("more blocks than weights: stopped before millions are made")
        with torch.device("meta"):
            expected = {name: w.shape for name, w in UNet(**config).state_dict().items()}
        fits = expected == {name: w.shape for name, w in weights.items()} and all(
            w.is_floating_point() for w in weights.values())  # others would be cast
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError):
        fits = False
    if not fits:
        raise DataError(
            f"{path} holds a network of another architecture; use one written by this version")
    if not all(w.float().isfinite().all() for w in weights.values()):
        raise DataError(f"{path} holds weights that are NaN or infinite; expected finite numbers: "
                        "train again, with a lower lr")


@contextmanager
def opened(path):
    """A safetensors model as (file, config, info); one that cannot be read is a `DataError`."""
    if not path.is_file():
        raise DataError(f"no model at {path}; {WANTED}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            config, info = json.loads(metadata["config"]), json.loads(metadata.get("info", "{}"))
            if not isinstance(info, dict):
                raise TypeError("its info is none")
            yield file, config, info
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} is not a model of this project (damaged, or without its config); "
                        "use a file that save_model wrote") from error


def read_info(path):
    """The info of either kind of file; of safetensors without reading the weights."""
    path = located(path)
    if path.suffix != ".safetensors":
        return read_weights(path)[2]
    with opened(path) as (_, _, info):
        return info


def read_weights(path):
    """Weights (float32, on the CPU), config and info of either kind of file.

    The info says under `steps` how many steps of all trainings led to the weights, if it is known.
    """
    path = located(path)
    if path.suffix != ".safetensors":
        state = load_checkpoint(path)
        weights = state.get("ema_state_dict", state["model_state_dict"])
        info = state.get("info", {})
        refuse_misfits(path, state["config"], weights)
        return weights, state["config"], {
            **info, "steps": state.get("step", 0) + info.get("steps_before", 0)}
    with opened(path) as (file, config, info):
        weights = renamed({name: file.get_tensor(name) for name in file.keys()})
        refuse_broken_seal(path.read_bytes())
    refuse_misfits(path, config, weights)
    return {name: w.float() for name, w in weights.items()}, config, info


def start_from(model, path):
    """Load into a fresh network the weights of `path`: of its own kind, or of the other one.

    A conditional network begins as exactly the unconditional one (the condition's own layers start
    at zero), an unconditional network as exactly the null branch of the conditional one. Nothing
    else may differ.
    """
    weights, config, _ = read_weights(path)
    if model.config["condition_size"] is None and config["condition_size"] is not None:
        weights = null_branch(weights)
    mine = {name: tensor.shape for name, tensor in model.state_dict().items()}
    differ = [n for n, w in weights.items() if n not in mine or w.shape != mine[n]]
    missing = [n for n in mine if n not in weights and not is_conditional(n)]
    if differ or missing:
        different = {k: v for k, v in config.items() if model.config.get(k) != v}
        raise DataError(
            f"{path} holds another architecture ({different or differ + missing}) than the network "
            f"({ {k: model.config.get(k) for k in different} }); build the UNet with its config")
    model.load_state_dict(weights, strict=False)


def null_branch(weights):
    """Weights of the unconditional network that lives inside a conditional one.

    Without a vector the condition's layers shift and scale each block by the same numbers,
    whatever the picture and the time. Added to the biases of the block's time layer, they leave an
    unconditional network with exactly the same output.
    """
    alone = {name: w for name, w in weights.items() if not is_conditional(name)}
    embedding = F.silu(weights["null"])  # (width,)
    for name, w in weights.items():
        if name.endswith(".condition.weight"):
            block = name.removesuffix("condition.weight")
            constant = w @ embedding + weights[f"{block}condition.bias"]
            alone[f"{block}time.bias"] = alone[f"{block}time.bias"] + constant
    return alone


def is_conditional(name):
    """Does this parameter belong to the condition (encoder, null, scale-and-shift)?"""
    return name.startswith(("encoder.", "null")) or ".condition." in name
