"""Families of features for an encoding model: what different areas may answer to in a picture.

Voxels of one area follow the pixels, those of another the category of the object, or the scene
(cf. Naselaris et al. 2009, doi:10.1016/j.neuron.2009.09.006). All families are functions of the
latent, so they can be computed for every picture of the retrieval prior without its pixels.
"""

from collections.abc import Callable

import numpy as np
import torch

from recon_lib.brain.features import measured_factors, read_named
from recon_lib.brain.latents import ImageLatent

# Which families together may explain a voxel; each voxel takes what predicts it best.
CHOICES = (("pixels", "features"), ("edges",), ("object",), ("scene",), ("object", "scene"),
           ("pixels", "features", "object", "scene"), ("edges", "features", "object", "scene"))
# The same for an encoder that names nothing: early areas follow pixels, others what it sees.
UNNAMED = (("pixels",), ("edges",), ("features",), ("pixels", "features"), ("edges", "features"))
PLACES = np.linspace(0.25, 0.75, 4), np.linspace(0.45, 0.7, 3)  # centres across and down
PLACE_WIDTH = 0.12
PLACED = 1 / 3  # factor on the columns of category at a place: smaller, so penalised more


def feature_families(latent: ImageLatent, latents: np.ndarray,
                     edges: Callable | None = None) -> dict:
    """Features of pictures, by family, from their latents.

    Parameters
    ----------
    latent : ImageLatent
    latents : (n, d) array
        See `ImageLatent.transform`.
    edges : function latents (n, d) -> (n, k), optional
        See `edges.fit_edges`.

    Returns
    -------
    dict of str to (n, p) float32 array
        ``pixels`` and ``features``: the two blocks of the latent. ``object``: what the feature
        encoder reads of category, hue, and category at a place. ``scene``: background, light, and
        both together. These two only of the category network: other encoders name nothing.
        ``edges``, if given: contrast energy.
    """
    pixels, seen = np.split(np.asarray(latents, np.float32), [latent.blocks[0]], axis=1)
    more = {} if edges is None else {"edges": edges(latents).astype(np.float32)}
    if not hasattr(latent.encoder, "named"):
        return {"pixels": pixels, "features": seen} | more
    embedding = seen @ np.linalg.pinv(latent.features.axes) + latent.features.mean
    with torch.no_grad():
        e = torch.tanh(torch.from_numpy(embedding.astype(np.float32)))
        named = {k: v.softmax(1).numpy() for k, v in read_named(latent.encoder.named, e).items()}
        measured = latent.encoder.measured(e).numpy()  # see `features.measured_targets`
    hue = measured[:, :2] / (np.hypot(*measured[:, :2].T)[:, None] + 1e-3)
    factors = measured_factors(measured)
    at = [np.exp(-(np.subtract.outer(factors[axis], centres) ** 2) / (2 * PLACE_WIDTH**2))
          for axis, centres in zip("xy", PLACES, strict=True)]
    place = pairs(*at)  # (n, 12)
    families = {
        "pixels": pixels, "features": seen,
        "object": np.hstack([named["category"], hue, PLACED * pairs(named["category"], place)]),
        "scene": np.hstack([named["background"], named["light"],
                            pairs(named["background"], named["light"])]),
    }
    return {k: v.astype(np.float32) for k, v in families.items()} | more


def pairs(a, b):
    """Products of each column of `a` with each of `b`: (n, p q)."""
    return (a[:, :, None] * b[:, None]).reshape(len(a), -1)
