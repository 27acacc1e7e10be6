"""Volumes: raw runs, masks and whole-brain betas, against nibabel and nilearn; then damaged."""

import nibabel
import numpy as np
import pytest

from recon_lib.common.errors import DataError
from recon_lib.data.bids import (
    Run,
    Timing,
    iter_runs,
    list_runs,
    read_confounds,
    read_run,
    run_stem,
    timing,
    write_run,
)
from recon_lib.data.bold5000 import KEYS, Betas
from recon_lib.data.volumes import (
    compact_box,
    mask_path,
    read_masks,
    read_r2_volumes,
    write_masks,
    write_r2_volumes,
)

RNG = np.random.default_rng(0)
ROI = np.repeat(KEYS, 3)  # already in the order in which masks are read
IJK = compact_box(len(ROI))
BOLD = (800 + 10 * RNG.standard_normal((4, 20, len(ROI)))).astype(np.float32)  # 4 runs
NAMES = ["n01234567_1.JPEG", "airport1.jpg", "COCO_train2014_000000000001.jpg"]
ONSETS = np.array([6.0058, 15.9981, 26.0062])
WHERE = [(1, 1), (1, 2), (2, 1), (2, 2)]


def put_run(root, subject, session, run, bold, ijk=IJK, **options):
    one = Run(bold, ROI, ijk, ONSETS, np.ones(3), NAMES, 2.0, session, run)
    write_run(root, subject, one, **options)


def write_all(root, subject="CSI1"):
    write_masks(root, subject, ROI, IJK)
    for bold, (session, run) in zip(BOLD, WHERE, strict=True):
        motion = np.full((20, 6), session + run / 10)
        put_run(root, subject, session, run, bold, repeated=NAMES[1:2], confounds=motion)


@pytest.fixture
def release(tmp_path):
    write_all(tmp_path)
    return tmp_path


