"""Pictures drawn from a diffusion model: at will, or one for each brain vector."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recon_lib.brain.latents import ImageLatent, fingerprint, load_latent
from recon_lib.common.errors import DataError, as_count, check, enough_memory
from recon_lib.diffusion import SCHEDULES, denoiser
from recon_lib.guidance import check_guidance, guided, steer
from recon_lib.samplers import initial_noise, to_uint8, walk
from recon_lib.training.checkpoints import CHECKPOINTS, load_checkpoint, load_model, located
from recon_lib.training.device import autocast

MODEL = CHECKPOINTS / "conditional.safetensors"
STUDENT = CHECKPOINTS / "student.safetensors"  # of that model
FEW = 8  # pictures for which one evaluation of twice as many is quicker than two
LATENT = "latent.safetensors"  # stands beside the model, and
GUIDANCE_MODELS = "guidance.safetensors", "guide.safetensors"  # one of these; the second: once


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn. The defaults were chosen by benchmarks/choose_sampling.py.

    Attributes
    ----------
    steps : int
        Of DPM-Solver++(2M).
    scale : float
        Guidance scale, see `guidance.guided`; 1 is none.
    interval : (float, float) or None
        Noise amplitudes between which to guide and to steer.
    strength : float
        How strongly the likelihood steers, see `guidance.steer`; 0: not at all.
    candidates : int
        Pictures drawn for each vector; the one that explains it best is kept.
    pseudo_trials : float
        Weight of the retrieval prior, see `retrieval_prior.with_pseudo_trials`; 0: none.
    batch_size : int
        Vectors at a time.

    Raises
    ------
    DataError
        If a number of things is below 1, or scale, strength or interval mean nothing.
    """

    steps: int = 8
    scale: float = 3.0
    interval: tuple[float, float] | None = (0.3, 1.0)
    strength: float = 0.0
    candidates: int = 2
    pseudo_trials: float = 60.0
    batch_size: int = 64

    def __post_init__(self):
        for name in ("steps", "candidates", "batch_size"):
            as_count(getattr(self, name), name, 1)
        if not 0 <= self.pseudo_trials < math.inf:
            raise DataError(f"pseudo_trials is {self.pseudo_trials}; expected 0 or more")
        check_guidance(self.scale, self.interval)
        check_guidance(self.strength, None, "strength")


SAMPLING = Sampling()  # the card, data/checkpoints/README.md, says how these were chosen
FEW_STEPS = Sampling(steps=4, scale=1.0, interval=None)  # of a student, which has learnt guidance
PLAIN = Sampling(steps=20, scale=1.0, interval=None, candidates=1, pseudo_trials=0.0)
AUTOGUIDANCE = Sampling(steps=20, scale=3.0, interval=(0.3, 0.98), candidates=1,
                        pseudo_trials=0.0)  # away from the shipped guidance model, without vectors


@dataclass
class Guidance:
    """What leads samples beside the network that draws them; each part may be missing.

    Attributes
    ----------
    model : (UNet, info) or None
        A smaller model of the same pictures to move away from. With brain vectors it takes the
        place of the network without its condition.
    log_likelihood : function vectors (b, d) -> function pictures (b, C, H, W) -> (b,), or None
        `partial(decoder.brain_log_likelihood, decoder, latent)`.
    prior : function (vectors (n, d), pseudo_trials) -> vectors (n, d), or None
        `partial(retrieval_prior.with_pseudo_trials, decoder, latent.prior)`: what the network is
        told in place of the vectors. The likelihood stays that of the vectors.
    """

    model: tuple | None = None
    log_likelihood: Callable | None = None
    prior: Callable | None = None


@dataclass
class Conditional:
    """A conditional model as `load_conditional` reads it, with what stands beside it."""

    model: torch.nn.Module
    info: dict
    latent: ImageLatent
    guidance_model: tuple | None  # (model, info); a student has none


def sampling_for(info, **asked):
    """The way of sampling that was chosen for a model, but for what is asked for."""
    return replace(FEW_STEPS if "ladder" in info else SAMPLING, **asked)


def load_drawing(path, device="cpu"):
    """Read a model, as `checkpoints.load_model`, if it says how and what it draws."""
    model, info = load_model(path, device)
    size = info.get("image_size")
    fits = {"prediction": info.get("prediction") in ("x0", "eps", "v"),
            "schedule": info.get("schedule") in list(SCHEDULES),
            "image_size": isinstance(size, int) and 0 < size <= 2**14,
            "ladder": "ladder" not in info or is_ladder(info["ladder"])}
    if not all(fits.values()):
        wrong = ", ".join(sorted(name for name, fit in fits.items() if not fit))
        raise DataError(f"{path} does not say its {wrong}; use a model that training wrote")
    return model, info


