"""From BOLD to single-trial betas: HRF, design, GLM, shrinkage."""
