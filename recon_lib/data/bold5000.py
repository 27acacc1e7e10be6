"""Read and write BOLD5000 (Chang et al. 2019, Sci. Data 6:49) as it was published: ROI data.

Release 1 has ROI time points, one HDF5 and one MATLAB file a subject; release 2 has GLMsingle
betas, one .npy a region. Pictures and their lists are in `stimuli`; raw runs, masks and
whole-brain betas in `volumes`.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from recon_lib.common.errors import DataError, atomic_write, check
from recon_lib.common.files import arrays_in, find, read_array
from recon_lib.common.folders import completed
from recon_lib.data.stimuli import (
    RUNS_PER_SESSION,
    TRIALS_PER_RUN,
    image_lists,
    read_stimuli,
    stim_list,
    with_repeats,
    write_lines,
    write_presentation_lists,
)

ROIS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
KEYS = tuple(side + roi for roi in ROIS for side in ("LH", "RH"))
TR = 2.0  # seconds
VOLUMES = 194  # a run: 6 s of fixation, 37 trials of 10 s, 12 s of fixation
FIRST_ONSET, TRIAL, SHOWN = 6.0, 10.0, 1.0  # seconds
VOXELS = {
    "CSI1": dict(zip(KEYS, (210, 285, 152, 190, 101, 187, 131, 200, 86, 143), strict=True)),
}
TOTAL_VOXELS = {"CSI1": 1685, "CSI2": 2270, "CSI3": 3104}
R2_TYPES = {
    "A": "TYPEA-ASSUMEHRF",
    "B": "TYBEB-FITHRF",  # so spelt in the published table
    "C": "TYPEC-FITHRF-GLMDENOISE",
    "D": "TYPED-FITHRF-GLMDENOISE-RR",
}


@dataclass
class Betas:
    """One subject's responses, trial by trial."""

    values: np.ndarray  # (trials, voxels) float32; release 1: signal at a time, 2: % signal change
    roi: np.ndarray  # (voxels,) str: where each voxel lies, as "LHPPA"
    stimuli: list  # picture shown in each trial, without `rep_`
    session: np.ndarray  # (trials,) int, counted from 1
    run: np.ndarray  # (trials,) int, counted from 1 anew in each session
    subject: str
    path: Path | None = None  # the first file that was read

    def __post_init__(self):
        self.values = check(self.values, (len(self.stimuli), len(self.roi)), False, "betas")

    def write_lists(self, root):
        """Write the presentation lists that belong to these trials."""
        write_presentation_lists(root, self.subject, self.stimuli, self.session, self.run)

    def regions(self):
        """(trials, voxels) array of each region, by its name."""
        return {key: self.values[:, self.roi == key] for key in dict.fromkeys(self.roi.tolist())}


def write_r1(root, betas, tr="34"):
    """Write release 1: `ROIs/CSI1/{h5,mat}/CSI1_ROIs_TR34.{h5,mat}` and its picture list.

    `tr` says which time point this is: "1" to "5", or "34".
    """
    folder, name = Path(root, "ROIs", betas.subject), f"{betas.subject}_ROIs_TR{tr}"
    with atomic_write(folder / f"h5/{name}.h5") as partial, h5py.File(partial, "w") as file:
        for key, values in betas.regions().items():
            file[key] = values
    with atomic_write(folder / f"mat/{name}.mat") as partial:
        scipy.io.savemat(partial, betas.regions())
    write_lines(Path(root, stim_list(betas.subject)), with_repeats(betas.stimuli))
    betas.write_lists(root)


def read_r1(root, subject, tr="34", rois=ROIS):
    """Read release 1: ROI values at one time point after onset.

    Parameters
    ----------
    root : path
        The release, or a folder one level above or below.
    subject : str
        "CSI1" to "CSI4".
    tr : str
        "1" to "5" (2 s each), or "34": the mean of 4-8 s.
    rois : sequence of str
        From `ROIS`; both hemispheres are read.

    Returns
    -------
    Betas

    Raises
    ------
    DataError
        Missing, truncated or swapped files; a list of another length. Names the file.
    """
    trials = read_stimuli(root, subject, stim_list(subject))
    path = find(root, *(f"ROIs/{subject}/{k}/{subject}_ROIs_TR{tr}.{k}" for k in ("h5", "mat")))
    present = arrays_in(path)
    values = {}
    for key in roi_keys(rois):
        if key not in present:
            raise DataError(f"{path}: no region {key}; it holds {', '.join(present) or 'nothing'}")
        values[key] = read_array(f"{path}:{key}")
    return _assemble(root, subject, values, dict.fromkeys(values, path), trials)


