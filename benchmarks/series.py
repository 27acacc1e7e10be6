"""How long does each notebook take, from a fresh kernel to its last cell?

    python benchmarks/series.py

The embedded experiment is built first if it is not there. Two minutes each and ten for all is what
the course allows itself on two plain cores. A notebook that fails is a row without a time, and the
others are timed all the same.
"""

import sys
import time
from pathlib import Path

import _table
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

from recon_lib.world import experiment

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
GOAL, OF_ALL = 120.0, 600.0  # seconds


def rows():
    experiment.ready()
    made = []
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        place = {"metadata": {"path": str(NOTEBOOKS)}}
        start = time.perf_counter()
        try:
            NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
        except (CellControlSignal, DeadKernelError) as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            made.append(_table.row(path.name, None, "s"))
        else:
            made.append(_table.row(path.name, time.perf_counter() - start, "s", GOAL, "goal"))
    ran = [row["ours"] for row in made if row["ours"] is not None]
    goal = (OF_ALL, "goal") if len(ran) == len(made) else ()  # of a part there is none
    return [*made, _table.row(f"the series of {len(ran)} notebooks", sum(ran), "s", *goal)]


if __name__ == "__main__":
    _table.main(rows)
