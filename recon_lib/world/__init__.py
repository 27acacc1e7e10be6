"""A simulated world with a known truth: pictures, a subject, a scanner, an experiment."""

from recon_lib.world import subject
from recon_lib.world.experiment import ready
from recon_lib.world.miniature import find_or_build
from recon_lib.world.scan import real_event_related, simulate
from recon_lib.world.scenes import BACKGROUNDS, CATEGORIES, LIGHTS, draw, sample_factors
