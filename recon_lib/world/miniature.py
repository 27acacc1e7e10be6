"""BOLD5000 in miniature: simulated subjects, in the files and folders of the published releases.

For tests, and for notebook 09 where the data are absent. Everything but the numbers is as
published: both releases, whole-brain volumes with their own origin, masks with their wrong names,
raw runs with events and confounds, picture lists with and without `rep_`, and a fourth subject
who came to fewer sessions. There is no `truth.h5`: a real release has none.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recon_lib.common.folders import build_whole
from recon_lib.common.paths import data_folder
from recon_lib.data import bold5000, stimuli, volumes
from recon_lib.data.bold5000 import KEYS
from recon_lib.data.fetch import TRAINING, is_here
from recon_lib.data.raw_betas import estimate_betas
from recon_lib.data.release import BETAS, SIZE
from recon_lib.world import experiment, scenes, subject, tuning

SESSIONS = {"CSI1": (5, 5), "CSI2": (5, 5), "CSI4": (6,)}  # runs in each session
VOXELS = {
    "CSI1": dict(zip(KEYS, (50, 60, 40, 50, 25, 40, 30, 40, 20, 30), strict=True)),
    "CSI2": dict(zip(KEYS, (60, 50, 50, 60, 35, 30, 40, 50, 25, 20), strict=True)),
    "CSI4": dict(zip(KEYS, (40, 50, 50, 40, 30, 40, 40, 30, 30, 30), strict=True)),
}
REPEATED, SHOWINGS = 15, 4
SNR = 0.3  # ten times that of the embedded experiment: few trials have to do
ORIGIN = (-70.0, -88.0, -71.0)  # of the volumes, in mm; the masks have another
POINTS = ("1", "2", "3", "4", "5", "34")


def names_by_content(factors, seed):
    """File names as in BOLD5000, told by what is in the picture.

    ImageNet's begin with a synset, one for each object category; those of scenes with the
    background; COCO's have only a number.
    """
    rng = np.random.default_rng((seed, 7))
    source = rng.choice(["COCO", "ImageNet", "Scene"], len(factors), p=[0.4, 0.4, 0.2])
    names = []
    for i, (place, one) in enumerate(zip(source.tolist(), factors, strict=True), 1):
        names.append({
            "COCO": f"COCO_train2014_{i:012d}.jpg",
            "ImageNet": f"n{90_000_000 + int(one['category']):08d}_{i}.JPEG",
            "Scene": f"{scenes.BACKGROUNDS[one['background']]}{i}.jpg",
        }[place])
    return names


def designs(sessions, seed):
    """The `Design` of each subject: the same pictures in another order, fewer in fewer sessions."""
    longest = max(sessions.values(), key=sum)
    whole = subject.make_design(seed, longest, REPEATED, REPEATED * SHOWINGS)
    found = {}
    for number, (name, runs) in enumerate(sessions.items(), 1):
        mine = subject.make_design((seed, number), runs, REPEATED, REPEATED * SHOWINGS)
        order = np.random.default_rng((seed, number, 1)).permutation(whole.image)
        found[name] = replace(mine, image=order[: len(mine.image)], repeated=whole.repeated)
    return found, int(whole.image.max()) + 1


def write(root, sessions, voxels, seed, snr):
    """Write the release of these subjects into the folder `root`; return how many files."""
    plans, count = designs(sessions, seed)
    factors = scenes.sample_factors(count, seed)
    images, names = scenes.draw(factors, SIZE), names_by_content(factors, seed)
    lists = root / "BOLD5000_Stimuli"
    stimuli.write_images(lists, names, images)
    stimuli.write_repeated(lists, [names[i] for i in plans["CSI1"].repeated])
    raw = root / "ds001499"
    for number, (name, plan) in enumerate(plans.items(), 1):
        brain = (seed, number)
        person = subject.make_subject(voxels[name], brain, int(plan.session.max()), snr)
        response = tuning.responses(images, factors, voxels[name], brain)
        experiment.scan(raw, name, person, plan, response, names, seed + number, published=True)
        estimate_betas(raw, name, POINTS)
        betas = bold5000.read_r2(raw, name)
        volumes.write_r2_volumes(raw, betas, volumes.read_masks(raw, name).ijk, origin=ORIGIN)
        for path in raw.glob(f"{name}_*"):
            path.rename(root / path.name)
        if name == "CSI2":  # as somebody has it who fetched fMRIPrep's runs only
            for path in raw.glob(f"sub-{name}/ses-*/func/*_bold.nii.gz"):
                clean = path.name.replace("_bold.nii.gz", "_bold_space-T1w_preproc.nii.gz")
                path.rename(raw / "derivatives/fmriprep" / path.parent.relative_to(raw) / clean)
    (raw / BETAS / "COMPLETE.json").unlink()
    for folder in (BETAS, "ROIs"):
        (raw / folder).rename(root / folder)
    (raw / stimuli.LISTS).rename(lists / stimuli.LISTS)
    # betas and masks of areas; brain mask and two lists; time points in two formats; and of each
    # run BOLD, events, confounds, list; of each session a volume
    each = 2 * len(KEYS) + 3 + 2 * len(POINTS)
    return count + 1 + sum(each + 4 * sum(runs) + len(runs) for runs in sessions.values())


def build(root=None, sessions=SESSIONS, voxels=VOXELS, seed=8, snr=SNR):
    """Write the miniature, once: a second call finds it whole and returns its path at once.

    `root` is by default `miniature` in `paths.data_folder()`; it is what `load_experiment` and the
    readers take. `sessions` gives the runs of each session for each subject, CSI1 among them,
    `voxels` the voxels of each area; for `snr` see `subject.make_subject`.
    """
    root = data_folder() / "miniature" if root is None else Path(root)
    info = {"miniature": 1, "seed": seed, "snr": snr, "sessions": sessions, "voxels": voxels}
    return build_whole(root, info, lambda partial: write(partial, sessions, voxels, seed, snr))


def find_or_build(parts: Sequence[str] = TRAINING, subjects: Sequence[str] = ("CSI1",)) -> tuple:
    """BOLD5000 where these parts of it have been fetched, else the miniature (built on first use).

    Looks for `BOLD5000` in `paths.data_folder()`, which is where `fetch` puts it.

    Parameters
    ----------
    parts : sequence of str
        Of `fetch.PARTS`.
    subjects : sequence of str

    Returns
    -------
    root : Path
    real : bool
    """
    place = data_folder() / "BOLD5000"
    real = all(is_here(part, subject, place) for part in parts for subject in subjects)
    return (place, True) if real else (build(), False)
