"""Training both diffusion models: the loop, a step, what surrounds them, weights on disk."""

from recon_lib.training.loop import (
    train_conditional_diffusion,
    train_unconditional_diffusion,
)

__all__ = ["train_conditional_diffusion", "train_unconditional_diffusion"]
