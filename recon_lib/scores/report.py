"""All scores as one table: a row for each decoder that draws or ranks, and rows of constants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from recon_lib.bold.betas import noise_ceiling
from recon_lib.brain.features import FactorNet, embed, load_factor_net, read_factors
from recon_lib.brain.latents import coarse_pixels
from recon_lib.brain.patterns import similarity
from recon_lib.common.errors import DataError
from recon_lib.data.release import Experiment
from recon_lib.scores.hog_net import load_independent_classifier
from recon_lib.scores.identification import (
    bootstrap_interval,
    permutation_p,
    top_k_hits,
    two_way,
    two_way_within,
)
from recon_lib.scores.metrics import nearest_training_distance, pixel_correlation, ssim

READ = {"object": "category", "background": "background", "light": "light"}  # what classifiers name
INDEPENDENT = "_independent"  # ends the name of what the independent classifier reads
METRICS = ("top1", "top1_low", "top1_high", "two_way", "p_value", "two_way_within_category",
           "p_within_category", "two_way_within_scene", "pixcorr", "ssim", *READ,
           *(name + INDEPENDENT for name in READ), "nearest_train", "variance")


@dataclass
class Criteria:
    """What every decoder is held against.

    Attributes
    ----------
    truth : (candidates, H, W, C) uint8 array
        The test pictures.
    target : (trials,) int array
        Which of them was seen.
    features : function images -> (n, d)
        The space of the similarity. Fix it in advance.
    category : (candidates,) array or None
        Adds identification within it.
    factors : (candidates,) structured array or None
        What the test pictures were drawn from: adds what `factors_read` returns, and
        ``two_way_within_scene``, two-way where the wrong candidate has the same background.
    classifiers : dict
        See `load_classifiers`; needed with factors.
    train_pictures : (m, H, W, C) uint8 array or None
        Adds ``nearest_train``, the mean distance to the nearest of them.
    """

    truth: np.ndarray
    target: np.ndarray
    features: Callable
    category: np.ndarray | None = None
    factors: np.ndarray | None = None
    classifiers: dict | None = None
    train_pictures: np.ndarray | None = None

    def __post_init__(self):
        self.truth, self.target = np.asarray(self.truth), np.asarray(self.target)
        self.known = self.features(self.truth)  # (candidates, d)
        if self.factors is not None and self.classifiers is None:
            raise DataError("found factors and no classifiers; give those of `load_classifiers`")


def load_classifiers():
    """The shipped classifiers, under the suffix of what each reads: "" and `INDEPENDENT`.

    The evaluation classifier, see `features`, and the independent classifier, see `hog_net`, whose
    architecture differs from the feature encoder's. Neither is used when pictures are drawn.
    """
    evaluation = load_factor_net("evaluation_classifier")
    return {"": evaluation, INDEPENDENT: load_independent_classifier()}


def evaluation_space(train_pictures: np.ndarray, classifier: FactorNet) -> Callable:
    """The space in which pictures are compared: what the classifier sees, and the coarse pixels.

    Every dimension is standardised on the training pictures; both parts weigh the same.

    Parameters
    ----------
    train_pictures : (m, H, W, C) uint8 array
    classifier : FactorNet

    Returns
    -------
    function images (n, H, W, C) -> features (n, d)
    """
    def raw(images):
        return [np.tanh(embed(classifier, images)), coarse_pixels(images)]

    scales = [(part.mean(0), part.std(0) + 1e-3) for part in raw(train_pictures)]

    def features(images):
        return np.concatenate(
            [(part - mean) / spread / part.shape[1] ** 0.5
             for part, (mean, spread) in zip(raw(images), scales, strict=True)], axis=1)

    return features


def factors_read(pictures, factors, classifiers):
    """Share of pictures in which the object, background and light that were seen can be read.

    `factors` (n,) are `scenes.FACTORS`. ``object``, ``background`` and ``light`` are by the
    evaluation classifier, ``object_independent``, … by the independent one, see `load_classifiers`.
    """
    scores = {}
    for suffix, classifier in classifiers.items():
        read = read_factors(classifier, np.asarray(pictures))
        scores |= {name + suffix: float((read[key].argmax(1) == factors[key]).mean())
                   for name, key in READ.items()}
    return scores


def score_ranking(similarity, target, category=None, permutations=1000, seed=0):
    """Identification scores of one similarity matrix, as a dict.

    ``top1``, the ends ``top1_low`` and ``top1_high`` of its 95 % interval, ``two_way`` and
    ``p_value``, its permutation p-value. When `category` gives some trial a rival, also
    ``two_way_within_category``, and ``p_within_category`` by permuting within categories: is there
    information beyond the category?
    """
    hits = top_k_hits(similarity, target)
    low, high = bootstrap_interval(hits, target, seed=seed)
    scores = {"top1": float(hits.mean()), "top1_low": low, "top1_high": high,
              "two_way": two_way(similarity, target)}
    scores["p_value"] = permutation_p(similarity, target, two_way, permutations, seed)
    within = np.nan if category is None else two_way_within(similarity, target, category)
    if np.isfinite(within):
        scores["two_way_within_category"] = within
        scores["p_within_category"] = permutation_p(
            similarity, target, partial(two_way_within, category=category), permutations, seed,
            within=category)
    return scores


def row_of_ranking(matrix, criteria, permutations=1000, seed=0):
    """The row of a decoder that ranks the candidates: an encoding model, the ideal observer."""
    row = score_ranking(matrix, criteria.target, criteria.category, permutations, seed)
    if criteria.factors is not None:
        row["two_way_within_scene"] = two_way_within(
            matrix, criteria.target, criteria.factors["background"])
    return {metric: value for metric, value in row.items() if np.isfinite(value)}


def row_of_pictures(pictures, criteria, permutations=1000, seed=0):
    """The row of a decoder that draws one picture for each trial. Never the best of several."""
    seen = criteria.truth[criteria.target]
    matrix = similarity(criteria.features(np.asarray(pictures)), criteria.known)
    row = row_of_ranking(matrix, criteria, permutations, seed)
    row["pixcorr"] = float(pixel_correlation(pictures, seen).mean())
    if min(seen.shape[1:3]) >= 11:
        row["ssim"] = float(ssim(pictures, seen).mean())
    return row | row_without_rivals(pictures, criteria)


def row_without_rivals(pictures, criteria):
    """What can be said of pictures alone: what is read from them, and how near a copy they are."""
    row = {}
    if criteria.factors is not None:
        row |= factors_read(pictures, criteria.factors[criteria.target], criteria.classifiers)
    if criteria.train_pictures is not None:
        nearest = nearest_training_distance(pictures, criteria.train_pictures)
        row["nearest_train"] = float(nearest.distance.mean())
    return row


def chance_row(criteria, metrics):
    """What a decoder that knows nothing scores, for those of `metrics` where that is known."""
    row = {"top1": 1 / len(criteria.truth), "two_way": 0.5}
    row |= {name: 0.5 for name in ("two_way_within_category", "two_way_within_scene")
            if name in metrics}
    if criteria.factors is not None:  # always naming the most common one
        seen = criteria.factors[criteria.target]
        row |= {name + suffix: float(np.bincount(seen[key]).max() / len(seen))
                for name, key in READ.items() for suffix in criteria.classifiers}
    return row


def score_table(pictures: dict[str, np.ndarray], criteria: Criteria,
                rankings: dict[str, np.ndarray] | None = None, ceiling: float | None = None,
                permutations: int = 1000, seed: int = 0) -> dict[str, dict]:
    """Score every decoder on the same trials and candidates: the reporting checklist as one table.

    Parameters
    ----------
    pictures : dict of str to uint8 array (trials, H, W, C)
        Decoders that draw.
    criteria : Criteria
    rankings : dict of str to array (trials, candidates), optional
        Decoders that rank.
    ceiling : float, optional
        Share of the betas' variance that the best model could explain, see `betas.noise_ceiling`.
    permutations, seed : int
        Of the p-values.

    Returns
    -------
    dict of dict
        ``{decoder: {metric: float}}`` with the metrics of `METRICS` that have a meaning for it;
        and rows of constants: ``"truth"``, the test pictures themselves scored alike;
        ``"chance"``; ``"noise_ceiling"``, if given.
    """
    for name, drawn in pictures.items():
        if len(drawn) != len(criteria.target):
            raise DataError(f"found {len(drawn)} pictures by {name} for {len(criteria.target)} "
                            "trials: give one for each trial")
    table = {name: row_of_pictures(drawn, criteria, permutations, seed)
             for name, drawn in pictures.items()}
    table |= {name: row_of_ranking(matrix, criteria, permutations, seed)
              for name, matrix in (rankings or {}).items()}
    constants = {"truth": row_without_rivals(criteria.truth[criteria.target], criteria),
                 "chance": chance_row(criteria, set().union(*table.values()))}
    if ceiling is not None:
        constants["noise_ceiling"] = {"variance": float(ceiling)}
    return table | {name: row for name, row in constants.items() if row}


def format_report(table: dict, metrics: Sequence[str] = METRICS):
    """The table of `score_table` as lines of text, a decoder a row, for some or all of its metrics.

    Two numbers in a cell are what the evaluation and the independent classifier read; top-1 comes
    with its 95 % interval.
    """
    frame = pd.DataFrame.from_dict(table, orient="index").reindex(table)
    cells = {}
    for m in metrics:
        if m in frame and not m.endswith((INDEPENDENT, "_low", "_high")):
            both = [frame[name].map("{:.3f}".format, na_action="ignore")
                    for name in (m, m + INDEPENDENT) if name in frame]
            head = m.replace("_category", "").replace("two_way_within", "within")
            cells[head] = both[0] if len(both) == 1 else both[0] + " / " + both[1]
            if m + "_low" in frame:
                ends = [frame[m + end].map("{:.3f}".format, na_action="ignore")
                        for end in ("_low", "_high")]
                cells[head] += (" (" + ends[0] + " to " + ends[1] + ")").fillna("")
    return pd.DataFrame(cells).fillna("–").to_string()


def score(experiment: Experiment, results: dict, classifiers: dict, permutations: int = 1000,
          seed: int = 0, criteria: list | None = None) -> dict:
    """Score what `reconstruct.reconstruct_experiment` returned.

    Parameters
    ----------
    experiment : Experiment
    results : dict
    classifiers : dict
        See `load_classifiers`; pictures are compared in the space of the first.
    permutations, seed : int
    criteria : list of Criteria, optional
        What `criteria_of` makes of these, where it is there already.

    Returns
    -------
    dict
        {"single_trial": {decoder: {metric: number}}, "averaged": {…}}.
    """
    x, tables = experiment, {}
    shown = np.bincount(x.target).mean()  # trials of a test picture
    criteria = criteria or criteria_of(x, results, classifiers)
    for (name, part), criterion in zip(results.items(), criteria, strict=True):
        pictures = {k: v for k, v in part["pictures"].items() if "_seed_" not in k}
        repeats = shown if name == "averaged" else 1
        ceiling = noise_ceiling(x.betas[x.test], x.target, repeats).mean() / 100
        tables[name] = score_table(
            pictures, criterion, part["rankings"], ceiling, permutations, seed)
    return tables


def criteria_of(experiment, results, classifiers, features=None):
    """The `Criteria` of each part of what `reconstruct_experiment` returned.

    `features`: the `evaluation_space`, where it is there already.
    """
    x = experiment
    features = features or evaluation_space(x.train_pictures, classifiers[""])
    factors = None if x.factors is None else x.factors[x.test_index]
    category = None if factors is None else factors["category"]
    return [Criteria(x.images[x.test_index], part["target"], features, category, factors,
                     classifiers, x.train_pictures) for part in results.values()]


def named_right(pictures, criteria):
    """Top-1 of each trial (trials,): is its picture most similar to the one that was seen?"""
    likeness = similarity(criteria.features(np.asarray(pictures)), criteria.known)
    return top_k_hits(likeness, criteria.target)


def how_sure(results, criteria):
    """Is the posterior right as often as it says? For each part and each factor that it names.

    {"single_trial": {"category": numbers, …}, "averaged": {…}}; the numbers are ``said``, the mean
    probability of the likeliest class, and ``right``, how often it was that one; ``share_sure``,
    the share of trials where it is .9 or more, and ``right_sure`` of these.
    """
    table = {}
    for (name, part), criterion in zip(results.items(), criteria, strict=True):
        for factor in READ.values():
            share = part.get("posterior", {}).get(factor)
            if share is not None and criterion.factors is not None:
                right = share.argmax(1) == criterion.factors[factor][criterion.target]
                said, sure = share.max(1), share.max(1) >= 0.9
                numbers = {"said": said.mean(), "right": right.mean(), "share_sure": sure.mean()}
                numbers |= {"right_sure": right[sure].mean()} if sure.any() else {}
                table.setdefault(name, {})[factor] = {k: float(v) for k, v in numbers.items()}
    return table


def paired_differences(results, criteria, seed=0, one="diffusion", other="map_retrieval"):
    """Top-1 of one decoder minus that of another on the same trials, with 95 % intervals.

    {"single_trial": {"top1", "top1_low", "top1_high"}, "averaged": {…}}, of parts where both drew.
    """
    found = {}
    for (name, part), criterion in zip(results.items(), criteria, strict=True):
        if {one, other} <= set(part["pictures"]):
            hits = [named_right(part["pictures"][key], criterion) for key in (one, other)]
            low, high = bootstrap_interval(hits[0] - hits[1], criterion.target, seed=seed)
            found[name] = {"top1": float((hits[0] - hits[1]).mean()), "top1_low": low,
                           "top1_high": high}
    return found


def score_cross_validated(arrays: dict, permutations: int = 1000, seed: int = 0) -> dict:
    """Score cross-validated reconstructions: every trial among all pictures shown.

    Pictures are compared by the correlation of their pixels at 16 x 16.

    Parameters
    ----------
    arrays : dict
        `truth` (pictures), `trial_image` (trials,) and the pictures of each decoder.

    Returns
    -------
    dict
        {"single_trial": {decoder: {metric: number}}, "info": {…}}.
    """
    shown, target = np.unique(arrays["trial_image"], return_inverse=True)
    decoders = {k: v for k, v in arrays.items() if k not in ("truth", "trial_image", "fold")}
    criteria = Criteria(arrays["truth"][shown], target, coarse_pixels)
    table = score_table(decoders, criteria, permutations=permutations, seed=seed)
    info = {"trials": len(target), "pictures": len(shown), "permutations": permutations,
            "folds": int(arrays["fold"].max()) + 1}
    return {"single_trial": table, "info": info}
