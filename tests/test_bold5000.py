"""A miniature release in the published layouts, read back; then broken in every way."""

import h5py
import numpy as np
import pytest
import scipy.io

from recon_lib.common.errors import DataError
from recon_lib.common.folders import mark_complete
from recon_lib.data import bold5000
from recon_lib.data.bold5000 import KEYS, VOXELS, Betas, read_r1, read_r2, write_r1, write_r2
from recon_lib.data.splits import split_by_group
from recon_lib.data.stimuli import (
    CATEGORIES,
    RUNS_PER_SESSION,
    TRIALS_PER_RUN,
    category,
    picture_folder,
    read_images,
    read_repeated,
    trial_runs,
    with_repeats,
    write_images,
    write_repeated,
)
from recon_lib.world import scenes

RNG = np.random.default_rng(0)
NAMES = [
    "COCO_train2014_000000000001.jpg",
    "n01234567_12.JPEG",
    "airport1.jpg",
    "n01234567_34.JPEG",
    "COCO_train2014_000000000002.jpg",
    "dining_car.jpg",
    "banquetHall2.jpg",
    "n07654321_5.JPEG",
]
STIMULI = NAMES + ["airport1.jpg", "n01234567_12.JPEG", "airport1.jpg", "library_aisle10.jpg"]
TRIALS = len(STIMULI)
SESSION = np.repeat([1, 2], 6)
RUN = np.tile(np.repeat([1, 2], 3), 2)
SIZES = dict(zip(KEYS, (4, 5, 3, 2, 2, 3, 4, 1, 2, 3), strict=True))
ROI = np.repeat(list(SIZES), list(SIZES.values()))
ROIS = {k: RNG.standard_normal((TRIALS, n)).astype(np.float32) for k, n in SIZES.items()}
WHOLE = np.concatenate([ROIS[k] for k in KEYS], axis=1)
READ = {"r1": read_r1, "r2": read_r2}
H5 = "ROIs/CSI1/h5/CSI1_ROIs_TR34.h5"
NPY = "BOLD5000_GLMsingle_ROI_betas/py/CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{}.npy"
LIST = {"r1": "ROIs/stim_lists/CSI01_stim_lists.txt", "r2": "CSI1_imgnames.txt"}


def all_betas(more=0):
    return Betas(WHOLE + np.float32(more), ROI, STIMULI, SESSION, RUN, "CSI1")


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "release"  # alone in its folder: a test reads it from above
    write_r1(root, all_betas())
    write_r2(root, all_betas())
    return root


def check(betas):
    assert betas.values.dtype == np.float32 and np.array_equal(betas.values, WHOLE)
    assert betas.roi.tolist() == [k for k in KEYS for _ in range(SIZES[k])]
    assert betas.stimuli == STIMULI and betas.subject == "CSI1"
    assert np.array_equal(betas.session, SESSION) and np.array_equal(betas.run, RUN)


def refuses(release, part, *words):
    with pytest.raises(DataError) as error:
        READ[part](release, "CSI1")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_published_design():
    assert [sum(RUNS_PER_SESSION[s]) * TRIALS_PER_RUN for s in RUNS_PER_SESSION] == [
        5254, 5254, 5254, 3108]
    assert [len(RUNS_PER_SESSION[s]) for s in RUNS_PER_SESSION] == [15, 15, 15, 9]
    assert sum(VOXELS["CSI1"].values()) == 1685
    session, run = trial_runs("CSI4", 3108)
    assert session[-1] == 9 and run[-1] == 10
    session, run = trial_runs("CSI1", 5254)
    assert (np.bincount(session)[1:] / 37).tolist() == list(RUNS_PER_SESSION["CSI1"])
    with pytest.raises(DataError, match="5254 trials for CSI4"):
        trial_runs("CSI4", 5254)


def test_every_layout_gives_the_same_betas(release):
    check(read_r1(release, "CSI1"))
    check(read_r2(release, "CSI1"))
    (release / H5).unlink()
    check(read_r1(release, "CSI1"))  # from the .mat
    check(read_r1(release.parent, "CSI1"))
    inside = read_r1(release / "ROIs", "CSI1")  # only the folder of release 1 was fetched
    assert np.array_equal(inside.values, WHOLE) and inside.stimuli == STIMULI


def test_layout_on_disk_is_the_published_one(release):
    with h5py.File(release / H5) as file:
        assert set(file) == set(KEYS) and file["LHPPA"].shape == (TRIALS, SIZES["LHPPA"])
    mat = scipy.io.loadmat(release / "ROIs/CSI1/mat/CSI1_ROIs_TR34.mat")
    assert np.array_equal(mat["RHRSC"], ROIS["RHRSC"])
    assert np.array_equal(np.load(release / NPY.format("LHLOC")), ROIS["LHLOC"])
    assert (release / LIST["r2"]).read_text().splitlines() == STIMULI
    marked = (release / LIST["r1"]).read_text().splitlines()
    assert marked[8:11] == ["rep_airport1.jpg", "rep_n01234567_12.JPEG", "rep_airport1.jpg"]
    assert marked == with_repeats(STIMULI)
    run = release / "Stimuli_Presentation_Lists/CSI1/CSI1_sess02/CSI_sess02_run01.txt"
    assert run.read_text().splitlines() == marked[6:9]
    assert not list(release.rglob(".partial*"))


