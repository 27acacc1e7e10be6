"""The embedded experiment: a simulated subject looks at TinyScenes, in BOLD5000's files.

`build` writes pictures, raw runs and masks as the published release has them, and beside them
`truth.h5`, which only a simulation can have. `estimate_betas` does what the authors of the
releases did: raw runs in, ROI betas out. `load` reads any release, embedded or real.
"""

import hashlib
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from recon_lib import bids, bold5000, scenes, stimuli, subject, tuning, volumes
from recon_lib.betas import zscore_sessions
from recon_lib.errors import DataError, atomic_write, writing
from recon_lib.files import is_complete, mark_complete, readable
from recon_lib.glm import single_trial_betas
from recon_lib.locks import only_one
from recon_lib.splits import fingerprints, refuse_leak, split_repeated

SUBJECT = "CSI1"
ROOT = Path("data/experiment")
SIZE = 64
SIMULATOR = 1  # raise when the simulation changes: a folder of an older one is then refused
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
        Trials that show a repeated picture.
    session : (trials,) int array
    names : (n,) str array
        File names of the pictures.
    factors : structured array (n,) or None
        What TinyScenes were drawn from.
    truth : Path or None
        The simulation's `truth.h5`.
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
    test_images: np.ndarray = field(init=False)  # (m,) pictures of the test trials, sorted

    def __post_init__(self):
        self.test_images = np.unique(self.image[self.test])
        shown = np.unique(self.image[~self.test])
        refuse_leak(self.images[shown], self.images[self.test_images])

    @property
    def train_images(self):
        """The pictures of the training trials, trial by trial."""
        return self.images[self.image[~self.test]]

    @property
    def target(self):
        """(test trials,) which of `test_images` each test trial shows."""
        return np.searchsorted(self.test_images, self.image[self.test])

    def averaged(self):
        """Betas of each test picture, averaged over its trials, and the number of trials."""
        mine = self.betas[self.test]
        counts = np.bincount(self.target)
        sums = np.zeros((len(counts), mine.shape[1]))
        np.add.at(sums, self.target, mine)
        return (sums / counts[:, None]).astype(np.float32), counts


def picture_names(n, seed):
    """File names in the manner of the three sources: 2000 COCO, 1916 ImageNet, 1000 Scene."""
    rng = np.random.default_rng((seed, 7))
    coco, imagenet = round(n * 2000 / 4916), round(n * 1916 / 4916)
    names = [f"COCO_train2014_{i:012d}.png" for i in range(1, coco + 1)]
    names += [f"n{10_000_000 + i // 2:08d}_{i % 2 + 1}.png" for i in range(imagenet)]
    names += [f"tinyscene{i}.png" for i in range(1, n - coco - imagenet + 1)]
    return [names[i] for i in rng.permutation(n)]


def digest(images):
    """One fingerprint of a whole set of pictures."""
    return hashlib.sha1("".join(fingerprints(images)).encode()).hexdigest()


def build(root=ROOT, seed=0, images=None, voxels=None, **design_options):
    """Simulate the experiment, once: a second call finds it whole and returns at once.

    It is built in a folder beside `root` that takes its name when all is written.

    Parameters
    ----------
    root : path
    seed : int
        Of pictures, subject, design and noise.
    images : (n, 64, 64, 3) uint8 array, optional
        Pictures of your own instead of TinyScenes: at least as many as the design shows, see
        `subject.design_for`. The first are used.
    voxels : dict, optional
        Voxels per area; default: CSI1's.
    **design_options
        For `subject.make_design`: a smaller experiment.

    Returns
    -------
    Path
        `root`.

    Raises
    ------
    DataError
        If `root` exists and is something else, or the number of pictures is wrong.
    """
    root = Path(root)
    voxels = voxels or bold5000.VOXELS[SUBJECT]
    design = subject.make_design(seed, **design_options)
    n = design.image.max() + 1
    info = {"simulator": SIMULATOR, "seed": seed, "subject": SUBJECT,
            "trials": len(design.image), "pictures": int(n), "voxels": {SUBJECT: voxels},
            "own pictures": images is not None and digest(images)}
    info |= {"design": design_options} if design_options else {}
    if is_complete(root, info):
        return root
    if root.exists() and any(root.iterdir()):
        raise DataError(
            f"{root} holds something other than this experiment (or one with other settings); "
            "choose another folder, or remove it"
        )
    if images is not None:
        if len(images) < n:
            raise DataError(
                f"found {len(images)} pictures, the design shows {n}; add pictures or make the "
                "design smaller (subject.design_for)"
            )
        images = images[:n]

    with only_one(lock_of(root)) as locked:
        if is_complete(root, info):  # another process was faster
            return root
        partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
        for left in root.parent.glob(f".{root.name}.*.partial"):  # of builds that were killed
            if locked or time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)
        try:
            with writing(root):
                write_experiment(partial, design, images, voxels, seed)
                mark_complete(partial, info)
                try:
                    if root.exists():
                        root.rmdir()
                    partial.rename(root)
                except OSError:
                    if not is_complete(root, info):  # without locks another may be faster
                        raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return root


def lock_of(root):
    """The lock file of an experiment: beside its folder, for the folder is not there yet."""
    return root.with_name(f".{root.name}.lock")


