"""Colours and contrast energy at each place of a picture, and how to predict them from its latent.

Early visual cortex answers to local contrast: the amplitude of a pair of Gabor filters, wherever
the edge lies between them (Adelson & Bergen 1985, doi:10.1364/JOSAA.2.000284; Kay et al. 2008,
doi:10.1038/nature06713). That is no linear function of the latent. Kernel ridge regression learns
it from the training pictures, without any betas. So it can be computed for every picture of the
retrieval prior, of which only the latents are kept.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from recon_lib.brain.encoding import square_distances
from recon_lib.brain.features import fitted
from recon_lib.common.errors import check
from recon_lib.data.loader import to_batch
from recon_lib.world.tuning import gabors

SIDE, GRID = 32, 8  # pixels a side that are filtered, and places a side that are averaged over
WAVELENGTHS = (4.0, 8.0)  # in these pixels; the simulated subject's are others
COMPONENTS, CENTRES = 100, 1500
WIDTH, PENALTY = 16.0, 0.03  # the kernel is exp(-|a - b|² / (2 WIDTH²))


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
            pairs = torch.cat(gabors(wavelength, wavelength / 2))  # even, then odd: (8, 1, k, k)
            even, odd = F.conv2d(grey[:, None], pairs, padding=pairs.shape[-1] // 2).chunk(2, 1)
            maps.append((even**2 + odd**2).sqrt())
        parts.append(F.adaptive_avg_pool2d(torch.cat(maps, 1), GRID))
    return torch.cat(parts).numpy()


def fit_edges(latents: np.ndarray, images: np.ndarray, seed: int = 0) -> Callable:
    """Learn to predict the principal components of `contrast_energy` from a picture's latent.

    Kernel ridge regression on a subset of regressors (Rasmussen & Williams 2006, eq. 8.14): the
    kernels are centred on `CENTRES` pictures drawn at random; their heights are fitted to all.
    `latents` (n, d) are those of `images`. Returns a function latents (m, d) -> (m, components)
    float32.
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
