"""Explorers of conditioning: how much the brain vector decides, and what goes with an area."""

import copy
import functools
from dataclasses import replace

import ipywidgets
import numpy as np
import torch
from torch import nn

from recon_lib.bold.betas import areas_of, silence
from recon_lib.brain.decoder import BrainDecoder
from recon_lib.brain.features import NAMED, load_factor_net, read_factors
from recon_lib.course.explore_sampling import trajectory
from recon_lib.course.explorer import Explorer, choice, sheet, slider
from recon_lib.course.plots import show
from recon_lib.course.style import BLUE, GREY, INK, PALE
from recon_lib.decoding.sampling import (
    SAMPLING,
    Guidance,
    Sampling,
    guided_denoiser,
    sample_pictures,
    sampling_for,
)
from recon_lib.diffusion import SCHEDULES
from recon_lib.guidance import inside, steer
from recon_lib.samplers import dpm_solver, initial_noise, to_uint8
from recon_lib.scores.metrics import pixel_correlation
from recon_lib.training.device import autocast, pick_precision

INTERVALS = {  # noise amplitudes between which to guide; the last of `STEPS` is at .32
    "always": (0.0, 1.0), "not at the end": (0.4, 1.0), "first half only": (0.9, 1.0)}
STEPS = 5  # with more, pictures change little, and a reader who drags a slider does not wait


def nimble(model):
    """The same network, quick to ask for one picture.

    For one picture it takes longer to turn the weights into bfloat16 than to multiply with them,
    so where the CPU is faster with bfloat16, this is a copy that has them so.
    """
    device = next(model.parameters()).device
    if device.type != "cpu" or pick_precision("cpu") == "no":
        return model
    swift = copy.deepcopy(model).to(torch.bfloat16, memory_format=torch.channels_last)
    return swift.requires_grad_(False)


def guidance_explorer(model: nn.Module, info: dict, guidance: Guidance, vectors: np.ndarray,
                      seen: np.ndarray) -> Explorer:
    """One picture, sampled anew at each change: how much should the brain vector decide?

    Parameters
    ----------
    model, info
        A conditional model, see `checkpoints.load_model`.
    guidance : Guidance
        With a likelihood and a prior, see `retrieval_prior.brain_guidance`.
    vectors : (n, d) array
        Brain vectors to choose from.
    seen : (n, H, W, C) uint8 array
        The picture behind each.

    Returns
    -------
    Explorer
        `numbers`: `seen`, `made` (H, W, C) uint8, `guesses` (5 or 4, H, W, C) uint8: estimates
        along the way; `evaluations` of the network; `misfit`: -2 log p(vector | picture) for each
        number of the vector (1 is what the picture seen would give on average); `pixcorr`.
    """
    model = nimble(model)
    vectors = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    alpha_bar = SCHEDULES[info["schedule"]]()
    shape = (model.config["image_channels"], info["image_size"], info["image_size"])

    @functools.lru_cache(256)
    def told(picture, pseudo_trials):  # a search of the whole prior: once is enough
        return torch.from_numpy(guidance.prior(vectors[[picture]].numpy(), pseudo_trials))

    @functools.lru_cache(256)
    @torch.no_grad()
    def numbers(picture, seed, interval, **options):
        sampling = Sampling(interval=INTERVALS[interval], candidates=1, **options)
        fit = guidance.log_likelihood(vectors[[picture]])
        denoise = guided_denoiser(
            model, info, alpha_bar, told(picture, sampling.pseudo_trials), sampling)
        if sampling.strength:
            denoise = steer(denoise, fit, alpha_bar, sampling.strength, sampling.interval)
        noise = initial_noise(1, shape, seed, picture)
        with autocast(vectors.device):
            path = trajectory(dpm_solver, denoise, noise, alpha_bar, sampling.steps)
        shown = torch.linspace(0, sampling.steps - 1, min(5, sampling.steps)).round().long()
        guesses = to_uint8(path.x0[shown, 0])  # the last one is the sample
        twice = sampling.scale != 1 and sum(
            inside(sampling.interval, [t], alpha_bar) for t in path.times)
        return {
            "seen": seen[picture], "made": guesses[-1], "guesses": guesses,
            "evaluations": sampling.steps + int(twice),
            "misfit": -2 * float(fit(path.x0[-1])) / (vectors.shape[1] - 1),
            "pixcorr": float(pixel_correlation(guesses[-1:], seen[[picture]])[0]),
        }

    controls = {
        "scale": slider("guidance scale", SAMPLING.scale, 0.0, 10.0, 0.5),
        "interval": choice("guide", list(INTERVALS), "not at the end"),
        "strength": slider("steering strength", 0.0, 0.0, 2.0, 0.25),
        "pseudo_trials": slider("pseudo-trials", 0, 0, 100, 5),
        "seed": slider("another noise", 0, 0, 20, 1),
        "steps": slider("steps", STEPS, 4, 24, 1),
        "picture": slider("test picture", 0, 0, len(seen) - 1, 1),
    }
    return Explorer(controls, numbers, draw_guidance, lambda n: (
        f"{n['evaluations']} evaluations; misfit to the brain vector {n['misfit']:.3f} (of the "
        f"picture seen about 1); pixel correlation with it {n['pixcorr']:.3f}"))


