"""What fMRIPrep left of any experiment: preprocessed runs, confounds, and the events beside them.

Only preprocessed runs are read, never a raw one in the place of one that is missing.
"""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas
from scipy.ndimage import affine_transform

from recon_lib.bold.design import nuisance_basis
from recon_lib.bold.events import condition_regressors
from recon_lib.bold.glm import censor, without_data
from recon_lib.common.errors import DataError
from recon_lib.common.files import find, read_table, readable, visible
from recon_lib.data.bids import (
    CONFOUNDS,
    MOTION,
    Timing,
    confounds_in,
    events_in,
    refuse_outside,
    timing,
)
from recon_lib.data.volumes import Masks, inside, load_volume, refuse_empty, voxels_at

BOLD = re.compile(r"(_desc-preproc_bold|_preproc)\.nii(\.gz)?$")  # since fMRIPrep 1.2, and before
BRAIN_MASKS = ("_desc-brain_mask.nii.gz", "_desc-brain_mask.nii", "_brainmask.nii.gz")
PLACED = ("space", "res", "den", "cohort", "desc", "echo", "part")  # which a raw run has not


@dataclass(frozen=True)
class Selection:
    """Which of a subject's runs are meant, and which of their events are trials.

    By default voxels are read where fMRIPrep's brain masks of all runs are. Spikes among the
    confounds ("motion_outlier*") leave their volumes out, as volumes before the steady state
    always are.
    """

    task: str | None = None  # labels as in the names of files: "rest"
    session: str | None = None  # "01"
    run: str | None = None
    space: str | None = None  # "MNI152NLin2009cAsym"
    # a mask, or an atlas of whole-numbered areas (their names in a table `index`, `name` beside
    # it), in the same space, on any grid
    mask: Path | None = None
    picture: str = "stim_file"  # the column of the events that names the pictures
    where: str = ""  # "trial_type=image": only such rows are trials
    confounds: tuple = MOTION  # fMRIPrep's columns, or patterns such as "a_comp_cor_0*"


@dataclass
class Preprocessed:
    """A run as it goes into the GLM, but for its voxels: see `read_voxels`."""

    path: Path
    session: str  # label; "1" where the name has none
    run: str  # the same
    times: Timing  # TR, and the time that the first volume stands for, …
    onsets: np.ndarray  # (trials,) in seconds from that
    durations: np.ndarray  # (trials,) in seconds
    names: list
    confounds: np.ndarray  # (volumes, c) chosen, spikes, responses to events of no interest
    kept: np.ndarray  # (volumes,) bool
    others: np.ndarray  # (n,) the `trial_type` of each event of no interest
    lost: list  # trials left out as the run ends before their response


def entities(path):
    """What the name of a BIDS file says: {"sub": "01", "task": "rest", ...}."""
    return dict(re.findall(r"(?:^|_)([a-z]+)-([a-zA-Z0-9+]+)", Path(path).name))


def find_runs(folder, subject, wanted):
    """Preprocessed runs of a subject, by name, of one task, space and resolution; at least one."""
    folder = find(folder, f"derivatives/fmriprep/sub-{subject}", f"fmriprep/sub-{subject}",
                  f"sub-{subject}")
    every = sorted(path for places in ("func/*", "*/func/*") for path in visible(folder, places)
                   if BOLD.search(path.name))  # `**` would not follow links of folders
    for path in every:
        if entities(path).get("sub", subject) != subject:
            raise DataError(f"{path}: a run of another subject than {subject}; expected none here: "
                            "take it out of the folder")
    found = [path for path in every
             if all(getattr(wanted, key) in (None, entities(path).get(name)) for key, name in (
                 ("task", "task"), ("session", "ses"), ("run", "run"), ("space", "space")))]
    there = {name: sorted({entities(path).get(name, "none") for path in every})
             for name in ("task", "ses", "space", "res")}
    told = "; ".join(f"{name} {', '.join(values)}" for name, values in there.items())
    if not found:
        raise DataError(f"{folder}: no preprocessed run as asked for; it holds "
                        f"{f'runs of {told}' if every else 'no *_desc-preproc_bold.nii.gz'}")
    for name in ("task", "space", "res"):
        if len(values := {entities(path).get(name) for path in found}) > 1:
            raise DataError(f"{folder}: runs of {name} {', '.join(sorted(map(str, values)))}; "
                            f"expected one: choose it")
    stems = [raw_stem(path) for path in found]
    if twice := [path.name for path in found if stems.count(raw_stem(path)) > 1]:
        raise DataError(f"{folder}: {' and '.join(twice[:2])} are one run; expected one file of "
                        "it, or its trials would count twice: take the other out of the folder")
    return found


def raw_stem(path):
    """The name that a preprocessed run had when it was raw, without its ending."""
    name = re.sub(r"_bold$", "", BOLD.sub("", path.name).removesuffix("_bold"))
    return "_".join(part for part in name.split("_")
                    if part.partition("-")[0] not in PLACED and part != "bold")


