"""Figures and interactive explorers; only the latter need ipywidgets, so they are imported late."""

from importlib import import_module

from recon_lib.course.own_work import expect_shape, own_work
from recon_lib.course.plots import (
    LABELS, animation, bars, curves, dots, image_grid, null_histogram, rdm, reconstructions)
from recon_lib.course.plots_bold import (
    against_truth, betas_strip, design, histograms, responses, shares, stacked_courses,
    table, time_courses, with_errors)
from recon_lib.course.plots_brain import cortex, slices
from recon_lib.course.style import start_notebook

EXPLORERS = {name: file for file, names in {
    "explore_bold": "glm_playground hrf_explorer roi_explorer",
    "explore_chance": "chance_explorer",
    "explore_cost": "cost_explorer",
    "explore_diffusion": "noising_scrubber schedule_designer unet_tour",
    "explore_guidance": "guidance_explorer lesion_explorer",
    "explore_results": "reconstruction_browser",
    "explore_sampling": "denoising_stepper trajectory"}.items() for name in names.split()}


def __getattr__(name):
    """An explorer, imported now."""
    if name not in EXPLORERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{EXPLORERS[name]}"), name)


def __dir__():
    return sorted({*globals(), *EXPLORERS})
