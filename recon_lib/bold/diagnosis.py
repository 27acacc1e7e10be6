"""Why are my betas odd? What the chain finds in each voxel and in each run, as two tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recon_lib.bold.betas import split_half_reliability
from recon_lib.bold.glm import percent_change
from recon_lib.bold.hrf import PEAKS
from recon_lib.bold.single_trial import Noise, estimate, find_noise, standard_errors


@dataclass
class Diagnosis:
    """What `diagnose` finds."""

    # (voxels,) each: share of the variance that the mean response explains, time of its peak (s),
    # ratio of the variances, mean, spread and median standard error of its betas (% signal
    # change), split-half reliability
    voxels: dict
    runs: dict  # (runs,) each: spread of betas (median voxel, %), volumes, outlier volumes
    noise: Noise  # the noise components, and what each number of them saves


def diagnose(runs: Sequence, tr: float, labels: np.ndarray, durations: Sequence | float = 1.0,
             confounds: Sequence | None = None):
    """Go through the whole chain and keep what tells good betas from odd ones.

    `labels` (trials,) say which picture each trial showed, `durations` for how many seconds: all,
    or in each run. `confounds` are what to take out of each run beside the noise components.
    """
    noise = find_noise(runs, tr, labels, durations, confounds)
    run_of = np.repeat(np.arange(len(runs)), [len(onsets) for _, onsets in runs])
    found = estimate(runs, tr, noise.confounds, durations)
    voxels = {"explained": found.r2, "peak": PEAKS[found.hrf],
              "ratio": found.ratio, "mean": found.betas.mean(0), "spread": found.betas.std(0),
              "error": np.median(standard_errors(runs, tr, found, noise.confounds, durations), 0)}
    if noise.gains is not None:
        voxels["reliability"] = split_half_reliability(found.betas, labels)
    out = [outlier_volumes(bold) for bold, _ in runs]
    table = {"spread": [np.nanmedian(found.betas[run_of == i].std(0)) for i in range(len(runs))],
             "volumes": [len(one) for one in out], "outlier volumes": [one.sum() for one in out]}
    return Diagnosis(voxels, {k: np.array(v) for k, v in table.items()}, noise)


def outlier_volumes(bold):
    """Volumes that jump: (volumes,) bool.

    The root mean square over voxels of the change since the volume before (DVARS, Power et al.
    2012, doi:10.1016/j.neuroimage.2011.10.018) is more than 1.5 interquartile ranges above the
    third quartile, as FSL's `fsl_motion_outliers` draws the line.
    """
    change = np.diff(percent_change(bold), axis=0)
    jump = np.sqrt(np.nanmean(change.astype(float) ** 2, axis=1))
    low, high = np.quantile(jump, [0.25, 0.75])
    return np.r_[False, jump > high + 1.5 * (high - low)]