def find_beside(path):
    """The confounds and the events of a preprocessed run; the events lie in the raw data set."""
    stem = raw_stem(path)
    confounds = find(path.parent, *(f"{stem}_{ending}.tsv" for ending in reversed(CONFOUNDS)))
    subject = next(p for p in path.parents if p.name.startswith("sub-"))
    inner = path.parent.relative_to(subject.parent) / f"{stem}_events.tsv"
    shared = f"task-{entities(path).get('task')}_events.tsv"
    places = [root / name for name in (inner, shared) for root in list(subject.parents)[:4]]
    events = next((place for place in places if place.exists()), None)
    if events is None:
        raise DataError(f"{inner}: no such file in {subject.parent} or the folders above; expected "
                        "the events of the raw data set: put its folder there")
    return confounds, events


def describe(path, wanted):
    """Read everything of a run but its voxels, as `Preprocessed`."""
    image = load_header(path)
    confounds_path, events_path = find_beside(path)
    times = timing(path, image)
    tr, start = times.tr, times.start
    events = events_in(events_path, (wanted.picture,), wanted.where, "modelled as of no interest")
    columns = confounds_in(confounds_path, wanted.confounds)
    every = read_table(confounds_path, heading=True)
    spikes, marked = _spikes(columns)
    kept = ~(marked | _spikes(every.filter(regex="(?i)^non_?steady_?state"))[1])
    if len(columns) != image.shape[3]:
        raise DataError(f"{confounds_path}: {len(columns)} rows, but {path.name} has "
                        f"{image.shape[3]} volumes; is it another run's?")
    late, end = events.onsets - start, image.shape[3] * tr
    refuse_outside(events_path, events, path, image.shape[3], tr)
    gone = without_data(late, image.shape[3], tr, events.durations)
    lost = [f"{events.names[i]} at {late[i]:.0f} of {end:.0f} s" for i in np.flatnonzero(gone)]
    others = events.others[events.others.onset.between(start - 20, start + end)]
    models = [condition_regressors(some.onset - start, some.duration, image.shape[3], tr)
              for _, some in others.groupby("trial_type")]
    nuisances = np.hstack([columns.loc[:, ~spikes], np.eye(len(kept))[:, ~kept], *models])
    spare = len(kept) - (~gone).sum() - nuisance_basis(len(kept), tr, confounds=nuisances).shape[1]
    if spare < 1:
        raise DataError(f"{confounds_path}: {nuisances.shape[1]} confounds, drift and "
                        f"{(~gone).sum()} trials leave nothing of {len(kept)} volumes; expected "
                        "fewer confounds: choose some")
    return Preprocessed(
        path, entities(path).get("ses", "1"), entities(path).get("run", "1"), times, late[~gone],
        events.durations[~gone], [n for n, cut in zip(events.names, gone, strict=True) if not cut],
        nuisances, kept, others.trial_type.to_numpy(str), lost)


def load_header(path):
    """A 4-D image, its values not read."""
    with readable(path):
        image = nibabel.load(path)
        if len(image.shape) != 4:
            raise DataError(f"{path}: shape {image.shape}; expected volumes over time")
        return image


def _spikes(columns):
    """Which columns are 1 in one volume and 0 elsewhere, and which volumes these mark."""
    which = ((columns != 0).sum() == 1) & (columns.max() == 1)
    return which, (columns.loc[:, which] != 0).any(axis=1).to_numpy()


def find_voxels(paths, mask=None):
    """Which voxels to read of runs on one grid, as `Masks`; parameters as in `Selection`.

    Several grids, no mask, one of no known kind, and no voxel left are a `DataError`.
    """
    image = load_header(paths[0])
    for path in paths[1:]:
        _same_grid(path, load_header(path), paths[0], image)
    if mask is None:
        own = [find(path.parent, *(BOLD.sub(ending, path.name) for ending in BRAIN_MASKS))
               for path in paths]
        brains = [nibabel.squeeze_image(load_volume(path)) for path in own]
        for path, brain in zip(own, brains, strict=True):
            _same_grid(path, brain, paths[0], image)
        labels = np.logical_and.reduce([inside(*one) for one in zip(own, brains, strict=True)])
        names = {1: "brain"}
    else:
        here, told = entities(paths[0]).get("space"), entities(mask)
        if here != (there := told.get("space", told.get("tpl", here))):
            raise DataError(f"{mask}: in space {there}, as its name says, but the runs are in "
                            f"{here}; expected a mask in their space: resample it (or rename it)")
        labels, names = _labels(mask, image)
    ijk = np.argwhere(labels)
    if len(ijk) == 0:
        raise DataError(f"{mask or paths[0]}: no voxel of the mask lies in the volume; expected a "
                        "mask in the same space as the runs")
    area = labels[tuple(ijk.T)].astype(int)
    order = np.argsort(area, kind="stable")
    roi = np.array([names.get(number, str(number)) for number in area[order].tolist()])
    return Masks(roi, ijk[order], image.slicer[..., 0])