def test_some_regions_and_other_time_points_and_types(release):
    betas = read_r2(release, "CSI1", rois=("PPA", "LOC"))
    assert np.unique(betas.roi).tolist() == ["LHLOC", "LHPPA", "RHLOC", "RHPPA"]
    assert np.array_equal(betas.values[:, :4], ROIS["LHPPA"])
    write_r1(release, all_betas(1), tr="3")
    assert np.allclose(read_r1(release, "CSI1", tr="3").values, WHOLE + 1)
    write_r2(release, all_betas(2), kind="B")
    assert list(release.glob("**/*TYBEB-FITHRF_allses_LHLOC.npy"))  # the official spelling
    assert np.allclose(read_r2(release, "CSI1", kind="B").values, WHOLE + 2)
    for path in release.glob("**/*TYBEB*"):
        path.rename(path.with_name(path.name.replace("TYBEB", "TYPEB")))
    assert np.allclose(read_r2(release, "CSI1", kind="B").values, WHOLE + 2)
    with pytest.raises(DataError, match="unknown region FFA"):
        read_r1(release, "CSI1", rois=("FFA",))


@pytest.mark.parametrize("part", READ)
def test_line_ends_and_prefixes_do_not_matter(release, part):
    path = release / LIST[part]
    path.write_bytes("\r\n".join(with_repeats(STIMULI)).encode())
    check(READ[part](release, "CSI1"))
    path.write_bytes("\r\n".join(STIMULI).encode() + b"\r\n\r\n")
    check(READ[part](release, "CSI1"))


def test_without_lists_of_runs_the_published_order_counts(tmp_path):
    stimuli = [f"airport{i}.jpg" for i in range(400)]
    session, run = trial_runs("CSI4", 400)
    write_r2(tmp_path, Betas(np.ones((400, 10)), np.array(KEYS), stimuli, session, run, "CSI4"))
    for path in sorted((tmp_path / "Stimuli_Presentation_Lists").rglob("*.txt")):
        path.unlink()
    betas = read_r2(tmp_path, "CSI4")
    assert betas.session[369:371].tolist() == [1, 2] and betas.run[36:38].tolist() == [1, 2]


def test_lists_of_runs_alone_are_enough(release):
    for name in LIST.values():
        (release / name).unlink()
    check(read_r2(release, "CSI1"))


# Damage ----------------------------------------------------------------------------------


def test_missing_files_are_named(release):
    with pytest.raises(DataError, match="CSI2_imgnames.txt: no such file"):
        read_r2(release, "CSI2")
    path = release / NPY.format("RHOPA")
    path.rename(path.with_suffix(".bak"))
    refuses(release, "r2", path.name, "no such file")
    (release / H5).unlink()
    (release / H5.replace("h5", "mat")).unlink()
    refuses(release, "r1", "CSI1_ROIs_TR34.h5", "no such file")


def test_a_missing_region_is_named(release):
    with h5py.File(release / H5, "a") as file:
        del file["LHRSC"]
    refuses(release, "r1", "CSI1_ROIs_TR34.h5", "no region LHRSC", "LHEarlyVis")


@pytest.mark.parametrize("keep", [0, 100, 0.5, -20])
def test_truncated_files_are_named(release, keep):
    for part, name in (("r1", H5), ("r2", NPY.format("LHEarlyVis"))):
        data = (release / name).read_bytes()
        (release / name).write_bytes(data[: int(keep * len(data)) if keep == 0.5 else keep])
        refuses(release, part, name.rsplit("/")[-1], "cannot be read")
    (release / H5).unlink()
    mat = release / H5.replace("h5", "mat")
    mat.write_bytes(mat.read_bytes()[:300])
    refuses(release, "r1", mat.name)


@pytest.mark.parametrize("part", READ)
def test_a_list_of_another_length_is_named(release, part):
    path = release / LIST[part]
    path.write_text("\n".join(STIMULI[:-1]))
    refuses(release, part, path.name, "11 lines", "12 in the lists of the single runs")
    for lists in (release / "Stimuli_Presentation_Lists").rglob("*.txt"):
        lists.unlink()
    refuses(release, part, path.name, "11 lines")


@pytest.mark.parametrize("part", READ)
def test_a_list_of_another_subject_is_named(release, part):
    path = release / LIST[part]
    path.write_text("\n".join(STIMULI[::-1]))
    refuses(release, part, path.name, "trial 1 is library_aisle10.jpg", "another subject")


def test_a_swapped_subject_is_noticed(release):
    other = ROIS["LHPPA"][:, :2]
    mark_complete(release, {"voxels": {"CSI1": SIZES}})
    check(read_r1(release, "CSI1"))
    np.save(release / NPY.format("LHPPA"), other)
    refuses(release, "r2", "LHPPA.npy", "2 voxels in LHPPA, expected 4", "another subject")
    with h5py.File(release / H5, "a") as file:
        del file["LHPPA"]
        file["LHPPA"] = other
    refuses(release, "r1", "2 voxels in LHPPA, expected 4")
    np.save(release / NPY.format("LHPPA"), ROIS["LHPPA"][:-1])
    refuses(release, "r2", "(11, 4)", "12 lines")


