"""The retrieval prior: which of all the pictures that training showed explains a brain vector best?

In Bayes' terms the training pictures are an empirical prior, and the likeliest of them is its
maximum a posteriori (MAP) picture (cf. Nishimoto et al. 2011, doi:10.1016/j.cub.2011.08.031).
A network that hesitates between two categories draws a bit of both; a retrieved picture is whole,
but it is never the one that was seen. So the MAP picture is counted as so many further trials
(pseudo-trials): the brain vector moves towards what that picture would evoke, and its noise is said
to be lower. The network, trained on vectors of many levels of noise, then draws with more decision.
What was really measured still steers the sampler and chooses among its pictures, see `guidance`. So
the vector is used more than once, and the pictures are surer than it allows.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree

from recon_lib.brain.decoder import BrainDecoder, brain_log_likelihood
from recon_lib.brain.latents import ImageLatent
from recon_lib.brain.patterns import similarity
from recon_lib.common.errors import DataError
from recon_lib.data.release import Experiment, unique_pictures
from recon_lib.data.splits import refuse_leak
from recon_lib.decoding.sampling import Guidance
from recon_lib.world import scenes

EXTRA, EXTRA_SEED = 45_000, 1  # pictures without a brain
# By how much log-likelihoods are divided where the picture that was seen is in no collection, so
# that none there fits as well as it would; 1 and 2 were tried, see benchmarks/photographs.py.
MILDER = 2.0
SAME = 0.05  # no number of two latents of one picture differs by more, in half precision


def several(experiment):
    """A list of subjects, for one or for several of them."""
    return [experiment] if isinstance(experiment, Experiment) else list(experiment)


def training_pictures(experiment: Any, extra: int | None = None,
                      rows: np.ndarray | None = None) -> np.ndarray:
    """The pictures of the training trials, and scenes that no brain has seen.

    Parameters
    ----------
    experiment : Experiment, or sequence of Experiment
    extra : int, optional
        TinyScenes to add, none of them of a category that is held out; default: those among the
        first `EXTRA` for TinyScenes, none for pictures of another kind.
    rows : (m,) int array, optional
        Only these of them, in this order.

    Returns
    -------
    (n, size, size, 3) uint8 array

    Raises
    ------
    DataError
        If a test picture is among them.
    """
    subjects = several(experiment)
    if extra is None:
        extra = 0 if subjects[0].factors is None else EXTRA
    own, more = unique_pictures(subjects), scenes.sample_factors(max(extra, EXTRA), EXTRA_SEED)
    held = np.isin(scenes.CATEGORIES, [name for x in subjects for name in x.held])
    more = more[:extra][~held[more[:extra]["category"]]]
    rows = np.arange(len(own) + len(more)) if rows is None else np.asarray(rows)
    pictures = np.empty((len(rows), *own.shape[1:]), np.uint8)
    mine = rows < len(own)
    pictures[mine] = own[rows[mine]]
    if not mine.all():
        pictures[~mine] = scenes.draw(more[rows[~mine] - len(own)], own.shape[1])
    for x in subjects:
        refuse_leak(pictures, x.images[x.test_index])
    return pictures


def prior_rows(prior, latents):
    """Which picture of a retrieval prior (m, d) is each picture (n, d): (n,) int, -1 for none."""
    distance, index = KDTree(prior).query(latents, p=np.inf, distance_upper_bound=SAME)
    return np.where(np.isfinite(distance), index, -1)


def refuse_trained_on(latent, images):
    """Stop if a model was trained on one of these pictures, which it is to be tested on."""
    known = [] if latent.prior is None else prior_rows(latent.prior, latent.transform(images)) >= 0
    if np.any(known):
        raise DataError(
            f"the model was trained on {np.sum(known)} of the {len(images)} test pictures; test it "
            "on others, or train one without them")


def check_prior(prior, width):
    """Stop unless there is a retrieval prior of so many numbers a picture."""
    if prior is None or not len(prior) or prior.shape[1:] != (width,):
        raise DataError(
            f"found a retrieval prior of shape {np.shape(prior)} for brain vectors of {width} "
            f"numbers; expected (pictures, {width}): use the latent that the vectors came from, of "
            "a model trained with `train conditional`")


def few_at_a_time(prior, vectors):
    """Finite brain vectors in batches: each has a number for each picture of a prior that fits."""
    check_prior(prior, vectors.shape[1] - 1)
    if not np.isfinite(vectors).all():
        raise DataError("the brain vectors hold NaN or infinite values; expected numbers: drop "
                        "those trials, or nothing is likeliest")
    return np.array_split(vectors, len(vectors) // 512 + 1)


def map_retrieval(decoder, prior, vectors):
    """Which picture of the retrieval prior explains each brain vector best.

    Parameters
    ----------
    decoder : BrainDecoder
    prior : (m, d) array
        Latents of the pictures of the prior.
    vectors : (n, d + 1) array
        Brain vectors, see `BrainDecoder.vector`.

    Returns
    -------
    (n,) int array
        Rows of `prior`.

    Raises
    ------
    DataError
        If there is no prior of that width, or brain vectors are not finite.
    """
    return np.concatenate([decoder.log_likelihood(some, prior).argmax(1)
                           for some in few_at_a_time(prior, vectors)])


def mean_retrieval(decoder, latent, prior, vectors):
    """Which picture of a collection is likest to the posterior mean of what is in the picture?

    For collections in which the picture that was seen is not. The score is then how like to it the
    answer is, and of all answers the one nearest to the posterior mean has the least expected
    squared distance from it, not the likeliest. Compared is the last layer of the feature encoder,
    by correlation.

    Parameters
    ----------
    decoder, prior, vectors
        As for `map_retrieval`.
    latent : ImageLatent
        To which the decoder was fitted.

    Returns
    -------
    (n,) int array
        Rows of `prior`.

    Raises
    ------
    DataError
        As from `map_retrieval`.
    """
    few = few_at_a_time(prior, vectors)
    back = np.linalg.pinv(latent.features.axes)[:, -latent.encoder.widths[-1]:]
    seen, parts = prior[:, latent.blocks[0]:] @ back, []  # (m, p) features, less their mean
    for some in few:
        fit = decoder.log_likelihood(some, prior) / MILDER
        weights = np.exp(fit - fit.max(1, keepdims=True))
        parts.append(similarity(weights @ seen, seen).argmax(1))  # the weights' sum does not count
    return np.concatenate(parts)


def with_pseudo_trials(decoder: BrainDecoder, prior: Any, vectors: np.ndarray,
                       pseudo_trials: float) -> np.ndarray:
    """Brain vectors after the MAP picture has been counted as `pseudo_trials` further trials.

    The new vector is the mean over r measured and `pseudo_trials` pseudo-trials, each of which
    says exactly what the MAP picture evokes; its last number becomes 1/√(r + pseudo_trials).

    Parameters
    ----------
    decoder, prior, vectors
        As for `map_retrieval`.
    pseudo_trials : float
        Finite; 0 leaves the vectors as they are, whatever the prior.

    Returns
    -------
    (n, d + 1) float32 array
    """
    if not 0 <= pseudo_trials < np.inf:
        raise DataError(f"pseudo_trials is {pseudo_trials}; expected 0 or more pseudo-trials")
    if pseudo_trials == 0:
        return vectors
    return add_trials(decoder, vectors, prior[map_retrieval(decoder, prior, vectors)],
                      pseudo_trials)


def add_trials(decoder, vectors, latents, pseudo_trials):
    """Brain vectors (n, d + 1) after further trials, each of what these latents (n, d) evoke."""
    trials = vectors[:, -1:] ** -2.0  # (n, 1) measured
    imagined, total = decoder.forward.predict(latents), trials + pseudo_trials
    mean = (trials * vectors[:, :-1] + pseudo_trials * imagined) / total
    return np.column_stack([mean, total**-0.5]).astype(np.float32)


def sample_prior(decoder: BrainDecoder, prior: np.ndarray, n: int, pseudo_trials: float = 60.0,
                 seed: int = 0) -> np.ndarray:
    """Brain vectors of pictures drawn at random from the retrieval prior.

    Each is a mean over `pseudo_trials` trials of one picture, errors included; together
    they are draws from a kernel density estimate over the prior. A conditional network that is
    told them draws new pictures in two stages: first what, then how (cf. Li et al. 2024, arXiv
    2312.03701).

    Parameters
    ----------
    decoder : BrainDecoder
    prior : (m, d) array
    n : int
    pseudo_trials : float
        Above 0: the more trials, the closer to the picture of the prior.
    seed : int

    Returns
    -------
    (n, d + 1) float32 array
    """
    if not 0 < pseudo_trials < np.inf:
        raise DataError(f"pseudo_trials is {pseudo_trials}; expected more than 0 pseudo-trials")
    check_prior(prior, len(decoder.noise_cholesky))
    generator = torch.Generator().manual_seed(int(seed))
    some = torch.from_numpy(prior)[torch.randint(len(prior), (n,), generator=generator)]
    return decoder.simulate(some, torch.full((n,), float(pseudo_trials)), generator).numpy()


def brain_guidance(decoder: BrainDecoder, latent: ImageLatent,
                   model: tuple | None = None) -> Guidance:
    """What leads samples for brain vectors: their likelihood and the retrieval prior, if any.

    Parameters
    ----------
    decoder : BrainDecoder
    latent : ImageLatent
    model : (model, info), optional
        The guidance model.
    """
    prior = None if latent.prior is None else partial(with_pseudo_trials, decoder, latent.prior)
    return Guidance(model, partial(brain_log_likelihood, decoder, latent), prior)


def map_pictures(experiment: Experiment, decoder: BrainDecoder, latent: ImageLatent,
                 vectors: np.ndarray) -> np.ndarray | None:
    """The MAP pictures of a model's retrieval prior, as far as they can be had: a baseline.

    Parameters
    ----------
    experiment : Experiment
        The one that the model was trained on.
    decoder : BrainDecoder
    latent : ImageLatent
        With its `prior`.
    vectors : (n, d + 1) array

    Returns
    -------
    (n, size, size, 3) uint8 array or None
        None where the prior is not that of this experiment, or there is none.
    """
    if latent.prior is None:
        return None
    return prior_pictures(experiment, latent, map_retrieval(decoder, latent.prior, vectors))


def prior_pictures(experiment: Experiment, latent: ImageLatent,
                   index: np.ndarray) -> np.ndarray | None:
    """Pictures of the retrieval prior.

    Parameters
    ----------
    experiment : Experiment
        The one that the model was trained on.
    latent : ImageLatent
        With its `prior`.
    index : (n,) int array
        Rows of the prior.

    Returns
    -------
    (n, size, size, 3) uint8 array or None
        None where the prior is not that of this experiment.
    """
    try:
        pictures = training_pictures(experiment, None, index)
    except IndexError:
        return None
    same = np.abs(latent.transform(pictures) - latent.prior[index]).max() < SAME
    return pictures if same else None
