"""From brain vectors to pictures: baselines, samplers with a brain, cross-validation."""
