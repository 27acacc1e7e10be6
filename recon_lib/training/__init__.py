"""Training both diffusion models: the loop, a step, what surrounds them, weights on disk."""

from recon_lib.training import cost
from recon_lib.common.errors import Interrupted
from recon_lib.training.checkpoints import load_checkpoint, load_model, save_model
from recon_lib.training.device import autocast
from recon_lib.training.loop import (
    train, train_conditional_diffusion, train_unconditional_diffusion)
from recon_lib.training.step import learning_rate, update_average
