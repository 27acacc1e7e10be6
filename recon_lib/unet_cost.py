"""What a U-Net costs, counted by hand: shapes, parameters and multiplications of every part."""

import inspect

from recon_lib.unet import UNet


def count(config, size):
    """Count an unconditional `UNet` without building it.

    A convolution of k x k from c to d channels has c·d·k² + d parameters and makes c·d·k²
    multiplications at every place. A linear layer is the same with k = 1 at one place. A norm has
    two parameters a channel. Attention of p places with c channels multiplies 2·p²·c times on top
    of its convolutions.

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
    default = {k: p.default for k, p in inspect.signature(UNet).parameters.items()}
    config = {**default, **config}
    channels, width, pixels = config["channels"], config["width"], config["patch"] ** 2
    pixels, rows = pixels * config["image_channels"], []

    def add(part, c, side, *layers):
        """Each layer: channels in, out, k², places (0 for a norm)."""
        rows.append({
            "part": part, "shape": (c, side, side),
            "parameters": sum(2 * i if not p else i * o * k + o for i, o, k, p in layers),
            "multiplications": sum(i * o * k * p for i, o, k, p in layers),
        })  # fmt: skip

    def stage(part, i, o, side, attend):
        p = side**2
        layers = [(i, 0, 0, 0), (i, o, 9, p), (width, 2 * o, 1, 1), (o, 0, 0, 0), (o, o, 9, p)]
        if i != o:
            layers.append((i, o, 1, p))
        if attend:
            layers += [(o, 0, 0, 0), (o, 3 * o, 1, p), (o, o, 1, p)]
        add(part, o, side, *layers)
        if attend:
            rows[-1]["multiplications"] += 2 * p**2 * o

    side, last, blocks = size // config["patch"], channels[0], config["blocks"]
    add("time", width, 1, (width, width, 1, 1), (width, width, 1, 1))
    add("enter", last, side, (pixels, last, 9, side**2))
    for level, c in enumerate(channels):
        side = side // 2 if level else side
        for block in range(blocks):
            stage(f"down {level}", last if block == 0 else c, c, side, level in config["attention"])
        last = c
    for attend in (True, False):
        stage("middle", last, last, side, attend)
    for level in reversed(range(len(channels))):
        c, above = channels[level], channels[max(level - 1, 0)]
        for _ in range(blocks):
            stage(f"up {level}", c, c, side, level in config["attention"])
        if level:
            add(f"rise {level}", above, side * 2, (c, above, 1, side**2))
            side *= 2
    add("leave", pixels, side, (channels[0], 0, 0, 0), (channels[0], pixels, 9, side**2))
    return rows
