"""Figures and interactive explorers."""

from recon_lib.course.explore_bold import glm_playground, hrf_explorer, roi_explorer
from recon_lib.course.explore_chance import chance_explorer
from recon_lib.course.explore_cost import cost_explorer
from recon_lib.course.explore_diffusion import noising_scrubber, schedule_designer, unet_tour
from recon_lib.course.explore_guidance import guidance_explorer, lesion_explorer
from recon_lib.course.explore_results import reconstruction_browser
from recon_lib.course.explore_sampling import denoising_stepper, trajectory
from recon_lib.course.own_work import own_work
from recon_lib.course.plots import (
    LABELS, animation, bars, curves, dots, image_grid, null_histogram, rdm, reconstructions)
from recon_lib.course.plots_bold import (
    against_truth, betas_strip, design, histograms, responses, shares, stacked_courses,
    table, time_courses, with_errors)
from recon_lib.course.plots_brain import cortex, slices
from recon_lib.course.style import start_notebook
