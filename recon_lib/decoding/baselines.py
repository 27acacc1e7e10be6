"""What a reconstruction has to beat: decoders without a generative model, and without a brain.

A decoder is a function `fit(training)` that returns `draw(trials)`, pictures, or `rank(trials)`,
log-likelihoods of candidates. `DRAWING` and `RANKING` are the registry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from recon_lib.brain.decoder import BrainDecoder
from recon_lib.brain.encoding import EncodingModel, log_likelihood, shrunk_covariance
from recon_lib.brain.families import feature_families
from recon_lib.brain.latents import ImageLatent
from recon_lib.brain.patterns import similarity
from recon_lib.brain.ridge import fit_ridge
from recon_lib.common.errors import DataError, as_numbers, check, one_label_each
from recon_lib.common.files import read_dataset, readable
from recon_lib.data.pictures import uint8_pictures
from recon_lib.data.release import Experiment, read_truth


@dataclass
class Training:
    """What every decoder is fitted to."""

    betas: np.ndarray  # (n, voxels)
    pictures: np.ndarray  # (n, H, W, C) uint8: the picture of each training trial
    image: np.ndarray  # (n,) its number, so that repeats of a picture stay in one fold
    latents: np.ndarray | None = None  # (n, d)
    decoder: BrainDecoder | None = None  # fitted to these trials; brain vectors need both
    seed: int = 0
    latent: ImageLatent | None = None  # what made the latents
    encoding: EncodingModel | None = None  # fitted to `families.feature_families`; ranks need it
    edges: Callable | None = None  # see `edges.fit_edges`, if the encoding model was fitted to them


@dataclass
class Trials:
    """What is decoded."""

    betas: np.ndarray  # (n, voxels)
    vectors: np.ndarray | None = None  # (n, d + 1) brain vectors of these betas
    repeats: np.ndarray | None = None  # (n,) how many trials each row is the mean of
    shuffled: "Trials | None" = None  # as many trials of other pictures, see `shuffled_brain`
    found: Any = None  # what the posterior says of them: a posterior.Found

    def take(self, rows):
        """Some of these trials."""
        return Trials(*(x if x is None else x[rows]
                        for x in (self.betas, self.vectors, self.repeats)),
                      found=self.found and self.found.take(rows))


def mean_image(train_images: np.ndarray, trials: int) -> np.ndarray:
    """The mean of `train_images` (n, H, W, C), once for each trial: (trials, H, W, C) uint8."""
    mean = uint8_pictures(train_images).mean(0, dtype=np.float64).round().astype(np.uint8)
    return np.broadcast_to(mean, (trials, *mean.shape)).copy()


def ridge_to_pixels(train_betas: np.ndarray, train_images: np.ndarray,
                    groups: ArrayLike | None = None, components: int = 128,
                    seed: int = 0) -> Callable:
    """Learn to predict pixels linearly from betas: pictures are blurred, pixel scores are high.

    Ridge regression onto the leading principal components of the training images, with a strength
    for each by cross-validation. Later components cannot be read from noisy betas: ridge would
    predict their mean, 0, which is what leaving them out does.

    Parameters
    ----------
    train_betas : array_like (n, voxels)
    train_images : uint8 array (n, H, W, C)
        The picture of each training trial.
    groups : array_like (n,), optional
        The image of each training trial, so that its repeats stay in one fold.
    components : int
        At most; fewer when there are fewer training trials or pixels.

    Returns
    -------
    callable
        ``draw(betas (trials, voxels)) -> uint8 (trials, H, W, C)``.
    """
    from sklearn.decomposition import PCA  # takes a second to import

    images = uint8_pictures(train_images)
    if len(images) != len(train_betas):
        raise DataError(f"found {len(images)} training images and {len(train_betas)} rows of betas,"
                        " expected one picture for each trial: repeat the picture of each repeat")
    pixels = images.reshape(len(images), -1).astype(np.float32) / 255  # (n, H·W·C)
    pca = PCA(min(components, len(images) - 1, pixels.shape[1]), svd_solver="randomized",
              random_state=seed)
    scores = pca.fit_transform(pixels)  # (n, components)
    train_betas = as_numbers(train_betas, "the training betas").astype(np.float32, copy=False)
    ridge = fit_ridge(train_betas, scores, groups, seed=seed)

    def draw(betas):
        betas = check(betas, ("trials", len(ridge.x_mean)), what="the betas")
        predicted = pca.inverse_transform(ridge.predict(betas))  # (trials, H·W·C)
        predicted = (np.clip(predicted, 0, 1) * 255).round().astype(np.uint8)
        return predicted.reshape(len(predicted), *images.shape[1:])

    return draw


def retrieval(predicted: ArrayLike, train_features: ArrayLike,
              train_images: np.ndarray) -> np.ndarray:
    """Show the training image whose features correlate best with the predicted ones.

    What it shows is a perfect picture, and never the test image.

    Parameters
    ----------
    predicted : array_like (trials, d)
        Features decoded from the betas.
    train_features : array_like (n, d)
    train_images : uint8 array (n, H, W, C)

    Returns
    -------
    uint8 array (trials, H, W, C)
    """
    return uint8_pictures(train_images)[similarity(predicted, train_features).argmax(1)]


def shuffled_brain(image: ArrayLike, seed: int = 0) -> np.ndarray:
    """Choose for each trial a trial of another image: real betas, of the wrong picture.

    Images are matched in one random cycle, so that none keeps its own betas, and the repeats
    of an image are all given betas of the same other image.

    Parameters
    ----------
    image : array_like (trials,)
        The image of each trial.

    Returns
    -------
    ndarray (trials,) of int
        Use as ``betas[shuffled_brain(image)]``.
    """
    names, index = np.unique(one_label_each(image), return_inverse=True)
    if len(names) < 2:
        raise DataError("found 1 image, expected at least 2: there is nothing to shuffle")
    cycle = np.random.default_rng(seed).permutation(len(names))
    donor = np.empty(len(names), int)
    donor[cycle] = np.roll(cycle, 1)
    order = np.empty(len(index), int)
    for own, other in enumerate(donor):
        takers, givers = np.flatnonzero(index == own), np.flatnonzero(index == other)
        order[takers] = np.resize(givers, len(takers))
    return order


def fit_ridge_to_pixels(training):
    """`ridge_to_pixels` as a decoder."""
    draw = ridge_to_pixels(training.betas, training.pictures, training.image, seed=training.seed)
    return lambda trials: draw(trials.betas)


def fit_retrieval(training):
    """`retrieval` as a decoder: by the correlation of brain vectors with training latents."""
    return lambda trials: retrieval(trials.vectors[:, :-1], training.latents, training.pictures)


def fit_mean_image(training):
    """`mean_image` as a decoder."""
    return lambda trials: mean_image(training.pictures, len(trials.betas))


def fit_vector_likelihood(training, candidates):
    """Rank candidates (m, d), given by their latents, by the likelihood of the brain vector."""
    decoder = training.decoder
    return lambda trials: decoder.log_likelihood(decoder.vector(trials.betas), candidates)


def fit_encoding_ranks(training, candidates):
    """Rank candidates (m, d), given by their latents, by an encoding model of every voxel."""
    families = feature_families(training.latent, candidates, training.edges)
    return lambda trials: training.encoding.rank(trials.betas, families)


def voxels_by_area(roi, order):
    """Index of voxels whose areas are `roi` (V,), area by area as these come in `order`."""
    return np.concatenate([np.flatnonzero(roi == area) for area in dict.fromkeys(order)])


def ideal_observer(experiment: Experiment, candidates: np.ndarray | None = None) -> Callable:
    """The decoder that knows the subject: log p(betas | candidate) from the simulation's truth.

    It knows each voxel's true response to each picture; the slope with which betas follow it and
    the covariance of their noise are measured on the training trials, with the truth in hand.

    Parameters
    ----------
    experiment : Experiment
        A simulated one.
    candidates : (m,) int array, optional
        Which of `experiment.images`; default: the test pictures.

    Returns
    -------
    function betas (trials, V) -> log-likelihoods (trials, candidates)
        None when voxels were dropped, so that nobody can tell which are left.
    """
    x = experiment
    with readable(x.truth), h5py.File(x.truth) as file:
        roi = read_dataset(file, "subject/roi").astype(str)
    voxels = voxels_by_area(roi, x.roi)
    if not np.array_equal(roi[voxels], x.roi):
        return None
    responses = read_truth(x.truth, "responses", x.names)[:, voxels]
    train, shown = x.betas[~x.test], responses[x.image[~x.test]]
    slope = (shown * train).mean(0) / (shown**2).mean(0)
    noise = shrunk_covariance(train - shown * slope)
    expected = responses[x.test_index if candidates is None else candidates] * slope
    return lambda betas: log_likelihood(betas, expected, noise)


DRAWING = {"ridge": fit_ridge_to_pixels, "retrieval": fit_retrieval, "mean_image": fit_mean_image}
RANKING = {"brain_vector": fit_vector_likelihood, "encoding_model": fit_encoding_ranks}
