"""What a network and its training cost: operations counted, hours derived (estimates)."""

import inspect

import numpy as np

from recon_lib.unet import UNet

# Peak rates in operations a second, from the makers' data sheets: dense bfloat16. Of the T4, which
# has none, float32: its float16 (65e12), in which training runs there, has not been tried on one.
PEAK = {"T4": 8.1e12, "A100": 312e12, "8 x A100": 8 * 312e12}
# Share of the peak that small U-Nets reach. Wide on purpose: measure yours, in the first minute.
USE = (0.05, 0.30)


def count(config, size):
    """Shapes, parameters and multiplications of every part of an unconditional `UNet`.

    By arithmetic, without building it; the tests hold it against what torch counts.

    Parameters
    ----------
    config : dict
        Arguments of `UNet`; what is missing has its default. Its condition is left out.
    size : int
        Side of the pictures in pixels, divisible by the network's stride.

    Returns
    -------
    list of dict
        One for each part: `part`, `shape` (channels, side, side) of what it passes on,
        `parameters`, `multiplications` (for one picture; each comes with an addition, so that one
        is two FLOPs).
    """
    network = inspect.signature(UNet).bind(**config)
    network.apply_defaults()
    channels, blocks, patch, attention, width = (
        network.arguments[k] for k in ("channels", "blocks", "patch", "attention", "width"))
    pixels, first = network.arguments["image_channels"] * patch**2, channels[0]
    sides = [size // patch >> level for level in range(len(channels))]
    above = [first, *channels]  # channels of the level above each
    rows = []

    def note(part, cost, *shape):
        rows.append({"part": part, "shape": shape, "parameters": int(cost[0]),
                     "multiplications": int(cost[1])})

    note("time", 2 * _layer(width, width), width)
    note("conv_in", _layer(pixels, first, sides[0] ** 2, 3), first, sides[0], sides[0])
    for level, (c, side) in enumerate(zip(channels, sides, strict=True)):
        for stage in range(blocks):
            cost = _stage(c if stage else above[level], c, width, side**2, level in attention)
            note(f"down {level}", cost, c, side, side)
    for attend in (True, False):
        note("middle", _stage(c, c, width, side**2, attend), c, side, side)
    for level, (c, side) in reversed(list(enumerate(zip(channels, sides, strict=True)))):
        for _ in range(blocks):
            note(f"up {level}", _stage(c, c, width, side**2, level in attention), c, side, side)
        if level:
            note(f"up_conv {level}", _layer(c, above[level], side**2), above[level], side, side)
    note("norm", _norm(first), first, sides[0], sides[0])
    note("conv_out", _layer(first, pixels, sides[0] ** 2, 3), pixels, sides[0], sides[0])
    return rows


def _layer(c_in, c_out, places=1, kernel=1):
    """Parameters and multiplications of a convolution, or of a linear layer: at one place."""
    weights = c_in * c_out * kernel**2
    return np.array([weights + c_out, weights * places])


def _norm(channels):
    return np.array([2 * channels, 0])


def _stage(c_in, c_out, width, places, attend):
    """The same of a `unet.Stage`: a residual block and, where asked for, attention."""
    cost = _norm(c_in) + _layer(c_in, c_out, places, 3) + _layer(width, 2 * c_out)
    cost += _norm(c_out) + _layer(c_out, c_out, places, 3)
    if c_in != c_out:
        cost += _layer(c_in, c_out, places)
    if attend:  # all pairs of places twice: their likeness, and the weighted sum
        cost += _norm(c_out) + _layer(c_out, 3 * c_out, places) + _layer(c_out, c_out, places)
        cost[1] += 2 * places**2 * c_out
    return cost


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
