"""How much of a real brain, Haxby's subject, is in the pictures that its patterns drove."""

import numpy as np

from recon_lib.brain.features import read_factors
from recon_lib.brain.patterns import similarity
from recon_lib.decoding.haxby import scenes_of
from recon_lib.scores.identification import two_way, two_way_within
from recon_lib.scores.report import INDEPENDENT, evaluation_space


def score_blocks(result: dict, classifiers: dict, seed: int = 0, permutations: int = 1000) -> dict:
    """Score the pictures of Haxby's blocks: the category read, and identification within it.

    Parameters
    ----------
    result : dict
        See `drive`.
    classifiers : dict
        See `report.load_classifiers`.
    seed, permutations : int

    Returns
    -------
    dict
        `scores`: share of reconstructions in which the evaluation classifier reads the right one of
        the eight categories, for the brain and for shuffled patterns, with a permutation p-value,
        and what the independent classifier reads; and identification of the scene shown for a
        block, among all and within its category; the latter also for twenty other sets of scenes
        that might as well have been shown.
    """
    category, eight = result["category"], np.unique(result["category"])

    def log_p(pictures, suffix=""):  # (blocks, 8)
        return np.log(read_factors(classifiers[suffix], pictures)["category"][:, eight] + 1e-9)

    def accuracy(matrix, target):
        return float((matrix.argmax(1) == target).mean())

    target, brain = np.searchsorted(eight, category), log_p(result["reconstruction"])
    rng = np.random.default_rng(seed)
    observed = accuracy(brain, target)
    null = [accuracy(brain, rng.permutation(target)) for _ in range(permutations)]
    features = evaluation_space(result["seen"], classifiers[""])
    made = features(result["reconstruction"])
    alike = similarity(made, features(result["seen"]))
    own = np.arange(len(category))
    others = [two_way_within(similarity(made, features(scenes_of(category, seed + 100 + i))), own,
                             category) for i in range(20)]
    scores = {
        "category read": observed,
        "category read, shuffled brain": accuracy(log_p(result["shuffled"]), target),
        "category read by the independent classifier": accuracy(
            log_p(result["reconstruction"], INDEPENDENT), target),
        "category read, chance": 1 / len(eight),
        "category read, p-value": (1 + sum(n >= observed for n in null)) / (1 + permutations),
        "two-way": two_way(alike, own),
        "two-way within category": two_way_within(alike, own, category),
        "two-way within category, other scenes": float(np.mean(others)),
    }
    return {"scores": scores, "info": {"blocks": len(category), "runs": 12, "seed": seed}}
