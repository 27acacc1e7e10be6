"""A miniature of the embedded experiment: whole or not there, and read back as it was made."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import DESIGN, VOXELS

from recon_lib.bold.betas import correlate_columns
from recon_lib.bold.glm import single_trial_betas
from recon_lib.bold.single_trial import estimate, find_noise
from recon_lib.common import folders
from recon_lib.common.errors import DataError
from recon_lib.data import bids, bold5000, raw_betas, release, volumes
from recon_lib.data.bold5000 import KEYS, TR, read_r1, read_r2
from recon_lib.data.release import BETAS, Experiment
from recon_lib.world import experiment, scenes, subject, tuning

PICTURES = 222 - 24 + 6
SMALL = dict(zip(KEYS, (2, 2, 1, 1, 1, 1, 1, 1, 1, 1), strict=True))
SHORT = dict(runs_per_session=(1,), repeated=3, test_trials=6)


def build(root, seed=0, voxels=SMALL, **options):
    return experiment.build(root, seed, voxels=voxels, **(SHORT | options))


def state(folder):
    """Every file with its time of change and its size."""
    return {p.relative_to(folder): (p.stat().st_mtime_ns, p.stat().st_size)
            for p in folder.rglob("*") if p.is_file()}


def left_in(folder):
    """What lies in a folder, but for the lock."""
    return [p.name for p in folder.iterdir() if p.suffix != ".lock"]


def test_a_second_build_finds_the_first(tmp_path):
    root = tmp_path / "experiment"
    assert build(root) == root
    before = state(root)
    assert len(list(root.rglob("*_bold.nii.gz"))) == 1
    assert len(list(root.rglob("*.png"))) == 37 - 6 + 3
    assert build(root) == root
    assert state(root) == before
    assert left_in(tmp_path) == ["experiment"]


def test_same_seed_same_bytes(tmp_path):
    for name in ("a", "b"):
        build(tmp_path / name)
    a, b = ({p.relative_to(tmp_path / n): p for p in (tmp_path / n).rglob("*") if p.is_file()}
            for n in ("a", "b"))
    assert a.keys() == b.keys()
    for name in a:
        if name.suffix in (".png", ".txt", ".tsv", ".gz"):
            assert a[name].read_bytes() == b[name].read_bytes(), name


def test_other_settings_at_the_same_place_are_refused(tmp_path):
    root = tmp_path / "experiment"
    build(root)
    before = state(root)
    with pytest.raises(DataError, match="other than this experiment"):
        build(root, seed=1)
    with pytest.raises(DataError, match="other than this experiment"):
        build(root, voxels=SMALL | {"LHLOC": 2})
    with pytest.raises(DataError, match="other than this experiment"):
        build(root, repeated=4, test_trials=7)  # as many trials and pictures
    with pytest.raises(DataError, match="other than this experiment"):
        build(root, images=scenes.draw(scenes.sample_factors(34, 9)))
    assert state(root) == before


def test_own_pictures_are_told_from_other_own_pictures(tmp_path):
    root = tmp_path / "experiment"
    images = np.random.default_rng(0).integers(0, 256, (34, 64, 64, 3), dtype=np.uint8)
    build(root, images=images)
    before = state(root)
    build(root, images=images)
    assert state(root) == before
    with pytest.raises(DataError, match="other than this experiment"):
        build(root, images=255 - images)
    raw_betas.estimate_betas(root)
    x = release.load_experiment(root)
    assert x.factors is None
    assert sorted(map(bytes, x.images)) == sorted(map(bytes, images))


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="choose another folder"):
        build(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert build(tmp_path / "empty").joinpath("COMPLETE.json").exists()


def test_wrong_number_of_pictures(tmp_path):
    images = np.zeros((33, 64, 64, 3), np.uint8)
    with pytest.raises(DataError, match="found 33 pictures, the design shows 34"):
        build(tmp_path / "experiment", images=images)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("error, raised", [(RuntimeError("power cut"), RuntimeError),
                                           (KeyboardInterrupt(), KeyboardInterrupt),
                                           (OSError(28, "No space left on device"), DataError)])
def test_a_build_that_dies_leaves_nothing(tmp_path, monkeypatch, error, raised):
    def die(*args, **kwargs):
        assert any(Path(args[0]).rglob("*.png"))  # half of it is written by now
        raise error

    monkeypatch.setattr(bids, "write_run", die)
    with pytest.raises(raised):
        build(tmp_path / "experiment")
    assert left_in(tmp_path) == []
    monkeypatch.undo()
    build(tmp_path / "experiment")  # and does not stand in the way


def test_names_are_those_of_three_sources():
    names = experiment.picture_names(4916, 0)
    assert len(set(names)) == 4916
    kinds = ["coco" if n.startswith("COCO_") else "net" if n[0] == "n" else "scene" for n in names]
    assert [kinds.count(k) for k in ("coco", "net", "scene")] == [2000, 1916, 1000]


def test_load_gives_the_trials_of_the_design(loaded):
    x, design = loaded, subject.make_design(0, **DESIGN)
    names = np.array(experiment.picture_names(PICTURES, 0))
    assert x.images.shape == (PICTURES, 64, 64, 3) and x.betas.shape == (222, 74)
    assert np.array_equal(x.names[x.image], names[design.image])
    assert np.array_equal(x.session, design.session)
    assert np.array_equal(x.test, design.test) and x.test.sum() == 24
    assert np.array_equal(x.roi, np.repeat(list(VOXELS), list(VOXELS.values())))
    assert np.array_equal(scenes.draw(x.factors), x.images)  # each with its own factors
    assert np.array_equal(x.image[x.test], x.test_index[x.target])


def test_betas_are_standardised_by_the_training_trials(loaded):
    for session in (1, 2):
        mine = loaded.betas[(loaded.session == session) & ~loaded.test].astype(np.float64)
        assert np.abs(mine.mean(0)).max() < 1e-4
        assert np.abs(mine.std(0) - 1).max() < 1e-4
    assert np.abs(loaded.betas[loaded.test].std(0) - 1).max() > 1e-3


def test_test_pictures_are_not_trained_on(loaded):
    train = {bytes(p) for p in loaded.train_pictures}
    test = {bytes(loaded.images[i]) for i in loaded.test_index}
    assert len(test) == 6 and not train & test


def test_a_test_picture_in_the_training_set_is_refused(loaded):
    sneak = vars(loaded) | {"images": loaded.images.copy()}
    sneak.pop("test_index")
    sneak["images"][loaded.image[~loaded.test][0]] = loaded.images[loaded.test_index[2]]
    with pytest.raises(DataError, match="1 of 6 test pictures are in the training set"):
        Experiment(**sneak)


def test_averages_are_means_over_the_trials_of_each_picture(loaded):
    means, counts = loaded.averaged()
    assert counts.tolist() == [4] * 6
    for picture, mean in zip(loaded.test_index, means, strict=True):
        mine = [b for b, i, t in zip(loaded.betas, loaded.image, loaded.test, strict=True)
                if t and i == picture]
        assert len(mine) == 4 and np.allclose(mean, sum(mine) / 4, atol=1e-6)


def test_both_releases_hold_what_the_runs_say(miniature):
    run = bids.read_run(miniature, "CSI1", 2, 1)
    fit = single_trial_betas(run.bold, run.onsets, run.tr)
    r1, r2 = read_r1(miniature, "CSI1"), read_r2(miniature, "CSI1")
    mine = (r2.session == 2) & (r2.run == 1)
    assert np.allclose(r2.values[mine], fit, atol=1e-5)
    assert [r2.stimuli[i] for i in np.flatnonzero(mine)] == run.names
    percent = 100 * (run.bold / run.bold.mean(0) - 1)
    for trial in (0, 17, 36):  # volumes 4 s and 6 s after the onset
        at = round(run.onsets[trial] / TR)
        expected = (percent[at + 2] + percent[at + 3]) / 2
        assert np.allclose(r1.values[mine][trial], expected, atol=1e-4)
    assert r1.stimuli == r2.stimuli and np.array_equal(r1.roi, r2.roi)


def test_both_releases_tell_of_the_truth(miniature):
    with h5py.File(miniature / "truth.h5") as truth:
        true = truth["betas"][()]
        assert truth["subject/roi"][0] == b"LHEarlyVis"
        assert truth["image"].shape == (222,) and truth["factors"].shape == (PICTURES,)
    for number in (1, 2):
        x = release.load_experiment(miniature, release=number)
        alike = correlate_columns(x.betas, true)
        assert alike.mean() > 4 / np.sqrt(222 * 74)  # far noisier than this test is exact
    ridge = correlate_columns(read_r2(miniature, "CSI1").values, true)
    assert 0.08 < ridge.mean() < 0.35  # the SNR of .03 asks for .17


def test_truth_is_in_the_order_of_the_pictures_asked_for(miniature, loaded):
    responses = release.read_truth(loaded.truth, "responses", loaded.names)
    backwards = release.read_truth(loaded.truth, "responses", loaded.names[::-1])
    assert np.array_equal(responses[::-1], backwards)
    expected = tuning.responses(loaded.images, loaded.factors, VOXELS, 0)
    # the same tuning, whichever way the pictures are ordered
    assert correlate_columns(expected, responses).min() > 0.99
    assert release.read_truth(loaded.truth, "absent", loaded.names) is None


def test_load_says_what_is_missing(miniature, tmp_path):
    with pytest.raises(DataError, match="recon_lib simulate"):
        release.load_experiment(tmp_path / "nowhere")
    with pytest.raises(DataError, match="release is 3"):
        release.load_experiment(miniature, release=3)
    with pytest.raises(DataError, match="CSI2"):
        release.load_experiment(miniature, "CSI2")
    part = release.load_experiment(miniature, rois=("PPA", "LOC"))
    assert part.betas.shape == (222, 36) and set(part.roi) == {"LHPPA", "RHPPA", "LHLOC", "RHLOC"}


@contextmanager
def no_locks(path, busy=None):
    yield False


def test_leftovers_of_a_killed_build_are_removed(tmp_path, monkeypatch):
    left = tmp_path / ".small.partial"
    left.mkdir()
    (left / "half").write_text("x")
    with monkeypatch.context() as without:
        without.setattr(folders, "only_one", no_locks)
        build(tmp_path / "small")
    assert left.exists()  # without locks somebody may still be writing it
    shutil.rmtree(tmp_path / "small")
    build(tmp_path / "small")
    assert not left.exists()  # we hold the lock, so nobody is
    assert not (tmp_path / "small" / "half").exists()


def test_the_whole_brain_is_estimated_as_its_regions_would_be(tmp_path):
    root = build(tmp_path / "experiment", runs_per_session=(3,), repeated=6, test_trials=24)
    path, noise = raw_betas.estimate_whole_brain(root)
    masks = volumes.read_brain_mask(root, "CSI1")
    whole = [bids.read_run(root, "CSI1", *n, masks=masks) for n in bids.list_runs(root, "CSI1")]
    runs = list(bids.iter_runs(root, "CSI1"))
    names = np.concatenate([one.names for one in runs])
    step = len(masks.ijk) // 2000 or 1  # the whole brain, not its regions, says what noise is
    again = find_noise([(one.bold[:, ::step], one.onsets) for one in whole], TR, names,
                       [one.durations for one in whole])
    assert str(noise) == str(again) and "chosen by leave-one-run-out" in str(noise)
    expected = estimate([(one.bold, one.onsets) for one in runs], TR, again.confounds)
    with h5py.File(path) as file:
        place = {tuple(ijk): i for i, ijk in enumerate(file["ijk"][:].tolist())}
        columns = [place[tuple(ijk)] for ijk in runs[0].ijk.tolist()]
        np.testing.assert_allclose(file["betas"][:][:, columns], expected.betas, atol=1e-3)
        assert (file["hrf"][:][columns] == expected.hrf).all()
        assert file["stimuli"][:].astype(str).tolist() == names.tolist()
        assert file["run"][:].tolist() == [one.run for one in runs for _ in one.names]
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == [path.name]
    with pytest.raises(DataError, match="there already"):
        raw_betas.estimate_whole_brain(root)


def test_experiments_whose_factors_hold_a_kind_load(miniature, loaded, tmp_path):
    """As earlier versions wrote them."""
    old = tmp_path / "old"
    shutil.copytree(miniature, old)
    with h5py.File(old / "truth.h5", "a") as file:
        factors = file["factors"][:]
        factors.dtype.names = ("kind", *factors.dtype.names[1:])
        del file["factors"]
        file["factors"] = factors
    assert np.array_equal(release.load_experiment(old).factors, loaded.factors)
    assert loaded.factors.dtype == scenes.FACTORS


@pytest.mark.parametrize("name", ["small", "*", "[ab]", "small.v2", ".small"])
def test_a_build_leaves_its_neighbours_alone(tmp_path, name):
    """Unfinished folders of others, whatever their names and ours have in common."""
    others = [f".{other}.{end}" for other in ("small", "*", "[ab]", "a", "small.v2", "")
              for end in ("partial", "lock", "7.partial")]
    others = [other for other in others if other not in (f".{name}.partial", f".{name}.lock")]
    for other in others:
        (tmp_path / other).mkdir()
        (tmp_path / other / "work").write_text("of years")
    build(tmp_path / name)
    assert all((tmp_path / other / "work").exists() for other in others)
    assert {p.name for p in tmp_path.iterdir()} - {f".{name}.lock"} == {*others, name}


def test_a_mark_is_believed_only_with_what_it_lists(tmp_path):
    root = build(tmp_path / "small")
    experiment.estimate_betas(root)
    before = state(root)
    build(root)
    assert state(root) == before
    (root / BETAS / "py").rename(tmp_path / "py")
    assert folders.is_complete(root) and not folders.is_complete(root / BETAS)
    with pytest.raises(DataError, match="py/CSI1.*no such file.*estimate them with"):
        release.load_experiment(root)
    experiment.estimate_betas(root)
    assert folders.is_complete(root / BETAS)
    gone = next(root.rglob("*_bold.nii.gz"))
    gone.unlink()
    assert not folders.is_complete(root)
    with pytest.raises(DataError, match=f"lost 1 of its files, such as .*{gone.name}"):
        build(root)
    mark = root / folders.MARK
    held = json.loads(mark.read_text())
    assert str(gone.relative_to(root)) in held.pop("files")
    mark.write_text(json.dumps(held))  # as older versions wrote it: no list
    assert folders.is_complete(root) and build(root) == root
    for text in ("[]", '{"files": 3}', '{"voxels": {"CSI1": 3}}', "[" * 100_000, "\xff", ""):
        mark.write_text(text, encoding="latin-1")
        assert not folders.is_complete(root)
        with pytest.raises(DataError, match="COMPLETE.json"):
            release.load_experiment(root)


def test_an_unfinished_folder_that_somebody_empties_is_not_whole(tmp_path, monkeypatch):
    """Wholly, or of a part, at any time: before the runs are written, or after."""
    for pattern, at in (("*", 0), ("*.png", 0), ("*_bold.nii.gz", 1), ("*RHPPA*", 1)):
        def emptied(root, *args, pattern=pattern, at=at, usual=experiment.scan):
            betas = usual(root, *args) if at else None
            for path in filter(Path.is_file, list(root.rglob(pattern))):
                path.unlink()
            return betas if at else usual(root, *args)

        with monkeypatch.context() as patch, pytest.raises(DataError, match="lost .* files while"):
            patch.setattr(experiment, "scan", emptied)
            build(tmp_path / "small")
    assert left_in(tmp_path) == []


def test_an_unfinished_folder_is_not_read(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    half = build(tmp_path / "other").rename(work / ".small.partial")
    with pytest.raises(DataError, match="sub-CSI1: no such file"):
        experiment.estimate_betas(work)
    half.rename(work / "small")
    experiment.estimate_betas(work)  # one folder further down is fine


def test_betas_by_two_methods_are_not_read(tmp_path, monkeypatch):
    """Killed while the areas are rewritten: neither the mark nor a reader takes it for whole."""
    root = build(tmp_path / "small")
    experiment.estimate_betas(root)
    release.load_experiment(root)
    usual, written = bold5000.atomic_write, []

    def die(path):
        written.append(path)
        if len(written) > 4:
            raise KeyboardInterrupt
        return usual(path)

    monkeypatch.setattr(bold5000, "atomic_write", die)
    with pytest.raises(KeyboardInterrupt):
        experiment.estimate_betas(root, method="lss")
    assert not folders.is_complete(root / BETAS)
    with pytest.raises(DataError, match="not whole.*recon_lib betas"):
        release.load_experiment(root)
    monkeypatch.undo()
    experiment.estimate_betas(root)
    release.load_experiment(root)


def test_a_build_behind_a_link_and_at_odd_places(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name, place in (("link", "disk"), ("dangling", "new")):
        assert build(tmp_path / name) == tmp_path / name
        assert (tmp_path / name).is_symlink() and folders.is_complete(tmp_path / place)
    (tmp_path / "file").write_text("x")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for where, told in ((tmp_path / "file", "is a file"), (".", "where you stand"), ("", "where"),
                        ("/", "where"), (tmp_path / "file" / "below", "cannot write")):
        with pytest.raises(DataError, match=told):
            build(where)
