"""Colours and contrast energy at each place of a picture, and how to tell them from its latent.

Early visual cortex answers to local contrast: the amplitude of a pair of Gabor filters, wherever
the edge lies between them (Adelson & Bergen 1985, doi:10.1364/JOSAA.2.000284; Kay et al. 2008,
doi:10.1038/nature06713). That is no linear function of the latent. Kernel ridge regression learns
it from the training pictures, without any betas; so it is had at once for every picture of the
retrieval prior, of which only latents are kept.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from recon_lib.brain.encoding import square_distances
from recon_lib.brain.features import fitted
from recon_lib.common.errors import check
from recon_lib.data.loader import to_batch

SIDE, GRID = 32, 8  # pixels a side that are filtered, and places a side that are averaged over
WAVELENGTHS, DIRECTIONS = (4.0, 8.0), 4  # wavelengths in these pixels
COMPONENTS, CENTRES = 100, 1500
WIDTH, PENALTY = 16.0, 0.03  # the kernel is exp(-|a - b|² / (2 WIDTH²))


def gabor_pairs(wavelength):
    """Even, then odd Gabor filters of all directions, without a mean: (2 directions, 1, k, k)."""
    y, x = torch.meshgrid(*[torch.arange(-round(wavelength), wavelength + 1)] * 2, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * (wavelength / 2) ** 2))
    angles = torch.arange(DIRECTIONS) * torch.pi / DIRECTIONS
    phase = 2 * torch.pi / wavelength * torch.stack([x * a.cos() + y * a.sin() for a in angles])
    pairs = envelope * torch.cat([phase.cos(), phase.sin()])
    return (pairs - pairs.mean((1, 2), keepdim=True))[:, None] / envelope.sum()


def contrast_energy(images: np.ndarray) -> np.ndarray:
    """What is at each place of a picture: light, two colours, edges of each direction.

    (n, maps, 8, 8) float32: luminance, red against green, blue against yellow; then for each
    wavelength and direction the amplitude of a quadrature pair of Gabor filters.
    """
    parts = []
    for start in range(0, len(images), 256):  # a few hundred pictures fit the cache
        x = F.interpolate(fitted(to_batch(images[start : start + 256])), (SIDE, SIDE), mode="area")
        red, green, blue = x.unbind(1)
        grey = x.mean(1)
        maps = [torch.stack([grey, red - green, blue - (red + green) / 2], 1)]
        for wavelength in WAVELENGTHS:
            pairs = gabor_pairs(wavelength)
            even, odd = F.conv2d(grey[:, None], pairs, padding=pairs.shape[-1] // 2).chunk(2, 1)
            maps.append((even**2 + odd**2).sqrt())
        parts.append(F.adaptive_avg_pool2d(torch.cat(maps, 1), GRID))
    return torch.cat(parts).numpy()


def fit_edges(latents: np.ndarray, images: np.ndarray, seed: int = 0) -> Callable:
    """Learn to tell the principal components of `contrast_energy` from the latent of a picture.

    Kernel ridge regression on a subset of regressors (Rasmussen & Williams 2006, eq. 8.14): the
    kernels stand on `CENTRES` pictures at random, and all pictures say how high each should be.
    `latents` (n, d) are those of `images`; what comes back is a function latents (m, d) -> (m,
    components) float32.
    """
    latents = check(latents, (len(images), "d"), what="the array of latents").astype(np.float32)
    maps = contrast_energy(images)
    maps = (maps / (maps.std((0, 2, 3), keepdims=True) + 1e-6)).reshape(len(maps), -1)
    mean = maps.mean(0)
    maps -= mean
    _, axes = np.linalg.eigh(maps.T @ maps)  # the largest last
    seen = maps @ axes[:, -COMPONENTS:]
    some = np.random.default_rng(seed).permutation(len(latents))[:CENTRES]
    centres = latents[some]

    def kernel(x):
        return np.exp(-square_distances(x, centres) / (2 * WIDTH**2))

    k = kernel(latents).astype(np.float64)  # (n, centres)
    penalty = PENALTY * k[some] + 1e-6 * np.eye(len(some))
    heights = np.linalg.solve(k.T @ k + penalty, k.T @ seen).astype(np.float32)

    def edges(x):
        parts = np.array_split(np.asarray(x, np.float32), len(x) // 2048 + 1)
        return np.concatenate([kernel(part) @ heights for part in parts])

    return edges
