"""Explorers without a kernel: what a page shows is what the explorer shows.

Screenshots are left in build/browser/.
"""

import gzip
import importlib.util
import io
import itertools
import json
import re
from pathlib import Path

import chromium
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from explorers import EXAMPLES
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "build" / "browser"
WIDGET = "application/vnd.jupyter.widget-view+json"
FEW = {"step": [0, 8, 25], "picture": [0, 1], "information": [0, 0.5], "tries": [1, 5],
       "pictures": [30], "millions": [5]}


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "notebooks" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


builder = load("_explorers")


@pytest.fixture(scope="module")
def stored():
    """{(number of the notebook, name): what is stored of the explorer}."""
    found = {}
    for path in builder.STORED.glob("*.json.gz"):
        name, _, number = path.name.removesuffix(".json.gz").rpartition("-")
        found[number, name] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def values_at(box, controls, at):
    """Values of the explorer's controls at these positions of a page's controls."""
    values = {}
    for shown, (key, control), i in zip(controls, box.controls.items(), at, strict=True):
        assert shown["key"] == key
        if shown["kind"] == "slider":
            values[key] = type(control.value)(float(shown["positions"][i]))
        elif shown["kind"] == "choice":
            option = control.options[i]
            values[key] = option[1] if isinstance(option, tuple) else option
        else:
            values[key] = bool(i)
    return values


def combinations(data):
    """Positions of the controls in the order of `states`."""
    return list(itertools.product(*(range(len(c["positions"])) for c in data["controls"])))


def test_every_explorer_of_every_notebook_is_stored(stored):
    assert builder.STOPS.keys() == EXAMPLES.keys()
    shown = set()
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if any(WIDGET in output.get("data", {}) for output in cell.get("outputs", [])):
                shown.add((path.stem[:2], builder.named(cell.source)))
    assert stored.keys() == shown


def test_the_stored_explorers_are_small_and_whole(stored, tmp_path):
    assert sum(path.stat().st_size for path in builder.STORED.iterdir()) <= 5e6
    pages = builder.main(tmp_path)
    assert pages.keys() == stored.keys()
    for key, data in stored.items():
        text = (tmp_path / pages[key]).read_text(encoding="utf-8")
        assert len(text) <= 3e6 and "{{" not in text and "<title>" in text
        assert len(data["states"]) == len(combinations(data)) >= 30
        frames, texts = map(set, zip(*data["states"], strict=True))
        assert frames == set(range(len(data["frames"]))) and len(frames) > 10
        assert texts == set(range(len(data["texts"])))
        used = set().union(*data["frames"])
        assert used == set(range(len(data["pieces"])))  # nothing is carried twice or in vain
        assert len(set(data["pieces"])) == len(data["pieces"])


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * name.startswith(("guidance", "lesion")))
    for name in EXAMPLES])
def test_labels_are_the_explorers(stored, name):
    box = EXAMPLES[name]() if name != "unet_tour" else None
    for (_, stored_name), data in stored.items():
        if stored_name == name and box:
            wanted = [control.description for control in box.controls.values()]
            assert [control["label"] for control in data["controls"]] == wanted
            assert [control["key"] for control in data["controls"]] == list(box.controls)
            assert all(len(control["positions"]) > 1 for control in data["controls"])


@pytest.mark.parametrize("name", ["hrf_explorer", "glm_playground", "chance_explorer",
                                  pytest.param("cost_explorer", marks=pytest.mark.slow)])
def test_stored_numbers_are_what_the_explorer_says_today(stored, name):
    """Those that need no data: a handful of states, drawn at random."""
    box, rng = EXAMPLES[name](), np.random.default_rng(0)
    for data in (data for (_, found), data in stored.items() if found == name):
        all_of_them = combinations(data)
        for i in rng.choice(len(all_of_them), 8, replace=False):
            numbers = box.compute(**values_at(box, data["controls"], all_of_them[i]))
            assert data["texts"][data["states"][i][1]] == box.readout(numbers)


@pytest.mark.parametrize("name", ["chance_explorer", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("cost_explorer", "denoising_stepper"))])
def test_states_are_in_the_order_of_the_controls(name):
    box = EXAMPLES[name]()
    before = {key: control.value for key, control in box.controls.items()}
    data = builder.states(box, FEW)
    assert {key: control.value for key, control in box.controls.items()} == before
    for at, (frame, text) in zip(combinations(data), data["states"], strict=True):
        numbers = box.compute(**values_at(box, data["controls"], at))
        assert data["texts"][text] == box.readout(numbers)
        if at == tuple(control["start"] for control in data["controls"]):
            drawn = builder.pieces(box.draw(numbers))
            assert [data["pieces"][i] for i in data["frames"][frame]] == drawn
    assert builder.states(box, FEW) == data  # the same again