def is_ladder(times):
    """Are these the falling times of a student, see `distil.ladder`?"""
    return (isinstance(times, list) and times != [] and all(type(t) is int for t in times)
            and times == sorted(set(times), reverse=True) and 0 <= times[-1] <= times[0] < 1000)


def load_latent_of(path):
    """The latent of a conditional model: beside it, or in its checkpoint."""
    held = {} if located(path).suffix == ".safetensors" else load_checkpoint(path)
    kept = held.get("beside", {}).get(LATENT)
    return load_latent(located(path).with_name(LATENT),
                       None if kept is None else kept.numpy().tobytes())


def load_conditional(path: str | Path = MODEL, device: str = "cpu", size: int | None = None,
                     channels: int = 3) -> Conditional:
    """Read a conditional model and the files beside it, and check that they fit.

    Parameters
    ----------
    path : path, or the name of a shipped model
    device : str
    size, channels : int, optional
        Of the pictures that are to be reconstructed.

    Raises
    ------
    DataError
        If a file is missing or damaged, or they do not fit each other or the pictures.
    """
    model, info = load_drawing(path, device)
    if model.config["condition_size"] is None:
        raise DataError(f"{path} draws without brain vectors; expected a conditional model, or a "
                        "student of one")
    latent = load_latent_of(path)
    width = sum(latent.blocks) + 1
    if model.config["condition_size"] != width:
        raise DataError(
            f"{path} takes brain vectors of {model.config['condition_size']} numbers, the "
            f"latent beside it gives {width}; use a model and a latent of the same training")
    if info.get("latent") not in (None, fingerprint(latent)):
        raise DataError(
            f"the {LATENT} beside {path} is of another training than the model; use the pair that "
            "one training wrote")
    made = info["image_size"], model.config["image_channels"]
    if size is not None and made != (size, channels):
        raise DataError(
            f"{path} makes pictures of {made[0]} pixels and {made[1]} channels, yours have {size} "
            f"and {channels}; bring them to one size and colour, or train a model on them")
    other = None if "ladder" in info else load_guidance_model(path, model, info)
    return Conditional(model, info, latent, other)  # a student has learnt its teacher's guidance


def guidance_beside(path):
    """The file of the guidance model that stands beside a model, or None."""
    files = map(located(path).with_name, GUIDANCE_MODELS)
    return next((file for file in files if file.is_file()), None)


def load_guidance_model(path: str | Path, model: nn.Module, info: dict) -> Any:
    """The smaller network that stands beside a model, for samples to move away from.

    Parameters
    ----------
    path : path, or the name of a shipped model
    model, info
        What was read from it.

    Returns
    -------
    (network, info), or None if there is none

    Raises
    ------
    DataError
        If the file is damaged, or does not fit the model.
    """
    beside = guidance_beside(path)
    if beside is None:
        return None
    other = load_drawing(beside, next(model.parameters()).device)
    refuse_misfit(model, info, *other)
    return other


def sample(denoise, noise, alpha_bar, steps):
    """Walk from noise to pictures (b, C, H, W), see `samplers.walk`, at the best precision."""
    noise = noise.to(alpha_bar.device, memory_format=torch.channels_last)
    with autocast(noise.device), enough_memory("`batch_size`, the pictures drawn at a time"):
        return walk(denoise, noise, alpha_bar, steps)


@torch.no_grad()
def likeliest_of(candidates, log_likelihood):
    """The likeliest of k candidates (b, C, H, W) of each of b samples."""
    values = torch.stack([log_likelihood(x0) for x0 in candidates])  # (k, b)
    if values.isnan().any():
        raise DataError("the log-likelihood of a candidate is NaN; expected a number: look at the "
                        "brain vectors and the decoder")
    best = values.argmax(0)  # (b,)
    return torch.stack(candidates)[best, torch.arange(len(best), device=best.device)]


def at_once(model, condition):
    """The network, which is first asked without and then with the condition, in one evaluation.

    With few pictures the time goes to reading the weights: twice as many hardly take longer.

    Parameters
    ----------
    model : UNet
    condition : Tensor (b, d)
    """
    n, latest = len(condition), {}
    mask = torch.arange(2 * n, device=condition.device) >= n

    def ask(x_t, t, told=None):
        if told is not None:
            x, answer = latest.pop("told", (None, None))
            return answer if x is x_t else model(x_t, t, told)
        without, answer = model(x_t.repeat(2, 1, 1, 1), t.repeat(2), condition.repeat(2, 1),
                                mask).chunk(2)
        latest["told"] = x_t, answer
        return without

    return ask


