"""Figures of the brain: areas where they belong, maps only where they are strong enough."""

import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from recon_lib.common.errors import DataError
from recon_lib.course.plots_brain import CENTRES, cortex, slices


def test_areas_are_seen_from_the_side_on_which_they_lie():
    pytest.importorskip("nilearn")
    fig = cortex({"LOC": "#ff0000", "RSC": "#00ff00"}, "two areas")
    outside, inside, _ = fig.axes
    red, green = np.eye(3)[:2]

    def seen(ax, colour):
        face = ax.collections[0].get_facecolors()[:, :3]
        return (face @ colour > 2 * (face @ (1 - colour) / 2)).sum()

    assert seen(outside, red) > 50 and seen(outside, green) == 0
    assert seen(inside, green) > 30 and seen(inside, red) == 0
    low, high = (np.array(ax.dataLim.extents)[[0, 2]] for ax in (outside, inside))
    assert np.ptp(low) == pytest.approx(np.ptp(high), rel=0.02)  # one brain from two sides
    assert all(x < 0 and y < -40 for x, y, _, _ in CENTRES.values())  # left, and at the back
    assert to_rgb("#ff0000") == tuple(red)


def test_without_nilearn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    with pytest.raises(DataError, match="pip install nilearn"):
        cortex({"LOC": "red"})


def test_a_map_is_drawn_where_it_is_strong():
    values = np.array([[0.5, -4.0], [3.0, np.nan]])
    fig = slices(np.ones((2, 2)), values, 2.0, "t", "a map")
    drawn = fig.axes[1].images[1].get_array().filled(np.nan)  # (y, x), the lowest row first
    assert np.array_equal(np.nan_to_num(drawn), [[0, 3], [-4, 0]])
    assert fig.axes[1].images[1].get_clim() == pytest.approx((-3.96, 3.96))