def _same_grid(path, image, first, like):
    if image.shape[:3] != like.shape[:3] or not np.allclose(image.affine, like.affine, atol=0.01):
        raise DataError(f"{path}: {_grid(image)}, but {first.name} has {_grid(like)}; expected one "
                        "grid for all runs and their masks: resample them to one space "
                        "(fMRIPrep's --output-spaces), or choose runs of one")


def _grid(image):
    """Size, voxels and place of a grid, in words."""
    size, step = " x ".join(map(str, image.shape[:3])), image.header.get_zooms()[:3]
    return (f"{size} voxels of {' x '.join(f'{mm:.3g}' for mm in step)} mm from "
            f"{np.round(image.affine[:3, 3], 2).tolist()} mm")


def _labels(mask, image):
    """The label of each place of an image's grid, from a mask or an atlas, and their names."""
    atlas = nibabel.squeeze_image(load_volume(mask))
    with readable(mask):
        values = np.nan_to_num(np.asanyarray(atlas.dataobj))
    if values.ndim != 3 or values.max() > 1.2 and (
            values.min() < 0 or (values != np.rint(values)).any()):
        raise DataError(f"{mask}: shape {values.shape}, values from {values.min():.4g} to "
                        f"{values.max():.4g}; expected one volume, of a mask or of whole labels "
                        "from 0")
    names, table = {1: "mask"}, Path(re.sub(r"\.nii(\.gz)?$", ".tsv", str(mask)))
    if atlas.shape == image.shape[:3] and not np.allclose(atlas.affine, image.affine, atol=0.01):
        warnings.warn(f"{mask}: {_grid(atlas)}, but the runs have {_grid(image)}; matched by "
                      "millimetres: is that affine right?", stacklevel=3)
    if values.max() <= 1.2:
        values = inside(mask, atlas)
    else:
        names = {}
        if table.exists():
            told = read_table(table, heading=True)
            if not {"index", "name"} <= set(told):
                raise DataError(f"{table}: columns {', '.join(told)}; expected index and name")
            names = dict(zip(told["index"], told["name"].astype(str), strict=True))
    return on_grid(values, atlas, image), names


def on_grid(values, here, image):
    """Labels of a volume at the places of another image's grid: those of the nearest voxel.

    Places outside the volume are 0. As nilearn's `resample_to_img` with "nearest".
    """
    with readable("the mask"):  # an affine may have no inverse
        step = np.linalg.inv(here.affine) @ image.affine
    step[:3, 3] += 1e-6  # half way between two voxels, rounding does not decide
    return affine_transform(values, step, output_shape=image.shape[:3], order=0,
                            mode="grid-constant")


def read_voxels(run, masks):
    """The BOLD of a run, (volumes, voxels); volumes left out hold the mean of the others."""
    bold = voxels_at(run.path, load_volume(run.path), masks)
    refuse_empty(run.path, bold, run.kept)
    return censor(bold, run.kept)[0]


def read_subject(folder, subject, wanted):
    """Everything of a subject but its voxels: a list of `Preprocessed`, and `Masks`.

    Files that are missing, damaged or do not belong together, or runs of several TRs, are a
    `DataError`.
    """
    runs = [describe(path, wanted) for path in find_runs(folder, subject, wanted)]
    if len(times := sorted({round(run.times.tr, 4) for run in runs})) > 1:
        raise DataError(f"{runs[0].path.parent}: runs with a volume every {times} s; expected one "
                        "TR: choose some of them")
    return runs, find_voxels([run.path for run in runs], wanted.mask)


def told(runs, masks, wanted):
    """What was read, in a few lines."""
    names, others = [n for run in runs for n in run.names], np.concatenate([r.others for r in runs])
    areas, counts = np.unique(masks.roi, return_counts=True)
    kinds = pandas.Series(others).value_counts()
    bad, extra = sum((~run.kept).sum() for run in runs), [r.confounds.shape[1] for r in runs]
    lines = [
        f"{len(runs)} runs, from {runs[0].path} to {runs[-1].path.name}; "
        + ", or ".join(dict.fromkeys(str(run.times) for run in runs)),
        f"{len(masks.roi)} voxels of {wanted.mask or 'the brain masks of all runs'}: "
        + ", ".join(f"{a} {n}" for a, n in zip(areas[:8], counts, strict=False))
        + (f" and {len(areas) - 8} areas more" if len(areas) > 8 else ""),
        f"{len(names)} trials of {len(set(names))} pictures ({wanted.picture}"
        f"{', ' + wanted.where if wanted.where else ''}); {len(others)} events of no interest"
        + "".join(f", {kind} {n}" for kind, n in kinds.items()),
        f"{min(extra)} to {max(extra)} confounds a run ({', '.join(wanted.confounds)}, events of "
        f"no interest, spikes); {bad} volumes left out",
    ]
    return lines + [f"left out, as the run ends before its response: {one}"
                    for run in runs for one in run.lost]
