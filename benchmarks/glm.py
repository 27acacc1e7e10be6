"""How fast is the GLM, beside nilearn and beside the machine's own matrix product?

    OMP_NUM_THREADS=1 python benchmarks/glm.py

Ratios come from one process, runs interleaved, best of several; answers are compared first.
"""

import resource
import time

import numpy as np
import pandas as pd
from nilearn.glm.first_level import make_first_level_design_matrix, run_glm

from recon_lib import hrf, subject
from recon_lib.bold5000 import VOXELS
from recon_lib.design import design_matrix
from recon_lib.glm import single_trial_betas, trial_estimator
from recon_lib.regression import ols
from recon_lib.single_trial import estimate

TR, VOLUMES, TRIALS, COLUMNS = 2.0, 194, 37, 20_000
ONSETS = 6.0 + 10.0 * np.arange(TRIALS)
NAMES = np.array([f"trial{i:02d}" for i in range(TRIALS)])


def best(*functions, rounds=7):
    """Shortest time of each function, called in turn."""
    times = np.full((rounds, len(functions)), np.inf)
    for r in range(rounds):
        for f, function in enumerate(functions):
            start = time.perf_counter()
            function()
            times[r, f] = time.perf_counter() - start
    return times.min(0)


def bench_ols(bold):
    design, _ = design_matrix(VOLUMES, TR, ONSETS, NAMES)
    labels, results = run_glm(bold, design, noise_model="ols")
    theirs = results[labels[0]].theta
    error = np.abs(ols(bold, design).betas - theirs).max()
    assert error < 1e-8, error

    for kind in (np.float64, np.float32):
        data = bold.astype(kind)
        wide = np.zeros((design.shape[1], VOLUMES), kind)
        out = np.empty((design.shape[1], COLUMNS), kind)
        limit, mine, nilearn = best(
            lambda data=data, wide=wide, out=out: np.matmul(wide, data, out=out),
            lambda data=data: ols(data, design),
            lambda data=data: run_glm(data, design, noise_model="ols"),
        )
        print(f"OLS, {COLUMNS} voxels, {kind.__name__}: nilearn {nilearn * 1e3:.1f} ms, here "
              f"{mine * 1e3:.1f} ms: {nilearn / mine:.1f} x faster; the bare matrix product takes "
              f"{limit * 1e3:.1f} ms ({mine / limit:.2f} x)")  # fmt: skip
    print(f"  largest difference of a beta: {error:.1e}")


def bench_lss(bold):
    kernel = hrf.spm_hrf(TR)
    height = hrf.peak_height(kernel, 1.0, TR)

    def looped():
        rows = []
        for i in range(TRIALS):
            events = pd.DataFrame({
                "onset": ONSETS, "duration": 1.0,
                "trial_type": np.where(np.arange(TRIALS) == i, "one", "others"),
            })  # fmt: skip
            design = make_first_level_design_matrix(
                np.arange(VOLUMES) * TR, events, hrf_model="spm", high_pass=0.01
            )
            labels, results = run_glm(bold, design.to_numpy(), noise_model="ols")
            column = list(design.columns).index("one")
            rows.append(results[labels[0]].theta[column] * height)
        return np.stack(rows)

    def here():
        return trial_estimator(ONSETS, VOLUMES, TR, kernel, method="lss") @ bold

    error = np.abs(looped() - here()).max()
    assert error < 1e-8, error
    mine, nilearn = best(here, looped, rounds=3)
    print(f"LSS, {TRIALS} trials, {COLUMNS} voxels: looping nilearn {nilearn:.2f} s, here "
          f"{mine * 1e3:.1f} ms: {nilearn / mine:.0f} x faster, largest difference {error:.1e}")


def bench_experiment():
    """LSS, HRF choice and ridge for a subject of CSI1's size."""
    design = subject.make_design(0)
    person = subject.make_subject(VOXELS["CSI1"], 0)
    rng = np.random.default_rng(0)
    response = rng.standard_normal((design.image.max() + 1, len(person.roi)), dtype=np.float32)
    truth = subject.true_betas(person, response, design)
    runs, order = [], []
    for _, _, trials, bold in subject.bold_runs(person, truth, design, 0):
        runs.append((bold, design.onset[trials]))
        order.append(trials)
    order = np.concatenate(order)
    labels = np.where(design.test, design.image, -1)[order]

    start = time.perf_counter()
    for bold, onsets in runs:
        single_trial_betas(bold, onsets, TR)
    lsa = time.perf_counter() - start
    start = time.perf_counter()
    for bold, onsets in runs:
        single_trial_betas(bold, onsets, TR, method="lss")
    lss = time.perf_counter() - start
    start = time.perf_counter()
    estimate(runs, TR, labels)
    chain = time.perf_counter() - start
    print(f"experiment, {len(runs)} runs x {VOLUMES} volumes x {len(person.roi)} voxels: LSA "
          f"{lsa:.1f} s, LSS {lss:.1f} s, HRF choice + ridge {chain:.1f} s")
    return lss + chain


if __name__ == "__main__":
    bold = 1000 + 10 * np.random.default_rng(0).normal(size=(VOLUMES, COLUMNS))
    bench_ols(bold)
    bench_lss(bold)
    del bold
    total = bench_experiment()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"LSS + HRF choice + ridge: {total:.1f} s; peak memory {peak:.2f} GB")
