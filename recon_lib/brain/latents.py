"""From a picture to a short latent vector.

The latent keeps what can be decoded from betas: the coarse layout of the pixels, and the features
that the *feature encoder* (`encoders`) gives of the picture.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.linalg import block_diag

from recon_lib.brain.encoders import load_encoder, weights_of
from recon_lib.brain.features import PIXEL_SIDE, FactorNet, coarse_pixels, embed, fitted
from recon_lib.common.errors import DataError
from recon_lib.common.files import refuse_broken_seal, sealed


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


def fit_layers(x, widths, components):
    """One `Basis` of several layers side by side, each with components of its own."""
    parts = np.split(x, np.cumsum(widths)[:-1], axis=1)
    if len(parts) == 1:
        return fit_basis(x, components[0])
    fits = [fit_basis(part, k) for part, k in zip(parts, components, strict=True)]
    return Basis(np.concatenate([fit.mean for fit in fits]), block_diag(*[f.axes for f in fits]))


@dataclass
class ImageLatent:
    """Picture -> latent vector: components of coarse pixels and of an encoder's features (PCA)."""

    encoder: torch.nn.Module  # features.FactorNet or encoders.LayerNet
    pixels: Basis
    features: Basis
    prior: np.ndarray | None = None  # (n, d) latents of the pictures that a model was trained on

    @property
    def blocks(self):
        """Number of components from pixels and from features."""
        return self.pixels.axes.shape[1], self.features.axes.shape[1]

    def transform(self, images):
        """Latents (n, d) float32 of uint8 pictures (n, H, W, C)."""
        return self.project(coarse_pixels(images), embed(self.encoder, images))

    def project(self, coarse, features):
        """Latents (n, d) from the coarse pixels (n, p) and features (n, q) of pictures."""
        return np.concatenate([self.pixels.transform(coarse), self.features.transform(features)],
                              axis=1)

    def on(self, device):
        """The same latent with its encoder, or a copy of it, on a device, for `encode` there."""
        if next(self.encoder.parameters()).device == device:
            return self
        return replace(self, encoder=copy.deepcopy(self.encoder).to(device))

    def encode(self, x):
        """Latents (b, d) of a tensor (b, C, H, W) in [-1, 1], differentiable."""
        coarse = F.adaptive_avg_pool2d(fitted(x), PIXEL_SIDE).flatten(1)
        parts = []
        features = self.encoder.embed(fitted(x, self.encoder.side)).float()
        for basis, values in ((self.pixels, coarse), (self.features, features)):
            mean, axes = (torch.from_numpy(a).to(x.device) for a in (basis.mean, basis.axes))
            parts.append((values - mean) @ axes)
        return torch.cat(parts, dim=1)


def fit_latent(train_images: np.ndarray, encoder: torch.nn.Module, pixels: int = 40,
               features: int | Sequence[int] = 56):
    """Fit an `ImageLatent` on training pictures.

    Parameters
    ----------
    train_images : (n, H, W, C) uint8 array
    encoder : features.FactorNet or encoders.LayerNet
        See `encoders.choose_encoder`.
    pixels : int
        Most components of the pixels; fewer where there are fewer pictures.
    features : int, or one for each layer of the encoder
        Most components of the features. One number is shared among the layers.

    Returns
    -------
    ImageLatent

    Raises
    ------
    DataError
        If there are other numbers of components than layers.
    """
    layers = len(encoder.widths)
    each = [features // layers] * layers if isinstance(features, int | np.integer) else list(
        features)
    if len(each) != layers:
        raise DataError(f"components of {len(each)} layers for an encoder of {layers}; expected "
                        "one number, or one for each layer")
    return ImageLatent(encoder,
                       fit_basis(coarse_pixels(train_images), pixels),
                       fit_layers(embed(encoder, train_images), encoder.widths, each))


def arrays_of(latent):
    """The encoder and both bases by name: all that is needed to compute latents.

    The category network is kept whole; of other encoders the name and a hash of the weights.
    """
    if isinstance(latent.encoder, FactorNet):
        arrays = {f"eye.{k}": v.cpu().numpy() for k, v in latent.encoder.state_dict().items()}
    else:
        card = {"name": latent.encoder.name, "layers": latent.encoder.layers,
                "weights": weights_of(latent.encoder)}
        arrays = {"encoder": np.frombuffer(json.dumps(card).encode(), np.uint8)}
    for name in ("pixels", "features"):
        basis = getattr(latent, name)
        arrays[f"{name}.mean"], arrays[f"{name}.axes"] = basis.mean, basis.axes
    return arrays


def encoder_of(path, arrays):
    """The encoder that a latent was fitted with; another one is refused."""
    if "encoder" not in arrays:
        encoder, prefix = FactorNet(), "eye."
        encoder.load_state_dict({k.removeprefix(prefix): torch.from_numpy(v)
                                 for k, v in arrays.items() if k.startswith(prefix)})
        return encoder.eval()
    card = json.loads(arrays["encoder"].tobytes())
    encoder = load_encoder(card["name"], tuple(card["layers"]))
    found = weights_of(encoder)
    if found != card["weights"]:
        raise DataError(f"{path} was made with {card['name']} of other weights than are here "
                        f"({card['weights'][:8]}, found {found[:8]}); install those, or train anew")
    return encoder


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


def load_latent(path, whole=None):
    """Read an `ImageLatent` from a file, or from the bytes `whole` that a file keeps.

    A file that is missing, damaged or something else, or a number that is not finite, is a
    `DataError`.
    """
    try:
        whole = Path(path).read_bytes() if whole is None else whole
        arrays = load(whole)
        refuse_broken_seal(whole)
        encoder = encoder_of(path, arrays)
        parts = [Basis(arrays[f"{n}.mean"], arrays[f"{n}.axes"]) for n in ("pixels", "features")]
        prior = arrays["memory"].astype(np.float32) if "memory" in arrays else None
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("numbers that are NaN or infinite")
    except FileNotFoundError as error:
        raise DataError(f"no file {path}; it stands beside the conditional model") from error
    except DataError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} does not hold a latent ({str(error).splitlines()[0][:80]}); use a file that "
            "training wrote") from error
    latent = ImageLatent(encoder, *parts, prior)
    for name, width in (("pixels", 3 * PIXEL_SIDE**2), ("features", sum(encoder.widths))):
        mean, axes = getattr(latent, name).mean, getattr(latent, name).axes
        if mean.shape != (width,) or axes.ndim != 2 or len(axes) != width:
            raise DataError(
                f"{path}: {name} have a mean of shape {mean.shape} and axes of shape {axes.shape}; "
                f"expected ({width},) and ({width}, components); use a file that training wrote")
    if prior is not None and (prior.ndim != 2 or prior.shape[1] != sum(latent.blocks)):
        raise DataError(f"{path}: the prior has shape {prior.shape}; expected (pictures, "
                        f"{sum(latent.blocks)}); use a file that training wrote")
    return latent
