"""From BOLD to single-trial betas: HRF, design, GLM, shrinkage."""

from recon_lib.bold import hrf, single_trial
from recon_lib.bold.betas import (
    average_repeats, correlate_columns, in_areas, noise_ceiling, split_half_reliability, zscore,
    zscore_sessions)
from recon_lib.bold.design import (
    contrast_weights, cosine_drift, design_matrix, nuisance, polynomial_drift, variance_inflation)
from recon_lib.bold.events import fir, peak_height, regressors
from recon_lib.bold.glm import (
    censor, percent_change, single_trial_betas, trial_design, trial_estimator)
from recon_lib.bold.hrf import glover_hrf, spm_hrf
from recon_lib.bold.regression import ar1, autocorrelation, fixed_effects, ols, whiten
from recon_lib.bold.reml import reml_betas
from recon_lib.bold.single_trial import (
    choose_count, find_noise, hrf_fit, noise_components, standard_errors)
