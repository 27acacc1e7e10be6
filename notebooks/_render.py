"""Execute the notebooks in order and render them as the pages of `_site`.

    python notebooks/_render.py            # build/notebooks/*.ipynb and build/html/index.html
    python notebooks/_render.py --store    # the same, and keep the outputs in notebooks/
    python notebooks/_render.py --setup    # only put the setup cell and metadata into all of them
"""

import base64
import io
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image, ImageChops, ImageStat

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _site import build  # noqa: E402

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"


def execute(path):
    """Run a notebook in its own folder; return it with outputs and without a widget's state."""
    notebook = nbformat.read(path, as_version=4)
    start = time.time()
    NotebookClient(
        notebook, timeout=600, kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    notebook.metadata.pop("widgets", None)  # without a state it makes GitHub refuse the file
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python",
                                       "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.metadata["accelerator"] = "GPU"  # what Colab should offer
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps: noise in every diff
    lighten(notebook)
    print(f"{path.name}: {time.time() - start:.0f} s", flush=True)
    return notebook


def set_up(path):
    """Put the one setup cell and Colab's metadata into a notebook, its outputs left as they are."""
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = (HERE / "_setup_cell.py").read_text(encoding="utf-8").strip()
    notebook.metadata["accelerator"] = "GPU"
    nbformat.write(notebook, path)


def palette(png, width=1000):
    """A PNG (base64) of this width at most, and in 256 colours where nobody sees the difference.

    A drawing then takes a third of the bytes. A picture of many colours stays as it is.
    """
    figure = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    if figure.width > width:
        high = round(figure.height * width / figure.width)
        figure = figure.resize((width, high), Image.Resampling.LANCZOS)
    few = figure.quantize(256, dither=Image.Dither.NONE)
    off = ImageStat.Stat(ImageChops.difference(figure, few.convert("RGB"))).mean
    data = io.BytesIO()
    (few if max(off) < 0.3 else figure).save(data, "png", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def lighten(notebook, limit=1.3e6, least=60_000):
    """Store drawings in few colours and, where a notebook is heavy (bytes), pictures as JPEG.

    As fine as the limit allows: pictures of noise hardly compress.
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = palette(output.data["image/png"])
    large = [o for o in outputs if len(o.get("data", {}).get("image/png", "")) > least]
    pngs = [base64.b64decode(output.data["image/png"]) for output in large]
    for quality, coarse in ((90, 0), (75, 0), (60, 0), (60, 2)):  # 2: colours at half the size
        if len(nbformat.writes(notebook)) <= limit:
            return
        for output, png in zip(large, pngs, strict=True):
            jpeg = io.BytesIO()
            figure = Image.open(io.BytesIO(png)).convert("RGB")
            figure.save(jpeg, "jpeg", quality=quality, subsampling=coarse)
            output.data.pop("image/png", None)
            output.data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()


def main(store=False):
    (BUILD / "notebooks").mkdir(parents=True, exist_ok=True)
    for path in sorted(HERE.glob("[0-9]*.ipynb")):
        executed = execute(path)
        for target in [BUILD / "notebooks" / path.name] + [path] * store:
            nbformat.write(executed, target)
    paths = sorted((BUILD / "notebooks").glob("[0-9]*.ipynb"))
    build(paths, BUILD / "html")
    print(f"Rendered {len(paths)} notebooks: open {BUILD / 'html' / 'index.html'}")


if __name__ == "__main__":
    if "--setup" in sys.argv[1:]:
        for path in [*HERE.glob("[0-9]*.ipynb"), *HERE.glob("assignments/*.ipynb")]:
            set_up(path)
    else:
        main(store="--store" in sys.argv[1:])
