"""What does each step of the beta estimate buy? On the simulated subject, whose truth we know.

    OMP_NUM_THREADS=1 python benchmarks/betas.py

For each step: correlation over trials of estimated with true betas (both z-scored within
session, mean over voxels), and the mean noise ceiling of one trial as `betas.noise_ceiling` reads
it off the repeats, without the truth. Then the whole chain in scans of ten runs of other kinds:
correlation, share of the mean response that is kept, error in standard deviations of the truth and
beside its own standard error; and how well each criterion chooses the HRF, in the library and out
of it.
"""

import time
from unittest.mock import patch

import _table
import numpy as np

from recon_lib.bold import hrf, reml, single_trial
from recon_lib.bold.betas import correlate_columns, noise_ceiling, zscore_sessions
from recon_lib.bold.design import nuisance_basis
from recon_lib.bold.glm import single_trial_betas, trial_design
from recon_lib.bold.regression import project_out
from recon_lib.data.bold5000 import TR, VOLUMES, VOXELS
from recon_lib.world import scenes, subject, tuning
from recon_lib.world.scan import simulate

SESSIONS = 4
KINDS = {  # of scan: what is other than in the first
    "few repeats": dict(),
    "all repeat": dict(dense=True),
    "all repeat, SNR .2": dict(dense=True, snr=0.2),
    "HRFs of no library": dict(dense=True, outside=True),
    "HRFs of no library, SNR .2": dict(dense=True, outside=True, snr=0.2),
    "half silent": dict(dense=True, silent=0.5),
    "half silent, noise in common": dict(dense=True, silent=0.5, shared=0.6),
    "onsets off the grid, SNR .2": dict(dense=True, snr=0.2, jitter=1.8),
    "HRFs of no library, half silent, odd drift": dict(
        dense=True, snr=0.1, outside=True, silent=0.5, shared=0.4, odd_drift=True),
}


def half_cosines(seed=0, count=20):
    """Responses of four half cosines (as in Woolrich et al. 2004): kernels (count, samples)."""
    rng, t = np.random.default_rng(seed), np.linspace(0, hrf.LENGTH, round(hrf.LENGTH / TR * 50))
    low, high = [0, 2.5, 3, 3], [1.5, 6, 6, 7]  # seconds: delay, rise, fall, return
    shapes = []
    for _ in range(count):
        knots, dip = np.r_[0, np.cumsum(rng.uniform(low, high))], rng.uniform(0, 0.4)
        levels = np.array([0, 0, 1, -dip, 0])
        part = np.clip(np.searchsorted(knots, t, side="right") - 1, 0, 3)
        share = np.clip((t - knots[part]) / np.diff(knots)[part], 0, 1)
        shape = levels[part] + (levels[part + 1] - levels[part]) * (1 - np.cos(np.pi * share)) / 2
        shapes.append(shape / shape.sum())
    return np.stack(shapes)


def odd_drifts(count=5):
    """Drift that no few cosines make up: a line, a bend, a decay and two waves, (VOLUMES, 5)."""
    t = (np.arange(VOLUMES) + 0.5) / VOLUMES
    return np.stack([2 * t - 1, 2 * np.abs(t - 0.37), np.exp(-8 * t), np.sin(2.7 * np.pi * t + 0.4),
                     np.sin(5.3 * np.pi * t)], 1)


def noise_confounds(runs, count, share=0.3):
    """Components of the voxels that the mean response explains worst."""
    fit = single_trial.hrf_fit(runs, TR).max(0)
    return single_trial.noise_components(runs, TR, fit < np.quantile(fit, share), count)


