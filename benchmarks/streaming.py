"""How much memory does the GLM of a whole brain take? BOLD5000's CSI1: 142 runs, 250,000 voxels.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py

The runs lie on disk as `whole_brain.spool` puts them, at full size; only the first block of voxels
is filled (the rest of each file is a hole), because every block costs the same. One block is
estimated, its result stands in for the others, and the last step joins all of them.
"""

import resource
import shutil
import tempfile
import time
from pathlib import Path

import _table
import h5py
import numpy as np

from recon_lib.bold import whole_brain
from recon_lib.data.bold5000 import TR, VOLUMES
from recon_lib.world import subject

BLOCK = 8192
BLOCKS = 31  # 31 x 8192: 250,000 voxels, rounded up
VOXELS = BLOCK * BLOCKS


def peak():
    """Largest memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def write_runs(folder, design, filled):
    """One file a run, `filled` voxels of noise with a baseline; returns the runs as `spool` does.

    The first run is put there by `spool` itself, whole, so that its memory is measured too.
    """
    numbers = list(dict.fromkeys(zip(design.session, design.run, strict=True)))
    onsets = [design.onset[(design.session == s) & (design.run == r)] for s, r in numbers]
    rng = np.random.default_rng(0)

    def first():
        bold = rng.standard_normal((VOLUMES, VOXELS), dtype=np.float32)
        bold *= 10
        bold += 1000
        return bold, onsets[0]

    whole_brain.spool([first], folder)
    for i in range(1, len(numbers)):
        with h5py.File(folder / f"run-{i:03d}.h5", "w") as file:
            chunk = (VOLUMES, whole_brain.CHUNK)
            bold = file.create_dataset("bold", (VOLUMES, VOXELS), np.float32, chunks=chunk)
            noise = rng.standard_normal((VOLUMES, filled), dtype=np.float32)
            bold[:, :filled] = 1000 + 10 * noise
            file["onsets"] = onsets[i]
    return whole_brain.spool([None] * len(numbers), folder)  # all on disk: nothing is loaded


def rows():
    design = subject.make_design(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        runs = write_runs(folder, design, BLOCK)
        spooled = peak()
        path = folder / "betas.h5"
        seconds = []
        estimate = whole_brain.estimate

        def once(*args, **settings):
            """Estimate the first block, and give its result for the others."""
            if not seconds:
                start = time.perf_counter()
                once.result = estimate(*args, **settings)
                seconds.append(time.perf_counter() - start)
            return once.result

        whole_brain.estimate = once
        start = time.perf_counter()
        try:
            whole_brain.estimate_to_file(runs, path, TR, BLOCK)
        finally:
            whole_brain.estimate = estimate
        rest = time.perf_counter() - start - seconds[0]
        last = whole_brain.read_estimate(path, slice(VOXELS - 8, VOXELS))
        assert last.betas.shape == (len(design.image), 8) and np.isfinite(last.betas).all()
        for bold, _ in runs:
            bold.file.close()
        shutil.rmtree(folder, ignore_errors=True)
    whole = len(runs) * VOLUMES * VOXELS * 4 / 2**30
    size = f"{len(runs)} runs x {VOLUMES} volumes x {VOXELS:,} voxels"
    return [
        _table.row(f"{size}: peak memory, spooling", spooled, "GB", whole, "all in memory"),
        _table.row(f"{size}: peak memory", peak(), "GB", 4.0, "goal"),
        _table.row(f"HRF choice and REML, a block of {BLOCK:,} of these voxels", seconds[0], "s"),
        _table.row("reading, writing and joining all blocks", rest, "s"),
    ]


if __name__ == "__main__":
    _table.main(rows)
