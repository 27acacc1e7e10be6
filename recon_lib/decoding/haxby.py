"""A real brain: one slice of subject 1 of Haxby et al. 2001, Science 293:2425 (see `data/`)."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.special import softmax

from recon_lib.bold.betas import zscore
from recon_lib.brain.decoder import fit_decoder
from recon_lib.brain.encoding import fit_encoding_model
from recon_lib.data.haxby import haxby_blocks
from recon_lib.data.splits import folds
from recon_lib.decoding.retrieval_prior import add_trials
from recon_lib.decoding.sampling import (
    SAMPLING,
    Guidance,
    load_conditional,
    refuse_unlearnt,
    sample_pictures,
)
from recon_lib.world.scenes import CATEGORIES, draw, sample_factors

# By how much log-likelihoods of the categories are divided, as `posterior.TEMPERATURE`: of 1, 2, 4,
# 8, 16 and 32 the one under which runs left out of each fold's training runs are likeliest, in
# eleven of the twelve folds.
TEMPERATURE = 4.0


def category_of(category):
    """Index into `scenes.CATEGORIES` of each of Haxby's category names."""
    return np.array([CATEGORIES.index(name.removesuffix("pix")) for name in category])


def scenes_of(categories, seed):
    """One TinyScene of each category asked for, everything else at random: (n, 64, 64, 3) uint8."""
    factors = sample_factors(len(categories), seed)
    factors["category"] = categories
    return draw(factors)


@dataclass
class BlockVectors:
    """The brain vector of each of Haxby's blocks."""

    vectors: np.ndarray  # (96, d + 1) float32, as decoded
    told: np.ndarray  # (96, d + 1) float32, after the posterior mean counted as further trials
    category: np.ndarray  # (96,) index into `scenes.CATEGORIES`
    run: np.ndarray  # (96,) of int
    latents: np.ndarray  # (96, d) the mean latent of each block's category


def brain_vectors(latent, seed=0, say=print):
    """The `BlockVectors` of all blocks, by decoders that were fitted to the other runs.

    All that the labels tell is the category, so patterns are decoded to the mean latent of scenes
    of that category, and nothing else is known of the picture. The posterior is that of the eight
    categories under an encoding model of every voxel, all alike probable before.
    """
    blocks = haxby_blocks()
    patterns, run, category = blocks.patterns, blocks.run, category_of(blocks.category)
    mean = {k: latent.transform(scenes_of(np.full(60, k), seed + 1)).mean(0)
            for k in set(category)}
    latents, each = np.stack([mean[k] for k in category]), np.stack(list(mean.values()))
    vectors, told = np.zeros((2, len(category), latents.shape[1] + 1), np.float32)
    for train, test in folds(run):
        say(f"run {run[test[0]] + 1} of {len(np.unique(run))} left out")
        known, held = zscore(patterns[train], patterns[test])
        decoder = fit_decoder(known, latents[train], run[train], seed)
        encoding = fit_encoding_model(latents[train], known, run[train], seed)
        weights = softmax(encoding.rank(held, each) / TEMPERATURE, axis=1)  # (8, 8)
        vectors[test] = decoder.vector(held)
        told[test] = add_trials(decoder, vectors[test], weights @ each, SAMPLING.pseudo_trials)
    return BlockVectors(vectors, told, category, run, latents)


def others_in_run(run, seed=0):
    """For each block another one of the same run, in a random cycle: (blocks,) int."""
    rng, other = np.random.default_rng(seed), np.arange(len(run))
    for r in np.unique(run):
        cycle = rng.permutation(np.flatnonzero(run == r))
        other[cycle] = np.roll(cycle, 1)
    return other


def drive(model_path, seed=0, steps=20, say=print):
    """Let Haxby's patterns drive a model of TinyScenes, leaving one run out at a time.

    The model is told the posterior mean, as in the main job, see `brain_vectors`.

    Parameters
    ----------
    model_path : path
        A conditional model with its latent beside it.
    seed, steps
        See `sampling.sample_pictures`.
    say : function

    Returns
    -------
    dict
        `category`, `run` (96,), `seen` and `reconstruction` (96, 64, 64, 3): a scene of the
        category of each block, and what was made of its pattern; `shuffled`, the same from
        patterns of other blocks of that run; `figure`, rows for `plots.reconstructions`.
    """
    net = load_conditional(model_path)
    # without the likelihood: its latents are means over scenes, which no picture can have
    sampling = replace(SAMPLING, steps=steps, strength=0.0, candidates=1)
    refuse_unlearnt(net.info, sampling)  # before any work
    blocks = brain_vectors(net.latent, seed, say)
    vectors, run = blocks.told, blocks.run
    seen = scenes_of(blocks.category, seed + 2)
    draw = partial(sample_pictures, net.model, net.info, seed=seed, sampling=sampling,
                   guidance=Guidance(net.guidance_model))
    made, wrong = draw(vectors), draw(vectors[others_in_run(run, seed)])
    show = np.flatnonzero(run == run.max())
    rows = {"category seen": seen, "from the brain": made, "shuffled brain": wrong}
    return {"category": blocks.category, "run": run, "seen": seen, "reconstruction": made,
            "shuffled": wrong, "figure": {k: v[show] for k, v in rows.items()}}
