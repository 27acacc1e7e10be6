"""The public surfaces of the library as pages, made by Sphinx from their docstrings."""

import ast
import importlib
import inspect
import pkgutil

import recon_lib

MODEL = ("diffusion", "unet", "samplers", "guidance")  # files of which all public names count
INTRODUCTION = """What the rooms of the library offer: ``from recon_lib import bold``, then
``bold.single_trial_betas(...)``. Below each name stands what its docstring says.

.. toctree::
   :maxdepth: 2

"""


def surfaces():
    """Name of a room or file of the model -> its module and its public names with what they are."""
    rooms = [m.name for m in pkgutil.iter_modules(recon_lib.__path__) if m.ispkg]
    found = {}
    for name in (*MODEL, *rooms):
        module = importlib.import_module(f"recon_lib.{name}")
        offered = vars(module) if name in MODEL else {
            key: getattr(module, key) for key in named(module)}
        found[name] = module, public(module, offered, name in MODEL)
        for key, value in offered.items():
            if inspect.ismodule(value) and name in rooms:  # a file that a room offers as a whole
                rest = public(value, vars(value), True)
                found[f"{name}.{key}"] = value, {k: v for k, v in rest.items()
                                                   if offered.get(k) is not v}
    return found


def public(module, names, own):
    """Of these names the functions and classes; of a file only its own, without an underscore."""
    return {key: value for key, value in names.items()
            if callable(value) and not key.startswith("_")
            and (not own or getattr(value, "__module__", None) == module.__name__)}


def named(room):
    """The names that the `__init__` of a room imports, some when asked for: its public surface."""
    tree = ast.parse(inspect.getsource(room))
    own = [name.asname or name.name for node in tree.body if isinstance(node, ast.ImportFrom)
           and node.module.startswith("recon_lib") for name in node.names]
    return [*own, *getattr(room, "EXPLORERS", ())]


def pages():
    """Name of a page -> what autodoc is to write about on it, as reStructuredText."""
    made = {"reference": "Reference\n=========\n\n" + INTRODUCTION}
    for room, (module, names) in surfaces().items():
        listed = {key: value for key, value in names.items() if inspect.getdoc(value)}
        page, line = f"reference_{room.split('.')[0]}", "-" if "." in room else "="
        if not listed:
            continue
        if page not in made:
            made["reference"] += f"   {page}\n"
            made[page] = ""
        title = f"recon_lib.{room}"
        made[page] += f"\n{title}\n{line * len(title)}\n\n.. automodule:: {module.__name__}\n"
        for key, value in listed.items():
            kind = "class" if inspect.isclass(value) else "function"
            made[page] += f"\n.. auto{kind}:: recon_lib.{room}.{key}\n"
            made[page] += "   :members:\n" if kind == "class" else ""
    return made
