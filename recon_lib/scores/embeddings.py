"""Scores of what `decoding.decode_embeddings` ranked: no picture is needed for them."""

import numpy as np

from recon_lib.bold.betas import noise_ceiling
from recon_lib.scores.identification import (
    bootstrap_interval,
    n_way_hits,
    permutation_null,
    two_way_wins,
)

N_WAY = 50
SHOWN = ("top1", "top1_low", "top1_high", "two_way", "two_way_low", "two_way_high", "p_value")


def score_embeddings(decoded: dict, permutations: int = 1000, seed: int = 0) -> dict:
    """Identification of each decoder and control, with 95 % intervals over pictures.

    Parameters
    ----------
    decoded : dict
        See `embeddings.decode_embeddings`.
    permutations, seed : int
        Of the p-values: pictures are permuted within their folds.

    Returns
    -------
    dict
        {"single_trial": {decoder: {metric: number}}, "averaged": {…}, "info": {…}}. ``top1`` is the
        share named right among ``n_way`` candidates, all draws of rivals counted at once.
    """
    least = min(len(fold.picture) for fold in decoded["averaged"])
    n = min(N_WAY, least)
    tables: dict = {}
    for name, folds in decoded.items():
        picture = np.concatenate([fold.picture[fold.target] for fold in folds])
        tables[name] = {}
        for key in folds[0].rankings:
            parts = [(fold.rankings[key], fold.target) for fold in folds]
            row: dict = {}
            for metric, score in (("top1", lambda m, t: n_way_hits(m, t, n)),
                                  ("two_way", two_way_wins)):
                hits = np.concatenate([score(*part) for part in parts])
                low, high = bootstrap_interval(hits, picture, seed=seed)
                row |= {metric: float(hits.mean()), f"{metric}_low": low, f"{metric}_high": high}
            null = sum(permutation_null(wins(m), t, of_target, permutations, seed + i) * len(t)
                       for i, (m, t) in enumerate(parts)) / len(picture)
            beaten = (null >= row["two_way"] - 1e-12).sum()
            tables[name][key] = row | {"p_value": float((1 + beaten) / (1 + permutations))}
        tables[name]["chance"] = {"top1": 1 / n, "two_way": 0.5}
    return tables | {"info": {"n_way": n, "folds": len(decoded["averaged"]),
                              "pictures": sum(len(f.picture) for f in decoded["averaged"]),
                              "permutations": permutations}}


def wins(matrix):
    """For each trial and candidate the share of the other candidates that it beats."""
    from scipy.stats import rankdata  # takes half a second to import

    return (rankdata(matrix, axis=1) - 1) / (matrix.shape[1] - 1)


def of_target(matrix, target):
    """The mean number in each trial's own column."""
    return matrix[np.arange(len(target)), target].mean()


def ceilings(betas: np.ndarray, trial_image: np.ndarray) -> dict:
    """Noise ceilings of the voxels, in percent of their variance; {} where no picture repeats.

    Parameters
    ----------
    betas : (trials, voxels) array
    trial_image : (trials,) array

    Returns
    -------
    dict of str to float
        The median and the best tenth of the voxels, for one trial and for the mean of as many as a
        picture has that was shown more than once.
    """
    _, which, counts = np.unique(trial_image, return_inverse=True, return_counts=True)
    if counts.max() < 2:
        return {}
    again = counts[which] > 1
    z = (betas - betas.mean(0)) / np.maximum(betas.std(0), 1e-12)
    mean = float(counts[counts > 1].mean())
    found: dict = {}
    for name, repeats in (("one_trial", 1), ("averaged", mean)):
        percent = noise_ceiling(z[again], np.asarray(trial_image)[again], repeats)
        found |= {f"{name}_median": float(np.median(percent)),
                  f"{name}_best_tenth": float(np.quantile(percent, 0.9))}
    return found | {"trials_averaged": mean}
