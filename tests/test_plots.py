"""Figures: the numbers and pictures in them, read back from matplotlib."""

import base64
import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import image as mpimg
from matplotlib.figure import Figure
from PIL import Image
from torchvision.utils import make_grid

from recon_lib.course import plots, style

TABLE = {
    "ridge": {"top1": 0.2}, "diffusion": {"top1": 0.5}, "ideal_observer": {"top1": 0.9},
    "chance": {"top1": 0.01}, "mean_image": {"ssim": 0.3},
}


def texts(fig):
    fig.canvas.draw()
    return [t.get_text() for t in fig.findobj(matplotlib.text.Text) if t.get_text()]


@pytest.mark.parametrize(("n", "channels", "columns"), [(5, 3, 3), (12, 1, 5), (3, 3, 8)])
def test_tile_is_the_grid_of_torchvision_without_its_margin(n, channels, columns):
    pictures = np.random.default_rng(n).integers(0, 256, (n, 6, 9, channels), dtype=np.uint8)
    grid = make_grid(torch.from_numpy(pictures).movedim(-1, 1), columns, 2, pad_value=255)
    expected = grid.movedim(0, -1).numpy()[2:-2, 2:-2]
    assert np.array_equal(plots.tile(pictures, columns), expected)


def test_tile_places_each_picture():
    images = np.arange(5 * 4 * 3).reshape(5, 4, 3, 1).astype(np.uint8)
    canvas = plots.tile(images, columns=3, gap=2)
    assert canvas.shape == (2 * 6 - 2, 3 * 5 - 2, 3)
    assert (canvas[6:10, 5:8] == images[4]).all()  # second row, second column
    assert (canvas[6:, 10:] == 255).all()  # the empty place


def test_reconstructions_has_a_row_for_each_decoder():
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
            for name in ("truth", "ridge", "diffusion, seed 1", "shuffled_brain")}
    fig = plots.reconstructions(rows, title="One trial", columns=["cat", "shoe", "face", "car"])
    assert set(texts(fig)) == {
        "seen", "ridge to pixels", "diffusion, seed 1", "shuffled brain",
        "One trial", "cat", "shoe", "face", "car"}
    shown = fig.axes[0].images[0].get_array()
    assert (shown[18:34, 36:52] == rows["ridge"][2]).all()


def test_dots_stand_on_their_intervals():
    ax = plots.dots({"ridge": (0.2, 0.1, 0.35), "b": (0.5, 0.4, 0.6)}, chance=0.01).axes[0]
    assert [bar.get_segments()[0].tolist() for bar in ax.collections] == [
        [[0.1, 0], [0.35, 0]], [[0.4, 1], [0.6, 1]]]
    assert [line.get_xdata()[0] for line in ax.lines] == [0.2, 0.5, 0.01]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["ridge to pixels", "b"]
    assert [t.get_text() for t in ax.texts] == ["0.20", "0.50"]
    assert [plots.decimals([w, w, 9]) for w in (40, 4, 0.3, 0.15, 0.02)] == [0, 0, 2, 2, 3]
    assert plots.decimals([0]) == 2


def test_an_animation_begins_with_its_last_frame():
    frames = [np.full((2, 4, 6, 3), shade, np.uint8) for shade in (0, 100, 200)]
    page = plots.animation(frames, 'a "quoted" word', width=60).data
    assert 'alt="a &quot;quoted&quot; word"' in page and "width: 60px" in page
    film = Image.open(io.BytesIO(base64.b64decode(page.split("base64,")[1].split('"')[0])))
    shades = []
    assert film.size == (14, 4)  # two pictures, and a gap
    for i in range(film.n_frames):
        film.seek(i)
        shades.append((film.convert("RGB").getpixel((0, 0))[0], film.info["duration"]))
    assert shades == [(200, 600), (0, 200), (100, 200)]


def test_curves_are_named_at_their_ends():
    fig = plots.curves({"epsilon": np.arange(5.0), "v": (np.array([2, 4]), np.array([3.0, 1.0]))})
    assert [list(line.get_xdata()) for line in fig.axes[0].lines] == [[0, 1, 2, 3, 4], [2, 4]]
    assert {" epsilon", " v"} <= set(texts(fig))


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.image_grid(np.zeros((5, 8, 8, 1), np.uint8), 3, "five", list("abcde")),
        lambda: plots.rdm(np.eye(4), ["a", "a", "b", "b"]),
        lambda: plots.bars({"LOC": 0.4, "PPA": -0.1}, "r"),
        lambda: plots.null_histogram(np.random.default_rng(0).random(50), 2.0),
        lambda: plots.curves({"loss": np.ones(3)}, log=True, chance=0.5),
    ],
    ids=["image_grid", "rdm", "bars", "null_histogram", "curves"],
)
def test_figures_draw_at_phone_width_and_leave_no_settings(draw):
    before = dict(matplotlib.rcParams)
    fig = draw()
    file = io.BytesIO()
    fig.savefig(file, format="png")
    assert isinstance(fig, Figure) and fig.get_size_inches()[0] <= style.WIDTH
    file.seek(0)
    assert np.ptp(mpimg.imread(file)) > 0.5  # something is drawn
    assert dict(matplotlib.rcParams) == before


def test_colours_differ_in_lightness_or_hue_for_colour_blind_eyes():
    """Each pair stays apart after Machado et al.'s (2009) full deuteranopia and protanopia."""
    deutan = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
              [-0.011820, 0.042940, 0.968881]]
    protan = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
              [-0.003882, -0.048116, 1.051998]]
    rgb = np.array([matplotlib.colors.to_rgb(c) for c in style.COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in (deutan, protan):
        seen = np.clip(linear @ np.transpose(matrix), 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen, axis=2) + np.eye(len(seen))
        assert apart.min() > 0.12


def test_start_notebook_prints_the_device(capsys):
    pytest.importorskip("IPython")
    with matplotlib.rc_context():
        device = style.start_notebook()
        assert matplotlib.rcParams["font.size"] == style.STYLE["font.size"]
    assert capsys.readouterr().out.startswith("Running on: ")
    assert device.type in ("cpu", "cuda")


def test_pairs_stand_one_above_the_other():
    seen = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    canvas = plots.pairs(seen, seen + 100, 3).axes[0].get_images()[0].get_array()
    marks = canvas[2::6, 2::6, 0]  # a pixel of each picture, 4 wide and 2 apart
    assert marks[:, :3].tolist()[:2] == [[0, 1, 2], [100, 101, 102]]
    assert [row[:2] for row in marks.tolist()[2:]] == [[3, 4], [103, 104]]


@pytest.mark.parametrize("log", [False, True])
def test_names_at_the_ends_of_lines_never_overlap(log):
    ends = {"a": 1.0, "b": 1.001, "c": 1.002, "d": 5.0}
    fig = plots.curves({name: np.linspace(3, end, 9) for name, end in ends.items()}, log=log)
    fig.canvas.draw()
    texts = {t.get_text().strip(): t.get_window_extent() for t in fig.axes[0].texts}
    boxes = [texts[name] for name in ends]  # from the lowest to the highest
    assert all(low.y1 <= high.y0 for low, high in zip(boxes, boxes[1:], strict=False))
