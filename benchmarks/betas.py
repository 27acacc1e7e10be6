"""What does each step of the beta estimate buy? On the simulated subject, whose truth we know.

    OMP_NUM_THREADS=1 python benchmarks/betas.py

For each step: correlation over trials of estimated with true betas (both z-scored within
session, mean over voxels), and the mean noise ceiling of one trial as `betas.noise_ceiling` reads
it off the repeats, without the truth. The repeats that choose the ridge fraction are also in the
score.
"""

import time

import _table
import numpy as np

from recon_lib.bold import single_trial
from recon_lib.bold.betas import noise_ceiling, zscore_sessions
from recon_lib.bold.glm import single_trial_betas
from recon_lib.data.bold5000 import TR
from recon_lib.world.scan import simulate

SESSIONS = 4


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
        "LSA, HRF chosen, ridge": lambda: single_trial.estimate(runs, TR, labels).betas,
        "LSA, HRF chosen, 5 noise regressors": lambda: linear("lsa", clean_choice, confounds),
        "LSS, HRF chosen, 5 noise regressors": lambda: linear("lss", clean_choice, confounds),
        "LSA, HRF chosen, 5 noise regressors, ridge": lambda: single_trial.estimate(
            runs, TR, labels, confounds
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
    return made


if __name__ == "__main__":
    _table.main(rows)
