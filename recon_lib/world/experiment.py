"""The embedded experiment: a simulated subject looks at TinyScenes, in BOLD5000's files.

`build` writes pictures, raw runs and masks as the published release has them, and beside them
`truth.h5`, which only a simulation can have. `release.load_experiment` reads any release, embedded
or real.
"""

import hashlib
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from recon_lib.common.errors import DataError, atomic_write
from recon_lib.common.folders import build_whole, is_complete, lock_of, only_one
from recon_lib.common.paths import experiment_folder
from recon_lib.data import bids, bold5000, stimuli, volumes
from recon_lib.data.raw_betas import estimate_betas
from recon_lib.data.release import BETAS, SIZE, SUBJECT
from recon_lib.data.splits import fingerprints
from recon_lib.world import scenes, subject, tuning

SIMULATOR = 1  # raise when the simulation changes: a folder of an older one is then refused


def picture_names(n, seed):
    """File names in the manner of the three sources: 2000 COCO, 1916 ImageNet, 1000 Scene."""
    rng = np.random.default_rng((seed, 7))
    coco, imagenet = round(n * 2000 / 4916), round(n * 1916 / 4916)
    names = [f"COCO_train2014_{i:012d}.png" for i in range(1, coco + 1)]
    names += [f"n{10_000_000 + i // 2:08d}_{i % 2 + 1}.png" for i in range(imagenet)]
    names += [f"tinyscene{i}.png" for i in range(1, n - coco - imagenet + 1)]
    return [names[i] for i in rng.permutation(n)]


def build(root=None, seed=0, images=None, voxels=None, higher=None, **design_options):
    """Simulate the experiment, once: a second call finds it whole and returns its path at once.

    It is written to a folder beside `root` (default: `paths.experiment_folder()`), which is renamed
    to `root` when it is complete. `seed` is that of pictures, subject, design and noise. `images`
    (n, 64, 64, 3) uint8 take the place of TinyScenes; there have to be as many as the design shows,
    see `subject.design_for`, and further ones are not used. `higher` (n, p) is what higher areas
    answer to in them, see `tuning.responses`. `voxels` counts those of each area, by default
    CSI1's; `design_options` of `subject.make_design` make a smaller experiment. A `DataError` is
    raised if `root` holds something else or there are too few pictures.
    """
    root = Path(experiment_folder() if root is None else root)
    voxels = voxels or bold5000.VOXELS[SUBJECT]
    design = subject.make_design(seed, **design_options)
    n = design.image.max() + 1
    info = {"simulator": SIMULATOR, "seed": seed, "subject": SUBJECT,
            "trials": len(design.image), "pictures": int(n), "voxels": {SUBJECT: voxels},
            "own pictures": images is not None and hashlib.sha1(
                "".join(fingerprints(images)).encode()).hexdigest()}
    info |= {"design": design_options} if design_options else {}
    info |= {} if higher is None else {
        "higher": hashlib.sha1(np.ascontiguousarray(higher[:n])).hexdigest()}
    if images is not None:
        if len(images) < n:
            raise DataError(
                f"found {len(images)} pictures, the design shows {n}; add pictures or make the "
                "design smaller (subject.design_for)")
        images = images[:n]
    return build_whole(root, info, lambda partial: write_experiment(
        partial, design, images, voxels, seed, None if higher is None else higher[:n]))


def write_experiment(root, design, images, voxels, seed, higher=None):
    """Write pictures, lists, masks, runs and the truth of one subject; return how many files."""
    n = design.image.max() + 1
    factors = None
    if images is None:
        factors = scenes.sample_factors(n, seed)
        images = scenes.draw(factors, SIZE)
    names = picture_names(n, seed)
    stimuli.write_images(root, names, images)
    stimuli.write_repeated(root, [names[i] for i in design.repeated])
    response = tuning.responses(images, factors, voxels, seed, higher)
    person = subject.make_subject(voxels, seed, sessions=design.session.max())
    betas = scan(root, SUBJECT, person, design, response, names, seed)
    with atomic_write(root / "truth.h5") as partial, h5py.File(partial, "w") as file:
        file["responses"], file["betas"] = response, betas
        file["image"], file["names"] = design.image, names
        for key, value in vars(person).items():
            file[f"subject/{key}"] = value.astype("S") if value.dtype.kind == "U" else value
        if factors is not None:
            file["factors"] = factors
    runs = len(design.image) // bold5000.TRIALS_PER_RUN  # each has BOLD, events and a list
    return n + 3 * runs + len(np.unique(person.roi)) + 3  # brain mask, repeated pictures, truth


def scan(root, name, person, design, response, names, seed, published=False):
    """Put a simulated subject into the scanner: writes lists, masks, runs; gives true betas.

    `response` (pictures, voxels) is that of `tuning.responses`, `names` are the pictures'.
    `published`: as OpenNeuro has them, repeated pictures are marked in the events, and there are
    confounds (small movements, which leave no trace in the simulated BOLD).
    """
    shown, again = [names[i] for i in design.image], {names[i] for i in design.repeated}
    stimuli.write_presentation_lists(root, name, shown, design.session, design.run)
    betas = subject.true_betas(person, response, design)
    ijk = volumes.compact_box(len(person.roi))
    volumes.write_masks(root, name, person.roi, ijk)
    runs = subject.bold_runs(person, betas, design, seed)
    total = len(design.image) // bold5000.TRIALS_PER_RUN
    for session, run, trials, bold in tqdm(runs, "simulate", total, unit="run", disable=None):
        steps = np.random.default_rng((seed, session, run, 2)).normal(size=(len(bold), 6))
        one = bids.Run(bold, person.roi, ijk, design.onset[trials],
                       np.full(len(trials), bold5000.SHOWN), [shown[i] for i in trials],
                       bold5000.TR, session, run)
        more = {"repeated": again, "confounds": steps.cumsum(0) / 200} if published else {}
        bids.write_run(root, name, one, **more)
    return betas


def ready(root: str | Path | None = None, seed: int = 0) -> str | Path:
    """The folder of the embedded experiment; on first use it is built and its betas are estimated.

    `root` is by default `paths.experiment_folder()`, whatever the working directory.
    """
    root = build(experiment_folder() if root is None else root, seed)
    if not is_complete(root / BETAS):
        with only_one(lock_of(root)):
            if not is_complete(root / BETAS):  # another process may just have done it
                estimate_betas(root)
    return root