def guided_denoiser(model: nn.Module, info: dict, alpha_bar: Tensor, condition: Tensor | None,
                    sampling: Sampling, other: tuple | None = None):
    """The network as a denoiser, guided away from `other` or from itself without a condition.

    Parameters
    ----------
    model, info, alpha_bar
        See `diffusion.denoiser`.
    condition : Tensor (b, d) or None
    sampling : Sampling
    other : (model, info), optional
        The guidance model.
    """
    guess = partial(denoiser, model, info["prediction"], alpha_bar)
    if other is not None:
        pair = guess(condition), denoiser(other[0], other[1]["prediction"], alpha_bar)
    elif condition is not None:
        if len(condition) <= FEW and sampling.scale:
            guess = partial(denoiser, at_once(model, condition), info["prediction"], alpha_bar)
        pair = guess(condition, clamp=False), guess(clamp=False)
    else:
        return guess()
    return guided(*pair, alpha_bar, sampling.scale, sampling.interval)


def sample_pictures(model: nn.Module, info: dict, vectors: Any, seed: int = 0,
                    sampling: Sampling = PLAIN, guidance: Guidance | None = None,
                    measured: Any = None) -> np.ndarray:
    """Draw pictures from a diffusion model, one for each brain vector.

    Parameters
    ----------
    model, info
        From `checkpoints.load_model`.
    vectors : (n, d) array, or int
        Brain vectors. A number: so many pictures without a condition.
    seed : int
        Picture i starts from noise that depends on (seed, i) alone.
    sampling : Sampling
    guidance : Guidance, optional
    measured : (n, k) array, optional
        What the likelihood is of, where that is not the vectors; a row each.

    Returns
    -------
    (n, H, W, C) uint8 array

    Raises
    ------
    DataError
        If there are several candidates and nothing to choose by, there is nothing to draw, vectors
        are not finite, or a guidance model does not fit.
    """
    guidance = guidance or Guidance()
    n = vectors if np.ndim(vectors) == 0 else len(vectors)
    vectors = None if np.ndim(vectors) == 0 else vectors
    n = as_count(n, "n", 1)
    likelihood = guidance.log_likelihood
    if likelihood is None if sampling.candidates > 1 else likelihood and vectors is None:
        raise DataError(
            "found candidates without a likelihood to choose by, or a likelihood without brain "
            "vectors; give both vectors and likelihood, or neither and one candidate")
    refuse_unlearnt(info, sampling)
    if guidance.model is not None:
        refuse_misfit(model, info, *guidance.model)
    device = next(model.parameters()).device
    alpha_bar = SCHEDULES[info["schedule"]]().to(device)
    told = None
    if vectors is not None:
        told = check(vectors, what="the array of brain vectors").astype(np.float32)
        measured = told if measured is None else np.asarray(measured, np.float32)
        if guidance.prior is not None:
            told = guidance.prior(told, sampling.pseudo_trials)
        told, measured = (torch.from_numpy(v).to(device) for v in (told, measured))
    shape = (model.config["image_channels"], info["image_size"], info["image_size"])
    pictures = []
    for first in tqdm(range(0, n, sampling.batch_size), "sample", disable=None, leave=False):
        rows = slice(first, min(first + sampling.batch_size, n))
        condition = None if told is None else told[rows]
        denoise = guided_denoiser(model, info, alpha_bar, condition, sampling, guidance.model)
        fit = likelihood and likelihood(measured[rows])
        if fit and sampling.strength:
            denoise = steer(denoise, fit, alpha_bar, sampling.strength, sampling.interval)
        drawn = [  # candidate k of sample i starts from noise number i + k n
            sample(denoise, initial_noise(rows.stop - first, shape, seed, first + k * n), alpha_bar,
                   info.get("ladder", sampling.steps)) for k in range(sampling.candidates)
        ]
        pictures.append(to_uint8(drawn[0] if len(drawn) == 1 else likeliest_of(drawn, fit)))
    return np.concatenate(pictures)


def refuse_unlearnt(info, sampling):
    """Stop with a `DataError` if a student is asked for what its teacher alone can do."""
    ladder = info.get("ladder")
    if ladder is not None and (sampling.steps != len(ladder) or sampling.scale != 1):
        raise DataError(
            f"steps are {sampling.steps} and the guidance scale {sampling.scale:g}, but this model "
            f"is a student: it draws in {len(ladder)} steps, with the guidance that it learnt "
            "(scale 1); for others take its teacher, such as `--model conditional`")


def refuse_misfit(model, info, other, its_info):
    """Stop with a `DataError` if a guidance model knows other pictures or another schedule."""
    mine, its = ({"schedule": i["schedule"], "image_size": i["image_size"],
                  "image_channels": m.config["image_channels"]}
                 for m, i in ((model, info), (other, its_info)))
    if mine != its:
        raise DataError(f"the guidance model has {its}, the model {mine}; expected the same: train "
                        "it on the same pictures with the same schedule")