def write_experiment(root, design, images, voxels, seed):
    """Write pictures, lists, masks, runs and the truth of one simulated subject."""
    n = design.image.max() + 1
    factors = None
    if images is None:
        factors = scenes.sample_factors(n, seed)
        images = scenes.draw(factors, SIZE)
    names = picture_names(n, seed)
    stimuli.write_images(root, names, images)
    stimuli.write_repeated(root, [names[i] for i in design.repeated])
    shown = [names[i] for i in design.image]
    stimuli.write_presentation_lists(root, SUBJECT, shown, design.session, design.run)

    response = tuning.responses(images, factors, voxels, seed)
    person = subject.make_subject(voxels, seed, sessions=design.session.max())
    betas = subject.true_betas(person, response, design)
    ijk = volumes.compact_box(len(person.roi))
    volumes.write_masks(root, SUBJECT, person.roi, ijk)
    runs = subject.bold_runs(person, betas, design, seed)
    total = len(design.image) // bold5000.TRIALS_PER_RUN
    for session, run, trials, bold in tqdm(runs, "simulate", total, unit="run", disable=None):
        bids.write_run(root, SUBJECT, session, run, bold, ijk, design.onset[trials],
                       [shown[i] for i in trials])

    with atomic_write(root / "truth.h5") as partial, h5py.File(partial, "w") as file:
        file["responses"], file["betas"] = response, betas
        file["image"], file["names"] = design.image, names
        for key, value in vars(person).items():
            file[f"subject/{key}"] = value.astype("S") if value.dtype.kind == "U" else value
        if factors is not None:
            file["factors"] = factors


def estimate_betas(root=ROOT, name=SUBJECT, **options):
    """Estimate single-trial betas from the raw runs and write them as the releases do.

    Release 2's form holds the betas in % signal change, release 1's the mean signal 4 to 8 s
    after onset (TR34), also in % signal change.

    Parameters
    ----------
    root : path
    name : str
        The subject.
    **options
        For `glm.single_trial_betas`.
    """
    values, signal, shown, session, run = [], [], [], [], []
    total = len(bids.list_runs(root, name))
    for one in tqdm(bids.iter_runs(root, name), "betas", total, unit="run", disable=None):
        values.append(single_trial_betas(one.bold, one.onsets, one.tr, **options))
        first = np.round(one.onsets / one.tr).astype(int)
        percent = 100 * (one.bold / one.bold.mean(0) - 1)
        signal.append((percent[first + 2] + percent[first + 3]) / 2)
        shown += one.names
        session += [one.session] * len(one.names)
        run += [one.run] * len(one.names)
        roi = one.roi
    session, run = np.array(session), np.array(run)
    for write, parts in ((bold5000.write_r1, signal), (bold5000.write_r2, values)):
        joined = np.concatenate(parts).astype(np.float32)  # (trials, voxels)
        areas = {key: joined[:, roi == key] for key in dict.fromkeys(roi.tolist())}
        write(root, name, areas, shown, session, run)
    mark_complete(Path(root, BETAS), {"subject": name})


def ready(root=None):
    """The embedded experiment, built and its betas estimated if that is still to be done.

    Parameters
    ----------
    root : path, optional
        Default: `data/experiment` beside the code, wherever the caller stands.

    Returns
    -------
    Path
    """
    root = build(Path(__file__).resolve().parent.parent / ROOT if root is None else root)
    if not is_complete(root / BETAS):
        with only_one(lock_of(root)):
            if not is_complete(root / BETAS):  # nor did another process just do it
                estimate_betas(root)
    return root


def read_truth(path, key, names):
    """One of the truth's arrays with a row a picture, in the order of `names`; None without it."""
    with readable(path), h5py.File(path) as file:
        if key not in file:
            return None
        place = {n.decode(): i for i, n in enumerate(file["names"])}
        return file[key][()][[place[n] for n in names]]


def load(root=ROOT, name=SUBJECT, release=2, rois=bold5000.ROIS, size=SIZE):
    """Read one subject of a release, embedded or real.

    Parameters
    ----------
    root : path
    name : str
        "CSI1" to "CSI4".
    release : {1, 2}
        1: ROI time points (TR34); 2: single-trial betas.
    rois : sequence of str
    size : int
        Side of the pictures.

    Returns
    -------
    Experiment
    """
    if not Path(root).is_dir():
        raise DataError(f"no folder {root}; make it with `python -m recon_lib simulate`")
    read = {1: bold5000.read_r1, 2: bold5000.read_r2}
    if release not in read:
        raise DataError(f"release is {release}; expected 1 or 2")
    data = read[release](root, name, rois=rois)
    _, test = split_repeated(data.stimuli, stimuli.read_repeated(root))
    held = np.zeros(len(data.stimuli), bool)
    held[test] = True
    names, image = np.unique(data.stimuli, return_inverse=True)
    truth = Path(root, "truth.h5")
    factors = read_truth(truth, "factors", names) if truth.exists() else None
    return Experiment(
        images=stimuli.read_images(root, names, size),
        image=image,
        betas=zscore_sessions(data.values, data.session, ~held),
        roi=data.roi,
        test=held,
        session=data.session,
        names=names,
        factors=factors,
        truth=truth if truth.exists() else None,
    )
