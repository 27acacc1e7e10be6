"""The files around the code agree with one another."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import recon_lib
from recon_lib.__main__ import app

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]
# conda-forge's name: PyPI's name
CONDA_NAMES = {"pytorch": "torch", "playwright-python": "playwright"}


def requirements(extra=None):
    """Name and version bound of each requirement, the extras named in an extra included."""
    found = {}
    extras = {None: PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    for line in extras[extra]:
        name, others, bound = re.fullmatch(r"([\w-]+)(?:\[([\w,]+)\])?(.*)", line).groups()
        if name == PROJECT["name"]:
            for other in others.split(","):
                found |= requirements(other)
        else:
            found[name] = bound
    return found


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_environment_yml_is_pyproject():
    lines = read("environment.yml").split("dependencies:")[1]
    listed = re.findall(r"^ +- ([\w-]+)([>=<!.\d]*) *(?:#.*)?$", lines, re.M)
    conda = {CONDA_NAMES.get(name, name): bound for name, bound in listed}
    assert conda.pop("python") == PROJECT["requires-python"]
    conda.pop("pip")
    assert conda == requirements() | requirements("dev")


def test_bounds_are_lower_bounds_that_a_hosted_notebook_meets():
    hosted = {"torch": (2, 11), "numpy": (2, 1), "ipywidgets": (7, 7, 1), "ipykernel": (6, 17)}
    for name, bound in (requirements() | requirements("dev")).items():
        assert re.fullmatch(r">=[\d.]+", bound), f"{name}{bound}"
        lowest = tuple(map(int, bound[2:].split(".")))
        assert lowest <= hosted.get(name, lowest), f"{name}{bound}"


def test_the_standard_set_up_has_what_the_course_promises():
    promised = {"torch", "torchvision", "jupyterlab", "ipywidgets", "matplotlib", "numpy",
                "nbval", "h5py"}
    assert promised <= set(requirements() | requirements("dev"))


def test_one_version_and_one_address():
    address = PROJECT["urls"]["Repository"]
    cell = read("notebooks/_setup_cell.py")
    version = recon_lib.__version__
    assert f'"{address}", "v{version}"' in cell
    assert re.search(r"^## (\S+)$", read("CHANGELOG.md"), re.M)[1] == version
    assert re.search(r"^version: (.+)$", read("CITATION.cff"), re.M)[1] == version
    assert "version" in PROJECT["dynamic"]  # pyproject.toml holds no number of its own
    readme = read("README.md")
    others = ("CITATION.cff", ".github/ISSUE_TEMPLATE/config.yml", "pyproject.toml")
    told = "".join(map(read, others))
    github = set(re.findall(r"github\.com/([\w-]+/[\w-]+)", readme + cell + told))
    assert github == {address.removeprefix("https://github.com/")}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/start.md",
                                  "docs/own_data.md", "docs/cite.md"])
def test_links_to_files(name):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(name))
    here = (ROOT / name).parent
    assert links
    for link in links:
        assert "://" in link or (here / link).exists(), f"{name} links to {link}"


TEXTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", TEXTS)
def test_code_in_texts_calls_what_is_there(name):
    """Every import and attribute of the package in a block of Python, every option of a command."""
    text = read(name)
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        modules = {}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("recon_lib"):
                for one in node.names:
                    modules[one.name] = getattr(importlib.import_module(node.module), one.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                place = modules.get(node.value.id)
                assert not inspect.ismodule(place) or hasattr(place, node.attr), node.attr
    for line in re.findall(r"-m recon_lib ([^`\n]*)", text.replace("\\\n", "")):
        command, words = get_command(app), line.split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not getattr(command, "commands", {}) or words[:1] in ([], ["--help"]), line
        known = {flag for option in command.params for flag in option.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_readme_names_targets_and_notebooks_that_exist():
    readme = read("README.md")
    commands = set(re.findall(r"`make (\w+)`", readme + read("docs/start.md")))
    targets = re.findall(r"^([a-z]+):", read("Makefile"), re.M)
    assert {"run", "lab", "test"} <= commands <= set(targets)
    notebooks = {path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert notebooks <= set(re.findall(r"\w+\.ipynb", readme))


def test_the_paper_has_the_journals_sections_and_cites_what_its_bibliography_has():
    """What the Journal of Open Source Education asks of a learning module's paper."""
    head, paper = read("paper.md").split("---\n")[1:3]
    for section in ("Summary", "Statement of need", "Learning objectives and content",
                    "Instructional design", "Story of the project, and experience of use",
                    "References"):
        assert f"\n# {section}\n" in paper, section
    authors = re.findall(r"^  - name: (.*)$", read("CITATION.cff"), re.M)
    assert re.findall(r"^  - name: (.*)\n    affiliation", head, re.M) == authors
    assert len(paper.split()) <= 1000
    cited = set(re.findall(r"@([\w:]+)", paper))
    entries = dict(re.findall(r"@\w+\{([\w:]+),(.*?)\n\}", read("paper.bib"), re.S))
    assert cited == entries.keys()
    assert all("doi = " in entry or r"\url{https://" in entry for entry in entries.values())


