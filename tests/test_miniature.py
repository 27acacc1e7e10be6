"""A miniature of both releases, three subjects: read in every form, joined, then damaged."""

import shutil
from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pytest
import torch
from conftest import PEOPLE, VOXELS_OF

from recon_lib import recipes
from recon_lib.bold.glm import single_trial_betas
from recon_lib.common.errors import DataError
from recon_lib.data import bids, bold5000, release, stimuli, volumes
from recon_lib.data.loader import BatchLoader
from recon_lib.data.splits import refuse_leak
from recon_lib.decoding import reconstruct, sampling
from recon_lib.training.checkpoints import load_model

NPY = "BOLD5000_GLMsingle_ROI_betas/py/{}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{}.npy"
SESSION = "{}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{:02d}.nii.gz"
ONE_STEP = replace(sampling.SAMPLING, steps=1, candidates=1)
SHIFTED = "ignore:betas and masks share a grid"


@pytest.fixture
def copy(mini_release, tmp_path):
    """The miniature, to be broken."""
    shutil.copytree(mini_release, tmp_path / "BOLD5000")
    return tmp_path / "BOLD5000"


def refuses(call, *words):
    with pytest.raises(DataError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


# Whole -----------------------------------------------------------------------------------


def test_the_tree_is_the_published_one(mini_release):
    for path in (
        "ROIs/CSI1/h5/CSI1_ROIs_TR1.h5", "ROIs/CSI4/mat/CSI4_ROIs_TR34.mat",
        "ROIs/stim_lists/CSI02_stim_lists.txt", NPY.format("CSI1", "LHEarlyVis"),
        "CSI1_brainmask.nii.gz", "CSI2_imgnames.txt", SESSION.format("CSI1", 2),
        "BOLD5000_Stimuli/Scene_Stimuli/repeated_stimuli_113_list.txt",
        "BOLD5000_Stimuli/Stimuli_Presentation_Lists/CSI1/CSI1_sess02/CSI_sess02_run01.txt",
        "ds001499/sub-CSI1/ses-01/func/sub-CSI1_ses-01_task-5000scenes_run-01_bold.nii.gz",
        "ds001499/derivatives/spm/sub-CSI2/sub-CSI2_mask-RHRRSC.nii.gz",
    ):
        assert (mini_release / path).is_file(), path
    assert not (mini_release / "truth.h5").exists()
    marked = (mini_release / "ROIs/stim_lists/CSI01_stim_lists.txt").read_text().splitlines()
    names = (mini_release / "CSI1_imgnames.txt").read_text().splitlines()
    assert [line.removeprefix("rep_") for line in marked] == names
    assert sum(line.startswith("rep_") for line in marked) == len(names) - len(set(names)) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings(SHIFTED)
@pytest.mark.parametrize("name", PEOPLE)
def test_every_form_of_a_subject_agrees_with_its_raw_runs(mini_release, name):
    arrays = bold5000.read_r2(mini_release, name)
    whole = volumes.read_r2_volumes(mini_release, name)
    late = bold5000.read_r1(mini_release, name)
    trials = 37 * sum(PEOPLE[name])
    assert arrays.values.shape == (trials, sum(VOXELS_OF[name].values()))
    assert np.array_equal(arrays.values, whole.values)
    for other in (whole, late):
        assert other.stimuli == arrays.stimuli and np.array_equal(other.roi, arrays.roi)
        assert np.array_equal(other.session, arrays.session)
        assert np.array_equal(other.run, arrays.run)
    two = [bold5000.read_r1(mini_release, name, tr=tr).values for tr in ("3", "4")]
    assert np.allclose(sum(two) / 2, late.values, atol=1e-4)
    for one in bids.iter_runs(mini_release, name):
        mine = (arrays.session == one.session) & (arrays.run == one.run)
        betas = single_trial_betas(one.bold, one.onsets, one.tr)
        assert np.allclose(betas, arrays.values[mine], atol=1e-5)
        assert one.names == [arrays.stimuli[i] for i in np.flatnonzero(mine)]
        motion = bids.read_confounds(mini_release, name, one.session, one.run)
        assert motion.shape == (194, 6) and motion.std() > 0


def test_another_origin_is_explained(mini_release):
    with pytest.warns(UserWarning, match=r"origins differ by \[-70. -88. -71.\] mm.*by index"):
        volumes.read_r2_volumes(mini_release, "CSI1", rois=("RSC",))


@pytest.mark.filterwarnings(SHIFTED)
def test_load_takes_the_volumes_where_there_are_no_arrays(copy):
    first = release.load_experiment(copy, "CSI2")
    shutil.rmtree(copy / "BOLD5000_GLMsingle_ROI_betas")
    assert np.array_equal(release.load_experiment(copy, "CSI2").betas, first.betas)
    for path in copy.glob("CSI2_GLMbetas*"):
        path.unlink()
    refuses(lambda: release.load_experiment(copy, "CSI2"), NPY.format("CSI2", "LHEarlyVis"),
            "no such file")


def test_the_shorter_subject(mini_release):
    first, short = (release.load_experiment(mini_release, name) for name in ("CSI1", "CSI4"))
    assert len(short.betas) < len(first.betas) and set(short.names) <= set(first.names)
    repeated = set(stimuli.read_repeated(mini_release))
    assert set(short.names[short.test_index]) <= repeated
    assert set(first.names[first.test_index]) == repeated


def test_standard_split_holds_out_all_trials_of_repeated_pictures(mini_release):
    x = release.load_experiment(mini_release, "CSI1")
    repeated = set(stimuli.read_repeated(mini_release))
    assert [name in repeated for name in x.names[x.image].tolist()] == x.test.tolist()
    data = bold5000.read_r2(mini_release, "CSI1")
    marked = stimuli.with_repeats(data.stimuli)
    wrong = np.random.default_rng(0).random(len(marked)) < 0.5  # by trial, not by picture
    names = np.array(marked)
    with pytest.raises(DataError, match="split by picture, not by trial"):
        refuse_leak(names[~wrong], names[wrong])
    refuse_leak(names[~x.test], names[x.test])


# Categories ------------------------------------------------------------------------------


def test_held_out_categories_never_train(mini_release):
    x = release.load_experiment(mini_release, "CSI1", split="category")
    kinds = [stimuli.category(name) for name in x.names[x.image]]
    tested = {kind for kind, test in zip(kinds, x.test, strict=True) if test}
    assert tested == set(x.held) and "" not in tested
    assert not tested & {kind for kind, test in zip(kinds, x.test, strict=True) if not test}
    chosen = release.load_experiment(mini_release, "CSI1", split="category", held=["beach"])
    assert {name[:5] for name in chosen.names[chosen.test_index]} == {"beach"}
    with pytest.raises(DataError, match="expected repeated or category"):
        release.load_experiment(mini_release, "CSI1", split="random")


def test_simulated_scenes_are_held_out_by_what_was_drawn(miniature):
    x = release.load_experiment(miniature, split="category")
    kind = x.factors["category"][x.image]
    assert len(x.held) == 1 and len(set(kind[x.test])) == 1
    assert not set(kind[x.test]) & set(kind[~x.test])


def test_a_model_of_another_split_is_refused(mini_release, tiny_model, miniature):
    x = release.load_experiment(miniature, split="category")
    refuses(lambda: reconstruct.reconstruct_experiment(x, tiny_model), "model.safetensors",
            "trained with the repeated split", f"category split (held out: {x.held[0]})")
    refuses(lambda: reconstruct.refuse_other_split("m", {"split": "category", "held": ["n1"]}, x),
            "category split (held out: n1)")
    reconstruct.refuse_other_split("m", {"split": "category", "held": [*x.held, "more"]}, x)
    reconstruct.refuse_other_split("m", {}, release.load_experiment(mini_release, "CSI1"))


# Together --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["repeated", "category"])
def test_what_is_test_for_one_trains_nobody(mini_release, split):
    subjects = release.load_subjects(mini_release, list(PEOPLE), split=split)
    test = set().union(*(x.names[x.test_index] for x in subjects.values()))
    for x in subjects.values():
        assert not test & set(x.names[x.image[~x.test]])
    pictures = release.unique_pictures(list(subjects.values()))
    train = set().union(*(x.names[x.image[~x.test]] for x in subjects.values()))
    assert len(pictures) == len(train)


def test_a_leak_between_subjects_is_refused(mini_release):
    x = release.load_experiment(mini_release, "CSI1", split="category")
    name = str(x.names[x.test_index[0]])
    other = release.load_experiment(mini_release, "CSI2", split="category", held=["beach"])
    assert name in other.names[other.image[~other.test]]
    both = {"CSI1": x, "CSI2": other}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "load_experiment", lambda root, name, *a, **k: both[name])
        refuses(lambda: release.load_subjects(mini_release, list(both), split="repeated"),
                "are in the training set too")
    refuses(lambda: release.load_subjects(mini_release, ["CSI1", "CSI1"]), "expected each once")


