"""Memory: which of all the pictures that training showed explains a brain vector best?

A network that hesitates between two things draws a bit of both. A memory does not hesitate: each of
its pictures is whole, but none is the one that was seen. So the likeliest of them is taken for so
many further trials: the brain vector moves towards what that picture would evoke, and is said to
be less noisy. The network, trained on vectors of many levels of noise, then draws with more
decision. What was really measured still steers the sampler and chooses among its pictures, see
`guidance`. So the vector is used more than once, and the pictures are surer than it allows.

In Bayes' terms the memory is an empirical prior, and what is recalled its most probable picture
after the brain has spoken (cf. Nishimoto et al. 2011, doi:10.1016/j.cub.2011.08.031).
"""

from functools import partial

import numpy as np
import torch
from scipy.spatial import KDTree

from recon_lib.brain.decoder import brain_log_likelihood
from recon_lib.common.errors import DataError
from recon_lib.data.release import Experiment, unique_pictures
from recon_lib.data.splits import refuse_leak
from recon_lib.decoding.sampling import Guidance
from recon_lib.world import scenes

EXTRA, EXTRA_SEED = 45_000, 1  # pictures without a brain
SAME = 0.05  # no number of two latents of one picture differs by more, in half precision


def several(experiment):
    """A list of subjects, for one or for several of them."""
    return [experiment] if isinstance(experiment, Experiment) else list(experiment)


def training_pictures(experiment, extra=None, rows=None):
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
    held = np.isin(scenes.KINDS, [kind for x in subjects for kind in x.held])  # (kinds,)
    more = more[:extra][~held[more[:extra]["kind"]]]
    rows = np.arange(len(own) + len(more)) if rows is None else np.asarray(rows)
    pictures = np.empty((len(rows), *own.shape[1:]), np.uint8)
    mine = rows < len(own)
    pictures[mine] = own[rows[mine]]
    if not mine.all():
        pictures[~mine] = scenes.draw(more[rows[~mine] - len(own)], own.shape[1])
    for x in subjects:
        refuse_leak(pictures, x.images[x.test_index])
    return pictures


def found(memory, latents):
    """Which row of the memory is each picture, if any.

    Parameters
    ----------
    memory : (m, d) array
    latents : (n, d) array

    Returns
    -------
    (n,) int array
        -1 for pictures that are not remembered.
    """
    distance, index = KDTree(memory).query(latents, p=np.inf, distance_upper_bound=SAME)
    return np.where(np.isfinite(distance), index, -1)


def refuse_remembered(latent, images):
    """Stop if a model remembers one of these pictures, which it is to be tested on.

    Parameters
    ----------
    latent : ImageLatent
    images : (n, H, W, C) uint8 array

    Raises
    ------
    DataError
    """
    known = [] if latent.memory is None else found(latent.memory, latent.transform(images)) >= 0
    if np.any(known):
        raise DataError(
            f"the model was trained on {np.sum(known)} of the {len(images)} test pictures: it "
            "remembers them; test it on others, or train one without them"
        )


def check_memory(memory, width):
    """Stop unless there is a memory of so many numbers a picture."""
    if memory is None or not len(memory) or memory.shape[1:] != (width,):
        raise DataError(
            f"found a memory of shape {np.shape(memory)} for brain vectors of {width} numbers; "
            f"expected (pictures, {width}): use the latent that the vectors came from, of a model "
            "trained with `train conditional`"
        )


def likeliest(decoder, memory, vectors):
    """Which remembered picture explains each brain vector best.

    Parameters
    ----------
    decoder : BrainDecoder
    memory : (m, d) array
        Latents of the pictures remembered.
    vectors : (n, d + 1) array
        Brain vectors, see `BrainDecoder.vector`.

    Returns
    -------
    (n,) int array
        Rows of `memory`.

    Raises
    ------
    DataError
        If there is no memory of that width, or brain vectors are not finite.
    """
    check_memory(memory, vectors.shape[1] - 1)
    if not np.isfinite(vectors).all():
        raise DataError("the brain vectors hold NaN or infinite values; expected numbers: drop "
                        "those trials, or nothing is likeliest")
    few = np.array_split(vectors, len(vectors) // 512 + 1)  # a number for each of all memories
    return np.concatenate([decoder.log_likelihood(v, memory).argmax(1) for v in few])


def recall(decoder, memory, vectors, trust):
    """Brain vectors after the likeliest memory has been taken for `trust` further trials.

    The new vector is the mean over r measured and `trust` imagined trials, each of which says
    exactly what the remembered picture evokes; its last number becomes 1/√(r + trust).

    Parameters
    ----------
    decoder, memory, vectors
        As for `likeliest`.
    trust : float
        Finite; 0 leaves the vectors as they are, whatever the memory.

    Returns
    -------
    (n, d + 1) float32 array
    """
    if not 0 <= trust < np.inf:
        raise DataError(f"trust is {trust}; expected 0 or more imagined trials")
    if trust == 0:
        return vectors
    best = memory[likeliest(decoder, memory, vectors)]
    trials = vectors[:, -1:] ** -2.0  # (n, 1) measured
    mean = (trials * vectors[:, :-1] + trust * decoder.channel.predict(best)) / (trials + trust)
    return np.column_stack([mean, (trials + trust) ** -0.5]).astype(np.float32)


def dream(decoder, memory, n, trust=60.0, seed=0):
    """Brain vectors that no brain sent: what memories drawn at random would evoke.

    Each is a mean over `trust` trials of one remembered picture, errors included; together they are
    draws from a kernel density estimate over the memory. A conditional network that is told them
    draws new pictures in two stages: first what, then how (cf. Li et al. 2024, arXiv 2312.03701).

    Parameters
    ----------
    decoder : BrainDecoder
    memory : (m, d) array
    n : int
    trust : float
        Above 0: the more trials, the closer to the remembered picture.
    seed : int

    Returns
    -------
    (n, d + 1) float32 array
    """
    if not 0 < trust < np.inf:
        raise DataError(f"trust is {trust}; expected more than 0 imagined trials")
    check_memory(memory, len(decoder.root))
    generator = torch.Generator().manual_seed(seed)
    some = torch.from_numpy(memory)[torch.randint(len(memory), (n,), generator=generator)]
    return decoder.simulate(some, torch.full((n,), float(trust)), generator).numpy()


def brain_guidance(decoder, latent, model=None):
    """What leads samples for brain vectors: their likelihood and, if there is one, the memory.

    Parameters
    ----------
    decoder : BrainDecoder
    latent : ImageLatent
    model : (model, info), optional
        The guidance model.

    Returns
    -------
    drawing.Guidance
    """
    prior = None if latent.memory is None else partial(recall, decoder, latent.memory)
    return Guidance(model, partial(brain_log_likelihood, decoder, latent), prior)


def remembered(experiment, decoder, latent, vectors):
    """The likeliest pictures of a model's memory, as far as they can be had: a baseline.

    Parameters
    ----------
    experiment : Experiment
        The one that the model was trained on.
    decoder : BrainDecoder
    latent : ImageLatent
        With its `memory`.
    vectors : (n, d + 1) array

    Returns
    -------
    (n, size, size, 3) uint8 array or None
        None where the memory is not that of this experiment, or there is none.
    """
    if latent.memory is None:
        return None
    index = likeliest(decoder, latent.memory, vectors)
    try:
        pictures = training_pictures(experiment, None, index)
    except IndexError:
        return None
    same = np.abs(latent.transform(pictures) - latent.memory[index]).max() < SAME
    return pictures if same else None
