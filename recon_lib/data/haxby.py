"""A real brain: one slice of subject 1 of Haxby et al. 2001, Science 293:2425 (see `data/`)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon_lib.common.errors import DataError
from recon_lib.common.files import read_npz
from recon_lib.common.paths import shipped

PATH = shipped("haxby_sub1_1slice.npz")


@dataclass
class Blocks:
    """Mean patterns of the blocks of a recording, in order of time.

    Attributes
    ----------
    patterns : (96, 530) float32 array
        z units; 8 categories x 12 runs.
    category : (96,) str array
        bottle, cat, chair, face, house, scissors, scrambledpix or shoe.
    run : (96,) int array
        0 to 11.
    """

    patterns: np.ndarray
    category: np.ndarray
    run: np.ndarray


def haxby_blocks(path: str | Path = PATH) -> Blocks:
    """Mean pattern of each block of pictures of one category.

    Each run is detrended (a straight line) and z-scored voxel by voxel over all of its
    volumes; then the 9 volumes of each block are averaged. The labels of this recording are
    already shifted by about 4.5 s, so there is no further shift for the HRF.

    Parameters
    ----------
    path : path, optional
        The .npz with `bold` (volumes, voxels), `label` and `run`.
    """
    from scipy.signal import detrend  # takes half a second to import

    bold, label, run = read_npz(path, ("bold", "label", "run")).values()
    if not len(bold) == len(label) == len(run):
        raise DataError(f"{path}: {len(bold)} volumes, {len(label)} labels; expected equal numbers")
    signal = np.empty(bold.shape, np.float32)
    for r in np.unique(run):
        part = detrend(bold[run == r].astype(np.float64), axis=0)
        signal[run == r] = part / np.maximum(part.std(axis=0), 1e-9)
    starts = np.flatnonzero(np.r_[True, (label[1:] != label[:-1]) | (run[1:] != run[:-1])])
    blocks = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(label)], strict=True)]
    blocks = [block for block in blocks if label[block.start] != "rest"]
    first = [block.start for block in blocks]
    patterns = np.stack([signal[block].mean(axis=0) for block in blocks])
    return Blocks(patterns, label[first], run[first])
