"""From betas to the brain vector that conditions the diffusion model.

`BrainDecoder` has a model of its own errors: out-of-fold predictions on training trials show the
errors that new trials will have. With it a brain vector can be simulated for any picture, with
fresh errors each time, so that the network never memorises the errors of the training trials.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon_lib.brain.encoding import shrunk_covariance, square_distances
from recon_lib.brain.latents import ImageLatent
from recon_lib.brain.ridge import Ridge, fit_ridge
from recon_lib.common.errors import DataError, as_numbers, check


@dataclass
class BrainDecoder:
    """Betas -> brain vector, with a model of its errors.

    A brain vector is the ridge estimate m of the latent f, followed by 1/√repeats, the relative
    size of the noise. On new trials m = f gain + error, error ~ N(0, covariance / repeats).
    """

    ridge: Ridge  # from betas to the latent
    forward: Ridge  # from the latent to out-of-fold estimates of it: the gain
    noise_cholesky: np.ndarray  # (d, d) Cholesky factor of the covariance of the errors

    def vector(self, betas, repeats=1):
        """Brain vectors (n, d + 1) float32 of betas (n, voxels).

        Each row is a trial, or the average of `repeats` trials (one number, or (n,), above 0) of
        one picture. A `DataError` is raised for other voxels than those of the fit, and for betas
        or repeats that are no such numbers.
        """
        betas = check(betas, ("trials", len(self.ridge.x_mean)),
                      what="the array of betas (of the subject and areas of the decoder)")
        repeats = as_numbers(repeats, "repeats")
        if not ((repeats > 0) & (repeats < np.inf)).all():
            raise DataError("repeats holds a number that is not above 0 and finite; expected how "
                            "many trials each row is the mean of")
        level = np.broadcast_to(1 / np.sqrt(repeats), len(betas))
        return np.column_stack([self.ridge.predict(betas), level]).astype(np.float32)

    def simulate(self, latents, repeats, generator):
        """Brain vectors (b, d + 1) that pictures could have evoked, with fresh errors.

        `latents` (b, d) and `repeats` (b,) are tensors.
        """
        model = self.forward
        weights, x_mean, y_mean, noise_cholesky = (
            torch.from_numpy(np.asarray(a, np.float32))
            for a in (model.weights, model.x_mean, model.y_mean, self.noise_cholesky)
        )
        level = repeats.float().rsqrt()[:, None]  # (b, 1)
        error = torch.randn(latents.shape, generator=generator) @ noise_cholesky.T
        return torch.cat([(latents - x_mean) @ weights + y_mean + level * error, level], 1)

    def log_likelihood(self, vectors, latents):
        """How well each brain vector (n, d + 1) fits each candidate's latent (m, d): (n, m)."""
        expected = self.forward.predict(latents)  # (m, d)
        white = [np.linalg.solve(self.noise_cholesky, a.T).T for a in (vectors[:, :-1], expected)]
        return -square_distances(*white) / (2 * vectors[:, -1:] ** 2)


def fit_decoder(betas: np.ndarray, latents: np.ndarray, groups: np.ndarray | None = None,
                seed: int = 0) -> BrainDecoder:
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
    """
    betas, latents = (as_numbers(x, what).astype(np.float32, copy=False)
                      for x, what in ((betas, "the betas"), (latents, "the latents")))
    ridge = fit_ridge(betas, latents, groups, seed=seed)
    forward = fit_ridge(latents, ridge.out_of_fold, groups, seed=seed)
    covariance = shrunk_covariance(ridge.out_of_fold - forward.out_of_fold)
    covariance += 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return BrainDecoder(ridge, forward, np.linalg.cholesky(covariance))


def brain_log_likelihood(decoder: BrainDecoder, latent: ImageLatent, vectors: Tensor) -> Callable:
    """Build log p(brain vector | picture), up to a constant, as a function of pictures.

    A picture has the latent f, and a brain vector of that picture is N(f gain, covariance /
    repeats), fitted on training trials: the picture that was really seen is nowhere needed. It is
    differentiable, so it can steer a sampler, see `guidance.steer`, and choose among candidates.

    Parameters
    ----------
    decoder : BrainDecoder
    latent : ImageLatent
    vectors : Tensor (b, d + 1)
        Brain vectors, see `BrainDecoder.vector`.

    Returns
    -------
    function pictures (b, C, H, W) in [-1, 1] -> Tensor (b,)
        Vector i is held against picture i.
    """
    def tensor(array):
        return torch.as_tensor(array, dtype=torch.float32, device=vectors.device)

    forward = decoder.forward
    gain, x_mean, y_mean = map(tensor, (forward.weights, forward.x_mean, forward.y_mean))
    noise_cholesky = tensor(decoder.noise_cholesky)
    level = vectors[:, -1]  # (b,) 1 / √repeats
    latent = latent.on(vectors.device)

    def log_likelihood(pictures):
        with torch.autocast(vectors.device.type, enabled=False):  # its gradient needs all digits
            expected = (latent.encode(pictures) - x_mean) @ gain + y_mean  # (b, d)
            error = (vectors[:, :-1] - expected).T  # (d, b)
            white = torch.linalg.solve_triangular(noise_cholesky, error, upper=False)
        return -white.square().sum(0) / (2 * level.square())

    return log_likelihood


def vector_source(decoder: BrainDecoder, latents: np.ndarray, blocks: Sequence[int],
                  repeats: Sequence[int] = (1, 2, 3, 4, 16, 64, 256),
                  weaken: float = 0.2) -> Callable:
    """A function for `create_loader(vectors=…)`: simulated brain vectors of pictures.

    Some blocks of the vector (pixels, features) are weakened as a noisier brain would weaken them:
    noise is added and the sum is shrunk towards its mean, which is what ridge regression does to
    what it cannot read. So the network also learns to draw when an area carries no information.

    Parameters
    ----------
    decoder : BrainDecoder
    latents : (n, d) array
        Of the loader's pictures, in its order.
    blocks : sequence of int
        Sizes of the blocks of the latent; they sum to d.
    repeats : sequence of int
        Numbers of averaged trials to simulate, drawn with equal probability. Few experiments
        average more than four; vectors with pseudo-trials, see `Posterior.vectors`, count as more.
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
