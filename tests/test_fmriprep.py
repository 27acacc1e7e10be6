"""fMRIPrep's folders, written by hand: read by nilearn and by us to the same numbers."""

import gzip
import json
import shutil
import warnings
from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest

from recon_lib.__main__ import app
from recon_lib.bold.events import condition_regressors
from recon_lib.bold.glm import percent_change
from recon_lib.bold.single_trial import estimate, find_noise
from recon_lib.bold.whole_brain import read_estimate
from recon_lib.common.errors import DataError
from recon_lib.data import fmriprep
from recon_lib.data.arrays import load_trials
from recon_lib.data.bids import Timing, events_in
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
    assert models[0].t_r == TR == runs[0].times.tr and models[0].slice_time_ref == START / TR
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


@pytest.mark.slow
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
    scans = [(fmriprep.read_voxels(run, masks), run.onsets) for run in runs]
    durations = [run.durations for run in runs]
    noise = find_noise(scans, TR, np.concatenate([run.names for run in runs]), durations,
                       [run.confounds for run in runs])
    assert str(noise) in said.output and "chosen by leave-one-run-out" in str(noise)
    expected = estimate(scans, TR, noise.confounds, durations)
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
    assert str(noise) in said.output
    assert len(pd.read_csv(tmp_path / "sub-01_voxels.csv")) == 60
    assert (tmp_path / "sub-01_report.png").exists() and (tmp_path / "sub-01_peak.nii.gz").exists()


@pytest.mark.filterwarnings("ignore")
def test_old_names_and_never_the_raw_run(tmp_path):
    write_run(tmp_path, "a", "1", old=True)
    runs, masks = fmriprep.read_subject(tmp_path, "01", WANTED)
    assert runs[0].times == Timing(TR) and len(masks.ijk) == BRAIN.sum()  # no JSON, but a header
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
    refuses("none of 9 events is a trial .9 events without.*=scene: it holds image, fixation",
            where="trial_type=scene")
    refuses("asked for as 'image'; expected COLUMN=VALUE", where="image")
    refuses("picture_name with the pictures", picture="picture_name")
    refuses("no column dvars", confounds=("dvars",))
    refuses("no voxel of the mask lies in the volume", mask=lonely(tmp_path, 1.0))
    refuses("expected one volume, of a mask or of whole labels", mask=lonely(tmp_path, 7.5))
    for name in ("sub-01_space-T1w_desc-brain_mask.nii.gz", "tpl-T1w_res-01_dseg.nii.gz"):
        save(tmp_path / name, BRAIN)
        refuses("in space T1w, as its name says, but the runs are in MNI", mask=tmp_path / name)


def lonely(folder, value):
    """A mask far away."""
    far = np.eye(4)
    far[:3, 3] = 500
    save(folder / f"{value}.nii", np.full((2, 2, 2), value, np.float32), far)
    return folder / f"{value}.nii"


def change_json(study, root, **told):
    """A copy of the study whose runs in MNI space have another sidecar."""
    shutil.copytree(study, root, dirs_exist_ok=True)
    for path in root.glob("derivatives/fmriprep/**/*MNI*preproc_bold.json"):
        path.write_text(json.dumps({"RepetitionTime": TR, **told}))
    return root


@pytest.mark.parametrize("told, start, words", [
    ({}, 0, "the first at 0 s"),
    ({"SliceTimingCorrected": False}, 0, "the first at 0 s"),
    ({"StartTime": 0.6}, 0.6, "the first at 0.6 s (StartTime)"),
    ({"StartTime": 0, "SliceTimingCorrected": True}, 0, "the first at 0 s (StartTime)"),
    ({"SliceTimingRef": 0.4}, 0.6, "the first at 0.6 s (SliceTimingRef)"),
    ({"StartTime": 0.73, "SliceTimingRef": 0.5}, 0.73, "the first at 0.73 s (StartTime)"),
    ({"StartTime": 0.3, "SliceTimingRef": 0.5}, 0.3, "StartTime is taken"),
    ({"SliceTimingCorrected": True}, 0.75, "half a TR, 0.75 s, is taken")])
@pytest.mark.filterwarnings("ignore:.*the header says")
def test_the_first_volume_stands_for_a_time_that_is_told_once(study, tmp_path, told, start, words):
    """The regressors are those of nilearn with its `slice_time_ref`."""
    from nilearn.glm.first_level import FirstLevelModel

    root = change_json(study, tmp_path / "study", **told)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path, = fmriprep.find_runs(root, "01", replace(WANTED, session="one", run="1"))
        run = fmriprep.describe(path, WANTED)
    assert run.times.start == pytest.approx(start)
    events = pd.read_csv(fmriprep.find_beside(path)[1], sep="\t")
    events = events[events.trial_type == "image"]
    np.testing.assert_allclose(run.onsets, events.onset - start)
    said = fmriprep.told([run], fmriprep.find_voxels([path]), WANTED)[0]
    assert words in said or any(words in str(one.message) for one in caught)
    if words == "the first at 0.6 s (SliceTimingRef)":
        model = FirstLevelModel(t_r=TR, slice_time_ref=0.4, drift_model=None, noise_model="ols",
                                hrf_model="spm", mask_img=False, minimize_memory=False)
        model.fit(nibabel.Nifti1Image(RNG.normal(size=(2, 2, 2, VOLUMES)), AFFINE),
                  events[["onset", "duration", "trial_type"]])
        ours = condition_regressors(run.onsets, run.durations, VOLUMES, TR)[:, 0]
        np.testing.assert_allclose(ours, model.design_matrices_[0]["image"], atol=1e-2)


