"""Several subjects together: one split for all, and one brain vector for whoever looked."""

from pathlib import Path

import numpy as np
import torch

from recon_lib.errors import DataError
from recon_lib.loading import ROOT, load, read_release, read_truth, trial_categories
from recon_lib.splits import refuse_leak, some_categories


def load_joined(root=ROOT, names=("CSI1", "CSI2", "CSI3"), release=2, split="repeated", **options):
    """Read several subjects of a release, with the same pictures held out for all.

    A picture that is test for one subject and trains another would teach the network the answer,
    so held-out categories are drawn once, from all that any subject saw.

    Parameters
    ----------
    root : path
    names : sequence of str
    release, split
        See `loading.load`.
    **options
        For `loading.load`.

    Returns
    -------
    dict of str to Experiment

    Raises
    ------
    DataError
        If a picture is on both sides.
    """
    if len(set(names)) != len(names):
        raise DataError(f"subjects {', '.join(names)}; expected each once")
    if split == "category" and "held" not in options:
        options["held"] = some_categories(sum((categories(root, n, release) for n in names), []))
    people = {name: load(root, name, release, split=split, **options) for name in names}
    test = np.concatenate([x.images[x.test_index] for x in people.values()])
    for x in people.values():
        refuse_leak(x.images[np.unique(x.image[~x.test])], test)
    return people


def categories(root, name, release):
    """Category of each trial of a subject; see `loading.trial_categories`."""
    data = read_release(root, name, release, rois=("RSC",))  # the smallest is enough
    truth = Path(root, "truth.h5")
    names = np.unique(data.stimuli)
    return trial_categories(data, read_truth(truth, "factors", names) if truth.exists() else None)


def unique_pictures(people):
    """The pictures of all subjects' training trials, each once, in the order of their names.

    Parameters
    ----------
    people : sequence of Experiment

    Returns
    -------
    (n, H, W, C) uint8 array
    """
    found = {}
    for x in people:
        for i in np.unique(x.image[~x.test]):
            found[str(x.names[i])] = x.images[i]
    return np.stack([found[name] for name in sorted(found)])


def joined_source(sources):
    """One function for `create_loader(vectors=…)` from one for each subject.

    Each picture of a batch is shown to a subject drawn at random: the network learns to read all
    of them.

    Parameters
    ----------
    sources : sequence of functions
        See `latents.vector_source`; all give vectors of one length.

    Returns
    -------
    function (index (b,), generator) -> Tensor (b, d)
    """
    if len(sources) == 1:
        return sources[0]

    def vectors(index, generator):
        who = torch.randint(len(sources), (len(index),), generator=generator)
        all_of_them = torch.stack([source(index, generator) for source in sources])  # (s, b, d)
        return all_of_them[who, torch.arange(len(index))]

    return vectors
