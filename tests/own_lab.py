"""A JupyterLab of a test's own, and a notebook in it that is run to its end."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "build" / "browser"
LIMIT = 300  # seconds that a notebook may take on a busy machine
SETTINGS = {
    "config/labconfig/page_config.json": {
        "disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}},
    # keep cells out of sight in the page, where the test looks for them
    "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {
        "windowingMode": "none"},
}
# The indicator in the toolbar says "idle" even before there is a kernel; this does not.
READY = """() => {
    const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
}"""
# What stands before each code cell: "[ ]" never run, "[*]" waiting or running, "[3]" done. Asked of
# JupyterLab and not of the page, where a folded cell shows none.
PROMPTS = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => cell.model.type === 'code')
    .map(cell => cell.inputArea.promptNode.textContent.trim().replace(/:$/, ''))"""
STARTED = f"() => !({PROMPTS})().includes('[ ]')"
ENDED = f"""() => document.querySelector('[data-mime-type*=error]')
    || ({PROMPTS})().every(prompt => /\\d/.test(prompt))"""
STATE = """() => ({
    kernel: document.querySelector('.jp-KernelName')?.innerText,
    status: document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status,
    dialogs: [...document.querySelectorAll('.jp-Dialog')].map(dialog => dialog.innerText),
    errors: [...document.querySelectorAll('[data-mime-type*=error]')].map(e => e.innerText),
})"""


def beginning(path, last):
    """A notebook of the course up to the cell that contains `last`, as if never run."""
    notebook = nbformat.read(path, as_version=4)
    end = next(i for i, cell in enumerate(notebook.cells) if last in cell.source)
    notebook.cells = notebook.cells[: end + 1]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


@contextmanager
def served(home):
    """JupyterLab on the notebooks in home/work: address of notebook {}."""
    for name, content in SETTINGS.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(json.dumps(content))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(home / "config"),
           "JUPYTER_RUNTIME_DIR": str(home / "run"), "JUPYTER_DATA_DIR": str(home / "data"),
           "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
           "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--allow-root",
               "--LabApp.expose_app_in_browser=True", "--IdentityProvider.token=",
               f"--ServerApp.root_dir={home / 'work'}"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        end, found = time.monotonic() + LIMIT, []
        while not (found and found[0].stat().st_size):
            assert server.poll() is None and time.monotonic() < end, (home / "log").read_text()
            time.sleep(0.1)
            found = list((home / "run").glob("jpserver-*.json"))
        yield json.loads(found[0].read_text())["url"] + "lab/tree/{}?reset"  # no other tab
    finally:
        server.terminate()
        server.wait(60)


def run_all(page, name):
    """Run > Run All Cells, and wait until all have run.

    Asked before the kernel is there, JupyterLab runs nothing and says nothing; a menu may close
    before it is clicked. So it is asked again until every cell is marked as waiting.

    Raises
    ------
    AssertionError
        If a cell fails or has not run in time: the state of each cell. What the page looks like
        is then in build/browser/failed-{name}.png.
    """
    from playwright.sync_api import TimeoutError as TooLate

    end, started = time.monotonic() + LIMIT, False
    try:
        page.wait_for_function(READY, timeout=1000 * LIMIT)
        while not started and time.monotonic() < end:
            try:
                page.get_by_role("menuitem", name="Run", exact=True).click(timeout=20_000)
                menu = page.locator(".lm-Menu")
                menu.get_by_text("Run All Cells", exact=True).click(timeout=20_000)
                page.wait_for_function(STARTED, timeout=20_000)
                started = True
            except TooLate:
                page.keyboard.press("Escape")
        page.wait_for_function(ENDED, timeout=1000 * max(1, end - time.monotonic()))
    except TooLate:
        pass
    cells, state = page.evaluate(PROMPTS), page.evaluate(STATE)
    if state["errors"] or not cells or not all(cell[1:-1].isdigit() for cell in cells):
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"failed-{name}.png")
        raise AssertionError(f"{name}: after {LIMIT} s at most, cells {' '.join(cells)}; {state}")
