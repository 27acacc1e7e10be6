"""Devices, and the precision in which each computes."""

import os
import warnings
from functools import cache
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from recon_lib.common.errors import DataError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(device="auto"):
    """Turn "auto" into "cuda", "mps" or "cpu": the first that is there.

    "cuda" or "mps" on a machine without it warns and becomes "cpu". The path for "mps" (Apple's
    GPUs) is tested with the device mocked; it has not been run on a real one.
    """
    if device not in ("auto", "cuda", "mps", "cpu"):
        raise DataError(f"device is {device!r}; choose auto, cuda, mps or cpu")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there[device]:
        warnings.warn(f"no {device.upper()} device found: using the CPU", stacklevel=4)
        return "cpu"
    return device


@cache
def cpu_has_bf16_units():
    """Whether this processor has matrix units for bfloat16 (AMX); without them it is far slower.

    PyTorch knows, but tells only by a private function; where that is missing, Linux tells.
    """
    try:
        return bool(torch.cpu._is_amx_tile_supported())
    except AttributeError:
        pass
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def pick_precision(device):
    """The precision in which a kind of device multiplies: "bf16", "fp16" or "no" (float32).

    A table of what devices can do, so that the same machine always computes in the same one:

    | device | precision |
    |---|---|
    | CUDA GPU with bfloat16 | bf16 |
    | CUDA GPU without (a T4) | fp16, in training with its loss scaled |
    | CPU with matrix units for bfloat16 | bf16 |
    | any other CPU, Apple's GPUs | no |

    fp16 has not been run on a real GPU; it is tested with the device mocked.
    """
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device == "cpu" and cpu_has_bf16_units() else "no"


def computed_on(device):
    """What the last bits of a result depend on beside its seed, to be written into the result."""
    device = pick_device(device)
    return {"device": device, "precision": pick_precision(device),
            "threads": torch.get_num_threads(), "torch": torch.__version__}


def autocast(device: torch.device):
    """Networks run within this in the precision of `pick_precision`; device is a torch.device."""
    dtype = DTYPES.get(pick_precision(device.type))
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def make_accelerator(device="auto", precision=None, **options):
    """An Accelerator for a device (`pick_device`); it serves `accelerate launch` too.

    `precision` is "no", "bf16" or, on a CUDA GPU, "fp16"; by default that of `pick_precision`.
    `options` are handed to `accelerate.Accelerator`.
    """
    device = pick_device(device)
    precision = pick_precision(device) if precision is None else precision
    if precision not in ("no", *DTYPES) or (precision == "fp16" and device != "cuda"):
        raise DataError(f"precision is {precision!r} on {device}; choose no or bf16, or on a CUDA "
                        "GPU fp16")
    if "WORLD_SIZE" not in os.environ:  # a notebook may train twice, on different devices
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device == "cpu", mixed_precision=precision, **options)


def close_process_group():
    """Let the processes of `accelerate launch` end in good order, after the last training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
