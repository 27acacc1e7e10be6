"""How long does the embedded experiment take to build, and how much memory?

    python benchmarks/experiment.py

4916 pictures, 142 runs of 194 volumes and 1685 voxels, written as BOLD5000 was published; then
single-trial betas from the files, and everything read back.
"""

import resource
import tempfile
import time
from pathlib import Path

import _table

from recon_lib.data import raw_betas, release
from recon_lib.world import experiment


def rows():
    made = []

    def timed(name, work, *arguments):
        start = time.perf_counter()
        work(*arguments)
        made.append(_table.row(name, time.perf_counter() - start, "s"))

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "experiment")
        timed("build the experiment, from nothing", experiment.build, root)
        timed("estimate its betas (LSA) and write both releases", raw_betas.estimate_betas, root)
        timed("load it", release.load_experiment, root)
        size = sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    made.append(_table.row("peak memory of all three", peak, "GB"))
    made.append(_table.row("size on disk", size, "GB"))
    return made


if __name__ == "__main__":
    _table.main(rows)