def refuses(call, *words):
    with pytest.raises(DataError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_compact_box_is_small_and_places_every_voxel():
    for voxels in (1, 27, 28, 1685):
        ijk = compact_box(voxels)
        assert len(np.unique(ijk, axis=0)) == voxels and (ijk.max() + 1) ** 3 < 2 * voxels + 50
    assert compact_box(1685).max() == 11


@pytest.mark.parametrize("subject", ["CSI1", "CSI2", "CSI3"])
def test_runs_come_back(tmp_path, subject):
    write_all(tmp_path, subject)
    if subject != "CSI1":
        assert mask_path(subject, "LHLOC").endswith("mask-LHLO.nii.gz")
        assert (tmp_path / mask_path(subject, "LHLOC")).exists()  # the published, wrong name
    runs = list(iter_runs(tmp_path, subject))
    assert [(run.session, run.run) for run in runs] == WHERE
    for run, bold in zip(runs, BOLD, strict=True):
        assert np.abs(run.bold - bold).max() < 0.01 and run.bold.dtype == np.float32
        assert run.roi.tolist() == ROI.tolist() and np.array_equal(run.ijk, IJK)
        assert np.allclose(run.onsets, ONSETS) and np.allclose(run.durations, 1)
        assert run.names == NAMES and run.tr == 2.0
    right = tmp_path / f"derivatives/spm/sub-{subject}/sub-{subject}_mask-LHLOC.nii.gz"
    (tmp_path / mask_path(subject, "LHLOC")).rename(right)  # as many people rename it
    assert read_masks(tmp_path, subject).roi.tolist() == ROI.tolist()


def test_written_runs_are_what_nilearn_reads(release):
    from nilearn.maskers import NiftiMasker

    mask = release / mask_path("CSI1", "RHPPA")
    image = nibabel.load(release / f"{run_stem('CSI1', 2, 1)}_bold.nii.gz")
    assert image.get_data_dtype() == np.int16 and image.header.get_zooms() == (2, 2, 2, 2)
    theirs = NiftiMasker(mask_img=mask, standardize=None).fit_transform(image)
    ours = read_run(release, "CSI1", 2, 1, rois=("PPA",))
    ours = ours.bold[:, ours.roi == "RHPPA"]
    assert np.allclose(ours, theirs, rtol=1e-6)
    assert np.allclose(ours, BOLD[2][:, ROI == "RHPPA"], atol=0.01)


def test_voxels_outside_are_zero(tmp_path):
    ijk = IJK + 2
    write_masks(tmp_path, "CSI1", ROI, ijk, shape=(8, 9, 10))
    put_run(tmp_path, "CSI1", 1, 1, BOLD[0], ijk, shape=(8, 9, 10))
    image = nibabel.load(tmp_path / f"{run_stem('CSI1', 1, 1)}_bold.nii.gz")
    assert image.shape == (8, 9, 10, 20) and abs(image.get_fdata()[0, 0, 0]).max() < 0.01
    assert np.abs(read_run(tmp_path, "CSI1", 1, 1).bold - BOLD[0]).max() < 0.01
    brain = nibabel.load(tmp_path / "CSI1_brainmask.nii.gz")
    assert brain.get_fdata().sum() == len(ROI)


def test_events_are_the_published_columns(release):
    lines = (release / f"{run_stem('CSI1', 1, 2)}_events.tsv").read_text().splitlines()
    assert lines[0].split("\t")[:8] == "onset duration Subj Sess Run Trial ImgName ImgType".split()
    assert lines[1].split("\t")[:8] == [
        "6.0058", "1.0000", "1", "1", "2", "1", "n01234567_1.JPEG", "imagenet"]
    assert [line.split("\t")[7] for line in lines[2:]] == ["rep_scenes", "coco"]
    # the published files of some runs end their lines as Windows does and have no stim_file
    short = "\r\n".join("\t".join(line.split("\t")[:12]) for line in lines)
    (release / f"{run_stem('CSI1', 1, 2)}_events.tsv").write_bytes(short.encode())
    assert read_run(release, "CSI1", 1, 2).names == NAMES


def test_preprocessed_runs_come_first(release):
    put_run(release / "new", "CSI1", 1, 1, BOLD[0] + 5)
    stem = run_stem("CSI1", 1, 1)
    target = release / f"derivatives/fmriprep/{stem}_bold_space-T1w_preproc.nii.gz"
    (release / f"new/{stem}_bold.nii.gz").rename(target)
    assert np.abs(read_run(release, "CSI1", 1, 1).bold - BOLD[0] - 5).max() < 0.01


def test_confounds(release):
    path = release / f"derivatives/fmriprep/{run_stem('CSI1', 2, 1)}_bold_confounds.tsv"
    values = read_confounds(release, "CSI1", 2, 1)
    assert values.shape == (20, 6) and np.allclose(values, 2.1)
    path.write_text(path.read_text().replace("2.100000", "n/a", 1))
    assert read_confounds(release, "CSI1", 2, 1)[0, 0] == 0
    refuses(lambda: read_confounds(release, "CSI1", 2, 1, ["FD"]), path.name, "no column FD")


# Damage ----------------------------------------------------------------------------------


def test_gaps_and_missing_files_are_named(release):
    bold = release / f"{run_stem('CSI1', 1, 2)}_bold.nii.gz"
    bold.rename(bold.with_suffix(".bak"))
    refuses(lambda: list(iter_runs(release, "CSI1")), bold.name, "no such file")
    (release / f"{run_stem('CSI1', 1, 1)}_events.tsv").unlink()
    refuses(lambda: list_runs(release, "CSI1"), "ses-01_task-5000scenes_run-01_events.tsv")
    refuses(lambda: list_runs(release, "CSI4"), "sub-CSI4: no such file")
    (release / mask_path("CSI1", "RHLOC")).unlink()
    refuses(lambda: read_masks(release, "CSI1"), "mask-RHLOC.nii.gz: no such file")


@pytest.mark.parametrize("keep", [0, 10, 200, -40])
def test_truncated_volumes_are_named(release, keep):
    bold = release / f"{run_stem('CSI1', 1, 1)}_bold.nii.gz"
    bold.write_bytes(bold.read_bytes()[:keep])
    refuses(lambda: read_run(release, "CSI1", 1, 1), bold.name, "cannot be read")
    mask = release / mask_path("CSI1", "RHLOC")
    mask.write_bytes(mask.read_bytes()[: min(keep, 60)])
    refuses(lambda: read_masks(release, "CSI1"), mask.name, "cannot be read")


def test_other_grids_and_cut_runs_are_explained(release):
    put_run(release, "CSI1", 1, 1, BOLD[0], shape=(9, 9, 9))
    refuses(lambda: read_run(release, "CSI1", 1, 1), "run-01_bold.nii.gz", "(9, 9, 9)", "T1w space")
    put_run(release, "CSI1", 1, 2, BOLD[0][:10])
    refuses(lambda: read_run(release, "CSI1", 1, 2), "events.tsv", "26 s", "10 volumes (20 s)")
    events = release / f"{run_stem('CSI1', 2, 1)}_events.tsv"
    events.write_text("time\tname\n1\tx\n")
    refuses(lambda: read_run(release, "CSI1", 2, 1), events.name, "expected onset")
    empty = nibabel.load(release / mask_path("CSI1", "LHPPA"))
    blank = nibabel.Nifti1Image(np.zeros(empty.shape, np.uint8), empty.affine)
    blank.to_filename(release / mask_path("CSI1", "LHPPA"))
    refuses(lambda: read_masks(release, "CSI1"), "mask-LHPPA.nii.gz: an empty mask")


def test_a_run_with_holes_is_not_written(tmp_path):
    bold = BOLD[0].copy()
    bold[3, 4] = np.nan
    refuses(lambda: put_run(tmp_path, "CSI1", 1, 1, bold), "run-01", "NaN")
    assert not list(tmp_path.rglob("*.*"))


# Whole-brain betas -----------------------------------------------------------------------

STIMULI = [f"airport{i}.jpg" for i in range(6)]
VALUES = RNG.standard_normal((6, len(ROI))).astype(np.float32)
SESSION = np.array([1, 1, 1, 1, 2, 2])


def write_volumes(root, values=VALUES, **options):
    betas = Betas(values, ROI, STIMULI, SESSION, SESSION, "CSI2")
    write_r2_volumes(root, betas, IJK, (7, 7, 7), **options)


@pytest.fixture
def brain(tmp_path):
    """Two sessions, and the lists that say how many trials each had."""
    write_masks(tmp_path, "CSI2", ROI, IJK, shape=(7, 7, 7))
    write_volumes(tmp_path)
    for s, lines in ((1, STIMULI[:4]), (2, STIMULI[4:])):
        folder = tmp_path / f"Stimuli_Presentation_Lists/CSI2/CSI2_sess{s:02d}"
        folder.mkdir(parents=True)
        (folder / f"CSI_sess{s:02d}_run01.txt").write_text("\n".join(lines))
    return tmp_path


def test_whole_brain_betas_come_back(brain):
    betas = read_r2_volumes(brain, "CSI2")
    assert np.array_equal(betas.values, VALUES) and betas.roi.tolist() == ROI.tolist()
    assert betas.stimuli == STIMULI and np.array_equal(betas.session, SESSION)
    image = nibabel.load(brain / "CSI2_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-01.nii.gz")
    assert image.shape == (7, 7, 7, 4) and np.isnan(image.get_fdata()[6, 6, 6]).all()
    ppa = read_r2_volumes(brain, "CSI2", rois=("PPA",))
    assert np.array_equal(ppa.values, VALUES[:, np.isin(ROI, ["LHPPA", "RHPPA"])])


def test_another_origin_is_explained_and_matched_by_index(brain):
    write_volumes(brain, origin=(-70, 4, 9))
    with pytest.warns(UserWarning, match=r"origins differ by \[-70.   4.   9.\] mm"):
        betas = read_r2_volumes(brain, "CSI2")
    assert np.array_equal(betas.values, VALUES)


def test_damaged_whole_brain_betas_are_named(brain):
    values = VALUES.copy()
    values[:4, 2] = 0  # not acquired in the first session
    values[5, 7] = np.nan
    write_volumes(brain, values)
    with pytest.warns(UserWarning, match="2 of 30 voxels dropped"):
        assert read_r2_volumes(brain, "CSI2").values.shape == (6, 28)
    first = brain / "CSI2_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-01.nii.gz"
    second = brain / first.name.replace("ses-01", "ses-02")
    first.write_bytes(second.read_bytes())
    refuses(lambda: read_r2_volumes(brain, "CSI2"), first.name, "2 betas, but 4 pictures")
    first.unlink()
    refuses(lambda: read_r2_volumes(brain, "CSI2"), first.name, "no such file")


def test_a_volume_lasts_as_long_as_header_or_json_say(release):
    path = release / f"{run_stem('CSI1', 1, 1)}_bold.nii.gz"
    beside = release / f"{run_stem('CSI1', 1, 1)}_bold.json"
    image = nibabel.load(path)
    for tr, unit, want in ((2, "sec", 2), (2000, "msec", 2), (90, "msec", 0.09), (2000, "sec", 2),
                           (0, "sec", None), (-2, "sec", None), (np.nan, "sec", None)):
        other = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine, image.header)
        other.header.set_xyzt_units("mm", unit)
        other.header["pixdim"][4] = tr
        other.to_filename(path)
        other = nibabel.load(path)
        if want is None:
            refuses(lambda image=other: timing(path, image), "write RepetitionTime there")
            beside.write_text('{"RepetitionTime": 2.5}')
            assert timing(path, other) == Timing(2.5)
            beside.unlink()
        else:
            assert timing(path, other).tr == pytest.approx(want)


def test_runs_that_hold_nothing_are_refused(release):
    for change, words in ((lambda b: 0 * b, "20 of 20 volumes are empty"),
                          (lambda b: b - b.mean(0), "give a run that is not demeaned")):
        put_run(release, "CSI1", 1, 1, change(BOLD[0]))
        refuses(lambda: read_run(release, "CSI1", 1, 1), "run-01_bold.nii.gz", words)


def test_a_mask_of_ones_is_the_whole_grid(release, recwarn):
    path = release / mask_path("CSI1", "LHPPA")
    whole = np.ones(nibabel.load(path).shape, np.uint8)
    nibabel.Nifti1Image(whole, nibabel.load(path).affine).to_filename(path)
    masks = read_masks(release, "CSI1", ("PPA",))
    assert (masks.roi == "LHPPA").sum() == whole.size and not recwarn.list


@pytest.mark.parametrize("nothing", [0, np.nan, np.inf])
def test_a_trial_without_betas_is_named(brain, nothing):
    values = VALUES.copy()
    values[2] = nothing
    write_volumes(brain, values)
    refuses(lambda: read_r2_volumes(brain, "CSI2"), "ses-01.nii.gz", "1 of 4 trials", "at index 2")
