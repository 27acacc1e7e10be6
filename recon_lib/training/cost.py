"""What a network and its training cost: operations counted by torch, hours derived (estimates)."""

import json
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recon_lib.unet import UNet

# Peak rates in operations a second, from the makers' data sheets: dense bfloat16. Of the T4, which
# has none, float32: its float16 (65e12), in which training runs there, has not been tried on one.
PEAK = {"T4": 8.1e12, "A100": 312e12, "8 x A100": 8 * 312e12}
# Share of the peak that small U-Nets reach. Wide on purpose: measure yours, in the first minute.
USE = (0.05, 0.30)


def count(config, size):
    """Shapes, parameters and multiplications of every part of an unconditional `UNet`.

    Nothing is computed: torch counts a forward pass of tensors without memory (the meta device).

    Parameters
    ----------
    config : dict
        Arguments of `UNet`; what is missing has its default.
    size : int
        Side of the pictures in pixels, divisible by the network's stride.

    Returns
    -------
    list of dict
        One for each part, in the order of the computation: `part`, `shape` (channels, side, side)
        of what it passes on, `parameters`, `multiplications` (for one picture; each comes with
        an addition, so that one is two FLOPs).
    """
    return [dict(row) for row in _counted(json.dumps(config, default=int), size)]


@lru_cache(maxsize=64)
def _counted(config, size):
    """The rows of `count`; an explorer asks for the same ones again and again."""
    with torch.device("meta"):
        model = UNet(**json.loads(config))
        x = torch.empty(1, model.config["image_channels"], size, size)
        t = torch.empty(1, dtype=torch.long)
    rows, counter = [], FlopCounterMode(display=False)

    def watch(name, module):
        def note(module, inputs, output):
            before = sum(row["multiplications"] for row in rows)
            rows.append({"part": name, "shape": tuple(output.shape[1:]),
                         "parameters": sum(p.numel() for p in module.parameters()),
                         "multiplications": counter.get_total_flops() // 2 - before})

        module.register_forward_hook(note)

    for name in ("time", "conv_in", "norm", "conv_out"):
        watch(name, getattr(model, name))
    for name in ("down", "up"):
        for level, stages in enumerate(getattr(model, name)):
            for stage in stages:
                watch(f"{name} {level}", stage)
    for stage in model.middle:
        watch("middle", stage)
    for level, convolution in enumerate(model.up_conv):
        if level:
            watch(f"up_conv {level}", convolution)
    # torch does not count every fused attention, so the plain one
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(x, t)
    return rows


def operations(network, size, pictures):
    """Floating-point operations of training a `UNet(**network)` on so many pictures of side `size`.

    A picture counts as often as it is seen. A multiplication with its addition is two operations,
    and the way back costs twice the way forth: 6 for each multiplication that `count` finds. The
    condition's own layers are a few per cent more and are left out.
    """
    return 6.0 * pictures * sum(row["multiplications"] for row in count(network, size))


def hours(total, peak):
    """Fewest and most hours for `total` operations, at the shares of the peak in `USE`."""
    return total / (peak * USE[1]) / 3600, total / (peak * USE[0]) / 3600