def test_what_is_read_keeps_its_digits():
    figure, ax = plt.subplots()
    ax.set(title="r = 0.7654", xticks=[0.25], xlabel="<0.125>")
    image = ax.imshow(np.zeros((2, 2)))  # whose address holds a quotation mark before the text
    drawn = "".join(builder.pieces(figure))
    plt.close(figure)
    assert image and all(f">{text}<" in drawn for text in ("r = 0.7654", "0.25", "&lt;0.125&gt;"))
    assert not re.search(r"\.\d\d", re.sub(r">[^<]*<", "><", drawn.partition("data:")[0]))


def difference(page, box):
    """Mean difference of the figure on the page from the explorer's own, of 255."""
    png = page.locator("#figure").screenshot()
    ours = Image.open(io.BytesIO(png)).convert("RGB")
    theirs = Image.open(io.BytesIO(box.image.value)).convert("RGB").resize(ours.size)
    small = [np.asarray(image.resize((60, 60 * ours.height // ours.width)), float)
             for image in (ours, theirs)]  # so small that letters and noise are grey
    return np.abs(small[0] - small[1]).mean()


SIZES = """targets => targets.map(t => (t.type === 'checkbox' ? t.closest('label') : t)
    .getBoundingClientRect()).map(box => Math.min(box.width, box.height))"""


def by_touch(page):
    """A finger taps and drags the first slider, and scrolls the page from it; targets are large."""
    assert min(page.locator("input, button").evaluate_all(SIZES)) >= 24
    slider, devtools = page.locator("input[type=range]").first, page.context.new_cdp_session(page)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    x, y, wide = box["x"], box["y"] + box["height"] / 2, box["width"]
    last = slider.get_attribute("max")

    def finger(*places):
        """Down at the first place, along the others, up: which value, and what do numbers say?"""
        for i, place in enumerate(places):
            point = dict(zip("xy", place, strict=True))
            devtools.send("Input.dispatchTouchEvent", {
                "type": "touchMove" if i else "touchStart", "touchPoints": [point]})
            page.wait_for_timeout(20)
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(200)
        return slider.input_value(), page.locator("#numbers").inner_text()

    first, said = finger((x + 5, y))  # a tap
    assert first == "0"
    end, says = finger(*((x + 8 + i * (wide - 12) / 8, y) for i in range(9)))  # a drag
    assert end == last and says != said
    page.evaluate("document.body.style.paddingBottom = '2000px'")
    scrolled = page.evaluate("scrollY")
    assert finger(*((x + wide / 3, y - 15 * i) for i in range(12))) == (end, says)
    assert page.evaluate("scrollY") > scrolled


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoising_stepper", "chance_explorer"])
def test_a_page_in_a_browser(name, tmp_path):
    """Keys move picture and numbers to those of the explorer; Reset puts all back; on a phone."""
    pytest.importorskip("playwright")
    SHOTS.mkdir(parents=True, exist_ok=True)
    box = EXAMPLES[name]()
    data = builder.states(box, FEW)
    packed = gzip.compress(json.dumps(data).encode(), mtime=0)
    (tmp_path / "index.html").write_text(builder.page(name, packed), encoding="utf-8")
    ready = "numbers.textContent && figure.naturalWidth > 0"
    with chromium.page(760, 900) as (page, complaints):
        page.goto((tmp_path / "index.html").as_uri())
        page.wait_for_function(ready)
        said, start = page.locator("#numbers").inner_text, page.locator("#figure").screenshot()
        assert said() == box.readout(box.numbers) and difference(page, box) < 4
        for i, control in enumerate(data["controls"]):
            if control["kind"] == "slider":
                page.locator(f"#{control['key']}").press("End")
                last = len(control["positions"]) - 1
                assert page.locator("output").nth(i).inner_text() == control["positions"][last]
            else:
                page.get_by_role("radio", name=control["positions"][0]).press("ArrowRight")
                last = 1
            at = [c["start"] for c in data["controls"]]
            at[i] = last
            if at[i] == control["start"]:
                continue
            before = box.image.value
            box.set(**values_at(box, data["controls"], at))
            page.wait_for_timeout(150)
            off = difference(page, box)
            assert said() == box.readout(box.numbers) and off < 4, control
            box.image.value = before
            assert difference(page, box) > off, control  # the figure of before is farther away
            page.get_by_role("button", name="Reset").press("Enter")
            box.reset.click()
            page.wait_for_timeout(150)
            assert said() == box.readout(box.numbers)
        assert page.locator("#figure").screenshot() == start
        page.set_viewport_size({"width": 390, "height": 800})
        page.goto("about:blank")  # a new hash alone would load nothing
        page.goto((tmp_path / "index.html").as_uri() + "#dark")
        page.wait_for_function(ready)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.documentElement.className") == "dark"
        assert page.locator("[role=status][aria-live=polite]").count() == 1
        by_touch(page)
        page.screenshot(path=SHOTS / f"page-{name}.png")
        assert complaints == []
