"""The reference says of every public name what its docstring says, and what it says is true."""

import importlib.util
import inspect
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("reference", ROOT / "notebooks" / "_reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
NAMES = {f"{room}.{name}": value for room, (_, names) in reference.surfaces().items()
         for name, value in names.items() if callable(value)}
EXAMPLE = '''Add `a` to b.

    c = a + b

Parameters
----------
a : (n,) array
    First, or <none>.
    Second line.
b : int, optional

Raises
------
ValueError
    Always.

Notes
-----
Peano (1889).
'''


def test_a_docstring_by_hand():
    assert reference.described(EXAMPLE) == (
        "<p>Add <code>a</code> to b.</p><pre>    c = a + b</pre>"
        "<h4>Parameters</h4><dl>"
        "<dt>a : (n,) array</dt><dd>First, or &lt;none&gt;.\nSecond line.\n</dd>"
        "<dt>b : int, optional</dt><dd></dd></dl>"
        "<h4>Raises</h4><dl><dt>ValueError</dt><dd>Always.\n</dd></dl>"
        "<h4>Notes</h4><p>Peano (1889).</p>")


def test_every_public_name_is_on_the_page():
    soup = BeautifulSoup(reference.page(), "html.parser")
    ids = [part["id"] for part in soup.select("[id]")]
    assert len(ids) == len(set(ids)) and set(NAMES) <= set(ids)
    for fixed in ("data.create_loader", "training.train_unconditional_diffusion", "unet.UNet"):
        assert fixed in NAMES
    for name, value in NAMES.items():
        first = inspect.getdoc(value).splitlines()[0].replace("`", "")
        assert first in soup.find(id=name).find_next("p").get_text(), name


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_name_the_parameters_that_there_are(name):
    value = NAMES[name]
    said = dict(reference.sections(inspect.getdoc(value)))
    if "Parameters" not in said:
        return
    heads = [head.split(" :")[0] for head, _ in reference.entries(said["Parameters"])]
    documented = {part.strip().lstrip("*") for head in heads for part in head.split(",")}
    assert documented <= set(inspect.signature(value).parameters), name


@pytest.mark.parametrize("name", [name for name, value in NAMES.items() if name.count(".") == 1
                                  and inspect.isfunction(value)])
def test_public_functions_are_annotated(name):
    bare = [p.name for p in inspect.signature(NAMES[name]).parameters.values()
            if p.annotation is p.empty]
    assert not bare
