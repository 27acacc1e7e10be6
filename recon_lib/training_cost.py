"""What a training costs: operations counted, hours derived. Estimates, and said so."""

from recon_lib.unet_cost import count

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
    forth: 6 for each multiplication that `unet_cost.count` finds. The condition's own layers are
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
