"""Subjects of a release, embedded or real: pictures, betas and one split for all of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from recon_lib.bold.betas import average_repeats, zscore_sessions
from recon_lib.common.errors import DataError
from recon_lib.common.files import find_any, read_dataset, readable, visible
from recon_lib.common.folders import MARK, completed, is_complete, lost
from recon_lib.common.paths import experiment_folder
from recon_lib.data import bold5000, stimuli, volumes
from recon_lib.data.splits import refuse_leak, some_categories, split_by_group

SUBJECT = "CSI1"
SIZE = 64
BETAS = "BOLD5000_GLMsingle_ROI_betas"  # the folder of release 2


@dataclass
class Experiment:
    """One subject's trials, ready for decoding.

    Attributes
    ----------
    images : (n, size, size, 3) uint8 array
        Every picture once.
    image : (trials,) int array
        Which picture each trial shows.
    betas : (trials, voxels) float32 array
        z-scored per voxel and session by the training trials.
    roi : (voxels,) str array
        Area of each voxel, such as "LHPPA".
    test : (trials,) bool array
        Trials that show a repeated picture, or one of a held-out category.
    session : (trials,) int array
    names : (n,) str array
        File names of the pictures.
    factors : structured array (n,) or None
        What TinyScenes were drawn from.
    truth : Path or None
        The simulation's `truth.h5`.
    split : {"repeated", "category"}
        How the test trials were chosen.
    held : tuple of str
        The held-out categories.
    report : str
        What was read, in a line.
    test_index : (m,) int array
        The pictures of the test trials, sorted.
    """

    images: np.ndarray
    image: np.ndarray
    betas: np.ndarray
    roi: np.ndarray
    test: np.ndarray
    session: np.ndarray
    names: np.ndarray
    factors: np.ndarray | None = None
    truth: Path | None = None
    split: str = "repeated"
    held: tuple = ()
    report: str = ""
    test_index: np.ndarray = field(init=False)

    def __post_init__(self):
        self.test_index = np.unique(self.image[self.test])
        shown = np.unique(self.image[~self.test])
        refuse_leak(self.images[shown], self.images[self.test_index])

    @property
    def train_pictures(self):
        """The pictures of the training trials, trial by trial."""
        return self.images[self.image[~self.test]]

    @property
    def target(self):
        """(test trials,) which of `test_index` each test trial shows."""
        return np.searchsorted(self.test_index, self.image[self.test])

    def averaged(self):
        """Betas of each test picture, averaged over its trials, and the number of trials."""
        means, _, counts = average_repeats(self.betas[self.test], self.target)
        return means, counts


def read_truth(path: str | Path, key: str, names: Sequence[str] | np.ndarray):
    """One of the truth's arrays with a row a picture, in the order of `names`; None without it."""
    with readable(path), h5py.File(path) as file:
        if file.get(key, getlink=True) is None:
            return None
        place = {n.decode(): i for i, n in enumerate(read_dataset(file, "names"))}
        return read_dataset(file, key)[[place[n] for n in names]]


def read_factors(root, names):
    """What the pictures of a simulated experiment were drawn from; None for any other."""
    path = Path(root, "truth.h5")
    if not path.exists():
        return None
    factors = read_truth(path, "factors", names)
    if factors is not None:  # "kind" is what experiments of earlier versions call it
        factors.dtype.names = tuple("category" if name == "kind" else name
                                    for name in factors.dtype.names)
    return factors


def read_release(root, name, release, rois):
    """Read one subject's responses: release 1, or 2 as ROI arrays or else as volumes with masks."""
    if release == 1:
        return bold5000.read_r1(root, name, rois=rois)
    if release != 2:
        raise DataError(f"release is {release}; expected 1 or 2")
    if find_any(root, BETAS) is None and visible(root, f"**/{name}_GLMbetas-*_ses-01.nii.gz"):
        return volumes.read_r2_volumes(root, name, rois)
    return bold5000.read_r2(root, name, rois=rois)


def refuse_unfinished(root):
    """Stop if a simulated experiment's betas are not there, half written, or by two methods."""
    betas = Path(root, BETAS)
    there = betas.is_dir() or not visible(root, "**/*_GLMbetas-*")
    if "simulator" in (completed(root) or {}) and there and not is_complete(betas):
        gone = [betas / name for name in lost(betas)] or [betas / MARK]
        raise DataError(f"{gone[0]}: no such file, so the betas are not whole; estimate them "
                        f"with `python -m recon_lib betas --data {root}`")


def trial_categories(data, factors=None):
    """Category of each trial's picture: what was drawn, or else what the file's name tells."""
    if factors is not None:
        image = np.unique(data.stimuli, return_inverse=True)[1]
        return np.array(stimuli.CATEGORIES)[factors["category"][image]].tolist()
    return [stimuli.category(name) for name in data.stimuli]