@sheet(3.9, lambda fig: [fig.add_axes((0.16, 0.4, 0.68, 0.53)), fig.add_axes((0, 0, 1, 0.26))])
def draw_guidance(fig, numbers):
    """The picture seen and the one made; below, the guesses along the way."""
    top, way = fig.axes
    show(top, np.stack([numbers["seen"], numbers["made"]]), 2, 8, ("seen", "made from the brain"))
    show(way, numbers["guesses"], len(numbers["guesses"]), 4)
    way.text(0, -4, "its guesses, from the first step to the last", va="bottom")


def lesion_explorer(model: nn.Module, info: dict, decoder: BrainDecoder, betas: np.ndarray,
                    repeats: int | np.ndarray, roi: np.ndarray, seen: np.ndarray,
                    factors: np.ndarray) -> Explorer:
    """Switch areas of the brain off and see what is no longer read.

    Parameters
    ----------
    model, info
        A conditional model, or its student, which is asked 4 times a picture in place of 10.
    decoder : BrainDecoder
        Fitted to the whole brain.
    betas : (n, voxels) array
    repeats : int or (n,) array
        Trials averaged in each row.
    roi : (voxels,) str array
        Such as "LHPPA"; both hemispheres go together.
    seen : (n, H, W, C) uint8 array
    factors : structured array (n,)
        Of the pictures seen, see `scenes.FACTORS`.

    Returns
    -------
    Explorer
        `numbers`: `pictures` (3, H, W, C): seen, from the whole brain, from what is left;
        `right`: for category, background and light the probability that the evaluation classifier
        gives to the right name, for the whole brain and for what is left; `names`: what it reads,
        for all three; `left`: length of the brain vector, as a share of the whole brain's;
        `voxels` left.
    """
    model, classifier = nimble(model), load_factor_net("evaluation_classifier")
    drawing = sampling_for(info, candidates=1, pseudo_trials=0.0)
    if "ladder" not in info:
        drawing = replace(drawing, steps=STEPS)
    area_of = areas_of(roi)
    areas = list(dict.fromkeys(area_of.tolist()))
    repeats = np.broadcast_to(repeats, len(betas))

    @functools.lru_cache(256)
    def made(picture, seed, off):
        row = silence(betas[picture : picture + 1], roi, *off)
        vector = decoder.vector(row, repeats[picture : picture + 1])
        drawn = sample_pictures(model, info, vector, seed, drawing)
        return drawn[0], read_factors(classifier, drawn), float(np.linalg.norm(vector[0, :-1]))

    shown = read_factors(classifier, seen)

    def numbers(picture, seed, **on):
        off = tuple(area for area in areas if not on[area])
        whole, of_whole, full = made(picture, seed, ())
        part, of_part, rest = made(picture, seed, off)
        pictures = np.stack([seen[picture], whole, part])
        right, names = {}, {}
        for key, known in NAMED.items():
            read = np.stack([shown[key][picture], of_whole[key][0], of_part[key][0]])
            right[key] = read[1:, factors[key][picture]]
            names[key] = [known[i] for i in read.argmax(1)]
        return {
            "pictures": pictures, "right": right, "names": names, "off": off, "left": rest / full,
            "voxels": int((~np.isin(area_of, off)).sum()),
        }

    controls = {
        "picture": slider("test picture", 0, 0, len(seen) - 1, 1),
        "seed": slider("another noise", 0, 0, 20, 1),
    }
    for area in areas:
        controls[area] = ipywidgets.Checkbox(value=True, description=area)
    return Explorer(controls, numbers, draw_lesion, lambda n: (
        f"{n['voxels']} voxels, {n['left']:.1%} of the vector left; right name for "
        + ", ".join(f"{label} {a:.1%} → {b:.1%}" for label, (a, b) in n["right"].items())))


def lay_lesion(fig):
    """Pictures above bars."""
    fig.add_axes((0, 0.46, 1, 0.46)).axis("off")
    ax = fig.add_axes((0.13, 0.14, 0.83, 0.24))
    ax.set(xlim=(0, 1.4), ylim=(2.5, -0.5), xticks=(0, 0.5, 1), yticks=(0, 1, 2),
           xlabel="probability of the right name (grey: whole brain)")


@sheet(4.4, lay_lesion)
def draw_lesion(fig, numbers):
    """The three pictures; below, the probabilities that the right names get."""
    top, ax = fig.axes
    off = ", ".join(numbers["off"]) if numbers["voxels"] else "any area"
    third = f"without {off}" if off else "nothing off"
    show(top, numbers["pictures"], 3, 6, ("seen", "whole brain", third),
         12 if len(third) < 24 else 9)
    place = np.arange(len(numbers["right"]))
    whole, part = np.array(list(numbers["right"].values())).T
    for shift, reach, colour in ((-0.2, whole, PALE), (0.2, part, BLUE)):  # quicker than bars
        ax.hlines(place + shift, 0, reach, colour, linewidth=9)
    for i, names in enumerate(numbers["names"].values()):
        for shift, name, colour in ((-0.2, names[1], GREY), (0.2, names[2], INK)):
            ax.text(1.05, i + shift, name, va="center", color=colour, fontsize=10)
    ax.text(1.05, -0.55, "read as", va="bottom", fontsize=10)
    ax.set_yticklabels(numbers["right"])
