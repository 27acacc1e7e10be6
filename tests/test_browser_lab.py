"""The explorers in a real JupyterLab, in a real browser, moved by keyboard and by mouse.

Screenshots of the explorers, as they look after the first move, are left in build/browser/.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import chromium
import nbformat
import pytest
from explorers import EXAMPLES

pytest.importorskip("playwright")
ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "build" / "browser"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CONTROL = ".widget-slider, .widget-toggle-buttons, .widget-checkbox"
SETTINGS = {
    "config/labconfig/page_config.json": {
        "disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}},
    # keep cells out of sight in the page, where the test looks for them
    "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {
        "windowingMode": "none"},
}  # fmt: skip
STATE = """async box => {
    const image = box.querySelector('img.widget-image');
    const bytes = await (await fetch(image.src)).arrayBuffer();
    const sum = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    const line = [...box.querySelectorAll('.widget-html b')].pop().innerText;
    return [line, Array.from(sum).join(' ')];
}"""
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


def beginning(path, last):
    """A notebook of the course up to the cell that contains `last`, as if never run."""
    notebook = nbformat.read(path, as_version=4)
    end = next(i for i, cell in enumerate(notebook.cells) if last in cell.source)
    notebook.cells = notebook.cells[: end + 1]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def run_all(page):
    """Run > Run All Cells, once the kernel is there."""
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own, with the notebooks and one of explorers: address of notebook {}."""
    with chromium.page():
        pass  # skips all that follows where there is no browser
    home = tmp_path_factory.mktemp("lab")
    for name, content in SETTINGS.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(json.dumps(content))
    shutil.copytree(ROOT / "notebooks", home / "work",
                    ignore=lambda _, names: [n for n in names if not n.endswith(".ipynb")])
    sources = [f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
               "from explorers import EXAMPLES"]  # fmt: skip
    sources += [f"EXAMPLES[{name!r}]()" for name in EXAMPLES]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3",
                                       "language": "python"}  # fmt: skip
    nbformat.write(notebook, home / "work" / "explorers.ipynb")
    nbformat.write(beginning(NOTEBOOKS[1], "widgets.draw_hrf("), home / "work" / "beginning.ipynb")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(home / "config"),
           "JUPYTER_RUNTIME_DIR": str(home / "run"), "JUPYTER_DATA_DIR": str(home / "data"),
           "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
           "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--allow-root",
               "--IdentityProvider.token=", f"--ServerApp.root_dir={home / 'work'}"]  # fmt: skip
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        for _ in range(1200):
            found = list((home / "run").glob("jpserver-*.json"))
            if found and found[0].stat().st_size:
                break
            assert server.poll() is None, (home / "log").read_text()
            time.sleep(0.1)
        yield json.loads(found[0].read_text())["url"] + "lab/tree/{}?reset"  # no other tab
    finally:
        server.terminate()
        server.wait(20)


def label_of(control):
    """The first line of its text; a checkbox has an empty one before its label."""
    lines = control.inner_text().replace("\u200b", "").split("\n")
    return next((line for line in lines if line.strip()), "")


def settled(page, box, before):
    """The state of an explorer once it differs from `before` and stays, or after 24 s."""
    last = None
    for _ in range(300):
        now = box.evaluate(STATE)
        if now == last and now[0] != before[0] and now[1] != before[1]:
            return now
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
                          for word in ("now", "min", "max"))  # fmt: skip
        page.keyboard.press("End" if high - now > now - low else "Home")  # the farther one
    elif "widget-toggle-buttons" in kind:
        control.locator("button:not(.mod-active)").last.focus()
        page.keyboard.press("Space")
    else:
        control.locator("input").focus()
        page.keyboard.press("Space")


def test_explorers_follow_keyboard_and_mouse(lab):
    SHOTS.mkdir(parents=True, exist_ok=True)
    with chromium.page() as (page, complaints):
        page.goto(lab.format("explorers.ipynb"))
        run_all(page)
        cells = page.locator(".jp-CodeCell")
        page.locator("img.widget-image").nth(len(EXAMPLES) - 1).wait_for()
        page.evaluate(WATCH)
        for i, name in enumerate(EXAMPLES, 1):
            box = cells.nth(i).locator(".jp-OutputArea-child .widget-vbox")
            start = box.evaluate(STATE)
            controls = box.locator(CONTROL)
            labels = [label_of(controls.nth(c)) for c in range(controls.count())]
            assert all(labels) and len(labels) == len(set(labels)) > 1, f"{name}: {labels}"
            for c, label in enumerate(labels):
                move(page, controls.nth(c))
                covers = "checkbox" in controls.nth(c).get_attribute("class")
                now = settled(page, box, ["", start[1]] if covers else start)
                assert now[1] != start[1], f"{name}: '{label}' moved, the figure did not"
                assert now[0] != start[0] or covers, f"{name}: '{label}' moved, numbers did not"
                if c == 0:
                    box.screenshot(path=SHOTS / f"{name}.png")
                box.locator(".widget-button").press("Space")
                assert settled(page, box, ["", now[1]]) == start, f"{name}: Reset after '{label}'"
            first = box.locator("[role=slider]").first
            first.press("ArrowRight")
            state = settled(page, box, start)
            assert state[1] != start[1], f"{name}: an arrow key moved nothing"
            drag(page, box, state, name)
        jumps = page.evaluate("window.jumps.slice(0, 9)")
        assert jumps == [], "a figure was replaced, moved, or changed its size"
        assert page.locator(".jp-OutputArea-output[data-mime-type*=stderr]").count() == 0
        assert complaints == []


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
    now = settled(page, box, start)
    assert handle.get_attribute("aria-valuenow") != before
    assert now[1] != start[1], f"{name}: dragged, but nothing followed"


def test_a_notebook_runs_and_code_moves_its_sliders(lab):
    """Notebook 01 to its first explorer: the cell after it sets a slider, and the page follows."""
    with chromium.page() as (page, complaints):
        page.goto(lab.format("beginning.ipynb"))
        run_all(page)
        slider = page.locator(".widget-slider").filter(has_text="picture every (s)")
        page.wait_for_function("""() => [...document.querySelectorAll('.widget-slider')].some(
            s => s.innerText.includes('picture every') && s.innerText.includes('4.00'))""")
        assert slider.locator("[role=slider]").get_attribute("aria-valuenow") == "4.0"
        line = page.locator(".widget-vbox .widget-html b").last.inner_text()
        assert "15 pictures add up to 1.40 times one" in line
        page.locator(".jp-RenderedImage img").nth(1).wait_for()
        assert page.locator(".jp-RenderedImage img").count() == 2  # the static figures
        assert page.locator("[data-mime-type*=stderr], [data-mime-type*=error]").count() == 0
        page.screenshot(path=SHOTS / "running.png")
        assert complaints == []


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
