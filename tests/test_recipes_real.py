"""The recipes of docs/real_data.md, run on small folders in the published layouts."""

import json
import re
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas
import pytest
import scipy.io

from recon_lib.bold import single_trial_betas

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "real_data.md").read_text(encoding="utf-8")
RECIPES = {code.split("\n")[0]: code for code in re.findall(r"```python\n# (.*?)```", TEXT, re.S)}
RNG = np.random.default_rng(0)
SHAPE = (4, 5, 3)
MASK = RNG.random(SHAPE) < 0.4


def cook(root, *names):
    """Run recipes one after another, and return what they leave."""
    left = {"root": Path(root)}
    for name in names:
        exec("# " + RECIPES[name], left)
    return left


def volume(path, array, **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(array), np.eye(4)), path)


def test_nsd(tmp_path):
    """MATLAB writes (x, y, z, trials); h5py sees the axes turned round."""
    values = RNG.integers(-3000, 3000, (2, 4, *SHAPE)).astype(np.int16)  # sessions, trials, x, y, z
    folder = tmp_path / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    folder.mkdir(parents=True)
    for i, session in enumerate(values, 1):
        with h5py.File(folder / f"betas_session{i:02d}.hdf5", "w") as file:
            file["betas"] = session.transpose(0, 3, 2, 1)
    volume(tmp_path / "nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz",
           np.where(MASK, 1, -1).astype(np.int16))
    pictures = RNG.integers(0, 256, (30, 140, 140, 3), np.uint8)
    stimuli = tmp_path / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    stimuli.parent.mkdir(parents=True)
    with h5py.File(stimuli, "w") as file:
        file["imgBrick"] = pictures
    experiment = tmp_path / "nsddata/experiments/nsd/nsd_expdesign.mat"
    experiment.parent.mkdir(parents=True)
    order = np.array([[3, 1, 2, 1, 4, 3, 2, 4, 4, 4]])
    mine = np.array([[7, 30, 9, 12], [1, 2, 3, 4]])
    scipy.io.savemat(experiment, {"masterordering": order, "subjectim": mine,
                                  "sharedix": [[30, 5]]})
    left = cook(tmp_path, "NSD", "NSD's pictures")
    assert left["betas"].shape == (8, MASK.sum())
    for trial in range(8):
        x, y, z = np.argwhere(MASK.T)[0][::-1]  # the first voxel, in the order of the recipe
        value = values[trial // 4, trial % 4, x, y, z]
        assert left["betas"][trial, 0] == pytest.approx(value / 300)
    rows = mine[0][order[0, :8] - 1] - 1
    np.testing.assert_array_equal(left["rows"][left["shown"]], rows)
    np.testing.assert_array_equal(left["test"], rows == 29)
    assert left["images"].shape == (4, 128, 128, 3)
    assert abs(left["images"][left["shown"][0]].mean() - pictures[rows[0]].mean()) < 1
    np.testing.assert_array_equal(left["session"], [0] * 4 + [1] * 4)


def test_laion_fmri(tmp_path):
    values = RNG.normal(size=(2, *SHAPE, 3)).astype(np.float32)
    parts = [RNG.random(SHAPE) < 0.3 for _ in range(3)]
    for area, part in zip(("V1v", "V1d", "hV4"), parts, strict=True):
        volume(tmp_path / "derivatives/rois/sub-01/retinotopy" /
               f"sub-01_space-T1w_res-1pt8_label-{area}_mask.nii.gz", part.astype(np.uint8))
    for i, session in enumerate(values, 1):
        stem = f"sub-01_ses-{i:02d}_task-images"
        func = tmp_path / f"derivatives/glmsingle-tedana/sub-01/ses-{i:02d}/func"
        volume(func / f"{stem}_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz", session)
        volume(func / f"{stem}_space-T1w_desc-Noiseceiling_statmap.nii.gz", session[..., 0])
        pandas.DataFrame({"session": i, "run": 1, "beta_index": range(3),
                          "label": [f"{i}_{k}.jpg" for k in range(3)]}).to_csv(
            func / f"{stem}_desc-SingletrialBetas_trials.tsv", sep="\t", index=False)
    left = cook(tmp_path, "LAION-fMRI")
    inside = np.logical_or.reduce(parts)
    np.testing.assert_array_equal(left["betas"], [values[i, ..., k][inside] for i in range(2)
                                                  for k in range(3)])
    assert left["shown"] == ["1_0.jpg", "1_1.jpg", "1_2.jpg", "2_0.jpg", "2_1.jpg", "2_2.jpg"]
    assert left["session"] == ["ses-01"] * 3 + ["ses-02"] * 3


def test_god(tmp_path):
    """As bdpy writes: metadata are 1 for a name's columns and NaN for all others."""
    names = ["VoxelData", "ROI_VC", "ROI_V1", "DataType", "stimulus_id", "Run"]
    table = RNG.normal(size=(4, 8))
    table[:, 5:] = [[1, 1518878.005958, 1], [2, 1443537.022563, 2], [3, 1443537.022563, 3],
                    [1, 12345678.000001, 4]]
    value = np.full((6, 8), np.nan)
    value[0, :5] = value[1, 1:5] = value[2, 1:3] = value[3, 5] = value[4, 6] = value[5, 7] = 1
    with h5py.File(tmp_path / "Subject1.h5", "w") as file:
        file["dataset"], file["metadata/value"] = table, value
        file["metadata/key"] = np.array(names, "S")
        file["metadata/description"] = np.array(names, "S")
    left = cook(tmp_path, "GOD")
    np.testing.assert_allclose(left["betas"], table[[0, 1, 3], 1:5], rtol=1e-6)
    assert left["shown"] == ["n01518878_5958", "n01443537_22563", "n12345678_1"]
    assert left["test"].tolist() == [False, True, False] and left["run"].tolist() == [1, 2, 4]


def test_glmsingle(tmp_path):
    values = RNG.normal(size=(*SHAPE, 6)).astype(np.float32)
    np.save(tmp_path / "TYPED_FITHRF_GLMDENOISE_RR.npy", {"betasmd": values, "R2": values[..., 0]})
    volume(tmp_path / "mask.nii.gz", MASK.astype(np.uint8))
    np.testing.assert_array_equal(cook(tmp_path, "GLMsingle")["betas"], values[MASK].T)


def test_fmriprep(tmp_path):
    onsets, wanted = np.arange(4, 100, 10.0), []
    for run in (1, 2):
        bold = (1000 + RNG.normal(0, 5, (*SHAPE, 60))).astype(np.float32)
        folder, stem = "sub-01/ses-01/func", f"sub-01_ses-01_task-look_run-{run}"
        func = tmp_path / "derivatives/fmriprep" / folder
        volume(func / f"{stem}_space-T1w_desc-preproc_bold.nii.gz", bold)
        volume(func / f"{stem}_space-T1w_desc-brain_mask.nii.gz", MASK.astype(np.uint8))
        (func / f"{stem}_space-T1w_desc-preproc_bold.json").write_text(
            json.dumps({"RepetitionTime": 2.0}))
        motion = RNG.normal(size=(60, 6))
        columns = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
        pandas.DataFrame(motion, columns=columns).assign(framewise_displacement="n/a").to_csv(
            func / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
        raw = tmp_path / folder
        raw.mkdir(parents=True, exist_ok=True)
        pandas.DataFrame({"onset": onsets, "duration": 1, "stim_file": [
            f"{run}_{i}.png" for i in range(len(onsets))]}).to_csv(
            raw / f"{stem}_events.tsv", sep="\t", index=False)
        wanted.append(single_trial_betas(bold[MASK].T, onsets, 2.0, confounds=motion))
    left = cook(tmp_path, "fMRIPrep")
    np.testing.assert_allclose(left["betas"], np.concatenate(wanted), rtol=1e-4, atol=1e-5)
    assert left["shown"][10] == "2_0.png" and len(left["run"]) == 20


def test_every_recipe_is_tried():
    tried = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in tried for name in RECIPES)
