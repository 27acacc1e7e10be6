"""The cortex, and a slice through a real one."""

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from recon_lib.common.errors import DataError
from recon_lib.course.style import GREY, panels, styled

# About where such areas lie in the left hemisphere (MNI, mm; then a radius): round numbers for a
# drawing, and nobody's own outlines.
CENTRES = {"EarlyVis": (-8, -96, 2, 16), "LOC": (-44, -74, -6, 13), "OPA": (-34, -84, 20, 10),
           "PPA": (-26, -46, -10, 12), "RSC": (-14, -58, 10, 9)}
VIEWS = {"from outside": "-y z -x", "from inside": "y z x", "from below": "y x -z"}


@styled
def cortex(colours: dict[str, str], title: str | None = None):
    """The left hemisphere, inflated, from three sides, with areas in colour.

    Parameters
    ----------
    colours : dict of str to colour
        Of areas in `CENTRES`. An area is a disc around the place where it usually lies.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If nilearn, which brings the surface along, is not installed.
    """
    try:
        from nilearn.datasets import fetch_surf_fsaverage
        from nilearn.surface import load_surf_data, load_surf_mesh
    except ImportError as error:
        raise DataError("the surface of the brain is part of the package nilearn, which is not "
                        "here; `python -m pip install nilearn`, restart and run again") from error
    files = fetch_surf_fsaverage("fsaverage5")  # in the package: nothing is fetched
    mesh, folded = load_surf_mesh(files["infl_left"]), load_surf_mesh(files["pial_left"])
    grey = np.where(load_surf_data(files["sulc_left"])[mesh.faces].mean(1) > 0, 0.62, 0.82)
    paint = np.repeat(grey[:, None], 3, axis=1)  # of each triangle
    middle = mesh.coordinates[mesh.faces].mean(1)
    for area, colour in colours.items():
        *centre, radius = CENTRES[area]
        nearest = np.linalg.norm(folded.coordinates - centre, axis=1).argmin()
        inside = np.linalg.norm(middle - mesh.coordinates[nearest], axis=1) < radius
        paint[inside] = 0.8 * np.array(to_rgb(colour)) + 0.2 * paint[inside]
    fig, axes = panels(2.7 + 0.3 * bool(title), title, 1, 3)
    for ax, (name, view) in zip(axes, VIEWS.items(), strict=True):
        right, up, towards = (np.eye(3)["xyz".index(a[-1])] * (-1) ** a.startswith("-")
                              for a in view.split())
        _paint(ax, mesh.coordinates[mesh.faces], paint, right, up, towards)
        ax.set_title(name, fontsize=11)
    handles = [axes[0].plot([], [], "o", color=colour)[0] for colour in colours.values()]
    fig.legend(handles, list(colours), loc="outside lower center", ncols=len(colours), fontsize=11)
    return fig


def _paint(ax, corners, paint, right, up, towards):
    """Triangles (n, 3, 3) that face the eye, the farthest first, with light from the front."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    light = normal @ towards / np.linalg.norm(normal, axis=1)
    order = np.argsort(corners.mean(1) @ towards)
    order = order[light[order] > 0]
    shade = paint[order] * (0.55 + 0.45 * light[order, None])
    flat = np.stack([corners[order] @ right, corners[order] @ up], axis=-1)
    ax.add_collection(PolyCollection(flat, facecolors=shade, edgecolors=shade, linewidths=0.3))
    ax.autoscale_view()
    ax.set_aspect("equal")
    ax.axis("off")


@styled
def slices(anatomy: np.ndarray, values: np.ndarray, least: float, unit: str,
           title: str | None = None):
    """A slice of a brain, and the same slice with a map on it.

    Parameters
    ----------
    anatomy, values : (x, y) arrays
        NaN outside the brain.
    least : float
        Values nearer to 0 than this are not drawn; the strongest 2 % share one colour.
    """
    fig, axes = panels(2.6 + 0.3 * bool(title), title, 1, 2)
    for ax in axes:
        ax.imshow(anatomy.T, origin="lower", cmap="gray")
        ax.axis("off")
    limit = np.nanquantile(np.abs(values), 0.98)
    shown = axes[1].imshow(np.where(np.abs(values) > least, values, np.nan).T, origin="lower",
                           cmap="RdBu_r", vmin=-limit, vmax=limit)
    fig.colorbar(shown, ax=axes[1], label=unit, shrink=0.8).outline.set_edgecolor(GREY)
    return fig
