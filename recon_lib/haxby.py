"""A real brain: one slice of subject 1 of Haxby et al. 2001, Science 293:2425 (see `data/`)."""

from functools import partial
from pathlib import Path

import numpy as np

from recon_lib.crossval import zscore
from recon_lib.decoding import judge_space
from recon_lib.drawing import SAMPLING, load_conditional, load_guide, sample_pictures
from recon_lib.errors import DataError
from recon_lib.features import load_factor_net, read_factors
from recon_lib.files import read_npz
from recon_lib.identification import similarity, two_way, two_way_within
from recon_lib.latents import fit_decoder
from recon_lib.referee import load_referee
from recon_lib.scenes import KINDS, draw, sample_factors
from recon_lib.splits import folds

PATH = Path(__file__).resolve().parent.parent / "data" / "haxby_sub1_1slice.npz"


def detrend(bold, order=1):
    """Remove a polynomial of time, mean included, from each column of (volumes, voxels)."""
    basis = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(bold)), order)
    return bold - basis @ np.linalg.lstsq(basis, bold, rcond=None)[0]


def haxby_blocks(path=PATH):
    """Mean pattern of each block of pictures of one category.

    Each run is detrended (a straight line) and z-scored voxel by voxel over all of its
    volumes; then the 9 volumes of each block are averaged. The labels of this recording are
    already shifted by about 4.5 s, so there is no further shift for the HRF.

    Parameters
    ----------
    path : path, optional
        The .npz with `bold` (volumes, voxels), `label` and `run`.

    Returns
    -------
    patterns : (96, 530) float32 array
        z units; 8 categories x 12 runs, in order of time.
    category : (96,) str array
        bottle, cat, chair, face, house, scissors, scrambledpix or shoe.
    run : (96,) int array
        0 to 11.
    """
    bold, label, run = read_npz(path, ("bold", "label", "run")).values()
    if not len(bold) == len(label) == len(run):
        raise DataError(f"{path}: {len(bold)} volumes, {len(label)} labels; expected equal numbers")
    signal = np.empty(bold.shape, np.float32)
    for r in np.unique(run):
        part = detrend(bold[run == r].astype(np.float64))
        signal[run == r] = part / np.maximum(part.std(axis=0), 1e-9)
    starts = np.flatnonzero(np.r_[True, (label[1:] != label[:-1]) | (run[1:] != run[:-1])])
    blocks = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(label)], strict=True)]
    blocks = [block for block in blocks if label[block.start] != "rest"]
    first = [block.start for block in blocks]
    patterns = np.stack([signal[block].mean(axis=0) for block in blocks])
    return patterns, label[first], run[first]


def kind_of(category):
    """Index into `scenes.KINDS` of each of Haxby's category names."""
    return np.array([KINDS.index(name.removesuffix("pix")) for name in category])


def scenes_of(kinds, seed):
    """One TinyScene of each kind asked for, everything else at random: (n, 64, 64, 3) uint8."""
    factors = sample_factors(len(kinds), seed)
    factors["kind"] = kinds
    return draw(factors)


def brain_vectors(latent, seed=0, say=print):
    """The brain vector of each block, by a decoder that was fitted to the other runs.

    All that the labels tell is the category, so patterns are decoded to the mean latent of scenes
    of that category, and nothing else is known of the picture.

    Parameters
    ----------
    latent : ImageLatent
    seed : int
    say : function

    Returns
    -------
    vectors : (96, d + 1) float32 array
    kind : (96,) int array
        Index into `scenes.KINDS`.
    run : (96,) int array
    latents : (96, d) array
        The mean latent of each block's category.
    """
    patterns, category, run = haxby_blocks()
    kind = kind_of(category)
    mean = {k: latent.transform(scenes_of(np.full(60, k), seed + 1)).mean(0) for k in set(kind)}
    latents = np.stack([mean[k] for k in kind])
    vectors = np.zeros((len(kind), latents.shape[1] + 1), np.float32)
    for train, test in folds(run):
        say(f"run {run[test[0]] + 1} of {len(np.unique(run))} left out")
        known, held = zscore(patterns[train], patterns[test])
        vectors[test] = fit_decoder(known, latents[train], run[train], seed).vector(held)
    return vectors, kind, run, latents


