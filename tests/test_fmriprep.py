"""fMRIPrep's folders, written by hand: read by nilearn and by us to the same numbers."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest

from recon_lib.__main__ import app
from recon_lib.bold.events import condition_regressors
from recon_lib.bold.glm import percent_change
from recon_lib.bold.single_trial import estimate
from recon_lib.bold.whole_brain import read_estimate
from recon_lib.common.errors import DataError
from recon_lib.data import fmriprep
from recon_lib.data.arrays import load_trials
from recon_lib.data.fmriprep import Selection

maskers = pytest.importorskip("nilearn.maskers")
TR, START, VOLUMES, SHAPE = 1.5, 0.75, 80, (6, 7, 5)
AFFINE = np.array([[-3.0, 0, 0, 9], [0, 3, 0, -9], [0, 0, 3, -6], [0, 0, 0, 1]])  # LAS, 3 mm
BRAIN = np.zeros(SHAPE, np.uint8)
BRAIN[1:5, 1:6, 1:4] = 1
MOTION = "trans_x trans_y trans_z rot_x rot_y rot_z".split()
RNG = np.random.default_rng(0)
WANTED = Selection(task="images", space="MNI152NLin2009cAsym", where="trial_type=image")


def save(path, array, affine=AFFINE, tr=None):
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    if tr:
        image.header["pixdim"][4] = tr
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)


def table(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False, na_rep="n/a")


def write_run(root, session, run, task="images", old=False):
    """One raw run with its events, and what fMRIPrep makes of it in two spaces."""
    inner = f"sub-01/ses-{session}/func"
    stem = f"sub-01_ses-{session}_task-{task}_run-{run}"
    series = 900 + 20 * RNG.standard_normal((*SHAPE, VOLUMES)).astype(np.float32)
    save(root / inner / f"{stem}_bold.nii.gz", series + 5000, tr=TR)
    onsets = np.round(np.sort(RNG.uniform(2, 100, 9)), 3)
    kinds = ["image", "image", "fixation"] * 3
    shown = [f"p{i % 4}.png" if kind == "image" else None for i, kind in enumerate(kinds)]
    table(root / inner / f"{stem}_events.tsv", {
        "onset": onsets, "duration": [1.0, 2.0, 0.5] * 3, "trial_type": kinds, "stim_file": shown})
    made = root / "derivatives/fmriprep" / inner
    spaces = ("MNI152NLin2009cAsym", "T1w")
    for space in spaces:
        parts = ("_bold_space-{}_preproc", "_bold_space-{}_brainmask") if old else (
            "_space-{}_desc-preproc_bold", "_space-{}_desc-brain_mask")
        bold, mask = (made / f"{stem}{part.format(space)}.nii.gz" for part in parts)
        # a header of 1.0 lies: the JSON knows
        save(bold, series if space == spaces[0] else series + 100, tr=TR if old else 1.0)
        save(mask, BRAIN)
        if not old:
            bold.with_name(bold.name.replace(".nii.gz", ".json")).write_text(json.dumps(
                {"RepetitionTime": TR, "StartTime": START, "SliceTimingCorrected": True,
                 "TaskName": task, "SkullStripped": False}))
    confounds = dict(zip(MOTION, RNG.normal(size=(6, VOLUMES)), strict=True))
    confounds |= {f"{name}_derivative1": np.r_[np.nan, np.diff(confounds[name])] for name in MOTION}
    confounds |= {"csf": RNG.normal(size=VOLUMES), "white_matter": RNG.normal(size=VOLUMES)}
    for name, volume in (("non_steady_state_outlier00", 0), ("motion_outlier00", 40)):
        confounds[name] = np.eye(VOLUMES)[volume]
    if old:
        renamed = dict(zip(MOTION, "X Y Z RotX RotY RotZ".split(), strict=True))
        confounds = {renamed.get(name, name): values for name, values in confounds.items()}
    ending = "_bold_confounds" if old else "_desc-confounds_timeseries"
    table(made / f"{stem}{ending}.tsv", confounds)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    for session, run in (("one", "1"), ("one", "2"), ("two", "1")):
        write_run(root, session, run)
    write_run(root, "two", "1", task="rest")
    for folder in (root, root / "derivatives/fmriprep"):
        (folder / "dataset_description.json").write_text(json.dumps(
            {"Name": "mini", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}))
    return root


@pytest.mark.filterwarnings("ignore")
def test_nilearn_reads_the_same_numbers(study):
    from nilearn.glm.first_level import first_level_from_bids
    from nilearn.interfaces.fmriprep import load_confounds

    runs, masks = fmriprep.read_subject(study, "01", WANTED)
    models, images, events, _ = first_level_from_bids(
        study, "images", space_label=WANTED.space, derivatives_folder="derivatives/fmriprep",
        slice_time_ref=None)
    assert [str(run.path) for run in runs] == list(images[0]) and len(runs) == 3
    assert models[0].t_r == TR == runs[0].tr and models[0].slice_time_ref == START / TR
    brain = runs[0].path.with_name(runs[0].path.name.replace("preproc_bold", "brain_mask"))
    masker = maskers.NiftiMasker(brain, standardize=None)
    for run, image, told in zip(runs, images[0], events[0], strict=True):
        theirs = masker.fit_transform(image)
        ours = fmriprep.read_voxels(run, masks)
        np.testing.assert_allclose(ours[run.kept], theirs[run.kept], rtol=1e-6)
        where = masker.inverse_transform(ours[:1]).get_fdata()[..., 0]
        np.testing.assert_allclose(where[tuple(masks.ijk.T)], ours[0])  # each in its place
        shown = told[told.trial_type == "image"]
        np.testing.assert_allclose(run.onsets, shown.onset - START)
        np.testing.assert_allclose(run.durations, shown.duration)
        table, kept = load_confounds(image, ("motion",), motion="basic", demean=False)
        np.testing.assert_allclose(run.confounds[:, :6], table[MOTION])
        np.testing.assert_array_equal(np.flatnonzero(run.kept), kept)
        rest = told[told.trial_type == "fixation"]
        expected = condition_regressors(rest.onset - START, rest.duration, VOLUMES, TR)
        np.testing.assert_allclose(run.confounds[:, [-1]], expected)
        assert run.confounds.shape[1] == 6 + 1 + 1 and run.others.tolist() == ["fixation"] * 3
    assert [(run.session, run.run) for run in runs] == [("one", "1"), ("one", "2"), ("two", "1")]


@pytest.mark.filterwarnings("ignore")
def test_an_atlas_on_another_grid_has_nilearns_areas(study, tmp_path):
    from nilearn.image import resample_to_img

    fine = np.diag([1.0, 1.0, 1.0, 1.0])
    fine[:3, 3] = [-9, -9.2, -6.3]
    labels = RNG.integers(0, 4, (6, 7, 5)).astype(np.int16).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    save(tmp_path / "atlas.nii.gz", labels, fine)
    table(tmp_path / "atlas.tsv", {"index": [1, 2, 3], "name": ["V1", "FFA", "PPA"]})
    wanted = Selection("images", "one", "2", "T1w", tmp_path / "atlas.nii.gz",
                       where="trial_type=image", confounds=("motion_outlier*", "csf"))
    (run,), masks = fmriprep.read_subject(study / "derivatives/fmriprep", "01", wanted)
    theirs = resample_to_img(nibabel.load(tmp_path / "atlas.nii.gz"), nibabel.load(run.path),
                             "nearest").get_fdata()
    here = np.zeros(SHAPE)
    here[tuple(masks.ijk.T)] = [["", "V1", "FFA", "PPA"].index(name) for name in masks.roi]
    np.testing.assert_array_equal(here, theirs)
    assert np.flatnonzero(~run.kept).tolist() == [0, 40]
    ours = fmriprep.read_voxels(run, masks)
    image = nibabel.load(run.path).get_fdata()
    np.testing.assert_allclose(ours[run.kept], image[tuple(masks.ijk.T)].T[run.kept], rtol=1e-6)
    means = percent_change(ours)[~run.kept]  # left out: neither in the mean nor of any size
    np.testing.assert_allclose(means, 0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_betas_from_the_command_line(study, tmp_path):
    from typer.testing import CliRunner

    ask = ["betas-fmriprep", str(study), "--subject", "01", "--task", "images", "--space",
           "MNI152NLin2009cAsym", "--where", "trial_type=image", "--out", str(tmp_path)]
    said = CliRunner().invoke(app, ask)
    assert said.exit_code == 0, said.output
    for words in ("3 runs, from", "a volume every 1.5 s", "60 voxels of the brain masks",
                  "18 trials of 4 pictures", "9 events of no interest, fixation 9",
                  "3 volumes left out"):
        assert words in said.output
    found = read_estimate(tmp_path / "sub-01_betas.h5")
    runs, masks = fmriprep.read_subject(study, "01", WANTED)
    expected = estimate([(fmriprep.read_voxels(run, masks), run.onsets) for run in runs], TR,
                        [run.confounds for run in runs], [run.durations for run in runs])
    np.testing.assert_allclose(found.betas, expected.betas, rtol=1e-4, atol=1e-5)
    volume = nibabel.load(tmp_path / "sub-01_betas_r2.nii.gz")
    np.testing.assert_array_equal(volume.affine, AFFINE)
    np.testing.assert_allclose(volume.get_fdata()[tuple(masks.ijk.T)], expected.r2, rtol=1e-4)
    pictures = np.zeros((4, 8, 8, 3), np.uint8)
    trials = pd.read_csv(tmp_path / "sub-01_betas_trials.csv")
    (tmp_path / "pictures").mkdir()
    from PIL import Image
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"pictures/p{i}.png")
    own = load_trials(tmp_path / "pictures", f"{tmp_path / 'sub-01_betas.h5'}:betas",
                      tmp_path / "sub-01_betas_trials.csv", size=8)
    assert own.trial_image.tolist() == [int(name[1]) for name in trials.stim_file]
    again = CliRunner().invoke(app, ask)
    assert again.exit_code and isinstance(again.exception, DataError)
    said = CliRunner().invoke(app, [*ask, "--report"])
    assert said.exit_code == 0, said.output
    assert len(pd.read_csv(tmp_path / "sub-01_voxels.csv")) == 60
    assert (tmp_path / "sub-01_report.png").exists() and (tmp_path / "sub-01_peak.nii.gz").exists()


@pytest.mark.filterwarnings("ignore")
def test_old_names_and_never_the_raw_run(tmp_path):
    write_run(tmp_path, "a", "1", old=True)
    runs, masks = fmriprep.read_subject(tmp_path, "01", WANTED)
    assert runs[0].tr == TR and len(masks.ijk) == BRAIN.sum()  # no JSON: the header is believed
    assert fmriprep.read_voxels(runs[0], masks).max() < 2000  # the raw ones are above 5000
    assert runs[0].confounds.shape[1] == 6 + 1 + 1
    for path in (tmp_path / "derivatives/fmriprep").glob("**/*preproc*"):
        path.unlink()
    with pytest.raises(DataError, match="no .*desc-preproc_bold"):
        fmriprep.find_runs(tmp_path, "01", WANTED)


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_clear_is_asked(study, tmp_path):
    def refuses(words, folder=study, subject="01", **change):
        with pytest.raises(DataError, match=words) as error:
            fmriprep.read_subject(folder, subject, Selection(**{**vars(WANTED), **change}))
        assert "\n" not in str(error.value)

    refuses("runs of task images, rest; expected one", task=None)
    refuses("runs of space MNI152NLin2009cAsym, T1w", space=None)
    refuses("it holds runs of task images, rest; ses one, two; space", space="fsaverage")
    refuses("no such file", subject="02")
    refuses("expected onset, trial_kind", where="trial_kind=image")
    refuses("0 pictures", where="trial_type=scene")
    refuses("picture_name with the pictures", picture="picture_name")
    refuses("no column dvars", confounds=("dvars",))
    refuses("no voxel of the mask lies in the volume", mask=lonely(tmp_path, 1.0))
    refuses("expected one volume, of a mask or of whole labels", mask=lonely(tmp_path, 7.5))


def lonely(folder, value):
    """A mask far away."""
    far = np.eye(4)
    far[:3, 3] = 500
    save(folder / f"{value}.nii", np.full((2, 2, 2), value, np.float32), far)
    return folder / f"{value}.nii"
