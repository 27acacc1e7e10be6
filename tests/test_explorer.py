"""What every explorer does, whatever it explores; on both generations of ipywidgets."""

import ast
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import ipywidgets
import matplotlib
import numpy as np
import pytest
from explorers import EXAMPLES, choices
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from recon_lib.course.explorer import Explorer, slider

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", params=EXAMPLES)
def named(request):
    return request.param, EXAMPLES[request.param]()


def pixels(fig):
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def shown(box):
    """The line of numbers, and the picture."""
    *_, text, image = box.children
    return text.value, image.value


def test_every_explorer_has_an_example():
    found = set()
    for path in (ROOT / "recon_lib").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            calls = {getattr(c.func, "id", "") for c in ast.walk(node) if isinstance(c, ast.Call)}
            if isinstance(node, ast.FunctionDef) and "Explorer" in calls:
                found.add(node.name)
    assert found == set(EXAMPLES)


@pytest.mark.slow
def test_every_control_reaches_the_picture_and_the_numbers(named):
    name, box = named
    for key, control in box.controls.items():
        states = []
        for value in choices(control, 3):
            box.set(**{key: value})
            states.append(shown(box))
        texts, pictures = map(set, zip(*states, strict=True))
        assert len(pictures) > 1, f"{name}: {key} does not change the picture"
        if not isinstance(control, ipywidgets.Checkbox):  # one covers what is shown
            assert len(texts) > 1, f"{name}: {key} does not change the numbers"
        box.reset.click()


@pytest.mark.slow
def test_no_corner_of_the_controls_is_out_of_bounds(named):
    """Each control at each end, then all at random: nothing raises, every number is finite."""
    name, box = named
    rng = np.random.default_rng(0)
    start = {key: control.value for key, control in box.controls.items()}
    ends = {key: (choices(c)[0], choices(c)[-1]) for key, c in box.controls.items()}
    corners = [{**start, key: end} for key, pair in ends.items() for end in pair]
    corners += [{key: pair[rng.integers(2)] for key, pair in ends.items()} for _ in range(8)]
    for values in corners:
        box.set(**values)
        for key, value in box.numbers.items():
            if np.asarray(value).dtype.kind in "fiu":
                assert np.isfinite(np.asarray(value)).all(), f"{name} at {values}: {key}"
        assert "nan" not in shown(box)[0]
    box.reset.click()


@pytest.mark.slow
def test_a_figure_drawn_on_again_is_the_figure_drawn_anew(named):
    _, box = named
    for key, control in box.controls.items():
        for value in choices(control)[::4]:
            box.set(**{key: value})
            anew, sent = pixels(box.draw(box.numbers)), Image.open(io.BytesIO(box.image.value))
            assert np.array_equal(np.asarray(sent), anew[..., :3]), (key, value)
            assert np.array_equal(pixels(box.figure), anew), (key, value)
    box.reset.click()
    assert box.figure is not box.draw(box.numbers)


@pytest.mark.slow
def test_reset_and_labels(named):
    _, box = named
    start, state = shown(box), {key: c.value for key, c in box.controls.items()}
    box.set(**{key: choices(c)[-1] for key, c in box.controls.items()})
    assert shown(box) != start
    box.reset.click()
    assert shown(box) == start and {k: c.value for k, c in box.controls.items()} == state
    kinds = (ipywidgets.IntSlider, ipywidgets.FloatSlider, ipywidgets.ToggleButtons,
             ipywidgets.Checkbox)
    for control in box.controls.values():
        assert isinstance(control, kinds), "can it be used by keyboard in JupyterLab?"
        assert control.description
    labels = [control.description for control in box.controls.values()]
    assert len(set(labels)) == len(labels)


