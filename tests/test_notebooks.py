"""What every notebook must be, whatever it says; and that the tools which make them so work."""

import base64
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SETUP = (ROOT / "notebooks" / "_setup_cell.py").read_text(encoding="utf-8").strip()
MARKERS = (
    "NBVAL_IGNORE_OUTPUT", "NBVAL_CHECK_OUTPUT", "NBVAL_RAISES_EXCEPTION", "NBVAL_SKIP",
    "NBVAL_TEST_NAME",
)


def faults(notebook):
    """What is wrong with a notebook's cells and outputs, one line each."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code or code[0].source.strip() != SETUP:
        found.append("the first code cell is not notebooks/_setup_cell.py")
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"execution counts are {counts}: run it from top to bottom and save")
    if notebook.metadata.get("accelerator") != "GPU":
        found.append("metadata.accelerator is not GPU: run `python notebooks/_render.py --setup`")
    if not any("colab-badge.svg" in cell.source for cell in notebook.cells):
        found.append("there is no badge that opens it in Colab")
    if "widgets" in notebook.metadata:
        found.append("metadata.widgets is there: GitHub would call the notebook invalid")
    for i, cell in enumerate(code, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell [{i}] stores an error: {output.ename}")
            if output.get("name") == "stderr":
                found.append(f"cell [{i}] stores stderr: {output.text[:60]!r}")
        for line in cell.source.splitlines():
            name = next((m for m in MARKERS if m in line), None)
            if name and name != "NBVAL_TEST_NAME" and line.strip() != f"# {name}":
                found.append(f"cell [{i}]: {name} is not alone on its line, so nbval ignores it")
            if re.match(r"\s*(!|%pip|%conda|%%bash|%%sh)", line):
                found.append(f"cell [{i}]: {line.strip()!r} may fail unnoticed: use subprocess")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
    assert faults(nbformat.read(path, as_version=4)) == []
    assert path.stat().st_size <= 1.5e6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_files(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", cell.source):
                assert (path.parent / link).exists(), f"{path.name} links to {link}"


def notebook_of(*sources):
    cells = [nbformat.v4.new_code_cell(s, execution_count=i) for i, s in enumerate(sources, 1)]
    cells.append(nbformat.v4.new_markdown_cell("![badge](colab-badge.svg)"))
    return nbformat.v4.new_notebook(cells=cells, metadata={"accelerator": "GPU"})


def test_faults_are_found():
    assert faults(notebook_of(SETUP, "# NBVAL_CHECK_OUTPUT\n1 + 1")) == []
    assert "first code cell" in faults(notebook_of("1 + 1"))[0]
    assert "not alone" in faults(notebook_of(SETUP, "1  # NBVAL_CHECK_OUTPUT please"))[0]
    assert "unnoticed" in faults(notebook_of(SETUP, "!pip install x"))[0]
    bad = notebook_of(SETUP, "1")
    bad.metadata["widgets"] = {}
    bad.cells[1].execution_count = 7
    bad.cells[1].outputs = [nbformat.v4.new_output("stream", name="stderr", text="careful"),
                            nbformat.v4.new_output("error", ename="ValueError")]
    text = "\n".join(faults(bad))
    assert all(word in text for word in ("counts", "widgets", "stderr", "ValueError"))
    bare = nbformat.v4.new_notebook(cells=notebook_of(SETUP).cells[:1])
    assert ["accelerator" in faults(bare)[0], "badge" in faults(bare)[1]] == [True, True]


def test_setup_cell_leaves_an_installed_course_alone(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: pytest.fail("it installed"))
    names = {}
    exec(SETUP, names)
    assert names["device"].type in ("cpu", "cuda")
    assert "Running on" in capsys.readouterr().out


def test_badge_leads_to_the_notebook_itself():
    for path in NOTEBOOKS:
        text = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        links = re.findall(r"colab-badge\.svg\)\]\((\S+)\)", text)
        assert links == ["https://colab.research.google.com/github/visual-reconstruction/recon_lib/"
                         f"blob/main/notebooks/{path.name}"]


def test_setup_is_put_into_a_notebook_and_nothing_else_changes(render, tmp_path):
    notebook = notebook_of("old", "print(1)")
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    notebook.metadata.pop("accelerator")
    nbformat.write(notebook, tmp_path / "a.ipynb")
    render.set_up(tmp_path / "a.ipynb")
    after = nbformat.read(tmp_path / "a.ipynb", as_version=4)
    assert faults(after) == [] and after.cells[0].execution_count == 1
    assert after.cells[1:] == notebook.cells[1:]


STUB = """
import importlib.util, subprocess, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "recon_lib" else real(name, *a)
def check_call(command):
    command = [str(word) for word in command]
    print("RUN", *command)
    if command[0] == "git":
        return subprocess.run(command, check=True)
    print(open(command[command.index("--constraint") + 1]).read())
    {pip}
