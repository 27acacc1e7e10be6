"""Loaders, splits and readers: a release, anybody's arrays, the real brain in the box."""

from recon_lib.data import bold5000, fetch, stimuli
from recon_lib.data.arrays import load_embedded, load_trials
from recon_lib.data.bids import list_runs, read_confounds, read_run, run_stem
from recon_lib.data.haxby import haxby_blocks
from recon_lib.data.loader import BatchLoader, create_loader, to_batch
from recon_lib.data.release import SUBJECT, Experiment, load_experiment, load_subjects, read_truth
from recon_lib.data.splits import folds, refuse_leak
from recon_lib.data.volumes import load_volume, mask_path, read_masks