def counting(limit=10.0):
    """A box of two sliders, and the list of what was drawn."""
    drawn = []

    def numbers(x, y):
        if x > limit:
            raise RuntimeError("boom")
        return {"sum": x + y}

    def draw(now, fig=None):
        drawn.append(now["sum"])
        return Figure((1, 1))

    controls = {"x": slider("x", 1.0, 0.0, 20.0, 0.5), "y": slider("y", 2, 0, 5, 1)}
    return Explorer(controls, numbers, draw, lambda now: f"sum {now['sum']:g}"), drawn


def test_several_controls_are_set_at_once_and_drawn_once():
    box, drawn = counting()
    box.set(x=3.0, y=5)
    assert drawn == [3.0, 8.0] and box.children[-2].value == "<b>sum 8</b>"
    box.controls["x"].value = 4.0
    assert drawn == [3.0, 8.0, 9.0]
    with pytest.raises(KeyError):
        box.set(z=1)


def test_a_still_has_a_message_and_leaves_the_figure_alone():
    box = EXAMPLES["chance_explorer"]()
    before, (place,) = box.image.value, [ax.get_position().bounds for ax in box.figure.axes]
    still = box.still("one sentence")
    assert [text.get_text() for text in still.texts] == ["one sentence"]
    tall, low = still.get_size_inches()[1], box.figure.get_size_inches()[1]
    assert still.axes[0].get_position().height * tall == pytest.approx(place[3] * low)  # as large
    assert still is not box.figure and not box.figure.texts
    box.reset.click()
    assert box.image.value == before


def test_a_broken_callback_is_not_silent_and_the_box_lives_on():
    box, drawn = counting()
    with pytest.raises(RuntimeError, match="boom"):
        box.controls["x"].value = 11.0
    with pytest.raises(RuntimeError, match="boom"):
        box.set(x=12.0, y=3)
    box.controls["y"].unobserve_all()  # proves that the next line is heard through x alone
    box.controls["x"].value = 5.0
    assert drawn[-1] == 8.0


def test_two_controls_moved_at_the_same_moment_draw_one_after_the_other():
    """JupyterLab answers every control in a thread of its own; matplotlib has one set of settings.

    Without a lock two drawings end up on the same axes, or one in the other's style.
    """
    boxes = [EXAMPLES[name]() for name in ("hrf_explorer", "chance_explorer")]
    boxes.append(boxes[0])  # two threads move the same explorer
    start, wrong = [box.image.value for box in boxes], []
    settings = dict(matplotlib.rcParams)

    def move(box, name):
        control = box.controls[name]
        for _ in range(6):
            control.value = choices(control)[-1]
            box.reset.click()

    moves = [(boxes[0], "peak"), (boxes[1], list(boxes[1].controls)[0]), (boxes[2], "ratio")]
    threads = [threading.Thread(target=move, args=one) for one in moves]
    threading.excepthook, before = lambda args: wrong.append(args.exc_value), threading.excepthook
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = before
    assert wrong == []
    assert [box.image.value == picture for box, picture in zip(boxes, start, strict=True)] == [
        True] * 3
    assert dict(matplotlib.rcParams) == settings


OLD = """
import ipywidgets, sys
assert ipywidgets.__version__ == "7.7.1", ipywidgets.__version__
sys.path.insert(0, "tests")
from explorers import EXAMPLES, choices
for name, make in EXAMPLES.items():
    box = make()
    start = [c.value for c in box.children[-2:]]
    for key, control in box.controls.items():
        control.value = choices(control)[-1]
        control.value = choices(control)[0]
    box.reset.click()
    assert [c.value for c in box.children[-2:]] == start, name
    print(name)
"""


def test_ipywidgets_7():
    """The generation that hosted notebooks have, from the folder in IPYWIDGETS_7."""
    folder = os.environ.get("IPYWIDGETS_7")
    if not folder:
        pytest.skip("IPYWIDGETS_7 is not set: pip install --no-deps --target FOLDER "
                    "ipywidgets==7.7.1 ipython_genutils")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, str(ROOT)])}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", OLD], cwd=ROOT, env=env,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(EXAMPLES)
