"""The explorers for pages without a kernel: every state drawn beforehand, moved by a little script.

    python notebooks/_explorers.py             # build/explorers/: a folder with a page for each
    python notebooks/_explorers.py --store     # run the notebooks and draw all anew (for authors)
    python notebooks/_explorers.py --store 06 guidance_explorer    # only this one, or those of 06

What is drawn stands in notebooks/explorers/, one file for each explorer in each notebook: the
figures as SVG, cut into pieces of which each is kept once, and the lines of numbers. A slider has
fewer stops here than in the notebook; the figures and numbers at these stops are the notebook's.
"""

import base64
import gzip
import html
import io
import itertools
import json
import os
import re
import sys
from pathlib import Path

import matplotlib
import nbformat
from PIL import Image

from recon_lib import course
from recon_lib.course.explorer import Explorer

HERE = Path(__file__).resolve().parent
STORED = HERE / "explorers"
STOPS = {  # of the sliders, beside where each stands at first: a few hundred states an explorer
    "hrf_explorer": {"peak": [3, 4, 5, 6, 8], "dispersion": [0.5, 1, 2], "ratio": [0, 0.17, 0.5],
                     "duration": [1, 6], "spacing": [2, 4, 10, 20]},
    "glm_playground": {"spacing": [3, 5, 10, 20], "noise": [0.5, 2], "drift": [1, 3],
                       "peak": [5, 6.5], "seed": [0, 1]},
    "roi_explorer": {"voxels": [5, 20, 50, 100, 200, 500, 1000]},
    "noising_scrubber": {"t": [0, 100, 200, 300, 400, 500, 600, 700, 850, 999],
                         "picture": [0, 1, 2], "draw": [0, 1]},
    "schedule_designer": {"factor": [0.25, 0.5, 1, 2, 4, 8], "steps": [50, 250, 1000]},
    "unet_tour": {"levels": [2, 3], "base": [32, 64], "blocks": [1, 2]},
    "denoising_stepper": {"step": range(17), "picture": [0, 1]},
    "reconstruction_browser": {"picture": range(0, 60, 3)},
    "chance_explorer": {"pictures": [10, 30, 113, 250, 500], "information": [0, 0.1, 0.25, 0.5],
                        "tries": [1, 2, 5, 20]},
    "cost_explorer": {"millions": [1, 5, 20, 50, 100]},
    "guidance_explorer": {"scale": [0, 1, 3, 8], "strength": [0, 1], "pseudo_trials": [0, 50],
                          "seed": [0, 1], "steps": [5, 8], "picture": [0, 3]},
    "lesion_explorer": {"picture": [0, 5, 10], "seed": [0, 1]},
}
PAGE = (HERE / "_explorer.html").read_text(encoding="utf-8")


def pieces(figure, quality=60):
    """A figure as SVG, in pieces that are often the same in other states: a list of str.

    Pictures keep their own pixels, as WebP of this quality where that is lighter.
    """
    for image in [image for ax in figure.axes for image in ax.images]:
        image.set_interpolation("none")
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "explorer", "svg.fonttype": "none",
                                "path.simplify_threshold": 0.3}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    text = text.getvalue().partition("<metadata>")
    text = text[0][text[0].index("<svg"):] + text[2].partition("</metadata>")[2]
    text = re.sub(r'<g id="[^"]*"', "<g", re.sub(r"\n\s*", "\n", text))

    def lighter(match):
        png = base64.b64decode(match[1])
        webp = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(webp, "webp", quality=quality, method=4)
        kind, data = ("webp", webp.getvalue()) if len(png) > 3000 else ("png", png)
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    parts = re.split(r"(data:image/png;base64,[^\"]+)", text)
    parts[1::2] = [re.sub(r"data:image/png;base64,([^\"]+)", lighter, part) for part in parts[1::2]]
    tags = [re.split(r"(<[^>]*>)", part) for part in parts[::2]]  # what is read keeps its digits
    parts[::2] = ["".join(re.sub(r"(\.\d)\d+", r"\1", p) if p[:1] == "<" else p for p in part)
                  for part in tags]
    return re.split(r"(?=<g\b)", "".join(parts))


def positions(control, stops):
    """Values at which a control is shown, how they read, and which it has now."""
    if hasattr(control, "max"):
        values = {type(control.value)(v) for v in stops if control.min <= v <= control.max}
        values = sorted(values | {control.value})
        labels = [f"{value:{'d' if isinstance(value, int) else '.2f'}}" for value in values]
    elif hasattr(control, "options"):
        pairs = [o if isinstance(o, tuple) else (str(o), o) for o in control.options]
        labels, values = map(list, zip(*pairs, strict=True))
    else:
        labels, values = ["off", "on"], [False, True]
    return values, labels, values.index(control.value)


