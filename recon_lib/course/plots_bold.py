"""Figures of BOLD: responses, time courses, designs, estimates beside the truth.

Like `recon_lib.course.plots`, each function returns a matplotlib Figure.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from recon_lib.bold.betas import areas_of
from recon_lib.course.style import BLUE, COLOURS, GREY, INK, PALE, RED, WIDTH, panels, styled

TRUTH = {"color": INK, "linestyle": "--", "linewidth": 1.5}  # the truth is always drawn so


# ---- Over time ------------------------------------------------------------------------------


@styled
def responses(shapes: dict, title: str | None = None):
    """Response shapes over time, each scaled to a peak of 1, which is marked.

    Parameters
    ----------
    shapes : dict of str to (t, y) arrays
        The name "truth" is drawn dashed.
    """
    fig, ax = panels(3.4, title)
    for (name, (t, y)), colour in zip(shapes.items(), COLOURS * 9, strict=False):
        style = TRUTH if name == "truth" else {"color": colour}
        ax.plot(t, y / y.max(), label=name, **style)
        at = t[np.argmax(y)]
        ax.plot(at, 1, "o", color=style["color"])
        ax.annotate(f"{at:.1f} s", (at, 1), xytext=(5, 3), textcoords="offset points",
                    color=style["color"])
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(xlim=(0, 30), ylim=(-0.55, 1.2), xlabel="seconds after the picture",
           ylabel="response (peak = 1)")
    if len(shapes) > 1:
        ax.legend(loc="upper right")
    return fig


@styled
def time_courses(series: dict[str, np.ndarray], tr: float,
                 onsets: Sequence[float] | np.ndarray = (), ylabel: str = "% signal change",
                 title: str | None = None):
    """Lines over the time of a run, with a tick for every picture.

    Parameters
    ----------
    series : dict of str to (volumes,) array
        "truth" is drawn dashed.
    tr : float
        Seconds.
    onsets : (trials,) array
        In seconds.
    """
    fig, ax = panels(3.2, title)
    for (name, y), colour in zip(series.items(), (GREY, *COLOURS), strict=False):
        ax.plot(np.arange(len(y)) * tr, y, label=name,
                **(TRUTH if name == "truth" else {"color": colour}))
    low, high = ax.get_ylim()
    ax.vlines(onsets, low - 0.08 * (high - low), low, color=RED, linewidth=1.2)
    ax.set(xlabel="seconds (ticks: pictures)", ylabel=ylabel)
    ax.legend(loc="upper right", ncols=len(series))
    ax.set_ylim(top=high + 0.2 * (high - low))
    return fig


@styled
def stacked_courses(series: dict, tr: float, title: str | None = None):
    """One narrow panel for each (volumes,) series, on a common time axis and common scale."""
    fig, axes = panels(1.15 * len(series) + 0.6, title, len(series), sharex=True, sharey=True)
    for ax, (name, y), colour in zip(axes, series.items(), COLOURS, strict=False):
        ax.plot(np.arange(len(y)) * tr, y, color=colour, linewidth=1.5)
        ax.set_title(name, fontsize=12)
    axes[-1].set_xlabel("seconds")
    fig.supylabel("% signal change", fontsize=12)
    return fig


@styled
def design(matrix: np.ndarray, names: Sequence[str] = (), title: str | None = None):
    """A design matrix (volumes, columns) as a picture, each column scaled to its largest value."""
    fig, ax = panels(3.8, title)
    shown = matrix / np.abs(matrix).max(0)
    ax.imshow(shown, aspect="auto", interpolation="nearest", cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set(xlabel="columns", ylabel="volumes (time runs down)")
    if 0 < len(names) <= 16:
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=10)
        ax.set_xlabel("")
    ax.spines[:].set_visible(False)
    return fig


# ---- Estimates ------------------------------------------------------------------------------


@styled
def against_truth(truth: np.ndarray, estimates: dict, unit: str = "% signal change",
                  title: str | None = None):
    """Estimates (n,) against the truth (n,), one panel each, with their correlation."""
    fig, axes = panels(3.4, None, 1, len(estimates), sharex=True, sharey=True, squeeze=False)
    for ax, (name, values) in zip(axes[0], estimates.items(), strict=True):
        ax.plot(truth, values, "o", color=BLUE, markersize=4, alpha=0.6)
        ends = np.array([truth.min(), truth.max()])
        ax.plot(ends, ends, **TRUTH)
        ax.set_title(f"{name}: r = {np.corrcoef(truth, values)[0, 1]:.2f}")
    axes[0, 0].set_ylabel("estimate")
    fig.supxlabel(f"truth ({unit}; dashed: estimate = truth)", fontsize=12)
    fig.suptitle(title or "", x=0.01, ha="left", fontsize=13)
    return fig


@styled
def with_errors(seconds: np.ndarray, values: np.ndarray, errors: np.ndarray,
                fits: dict | None = None, title: str | None = None, ylabel: str = "response"):
    """Estimates with 95 % intervals (two standard errors), and curves laid over them."""
    fig, ax = panels(3.4, title)
    ax.errorbar(seconds, values, 2 * np.asarray(errors), fmt="o", color=BLUE, capsize=3)
    for (name, (t, y)), colour in zip((fits or {}).items(), COLOURS[1:], strict=False):
        ax.plot(t, y, color=colour, label=name)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(xlabel="seconds after the event", ylabel=ylabel)
    if fits:
        ax.legend(loc="upper right")
    return fig


@styled
def betas_strip(pictures: np.ndarray, values: np.ndarray, roi: np.ndarray,
                labels: Sequence[str] | None = None, title: str | None = None):
    """Some pictures, and below them the betas of all voxels, area by area.

    Parameters
    ----------
    pictures : uint8 array (n, H, W, 3)
    values : (voxels,) array
        z units.
    roi : (voxels,) str array
        Such as "LHPPA"; hemispheres are drawn together.
    labels : sequence of str, optional
        A name for each picture.
    """
    fig = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=(1.75, 1))
    axes = top.subplots(1, len(pictures), squeeze=False)[0]
    for ax, picture, label in zip(axes, pictures, labels or [""] * len(pictures), strict=True):
        ax.imshow(picture)
        ax.set_title(label, loc="center")
        ax.axis("off")
    areas = areas_of(roi)
    order = np.argsort(areas, kind="stable")
    names, first, count = np.unique(areas[order], return_index=True, return_counts=True)
    ax, limit = bottom.subplots(), 2.5 * np.std(values)
    ax.imshow(values[order][None], aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit,
              interpolation="nearest")
    ax.vlines(first[1:] - 0.5, -0.5, 0.5, color=INK)
    ax.set_xticks(first + count / 2, names)
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.set_title(title or f"{len(values)} voxels: red more than usual, blue less")
    return fig


# ---- Scores ---------------------------------------------------------------------------------


@styled
def table(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str | None = None,
          shade: np.ndarray | None = None):
    """Numbers (rows, columns) in a grid, the larger the darker.

    Parameters
    ----------
    shade : (rows, columns) array, optional
        What to shade by, from 0 to 1, where columns have different scales.
    """
    shade = np.asarray(values if shade is None else shade)
    fig, ax = panels(0.5 * len(rows) + 1.1, title)
    ax.imshow(shade, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        ax.text(j, i, f"{value:.2f}", ha="center", va="center",
                color="white" if shade[i, j] > 0.6 else INK)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xticks(range(len(columns)), columns)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


@styled
def histograms(values: dict, x: str, title: str | None = None):
    """Distributions laid over one another, each scaled to the same area; lines: means."""
    fig, ax = panels(3, title)
    bins = np.clip(min(map(len, values.values())) // 8, 10, 60)  # some eight numbers in each
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)
    for (name, numbers), colour in zip(values.items(), (GREY, BLUE, RED), strict=False):
        ax.hist(numbers, edges, density=True, color=colour, alpha=0.6, label=name)
        ax.axvline(np.mean(numbers), color=colour)
    ax.set(xlabel=x, yticks=[])
    ax.spines["left"].set_visible(False)
    ax.legend(loc="upper right")
    return fig


@styled
def shares(values: dict[str, dict], title: str | None = None):
    """Several shares for each question, as dots on one line; the control is among them.

    Parameters
    ----------
    values : dict of str to dict of str to float
        Row, then series; every row has the same series, the last of them the control.
    """
    fig, ax = panels(0.55 * len(values) + 1.5, title)
    place = np.arange(len(values))
    numbers = np.array([list(row.values()) for row in values.values()])  # (rows, series)
    ax.hlines(place, numbers.min(1), numbers.max(1), color=PALE, linewidth=3, zorder=1)
    styles = [("o", BLUE), *zip("Ds^", COLOURS[1:], strict=False)][: numbers.shape[1] - 1]
    for i, (name, (marker, colour)) in enumerate(
            zip(next(iter(values.values())), [*styles, ("X", INK)], strict=True)):
        size = 190 if i == 0 else 70  # the first still shows where another lies on it
        ax.scatter(numbers[:, i], place, size, colour, marker=marker, label=name, zorder=2,
                   edgecolors="white")
    ax.set_yticks(place, list(values))
    ax.set(xlabel="share of pictures", xlim=(-0.02, 1.02), ylim=(len(values) - 0.5, -0.5))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    fig.legend(loc="outside lower left", ncols=min(numbers.shape[1], 3), fontsize=11)
    return fig


@styled
def mosaic(values: np.ndarray, ijk: np.ndarray, most: int = 8):
    """Axial slices of a map side by side, from below: (rows, columns) array, NaN where no voxel is.

    `ijk` (voxels, 3) says where the `values` (voxels,) lie; the third counts slices. At `most` so
    many are shown, spread over those that hold voxels.
    """
    ijk = np.asarray(ijk) - np.min(ijk, 0)
    box = np.full(ijk.max(0) + 1, np.nan)
    box[tuple(ijk.T)] = values
    held = np.unique(ijk[:, 2])
    some = held[np.unique(np.linspace(0, len(held) - 1, most).round().astype(int))]
    return np.concatenate([np.pad(box[:, ::-1, k].T, 1, constant_values=np.nan) for k in some], 1)


def diagnosis(found, roi: np.ndarray, title: str | None = None, ijk: np.ndarray | None = None):
    """The page of a `bold.diagnosis.Diagnosis`: what is usual in each panel, so that oddities show.

    With the places `ijk` (voxels, 3) come maps of the variance explained and of the HRF's peak.
    """
    fig, axes = panels(7 if ijk is None else 9.5, title, 3 if ijk is None else 5, 2,
                       height_ratios=[1] * 3 if ijk is None else [1, 1, 1, 0.5, 0.5])
    voxels, area_of = found.voxels, areas_of(roi)
    largest = [area for area, _ in Counter(area_of.tolist()).most_common(12)]
    areas = [area for area in dict.fromkeys(area_of.tolist()) if area in largest]
    if ijk is not None:
        for row, key, text in ((3, "explained", "variance the mean explains"),
                               (4, "peak", "peak of the chosen HRF (s)")):
            wide = axes[row, 0].get_gridspec()[row, :]
            for ax in axes[row]:
                ax.remove()
            ax = fig.add_subplot(wide)
            shown = ax.imshow(mosaic(voxels[key], ijk), aspect="equal", interpolation="nearest")
            fig.colorbar(shown, ax=ax, pad=0.01)
            ax.set(xticks=[], yticks=[], facecolor=PALE)
            ax.set_title(f"{text}: slices from below", fontsize=10, loc="left")
    for ax, key, text in zip(axes.flat, ("explained", "peak", "ratio"), (
            "variance the mean explains", "peak of the chosen HRF (s)",
            "variance of trials / of noise"), strict=False):
        ax.hist(voxels[key][np.isfinite(voxels[key])], 30, color=BLUE)
        ax.locator_params(axis="x", nbins=4)
        ax.set(xlabel=text, ylabel="voxels")
    ax = axes[1, 1]
    if found.noise.gains is None:
        ax.text(0.5, 0.5, "no repeats: number not chosen", ha="center", transform=ax.transAxes)
    else:
        ax.plot(100 * found.noise.gains, "o-", color=BLUE)
        ax.axvline(found.noise.count, color=RED)
    ax.set(xlabel=f"noise components (taken: {found.noise.count})", ylabel="error saved (%)")
    ax = axes[2, 0]
    key = "reliability" if "reliability" in voxels else "spread"
    ax.boxplot([voxels[key][(area_of == area) & np.isfinite(voxels[key])] for area in areas],
               tick_labels=areas, showfliers=False)
    ax.tick_params(axis="x", labelsize=8)
    ax.set(ylabel="split-half reliability" if key == "reliability" else "sd of betas (%)")
    ax = axes[2, 1]
    runs = np.arange(1, len(found.runs["spread"]) + 1)
    ax.plot(runs, found.runs["spread"] / np.median(found.runs["spread"]), "o-", color=BLUE,
            label="spread of betas")
    ax.plot(runs, 100 * found.runs["outlier volumes"] / found.runs["volumes"], "x", color=RED,
            label="outlier volumes (%)")
    ax.set(xlabel="run (spread: median run = 1)")
    ax.set_ylim(0, 1.6 * ax.get_ylim()[1])
    ax.legend(loc="upper left", fontsize=9)
    return fig
