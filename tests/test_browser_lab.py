"""The explorers in a real JupyterLab, in a real browser, moved by keyboard and by mouse.

Screenshots of the explorers, as they look after the first move, are left in build/browser/.
"""

import shutil
import time
from importlib.metadata import version

import chromium
import nbformat
import pytest
from explorers import EXAMPLES
from own_lab import ROOT, SHOTS, beginning, run_all, served

pytest.importorskip("playwright")
if int(version("ipywidgets").split(".")[0]) < 8:
    pytest.skip("ipywidgets 7 is for hosted notebooks: JupyterLab 4 draws those of ipywidgets 8",
                allow_module_level=True)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CONTROL = ".widget-slider, .widget-toggle-buttons, .widget-checkbox"
STATE = """async box => {
    const image = box.querySelector('img.widget-image');
    const bytes = await (await fetch(image.src)).arrayBuffer();
    const sum = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    const line = [...box.querySelectorAll('.widget-html b')].pop().innerText;
    return [line, Array.from(sum).join(' ')];
}"""
DRAWN = """count => {
    const images = [...document.querySelectorAll('img.widget-image')];
    return images.length === count && images.every(image => image.complete && image.offsetHeight);
}"""
MOVED = """() => [...document.querySelectorAll('.widget-slider')].some(
    s => s.innerText.includes('picture every') && s.innerText.includes('4.50'))
    && [...document.querySelectorAll('.widget-html b')].some(
        b => b.innerText.includes('14 pictures'))
"""
# Once a frame: is each figure still the element it was, of the size it was, and where it was?
WATCH = """() => {
    window.jumps = [];
    const place = i => [i.isConnected, i.offsetHeight, i.offsetTop - i.parentElement.offsetTop];
    const images = [...document.querySelectorAll('img.widget-image')];
    const seen = images.map(image => String(place(image)));
    (function look() {
        images.forEach((image, i) => {
            if (String(place(image)) !== seen[i]) window.jumps.push([seen[i], place(image)]);
        });
        requestAnimationFrame(look);
    })();
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own, with the notebooks and one of explorers: address of notebook {}."""
    with chromium.page():
        pass  # skips all that follows where there is no browser
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "work",
                    ignore=lambda _, names: [n for n in names if not n.endswith(".ipynb")])
    sources = [f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
               "from explorers import EXAMPLES"]
    sources += [f"EXAMPLES[{name!r}]()" for name in EXAMPLES]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3",
                                       "language": "python"}
    nbformat.write(notebook, home / "work" / "explorers.ipynb")
    nbformat.write(beginning(NOTEBOOKS[1], "explorer.still("), home / "work" / "beginning.ipynb")
    with served(home) as address:
        yield address


def label_of(control):
    """The first line of its text; a checkbox has an empty one before its label."""
    lines = control.inner_text().replace("\u200b", "").split("\n")
    return next((line for line in lines if line.strip()), "")


def settled(page, box, wanted):
    """The state of an explorer once it is as `wanted` (a function) and stays, or after a minute.

    The figure and the numbers come one after the other, so a state is believed when seen twice.
    """
    last, end = None, time.monotonic() + 60
    while time.monotonic() < end:
        now = box.evaluate(STATE)
        if now == last and wanted(now):
            break
        last = now
        page.wait_for_timeout(80)
    return now


def move(page, control):
    """Move a control with the keys that the explorer names, from wherever it is."""
    kind = control.get_attribute("class")
    if "widget-slider" in kind:
        handle = control.locator("[role=slider]")
        handle.focus()
        now, low, high = (float(handle.get_attribute(f"aria-value{word}"))
                          for word in ("now", "min", "max"))
        page.keyboard.press("End" if high - now > now - low else "Home")  # the farther one
    elif "widget-toggle-buttons" in kind:
        control.locator("button:not(.mod-active)").last.focus()
        page.keyboard.press("Space")
    else:
        control.locator("input").focus()
        page.keyboard.press("Space")


