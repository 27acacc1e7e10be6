"""The house: which file may import which, and how large a function and a folder may grow."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "recon_lib"
# A room may import from those on lines above its own; on one line, only from itself.
LEVELS = """common
bold diffusion unet
data samplers guidance
world training
brain
decoding
scores
course
recipes results
__main__"""
LEVEL = {room: i for i, line in enumerate(LEVELS.splitlines()) for room in line.split()}
MODEL = ("diffusion", "unet", "samplers", "guidance")
# What one idea needs beyond the limits: signatures that are fixed, and the options of a command.
WIDE = ("create_loader", "train_unconditional_diffusion", "train_conditional_diffusion")
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent != PACKAGE or p.stem != "__init__"]


def room(path):
    """Name of a file's room; files at the top are rooms of their own."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Line and room of every import of the package's own, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recon_lib"):
            assert not node.level, f"{path.name}:{node.lineno}: a relative import"
            parts = node.module.split(".")
            for name in [parts[1]] if len(parts) > 1 else [n.name for n in node.names]:
                yield node.lineno, name
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, n.name.split(".")[1]) for n in node.names
                        if n.name.startswith("recon_lib."))


def functions(path):
    """Name, lines without the docstring, and number of parameters of every function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node, clean=False)
            lines = node.end_lineno - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
            a = node.args
            names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
            yield node.name, lines, len([name for name in names if name != "self"])


def allowed(here, there):
    """Whether a file of one room may import from another."""
    return here == there or LEVEL[there] < LEVEL[here] or {here, there} <= set(MODEL)


def test_the_rules_tell_up_from_down():
    assert allowed("scores", "brain") and not allowed("brain", "scores")
    assert allowed("guidance", "samplers") and not allowed("world", "training")
    assert set(LEVEL) == {room(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_run_downwards(path):
    here = room(path)
    upwards = [f"line {line}: {here} imports {there}" for line, there in imported(path)
               if not allowed(here, there)]
    assert not upwards


@pytest.mark.parametrize("name", MODEL)
def test_the_model_knows_nothing_of_brains(name):
    used = {there for _, there in imported(PACKAGE / f"{name}.py")}
    assert used <= {"common", *MODEL}


def test_eight_files_at_the_top_and_nine_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= 8
    assert len(list(PACKAGE.glob("*/__init__.py"))) == 9


def test_no_function_is_two_ideas():
    found = []
    for path in FILES:
        for name, lines, parameters in functions(path):
            wide = name in WIDE or path.stem == "__main__"
            if lines > 60 or (parameters > 8 and not wide):
                found.append(f"{room(path)}/{path.name} {name}: {lines} lines, "
                             f"{parameters} parameters")
    assert not found
