"""The public surfaces of the library as one page, from their NumPy docstrings."""

import ast
import html
import importlib
import inspect
import pkgutil
import re

import recon_lib

MODEL = ("diffusion", "unet", "samplers", "guidance")  # files of which all public names count
LISTS = ("Parameters", "Returns", "Yields", "Raises", "Attributes")
INTRODUCTION = """<h1>Reference</h1>
<p>What the rooms of the library offer: <code>from recon_lib import bold</code>, then
<code>bold.single_trial_betas(...)</code>. Below each name stands what its docstring says.</p>"""


def surfaces():
    """Name of a room or file of the model -> its module and its public names with what they are."""
    rooms = [m.name for m in pkgutil.iter_modules(recon_lib.__path__) if m.ispkg]
    found = {}
    for name in (*MODEL, *rooms):
        module = importlib.import_module(f"recon_lib.{name}")
        offered = {key: value for key, value in vars(module).items()
                   if name in MODEL or key in named(module)}
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
            and (not own or value.__module__ == module.__name__)}


def named(room):
    """The names that the `__init__` of a room imports: its public surface."""
    tree = ast.parse(inspect.getsource(room))
    return {name.asname or name.name for node in tree.body if isinstance(node, ast.ImportFrom)
            for name in node.names}


def sections(doc):
    """A NumPy docstring as (title, text) pairs; what stands before the first title has none."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(doc or ""), flags=re.M)
    return [("", parts[0].strip()), *zip(parts[1::2], map(str.strip, parts[2::2]), strict=True)]


def entries(text):
    """The entries of a section such as Parameters: (head, description); none of a sentence."""
    found = []
    if text.startswith("As "):
        return found
    for line in text.splitlines():
        if line and not line[0].isspace():
            found.append([line, ""])
        elif found:
            found[-1][1] += line.strip() + "\n"
    return found


def inline(text):
    """Words with `code` in backticks, as HTML."""
    return re.sub(r"``?([^`]+)``?", r"<code>\1</code>", html.escape(text, quote=False))


def prose(text):
    """Paragraphs; what is indented is shown as it is."""
    blocks = [block for block in re.split(r"\n\s*\n", text) if block.strip()]
    return "".join(f"<pre>{html.escape(block)}</pre>" if block[0].isspace() else
                   f"<p>{inline(block)}</p>" for block in blocks)


def described(doc):
    """A docstring as HTML."""
    made = ""
    for title, text in sections(doc):
        if not title:
            made += prose(text)
        elif title in LISTS and entries(text):
            made += f"<h4>{title}</h4><dl>" + "".join(
                f"<dt>{inline(head)}</dt><dd>{inline(rest)}</dd>" for head, rest in entries(text)
            ) + "</dl>"
        else:
            made += f"<h4>{title}</h4>{prose(text)}"
    return made


def signature(value):
    """What is written between the brackets of a call, without annotations."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name != "self"]
    return str(found.replace(parameters=bare, return_annotation=found.empty))


def entry(room, name, value, level=3):
    """One name of a surface: heading, signature, docstring; of a class its methods, too."""
    if not callable(value) or isinstance(value, type(inspect)):
        return ""
    full = f"{room}.{name}"
    made = (f'<h{level} id="{full}"><code>{full}</code></h{level}>'
            f"<pre>{html.escape(name + signature(value))}</pre>{described(inspect.getdoc(value))}")
    if inspect.isclass(value):
        for key, method in vars(value).items():
            if not key.startswith("_") and inspect.isfunction(method) and method.__doc__:
                made += entry(full, key, method, 4)
    return made


def page():
    """The reference as HTML."""
    made = INTRODUCTION
    for room, (module, names) in surfaces().items():
        inside = "".join(entry(room, name, value) for name, value in names.items())
        if inside:
            made += f'<h2 id="{room}">{room}</h2>{prose(inspect.getdoc(module) or "")}{inside}'
    return made