@pytest.mark.parametrize("told, words", [
    ({"SliceTimingRef": 750}, "SliceTimingRef 750; expected a share of the TR, from 0 to 1"),
    ({"StartTime": True}, "StartTime True; expected seconds, from 0 to 1.5"),
    ({"StartTime": "0.75 s"}, "StartTime '0.75 s'; expected seconds"),
    ({"StartTime": float("nan")}, "StartTime nan"), ({"RepetitionTime": 0}, "RepetitionTime 0;")])
def test_odd_times_are_refused(study, tmp_path, told, words):
    root = change_json(study, tmp_path / "study", **told)
    with pytest.raises(DataError, match=words):
        fmriprep.read_subject(root, "01", WANTED)


@pytest.mark.filterwarnings("ignore")
def test_runs_on_two_grids_are_told_apart(study, tmp_path):
    root = change_json(study, tmp_path / "study")
    path, = root.glob("derivatives/fmriprep/**/*ses-two_task-images*MNI*preproc_bold.nii.gz")
    image = nibabel.load(path)
    far = AFFINE.copy()
    far[0, 3] += 1.5
    for array, affine, words in (
            (image.get_fdata()[:5], AFFINE, "5 x 7 x 5 voxels of 3 x 3 x 3 mm"),
            (image.get_fdata(), far, "from .10.5, -9.0, -6.0. mm")):
        save(path, array.astype(np.float32), affine, TR)
        with pytest.raises(DataError, match=f"ses-two.*{words}.*ses-one.* has 6 x 7 x 5.*resample"):
            fmriprep.read_subject(root, "01", WANTED)
    (run, _), _ = fmriprep.read_subject(root, "01", replace(WANTED, session="one"))
    assert run.session == "one"


STEM = "sub-01/ses-one/func/sub-01_ses-one_task-images_run-1"
MADE = f"derivatives/fmriprep/{STEM}"
PLACE = f"{MADE}_space-MNI152NLin2009cAsym"


def change_table(name, change):
    def apply(root):
        path = root / name
        change(pd.read_csv(path, sep="\t")).to_csv(path, sep="\t", index=False, na_rep="n/a")
    return apply


def change_image(name, change):
    def apply(root):
        image = nibabel.load(root / name)
        array, affine = change(np.asarray(image.dataobj), image.affine)
        save(root / name, array, affine, TR)
    return apply


def volumes_set(value, start=0, stop=None):
    def change(array, affine):
        array = array.copy()
        array[..., start:stop] = value
        return array, affine
    return change_image(f"{PLACE}_desc-preproc_bold.nii.gz", change)


EVENTS, CONFOUNDS = f"{STEM}_events.tsv", f"{MADE}_desc-confounds_timeseries.tsv"
MASK = f"{PLACE}_desc-brain_mask.nii.gz"
ODD = {
    "two columns onset; expected one": change_table(EVENTS, lambda t: pd.concat(
        [t, t[["onset"]]], axis=1)),
    "a picture of 400 s, but .* has 80 volumes .120 s": change_table(EVENTS, lambda t: t.assign(
        duration=400)),
    "a trial at .* s, but .* has 80 volumes": change_table(EVENTS, lambda t: t.assign(
        onset=1000 * t.onset)),
    "trans_x is 'a' in row 2; expected numbers": change_table(CONFOUNDS, lambda t: t.assign(
        trans_x="a")),
    "trans_y is 'inf' in row 32; expected": change_table(CONFOUNDS, lambda t: t.assign(
        trans_y=np.where(t.index == 30, np.inf, t.trans_y))),
    "two columns rot_x": change_table(CONFOUNDS, lambda t: pd.concat([t, t[["rot_x"]]], axis=1)),
    "79 of 80 volumes are empty": volumes_set(0),  # the first is left out already
    "20 of 80 volumes are empty .* index 60": volumes_set(0, 60),
    "1 of 80 volumes are empty .* index 30": volumes_set(np.nan, 30, 31),
    "none of 60 voxels varies": volumes_set(900),
    "not demeaned": change_image(f"{PLACE}_desc-preproc_bold.nii.gz", lambda a, b: (a - 950, b)),
    "expected a mask of one volume": change_image(MASK, lambda a, b: (np.stack([a, a], -1), b)),
    "expected one grid for all runs and their masks": change_image(MASK, lambda a, b: (
        a, np.diag([3, 3, 3, 1]))),
}


