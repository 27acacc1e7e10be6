"""Execute the notebooks in order and render them as pages that link to one another.

    python notebooks/_render.py            # build/notebooks/*.ipynb and build/html/index.html
    python notebooks/_render.py --store    # the same, and keep the outputs in notebooks/
"""

import base64
import html
import io
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reading images from brain activity</title>
<style>
body {{ font: 17px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto;
  padding: 0 1rem; }}
li {{ margin: .8rem 0 }} a {{ color: #0072B2 }} small {{ color: #555; display: block }}
</style>
<h1>Reading images from brain activity</h1>
<ol start="0">
{items}
</ol>
</html>
"""
BAR = (
    '<nav style="font:16px system-ui,sans-serif;display:flex;justify-content:space-between;'
    'max-width:60rem;margin:1rem auto;padding:0 1rem">{}</nav>'
)


def execute(path):
    """Run a notebook in its own folder; return it with outputs and without a widget's state."""
    notebook = nbformat.read(path, as_version=4)
    start = time.time()
    NotebookClient(
        notebook, timeout=600, kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()  # fmt: skip
    notebook.metadata.pop("widgets", None)  # without a state it makes GitHub refuse the file
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python",
                                       "name": "python3"}  # fmt: skip
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps: noise in every diff
    lighten(notebook)
    print(f"{path.name}: {time.time() - start:.0f} s", flush=True)
    return notebook


def lighten(notebook, limit=1.3e6, least=60_000):
    """Where a notebook would be heavy (bytes), store its large figures, all pictures, as JPEG.

    As fine as the limit allows: pictures of noise hardly compress.
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    large = [o for o in outputs if len(o.get("data", {}).get("image/png", "")) > least]
    pngs = [base64.b64decode(output.data["image/png"]) for output in large]
    for quality in (90, 75, 60):
        if len(nbformat.writes(notebook)) <= limit:
            return
        for output, png in zip(large, pngs, strict=True):
            jpeg = io.BytesIO()
            figure = Image.open(io.BytesIO(png)).convert("RGB")
            figure.save(jpeg, "jpeg", quality=quality, subsampling=0)
            output.data.pop("image/png", None)
            output.data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()


def title_and_question(notebook):
    """The first heading and the first line of text under it."""
    lines = [line for line in notebook.cells[0].source.splitlines() if line.strip()]
    return lines[0].lstrip("# "), re.sub(r"[*_`]", "", lines[1]) if len(lines) > 1 else ""


def render(notebook, name, names):
    """One page, with links to the one before, the list and the one after."""
    body, _ = HTMLExporter(embed_images=True).from_notebook_node(
        notebook, resources={"metadata": {"name": name}})
    body = re.sub(r'href="([\w-]+)\.ipynb', r'href="\1.html', body)
    i = names.index(name)
    links = [
        f'<a href="{names[i - 1]}.html">← {names[i - 1]}</a>' if i else "<span></span>",
        '<a href="index.html">all notebooks</a>',
        f'<a href="{names[i + 1]}.html">{names[i + 1]} →</a>' if i + 1 < len(names)
        else "<span></span>",
    ]  # fmt: skip
    bar = BAR.format("".join(links))
    body = re.sub(r"(<body[^>]*>)", lambda found: found[1] + bar, body, count=1)
    return body.replace("</body>", bar + "</body>")


def main(store=False):
    for folder in ("notebooks", "html"):
        (BUILD / folder).mkdir(parents=True, exist_ok=True)
    paths = sorted(HERE.glob("[0-9]*.ipynb"))
    names = [path.stem for path in paths]
    items = []
    for path in paths:
        notebook = execute(path)
        for target in [BUILD / "notebooks" / path.name] + [path] * store:
            nbformat.write(notebook, target)
        page = BUILD / "html" / f"{path.stem}.html"
        page.write_text(render(notebook, path.stem, names), encoding="utf-8")
        title, question = map(html.escape, title_and_question(notebook))
        items.append(f'<li><a href="{path.stem}.html">{title}</a><small>{question}</small></li>')
    index = BUILD / "html" / "index.html"
    index.write_text(PAGE.format(items="\n".join(items)), encoding="utf-8")
    print(f"Rendered {len(paths)} notebooks: open {index}")


if __name__ == "__main__":
    main(store="--store" in sys.argv[1:])