def others_in_run(run, seed=0):
    """For each block another one of the same run, in a random cycle: (blocks,) int."""
    rng, other = np.random.default_rng(seed), np.arange(len(run))
    for r in np.unique(run):
        cycle = rng.permutation(np.flatnonzero(run == r))
        other[cycle] = np.roll(cycle, 1)
    return other


def drive(model_path, seed=0, steps=20, say=print):
    """Let Haxby's patterns drive a model of TinyScenes, leaving one run out at a time.

    Parameters
    ----------
    model_path : path
        A conditional model with its latent beside it.
    seed, steps
        See `drawing.sample_pictures`.
    say : function

    Returns
    -------
    dict
        `kind`, `run` (96,), `seen` and `reconstruction` (96, 64, 64, 3): a scene of the
        category of each block, and what was made of its pattern; `shuffled`, the same from
        patterns of other blocks of that run; `figure`, rows for `plots.reconstructions`.
    """
    model, info, latent = load_conditional(model_path)
    vectors, kind, run, _ = brain_vectors(latent, seed, say)
    seen = scenes_of(kind, seed + 2)
    # without the likelihood: its latents are means over scenes, which no picture can have
    worse = load_guide(model_path, model, info)
    sampling = SAMPLING | dict(steps=steps, strength=0.0, candidates=1, worse=worse)
    imagine = partial(sample_pictures, model, info, seed=seed, **sampling)
    made, wrong = imagine(vectors), imagine(vectors[others_in_run(run, seed)])
    show = np.flatnonzero(run == run.max())
    rows = {"category seen": seen, "from the brain": made, "shuffled brain": wrong}
    return {"kind": kind, "run": run, "seen": seen, "reconstruction": made, "shuffled": wrong,
            "figure": {k: v[show] for k, v in rows.items()}}


def score_blocks(result, seed=0, permutations=1000):
    """How much of Haxby's subject is in the pictures: the category, and nothing within it.

    Returns
    -------
    dict
        `scores`: share of reconstructions in which the judge reads the right one of the eight
        categories, for the brain and for shuffled patterns, with a permutation p-value, and what
        the referee reads; and
        identification of the scene shown for a block, among all and within its category; the
        latter also for twenty other sets of scenes that might as well have been shown.
    """
    kind, eight = result["kind"], np.unique(result["kind"])
    judge = load_factor_net("judge")

    def evidence(pictures, reader=judge):  # (96, 8)
        return np.log(read_factors(reader, pictures)["kind"][:, eight] + 1e-9)

    def accuracy(matrix, target):
        return float((matrix.argmax(1) == target).mean())

    target, brain = np.searchsorted(eight, kind), evidence(result["reconstruction"])
    rng = np.random.default_rng(seed)
    observed = accuracy(brain, target)
    null = [accuracy(brain, rng.permutation(target)) for _ in range(permutations)]
    features = judge_space(result["seen"])
    made = features(result["reconstruction"])
    alike = similarity(made, features(result["seen"]))
    own = np.arange(len(kind))
    others = [two_way_within(similarity(made, features(scenes_of(kind, seed + 100 + i))), own, kind)
              for i in range(20)]
    scores = {
        "category read": observed,
        "category read, shuffled brain": accuracy(evidence(result["shuffled"]), target),
        "category read by the referee": accuracy(
            evidence(result["reconstruction"], load_referee()), target),
        "category read, chance": 1 / len(eight),
        "category read, p-value": (1 + sum(n >= observed for n in null)) / (1 + permutations),
        "two-way": two_way(alike, own),
        "two-way within category": two_way_within(alike, own, kind),
        "two-way within category, other scenes": float(np.mean(others)),
    }
    return {"scores": scores, "info": {"blocks": len(kind), "runs": 12, "seed": seed}}