def follow(page, box, name):
    """Every control moves the figure and the numbers, and Reset puts all back."""
    start = box.evaluate(STATE)
    controls = box.locator(CONTROL)
    labels = [label_of(controls.nth(c)) for c in range(controls.count())]
    assert all(labels) and len(labels) == len(set(labels)) > 1, f"{name}: {labels}"

    def redrawn(state):
        return state[1] != start[1]

    def all_new(state):
        return redrawn(state) and state[0] != start[0]

    for c, label in enumerate(labels):
        move(page, controls.nth(c))
        covers = "checkbox" in controls.nth(c).get_attribute("class")
        now = settled(page, box, redrawn if covers else all_new)
        assert redrawn(now), f"{name}: '{label}' moved, the figure did not"
        assert all_new(now) or covers, f"{name}: '{label}' moved, numbers did not"
        if c == 0:
            box.screenshot(path=SHOTS / f"{name}.png")
        box.locator(".widget-button").press("Space")
        now = settled(page, box, lambda state: state == start)
        assert now == start, f"{name}: Reset after '{label}'"
    box.locator("[role=slider]").first.press("ArrowRight")
    now = settled(page, box, redrawn)
    assert redrawn(now), f"{name}: an arrow key moved nothing"
    drag(page, box, now, name)


def drag(page, box, start, name):
    """Pull the first slider to an end with the mouse; figure and numbers follow."""
    control = box.locator(".widget-slider").first
    handle = control.locator("[role=slider]")
    before = handle.get_attribute("aria-valuenow")
    handle.scroll_into_view_if_needed()
    place, rail = handle.bounding_box(), control.locator(".slider").bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.down()
    page.mouse.move(rail["x"] + 0.8 * rail["width"], rail["y"] + rail["height"] / 2, steps=12)
    page.mouse.up()
    now = settled(page, box, lambda s: s[1] != start[1])
    assert handle.get_attribute("aria-valuenow") != before
    assert now[1] != start[1], f"{name}: dragged, but nothing followed"


def test_explorers_follow_keyboard_and_mouse(lab):
    SHOTS.mkdir(parents=True, exist_ok=True)
    with chromium.page() as (page, complaints):
        page.goto(lab.format("explorers.ipynb"))
        run_all(page, "explorers")
        cells = page.locator(".jp-CodeCell")
        page.wait_for_function(DRAWN, arg=len(EXAMPLES))
        page.evaluate(WATCH)
        for i, name in enumerate(EXAMPLES, 1):
            follow(page, cells.nth(i).locator(".jp-OutputArea-child .widget-vbox"), name)
        jumps = page.evaluate("window.jumps.slice(0, 9)")
        assert jumps == [], "a figure was replaced, moved, or changed its size"
        assert page.locator(".jp-OutputArea-output[data-mime-type*=stderr]").count() == 0
        assert complaints == []


def test_a_notebook_runs_and_code_moves_its_sliders(lab):
    """Notebook 01 to its first explorer: the cell after it sets a slider, and the page follows."""
    with chromium.page() as (page, complaints):
        page.goto(lab.format("beginning.ipynb"))
        run_all(page, "beginning")
        slider = page.locator(".widget-slider").filter(has_text="picture every (s)")
        page.wait_for_function("""() => [...document.querySelectorAll('.widget-slider')].some(
            s => s.innerText.includes('picture every') && s.innerText.includes('4.00'))""")
        assert slider.locator("[role=slider]").get_attribute("aria-valuenow") == "4.0"
        line = page.locator(".widget-vbox .widget-html b").last.inner_text()
        assert "15 pictures add up to 1.40 times one" in line
        page.locator(".jp-RenderedImage img").nth(2).wait_for()
        assert page.locator(".jp-RenderedImage img").count() == 3  # the static figures
        assert page.locator("[data-mime-type*=stderr], [data-mime-type*=error]").count() == 0
        page.screenshot(path=SHOTS / "running.png")
        assert complaints == []
        slider.locator("[role=slider]").press("ArrowRight")
        page.wait_for_function(MOVED)
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        page.reload()  # the view starts anew, the kernel goes on
        page.wait_for_function(MOVED)


def test_a_stored_notebook_opens(lab):
    """As a reader first sees it: every stored figure is there, the console is clean."""
    path = NOTEBOOKS[0]
    cells = nbformat.read(path, as_version=4).cells
    kinds = [kind for c in cells for o in c.get("outputs", []) for kind in o.get("data", {})]
    figures = sum(kind.startswith("image/") for kind in kinds)
    assert figures > 3
    with chromium.page() as (page, complaints):
        page.goto(lab.format(path.name))
        shown = "[...document.querySelectorAll('.jp-Notebook img')].filter(i => i.naturalWidth)"
        page.wait_for_function(f"{shown}.length == {figures} + 1")  # and the badge
        page.screenshot(path=SHOTS / "notebook.png")
        assert complaints == []
