"""One anatomy for every notebook: what a reader can count on to find, and where."""

import base64
import copy
import io
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
COLAB = "https://colab.research.google.com/github/visual-reconstruction/recon_lib/blob/main/notebooks/"
ENDING = ["What changes in the real thing", "Exercises", "References"]
THINK = re.compile(
    r"\*\*Think\.\*\*.*?<details><summary>Answer</summary>\n\n(.+?)\n\n</details>", re.S)
WIDGET = "application/vnd.jupyter.widget-view+json"


def figures(cell):
    """The pictures that a code cell stores, as bytes."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return [base64.b64decode(d[k]) for d in data for k in d if k in ("image/png", "image/jpeg")]


def opening(path, text):
    """Title, question, badge, objectives, time, needs."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not re.fullmatch(rf"# {path.stem[:2]} · \S.*", lines[0]):
        yield f"the first line is not '# {path.stem[:2]} · title'"
    if not re.fullmatch(r"\*[^*]+\?\*", lines[1]):
        yield "the second line is not one question in italics"
    if not (lines[2].startswith("[![Open in Colab]") and f"({COLAB}{path.name})" in lines[2]):
        yield "the badge does not lead to this notebook"
    aims = text.partition("**After this notebook you can**")[2].partition("**Time**")[0]
    if not 3 <= len(re.findall(r"^\d\. ", aims, re.M)) <= 5:
        yield "there are not three to five objectives"
    if not re.search(r"\*\*Time\*\* .*minutes.*\*\*Needs\*\* ", text):
        yield "it does not say how long it takes and what it needs"


def middle(cells):
    """Sections that ask, think-questions with answers, a widget with a figure beside it."""
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    sections = re.findall(r"^## (\d+)\. .*\n(?:\n(.*))?", text, re.M)
    if [int(n) for n, _ in sections] != list(range(1, len(sections) + 1)) or len(sections) < 3:
        yield "sections are not numbered 1, 2, 3 ..."
    for number, first in sections:
        if not first.startswith("**Question.**"):
            yield f"section {number} does not begin with a question"
    answers = THINK.findall(text)
    if len(answers) < 2 or len(answers) != text.count("<details>"):
        yield f"{len(answers)} think-questions with a foldable answer; two or more, please"
    code = [cell for cell in cells if cell.cell_type == "code"]
    shows = [any(WIDGET in o.get("data", {}) for o in cell.get("outputs", [])) for cell in code]
    if not any(shows):
        yield "there is no widget"
    for cell, following in zip(code, code[1:], strict=False):
        if shows[code.index(cell)] and not figures(following):
            yield f"no static figure in the cell after the widget of [{cell.execution_count}]"
    if not any(cell.source.startswith("# NBVAL_CHECK_OUTPUT\n") for cell in code):
        yield "no cell's output is compared (NBVAL_CHECK_OUTPUT)"
    if sum(len(re.findall(r"^\s*assert ", cell.source, re.M)) for cell in code) < 5:
        yield "fewer than five asserts"


def ending(path, paths, cells):
    """The real thing, exercises with a check, references, links to the neighbours."""
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    if re.findall(r"^## (?!\d)(.*)", text, re.M) != ENDING:
        yield f"the last headings are not {ENDING}"
    at = next((i for i, cell in enumerate(cells) if "## Exercises" in cell.source), len(cells))
    if sum(cell.cell_type == "code" for cell in cells[at:]) < 2:
        yield "fewer than two exercises with code"
    if "Each check tells you whether you are there." not in text:
        yield "the exercises do not say that they check themselves"
    entries = re.findall(r"^- .*", text.partition("## References")[2].partition("\n---")[0], re.M)
    if len(entries) < 3:
        yield "fewer than three references"
    for entry in entries:
        found = re.search(r"\[(doi|arXiv):(.+?)\]\((https://\S+)\)$", entry)
        home = {"doi": "https://doi.org/", "arXiv": "https://arxiv.org/abs/"}
        if not found or unquote(found[3]) != home[found[1]] + found[2]:
            yield f"no DOI or arXiv number that is also the link: {entry[:60]}"
        elif not re.search(r"\(\d{4}\)", entry):
            yield f"no year: {entry[:60]}"
    i = paths.index(path)
    last = cells[-1].source.rsplit("---", 1)[-1]
    links = re.findall(r"\]\((\S+?)\)", last)
    wanted = [p.name for p in paths[max(i - 1, 0) : i]] + [p.name for p in paths[i + 1 : i + 2]]
    if [link for link in links if link.endswith(".ipynb")] != wanted:
        yield f"the last line links to {links}, not to the neighbours {wanted}"


def pictures(cells):
    """Every figure is told in words, and fits a phone."""
    told = {}
    for cell in cells:
        for figure in figures(cell):
            alt = cell.metadata.get("alt", "")
            if not 30 <= len(alt) <= 400 or alt in told:
                yield f"cell [{cell.execution_count}]: no description of its figure (metadata.alt)"
            told[alt] = True
            if not 300 <= Image.open(io.BytesIO(figure)).width <= 1000:
                yield f"cell [{cell.execution_count}]: a figure that is not 300 to 1000 pixels wide"


def faults(path, paths, notebook):
    """All that the notebook lacks."""
    cells = notebook.cells
    return [*opening(path, cells[0].source), *middle(cells), *ending(path, paths, cells),
            *pictures(cells)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_anatomy(path):
    assert faults(path, PATHS, nbformat.read(path, as_version=4)) == []


def swap(old, new):
    def change(notebook):
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    return change


def blind(notebook):
    for cell in notebook.cells:
        cell.metadata.pop("alt", None)


def no_widget(notebook):
    notebook.cells = [c for c in notebook.cells
                      if not any(WIDGET in o.get("data", {}) for o in c.get("outputs", []))]


@pytest.mark.parametrize("change, complaint", [
    (swap("# 01 ·", "# 1 ·"), "first line"),
    (swap("*What does a voxel", "What does a voxel"), "italics"),
    (swap("blob/main/notebooks/01", "blob/main/notebooks/02"), "badge"),
    (swap("**After this notebook you can**", "You will learn"), "objectives"),
    (swap("**Needs**", "Needs"), "how long"),
    (swap("## 7. ", "## 9. "), "numbered"),
    (swap("**Question.** How large", "How large"), "section 4"),
    (swap("</details>", ""), "think-questions"),
    (no_widget, "no widget"),
    (swap("# NBVAL_CHECK_OUTPUT\n", "# NBVAL_CHECK_OUTPUT, please\n"), "compared"),
    (swap("## What changes", "## What may change"), "headings"),
    (swap("https://doi.org/10.1006", "https://doi.org/10.9999"), "DOI"),
    (swap("](02_from", "](03_from"), "neighbours"),
    (blind, "description"),
])
def test_each_lack_is_found(change, complaint):
    path = ROOT / "notebooks" / "01_hrf_and_glm.ipynb"
    whole = nbformat.read(path, as_version=4)
    broken = copy.deepcopy(whole)
    change(broken)
    found = set(faults(path, PATHS, broken)) - set(faults(path, PATHS, whole))
    assert any(complaint in line for line in found)