@pytest.mark.slow
def test_a_model_is_trained_on_two_subjects_and_reads_both(mini_release, tmp_path):
    subjects = release.load_subjects(mini_release, ["CSI1", "CSI4"])
    recipes.train_stage("conditional", subjects.values(), tmp_path, steps=2, batch=4, device="cpu")
    model, info = load_model(tmp_path / "model.safetensors")
    assert info["split"] == "repeated"
    for x in subjects.values():  # each through a decoder from its own number of voxels
        got = reconstruct.reconstruct_experiment(
            x, tmp_path / "model.safetensors", sampling=ONE_STEP, say=lambda _: 0)
        assert got["averaged"]["pictures"]["diffusion"].shape == (len(x.test_index), 64, 64, 3)


@pytest.mark.slow
def test_another_network_for_larger_pictures(mini_release, tmp_path):
    x = release.load_experiment(mini_release, "CSI1", size=128)
    network, start = dict(channels=(8, 16), width=16, attention=(1,)), None
    for stage in ("unconditional", "conditional"):  # as docs/larger.md says it
        recipes.train_stage(stage, x, tmp_path / stage, start=start, steps=1, batch=4,
                            device="cpu", network=network)
        start = tmp_path / stage / "model.safetensors"
        assert load_model(start)[1]["optimizer"] == (
            "muon" if stage == "unconditional" else "adamw")  # which begins with weights
    assert network.items() <= {k: tuple(v) if isinstance(v, list) else v
                               for k, v in load_model(start)[0].config.items()}.items()
    got = reconstruct.reconstruct_experiment(x, start, sampling=ONE_STEP, say=lambda _: 0)
    assert got["averaged"]["pictures"]["diffusion"].shape == (len(x.test_index), 128, 128, 3)


