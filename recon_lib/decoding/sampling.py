"""Pictures drawn from a diffusion model: at will, or one for each brain vector."""

import numpy as np
import torch
from tqdm import tqdm

from recon_lib.brain.latents import fingerprint, load_latent
from recon_lib.common.errors import DataError, enough_memory
from recon_lib.diffusion import SCHEDULES, denoiser
from recon_lib.guidance import autoguided, steer
from recon_lib.samplers import dpm_solver, initial_noise, to_uint8
from recon_lib.training.checkpoints import CHECKPOINTS, load_model, located
from recon_lib.training.run import autocast

MODEL = CHECKPOINTS / "conditional.safetensors"
LATENT, GUIDE = "latent.safetensors", "guide.safetensors"  # stand beside the model
# Chosen by `recipes.choose_sampling`, on training trials: see the card, data/checkpoints/README.md.
SAMPLING = dict(
    scale=3.0, interval=(0.3, 1.0), steps=20, strength=1.0, candidates=2, trust=60.0
)  # fmt: skip
# Away from the shipped "guide": chosen by `recipes.choose_guidance`, as the card says.
AUTOGUIDANCE = dict(scale=3.0, interval=(0.3, 0.98))


def load_conditional(path, device="cpu", size=None, channels=3):
    """Read a conditional model and the latent beside it, and check that they fit.

    Parameters
    ----------
    path : path, or the name of a shipped model
    device : str
    size, channels : int, optional
        Of the pictures that are to be reconstructed.

    Returns
    -------
    model, info
        See `checkpoints.load_model`.
    latent : ImageLatent

    Raises
    ------
    DataError
        If a file is missing or damaged, or they do not fit each other or the pictures.
    """
    model, info = load_model(path, device)
    latent = load_latent(located(path).with_name(LATENT))
    silent = {"prediction", "schedule", "image_size"} - info.keys()
    if silent:
        raise DataError(
            f"{path} does not say its {', '.join(sorted(silent))}; use a model that training wrote"
        )
    width = sum(latent.blocks) + 1
    if model.config["condition_size"] != width:
        raise DataError(
            f"{path} takes brain vectors of {model.config['condition_size']} numbers, the "
            f"latent beside it gives {width}; use a model and a latent of the same training"
        )
    if info.get("latent") not in (None, fingerprint(latent)):
        raise DataError(
            f"the {LATENT} beside {path} is of another training than the model; use the pair that "
            "one training wrote"
        )
    made = info["image_size"], model.config["image_channels"]
    if size is not None and made != (size, channels):
        raise DataError(
            f"{path} makes pictures of {made[0]} pixels and {made[1]} channels, yours have {size} "
            f"and {channels}; bring them to one size and colour, or train a model on them"
        )
    return model, info, latent


