"""Every explorer of the course on small made-up data: for tests, for the browser, for timing."""

from functools import partial

import numpy as np

from recon_lib.brain.decoder import brain_log_likelihood, fit_decoder
from recon_lib.brain.features import load_factor_net
from recon_lib.course import (
    explore_bold,
    explore_chance,
    explore_cost,
    explore_diffusion,
    explore_guidance,
    explore_results,
    explore_sampling,
)
from recon_lib.data.bold5000 import KEYS
from recon_lib.data.loader import to_batch
from recon_lib.decoding import retrieval_prior
from recon_lib.decoding.sampling import MODEL, STUDENT, Guidance, load_conditional
from recon_lib.diffusion import cosine_schedule, ideal_denoiser
from recon_lib.world.scenes import BACKGROUNDS, CATEGORIES, draw, sample_factors

FACTORS = sample_factors(12, seed=5)
IMAGES = draw(FACTORS)


def roi_explorer(trials=600, each=120):
    """Betas in which each area knows a little of the object and of the scene."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, len(CATEGORIES), trials)
    scene = rng.integers(0, len(BACKGROUNDS), trials)
    voxels = len(KEYS) * each
    tuning = rng.normal(size=(len(CATEGORIES), voxels))[kind]
    tuning += rng.normal(size=(len(BACKGROUNDS), voxels))[scene]
    betas = (tuning + rng.normal(0, 4, (trials, voxels))).astype(np.float32)
    what = {"object": np.array(CATEGORIES)[kind], "scene": np.array(BACKGROUNDS)[scene]}
    return explore_bold.roi_explorer(betas, np.repeat(KEYS, each), what)


def reconstruction_browser():
    """Copies of the pictures seen, more and more noisy."""
    rng = np.random.default_rng(0)
    rows = {"truth": IMAGES}
    for name, noise in (("ridge", 40), ("diffusion", 15), ("shuffled_brain", 120)):
        rows[name] = np.clip(IMAGES + rng.normal(0, noise, IMAGES.shape), 0, 255).astype(np.uint8)
    alike = {name: rng.random((len(IMAGES), len(IMAGES))) for name in rows if name != "truth"}
    return explore_results.reconstruction_browser(rows, alike)


def denoising_stepper():
    """The exact denoiser of a world of twelve scenes: no network needed."""
    alpha_bar = cosine_schedule()
    denoise = ideal_denoiser(to_batch(IMAGES), alpha_bar)
    return explore_sampling.denoising_stepper(denoise, alpha_bar)


def simple_brain(each=40):
    """The shipped model and a decoder of voxels that are noisy sums of a picture's latent.

    LOC sees the feature encoder's features only, EarlyVis the pixels only, the others a little of
    all.
    """
    net = load_conditional(MODEL)
    model, info, latent = net.model, net.info, net.latent
    pictures = np.concatenate([IMAGES, draw(sample_factors(300, seed=6))])
    latents = latent.transform(pictures)
    rng, pixels = np.random.default_rng(0), latent.blocks[0]
    weights = rng.normal(size=(latents.shape[1], len(KEYS) * each))
    roi = np.repeat(KEYS, each)
    area = np.array([name[2:] for name in roi])
    weights[:pixels, area == "LOC"] = 0
    weights[pixels:, area == "EarlyVis"] = 0
    betas = latents @ weights / 10 + rng.normal(size=(len(latents), len(roi)))
    betas = betas.astype(np.float32)
    return model, info, latent, fit_decoder(betas[12:], latents[12:]), betas[:12], roi


def guidance_explorer():
    model, info, latent, decoder, betas, _ = simple_brain()
    likelihood = partial(brain_log_likelihood, decoder, latent)
    prior = partial(retrieval_prior.with_pseudo_trials, decoder, latent.transform(IMAGES[::-1]))
    return explore_guidance.guidance_explorer(
        model, info, Guidance(None, likelihood, prior), decoder.vector(betas), IMAGES)


def lesion_explorer():
    *_, decoder, betas, roi = simple_brain()
    student = load_conditional(STUDENT)
    return explore_guidance.lesion_explorer(
        student.model, student.info, decoder, betas, 1, roi, IMAGES, FACTORS)


EXAMPLES = {
    "hrf_explorer": explore_bold.hrf_explorer,
    "glm_playground": explore_bold.glm_playground,
    "roi_explorer": roi_explorer,
    "noising_scrubber": lambda: explore_diffusion.noising_scrubber(
        IMAGES, load_factor_net("evaluation_classifier")),
    "schedule_designer": lambda: explore_diffusion.schedule_designer(IMAGES[0]),
    "unet_tour": explore_diffusion.unet_tour,
    "denoising_stepper": denoising_stepper,
    "reconstruction_browser": reconstruction_browser,
    "chance_explorer": explore_chance.chance_explorer,
    "cost_explorer": explore_cost.cost_explorer,
    "guidance_explorer": guidance_explorer,
    "lesion_explorer": lesion_explorer,
}


def choices(control, count=5):
    """Values that a control can take: `count` of a slider's from end to end, or all options."""
    if hasattr(control, "max"):
        last = round((control.max - control.min) / control.step)
        stops = np.unique(np.linspace(0, last, count).round())
        return [type(control.value)(control.min + stop * control.step) for stop in stops]
    if hasattr(control, "options"):
        return [o[1] if isinstance(o, tuple) else o for o in control.options]
    return [True, False]