def repeated_pictures(root, names, image):
    """Those of a subject's pictures that are on the list of repeated ones, however it spells them.

    `image` (trials,) indexes `names` (n,). If pictures of the list are missing while others are
    shown again, that is a `DataError`: they would be trained on.
    """
    found, missing = stimuli.listed(stimuli.read_repeated(root), names.tolist())
    again = sorted(set(names[np.bincount(image) > 1].tolist()) - set(found))
    if missing and again:
        raise DataError(f"{len(missing)} names on the list of repeated pictures are no picture's "
                        f"({missing[0]}), and {len(again)} pictures that are shown again are not "
                        f"on it ({again[0]}); expected the same spelling in both")
    return found


def load_experiment(root: str | Path | None = None, name: str = SUBJECT, release: int = 2,
                    rois: Sequence[str] = bold5000.ROIS, size: int = SIZE, split: str = "repeated",
                    held: Collection[str] | None = None) -> Experiment:
    """Read one subject of a release, embedded or real.

    Parameters
    ----------
    root : path, optional
        Default: the embedded experiment, `paths.experiment_folder()`.
    name : str
        "CSI1" to "CSI4".
    release : {1, 2}
        1: ROI time points (TR34); 2: single-trial betas, from ROI arrays or whole-brain volumes.
    rois : sequence of str
    size : int
        Side of the pictures.
    split : {"repeated", "category"}
        What is test: the repeated pictures (113 in BOLD5000), or every picture of some categories.
    held : collection of str, optional
        Those categories; default: a tenth of all, chosen at random but always the same.
    """
    root = Path(experiment_folder() if root is None else root)
    if not root.is_dir():
        raise DataError(f"no folder {root}; make it with `python -m recon_lib simulate`")
    refuse_unfinished(root)
    data = read_release(root, name, release, rois)
    names, image = np.unique(data.stimuli, return_inverse=True)
    factors, truth = read_factors(root, names), Path(root, "truth.h5")
    if split == "repeated":
        _, tested = split_by_group(data.stimuli, repeated_pictures(root, names, image))
    elif split == "category":
        categories = trial_categories(data, factors)
        held = sorted(some_categories(categories) if held is None else held)
        _, tested = split_by_group(categories, held)
    else:
        raise DataError(f"split is {split!r}; expected repeated or category")
    test = np.isin(np.arange(len(image)), tested)
    areas = ", ".join(dict.fromkeys(area[2:] for area in data.roi))
    report = (f"{name}: {len(image)} trials of {len(names)} pictures, {len(data.roi)} voxels in "
              f"{areas}, from {data.path.parent}; test: {test.sum()} trials of "
              f"{len(np.unique(image[test]))} pictures ({split} split)")
    return Experiment(
        stimuli.read_images(root, names, size), image,
        zscore_sessions(data.values, data.session, ~test), data.roi, test, data.session, names,
        factors, truth if truth.exists() else None, split, tuple(held or ()),
        report)


def load_subjects(root: str | Path | None = None, names: Sequence[str] = ("CSI1", "CSI2", "CSI3"),
                  release: int = 2, split: str = "repeated", **options: Any) -> dict:
    """Read several subjects of a release, with the same pictures held out for all.

    A picture that is test for one subject and trains another would teach the network the answer,
    so held-out categories are drawn once, from all that any subject saw.

    Parameters
    ----------
    root : path, optional
        Default: the embedded experiment.
    names : sequence of str
    release, split
        See `load_experiment`.
    **options
        For `load_experiment`.

    Returns
    -------
    dict of str to Experiment

    Raises
    ------
    DataError
        If a picture is on both sides.
    """
    root = Path(experiment_folder() if root is None else root)
    if len(set(names)) != len(names):
        raise DataError(f"subjects {', '.join(names)}; expected each once")
    if split == "category" and "held" not in options:
        categories = []
        for name in names:
            data = read_release(root, name, release, rois=("RSC",))  # the smallest is enough
            categories += trial_categories(data, read_factors(root, np.unique(data.stimuli)))
        options["held"] = some_categories(categories)
    subjects = {name: load_experiment(root, name, release, split=split, **options)
                for name in names}
    test = np.concatenate([x.images[x.test_index] for x in subjects.values()])
    for x in subjects.values():
        refuse_leak(x.images[np.unique(x.image[~x.test])], test)
    return subjects


def unique_pictures(subjects):
    """Pictures of all subjects' training trials, each once, by name: (n, H, W, C) uint8."""
    found = {str(x.names[i]): x.images[i] for x in subjects for i in np.unique(x.image[~x.test])}
    return np.stack([found[name] for name in sorted(found)])


def subjects_source(sources):
    """One function for `create_loader(vectors=…)` from a `decoder.vector_source` a subject.

    Each picture of a batch is shown to a subject drawn at random: the network learns to read all of
    them.
    """
    if len(sources) == 1:
        return sources[0]

    def vectors(index, generator):
        who = torch.randint(len(sources), (len(index),), generator=generator)
        every = torch.stack([source(index, generator) for source in sources])  # (s, b, d)
        return every[who, torch.arange(len(index))]

    return vectors
