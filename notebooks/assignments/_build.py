"""Turn the teacher's sources beside this file into a course that nbgrader knows.

    python notebooks/assignments/_build.py           # into build/assignments
    python notebooks/assignments/_build.py FOLDER    # into a course folder of your own

An assignment is two files: NAME.ipynb, in nbgrader's format, with solutions and all tests; and
NAME.md, the guide, which also holds wrong answers and what students are told about them. The cell
with the id X is an exercise, and the cell `test_X` marks it.
"""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader.apps import NbGraderAPI
from traitlets.config.loader import PyFileConfigLoader

from recon_lib.common.errors import atomic_write

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "assignments"

CONFIG = """# Read by every nbgrader command that is given in this folder.
from nbgrader import preprocessors


class OnceEach(preprocessors.DeduplicateIds):
    # Of a cell that was copied the last counts; marking would fail at what is left of the others.
    def preprocess_cell(self, cell, *more):
        cell, resources = super().preprocess_cell(cell, *more)
        if cell.metadata.get("nbgrader") == {}:
            del cell.metadata["nbgrader"]
        return cell, resources


c = get_config()
c.CourseDirectory.course_id = "reading_images"
c.Execute.timeout = 120  # seconds a cell
c.OverwriteCells.add_missing_cells = True  # test cells that were deleted are put back
c.Autograde.sanitize_preprocessors = [
    preprocessors.ClearOutput, OnceEach, preprocessors.OverwriteKernelspec,
    preprocessors.OverwriteCells, preprocessors.CheckCellMetadata]
"""
SELF_CHECK = '''# @title Self-check: all visible tests on what is defined above
TESTS = {{
{tests}}}

for name, code in TESTS.items():
    try:
        exec(code, dict(globals()))
        print(f"{{name}}: right as far as this test can see")
    except (NotImplementedError, NameError) as error:
        print(f"{{name}}: not written yet ({{error or 'your code is missing'}})")
    except Exception as error:
        print(f"{{name}}: not yet. {{type(error).__name__}}: {{error}}")
'''


class Mistake(NamedTuple):
    """A wrong answer from a guide: what students write, and part of what they are then told."""

    exercise: str
    title: str
    code: str
    message: str


def sources():
    """The teacher's notebooks, in the order of the course."""
    return sorted(HERE.glob("*.ipynb"))


def graded(notebook):
    """Cells that nbgrader knows: {grade_id: cell}."""
    return {cell.metadata.nbgrader.grade_id: cell
            for cell in notebook.cells if "nbgrader" in cell.metadata}


def points(notebook):
    """Points of each exercise, in order: {id: points}."""
    return {name.removeprefix("test_"): cell.metadata.nbgrader.points
            for name, cell in graded(notebook).items() if cell.metadata.nbgrader.grade}


def by_hand(cell):
    """Whether a teacher marks this cell."""
    return cell.metadata.nbgrader.grade and cell.metadata.nbgrader.solution


def mistakes(guide):
    """The wrong answers in the text of a guide.

    Under the heading of an exercise, `## id`, each has a heading, a block of code, and a quotation.
    """
    found = []
    for section in re.split(r"^## ", guide, flags=re.M)[1:]:
        exercise, _, rest = section.partition("\n")
        for part in re.split(r"^### ", rest, flags=re.M)[1:]:
            title, _, body = part.partition("\n")
            code = re.search(r"^```python\n(.*?)^```", body, flags=re.M | re.S)[1]
            message = " ".join(re.findall(r"^> (.*)$", body, flags=re.M))
            found.append(Mistake(exercise.strip(), title.strip(), code, message))
    return found


def self_checking(release):
    """A copy of a student's notebook that ends with a cell which runs all visible tests."""
    release, known = nbformat.from_dict(release), graded(release)
    tests = ""
    for name, cell in known.items():
        if name.startswith("test_"):
            worth = f"{name.removeprefix('test_')}, {cell.metadata.nbgrader.points} points"
            tests += f"    {worth!r}: r'''\n{cell.source}\n''',\n"
    release.cells += [
        new_markdown_cell("## Self-check\n\nRun this cell when you think you are done. Grading "
                          "adds tests with other numbers.", id="self-check-text"),
        new_code_cell(SELF_CHECK.format(tests=tests), id="self-check",
                      metadata={"cellView": "form", "jupyter": {"source_hidden": True}}),
    ]
    return release


def full_guide(notebook, guide):
    """The guide with the points and the reference solution of each exercise put in."""
    cells = graded(notebook)
    for name, value in points(notebook).items():
        hand, answer = by_hand(cells[name]), cells[name].source
        if cells[name].cell_type == "code":
            answer = f"```python\n{answer}\n```"
        worth = f"{value} points{', marked by hand' * hand}"
        heading = f"## {name}: {worth}\n\nReference:\n\n{answer}\n"
        guide = re.sub(rf"^## {name}\n", lambda _, text=heading: text, guide, flags=re.M)
    return guide


def overview(notebooks, guides):
    """A table of all assignments: points and time."""
    lines = ["# Instructor's guide", "",
             "| assignment | points by test | points by hand | minutes |", "|---|---|---|---|"]
    for name, notebook in notebooks.items():
        cells, worth = graded(notebook), points(notebook)
        hand = sum(value for k, value in worth.items() if by_hand(cells[k]))
        minutes = re.search(r"\*\*Time\*\* (\d+) minutes", guides[name])[1]
        lines.append(f"| [{name}]({name}.md) | {sum(worth.values()) - hand} | {hand} | {minutes} |")
    return "\n".join(lines) + "\n"


def nbgrader_in(course):
    """Nbgrader's API for a course folder."""
    # nbgrader starts `alembic` by name: it stands beside Python, also where no shell looks for it
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = PyFileConfigLoader("nbgrader_config.py", str(course)).load_config()
    settings.CourseDirectory.root = str(course)
    return NbGraderAPI(config=settings)


def write(path, text):
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def main(course=BUILD):
    """Build every assignment into the folder `course`."""
    course = Path(course).expanduser().resolve()
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in sources()}
    guides = {name: (HERE / f"{name}.md").read_text(encoding="utf-8") for name in notebooks}
    if not (course / "nbgrader_config.py").exists():  # the teacher may have changed it
        write(course / "nbgrader_config.py", CONFIG)
    nbgrader = nbgrader_in(course)
    for name, notebook in notebooks.items():
        write(course / "source" / name / f"{name}.ipynb", nbformat.writes(notebook) + "\n")
        done = nbgrader.generate_assignment(name)
        if not done["success"]:
            sys.exit(f"nbgrader refuses {name}:\n{done.get('log', '')}{done.get('error', '')}")
        release = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
        colab = nbformat.writes(self_checking(release)) + "\n"
        write(course / "colab" / f"{name}.ipynb", colab)
        write(course / "guide" / f"{name}.md", full_guide(notebook, guides[name]))
    write(course / "guide" / "README.md", overview(notebooks, guides))
    print(f"Built {len(notebooks)} assignments in {course}: release/ for nbgrader's students, "
          "colab/ for everybody else's, guide/ for you alone")


if __name__ == "__main__":
    main(*sys.argv[1:2])