@pytest.mark.parametrize("words", ODD)
@pytest.mark.filterwarnings("ignore")
def test_odd_files_are_refused_in_a_line(study, tmp_path, words):
    shutil.copytree(study, tmp_path / "study")
    ODD[words](tmp_path / "study")
    with pytest.raises(DataError, match=words) as error:
        runs, masks = fmriprep.read_subject(tmp_path / "study", "01", WANTED)
        fmriprep.read_voxels(runs[0], masks)
    assert "\n" not in str(error.value) and "sub-01_ses-one" in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_is_there_twice_is_refused(study, tmp_path):
    root = shutil.copytree(study, tmp_path / "study")
    path = root / f"{PLACE}_desc-preproc_bold.nii.gz"
    path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")  # what a Mac leaves: no run
    assert len(fmriprep.find_runs(root, "01", WANTED)) == 3
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.raises(DataError, match=r"bold.nii and .*bold.nii.gz are one run; expected one f"):
        fmriprep.read_subject(root, "01", WANTED)


@pytest.mark.filterwarnings("ignore:.*(no interest|header says)")
def test_folders_of_links_and_runs_of_another_subject(study, tmp_path):
    root = shutil.copytree(study, tmp_path / "study")
    session = root / "derivatives/fmriprep/sub-01/ses-two"
    session.rename(tmp_path / "elsewhere")
    session.symlink_to(tmp_path / "elsewhere")
    runs = fmriprep.find_runs(root, "01", WANTED)
    assert [path.parts[-3] for path in runs] == ["ses-one", "ses-one", "ses-two"]
    runs[0].with_name(runs[0].name.replace("sub-01", "sub-02")).touch()
    with pytest.raises(DataError, match="sub-02_.*: a run of another subject than 01; expected no"):
        fmriprep.find_runs(root, "01", WANTED)


@pytest.mark.filterwarnings("ignore:.*(no interest|header says)")
@pytest.mark.parametrize("affine", [None, np.diag([-3.0, 3, 3, 1])], ids=["none", "no origin"])
def test_a_mask_of_the_same_shape_and_another_place_is_told(study, tmp_path, affine):
    nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), affine).to_filename(tmp_path / "mask.nii")
    with pytest.warns(UserWarning, match="mask.nii: 6 x 7 x 5 .*; matched by millimetres"):
        fmriprep.read_subject(study, "01", replace(WANTED, mask=tmp_path / "mask.nii"))


def test_pictures_of_one_name_and_durations_that_are_too_long(tmp_path):
    table(tmp_path / "events.tsv", {"onset": [9, 1, 5], "duration": 100,
                                    "stim_file": ["b/y.png", "a/x.png", "b/rep_x.png"]})
    with pytest.warns(UserWarning, match="2 pictures stay on .* up to 100 s: are durations in sec"):
        found = events_in(tmp_path / "events.tsv")
    assert found.names == ["b/y.png", "a/x.png", "b/x.png"]  # in two folders: two pictures


def test_pictures_without_durations_are_told(study, tmp_path):
    table = pd.read_csv(study / EVENTS, sep="\t").drop(columns="duration")
    table.to_csv(tmp_path / "events.tsv", sep="\t", index=False, na_rep="n/a")
    with pytest.warns(UserWarning, match="6 durations not known: 1 s each"):
        found = events_in(tmp_path / "events.tsv", where="trial_type=image")
    assert (found.durations == 1).all()


@pytest.mark.filterwarnings("ignore:.*(no interest|header says)")
def test_more_confounds_than_volumes_and_missing_ones(study, tmp_path):
    root = shutil.copytree(study, tmp_path / "study")
    change_table(CONFOUNDS, lambda t: t.assign(csf=np.where(t.index > 77, np.nan, t.csf)))(root)
    wanted = replace(WANTED, session="one", run="1", confounds=("csf", "trans_x_derivative1"))
    with pytest.warns(UserWarning, match="values of csf are missing below the first row, 2 in all"):
        (run,), _ = fmriprep.read_subject(root, "01", wanted)
    assert run.confounds[0, 1] == 0 and (run.confounds[78:, 0] == 0).all()
    change_table(CONFOUNDS, lambda t: t.join(pd.DataFrame(
        RNG.normal(size=(80, 70)), columns=[f"a_comp_cor_{i:02d}" for i in range(70)])))(root)
    with pytest.raises(DataError, match="72 confounds, drift and 6 trials leave nothing of 80"):
        fmriprep.read_subject(root, "01", replace(wanted, confounds=("a_comp_cor_*",)))
    path = root / f"{PLACE}_desc-preproc_bold.json"
    path.write_text('{"VolumeTiming": [0, 1.5, 4]}')
    with pytest.raises(DataError, match="VolumeTiming"):
        fmriprep.read_subject(root, "01", wanted)