def test_the_map_of_the_library_is_the_package():
    mapped = set()
    row = re.compile(r"^\| (\S.*?) \| .* \| (`\w+\.py`.*) \|$", re.M)
    for room, files in row.findall(read("docs/library.md")):
        folder = room.strip("`") if room.startswith("`") else ""
        mapped |= {folder + name for name in re.findall(r"`(\w+\.py)`", files)}
    package = ROOT / "recon_lib"
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py")
             if path.name != "__init__.py"}
    assert found - mapped == set(), "docs/library.md's map lacks these"
    assert mapped - found == set(), "docs/library.md's map has these, which do not exist"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    packed = TOOLS["setuptools"]["packages"]
    assert set(packed) == {"recon_lib", "recon_lib.shipped", *(f"recon_lib.{r}" for r in rooms)}


@pytest.fixture
def make(tmp_path):
    """Runs a target of the Makefile with stubs for Python and Jupyter; returns all calls so far."""
    (tmp_path / "Makefile").write_text(read("Makefile"))
    (tmp_path / "pyproject.toml").write_text("")
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'echo "$(basename "$0") $@" >> calls\n'
        'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp python "$3/bin/python"; '
        'cp python "$3/bin/jupyter"; fi\n'
    )
    python.chmod(0o755)

    def calls(target):
        # a make that runs this test hands its own VENV down through the environment
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "VENV"}
        command = ["make", "-s", target, "PYTHON=./python"]
        subprocess.run(command, cwd=tmp_path, check=True, env=clean)
        return (tmp_path / "calls").read_text().splitlines()

    return calls


def test_a_second_make_installs_nothing(make, tmp_path):
    """`make setup` with a stub Python: one install, none the second time, one after a change."""
    assert [line.split()[2] for line in make("setup")] == ["venv", "pip"]
    assert len(make("setup")) == 2
    newer = (tmp_path / ".venv" / ".dev").stat().st_mtime + 10
    os.utime(tmp_path / "pyproject.toml", (newer, newer))
    assert len(make("setup")) == 3


def test_each_target_installs_what_it_needs(make):
    def installed(target):
        return [line.split("--editable ")[1] for line in make(target) if "pip install" in line]

    assert installed("run") == ["."]
    assert make("run")[-2:] == ["python -m recon_lib run"] * 2
    assert installed("lab") == [".", ".[notebooks,neuro]"]
    assert installed("run") == installed("lab")
    assert installed("setup") == [".", ".[notebooks,neuro]", ".[dev]"]
    for target in ("run", "lab", "setup"):  # the tools of developers include all others
        assert len(installed(target)) == 3


def test_what_the_job_needs_is_not_the_developers():
    assert not set(requirements()) & {"nbval", "pytest", "ruff", "jupyterlab", "nbgrader", "mypy"}
    assert set(requirements("notebooks")) | set(requirements("neuro")) <= set(requirements("dev"))
