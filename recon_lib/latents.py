"""From a picture to a short latent vector, and from betas to an estimate of it.

The latent keeps what betas can tell: the coarse layout of the pixels and what the *eye*
(`features.FactorNet`) makes of the things in them. `BrainDecoder` turns betas into the *brain
vector* that conditions the diffusion model, and knows how wrong it is: out-of-fold predictions on
training trials show the errors that new trials will have. With that knowledge a brain vector can be
simulated for any picture, as often as one likes, so the network never learns a training error by
heart.
"""

import copy
import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from sklearn.covariance import ledoit_wolf

from recon_lib.checkpoints import refuse_broken_seal, sealed
from recon_lib.encoding import square_distances
from recon_lib.errors import DataError, atomic_write
from recon_lib.features import EMBEDDING, FactorNet, embed, fitted, to_batch
from recon_lib.ridge import Ridge, fit_ridge

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


def coarse_pixels(images):
    """Pictures at 16 x 16: (n, 768) float32 in [-1, 1]."""
    x = F.adaptive_avg_pool2d(to_batch(images), PIXEL_SIDE)
    return x.flatten(1).numpy()


@dataclass
class ImageLatent:
    """Picture -> latent vector: principal components of coarse pixels and of the eye's features.

    Attributes
    ----------
    eye : FactorNet
    pixels, features : Basis
    memory : (n, d) array or None
        Latents of the pictures that a diffusion model was trained on, see `memory.recall`.
    """

    eye: torch.nn.Module
    pixels: Basis
    features: Basis
    memory: np.ndarray | None = None

    @property
    def blocks(self):
        """Number of components from pixels and from features."""
        return self.pixels.axes.shape[1], self.features.axes.shape[1]

    def transform(self, images):
        """Latents (n, d) float32 of uint8 pictures (n, H, W, C)."""
        seen = self.features.transform(embed(self.eye, images))
        return np.concatenate([self.pixels.transform(coarse_pixels(images)), seen], axis=1)

    def on(self, device):
        """The same latent with a copy of the eye on a device, for `encode` there."""
        return replace(self, eye=copy.deepcopy(self.eye).to(device))

    def encode(self, x):
        """Latents (b, d) of a tensor (b, C, H, W) in [-1, 1], differentiable."""
        x = fitted(x)
        coarse = F.adaptive_avg_pool2d(x, PIXEL_SIDE).flatten(1)
        parts = []
        for basis, values in ((self.pixels, coarse), (self.features, self.eye.embed(x).float())):
            mean, axes = (torch.from_numpy(a).to(x.device) for a in (basis.mean, basis.axes))
            parts.append((values - mean) @ axes)
        return torch.cat(parts, dim=1)


def fit_latent(train_images, eye, pixels=40, features=56):
    """Fit an `ImageLatent` on training pictures.

    Parameters
    ----------
    train_images : (n, H, W, C) uint8 array
    eye : FactorNet
        See `features.load_factor_net`.
    pixels, features : int
        Most components of each kind; fewer where there are fewer pictures.

    Returns
    -------
    ImageLatent
    """
    return ImageLatent(
        eye,
        fit_basis(coarse_pixels(train_images), pixels),
        fit_basis(embed(eye, train_images), features),
    )


def arrays_of(latent):
    """The eye's weights and both bases by name: all that makes a latent of a picture."""
    arrays = {f"eye.{k}": v.cpu().numpy() for k, v in latent.eye.state_dict().items()}
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


def save_latent(latent, path):
    """Write an `ImageLatent` as safetensors: a model conditioned on it is of no use without it.

    The memory is kept in half precision.
    """
    arrays = arrays_of(latent)
    if latent.memory is not None:
        arrays["memory"] = latent.memory.astype(np.float16)
    with atomic_write(path) as partial:
        partial.write_bytes(sealed(save({k: np.ascontiguousarray(v) for k, v in arrays.items()})))


def load_latent(path):
    """Read an `ImageLatent`.

    Raises
    ------
    DataError
        If the file is missing, damaged or something else.
    """
    try:
        arrays = load_file(path)
        refuse_broken_seal(path)
        eye = FactorNet()
        prefix = "eye."
        eye.load_state_dict({k.removeprefix(prefix): torch.from_numpy(v)
                             for k, v in arrays.items() if k.startswith(prefix)})
        parts = [Basis(arrays[f"{n}.mean"], arrays[f"{n}.axes"]) for n in ("pixels", "features")]
        memory = arrays["memory"].astype(np.float32) if "memory" in arrays else None
    except FileNotFoundError as error:
        raise DataError(f"no file {path}; it stands beside the conditional model") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} does not hold a latent ({type(error).__name__}); use a file that training "
            "wrote"
        ) from error
    latent = ImageLatent(eye.eval(), *parts, memory)
    for name, width in (("pixels", 3 * PIXEL_SIDE**2), ("features", EMBEDDING)):
        mean, axes = getattr(latent, name).mean, getattr(latent, name).axes
        if mean.shape != (width,) or axes.ndim != 2 or len(axes) != width:
            raise DataError(
                f"{path}: {name} have a mean of shape {mean.shape} and axes of shape {axes.shape}; "
                f"expected ({width},) and ({width}, components); use a file that training wrote"
            )
    if memory is not None and (memory.ndim != 2 or memory.shape[1] != sum(latent.blocks)):
        raise DataError(
            f"{path}: the memory has shape {memory.shape}; expected (pictures, "
            f"{sum(latent.blocks)}); use a file that training wrote"
        )
    return latent


