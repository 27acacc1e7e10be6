"""Memory: which of all the pictures that training showed explains a brain vector best?

A network that hesitates between two things draws a bit of both. A memory does not hesitate: each of
its pictures is whole, but none is the one that was seen. So the likeliest of them is taken for so
many further trials: the brain vector moves towards what that picture would evoke, and is said to
be less noisy. The network, which knows vectors of every noise, then draws with more decision. What
was really measured still steers the sampler and chooses among its pictures, see `posterior`.

In Bayes' terms the memory is an empirical prior, and what is recalled its most probable picture
after the brain has spoken (cf. Nishimoto et al. 2011, doi:10.1016/j.cub.2011.08.031).
"""

import numpy as np

from recon_lib import scenes
from recon_lib.errors import DataError
from recon_lib.joined import unique_pictures
from recon_lib.loading import Experiment
from recon_lib.splits import refuse_leak

EXTRA, EXTRA_SEED = 45_000, 1  # pictures without a brain


def several(experiment):
    """A list of subjects, for one or for several of them."""
    return [experiment] if isinstance(experiment, Experiment) else list(experiment)


def training_pictures(experiment, extra=None, rows=None):
    """The pictures of the training trials, and scenes that no brain has seen.

    Parameters
    ----------
    experiment : Experiment, or sequence of Experiment
    extra : int, optional
        TinyScenes to add; default: `EXTRA` to TinyScenes, none to pictures of another kind.
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
    people = several(experiment)
    if extra is None:
        extra = 0 if people[0].factors is None else EXTRA
    own = unique_pictures(people)
    rows = np.arange(len(own) + extra) if rows is None else np.asarray(rows)
    pictures = np.empty((len(rows), *own.shape[1:]), np.uint8)
    mine = rows < len(own)
    pictures[mine] = own[rows[mine]]
    if not mine.all():
        more = scenes.sample_factors(extra, EXTRA_SEED)[rows[~mine] - len(own)]
        pictures[~mine] = scenes.draw(more, own.shape[1])
    for x in people:
        refuse_leak(pictures, x.images[x.test_images])
    return pictures


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
    """
    if memory.ndim != 2 or not len(memory) or memory.shape[1] != vectors.shape[1] - 1:
        raise DataError(
            f"found a memory of shape {memory.shape} and brain vectors {vectors.shape}; expected "
            f"(pictures, {vectors.shape[1] - 1}): use the latent that the vectors came from"
        )
    return decoder.log_likelihood(vectors, memory).argmax(1)


def recall(decoder, memory, vectors, trust):
    """Brain vectors after the likeliest memory has been taken for `trust` further trials.

    The new vector is the mean over r measured and `trust` imagined trials, each of which says
    exactly what the remembered picture evokes; its last number becomes 1/√(r + trust).

    Parameters
    ----------
    decoder, memory, vectors
        As for `likeliest`.
    trust : float
        0 leaves the vectors as they are.

    Returns
    -------
    (n, d + 1) float32 array
    """
    if not trust >= 0:
        raise DataError(f"trust is {trust}; expected 0 or more imagined trials")
    best = memory[likeliest(decoder, memory, vectors)]
    trials = vectors[:, -1:] ** -2.0  # (n, 1) measured
    mean = (trials * vectors[:, :-1] + trust * decoder.channel.predict(best)) / (trials + trust)
    return np.column_stack([mean, (trials + trust) ** -0.5]).astype(np.float32)


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
    extra = 0 if latent.memory is None else len(latent.memory) - len(unique_pictures([experiment]))
    if latent.memory is None or extra < 0 or (extra and experiment.factors is None):
        return None
    index = likeliest(decoder, latent.memory, vectors)
    pictures = training_pictures(experiment, extra, index)
    same = np.abs(latent.transform(pictures) - latent.memory[index]).max() < 0.05
    return pictures if same else None
