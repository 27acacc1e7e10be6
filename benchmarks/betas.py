"""What does each step of the beta estimate buy? On the simulated subject, whose truth we know.

    OMP_NUM_THREADS=1 python benchmarks/betas.py

For each step: correlation over trials of estimated with true betas (both z-scored within
session, mean over voxels), and the mean noise ceiling of one trial as `betas.noise_ceiling` reads
it off the repeats, without the truth. Then the whole chain in scans of ten runs of other kinds:
correlation, share of the mean response that is kept, and error in standard deviations of the truth.
"""

import time

import _table
import numpy as np

from recon_lib.bold import single_trial
from recon_lib.bold.betas import correlate_columns, noise_ceiling, zscore_sessions
from recon_lib.bold.glm import single_trial_betas
from recon_lib.data.bold5000 import TR, VOXELS
from recon_lib.world import scenes, subject, tuning
from recon_lib.world.scan import simulate

SESSIONS = 4
KINDS = {  # of scan
    "few repeats": dict(snr=0.03, dense=False, silent=0),
    "all repeat": dict(snr=0.03, dense=True, silent=0),
    "all repeat, SNR .2": dict(snr=0.2, dense=True, silent=0),
    "all repeat, half silent": dict(snr=0.1, dense=True, silent=0.5),
}


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
    return made


def scanned(snr, dense, silent):
    """Ten runs: every picture four times or one trial in eleven a repeat; some voxels silent."""
    design = subject.make_design(0, (10,), *((92, 370) if dense else (8, 32)))
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
    return runs, truth[np.concatenate(order)], ~quiet


def kind_rows(name, **kind):
    """The whole chain, and LSA with SPM's HRF, in one kind of scan."""
    runs, truth, speaks = scanned(**kind)
    chain = single_trial.estimate(runs, TR, noise_confounds(runs, 5)).betas
    lsa = np.concatenate([single_trial_betas(bold, onsets, TR) for bold, onsets in runs])
    truth = truth[:, speaks]
    r, kept, off = [], [], []
    for betas in (chain[:, speaks], lsa[:, speaks]):
        r.append(correlate_columns(betas, truth))
        kept.append(np.polyfit(truth.mean(0), betas.mean(0), 1)[0])
        off.append(np.median(np.sqrt(((betas - truth) ** 2).mean(0)) / truth.std(0)))
    gain = r[0] - r[1]
    print(f"{name}: gain {gain.mean():.4f} ± {1.96 * gain.std() / len(gain) ** 0.5:.4f} "
          "(95 %, over voxels)")
    peer = "LSA, SPM's HRF"
    return [
        _table.row(f"{name}: correlation with the truth", r[0].mean(), "r", r[1].mean(), peer,
                   better="more"),
        _table.row(f"{name}: share of the mean response kept", kept[0], "x", kept[1], peer),
        _table.row(f"{name}: error over sd of the truth", off[0], "x", off[1], peer),
    ]


if __name__ == "__main__":
    _table.main(rows)