subprocess.check_call = check_call
exec(open(sys.argv[1]).read())
import recon_lib
print("FROM", recon_lib.__file__)
"""


@pytest.fixture
def upstream(tmp_path):
    """Git settings under which the course's address leads to a small tagged copy of it."""
    source = tmp_path / "upstream"
    shutil.copytree(ROOT / "recon_lib", source / "recon_lib",
                    ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    tag = re.search(r'"(v[\d.]+)"', SETUP)[1]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "x"],
                    ["tag", tag]):
        subprocess.run([*git, *command], cwd=source, check=True, stdin=subprocess.DEVNULL)
    address = re.search(r'"(https://[^"]+)"', SETUP)[1]
    return {**os.environ, "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{source.as_uri()}.insteadOf", "GIT_CONFIG_VALUE_0": address}


def fresh_session(tmp_path, env, pip="pass"):
    """Run the setup cell in an empty folder of a machine that seems not to have the course."""
    script = tmp_path / "session.py"
    script.write_text(STUB.format(pip=pip))
    empty = tmp_path / "content"
    empty.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, script, ROOT / "notebooks" / "_setup_cell.py"], cwd=empty, env=env,
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)


@pytest.mark.slow
def test_setup_cell_fetches_the_course_and_pins_what_is_there(tmp_path, upstream):
    done = fresh_session(tmp_path, upstream)
    assert done.returncode == 0, done.stderr
    pins = {f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy")}
    assert pins <= set(done.stdout.splitlines())
    assert "-m pip install" in done.stdout and "There is no" not in done.stdout
    assert f"FROM {tmp_path / 'content' / 'recon_lib_course'}" in done.stdout


@pytest.mark.slow
def test_setup_cell_takes_the_default_branch_where_its_tag_is_not_there_yet(tmp_path, upstream):
    tag = re.search(r'"(v[\d.]+)"', SETUP)[1]
    subprocess.run(["git", "tag", "--delete", tag], cwd=tmp_path / "upstream", check=True,
                   capture_output=True)
    done = fresh_session(tmp_path, upstream)
    assert done.returncode == 0, done.stderr
    assert f"There is no {tag} yet" in done.stdout and "--branch" not in done.stdout
    assert f"FROM {tmp_path / 'content' / 'recon_lib_course'}" in done.stdout


def test_setup_cell_raises_when_the_install_fails(tmp_path, upstream):
    done = fresh_session(tmp_path, upstream, pip="raise subprocess.CalledProcessError(1, 'pip')")
    assert done.returncode != 0 and "CalledProcessError" in done.stderr
    nowhere = {**upstream, "GIT_CONFIG_KEY_0": f"url.{(tmp_path / 'no').as_uri()}.insteadOf"}
    (tmp_path / "two").mkdir()
    done = fresh_session(tmp_path / "two", nowhere)
    assert done.returncode != 0 and "CalledProcessError" in done.stderr


@pytest.fixture
def render():
    """The module notebooks/_render.py."""
    spec = importlib.util.spec_from_file_location("render", ROOT / "notebooks" / "_render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_series_is_executed_and_rendered(render, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "HERE", tmp_path)
    monkeypatch.setattr(render, "BUILD", tmp_path / "build")
    for name, text in (("00_first", "# First one\n\n*Why?*"), ("01_second", "# Second\n\nHow?")):
        notebook = notebook_of("print(6 * 7)")
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(text + " [next](01_second.ipynb)"))
        notebook.metadata["widgets"] = {"state": {}}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    render.main(store=True)
    index = (tmp_path / "build" / "html" / "index.html").read_text()
    assert "First one" in index and 'href="01_second.html"' in index
    page = (tmp_path / "build" / "html" / "00_first.html").read_text()
    assert "Why?" in page and "42" in page and 'href="01_second.html"' in page
    assert 'href="01_second.ipynb"' not in page
    stored = nbformat.read(tmp_path / "00_first.ipynb", as_version=4)
    assert stored.cells[1].outputs[0].text == "42\n" and "widgets" not in stored.metadata


def test_a_heavy_notebook_is_made_lighter(render):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    data = io.BytesIO()
    noise.save(data, "png")
    png = base64.b64encode(data.getvalue()).decode()
    notebook = notebook_of("1", "2")
    drawing = io.BytesIO()
    Image.new("RGB", (1200, 60), "white").save(drawing, "png")
    drawing = base64.b64encode(drawing.getvalue()).decode()
    for cell, image in zip(notebook.cells[:2], (png, drawing), strict=True):
        cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": image})]
    render.lighten(notebook)
    stored = [Image.open(io.BytesIO(base64.b64decode(cell.outputs[0].data["image/png"])))
              for cell in notebook.cells[:2]]  # light enough: no JPEG
    assert np.array_equal(stored[0], noise) and stored[0].mode == "RGB"  # many colours are kept
    assert stored[1].mode == "P" and stored[1].size == (1000, 50)  # few colours, and not too wide
    render.lighten(notebook, limit=1e5)
    (large,), (small,) = (cell.outputs for cell in notebook.cells[:2])
    assert set(small.data) == {"image/png"} and set(large.data) == {"image/jpeg"}
    assert len(large.data["image/jpeg"]) < len(png)
    decoded = Image.open(io.BytesIO(base64.b64decode(large.data["image/jpeg"])))
    assert decoded.size == noise.size
