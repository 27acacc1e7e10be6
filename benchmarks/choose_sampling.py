"""Choose how to sample: scores of settings on training trials, and on scenes kept for this alone.

    python benchmarks/choose_sampling.py data/experiment      # an hour or so

`sampling.SAMPLING` and `sampling.AUTOGUIDANCE` were chosen so; data/checkpoints/README.md has the
tables. No test trial is touched.
"""

import sys
from dataclasses import replace

import numpy as np
import torch

from recon_lib.brain.features import load_factor_net
from recon_lib.brain.patterns import similarity
from recon_lib.common.errors import DataError
from recon_lib.data.release import load_experiment
from recon_lib.decoding.retrieval_prior import brain_guidance, prior_rows
from recon_lib.decoding.sampling import AUTOGUIDANCE, MODEL, SAMPLING, Guidance, sample_pictures
from recon_lib.recipes import with_decoder
from recon_lib.scores.identification import top_k
from recon_lib.scores.quality import quality_scores
from recon_lib.scores.report import evaluation_space, factors_read, load_classifiers
from recon_lib.training.checkpoints import load_model
from recon_lib.world import scenes

CHOICE_SEED = 997  # of scenes that no training sees, to choose with


def choose_sampling(experiment, model_path, settings, n=226, repeats=1, seed=0):
    """How well pictures of training trials are named and read, for some ways of sampling.

    The brain vectors are out-of-fold predictions, as noisy as those of test trials; the candidates
    are the pictures of `n` training trials. No test trial is touched.

    Parameters
    ----------
    experiment : Experiment
        Of TinyScenes.
    model_path : path
    settings : sequence of sampling.Sampling
    n : int
        Number of trials, each of another picture; fewer where there are fewer.
    repeats : int
        More than 1: vectors as averages of so many trials would give them. Training pictures are
        shown once, so these are simulated from the decoder's own errors.
    seed : int

    Returns
    -------
    list of dict
        For each setting ``top1``, the share named right among `n`, and what the two readers see,
        see `report.factors_read`.
    """
    x, train = experiment, ~experiment.test
    net, decoder = with_decoder(model_path, x, seed)
    latent = net.latent
    if x.factors is None or latent.prior is None:
        raise DataError("found pictures without factors, or a model without a prior; use "
                        "TinyScenes and a model that `train conditional` made")
    order = np.random.default_rng(seed).permutation(int(train.sum()))
    _, first = np.unique(x.image[train][order], return_index=True)
    some = order[np.sort(first)[:n]]
    n = len(some)
    seen, factors = x.train_pictures[some], x.factors[x.image[train][some]]
    vectors = np.column_stack([decoder.ridge.out_of_fold[some], np.ones(n)]).astype(np.float32)
    if repeats > 1:
        vectors = decoder.simulate(
            torch.from_numpy(latent.transform(seen)), torch.full((n,), repeats),
            torch.Generator().manual_seed(int(seed)),
        ).numpy()
    classifiers = load_classifiers()
    features = evaluation_space(x.train_pictures, classifiers[""])
    shown = prior_rows(latent.prior, latent.transform(x.train_pictures))
    unseen = np.delete(latent.prior, shown[shown >= 0], axis=0)  # what was seen is forgotten
    guidance = brain_guidance(decoder, replace(latent, prior=unseen), net.guidance_model)
    known, rows = features(seen), []
    for setting in settings:
        pictures = sample_pictures(net.model, net.info, vectors, seed, setting, guidance)
        named = top_k(similarity(features(pictures), known), np.arange(n))
        rows.append({"top1": named, **factors_read(pictures, factors, classifiers)})
    return rows


def choose_guidance(settings, path="unconditional", other="guidance", n=500, seed=1, device="cpu"):
    """Scores of samples away from a guidance model, for some scales and intervals.

    Held against scenes that are there for this choice alone (`CHOICE_SEED`).

    Parameters
    ----------
    settings : sequence of sampling.Sampling
    path, other : path, or the name of a shipped model
    n : int
        Samples for each setting, and scenes to compare with.
    seed, device
        Of the samples.

    Returns
    -------
    list of dict
        For each setting the scores of `quality.quality_scores`.
    """
    (model, info), other = load_model(path, device), load_model(other, device)
    real = scenes.draw(scenes.sample_factors(n, CHOICE_SEED), info["image_size"])
    classifier = load_factor_net("evaluation_classifier")
    return [quality_scores(sample_pictures(model, info, n, seed, setting, Guidance(other)), real,
                    classifier) for setting in settings]


if __name__ == "__main__":
    x = load_experiment(sys.argv[1])
    scales = [replace(SAMPLING, scale=scale) for scale in (2.0, 3.0, 4.0)]
    for repeats in (1, 4):
        for setting, row in zip(scales, choose_sampling(x, MODEL, scales, repeats=repeats),
                                strict=True):
            print(f"{repeats} trials, scale {setting.scale}: {row}", flush=True)
    scales = [replace(AUTOGUIDANCE, scale=scale) for scale in (1.0, 2.0, 3.0, 4.0)]
    for setting, row in zip(scales, choose_guidance(scales), strict=True):
        print(f"away from the guidance model, scale {setting.scale}: {row}", flush=True)