@dataclass
class BrainDecoder:
    """Betas -> brain vector, with a model of its errors.

    A brain vector is the ridge estimate m of the latent f, followed by 1/√repeats, the relative
    size of the noise. On new trials m = f gain + error, error ~ N(0, covariance / repeats).

    Attributes
    ----------
    ridge : Ridge
        From betas to the latent.
    channel : Ridge
        From the latent to out-of-fold estimates of it: the gain.
    root : (d, d) array
        Cholesky factor of the covariance of the errors.
    """

    ridge: Ridge
    channel: Ridge
    root: np.ndarray

    def vector(self, betas, repeats=1):
        """Brain vectors (n, d + 1) float32 of betas (n, voxels).

        Parameters
        ----------
        betas : array (n, voxels)
            Each row a trial, or the average of `repeats` trials of one picture.
        repeats : int or (n,) array
            Above 0.

        Raises
        ------
        DataError
            If the voxels are not those of the fit, or betas or repeats are no such numbers.
        """
        expected = len(self.ridge.x_mean)
        if betas.shape[1] != expected:
            raise DataError(
                f"the betas have {betas.shape[1]} voxels, the decoder was fitted to {expected}; "
                "use the betas of the same subject and areas"
            )
        if not np.isfinite(betas).all():
            raise DataError("the betas hold NaN or infinite values; expected numbers: drop those "
                            "trials or voxels, as `data.load_own` does")
        repeats = np.asarray(repeats)
        if not ((repeats > 0) & (repeats < np.inf)).all():
            raise DataError("repeats holds a number that is not above 0 and finite; expected how "
                            "many trials each row is the mean of")
        level = np.broadcast_to(1 / np.sqrt(repeats), len(betas))
        return np.column_stack([self.ridge.predict(betas), level]).astype(np.float32)

    def simulate(self, latents, repeats, generator):
        """Brain vectors that pictures could have evoked, with fresh errors.

        Parameters
        ----------
        latents : Tensor (b, d)
        repeats : Tensor (b,)
        generator : torch.Generator

        Returns
        -------
        Tensor (b, d + 1)
        """
        weights, x_mean, y_mean, root = (
            torch.from_numpy(np.asarray(a, np.float32))
            for a in (self.channel.weights, self.channel.x_mean, self.channel.y_mean, self.root)
        )
        level = repeats.float().rsqrt()[:, None]  # (b, 1)
        error = torch.randn(latents.shape, generator=generator) @ root.T
        return torch.cat([(latents - x_mean) @ weights + y_mean + level * error, level], 1)

    def log_likelihood(self, vectors, latents):
        """How well each brain vector (n, d + 1) fits each candidate's latent (m, d): (n, m)."""
        expected = self.channel.predict(latents)  # (m, d)
        white = [np.linalg.solve(self.root, a.T).T for a in (vectors[:, :-1], expected)]
        return -square_distances(*white) / (2 * vectors[:, -1:] ** 2)


def fit_decoder(betas, latents, groups=None, seed=0):
    """Fit a `BrainDecoder` on training trials.

    Parameters
    ----------
    betas : (n, voxels) array
    latents : (n, d) array
        Latent of the picture shown on each trial.
    groups : (n,) array, optional
        Trials of one group (picture, run) are left out together in cross-validation.
    seed : int
        Of the folds.

    Returns
    -------
    BrainDecoder
    """
    betas, latents = np.asarray(betas, np.float32), np.asarray(latents, np.float32)
    ridge = fit_ridge(betas, latents, groups, seed=seed)
    channel = fit_ridge(latents, ridge.out_of_fold, groups, seed=seed)
    covariance, _ = ledoit_wolf(ridge.out_of_fold - channel.out_of_fold)
    covariance += 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return BrainDecoder(ridge, channel, np.linalg.cholesky(covariance))


def vector_source(
    decoder, latents, blocks, repeats=(1, 2, 3, 4, 16, 64, 256), weaken=0.2
):  # fmt: skip
    """A function for `create_loader(vectors=…)`: simulated brain vectors of pictures.

    Now and then a block of the vector (pixels, features) is weakened as a noisier brain would
    weaken it: noise is added and the sum shrunk towards its mean, which is what ridge regression
    does to what it cannot read. So the network also knows what to do when an area is silent.

    Parameters
    ----------
    decoder : BrainDecoder
    latents : (n, d) array
        Of the loader's pictures, in its order.
    blocks : sequence of int
        Sizes of the blocks of the latent; they sum to d.
    repeats : sequence of int
        Numbers of averaged trials to simulate, drawn with equal probability. Few experiments
        average more than four; the others are for `memory.recall`, and teach the network what a
        vector means.
    weaken : float
        Share of blocks to weaken.

    Returns
    -------
    function (index (b,), generator) -> Tensor (b, d + 1)
    """
    latents, choices = torch.from_numpy(np.asarray(latents, np.float32)), torch.tensor(repeats)
    estimates = decoder.ridge.out_of_fold
    mean, spread = (torch.from_numpy(f(estimates, axis=0)) for f in (np.mean, np.std))

    def vectors(index, generator):
        n = choices[torch.randint(len(choices), (len(index),), generator=generator)]
        vector = decoder.simulate(latents[index], n, generator)
        shape = (len(index), len(blocks))
        # noise variance in units of the vector's own: 0 mostly, else log-uniform in .3 to 30
        extra = 0.3 * 100 ** torch.rand(shape, generator=generator)
        extra = extra * (torch.rand(shape, generator=generator) < weaken)
        extra = extra.repeat_interleave(torch.tensor(blocks), dim=1)  # (b, d)
        noise = spread * torch.randn(extra.shape, generator=generator)
        vector[:, :-1] = mean + (vector[:, :-1] - mean + extra.sqrt() * noise) / (1 + extra)
        return vector

    return vectors
