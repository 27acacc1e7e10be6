"""How figures look, and how a notebook starts."""

import threading
from contextlib import contextmanager

import matplotlib
import torch
from matplotlib.figure import Figure

# Okabe & Ito: told apart by colour-blind eyes and in print.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
RED, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
INK, GREY, PALE = "#222222", "#8A8A8A", "#C8C8C8"
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, INK)

WIDTH = 7.2  # inches; with 12-point text still readable on a phone
SHARP = 135  # dots per inch of the figures that a notebook stores; they are 1,000 pixels wide
STYLE = {
    "figure.dpi": 110,
    "figure.figsize": (WIDTH, 3.6),
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # where it would be anyway; finding out takes a third of the drawing time
    "axes.labelsize": 12,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "lines.linewidth": 2,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "image.cmap": "viridis",
    "legend.frameon": False,
}

BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # box behind a text that hides lines
# One drawing at a time: matplotlib's settings are the same for all threads, and JupyterLab answers
# each control of an explorer in a thread of its own.
DRAWING = threading.RLock()


@contextmanager
def _styled():
    with DRAWING, matplotlib.rc_context(STYLE):
        yield


styled = _styled()  # a decorator: the function draws in `STYLE`, whatever the caller's settings


def start_notebook(drive: bool = False) -> torch.device:
    """Set the style of a notebook's figures, say what it runs on, and return that device.

    Parameters
    ----------
    drive : bool
        On Colab: keep data on the user's Google Drive; see `paths.use_drive`.

    Returns
    -------
    torch.device
        A GPU where there is one.
    """
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    from recon_lib.common.paths import on_colab, use_drive

    set_matplotlib_formats("png", dpi=SHARP)
    matplotlib.rcParams.update(STYLE)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, no GPU needed"
    print(f"Running on: {name}")
    if on_colab() and device.type == "cpu":
        print("All of it works without a GPU, only slower: Runtime > Change runtime type adds one.")
    if drive:
        print(f"Data are in {use_drive()}" if on_colab() else "No Drive here: data stay local.")
    return device


def panels(height, title=None, rows=1, columns=1, **options):
    """A figure of the course's width, and its axes: one, or an array of them with a common title.

    The height is in inches; `options` are those of `Figure.subplots`.
    """
    fig = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = fig.subplots(rows, columns, **options)
    if rows * columns == 1:
        (axes if options.get("squeeze", True) else axes[0, 0]).set_title(title or "")
    else:
        fig.suptitle(title or "", x=0.01, ha="left", fontsize=13)
    return fig, axes
