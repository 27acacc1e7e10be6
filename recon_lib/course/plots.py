"""Every figure, as a function that returns a matplotlib Figure.

Figures are made without pyplot, so nothing is shown twice and nothing stays open: end a notebook
cell with the call, or use ``figure.savefig(path)``.
"""

import numpy as np
from matplotlib.figure import Figure

from recon_lib.course.style import BLUE, GREY, INK, PALE, RED, WIDTH, styled

LABELS = {  # how the decoders of scores.json are called in figures
    "truth": "seen",
    "diffusion": "diffusion",
    "conditional": "the network alone",
    "remembered": "likeliest memory",
    "ridge": "ridge to pixels",
    "retrieval": "nearest training image",
    "mean_image": "mean image",
    "unconditional": "no brain",
    "shuffled_brain": "shuffled brain",
    "brain_vector": "brain vector, ranking",
    "encoding_model": "encoding model, ranking",
    "ideal_observer": "ideal observer",
}
METRIC_LABELS = {
    "top1": "named right, of all test images",
    "two_way": "two-way identification",
    "two_way_within_category": "two-way identification within a category",
    "two_way_within_scene": "two-way identification within a scene",
    "pixcorr": "pixel correlation",
    "ssim": "structural similarity",
}


# ---- Pictures -------------------------------------------------------------------------------


def tile(images, columns, gap=2):
    """Lay pictures out on one white canvas, row by row.

    Parameters
    ----------
    images : uint8 array (n, H, W, C)
        C is 3, or 1 for grey.
    columns : int
    gap : int
        Pixels between pictures.

    Returns
    -------
    uint8 array (rows·(H+gap)−gap, columns·(W+gap)−gap, 3)
    """
    images = np.asarray(images)
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