def write_r2(root, betas, kind="D"):
    """Write release 2's ROI betas (% signal change), one .npy a region, and `CSI1_imgnames.txt`.

    `kind` is the version of the GLM, one of `R2_TYPES`.
    """
    for key, values in betas.regions().items():
        name = f"{betas.subject}_GLMbetas-{R2_TYPES[kind]}_allses_{key}.npy"
        with atomic_write(Path(root, "BOLD5000_GLMsingle_ROI_betas", "py", name)) as partial:
            np.save(partial, values)
    write_lines(Path(root, f"{betas.subject}_imgnames.txt"), betas.stimuli)
    betas.write_lists(root)


def read_r2(root, subject, rois=ROIS, kind="D"):
    """Read release 2's ROI betas (.npy); parameters and errors as in `read_r1`."""
    trials, values, paths = read_stimuli(root, subject, *image_lists(subject)), {}, {}
    for key in roi_keys(rois):
        folder = "BOLD5000_GLMsingle_ROI_betas/py"
        paths[key] = find_r2(root, folder, subject, kind, f"allses_{key}.npy")
        values[key] = read_array(paths[key])
    return _assemble(root, subject, values, paths, trials)


def find_r2(root, folder, subject, kind, ending):
    """Find a release 2 file; type B is spelt TYBEB in the official table and TYPEB by others."""
    name = str(Path(folder, f"{subject}_GLMbetas-{R2_TYPES[kind]}_{ending}"))
    return find(root, name, name.replace("TYBEB", "TYPEB"))


def roi_keys(rois):
    """Left and right key of each region: "PPA" gives "LHPPA", "RHPPA"."""
    unknown = [roi for roi in rois if roi not in ROIS]
    if unknown or not rois:
        raise DataError(f"unknown region {', '.join(unknown)}; expected some of {', '.join(ROIS)}")
    return [side + roi for roi in rois for side in ("LH", "RH")]


def _assemble(root, subject, values, paths, trials):
    """Check every region against the picture list, join them and drop voxels without data."""
    expected = len(trials.stimuli)
    for key, array in values.items():
        if array.ndim == 2 and array.shape[1] == expected != len(array):
            values[key] = array.T  # stored (voxels, trials)
        elif array.ndim != 2 or len(array) != expected:
            raise DataError(
                f"{paths[key]}: {key} has shape {array.shape}, but {trials.path.name} has "
                f"{expected} lines; expected (trials, voxels): another subject's file or list?")
    counts = {key: array.shape[1] for key, array in values.items()}
    check_voxels(root, subject, counts, paths, expected)
    whole = np.concatenate(list(values.values()), axis=1).astype(np.float32)
    refuse_missing(next(iter(paths.values())), whole)
    roi = np.repeat(list(counts), list(counts.values()))
    return drop_voxels(Betas(whole, roi, trials.stimuli, trials.session, trials.run, subject,
                             next(iter(paths.values()))))


def empty_rows(values):
    """Volumes or trials that hold nothing but 0 and what is no number: (rows,) bool."""
    return ~(np.isfinite(values) & (values != 0)).any(1)


def refuse_missing(path, values):
    """Stop where a trial of betas (trials, voxels) has none."""
    if len(empty := np.flatnonzero(empty_rows(values))):
        raise DataError(f"{path}: {len(empty)} of {len(values)} trials have no beta (0 or no "
                        f"number in all voxels), the first at index {empty[0]}; fetch it again")


def check_voxels(root, subject, counts, paths, trials):
    """Compare voxel counts with what was noted at writing, or else with what was published.

    A release that notes nothing and is shorter than the published one is not checked.
    """
    noted = completed(root)
    published = sum(RUNS_PER_SESSION.get(subject, ())) * TRIALS_PER_RUN == trials
    if noted is not None:
        expected = noted.get("voxels", {}).get(subject, {})
    else:
        expected = VOXELS.get(subject, {}) if published else {}
    for key, count in counts.items():
        if key in expected and count != expected[key]:
            raise DataError(
                f"{paths[key]}: {count} voxels in {key}, expected {expected[key]} for {subject}; "
                "is this another subject's file?")
    total = TOTAL_VOXELS.get(subject) if published and noted is None else None
    if len(counts) == len(KEYS) and total and sum(counts.values()) != total:
        raise DataError(
            f"{paths[KEYS[0]]}: {sum(counts.values())} voxels in all regions, expected {total} for "
            f"{subject}; is this another subject's file?")


def drop_voxels(betas):
    """Drop voxels with a value that is not finite, and say how many in which regions."""
    finite = np.isfinite(betas.values).all(axis=0)
    if not finite.all():
        where = ", ".join(np.unique(betas.roi[~finite]).tolist())
        warnings.warn(
            f"{betas.subject}: {int((~finite).sum())} of {len(finite)} voxels dropped, values "
            f"missing ({where})", stacklevel=3)
        if not finite.any():
            raise DataError(f"{betas.subject}: no voxel without missing values is left in {where}")
        betas.values, betas.roi = betas.values[:, finite], betas.roi[finite]
    return betas
