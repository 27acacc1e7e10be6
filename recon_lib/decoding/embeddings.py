"""Betas decoded to embeddings alone: for data whose pictures may not be had.

LAION-fMRI, for one, gives betas and what CLIP and DINOv2 make of the pictures, but the pictures
only to those who sign for them. Which picture was seen can be asked without any.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recon_lib.bold.betas import average_repeats, zscore
from recon_lib.brain.decoder import fit_decoder
from recon_lib.brain.latents import fit_basis
from recon_lib.brain.patterns import similarity
from recon_lib.common.errors import DataError, check, one_label_each
from recon_lib.data.splits import folds as make_folds
from recon_lib.data.splits import refuse_divided
from recon_lib.decoding.baselines import shuffled_brain

COMPONENTS = 128  # of the embeddings, at most


@dataclass
class Decoded:
    """How well each candidate of a fold explains each of its trials.

    Attributes
    ----------
    target : (n,) int array
        Which of the candidates was seen.
    picture : (m,) int array
        The candidates: pictures of which no trial was in training.
    rankings : dict of str to (n, m) array
        ``likelihood`` of the decoded embedding; its ``correlation`` with each candidate's; the
        likelihood given the betas of another picture, ``shuffled_brain``, and with the voxels in
        another order, ``permuted_voxels``.
    """

    target: np.ndarray
    picture: np.ndarray
    rankings: dict


def decode_embeddings(betas: Any, features: Any, trial_image: Any, groups: Any = None,
                      folds: int | None = None, seed: int = 0,
                      say: Callable = print) -> dict[str, list[Decoded]]:
    """Rank held-out pictures by their embeddings, cross-validated.

    In each fold principal components of the training pictures' embeddings, and a `BrainDecoder` to
    them, are fitted to training trials.

    Parameters
    ----------
    betas : (trials, voxels) array
        Z-scored within session, if the scanner's sessions differ.
    features : (pictures, d) array
        Such as CLIP's embedding of each picture.
    trial_image : (trials,) int array
        Row of `features` of the picture of each trial.
    groups : (trials,) array, optional
        What is held out together; default: the picture.
    folds : int, optional
        Default: ten, or fewer where there are fewer than twenty groups.
    seed : int
    say : function

    Returns
    -------
    dict of str to list of Decoded
        One for each fold: of "single_trial", and of "averaged", the mean over a picture's trials.

    Raises
    ------
    DataError
        If the arrays do not fit, or a fold holds out fewer than two pictures.
    """
    image = one_label_each(trial_image)
    betas = check(betas, (len(image), "voxels"), what="the array of betas").astype(np.float32)
    features = check(features, ("pictures", "d"), what="the features").astype(np.float32)
    if image.dtype.kind not in "iu" or image.min() < 0 or image.max() >= len(features):
        raise DataError(f"trial_image does not hold rows of {len(features)} features; expected "
                        "whole numbers from 0")
    groups = image if groups is None else one_label_each(groups)
    refuse_divided(groups, image)
    folds = folds or max(2, min(10, len(np.unique(groups)) // 2))
    splits = make_folds(groups, folds, seed)
    out: dict = {"single_trial": [], "averaged": []}
    for number, (train, test) in enumerate(splits):
        say(f"fold {number + 1} of {len(splits)}: {len(train)} training, {len(test)} test trials")
        known, held = zscore(betas[train], betas[test])
        basis = fit_basis(features[np.unique(image[train])], COMPONENTS)
        decoder = fit_decoder(known, basis.transform(features[image[train]]), image[train], seed)
        mean, picture, counts = average_repeats(held, image[test])
        if len(picture) < 2:
            raise DataError(f"fold {number + 1} holds out 1 picture; expected 2 or more, to tell "
                            "them apart: ask for fewer folds")
        candidates = basis.transform(features[picture])
        target = np.searchsorted(picture, image[test])
        for name, *trials in (("single_trial", held, 1, target),
                              ("averaged", mean, counts, np.arange(len(picture)))):
            out[name].append(Decoded(trials[-1], picture,
                                     rank(decoder, basis, candidates, trials, seed)))
    return out


def rank(decoder, basis, candidates, trials, seed):
    """The rankings of `Decoded`, of trials (betas, repeats, target)."""
    betas, repeats, target = trials
    vectors, wrong = decoder.vector(betas, repeats), shuffled_brain(target, seed)
    order = np.random.default_rng(seed).permutation(betas.shape[1])
    back = np.linalg.pinv(basis.axes)  # from components to embeddings, without their mean
    return {
        "likelihood": decoder.log_likelihood(vectors, candidates),
        "correlation": similarity(vectors[:, :-1] @ back, candidates @ back),
        "shuffled_brain": decoder.log_likelihood(vectors[wrong], candidates),
        "permuted_voxels": decoder.log_likelihood(decoder.vector(betas[:, order], repeats),
                                                  candidates),
    }
