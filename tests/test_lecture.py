"""The notebook for a lecture: every explorer of the course on one page, and all of them answer."""

from pathlib import Path

import nbformat
import pytest
from explorers import EXAMPLES
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "notebooks" / "lecture.ipynb"


def test_it_shows_every_explorer_and_starts_as_every_notebook_does():
    notebook = nbformat.read(PATH, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    setup = (ROOT / "notebooks" / "_setup_cell.py").read_text(encoding="utf-8").strip()
    assert code[0].source == setup
    text = "\n".join(cell.source for cell in code)
    assert all(f"course.{name}(" in text for name in EXAMPLES)
    for cell in code:  # a lecture is no place for code
        assert cell.metadata["jupyter"]["source_hidden"] and "hide-input" in cell.metadata["tags"]


@pytest.mark.slow
def test_all_explorers_answer():
    notebook = nbformat.read(PATH, as_version=4)
    for cell in notebook.cells:  # two pictures are enough to see it run
        cell.source = cell.source.replace("len(seen), 6)", "len(seen), 57)")
    NotebookClient(notebook, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": str(PATH.parent)}}).execute()
    last = notebook.cells[-1].outputs
    assert last[-1]["text"] == f"{len(EXAMPLES)} explorers follow their controls\n"
