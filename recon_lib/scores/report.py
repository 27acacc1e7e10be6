"""report."""

from functools import partial

import numpy as np

from recon_lib.bold.betas import noise_ceiling
from recon_lib.brain.features import embed, load_factor_net, read_factors
from recon_lib.brain.latents import coarse_pixels
from recon_lib.brain.patterns import similarity
from recon_lib.common.errors import DataError
from recon_lib.scores.hog_net import load_referee
from recon_lib.scores.identification import permutation_p, top_k, two_way, two_way_within
from recon_lib.scores.metrics import nearest_training_distance, pixel_correlation, ssim


def score_own(arrays, permutations=1000, seed=0):
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
    table = report(decoders, arrays["truth"][shown], target, coarse_pixels,
                   permutations=permutations, seed=seed)
    info = {"trials": len(target), "pictures": len(shown), "permutations": permutations,
            "folds": int(arrays["fold"].max()) + 1}
    return {"single_trial": table, "info": info}


def judge_space(train_images):
    """The space in which pictures are compared: what the judge sees, and the coarse pixels.

    Every dimension is standardised on the training pictures; things and pixels weigh the same.

    Returns
    -------
    function images (n, H, W, C) -> features (n, d)
    """
    judge = load_factor_net("judge")

    def raw(images):
        return [np.tanh(embed(judge, images)), coarse_pixels(images)]

    scales = [(part.mean(0), part.std(0) + 1e-3) for part in raw(train_images)]

    def features(images):
        return np.concatenate(
            [(part - mean) / spread / part.shape[1] ** 0.5
             for part, (mean, spread) in zip(raw(images), scales, strict=True)], axis=1
        )

    return features


def score(experiment, results, permutations=1000, seed=0):
    """Score what `reconstruct` returned.

    Returns
    -------
    dict
        {"single_trial": {decoder: {metric: number}}, "averaged": {…}}.
    """
    x = experiment
    features = judge_space(x.train_pictures)
    truth = x.images[x.test_index]
    factors = None if x.factors is None else x.factors[x.test_index]
    category = None if factors is None else factors["kind"]
    shown = np.bincount(x.target).mean()  # trials of a test picture
    tables = {}
    for name, part in results.items():
        pictures = {k: v for k, v in part["pictures"].items() if "_seed_" not in k}
        repeats = shown if name == "averaged" else 1
        ceiling = noise_ceiling(x.betas[x.test], x.target, repeats).mean() / 100
        tables[name] = report(pictures, truth, part["target"], features, category,
                              part["rankings"], permutations, seed, factors, x.train_pictures,
                              ceiling)
    return tables


READ = {"object": "kind", "background": "background", "light": "light"}  # what the readers name


SECOND = "_referee"  # ends the name of what the referee reads; without it, the judge


METRICS = ("top1", "two_way", "p_value", "two_way_within_category", "p_within_category",
           "two_way_within_scene", "pixcorr", "ssim", *READ, *(name + SECOND for name in READ),
           "nearest_train", "variance")


def score_ranking(similarity, target, category=None, permutations=1000, seed=0):
    """Identification scores of one similarity matrix.

    Returns
    -------
    dict
        ``top1``, ``two_way`` and ``p_value``, its permutation p-value. When `category` gives some
        trial a rival, also ``two_way_within_category``, and ``p_within_category`` by permuting
        within categories: is there information beyond the category?
    """
    scores = {"top1": top_k(similarity, target), "two_way": two_way(similarity, target)}
    scores["p_value"] = permutation_p(similarity, target, two_way, permutations, seed)
    within = np.nan if category is None else two_way_within(similarity, target, category)
    if np.isfinite(within):
        scores["two_way_within_category"] = within
        scores["p_within_category"] = permutation_p(
            similarity, target, partial(two_way_within, category=category), permutations, seed,
            within=category,
        )
    return scores


def factors_read(pictures, factors):
    """Share of pictures in which the object, background and light that were seen can be read.

    By two readers that had no part in making any picture: the judge, see `features`, and the
    `referee`, who is no relative of the eye that steers.

    Parameters
    ----------
    pictures : uint8 array (n, H, W, C)
    factors : structured array (n,)
        What was seen, see `scenes.FACTORS`.

    Returns
    -------
    dict of str to float
        ``object``, ``background``, ``light`` by the judge; ``object_referee``, … by the referee.
    """
    scores = {}
    for reader, suffix in ((load_factor_net("judge"), ""), (load_referee(), SECOND)):
        read = read_factors(reader, np.asarray(pictures))
        scores |= {name + suffix: float((read[key].argmax(1) == factors[key]).mean())
                   for name, key in READ.items()}
    return scores


