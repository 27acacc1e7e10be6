"""How fast is the GLM, beside nilearn and beside the machine's own matrix product?

    OMP_NUM_THREADS=1 python benchmarks/glm.py

Ratios come from one process, calls interleaved, best of several; answers are compared first.
nilearn's OLS also gives residuals and their variance, so ours is timed with its variance beside it.
The betas alone are one product of the design's pseudo-inverse and the BOLD: the bare product is
their limit. Kernels are made inside our timers, as nilearn makes its own in each call.
"""

import resource
import time

import _table
import numpy as np
import pandas as pd
from nilearn.glm.first_level import (
    compute_regressor,
    make_first_level_design_matrix,
    run_glm,
    spm_hrf,
)

from recon_lib.bold import hrf
from recon_lib.bold.design import design_matrix
from recon_lib.bold.events import peak_height, regressors
from recon_lib.bold.glm import single_trial_betas, trial_estimator
from recon_lib.bold.regression import ols
from recon_lib.bold.single_trial import estimate
from recon_lib.data.bold5000 import VOXELS
from recon_lib.world import subject

TR, VOLUMES, TRIALS = 2.0, 194, 37
FEW, MANY = 20_000, 250_000  # voxels
ONSETS = 6.0 + 10.0 * np.arange(TRIALS)
NAMES = np.array([f"trial{i:02d}" for i in range(TRIALS)])
NILEARN = _table.package("nilearn")
GOAL = 60.0  # seconds for the whole experiment, on two cores


def best(*functions, rounds=7):
    """Shortest time of each function, called in turn."""
    times = np.full((rounds, len(functions)), np.inf)
    for r in range(rounds):
        for f, function in enumerate(functions):
            start = time.perf_counter()
            function()
            times[r, f] = time.perf_counter() - start
    return times.min(0)


def bench_kernel():
    """SPM's HRF on an oversampled grid."""
    error = np.abs(spm_hrf(TR) - hrf.spm_hrf(TR)).max()
    assert error < 1e-15, error
    mine, nilearn = best(lambda: hrf.spm_hrf(TR), lambda: spm_hrf(TR), rounds=50)
    name = f"SPM's HRF, {len(hrf.spm_hrf(TR))} samples"
    return [_table.row(name, mine, "s", nilearn, NILEARN)]


def bench_regressors():
    """One regressor a trial, on an oversampled grid as nilearn's."""
    frames = np.arange(VOLUMES) * TR

    def looped():
        return np.column_stack([
            compute_regressor(np.array([[t], [1.0], [1.0]]), "spm", frames)[0][:, 0] for t in ONSETS
        ])

    def here():
        return regressors(ONSETS, np.ones(TRIALS), VOLUMES, TR, hrf.spm_hrf(TR))

    error = np.abs(looped() - here()).max()
    assert error < 1e-10, error
    mine, nilearn = best(here, looped, rounds=5)
    return [_table.row(f"{TRIALS} regressors of {VOLUMES} volumes", mine, "s", nilearn, NILEARN)]


def bench_ols(voxels, kind):
    bold = make_bold(voxels, kind)
    design, _ = design_matrix(VOLUMES, TR, ONSETS, NAMES)
    labels, results = run_glm(bold, design, noise_model="ols")
    fit, theirs = ols(bold, design), results[labels[0]]
    error = np.abs(fit.betas - theirs.theta).max()
    assert error < (1e-8 if kind is np.float64 else 0.02), error
    error = np.abs(fit.variance / theirs.dispersion - 1).max()
    assert error < (1e-8 if kind is np.float64 else 1e-4), error
    matrix = np.linalg.pinv(design).astype(kind)
    out = np.empty((len(matrix), voxels), kind)
    whole, nilearn, betas, limit = best(
        lambda: ols(bold, design).variance,
        lambda: run_glm(bold, design, noise_model="ols"),
        lambda: ols(bold, design),
        lambda: np.matmul(matrix, bold, out=out),
        rounds=7 if voxels == FEW else 3,
    )
    name = f"OLS, {VOLUMES} x {len(matrix)} design, {voxels:,} voxels, {kind.__name__}"
    return [_table.row(f"{name}: betas and variance", whole, "s", nilearn, NILEARN),
            _table.row(f"{name}: betas alone", betas, "s", limit, "limit: bare matrix product")]


def bench_lss():
    bold = make_bold(FEW, np.float64)
    height = peak_height(hrf.spm_hrf(TR), 1.0, TR)

    def looped():
        rows = []
        for i in range(TRIALS):
            events = pd.DataFrame({
                "onset": ONSETS, "duration": 1.0,
                "trial_type": np.where(np.arange(TRIALS) == i, "one", "others"),
            })
            design = make_first_level_design_matrix(
                np.arange(VOLUMES) * TR, events, hrf_model="spm", high_pass=0.01
            )
            labels, results = run_glm(bold, design.to_numpy(), noise_model="ols")
            column = list(design.columns).index("one")
            rows.append(results[labels[0]].theta[column] * height)
        return np.stack(rows)

    def here():
        return trial_estimator(ONSETS, VOLUMES, TR, hrf.spm_hrf(TR), method="lss") @ bold

    error = np.abs(looped() - here()).max()
    assert error < 1e-8, error
    mine, nilearn = best(here, looped, rounds=3)
    name = f"LSS, {TRIALS} trials, {FEW:,} voxels, float64"
    return [_table.row(name, mine, "s", nilearn, f"{NILEARN}, looped over trials, with residuals")]


def bench_experiment():
    """LSA, LSS, and HRF choice with REML for a subject of CSI1's size."""
    design = subject.make_design(0)
    person = subject.make_subject(VOXELS["CSI1"], 0)
    rng = np.random.default_rng(0)
    response = rng.standard_normal((design.image.max() + 1, len(person.roi)), dtype=np.float32)
    truth = subject.true_betas(person, response, design)
    runs = [(bold, design.onset[trials])
            for _, _, trials, bold in subject.bold_runs(person, truth, design, 0)]

    def one_by_one(method):
        for bold, onsets in runs:
            single_trial_betas(bold, onsets, TR, method=method)

    lsa, lss, chain = best(lambda: one_by_one("lsa"), lambda: one_by_one("lss"),
                           lambda: estimate(runs, TR), rounds=1)
    size = f"{len(runs)} runs x {VOLUMES} volumes x {len(person.roi)} voxels"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [
        _table.row(f"LSA, {size}", lsa, "s"),
        _table.row(f"LSS, {size}", lss, "s"),
        _table.row(f"HRF choice and REML, {size}", chain, "s"),
        _table.row(f"LSS, HRF choice and REML, {size}", lss + chain, "s", GOAL, "goal"),
        _table.row("its peak memory, data included", peak, "GB"),
    ]


def make_bold(voxels, kind):
    """(VOLUMES, voxels) noise around a baseline of 1000."""
    bold = np.random.default_rng(0).standard_normal((VOLUMES, voxels), dtype=kind)
    bold *= 10
    bold += 1000
    return bold


def rows():
    """The experiment first, so that the peak of memory is its own."""
    made = bench_experiment() + bench_kernel() + bench_regressors()
    for voxels in (FEW, MANY):
        for kind in (np.float64, np.float32):
            made += bench_ols(voxels, kind)
    return made + bench_lss()


if __name__ == "__main__":
    _table.main(rows)