@styled
def image_grid(images, columns=8, title=None, labels=None):
    """Pictures (n, H, W, C) in rows of `columns`, each with a label below it if given."""
    images = np.asarray(images)
    rows, columns = -(-len(images) // columns), min(columns, len(images))
    label_rows = 0 if labels is None else max(1, images.shape[1] // 4)  # blank pixels below
    padded = np.pad(images, ((0, 0), (0, label_rows), (0, 0), (0, 0)), constant_values=255)
    side = WIDTH / columns
    fig = _figure(WIDTH, rows * side * padded.shape[1] / padded.shape[2] + 0.4 * bool(title))
    ax = _picture(fig, tile(padded, columns), title)
    height, width = padded.shape[1] + 2, padded.shape[2] + 2
    for i, label in enumerate([] if labels is None else labels):
        ax.text(i % columns * width + width / 2, i // columns * height + images.shape[1] + 1,
                label, ha="center", va="top", fontsize=min(11, 80 / columns))
    return fig


def pairs(seen, made, columns=12, title=None):
    """Rows of pictures seen (n, H, W, C), each with the row of its reconstructions below it."""
    blank = np.full((-len(seen) % columns, *seen.shape[1:]), 255, np.uint8)
    seen, made = (np.concatenate([part, blank]) for part in (seen, made))
    rows = [part[i : i + columns] for i in range(0, len(seen), columns) for part in (seen, made)]
    return image_grid(np.concatenate(rows), columns, title)


@styled
def reconstructions(rows, title=None, columns=None):
    """The main figure: one row for each decoder, one column for each picture seen.

    Parameters
    ----------
    rows : dict of str to uint8 array (n, H, W, C)
        Label and pictures of each row. Keys of `LABELS` are spelt out; "seen" is in bold.
    columns : sequence of str, optional
        A heading for each column.

    Returns
    -------
    Figure
    """
    n, height, width, _ = np.shape(next(iter(rows.values())))
    gap = max(2, height // 16)
    canvas = tile(np.concatenate([np.asarray(r) for r in rows.values()]), n, gap)
    margin = 1.55  # inches of labels at the left
    inch = max(WIDTH - margin, 0.62 * n) / canvas.shape[1]  # inches a pixel
    head = 0.4 * bool(title) + 0.3 * (columns is not None) + 0.05
    wide, high = canvas.shape[1] * inch + margin, canvas.shape[0] * inch + head
    fig = Figure(figsize=(wide, high))
    ax = fig.add_axes((margin / wide, 0, 1 - margin / wide, 1 - head / high))
    ax.imshow(canvas)
    ax.axis("off")
    for i, label in enumerate(LABELS.get(name, name) for name in rows):
        ax.text(-gap * 2, i * (height + gap) + height / 2, label, ha="right", va="center",
                fontweight="bold" if label == "seen" else "normal")
    for i, label in enumerate(columns or []):
        ax.text(i * (width + gap) + width / 2, -gap, label, ha="center", va="bottom", fontsize=10)
    if title:
        fig.text(0.01, 1 - 0.1 / high, title, va="top", fontsize=13)
    return fig


@styled
def rdm(matrix, labels=None, title=None):
    """A representational dissimilarity matrix (n, n); `labels` (n,) name sorted groups of rows."""
    fig = Figure(figsize=(WIDTH * 0.8, WIDTH * 0.6), layout="compressed")
    ax = fig.add_subplot()
    shown = ax.imshow(matrix, interpolation="nearest")
    fig.colorbar(shown, ax=ax, label="dissimilarity (1 − r)", shrink=0.8)
    names, first, count = [], [], len(matrix)
    if labels is not None:
        names, first, count = np.unique(np.asarray(labels), return_index=True, return_counts=True)
    ax.set_xticks([])
    ax.set_yticks(np.asarray(first) + (np.asarray(count) - 1) / 2 if len(names) else [], names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title or "")
    return fig


# ---- Numbers --------------------------------------------------------------------------------


@styled
def curves(series, x="step", y="loss", log=False, title=None, chance=None):
    """Lines with their names at their ends.

    Parameters
    ----------
    series : dict of str to array (n,) or pair of arrays (n,), (n,)
        y, or (x, y), for each line.
    chance : float, optional
        A dashed line at this height.
    """
    fig = _figure(WIDTH, 3.6)
    ax = fig.add_subplot()
    ax.set_yscale("log" if log else "linear")
    ends = []  # (x, y), name and colour of the end of each line
    for name, values in series.items():
        at, values = values if isinstance(values, tuple) else (np.arange(len(values)), values)
        (line,) = ax.plot(at, values)
        ends.append(((at[-1], values[-1]), name, line.get_color()))
    if len(series) > 1:
        _label_ends(ax, ends)
    if chance is not None:
        ax.axhline(chance, color=GREY, linestyle="--", linewidth=1)
        ax.annotate("chance", (0.01, chance), xycoords=("axes fraction", "data"), color=GREY,
                    xytext=(0, 3), textcoords="offset points")
    ax.set(xlabel=x, ylabel=y, title=title or "")
    return fig


def _label_ends(ax, ends, gap=14):
    """Write the names of lines at their ends, `gap` points apart at least."""
    ax.autoscale_view()
    height = 0.8 * 72 * ax.figure.get_figheight()  # of the axes, in points, about
    below = -np.inf
    to_axes = ax.transData + ax.transAxes.inverted()
    for end, name, colour in sorted(ends, key=lambda item: item[0][1]):
        here = height * to_axes.transform(end)[1]
        below = max(here, below + gap)
        ax.annotate(f" {name}", end, color=colour, va="center", xytext=(4, below - here),
                    textcoords="offset points", annotation_clip=False)


@styled
def bars(values, x="", chance=None, highlight=(), errors=None, title=None):
    """Horizontal bars with their values written at their ends.

    Parameters
    ----------
    values : dict of str to float
        From top to bottom.
    chance : float, optional
        A dashed line.
    highlight : collection of str
        The bars to draw in colour.
    errors : dict of str to float, optional
        Half lengths of error bars.
    """
    fig = _figure(WIDTH, 0.42 * len(values) + 1 + 0.3 * bool(title))
    ax = fig.add_subplot()
    length, place = list(values.values()), np.arange(len(values))
    colours = [BLUE if name in highlight or not highlight else PALE for name in values]
    half = None if errors is None else [errors.get(name, 0) for name in values]
    ax.barh(place, length, color=colours, height=0.7, xerr=half, ecolor=INK)
    for i, value in enumerate(length):
        ax.annotate(f"{value:.2f}", (max(value, 0) + (half[i] if half else 0), i), va="center",
                    xytext=(5, 0), textcoords="offset points",
                    bbox=dict(facecolor="white", edgecolor="none", pad=1))
    if chance is not None:
        ax.axvline(chance, color=RED, linestyle="--", linewidth=1.5)
        ax.annotate("chance", (chance, -0.55), color=RED, va="bottom", ha="left",
                    xytext=(3, 0), textcoords="offset points")
    ax.set_yticks(place, [LABELS.get(name, name) for name in values])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel=x, title=title or "", ylim=(len(values) - 0.4, -0.6 - 0.5 * (chance is not None)))
    ax.margins(x=0.12)
    return fig


def score_bars(table, metric="top1", title=None):
    """One metric of `report.report`'s table: all decoders, best first, and chance."""
    scores = {n: row[metric] for n, row in table.items() if metric in row and n != "chance"}
    scores = dict(sorted(scores.items(), key=lambda item: -item[1]))
    return bars(scores, METRIC_LABELS.get(metric, metric), table.get("chance", {}).get(metric),
                highlight={"diffusion"}, title=title)


@styled
def null_histogram(null, observed, x="score", title=None):
    """A permutation null distribution (n,) with the observed value in it, or far from it."""
    fig = _figure(WIDTH, 3)
    ax = fig.add_subplot()
    ax.hist(null, bins="auto", color=PALE)
    ax.axvline(observed, color=BLUE)
    top = ax.get_ylim()[1]
    right = observed > np.mean(ax.get_xlim())
    ax.annotate(f"observed {observed:.3f}", (observed, top), color=BLUE, va="top",
                ha="right" if right else "left", xytext=(-6 if right else 6, 0),
                textcoords="offset points")
    ax.annotate("labels permuted", (np.mean(null), top), ha="center", va="bottom", color=INK)
    ax.set(xlabel=x, ylabel="permutations", title=title or "")
    return fig


def _figure(width, height):
    return Figure(figsize=(width, height), layout="constrained")


def _picture(fig, canvas, title):
    ax = fig.add_subplot()
    ax.imshow(canvas)
    ax.axis("off")
    ax.set_title(title or "")
    return ax
