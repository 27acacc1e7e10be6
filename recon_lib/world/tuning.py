"""What the voxels of a simulated subject answer to pictures.

EarlyVis sees colours and edges through receptive fields, LOC knows the object's category, its
colour and roughly its place, OPA, PPA and RSC know the background and the light.
"""

import numpy as np
import torch
import torch.nn.functional as F

from recon_lib.data.loader import to_batch
from recon_lib.world.scenes import BACKGROUNDS, CATEGORIES, LIGHTS


def feature_maps(images):
    """What early vision sees: luminance, two colour axes, edges of 4 directions at 2 scales.

    Pictures (n, H, W, 3) uint8 become a (n, 11, 32, 32) tensor, each channel standardised over
    pictures and places.
    """
    parts = []
    for start in range(0, len(images), 512):  # a few hundred pictures fit the cache and the memory
        x = F.interpolate(to_batch(images[start : start + 512]), (32, 32), mode="area")
        red, green, blue = x.unbind(1)
        grey = (red + green + blue) / 3
        colours = torch.stack([grey, red - green, blue - (red + green) / 2], 1)
        edges = []
        for wavelength in (3.0, 6.0):  # pixels
            even, odd = gabors(wavelength, 0.45 * wavelength)  # (4, 1, k, k) each
            pair = [F.conv2d(grey[:, None], g, padding=g.shape[-1] // 2) for g in (even, odd)]
            edges.append((pair[0] ** 2 + pair[1] ** 2).sqrt())
        parts.append(torch.cat([colours, *edges], 1))
    maps = torch.cat(parts)  # (n, 11, 32, 32)
    spread, mean = torch.std_mean(maps, dim=(0, 2, 3), keepdim=True)
    return (maps - mean) / (spread + 1e-6)


def gabors(wavelength, width):
    """A quadrature pair of Gabor filters for each of 4 directions: two (4, 1, k, k) tensors.

    The wavelength and the standard deviation `width` of the Gaussian window are in pixels.
    """
    half = round(wavelength)
    y, x = torch.meshgrid(*[torch.arange(-half, half + 1.0)] * 2, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * width**2))
    angles = torch.arange(4) * torch.pi / 4
    phase = 2 * torch.pi / wavelength * torch.stack([x * a.cos() + y * a.sin() for a in angles])
    pair = [envelope * phase.cos(), envelope * phase.sin()]
    return [(g - g.mean((1, 2), keepdim=True))[:, None] / envelope.sum() for g in pair]


def early(maps, voxels, hemisphere, rng):
    """Receptive fields: each voxel weighs the feature maps within a Gaussian window.

    The left hemisphere ("LH") sees the right half of the picture and the right one the left.
    Windows grow with the distance from the centre of gaze.
    """
    n, channels, side, _ = maps.shape
    across = rng.uniform(0.0, 0.5, voxels)
    x = 0.5 + across if hemisphere == "LH" else 0.5 - across
    y = rng.uniform(0.05, 0.95, voxels)
    width = 0.05 + 0.2 * np.hypot(x - 0.5, y - 0.5)
    grid = (np.arange(side) + 0.5) / side
    window = np.exp(-((grid - y[:, None]) ** 2) / (2 * width[:, None] ** 2))[:, :, None]
    window = window * np.exp(-((grid - x[:, None]) ** 2) / (2 * width[:, None] ** 2))[:, None]
    window /= window.sum((1, 2), keepdims=True)  # (voxels, side, side)
    seen = maps.reshape(n * channels, -1) @ torch.from_numpy(window).float().reshape(voxels, -1).T
    seen = seen.reshape(n, channels, voxels).numpy()
    weight = rng.normal(size=(channels, voxels)) * (rng.random((channels, voxels)) < 0.4)
    weight += 1e-3 * rng.normal(size=weight.shape)  # no voxel without any weight
    return np.einsum("ncv,cv->nv", seen, weight)


def one_hot(index, n):
    """(trials,) -> (trials, n)."""
    return np.eye(n, dtype=np.float32)[index]


def objects(factors, voxels, rng):
    """LOC: tuning to categories, to colour, and to categories at a rough place."""
    category = one_hot(factors["category"], len(CATEGORIES))
    tuned = category @ rng.gamma(0.5, 1.0, (len(CATEGORIES), voxels))  # (n, voxels): few excite
    colour = np.cos(2 * np.pi * (factors["hue"][:, None] - rng.random(voxels)))
    dx = factors["x"][:, None] - rng.uniform(0.25, 0.75, voxels)
    dy = factors["y"][:, None] - rng.uniform(0.45, 0.70, voxels)
    place = np.exp(-(dx**2 + dy**2) / (2 * 0.15**2))
    mix = rng.dirichlet((3, 1.5, 1.5), voxels).T  # (3, voxels)
    return mix[0] * unit(tuned) + mix[1] * unit(colour) + mix[2] * unit(tuned * place)


def places(factors, voxels, rng, light):
    """OPA, PPA, RSC: tuning to backgrounds, to light (how much: `light`), and to both together."""
    scene = one_hot(factors["background"], len(BACKGROUNDS))
    lit = one_hot(factors["light"], len(LIGHTS))
    both = (scene[:, :, None] * lit[:, None]).reshape(len(factors), -1)
    parts = [
        unit(f @ rng.normal(size=(f.shape[1], voxels))) for f in (scene, lit, both)
    ]  # (n, voxels) each
    mix = rng.dirichlet((3, 1.5 * light, 1), voxels).T
    return sum(m * p for m, p in zip(mix, parts, strict=True))


def generic(maps, voxels, rng):
    """Higher areas for pictures without factors: random non-linear features of the maps."""
    pooled = F.adaptive_avg_pool2d(maps, 4)  # (n, 11, 4, 4)
    wide = torch.from_numpy(rng.normal(size=(256, 11, 2, 2)).astype(np.float32)) / 44**0.5
    h = F.relu(F.conv2d(pooled, wide)).flatten(1)  # (n, 256 * 9)
    return h.numpy() @ rng.normal(size=(h.shape[1], voxels)).astype(np.float32)


def mixed(features, voxels, rng):
    """Higher areas for photographs: each voxel adds a few random directions of a network's layer.

    A direction is rectified, so that no voxel is a linear function of the features.
    """
    x = ((features - features.mean(0)) / features.std()).astype(np.float32)
    h = np.maximum(x @ rng.normal(size=(x.shape[1], 256)).astype(np.float32), 0)  # (n, 256)
    return h @ (rng.normal(size=(256, voxels)) * (rng.random((256, voxels)) < 0.1))


def unit(responses):
    """Zero mean and unit variance over pictures, for each voxel."""
    return (responses - responses.mean(0)) / (responses.std(0) + 1e-9)


def responses(images, factors, voxels, seed, higher=None):
    """How strongly each voxel answers each picture (n, H, W, 3): (n, V) float32, by area.

    Zero mean, unit variance over pictures. `voxels` counts those of each area, {"LHEarlyVis": int,
    …}. `factors` (n,) are those of TinyScenes; None for other pictures. Then higher areas answer to
    random mixtures of `higher` (n, p), a layer of a network (not one that betas are decoded to), or
    by default to random features of the maps. Each `seed` is another subject with other tuning.
    """
    rng = np.random.default_rng(seed)
    maps = feature_maps(images)
    parts = []
    for area, count in voxels.items():
        hemisphere, name = area[:2], area[2:]
        if name == "EarlyVis":
            part = early(maps, count, hemisphere, rng)
        elif factors is None:
            part = generic(maps, count, rng) if higher is None else mixed(higher, count, rng)
        elif name == "LOC":
            part = objects(factors, count, rng)
        else:
            part = places(factors, count, rng, light={"OPA": 2.0, "PPA": 1.0, "RSC": 0.5}[name])
        parts.append(unit(part).astype(np.float32))
    return np.concatenate(parts, axis=1)
