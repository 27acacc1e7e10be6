"""That the check of the notebooks can fail: nbval on notebooks with one thing wrong each."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_notebooks import faults

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
SETUP = (ROOT / "notebooks" / "_setup_cell.py").read_text(encoding="utf-8").strip()
SLIDER = """import math
from matplotlib.figure import Figure
from recon_lib.course.explorer import Explorer, slider
box = Explorer({"x": slider("x", 1.0, 0.0, 4.0, 0.5)}, lambda x: {"root": math.sqrt(2 - x)},
               lambda now, fig=None: Figure((1, 1)), lambda now: f"{now['root']:.2f}")
assert box.numbers["root"] == 1"""
# Seems to have no course: the setup cell has to install it, and pip fails.
BARE = """import importlib.util, subprocess
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "recon_lib" else real(name, *a)
def check_call(command):
    if "clone" in command:
        return command[-1].mkdir()
    raise subprocess.CalledProcessError(1, "pip, as it fails here")
subprocess.check_call = check_call
subprocess.run = lambda command, **options: subprocess.CompletedProcess(command, 0)"""
CHECK = "# NBVAL_CHECK_OUTPUT\n"


def stored(*cells):
    """A notebook of (source, stored output or None)."""
    made = []
    for i, (source, text) in enumerate(cells, 1):
        outputs = [nbformat.v4.new_output("stream", text=text)] if text else []
        made.append(nbformat.v4.new_code_cell(source, execution_count=i, outputs=outputs))
    notebook = nbformat.v4.new_notebook(cells=made)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3",
                                       "language": "python"}
    return notebook


NOTEBOOKS = {  # name: (notebook, does lax mode pass it, does strict mode)
    "whole": (stored((CHECK + "print(6 * 7)", "42\n"), ("print('noise')", "noise\n")), True, True),
    "wrong_checked_output": (stored((CHECK + "print(6 * 7)", "41\n")), False, False),
    "wrong_other_output": (stored(("print(6 * 7)", "41\n")), True, False),
    "false_claim": (stored(("assert 6 * 7 == 41", None)), False, False),
    "raising_callback": (stored((SLIDER, None), ("box.controls['x'].value = 3.0", None)),
                         False, False),
    "failing_install": (stored((BARE, None), (SETUP, None)), False, False),
    "disabled_marker": (stored(("# NBVAL_CHECK_OUTPUT of this\nprint(6 * 7)", "41\n")),
                        True, False),
}


REASONS = {  # what the report must say of those that lax mode refuses
    "wrong_checked_output": "41",
    "false_claim": "AssertionError",
    "raising_callback": "math domain error",
    "failing_install": "pip, as it fails here",
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What pytest says of all these notebooks, in both modes."""
    folder = tmp_path_factory.mktemp("nbval")
    paths = []
    for name, (notebook, _, _) in NOTEBOOKS.items():
        (folder / name).mkdir()
        paths.append(folder / name / f"{name}.ipynb")
        nbformat.write(notebook, paths[-1])
    said = {}
    for mode in ("--nbval-lax", "--nbval"):
        command = [sys.executable, "-m", "pytest", "-rA", "-q", "-p", "no:randomly",
                   "-p", "no:cacheprovider", mode, "--nbval-current-env", *paths]
        done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                              capture_output=True, text=True, timeout=300)
        said[mode] = done.stdout
    return said


def verdict(report, name):
    """Does every cell of this notebook pass?"""
    lines = [line for line in report.splitlines() if f"{name}.ipynb" in line]
    verdicts = {line.split()[0] for line in lines} & {"PASSED", "FAILED", "ERROR"}
    return verdicts == {"PASSED"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nbval_tells_right_from_wrong(reports, name):
    _, lax, strict = NOTEBOOKS[name]
    assert verdict(reports["--nbval-lax"], name) == lax
    assert verdict(reports["--nbval"], name) == strict
    if not lax:
        assert REASONS[name] in reports["--nbval-lax"]


def test_a_disabled_marker_is_refused_elsewhere():
    """nbval passes it, as seen above; so the anatomy must not."""
    notebook = NOTEBOOKS["disabled_marker"][0]
    assert any("not alone on its line" in fault for fault in faults(notebook))
