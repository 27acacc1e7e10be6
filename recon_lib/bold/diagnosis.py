"""Why are my betas odd? What the chain finds in each voxel and in each run, as two tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recon_lib.bold.betas import split_half_reliability
from recon_lib.bold.glm import percent_change
from recon_lib.bold.hrf import PEAKS
from recon_lib.bold.single_trial import choose_count, estimate, hrf_fit, noise_components

FEW = 5  # noise components where no picture was shown in two runs


@dataclass
class Diagnosis:
    """What `diagnose` finds.

    Attributes
    ----------
    voxels : dict of str to (voxels,) array
        Share of the variance that the mean response explains, time of its peak (s), ratio of the
        variances, mean beta and spread of betas (% signal change), split-half reliability.
    runs : dict of str to (runs,) array
        Spread of betas (median voxel, % signal change), volumes, outlier volumes.
    count : int
        Noise components.
    gains : (counts,) array or None
        What each number of components saves, see `choose_count`; None without repeats.
    """

    voxels: dict
    runs: dict
    count: int
    gains: np.ndarray | None


def diagnose(runs: Sequence, tr: float, labels: np.ndarray, durations: Sequence | float = 1.0,
             confounds: Sequence | None = None):
    """Go through the whole chain and keep what tells good betas from odd ones.

    Parameters
    ----------
    runs : sequence of (bold, onsets)
    tr : float
        Repetition time, in seconds.
    labels : (trials,) array
        Which picture each trial showed.
    durations : float, or list of float or (trials,) arrays
        Seconds for which each picture was shown: all, or in each run.
    confounds : list of (volumes, c) arrays, optional
        What to take out of each run beside the noise components.

    Returns
    -------
    Diagnosis
    """
    fit = hrf_fit(runs, tr, confounds, durations)
    r2, gains, count = fit.max(0), None, FEW
    pool = r2 < np.nanquantile(r2, 0.3)
    run_of = np.repeat(np.arange(len(runs)), [len(onsets) for _, onsets in runs])
    most = min(10, int(pool.sum()))
    components = noise_components(runs, tr, pool, most)
    pairs = np.unique(np.rec.fromarrays([labels, run_of]))
    if len(np.unique(pairs["f0"])) < len(pairs):  # a picture in two runs
        count, gains = choose_count(runs, tr, labels, components, fit.argmax(0),
                                    r2 > np.nanmedian(r2))
    chosen = [c[:, :count] for c in components]
    confounds = chosen if confounds is None else [
        np.hstack([*both]) for both in zip(confounds, chosen, strict=True)]
    found = estimate(runs, tr, confounds, durations)
    voxels = {"explained": r2, "peak": PEAKS[found.hrf],
              "ratio": found.ratio, "mean": found.betas.mean(0), "spread": found.betas.std(0)}
    if gains is not None:
        voxels["reliability"] = split_half_reliability(found.betas, labels)
    out = [outlier_volumes(bold) for bold, _ in runs]
    table = {"spread": [np.nanmedian(found.betas[run_of == i].std(0)) for i in range(len(runs))],
             "volumes": [len(one) for one in out], "outlier volumes": [one.sum() for one in out]}
    return Diagnosis(voxels, {k: np.array(v) for k, v in table.items()}, count, gains)


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