def test_subjects_source_draws_a_subject_for_each_picture():
    sources = [lambda index, g, i=i: torch.full((len(index), 3), float(i)) for i in range(3)]
    images = np.zeros((600, 4, 4, 3), np.uint8)
    loader = BatchLoader(images, 600, release.subjects_source(sources))
    (_, vectors), = loader
    assert (vectors == vectors[:, :1]).all()
    shares = torch.bincount(vectors[:, 0].long()) / 600
    assert (shares - 1 / 3).abs().max() < 4 * (2 / 9 / 600) ** 0.5
    assert release.subjects_source(sources[:1]) is sources[0]


# Damaged ---------------------------------------------------------------------------------

READERS = {
    "r1": lambda root: bold5000.read_r1(root, "CSI1"),
    "r2": lambda root: bold5000.read_r2(root, "CSI1"),
    "volumes": lambda root: volumes.read_r2_volumes(root, "CSI1"),
    "runs": lambda root: list(bids.iter_runs(root, "CSI1")),
}
FILE = {
    "r1": "ROIs/CSI1/h5/CSI1_ROIs_TR34.h5",
    "r2": NPY.format("CSI1", "LHPPA"),
    "volumes": SESSION.format("CSI1", 2),
    "runs": "ds001499/sub-CSI1/ses-02/func/sub-CSI1_ses-02_task-5000scenes_run-01_bold.nii.gz",
}
LIST = {
    "r1": "ROIs/stim_lists/CSI01_stim_lists.txt",
    "r2": "CSI1_imgnames.txt",
    "volumes": "CSI1_imgnames.txt",
    "runs": "ds001499/sub-CSI1/ses-02/func/sub-CSI1_ses-02_task-5000scenes_run-01_events.tsv",
}
pytestmark = pytest.mark.filterwarnings(SHIFTED)


