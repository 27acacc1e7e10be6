"""Figures of notebook 00: the riddle it starts with, and what is read beside what is invented."""

import numpy as np
from matplotlib.figure import Figure

from recon_lib.style import BLUE, COLOURS, INK, PALE, WIDTH, styled


@styled
def riddle(pictures, labels, values, roi, title=None):
    """Some pictures, and below them the one vector that the brain gave, area by area.

    Parameters
    ----------
    pictures : uint8 array (n, H, W, 3)
    labels : sequence of str
        A name for each picture.
    values : (voxels,) array
        z units.
    roi : (voxels,) str array
        Such as "LHPPA"; hemispheres are drawn together.
    """
    fig = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=(1.75, 1))
    for ax, picture, label in zip(top.subplots(1, len(pictures)), pictures, labels, strict=True):
        ax.imshow(picture)
        ax.set_title(label, loc="center")
        ax.axis("off")
    ax = bottom.subplots()
    areas = np.array([name[2:] for name in roi])
    order = np.argsort(areas, kind="stable")
    names, first, count = np.unique(areas[order], return_index=True, return_counts=True)
    limit = 2.5 * np.std(values)
    ax.imshow(values[order][None], aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit,
              interpolation="nearest")
    ax.vlines(first[1:] - 0.5, -0.5, 0.5, color=INK)
    ax.set_xticks(first + count / 2, names)
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.set_title(title or f"{len(values)} voxels: red more than usual, blue less")
    return fig


@styled
def shares(table, title=None, x="share of pictures"):
    """Several shares for each thing asked, as dots on a line: what is far from the grey is read.

    Parameters
    ----------
    table : dict of str to dict of str to float
        Row, then series; every row has the same series, the last of them the control.
    """
    fig = Figure(figsize=(WIDTH, 0.55 * len(table) + 1.5), layout="constrained")
    ax = fig.add_subplot()
    series = list(next(iter(table.values())))
    place = np.arange(len(table))
    ends = np.array([[min(row.values()), max(row.values())] for row in table.values()])
    ax.hlines(place, *ends.T, color=PALE, linewidth=3, zorder=1)
    styles = [("o", BLUE), *zip("Ds^", COLOURS[1:], strict=False)]
    for i, (name, (marker, colour)) in enumerate(
            zip(series, [*styles[: len(series) - 1], ("X", INK)], strict=True)):  # fmt: skip
        size = 190 if i == 0 else 70  # the first still shows where another lies on it
        ax.scatter([row[name] for row in table.values()], place, size, colour, marker=marker,
                   label=name, zorder=2, edgecolors="white")
    ax.set_yticks(place, list(table))
    ax.set(xlabel=x, xlim=(-0.02, 1.02), ylim=(len(table) - 0.5, -0.5), title=title or "")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    fig.legend(loc="outside lower left", ncols=min(len(series), 3), fontsize=11)
    return fig