def report(reconstructions, truth, target, features, category=None, rankings=None,
           permutations=1000, seed=0, factors=None, train_images=None, noise_ceiling=None):
    """Score every decoder on the same trials and candidates: the reporting checklist as one table.

    Parameters
    ----------
    reconstructions : dict of str to uint8 array (trials, H, W, C)
        One picture for each trial and decoder. Never the best of several.
    truth : uint8 array (candidates, H, W, C)
        The test images.
    target : array_like (trials,) of int
        Which of them was seen.
    features : callable
        ``features(images) -> (n, d)``: the space of the similarity. Fix it in advance.
    category : array_like (candidates,), optional
    rankings : dict of str to array (trials, candidates), optional
        Decoders that rank the candidates and draw nothing: an encoding model, the ideal observer.
    factors : structured array (candidates,), optional
        What the test images were drawn from: adds what `factors_read` returns, and
        ``two_way_within_scene``, two-way where the wrong candidate has the same background.
    train_images : uint8 array (m, H, W, C), optional
        Adds ``nearest_train``, the mean distance to the nearest of them.
    noise_ceiling : float, optional
        Share of the betas' variance that the best model could explain, see `betas.noise_ceiling`.

    Returns
    -------
    dict of dict
        ``{decoder: {metric: float}}`` with the metrics of `METRICS` that have a meaning for it;
        ``"chance"``; where there are factors or training images ``"truth"``, the test images
        themselves under the same yardsticks; and ``"noise_ceiling"``, if given.
    """
    truth, target = np.asarray(truth), np.asarray(target)
    known = features(truth)
    seen = None if factors is None else factors[target]
    table = {}

    def named(matrix):
        row = score_ranking(matrix, target, category, permutations, seed)
        if factors is not None:
            row["two_way_within_scene"] = two_way_within(matrix, target, factors["background"])
        return {metric: value for metric, value in row.items() if np.isfinite(value)}

    for name, pictures in reconstructions.items():
        if len(pictures) != len(target):
            raise DataError(f"found {len(pictures)} pictures by {name} for {len(target)} trials: "
                            "give one for each trial")
        matrix = similarity(features(np.asarray(pictures)), known)
        table[name] = named(matrix)
        table[name]["pixcorr"] = float(pixel_correlation(pictures, truth[target]).mean())
        if min(truth.shape[1:3]) >= 11:
            table[name]["ssim"] = float(ssim(pictures, truth[target]).mean())
        table[name] |= _beyond_identification(pictures, seen, train_images)
    for name, matrix in (rankings or {}).items():
        table[name] = named(matrix)
    itself = _beyond_identification(truth[target], seen, train_images)
    if itself:
        table["truth"] = itself
    table["chance"] = {"top1": 1 / len(truth), "two_way": 0.5}
    for within in ("two_way_within_category", "two_way_within_scene"):
        if any(within in row for row in table.values()):
            table["chance"][within] = 0.5
    if seen is not None:  # always naming the most common one
        table["chance"] |= {name + suffix: float(np.bincount(seen[key]).max() / len(seen))
                            for name, key in READ.items() for suffix in ("", SECOND)}
    if noise_ceiling is not None:
        table["noise_ceiling"] = {"variance": float(noise_ceiling)}
    return table


def _beyond_identification(pictures, seen, train_images):
    scores = {} if seen is None else factors_read(pictures, seen)
    if train_images is not None:
        scores["nearest_train"] = float(nearest_training_distance(pictures, train_images)[0].mean())
    return scores


def format_report(table, metrics=METRICS):
    """The table of `report` as lines of text, one decoder a row, for some of its metrics or all.

    Two numbers in a cell are what the judge and what the referee read.
    """
    metrics = [m for m in metrics
               if not m.endswith(SECOND) and any(m in row for row in table.values())]
    heads = [m.replace("_category", "").replace("two_way_within", "within") for m in metrics]
    width = max(map(len, table)) + 2
    room = [max(len(head) + 2, 15 if any(m + SECOND in row for row in table.values()) else 9)
            for m, head in zip(metrics, heads, strict=True)]
    lines = ["".ljust(width) + "".join(map(str.rjust, heads, room))]
    for name, row in table.items():
        cells = (" / ".join(f"{row[k]:.3f}" for k in (m, m + SECOND) if k in row) or "–"
                 for m in metrics)
        lines.append(name.ljust(width) + "".join(map(str.rjust, cells, room)))
    return "\n".join(lines)