def test_published_voxel_counts_hold_for_a_full_release():
    paths = dict.fromkeys(KEYS, "file")
    bold5000.check_voxels("nowhere", "CSI1", VOXELS["CSI1"], paths, 5254)
    with pytest.raises(DataError, match="286 voxels in RHEarlyVis, expected 285"):
        counts = VOXELS["CSI1"] | {"RHEarlyVis": 286}
        bold5000.check_voxels("nowhere", "CSI1", counts, paths, 5254)
    with pytest.raises(DataError, match="1685 voxels in all regions, expected 2270 for CSI2"):
        bold5000.check_voxels("nowhere", "CSI2", VOXELS["CSI1"], paths, 5254)


def test_voxels_without_data_are_dropped_and_counted(release):
    holes = ROIS["RHLOC"].copy()
    holes[3, 1] = np.nan
    np.save(release / NPY.format("RHLOC"), holes)
    with pytest.warns(UserWarning, match=r"CSI1: 1 of 29 voxels dropped.*\(RHLOC\)"):
        betas = read_r2(release, "CSI1")
    assert betas.values.shape == (TRIALS, 28) and (betas.roi == "RHLOC").sum() == 1
    for key in KEYS:
        holes = ROIS[key].copy()
        holes[0, ::2] = holes[1, 1::2] = np.nan
        np.save(release / NPY.format(key), holes)
    with pytest.raises(DataError, match="no voxel without"), pytest.warns(UserWarning):
        read_r2(release, "CSI1")


@pytest.mark.parametrize("hole", [0, np.nan])
def test_a_trial_without_betas_is_refused(release, hole):
    for key in KEYS:
        np.save(release / NPY.format(key), np.where(np.arange(12)[:, None] == 2, hole, ROIS[key]))
    refuses(release, "r2", "1 of 12 trials have no beta", "the first at index 2")


def test_arrays_the_other_way_round_are_turned(release):
    np.save(release / NPY.format("LHPPA"), ROIS["LHPPA"].T)
    check(read_r2(release, "CSI1"))


def test_betas_refuse_numbers_that_disagree():
    with pytest.raises(DataError, match=r"shape \(12, 29\); expected \(11, 29\)"):
        Betas(WHOLE, ROI, STIMULI[:-1], SESSION, RUN, "CSI1")


# Pictures --------------------------------------------------------------------------------


def test_names_tell_folder_and_category():
    assert [picture_folder(name) for name in NAMES[:3]] == ["COCO", "ImageNet", "Scene"]
    assert [category(name) for name in NAMES] == [
        "", "n01234567", "airport", "n01234567", "", "dining_car", "banquetHall", "n07654321",
    ]
    assert category("library_aisle10.jpg") == "library_aisle"
    assert CATEGORIES == scenes.CATEGORIES


def test_pictures_by_name(tmp_path):
    x, y = np.meshgrid(np.arange(32), np.arange(32))
    pictures = np.stack([[x * 4, y * 4, (x + y) * 2 + i] for i in range(8)]).transpose(0, 2, 3, 1)
    pictures = pictures.astype(np.uint8)
    write_images(tmp_path, NAMES, pictures)
    folder = tmp_path / "Scene_Stimuli/Presented_Stimuli"
    assert sorted(p.name for p in folder.rglob("*.*")) == sorted(NAMES)
    back = read_images(tmp_path, with_repeats(STIMULI[:-1]), 32)
    assert back.shape == (11, 32, 32, 3)
    assert np.abs(back[:8].astype(int) - pictures).mean() < 2  # JPEG
    assert np.array_equal(back[8], back[2]) and np.array_equal(back[9], back[1])
    with pytest.raises(DataError, match=r"library_aisle10.jpg: no such picture \(1 of 9"):
        read_images(tmp_path, STIMULI, 32)
    broken = folder / "Scene" / "library_aisle10.jpg"
    broken.write_bytes((folder / "Scene" / "airport1.jpg").read_bytes()[:90])
    with pytest.raises(DataError, match="library_aisle10.jpg: not a readable picture"):
        read_images(tmp_path, STIMULI, 32)


def test_the_list_of_repeated_pictures_makes_the_standard_split(release):
    write_repeated(release, ["airport1.jpg", "n01234567_12.JPEG"])
    betas = read_r2(release, "CSI1")
    train, test = split_by_group(betas.stimuli, read_repeated(release))
    assert test.tolist() == [1, 2, 8, 9, 10] and len(train) == 7
    path = release / "Scene_Stimuli/repeated_stimuli_113_list.txt"
    (release / "Scene_Stimuli/Presented_Stimuli").mkdir()
    path.rename(path.parent / "Presented_Stimuli" / path.name)
    assert read_repeated(release) == ["airport1.jpg", "n01234567_12.JPEG"]