def states(box, stops):
    """All that a page needs of an explorer: a dict for JSON.

    `controls` are in the explorer's order; the last one moves fastest in `states`, which holds the
    index of a frame and of a text for each combination of their positions.
    """
    kinds = {True: "slider", False: "choice"}
    controls, values = [], []
    for key, control in box.controls.items():
        at, labels, now = positions(control, stops.get(key, []))
        kind = kinds[hasattr(control, "max")] if len(labels) and not isinstance(
            control.value, bool) else "check"
        values.append(at)
        controls.append({"key": key, "label": control.description, "kind": kind,
                         "positions": labels, "start": now})
    found = {"pieces": {}, "frames": {}, "texts": {}}  # each with its number, in order

    def number(kind, thing):
        return found[kind].setdefault(thing, len(found[kind]))

    shown, figure = [], None
    for combination in itertools.product(*values):
        numbers = box.compute(**dict(zip(box.controls, combination, strict=True)))
        figure = box.draw(numbers, figure)
        frame = tuple(number("pieces", piece) for piece in pieces(figure))
        shown.append([number("frames", frame), number("texts", box.readout(numbers))])
    return {"controls": controls, **{kind: list(things) for kind, things in found.items()},
            "states": shown}


def named(source):
    """The explorer that a cell makes, by the name of its function, or None."""
    return next((name for name in STOPS if re.search(rf"\b{name}\(", source)), None)


def run(path, names):
    """Run a notebook to the last explorer of these names; yield (name, Explorer) for each."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.reset()
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    while cells and named(cells[-1].source) not in names:
        cells.pop()
    for cell in cells:
        shell.run_cell(cell.source).raise_error()
        box = shell.user_ns.get(cell.source.strip().rpartition("\n")[2])
        if isinstance(box, Explorer) and named(cell.source) in names:
            yield named(cell.source), box


def store(path, names):
    """Draw the explorers of a notebook that have these names, and keep them in `STORED`."""
    STORED.mkdir(exist_ok=True)
    for name, box in run(path, names):
        data = states(box, STOPS[name])
        target = STORED / f"{name}-{path.stem[:2]}.json.gz"
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        print(f"{target.name}: {len(data['states'])} states, {len(data['frames'])} figures, "
              f"{target.stat().st_size / 1e6:.2f} MB", flush=True)


def form(controls):
    """Labelled sliders, rows of buttons and checkboxes, as HTML."""
    rows = []
    for control in controls:
        key, label = control["key"], html.escape(control["label"])
        names, start = [html.escape(name) for name in control["positions"]], control["start"]
        if control["kind"] == "slider":
            row = (f'<label for="{key}">{label}</label><input type="range" id="{key}" min="0" '
                   f'max="{len(names) - 1}" value="{start}"><output for="{key}"></output>')
        elif control["kind"] == "check":
            row = (f'<label><input type="checkbox" id="{key}"{" checked" * start}> '
                   f"{label}</label>")
        else:
            row = f'<fieldset><legend>{label}</legend><span>' + "".join(
                f'<label><input type="radio" name="{key}" value="{i}"{" checked" * (i == start)}>'
                f"<b>{name}</b></label>" for i, name in enumerate(names)) + "</span></fieldset>"
        rows.append(f'<div class="{control["kind"]}" data-size="{len(names)}">{row}</div>')
    return "\n".join(rows)


def page(name, packed):
    """The page of a stored explorer, all in one file: its name and `states` as gzip."""
    data = json.loads(gzip.decompress(packed))
    title = getattr(course, name).__doc__.splitlines()[0]
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', data["pieces"][0])
    words = {"TITLE": html.escape(title), "NAME": name, "FORM": form(data["controls"]),
             "WIDTH": f"{float(size[1]) / 0.72:.0f}", "HEIGHT": f"{float(size[2]) / 0.72:.0f}",
             "POSITIONS": json.dumps([control["positions"] for control in data["controls"]]),
             "DATA": base64.b64encode(packed).decode()}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: words[match[1]], PAGE)


def main(folder=HERE.parent / "build" / "explorers"):
    """Lay out the stored explorers.

    Returns
    -------
    dict
        (number of the notebook, name of the explorer) to the path of its page below `folder`.
    """
    made = {}
    for path in sorted(STORED.glob("*.json.gz")):
        stem = path.name.removesuffix(".json.gz")
        name, _, number = stem.rpartition("-")
        (folder / stem).mkdir(parents=True, exist_ok=True)
        (folder / stem / "index.html").write_text(page(name, path.read_bytes()), encoding="utf-8")
        made[number, name] = f"{stem}/index.html"
    return made


if __name__ == "__main__":
    if "--store" in sys.argv[1:]:
        os.chdir(HERE)  # where a notebook runs
        asked = sys.argv[2:]
        for notebook in sorted(HERE.glob("[0-9]*.ipynb")):
            if notebook.stem[:2] in asked or not asked:
                store(notebook, STOPS.keys() & asked or STOPS.keys())
    else:
        print(f"{len(main())} explorers in build/explorers")
