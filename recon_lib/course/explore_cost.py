"""What will it cost to train on real pictures?"""

import numpy as np

from recon_lib.course.explorer import Explorer, choice, sheet, slider
from recon_lib.course.style import BEHIND, BLUE, INK
from recon_lib.training.cost import PEAK, USE, count, hours, operations

WIDTHS = {"64": (64, 128, 192), "96": (96, 160, 256), "128": (128, 256, 384)}
MACHINES = ("T4", "A100")  # networks of these widths are too small for eight at once
UNITS = {"years": 24 * 365, "days": 24, "h": 1, "min": 1 / 60, "s": 1 / 3600}  # hours in each
MARKS = {1 / 60: "a minute", 1: "an hour", 24: "a day", 24 * 30: "a month"}


def cost_explorer() -> Explorer:
    """Hours of training for a network, a picture size and a number of pictures seen.

    Returns
    -------
    Explorer
        `numbers`: `parameters`, `operations`, `hours` {machine: (fewest, most)}.
    """
    controls = {
        "size": choice("picture (px)", [64, 128, 256]),
        "channels": choice("channels on top", list(WIDTHS)),
        "patch": choice("patch (px)", [1, 2, 4, 8], 4),
        "millions": slider("million pictures", 20.0, 0.5, 100.0, 0.5),
    }
    return Explorer(controls, cost_numbers, draw_cost, lambda n: (
        f"{n['parameters'] / 1e6:.1f} M parameters, {n['operations']:.1e} operations; on one A100 "
        + " to ".join(map(duration, n["hours"]["A100"]))))


def cost_numbers(size, channels, patch, millions):
    """The numbers behind `cost_explorer`."""
    network = {"channels": WIDTHS[channels], "patch": patch}
    total = operations(network, size, millions * 1e6)
    return {
        "parameters": sum(row["parameters"] for row in count(network, size)), "operations": total,
        "hours": {name: hours(total, PEAK[name]) for name in MACHINES},
    }


def duration(hours):
    """Hours in words, two digits in the largest unit that is shorter: 0.79 -> "47 min"."""
    unit = next((name for name, length in UNITS.items() if hours > length), "s")
    return f"{float(f'{hours / UNITS[unit]:.2g}'):g} {unit}"


def lay_cost(fig):
    """Axes with plain numbers at a few ticks, which are quick to draw."""
    ax = fig.subplots()
    ax.set(xscale="log", xlim=(1e-5, 1e5), ylim=(len(MACHINES) - 0.3, -0.6),
           xlabel=f"hours at {USE[0]:.0%} to {USE[1]:.0%} of the peak rate (an estimate)")
    ax.set_xticks([1e-4, 1e-2, 1, 100, 1e4], ["0.0001", "0.01", "1", "100", "10,000"])
    ax.minorticks_off()
    ax.set_yticks(range(len(MACHINES)), MACHINES)
    ax.tick_params(axis="y", length=0)
    fig.subplots_adjust(0.13, 0.24, 0.96, 0.88)


@sheet(2.6, lay_cost)
def draw_cost(fig, numbers):
    """From the fewest to the most hours on each machine."""
    (ax,) = fig.axes
    for i, (low, high) in enumerate(numbers["hours"].values()):
        ax.plot([low, high], [i, i], color=BLUE, linewidth=12, solid_capstyle="butt")
        centre = np.clip(np.sqrt(low * high), 3e-4, 4e3)  # the text stays on the sheet
        ax.annotate(f"{duration(low)} to {duration(high)}", (centre, i), ha="center",
                    xytext=(0, -19), textcoords="offset points", fontsize=11, bbox=BEHIND)
    for mark, label in MARKS.items():
        ax.axvline(mark, color=INK, linestyle=":", linewidth=1)
        ax.annotate(label, (mark, -0.62), ha="center", va="bottom", fontsize=10,
                    annotation_clip=False)
