"""Pictures from few trials: a receptive field for each voxel, and a Gaussian prior over pictures.

With some tens of pictures nothing can be learnt of what pictures look like, and a ridge to pixels
shows mixtures of those that it was fitted to. What is known without any picture: a voxel of visual
cortex sees one place (Dumoulin & Wandell 2008, doi:10.1016/j.neuroimage.2007.09.034), and pixels
are like their neighbours. So the encoding model is linear, b ~ N(W'x, Σ), each column of W a
receptive field, and x ~ N(μ, C). The posterior is Gaussian (Thirion et al. 2006,
doi:10.1016/j.neuroimage.2006.06.062; Schoenmakers et al. 2013,
doi:10.1016/j.neuroimage.2013.07.043), and its mean is shown:

    μ + C W (W'C W + Σ)⁻¹ (b − W'μ)
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax

from recon_lib.brain.encoding import shrunk_covariance
from recon_lib.brain.features import PIXEL_SIDE, coarse_pixels
from recon_lib.data.splits import folds
from recon_lib.samplers import to_uint8

SIZES = 1.0, 2.0, 4.0  # standard deviations of receptive fields, in coarse pixels
LENGTH, PICTURES = 2.0, 8  # C falls by e in so many pixels; neighbours count as so many pictures
VOXELS = 2000  # at most: those that are predicted best
PLACES = np.stack(np.divmod(np.arange(PIXEL_SIDE**2), PIXEL_SIDE), 1)
DISTANCE = np.linalg.norm(PLACES[:, None] - PLACES, axis=2)  # (256, 256) in coarse pixels


def receptive_fields(seen, betas):
    """Weights (256, voxels) from coarse pixels `seen` (n, 256) to betas (n, voxels).

    The mean over Gaussian fields of all places and `SIZES`, each with its least-squares gain and
    weighted by the likelihood of the voxel's trials.
    """
    fields = np.concatenate([softmax(-(DISTANCE**2) / (2 * size**2), 1) for size in SIZES])
    x, parts = (seen - seen.mean(0)) @ fields.T, []
    power = np.square(x).sum(0)[:, None] + 1e-12
    for y in np.array_split(betas - betas.mean(0), betas.shape[1] // 4096 + 1, axis=1):
        gain = x.T @ y / power  # (fields, voxels)
        left = 1 - gain**2 * power / (np.square(y).sum(0) + 1e-12)
        weights = softmax(-len(x) / 2 * np.log(np.maximum(left, 1e-9)), 0)
        parts.append(fields.T @ (weights * gain))
    return np.hstack(parts)


def prior(pictures, channels):
    """Mean and covariance of coarse pictures (m, channels 256), shrunk to smooth ones."""
    mean = pictures.mean(0)
    found = (pictures - mean).T @ (pictures - mean) / len(pictures)
    between = np.einsum("ipjp->ij", found.reshape(channels, -1, channels, PIXEL_SIDE**2))
    smooth = np.kron(between / PIXEL_SIDE**2, np.exp(-DISTANCE / LENGTH))
    return mean, (len(pictures) * found + PICTURES * smooth) / (len(pictures) + PICTURES)


def posterior_mean(errors, weights, noise, covariance):
    """The mean of x (n, p), less that of the prior, given b (n, voxels), less what μ evokes."""
    cross = covariance @ weights
    return errors @ np.linalg.solve(weights.T @ cross + noise, cross.T)


def fit_inverse_retinotopy(training):
    """A decoder, see `baselines`: the mean of the posterior, at 16 x 16 pixels."""
    side, channels = training.pictures.shape[2:]
    seen = coarse_pixels(training.pictures)[:, : channels * PIXEL_SIDE**2].astype(np.float64)
    light, y = seen.reshape(len(seen), channels, -1).mean(1), training.betas.mean(0)
    betas, guess = training.betas - y, np.zeros(training.betas.shape)
    for train, test in folds(training.image, min(5, len(np.unique(training.image)))):
        guess[test] = (light[test] - light[train].mean(0)) @ receptive_fields(light[train],
                                                                              betas[train])
    gain = np.clip((guess * betas).sum(0) / (np.square(guess).sum(0) + 1e-12), 0, 1)
    left = betas - gain * guess
    best = np.sort(np.argsort(np.square(left).mean(0) - np.square(betas).mean(0))[:VOXELS])
    fields = receptive_fields(light, betas[:, best]) * gain[best] / channels
    weights, noise = np.tile(fields, (channels, 1)), shrunk_covariance(left[:, best])
    mean, covariance = prior(seen[np.unique(training.image, return_index=True)[1]], channels)
    evoked = y[best] + (mean - seen.mean(0)) @ weights

    def draw(trials):
        x = mean + posterior_mean(trials.betas[:, best] - evoked, weights, noise, covariance)
        x = torch.from_numpy(x).reshape(len(x), channels, PIXEL_SIDE, PIXEL_SIDE)
        return to_uint8(F.interpolate(x, (side, side), mode="bilinear"))

    return draw
