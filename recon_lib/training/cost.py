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


# Peak rates in operations a second, from the makers' data sheets: dense bfloat16, but for the T4,
# which has none and computes in float32.
PEAK = {"T4": 8.1e12, "A100": 312e12, "8 x A100": 8 * 312e12}


# Share of the peak that small U-Nets reach. Wide on purpose: measure yours, in the first minute.
USE = (0.05, 0.30)


PLANS = {  # for BOLD5000, one subject; 1 step sees `batch` pictures over all GPUs
    "T4": dict(size=64, batch=64, steps=100_000,  # the network of `recipes`
               network=dict(channels=(32, 96, 192, 256), patch=2, attention=(2, 3))),
    "A100": dict(size=128, batch=256, steps=150_000,
                 network=dict(channels=(128, 256, 384, 512), attention=(2, 3))),
    "8 x A100": dict(size=256, batch=512, steps=200_000,
                     network=dict(channels=(192, 384, 512, 768), attention=(2, 3), blocks=2)),
}  # fmt: skip


def operations(network, size, pictures):
    """Floating-point operations of training on so many pictures (each as often as it is seen).

    A multiplication with its addition is two operations, and the way back costs twice the way
    forth: 6 for each multiplication that `cost.count` finds. The condition's own layers are
    a few per cent more and are left out.

    Parameters
    ----------
    network : dict
        Arguments of `UNet`.
    size : int
        Side of the pictures.
    pictures : float
    """
    return 6.0 * pictures * sum(row["multiplications"] for row in count(network, size))


def hours(total, peak):
    """Fewest and most hours for `total` operations, at the shares of the peak in `USE`."""
    return total / (peak * USE[1]) / 3600, total / (peak * USE[0]) / 3600


def plan(name):
    """A plan's cost: a dict with `parameters`, `pictures`, `operations` and `hours` (two)."""
    p = PLANS[name]
    pictures = p["batch"] * p["steps"]
    total = operations(p["network"], p["size"], pictures)
    rows = count(p["network"], p["size"])
    return {"parameters": sum(row["parameters"] for row in rows), "pictures": pictures,
            "operations": total, "hours": hours(total, PEAK[name])}  # fmt: skip
