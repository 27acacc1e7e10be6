"""The reference says of every public name what its docstring says, and what it says is true."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("reference", ROOT / "notebooks" / "_reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
NAMES = {f"{room}.{name}": value for room, (_, names) in reference.surfaces().items()
         for name, value in names.items() if callable(value)}


def parameters(doc):
    """The names that a NumPy docstring describes under Parameters."""
    found = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-{3,}|\Z)", doc, re.S | re.M)
    heads = re.findall(r"^(\S.*?)(?: :.*)?$", found[1], re.M) if found else []
    return {part.strip().lstrip("*") for head in heads for part in head.split(",")
            if not head.startswith("As ")}


def test_parameters_by_hand():
    doc = "Add.\n\nParameters\n----------\na, b : int\n    First.\n*rest\n\nRaises\n------\nc\n"
    assert parameters(doc) == {"a", "b", "rest"} and parameters("Add.") == set()


def test_every_public_name_is_on_the_page():
    text = "".join(reference.pages().values())
    said = re.findall(r"^\.\. auto(?:class|function):: recon_lib\.(\S+)$", text, re.M)
    assert len(said) == len(set(said)) and set(NAMES) <= set(said)
    for fixed in ("data.create_loader", "training.train_unconditional_diffusion", "unet.UNet"):
        assert fixed in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_name_the_parameters_that_there_are(name):
    value = NAMES[name]
    if documented := parameters(inspect.getdoc(value)):
        assert documented <= set(inspect.signature(value).parameters), name


@pytest.mark.parametrize("name", [name for name, value in NAMES.items() if name.count(".") == 1
                                  and inspect.isfunction(value)])
def test_public_functions_are_annotated(name):
    bare = [p.name for p in inspect.signature(NAMES[name]).parameters.values()
            if p.annotation is p.empty]
    assert not bare
