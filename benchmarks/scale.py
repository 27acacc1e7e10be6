"""Does the cost grow in step with the data, and does it fit? Time and memory at 1, 2, 4, 8 times.

    OMP_NUM_THREADS=1 python benchmarks/scale.py            # the growth, two minutes
    OMP_NUM_THREADS=1 python benchmarks/scale.py full       # BOLD5000's true sizes, synthetic data

Each measurement is a process of its own, which tells its highest resident memory. `full` has two
parts: the GLM of one session of a whole brain, run by run as `streaming` does it (limit 4 GB), and
training on the ROI betas of CSI1 at 64 pixels (limit 6 GB). Times are seconds of the processor, the
best of three, so that what else the machine does counts little. The exponent is the slope of log
time (or memory) over log size: 1 is linear (n log n would be 1.1 to 1.2 here, n squared 2), and
less means that a fixed part is shared by all. Only an exponent of time is held against 1, and only
above 0.05: below, and for memory, where the libraries are most of it, a ratio would say nothing.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _table
import numpy as np

TR, VOLUMES, TRIALS = 2.0, 194, 37
BRAIN = 71 * 89 * 72 // 4  # voxels: a generous quarter of CSI1's grid
REPEATS = {"glm": 3, "decoder": 3, "network": 3}
LIMITS = {"brain": 4.0, "training": 6.0}  # GB
FACTORS = (1, 2, 4, 8)


def glm(trials=1, voxels=1):
    """Single-trial betas of whole runs of 37 trials, a run in memory at a time."""
    from recon_lib.bold.glm import single_trial_betas

    rng = np.random.default_rng(0)
    bold = rng.normal(1000, 10, (VOLUMES, 8000 * voxels)).astype(np.float32)
    onsets = 6.0 + 10.0 * np.arange(TRIALS)
    out = np.empty((TRIALS * 5 * trials, bold.shape[1]), np.float32)
    start = time.process_time()
    for run in range(5 * trials):
        out[TRIALS * run : TRIALS * (run + 1)] = single_trial_betas(bold, onsets, TR)
    return time.process_time() - start


def decoder(trials=1, voxels=1):
    """From betas to the latent: the ridge regression behind every brain vector."""
    from recon_lib.brain.ridge import fit_ridge

    rng = np.random.default_rng(0)
    betas = rng.standard_normal((600 * trials, 400 * voxels), dtype=np.float32)
    latents = rng.standard_normal((len(betas), 96), dtype=np.float32)
    start = time.process_time()
    fit_ridge(betas, latents, np.arange(len(betas)))
    return time.process_time() - start


def network(trials=1, voxels=1):
    """One epoch of training on (picture, betas) pairs: the betas are the condition."""
    return epoch(16 * trials, 400 * voxels, 16)


def epoch(pictures, voxels, batch, size=64, steps=None):
    """Seconds of training on random pictures with random betas."""
    from recon_lib.data.loader import create_loader
    from recon_lib.training.loop import train_conditional_diffusion
    from recon_lib.unet import UNet

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (pictures, size, size, 3), np.uint8)
    betas = rng.standard_normal((pictures, voxels), dtype=np.float32)
    loader = create_loader(size, batch, images=images, vectors=betas)
    model = UNet(condition_size=voxels)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        train_conditional_diffusion(loader, 1, 3e-4, size, "cpu", model=model, out_dir=folder,
                                    max_steps=steps, grids=0, quiet=True)
        return time.process_time() - start


def brain():
    """A session of CSI1's whole brain: ten runs kept on disk, voxels in blocks, HRFs and REML."""
    from recon_lib.bold.whole_brain import estimate_to_file, spool

    def one(run):
        rng = np.random.default_rng(run)
        return (rng.normal(1000, 10, (VOLUMES, BRAIN)).astype(np.float32),
                6.0 + 10.0 * np.arange(TRIALS))

    with tempfile.TemporaryDirectory() as folder:
        runs = spool([lambda run=run: one(run) for run in range(10)], folder)
        start = time.process_time()
        estimate_to_file(runs, Path(folder, "betas.h5"), TR)
        return time.process_time() - start


def training():
    """A few steps at CSI1's size: 4803 trials of 1685 voxels, pictures of 64 x 64."""
    return epoch(4803, 1685, 64, steps=10)


JOBS = {job.__name__: job for job in (glm, decoder, network, brain, training)}


def measure(name, **size):
    """Run one job in a new process; returns seconds and GB."""
    done = subprocess.run([sys.executable, __file__, "job", name, json.dumps(size)],
                          capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} {size}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def growth():
    """Measure every job at 1, 2, 4 and 8 times its data.

    Returns
    -------
    list of (name, axis, slopes)
        `slopes` are the exponents of time and of memory.
    """
    found = []
    for name in ("glm", "decoder", "network"):
        for axis in ("trials", "voxels"):
            measured = [measure(name, **{axis: factor}) for factor in FACTORS]
            cells = "  ".join(f"{s:7.2f} s {m:5.2f} GB" for s, m in measured)
            slopes = np.polyfit(np.log(FACTORS), np.log(measured), 1)[0]
            print(f"{name:8} x1 x2 x4 x8 {axis}: {cells}   exponent: time {slopes[0]:.2f}, "
                  f"memory {slopes[1]:.2f}", flush=True)
            found.append((name, axis, slopes))
    return found


def rows():
    """The exponents; those of time against growth in step with the data."""
    made = []
    for name, axis, (time_slope, memory_slope) in growth():
        size = f"of the {name}, 1 to 8 times the {axis}"
        peer = (1.0, "in step with the data") if time_slope > 0.05 else ()
        made += [_table.row(f"growth of the time {size}", time_slope, "exponent", *peer),
                 _table.row(f"growth of the memory {size}", memory_slope, "exponent")]
    return made


def full():
    """The two parts at BOLD5000's true sizes, each within its limit."""
    for name, limit in LIMITS.items():
        seconds, memory = measure(name)
        print(f"{name:9} {seconds:7.1f} s, peak memory {memory:.2f} GB (limit {limit:.0f} GB)",
              flush=True)
        assert memory <= limit, f"{name} takes {memory:.2f} GB"


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        name, size = sys.argv[2], json.loads(sys.argv[3])
        seconds = min(JOBS[name](**size) for _ in range(REPEATS.get(name, 1)))
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
    elif sys.argv[1:2] == ["full"]:
        full()
    else:
        _table.main(rows)
