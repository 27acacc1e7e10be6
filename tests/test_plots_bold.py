"""Each figure shows the numbers that it was given."""

import io

import numpy as np
import pytest

from recon_lib.course import plots_bold as p

T = np.arange(20) * 1.0
Y = np.sin(T)
ROI = np.repeat(["LHLOC", "RHLOC", "LHPPA"], [5, 4, 6])

FIGURES = {
    "responses": lambda: p.responses({"a": (T, Y), "truth": (T, Y + 1)}, title="t"),
    "time_courses": lambda: p.time_courses({"measured": Y, "truth": Y}, 2.0, [4.0, 8.0]),
    "stacked_courses": lambda: p.stacked_courses({"a": Y, "b": Y}, 2.0),
    "design": lambda: p.design(np.random.default_rng(0).normal(size=(20, 3)), ["a", "b", "c"]),
    "against_truth": lambda: p.against_truth(Y, {"x": 2 * Y, "y": -Y}),
    "one estimate": lambda: p.against_truth(Y, {"x": 2 * Y}),
    "with_errors": lambda: p.with_errors(T, Y, Y**2, {"fit": (T, Y)}),
    "table": lambda: p.table([[0.1, 0.9], [0.4, 1.0]], ["a", "b"], ["c", "d"]),
    "betas_strip": lambda: p.betas_strip(np.zeros((1, 8, 8, 3), np.uint8), np.arange(15.0), ROI),
    "three pictures": lambda: p.betas_strip(np.zeros((3, 8, 8, 3)), np.arange(15.0), ROI, "ABC"),
    "histograms": lambda: p.histograms({"a": Y, "b": Y + 1}, "r"),
    "shares": lambda: p.shares({"light": {"brain": 0.9, "seed": 0.8, "shuffled": 0.3},
                                "thing": {"brain": 0.2, "seed": 0.1, "shuffled": 0.1}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_figures_render(name):
    out = io.BytesIO()
    FIGURES[name]().savefig(out, format="png")
    assert out.getvalue()[:4] == b"\x89PNG"


def test_lines_are_the_data():
    ax = FIGURES["responses"]().axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), Y / Y.max())
    assert "r = -1.00" in FIGURES["against_truth"]().axes[1].get_title("left")
    assert [t.get_text() for t in FIGURES["table"]().axes[0].texts] == [
        "0.10", "0.90", "0.40", "1.00"]


def test_betas_stand_below_their_pictures():
    figure = FIGURES["three pictures"]()
    figure.draw_without_rendering()
    titles = [t.get_text() for t in figure.findobj(match=lambda a: hasattr(a, "get_text"))]
    assert {"A", "B", "C", "LOC", "PPA"} <= set(titles)
