"""Every figure, as a function that returns a matplotlib Figure.

Figures are made without pyplot, so nothing is shown twice and nothing stays open: end a notebook
cell with the call, or use ``figure.savefig(path)``.
"""

import base64
import io
from collections.abc import Collection, Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from recon_lib.course.style import BEHIND, BLUE, GREY, INK, PALE, RED, WIDTH, panels, styled

LABELS = {  # how the decoders of scores.json are called in figures
    "truth": "seen",
    "diffusion": "diffusion",
    "conditional": "the network alone",
    "map_retrieval": "MAP retrieval",
    "posterior_retrieval": "nearest to the posterior mean",
    "inverse_retinotopy": "inverse retinotopy",
    "ridge": "ridge to pixels",
    "retrieval": "nearest training image",
    "mean_image": "mean image",
    "unconditional": "no brain",
    "shuffled_brain": "shuffled brain",
    "brain_vector": "brain vector, ranking",
    "encoding_model": "encoding model, ranking",
    "ideal_observer": "ideal observer",
}


# ---- Pictures -------------------------------------------------------------------------------


def tile(images, columns, gap=2):
    """Pictures (n, H, W, C) uint8 on one white canvas (height, width, 3), `gap` pixels apart."""
    (n, height, width), columns = np.shape(images)[:3], min(columns, len(images))
    rows, tall, wide = -(-n // columns), height + gap, width + gap
    cells = np.full((rows * columns, tall, wide, 3), 255, np.uint8)
    cells[:n, :height, :width] = images  # one channel becomes three
    canvas = cells.reshape(rows, columns, tall, wide, 3).swapaxes(1, 2)
    canvas = canvas.reshape(rows * tall, columns * wide, 3)
    return canvas[: rows * tall - gap, : columns * wide - gap]


def show(ax, images, columns, gap=2, headings=(), size=12):
    """Pictures (n, H, W, C) on an axis, headings above the columns; returns where columns begin."""
    ax.imshow(tile(images, columns, gap))
    ax.axis("off")
    width = np.shape(images)[2]
    left = (width + gap) * np.arange(columns)
    for x, heading in zip(left, headings, strict=False):
        ax.text(x + width / 2, -gap / 2, heading, ha="center", va="bottom", fontsize=size)
    return left


@styled
def image_grid(images: np.ndarray, columns: int = 8, title: str | None = None,
               labels: Sequence[str] = ()):
    """Pictures (n, H, W, C) in rows of `columns`, each with a label below it if given."""
    images = np.asarray(images)
    rows, columns = -(-len(images) // columns), min(columns, len(images))
    label_rows = max(1, images.shape[1] // 4) if len(labels) else 0  # blank pixels below
    padded = np.pad(images, ((0, 0), (0, label_rows), (0, 0), (0, 0)), constant_values=255)
    height, width = padded.shape[1:3]
    fig, ax = panels(rows * WIDTH / columns * height / width + 0.4 * bool(title), title)
    show(ax, padded, columns)
    for i, label in enumerate(labels):
        row, column = divmod(i, columns)
        ax.text(column * (width + 2) + width / 2, row * (height + 2) + images.shape[1] + 1,
                label, ha="center", va="top", fontsize=min(11, 80 / columns))
    return fig


def animation(frames: Sequence[np.ndarray], alt: str, width: int = 640):
    """Pictures that change, side by side, as a GIF that repeats: for the end of a cell.

    Each frame stands for 0.2 s, the last for 0.6 s. The last frame comes first: it is what a
    printer shows.

    Parameters
    ----------
    frames : sequence of uint8 array (n, H, W, 3)
        The n pictures of each moment.
    alt : str
        The animation in words.
    width : int
        In pixels, on the page.

    Returns
    -------
    IPython.display.HTML
    """
    from IPython.display import HTML

    pages = [Image.fromarray(tile(frame, len(frame))).quantize(64, dither=Image.Dither.NONE)
             for frame in frames]
    film, times = io.BytesIO(), [600, *[200] * (len(pages) - 1)]  # ms
    pages[-1].save(film, "gif", save_all=True, append_images=pages[:-1], duration=times, loop=0)
    data = base64.b64encode(film.getvalue()).decode()
    return HTML(f'<img alt="{escape(alt)}" src="data:image/gif;base64,{data}" '
                f'style="width: {width}px; max-width: 100%; image-rendering: pixelated">')


def pairs(seen, made, columns=12, title=None):
    """Rows of pictures seen (n, H, W, C), each with the row of its reconstructions below it."""
    blank = np.full((-len(seen) % columns, *seen.shape[1:]), 255, np.uint8)
    seen, made = (np.concatenate([part, blank]) for part in (seen, made))
    rows = [part[i : i + columns] for i in range(0, len(seen), columns) for part in (seen, made)]
    return image_grid(np.concatenate(rows), columns, title)


@styled
def reconstructions(rows: dict[str, np.ndarray], title: str | None = None,
                    columns: Sequence[str] = ()):
    """The main figure: one row for each decoder, one column for each picture seen.

    Parameters
    ----------
    rows : dict of str to uint8 array (n, H, W, C)
        Label and pictures of each row. Keys of `LABELS` are spelt out; "seen" is in bold.
    columns : sequence of str, optional
        A heading for each column.
    """
    n, height, width, _ = np.shape(next(iter(rows.values())))
    gap = max(2, height // 16)
    margin = 1.55  # inches of labels at the left
    inch = max(WIDTH - margin, 0.62 * n) / (n * (width + gap) - gap)  # inches a pixel
    head = 0.4 * bool(title) + 0.3 * bool(columns) + 0.05
    wide = max(WIDTH, 0.62 * n + margin)
    high = (len(rows) * (height + gap) - gap) * inch + head
    fig = Figure(figsize=(wide, high))
    ax = fig.add_axes((margin / wide, 0, 1 - margin / wide, 1 - head / high))
    show(ax, np.concatenate(list(rows.values())), n, gap, columns, size=10)
    for i, label in enumerate(LABELS.get(name, name) for name in rows):
        ax.text(-gap * 2, i * (height + gap) + height / 2, label, ha="right", va="center",
                fontweight="bold" if label == "seen" else "normal")
    fig.text(0.01, 1 - 0.1 / high, title or "", va="top", fontsize=13)
    return fig


@styled
def rdm(matrix: np.ndarray, labels: Sequence[str] | None = None, title: str | None = None):
    """A representational dissimilarity matrix (n, n); `labels` (n,) name sorted groups of rows."""
    fig = Figure(figsize=(WIDTH * 0.8, WIDTH * 0.6), layout="compressed")
    ax = fig.add_subplot(title=title or "", xticks=[], yticks=[])
    fig.colorbar(ax.imshow(matrix, interpolation="nearest"), ax=ax, label="dissimilarity (1 − r)",
                 shrink=0.8)
    if labels is not None:
        names, first, count = np.unique(labels, return_index=True, return_counts=True)
        ax.set_yticks(first + (count - 1) / 2, names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


# ---- Numbers --------------------------------------------------------------------------------


@styled
def curves(series: dict, x: str = "step", y: str = "loss", log: bool = False,
           title: str | None = None, chance: float | None = None):
    """Lines with their names at their ends.

    Parameters
    ----------
    series : dict of str to array (n,) or pair of arrays (n,), (n,)
        y, or (x, y), for each line.
    chance : float, optional
        A dashed line at this height.
    """
    fig, ax = panels(3.6, title)
    ax.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
    for name, values in series.items():
        ax.plot(*(values if isinstance(values, tuple) else (np.arange(len(values)), values)),
                label=name)
    if log:  # 0.02, 0.05, 0.1: round numbers that fit a range of any size
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    if len(series) > 1:
        _label_ends(ax)
    if chance is not None:
        free = [min(abs(line.get_ydata()[i] - chance) for line in ax.lines) for i in (0, -1)]
        side = free[1] > free[0]  # where the lines are farther away
        ax.axhline(chance, color=GREY, linestyle="--", linewidth=1)
        ax.annotate("chance", (0.99 if side else 0.01, chance), color=GREY,
                    xycoords=("axes fraction", "data"), ha="right" if side else "left",
                    xytext=(0, 3), textcoords="offset points")
    return fig


def _label_ends(ax, gap=14):
    """Write the labels of lines at their ends, `gap` points apart at least."""
    ax.autoscale_view()
    height = 0.8 * 72 * ax.figure.get_figheight()  # of the axes, in points, about
    below = -np.inf
    to_axes = ax.transData + ax.transAxes.inverted()
    for line in sorted(ax.lines, key=lambda line: line.get_ydata()[-1]):
        end = line.get_xydata()[-1]
        here = height * to_axes.transform(end)[1]
        below = max(here, below + gap)
        ax.annotate(f" {line.get_label()}", end, color=line.get_color(), va="center",
                    xytext=(4, below - here), textcoords="offset points", annotation_clip=False)


@styled
def bars(values: dict[str, float], x: str = "", highlight: Collection[str] = (),
         title: str | None = None):
    """Horizontal bars with their values written at their ends.

    Parameters
    ----------
    values : dict of str to float
        From top to bottom.
    highlight : collection of str
        The bars to draw in colour; when left out, all are.
    """
    fig, ax = panels(0.42 * len(values) + 1 + 0.3 * bool(title), title)
    place = np.arange(len(values))
    colours = [BLUE if name in highlight or not highlight else PALE for name in values]
    ax.barh(place, values.values(), color=colours, height=0.7)
    for i, value in enumerate(values.values()):
        ax.annotate(f"{value:.2f}", (max(value, 0), i), va="center", xytext=(5, 0),
                    textcoords="offset points", bbox=BEHIND)
    ax.set_yticks(place, [LABELS.get(name, name) for name in values])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel=x, ylim=(len(values) - 0.4, -0.6))
    ax.margins(x=0.12)
    return fig


def decimals(widths):
    """How many decimals are worth printing of estimates whose intervals are so wide (n,)."""
    known = [width for width in widths if width > 0]
    return int(np.clip(-np.floor(np.log10(np.median(known) / 4)), 0, 3)) if known else 2


@styled
def dots(values: dict[str, tuple], x: str = "", chance: float | None = None,
         title: str | None = None, highlight: Collection[str] = ()):
    """Estimates as dots with their intervals, and their values written above them.

    Parameters
    ----------
    values : dict of str to (value, low, high)
        From top to bottom: an estimate and the ends of its interval.
    chance : float, optional
        A dashed line.
    highlight : collection of str
        What to draw in blue, all the rest in grey; when left out, all is blue.
    """
    fig, ax = panels(0.5 * len(values) + 1 + 0.3 * bool(title))
    fig.suptitle(title or "", x=0.01, ha="left", fontsize=13)  # over the names too: it is long
    digits = decimals([high - low for _, low, high in values.values()])
    for i, (name, (value, low, high)) in enumerate(values.items()):
        colour = BLUE if name in highlight or not highlight else GREY
        ax.hlines(i, low, high, color=colour, linewidth=3)
        ax.plot(value, i, "o", color=colour, markersize=8)
        ax.annotate(f"{value:.{digits}f}", (value, i), ha="center", va="bottom", color=colour,
                    xytext=(0, 5), textcoords="offset points", bbox=BEHIND)
    if chance is not None:
        ax.axvline(chance, color=RED, linestyle="--", linewidth=1.5, zorder=0)
    ax.set_yticks(range(len(values)), [LABELS.get(name, name) for name in values])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel=x, ylim=(len(values) - 0.6, -0.8))
    ax.margins(x=0.08)
    return fig


@styled
def null_histogram(null: np.ndarray, observed: float, x: str = "score", title: str | None = None):
    """A permutation null distribution (n,) with the observed value in it, or far from it."""
    fig, ax = panels(3, title)
    ax.hist(null, bins="auto", color=PALE)
    ax.axvline(observed, color=BLUE)
    top = 1.2 * ax.get_ylim()[1]  # both labels stand above the bars
    ax.set_ylim(0, top)
    right = observed > np.mean(ax.get_xlim())
    ax.annotate(f"observed {observed:.3f}", (observed, top), color=BLUE, va="top",
                ha="right" if right else "left", xytext=(-6 if right else 6, 0),
                textcoords="offset points")
    ax.annotate("labels permuted", (np.mean(null), top), ha="center", va="top", color=INK)
    ax.set(xlabel=x, ylabel="permutations")
    return fig
