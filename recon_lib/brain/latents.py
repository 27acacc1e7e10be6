"""From a picture to a short latent vector.

The latent keeps what betas can tell: the coarse layout of the pixels and what the *feature encoder*
(`features.FactorNet`) makes of the things in them.
"""

import copy
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.numpy import load, save

from recon_lib.brain.features import EMBEDDING, FactorNet, embed, fitted
from recon_lib.common.errors import DataError, atomic_write
from recon_lib.common.files import refuse_broken_seal, sealed
from recon_lib.data.loader import to_batch

PIXEL_SIDE = 16


@dataclass
class Basis:
    """Principal components, each scaled to unit variance on the data they were fitted to."""

    mean: np.ndarray  # (p,)
    axes: np.ndarray  # (p, k)

    def transform(self, x):  # (n, p) -> (n, k)
        return (x - self.mean) @ self.axes


def fit_basis(x, components):
    """Fit a `Basis` of at most `components` axes to the rows of `x` (n, p)."""
    mean = x.mean(0)
    _, s, axes = np.linalg.svd(x - mean, full_matrices=False)
    k = min(components, int((s > 1e-3 * s[0]).sum()))
    spread = s[:k] / max(len(x) - 1, 1) ** 0.5
    return Basis(mean, (axes[:k] / spread[:, None]).T.astype(np.float32))


def coarse_pixels(images: np.ndarray):
    """Pictures at 16 x 16: (n, 768) float32 in [-1, 1]."""
    x = F.adaptive_avg_pool2d(fitted(to_batch(images)), PIXEL_SIDE)
    return x.flatten(1).numpy()


@dataclass
class ImageLatent:
    """Picture -> latent vector: principal components of coarse pixels and of an encoder's features.

    Attributes
    ----------
    encoder : FactorNet
    pixels, features : Basis
    prior : (n, d) array or None
        Latents of the pictures that a diffusion model was trained on, see
        `retrieval_prior.with_pseudo_trials`.
    """

    encoder: torch.nn.Module
    pixels: Basis
    features: Basis
    prior: np.ndarray | None = None

    @property
    def blocks(self):
        """Number of components from pixels and from features."""
        return self.pixels.axes.shape[1], self.features.axes.shape[1]

    def transform(self, images):
        """Latents (n, d) float32 of uint8 pictures (n, H, W, C)."""
        seen = self.features.transform(embed(self.encoder, images))
        return np.concatenate([self.pixels.transform(coarse_pixels(images)), seen], axis=1)

    def on(self, device):
        """The same latent with a copy of the encoder on a device, for `encode` there."""
        return replace(self, encoder=copy.deepcopy(self.encoder).to(device))

    def encode(self, x):
        """Latents (b, d) of a tensor (b, C, H, W) in [-1, 1], differentiable."""
        x = fitted(x)
        coarse = F.adaptive_avg_pool2d(x, PIXEL_SIDE).flatten(1)
        parts = []
        features = self.encoder.embed(x).float()
        for basis, values in ((self.pixels, coarse), (self.features, features)):
            mean, axes = (torch.from_numpy(a).to(x.device) for a in (basis.mean, basis.axes))
            parts.append((values - mean) @ axes)
        return torch.cat(parts, dim=1)


def fit_latent(train_images, encoder, pixels=40, features=56):
    """Fit an `ImageLatent` on training pictures.

    Parameters
    ----------
    train_images : (n, H, W, C) uint8 array
    encoder : FactorNet
        See `features.load_factor_net`.
    pixels, features : int
        Most components of each kind; fewer where there are fewer pictures.

    Returns
    -------
    ImageLatent
    """
    return ImageLatent(
        encoder,
        fit_basis(coarse_pixels(train_images), pixels),
        fit_basis(embed(encoder, train_images), features),
    )


def arrays_of(latent):
    """The encoder's weights and both bases by name: all that makes a latent of a picture."""
    arrays = {f"eye.{k}": v.cpu().numpy() for k, v in latent.encoder.state_dict().items()}
    for name in ("pixels", "features"):
        basis = getattr(latent, name)
        arrays[f"{name}.mean"], arrays[f"{name}.axes"] = basis.mean, basis.axes
    return arrays


def fingerprint(latent):
    """A hash by which a model knows the latent that it was trained with."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays_of(latent).items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def packed(latent):
    """The bytes of an `ImageLatent` as safetensors; the retrieval prior in half precision."""
    arrays = arrays_of(latent)
    if latent.prior is not None:
        arrays["memory"] = latent.prior.astype(np.float16)
    return sealed(save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))


def save_latent(latent, path):
    """Write an `ImageLatent`: a model conditioned on it is of no use without it."""
    with atomic_write(path) as partial:
        partial.write_bytes(packed(latent))


def load_latent(path, whole=None):
    """Read an `ImageLatent` from a file, or from the bytes `whole` that a file keeps.

    Raises
    ------
    DataError
        If the file is missing, damaged or something else, or a number in it is not finite.
    """
    try:
        whole = Path(path).read_bytes() if whole is None else whole
        arrays = load(whole)
        refuse_broken_seal(whole)
        encoder = FactorNet()
        prefix = "eye."
        encoder.load_state_dict({k.removeprefix(prefix): torch.from_numpy(v)
                             for k, v in arrays.items() if k.startswith(prefix)})
        parts = [Basis(arrays[f"{n}.mean"], arrays[f"{n}.axes"]) for n in ("pixels", "features")]
        prior = arrays["memory"].astype(np.float32) if "memory" in arrays else None
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("numbers that are NaN or infinite")
    except FileNotFoundError as error:
        raise DataError(f"no file {path}; it stands beside the conditional model") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} does not hold a latent ({str(error).splitlines()[0][:80]}); use a file that "
            "training wrote"
        ) from error
    latent = ImageLatent(encoder.eval(), *parts, prior)
    for name, width in (("pixels", 3 * PIXEL_SIDE**2), ("features", EMBEDDING)):
        mean, axes = getattr(latent, name).mean, getattr(latent, name).axes
        if mean.shape != (width,) or axes.ndim != 2 or len(axes) != width:
            raise DataError(
                f"{path}: {name} have a mean of shape {mean.shape} and axes of shape {axes.shape}; "
                f"expected ({width},) and ({width}, components); use a file that training wrote"
            )
    if prior is not None and (prior.ndim != 2 or prior.shape[1] != sum(latent.blocks)):
        raise DataError(
            f"{path}: the prior has shape {prior.shape}; expected (pictures, "
            f"{sum(latent.blocks)}); use a file that training wrote"
        )
    return latent