@pytest.mark.parametrize("form", READERS)
def test_a_missing_file_is_named(copy, form):
    path = copy / FILE[form]
    path.unlink()
    if form == "r1":
        (copy / FILE[form].replace("h5", "mat")).unlink()
    refuses(lambda: READERS[form](copy), path.name, "no such file")


@pytest.mark.parametrize("form", READERS)
def test_a_truncated_file_is_named(copy, form):
    path = copy / FILE[form]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refuses(lambda: READERS[form](copy), path.name, "cannot be read", "fetch")


@pytest.mark.parametrize("form", ["r1", "r2", "volumes"])
@pytest.mark.parametrize("change", [lambda lines: lines[:-1], lambda lines: [*lines, "beach9.jpg"]])
def test_a_wrong_line_count_is_named(copy, form, change):
    path = copy / LIST[form]
    lines = change(path.read_text().splitlines())
    path.write_text("\n".join(lines))
    refuses(lambda: READERS[form](copy), path.name, f"{len(lines)} lines", "expected")


@pytest.mark.parametrize("form", ["r1", "r2", "volumes"])
def test_another_subjects_file_is_noticed(copy, form):
    """As many trials, other voxels: CSI2's file under CSI1's name."""
    path = copy / FILE[form]
    theirs = copy / FILE[form].replace("CSI1", "CSI2")
    shutil.copy(theirs, path)
    reason = "the masks have" if form == "volumes" else "another subject's file"
    refuses(lambda: READERS[form](copy), path.name, reason)


def test_another_subjects_mask_is_noticed(copy):
    ours = volumes.mask_path("CSI1", "LHPPA")
    theirs = volumes.mask_path("CSI2", "LHPPA")
    shutil.copy(copy / "ds001499" / theirs, copy / "ds001499" / ours)
    refuses(lambda: READERS["volumes"](copy), "mask-", "the other masks have")


@pytest.mark.parametrize("form", ["r1", "r2", "volumes"])
def test_another_subjects_list_is_noticed(copy, form):
    path = copy / LIST[form]
    theirs = LIST[form].replace("CSI1", "CSI2").replace("CSI01", "CSI02")
    shutil.copy(copy / theirs, path)
    refuses(lambda: READERS[form](copy), path.name, "another subject's list")


@pytest.mark.parametrize("form", READERS)
def test_windows_line_ends_do_not_matter(copy, form):
    before = READERS[form](copy)
    for path in [*copy.rglob("*.txt"), *copy.rglob("*.tsv")]:
        text = path.read_text()
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # and a mark
    after = READERS[form](copy)
    if form == "runs":
        assert [run.names for run in after] == [run.names for run in before]
        assert all(np.array_equal(a.onsets, b.onsets) for a, b in zip(after, before, strict=True))
    else:
        assert after.stimuli == before.stimuli and np.array_equal(after.values, before.values)
    assert stimuli.read_repeated(copy)[0].endswith(("jpg", "JPEG"))


def test_a_session_of_another_length_and_a_foreign_grid_are_named(copy):
    path = copy / SESSION.format("CSI1", 1)
    image = nibabel.load(path)
    data = np.asarray(image.dataobj)
    nibabel.Nifti1Image(data[..., :-1], image.affine).to_filename(path)
    refuses(lambda: READERS["volumes"](copy), path.name, "betas, but", "pictures of session 1")
    nibabel.Nifti1Image(data[:-1], image.affine).to_filename(path)
    refuses(lambda: READERS["volumes"](copy), path.name, "the masks have", "T1w")


def test_an_h5_file_of_something_else_is_named(copy):
    path = copy / FILE["r1"]
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    refuses(lambda: READERS["r1"](copy), path.name, "no region LHEarlyVis", "weights")