def rows():
    scan = simulate(SESSIONS)
    runs, labels, session = scan.runs, scan.labels, scan.session
    voting = labels >= 0
    confounds = noise_confounds(runs, 5)
    none = [None] * len(runs)

    def linear(method="lsa", hrf="spm", extra=none):
        return np.concatenate([
            single_trial_betas(bold, onsets, TR, hrf, method=method, confounds=more)
            for (bold, onsets), more in zip(runs, extra, strict=True)
        ])

    choice = single_trial.hrf_fit(runs, TR).argmax(0)
    clean_choice = single_trial.hrf_fit(runs, TR, confounds).argmax(0)
    steps = {
        "LSA, true HRFs": lambda: linear(hrf=scan.person.shape),
        "LSA, SPM's HRF": lambda: linear(),
        "LSS, SPM's HRF": lambda: linear("lss"),
        "LSA, HRF chosen": lambda: linear(hrf=choice),
        "LSS, HRF chosen": lambda: linear("lss", choice),
        "LSA, HRF chosen, REML": lambda: single_trial.estimate(runs, TR).betas,
        "LSA, HRF chosen, 5 noise regressors": lambda: linear("lsa", clean_choice, confounds),
        "LSS, HRF chosen, 5 noise regressors": lambda: linear("lss", clean_choice, confounds),
        "LSA, HRF chosen, 5 noise regressors, REML": lambda: single_trial.estimate(
            runs, TR, confounds
        ).betas,
    }
    peaks = np.abs(choice // 2 - scan.person.shape // 2).mean() * 4 / 9  # seconds
    print(f"{len(runs)} runs, {len(labels)} trials ({voting.mean():.0%} vote), "
          f"{len(scan.person.roi)} voxels; chosen HRFs peak {peaks:.2f} s from the true ones on "
          "average")
    made, plain = [], None
    for name, make in steps.items():
        start = time.perf_counter()
        betas = make()
        seconds = time.perf_counter() - start
        r = scan.agreement(betas).mean()
        betas = zscore_sessions(betas, session)
        ceiling = noise_ceiling(betas[voting], labels[voting]).mean()
        made += [
            _table.row(f"{name}: correlation with the truth", r, "r", plain,
                       plain and "LSA, SPM's HRF", better="more"),
            _table.row(f"{name}: noise ceiling of one trial", ceiling, "%"),
            _table.row(f"{name}: time", seconds, "s"),
        ]
        if name == "LSA, SPM's HRF":
            plain = r  # what the later steps are held against
    for name, kind in KINDS.items():
        made += kind_rows(name, **kind)
    return made + interval_rows()


def scanned(snr=0.03, dense=False, silent=0, outside=False, odd_drift=False, shared=subject.SHARED,
            jitter=0):
    """Ten runs: every picture four times or one trial in eleven a repeat; some voxels silent.

    Returns
    -------
    runs, (trials, voxels) truth, (voxels,) which speak, (voxels, samples) true HRFs
    """
    shapes = half_cosines() if outside else hrf.library(TR)
    with (patch.object(hrf, "library", lambda tr: shapes), patch.object(subject, "SHARED", shared),
          patch.object(subject, "drifts", odd_drifts if odd_drift else subject.drifts)):
        design = subject.make_design(0, (10,), *((92, 370) if dense else (8, 32)))
        design.onset[:] += np.random.default_rng(99).uniform(0, jitter, len(design.onset))
        person = subject.make_subject(VOXELS["CSI1"], 0, 1, snr)
        quiet = np.random.default_rng(1).permutation(len(person.roi)) < silent * len(person.roi)
        person.mean[quiet] = person.amplitude[quiet] = 0
        factors = scenes.sample_factors(design.image.max() + 1, 0)
        response = tuning.responses(scenes.draw(factors, 64), factors, VOXELS["CSI1"], 0)
        truth = subject.true_betas(person, response, design)
        runs, order = [], []
        for _, _, trials, bold in subject.bold_runs(person, truth, design, 0):
            runs.append((bold, design.onset[trials]))
            order.append(trials)
    return runs, truth[np.concatenate(order)], ~quiet, seen(shapes)[person.shape]


def seen(shapes):
    """The response of each kernel to one picture, in volumes, of length 1."""
    columns = np.stack([subject.event_columns(np.zeros(1), shape)[:20, 0] for shape in shapes])
    return columns / np.linalg.norm(columns, axis=1, keepdims=True)


def interval_rows(seed=0):
    """How high responses come out, without noise, where no shape of the library is true.

    At a constant interval all that is seen of the mean response is a wave of that period, and its
    height depends on what the response does once the next picture is there; that is where shapes
    differ most. Deviations of single trials from the mean are not periodic.
    """
    rng, drift, made = np.random.default_rng(seed), nuisance_basis(VOLUMES, TR), []
    waits = 4 + rng.exponential(6, 34)  # seconds
    for name, onsets in (("every 10 s", 6 + 10.0 * np.arange(37)), ("irregularly", waits.cumsum())):
        true, ours = ([project_out(drift, trial_design(onsets, VOLUMES, TR, shape))
                       for shape in shapes] for shapes in (half_cosines(), hrf.library(TR)))
        away = rng.normal(size=(len(onsets), 200))
        away -= away.mean(0)
        heights = []
        for columns in true:
            mean = columns.sum(1)
            best = max(ours, key=lambda one: one.sum(1) @ mean / np.linalg.norm(one.sum(1)))
            found = np.linalg.lstsq(best, columns @ away)[0]
            heights.append([best.sum(1) @ mean / (best.sum(1) ** 2).sum(),
                            (found * away).sum() / (away**2).sum()])
        for what, each in zip(("mean response", "deviations"), np.transpose(heights), strict=True):
            print(f"pictures {name}: {what} {each.mean():.3f} times the true ones (sd "
                  f"{each.std():.3f} over shapes)")
            made.append(_table.row(f"HRFs of no library, no noise, pictures {name}: {what} over "
                                   "the true", each.mean(), "x"))
    return made


def kind_rows(name, **kind):
    """The whole chain, and LSA with SPM's HRF, in one kind of scan."""
    runs, truth, speaks, true = scanned(**kind)
    confounds = noise_confounds(runs, 5)
    settings = {"confounds": confounds}
    chain = single_trial.estimate(runs, TR, **settings)
    lsa = np.concatenate([single_trial_betas(bold, onsets, TR) for bold, onsets in runs])
    chosen = {"mean response": single_trial.hrf_fit(runs, TR, **settings).argmax(0),
              "likelihood": chain.hrf}
    alone = reml.reml_betas(runs, TR, chain.hrf, confounds, ratio=chain.ratio).error
    expected = single_trial.standard_errors(runs, TR, chain, confounds)
    surprise = [np.sqrt(((chain.betas - truth) ** 2).mean() / (error**2).mean())
                for error in (expected, alone)]  # over all voxels: an error knows not who speaks
    truth = truth[:, speaks]
    r, kept, off = [], [], []
    for betas in (chain.betas, reml.reml_betas(runs, TR, chosen["mean response"], confounds).betas,
                  lsa):
        betas = betas[:, speaks]
        r.append(correlate_columns(betas, truth))
        kept.append(np.polyfit(truth.mean(0), betas.mean(0), 1)[0])
        off.append(np.median(np.sqrt(((betas - truth) ** 2).mean(0)) / truth.std(0)))
    for other, peer in ((1, "with the HRF that explains the mean response best"), (2, "LSA")):
        gain = r[0] - r[other]
        print(f"{name}: gain over {peer} {gain.mean():.4f} ± "
              f"{1.96 * gain.std() / len(gain) ** 0.5:.4f} (95 %, over voxels)")
    match = [(seen(hrf.library(TR))[h] * true).sum(1)[speaks].mean() for h in chosen.values()]
    peer = "LSA, SPM's HRF"
    return [
        _table.row(f"{name}: correlation with the truth", r[0].mean(), "r", r[2].mean(), peer,
                   better="more"),
        _table.row(f"{name}: share of the mean response kept", kept[0], "x", kept[2], peer),
        _table.row(f"{name}: error over sd of the truth", off[0], "x", off[2], peer),
        _table.row(f"{name}: error over its standard error", surprise[0], "x", surprise[1],
                   "as if the HRF were known"),
        _table.row(f"{name}: chosen HRF beside the true one", match[1], "cosine", match[0],
                   "chosen by the mean response's fit", better="more"),
    ]


if __name__ == "__main__":
    _table.main(rows)