def load_guide(path, model, info):
    """The worse network that stands beside a model, for `sample_pictures` to move away from.

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
    beside = located(path).with_name(GUIDE)
    if not beside.is_file():
        return None
    worse = load_model(beside, next(model.parameters()).device)
    refuse_misfit(model, info, *worse)
    return worse


def sample_pictures(model, info, vectors=None, n=None, seed=0, scale=1.0, interval=None, steps=20,
                    batch_size=64, label="sample", likelihood=None, strength=1.0, candidates=1,
                    recall=None, trust=30.0, worse=None):
    """Draw pictures from a diffusion model, one for each brain vector.

    Parameters
    ----------
    model, info
        From `checkpoints.load_model`.
    vectors : (n, d) array, optional
        Brain vectors. None: `n` unconditional pictures.
    seed : int
        Picture i starts from noise that depends on (seed, i) alone.
    scale : float
        Guidance scale; 1 is plain sampling. It does nothing without vectors or a worse model.
    interval : (float, float), optional
        Noise amplitudes between which to guide and to steer; see `diffusion.denoiser`.
    steps : int
        Steps of DPM-Solver++(2M).
    batch_size : int
    label : str
        Of the progress bar.
    likelihood : function vectors (b, d) -> function pictures (b, C, H, W) -> (b,), optional
        `partial(posterior.evidence, decoder, latent)`: how well pictures explain brain vectors.
    strength : float
        How strongly the likelihood steers, see `guidance.steer`; 0: not at all.
    candidates : int
        Pictures drawn for each vector; the one that explains it best is kept.
    recall : function (vectors (b, d), trust) -> vectors (b, d), optional
        `partial(memory.recall, decoder, latent.memory)`: what the network is told in place of the
        vectors. The likelihood stays that of the vectors.
    trust : float
        See `retrieval_prior.recall`.
    worse : (model, info), optional
        A worse model of the same pictures, to move away from, see `guidance.autoguided`. With
        brain vectors it stands in for the model's own answer without them: what is moved away
        from is then told less, too.

    Returns
    -------
    (n, H, W, C) uint8 array

    Raises
    ------
    DataError
        If there are several candidates and nothing to choose by, there is nothing to draw,
        vectors, scale or strength are not finite, or a worse model does not fit.
    """
    wanted = {"n": n if vectors is None else len(vectors), "candidates": candidates,
              "batch_size": batch_size}
    for name, number in wanted.items():
        if number is None or number < 1:
            raise DataError(f"{name} is {number}; expected 1 or more")
    if (likelihood is None and candidates > 1) or (likelihood is not None and vectors is None):
        raise DataError(
            "found candidates without a likelihood to choose by, or a likelihood without brain "
            "vectors; give both vectors and likelihood, or neither and one candidate"
        )
    if not np.isfinite(strength):
        raise DataError(f"strength is {strength}; expected a number, 0 for no steering")
    if worse is not None:
        refuse_misfit(model, info, *worse)
    device = next(model.parameters()).device
    alpha_bar = SCHEDULES[info["schedule"]]().to(device)
    n = wanted["n"]
    if vectors is not None:
        measured = told = np.ascontiguousarray(vectors, np.float32)
        if not np.isfinite(measured).all():
            raise DataError("the brain vectors hold NaN or infinite values; expected numbers: "
                            "repair the betas that they came from, or drop those trials")
        if recall is not None:
            told = recall(measured, trust)
        told, measured = (torch.from_numpy(v).to(device) for v in (told, measured))
    shape = (model.config["image_channels"], info["image_size"], info["image_size"])
    pictures = []
    for first in tqdm(range(0, n, batch_size), label, disable=None, leave=False):
        count = min(batch_size, n - first)
        rows = slice(first, first + count)
        condition = None if vectors is None else told[rows]
        if worse is None:
            denoise = denoiser(model, info["prediction"], alpha_bar, condition, scale, interval)
        else:
            denoise = autoguided(
                denoiser(model, info["prediction"], alpha_bar, condition),
                denoiser(worse[0], worse[1]["prediction"], alpha_bar), alpha_bar, scale, interval,
            )
        fit = None if likelihood is None else likelihood(measured[rows])
        if fit is not None and strength:
            denoise = steer(denoise, fit, alpha_bar, strength, interval)
        drawn = []  # candidate k of sample i starts from noise number i + k n
        for start in range(first, first + candidates * n, n):
            noise = initial_noise(count, shape, seed, start).to(
                device, memory_format=torch.channels_last
            )
            with autocast(device), enough_memory("`batch_size`, the pictures drawn at a time"):
                drawn.append(dpm_solver(denoise, noise, alpha_bar, steps))  # (count, C, H, W)
        if candidates > 1:
            with torch.no_grad():
                best = torch.stack([fit(x0) for x0 in drawn]).argmax(0)  # (count,)
            drawn = [torch.stack(drawn)[best, torch.arange(count, device=device)]]
        pictures.append(to_uint8(drawn[0]))
    return np.concatenate(pictures)


def refuse_misfit(model, info, worse, its_info):
    """Stop with a `DataError` if a worse model cannot guide: it knows other pictures or levels."""
    mine, its = ({"schedule": i["schedule"], "image_size": i["image_size"],
                  "image_channels": m.config["image_channels"]}
                 for m, i in ((model, info), (worse, its_info)))
    if mine != its:
        raise DataError(f"the worse model has {its}, the model {mine}; expected the same: train "
                        "it on the same pictures with the same schedule")
