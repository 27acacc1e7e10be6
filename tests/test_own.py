"""Anybody's data: numbers that agree, numbers that do not, and two real recordings."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from recon_lib.common import files
from recon_lib.common.errors import DataError
from recon_lib.common.files import arrays_in, find, read_array, read_lines
from recon_lib.common.folders import is_complete, mark_complete
from recon_lib.data.arrays import load_trials
from recon_lib.data.haxby import PATH, haxby_blocks
from recon_lib.data.loader import create_loader
from recon_lib.data.splits import folds, plain_name, refuse_leak, some_categories, split_by_group

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "real"
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
BETAS = RNG.standard_normal((10, 7)).astype(np.float32)
SHOWN = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3])


def save_everywhere(folder):
    """The same betas in every supported file type."""
    np.save(folder / "b.npy", BETAS)
    np.savez(folder / "b.npz", betas=BETAS, other=np.zeros((3, 3)))
    scipy.io.savemat(folder / "b.mat", {"betas": BETAS})
    with h5py.File(folder / "b.h5", "w") as file:
        file["group/betas"] = BETAS
    with h5py.File(folder / "new.mat", "w") as file:  # MATLAB 7.3: HDF5, axes backwards
        file["betas"] = BETAS.T
    np.savetxt(folder / "b.csv", BETAS, delimiter=",", header="a,b,c,d,e,f,g", comments="")
    np.savetxt(folder / "b.txt", BETAS)
    return sorted(folder.glob("*.*"))


def test_betas_from_every_file_type(tmp_path):
    paths = save_everywhere(tmp_path)
    assert len(paths) == 7
    for path in paths:
        own = load_trials(PICTURES, path, SHOWN, size=12)
        assert np.allclose(own.betas, BETAS, atol=1e-6) and own.betas.dtype == np.float32
        assert np.array_equal(own.images, PICTURES)
        assert np.array_equal(own.trial_image, SHOWN) and np.array_equal(own.groups, SHOWN)
        assert own.runs is None


def test_truncated_files_give_one_line_with_their_name(tmp_path):
    for path in save_everywhere(tmp_path):
        if path.suffix in (".csv", ".txt"):
            continue
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DataError, match=path.name) as error:
            load_trials(PICTURES, path, SHOWN)
        assert "\n" not in str(error.value)
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "words.csv").write_text("a,b\n3,four\n")
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    (tmp_path / "betas.xyz").write_text("?")
    for name in ("empty.npy", "words.csv", "objects.npy", "betas.xyz", "missing.h5"):
        with pytest.raises(DataError, match=name) as error:
            load_trials(PICTURES, tmp_path / name, SHOWN)
        assert "\n" not in str(error.value)


def test_absurd_shapes_are_refused_before_they_are_allocated(tmp_path):
    with h5py.File(tmp_path / "absurd.h5", "w") as file:
        file.create_dataset("betas", (10**7, 10**7), np.float32, chunks=(100, 100))
    with pytest.raises(DataError, match=r"absurd.h5.*GiB"):
        read_array(tmp_path / "absurd.h5")
    with open(tmp_path / "absurd.npy", "wb") as stream:
        header = {"shape": (10**9, 10**9), "fortran_order": False, "descr": "<f4"}
        np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(DataError, match=r"absurd.npy.*GiB"):
        read_array(tmp_path / "absurd.npy")


def test_one_of_several_arrays_is_named(tmp_path):
    np.savez(tmp_path / "two.npz", left=BETAS, right=BETAS + 1)
    with pytest.raises(DataError, match=r"left \(10, 7\), right.*two.npz:NAME"):
        load_trials(PICTURES, tmp_path / "two.npz", SHOWN)
    own = load_trials(PICTURES, f"{tmp_path}/two.npz:right", SHOWN)
    assert np.allclose(own.betas, BETAS + 1)
    with pytest.raises(DataError, match="no array called middle"):
        read_array(f"{tmp_path}/two.npz:middle")
    assert arrays_in(tmp_path / "two.npz")["left"] == ((10, 7), np.dtype("f4"))


def test_useless_voxels_and_trials_are_dropped_and_counted():
    betas = BETAS.copy()
    betas[3, 2], betas[4, 5], betas[:, 6] = np.nan, np.inf, 1.0
    betas[9] = np.nan
    with pytest.warns(UserWarning) as said:
        own = load_trials(PICTURES, betas, SHOWN, groups=list("abcdefabcd"), runs=SHOWN > 2)
    assert [str(w.message) for w in said] == [
        "1 of 10 trials dropped: 0 or no number in all voxels",
        "2 of 7 voxels dropped: values missing (NaN)",
        "1 of 7 voxels dropped: the same value in every trial",
    ]
    assert own.betas.shape == (9, 4) and own.voxels.tolist() == [0, 1, 3, 4]
    assert np.array_equal(own.betas, betas[:9][:, own.voxels])
    assert own.groups.tolist() == list("abcdefabc") and len(own.runs) == 9
    with pytest.raises(DataError, match="no voxel"), pytest.warns(UserWarning, match="7 of 7"):
        load_trials(PICTURES, np.ones((10, 7)), SHOWN)


def test_names_broken_pictures_and_trials_stay_in_step(tmp_path):
    for i, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"p{i}.png")
    (tmp_path / "p2.png").write_bytes(b"broken")
    names = [f"{'rep_' if t > 5 else ''}p{i}.png" for t, i in enumerate(SHOWN)]
    with pytest.warns(UserWarning) as said:
        own = load_trials(tmp_path, BETAS, names, size=12)
    assert "skipped" in str(said[0].message) and "2 of 10 trials dropped" in str(said[1].message)
    assert len(own.images) == 5 and len(own.betas) == 8
    keep = SHOWN != 2
    assert np.array_equal(own.betas, BETAS[keep])
    assert np.array_equal(own.images[own.trial_image], PICTURES[SHOWN[keep]])
    (tmp_path / "shown.txt").write_text("\r\n".join(f"p{i}" for i in SHOWN) + "\r\n")
    with pytest.warns(UserWarning):
        again = load_trials(tmp_path, BETAS, tmp_path / "shown.txt", size=12)
    assert np.array_equal(again.trial_image, own.trial_image)
    with pytest.raises(DataError, match="1 names without a picture, such as p9"):
        with pytest.warns(UserWarning):
            load_trials(tmp_path, BETAS, ["p9"] * 10)


def folder_of(root, *names):
    for name, picture in zip(names, PICTURES, strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / name)
    return root


def test_text_that_names_pictures_is_not_taken_for_indices(tmp_path):
    folder = folder_of(tmp_path / "four", "1.png", "2.png", "3.png", "4.png")
    for text in (["1", "2", "3"], np.array(["3", "1", "1"], object)):
        with pytest.raises(DataError, match="could be file names or indices .*ending"):
            load_trials(folder, BETAS[:3], text, size=12)
    (tmp_path / "shown.txt").write_text("1\n2\n3\n")
    with pytest.raises(DataError, match="could be file names or indices"):
        load_trials(folder, BETAS[:3], tmp_path / "shown.txt", size=12)
    for clear, wanted in (([0, 2, 3], [0, 2, 3]), (["1.png", "2.png", "3.png"], [0, 1, 2]),
                          (["1", "4", "1"], [0, 3, 0]),  # there is no index 4
                          (["0", "1", "3"], [0, 1, 3]),  # and no picture called 0
                          (["1", "2.png", "3"], [0, 1, 2])):
        assert load_trials(folder, BETAS[:3], clear, size=12).trial_image.tolist() == wanted
    same = folder_of(tmp_path / "same", "0.png", "1.png", "2.png")  # either way the same
    assert load_trials(same, BETAS[:3], ["2", "1", "0"], size=12).trial_image.tolist() == [2, 1, 0]
    padded = folder_of(tmp_path / "padded", "01.png", "02.png", "1e1.png")
    own = load_trials(padded, BETAS[:3], ["1e1", "02.png", "01.png"], size=12)
    assert own.trial_image.tolist() == [2, 1, 0]
    assert load_trials(PICTURES, BETAS[:3], ["0", "2", "3"]).trial_image.tolist() == [0, 2, 3]


def test_a_name_of_two_pictures_is_refused(tmp_path):
    folder = folder_of(tmp_path, "a/x.png", "a/y.png", "b/x.png", "b/z.bmp", "b/z.png", "x.png")
    for name, two in (("x", "a/x.png or b/x.png"), ("z", "b/z.bmp or b/z.png"),
                      ("b/z", "b/z.bmp or b/z.png")):
        with pytest.raises(DataError, match=f"{name} could be {two}; give the path"):
            load_trials(folder, BETAS[:3], [name, "y", "y"], size=12)
    clear = ["x.png", "b/x.png", "a/x", "y", "y.png", "z.bmp"]
    own = load_trials(folder, BETAS[:6], clear, size=12)
    assert own.trial_image.tolist() == [5, 2, 0, 1, 1, 3]
    (folder / "x.png").unlink()
    with pytest.raises(DataError, match=r"x.png could be a/x.png or b/x.png"):
        load_trials(folder, BETAS[:2], ["x.png", "y"], size=12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trial_image": None}, "10 trials but 6 pictures; give trial_image"),
        ({"trial_image": SHOWN[:9]}, "10 trials but 9 entries in trial_image"),
        ({"trial_image": SHOWN + 1}, "count from 0, not from 1"),
        ({"trial_image": SHOWN - 1}, "runs from -1 to 4"),
        ({"trial_image": SHOWN + 0.5}, "not whole"),
        ({"trial_image": ["a"] * 10}, "the pictures are an array"),
        ({"groups": SHOWN[:4]}, "10 trials but 4 groups"),
        ({"runs": np.zeros((10, 2))}, "runs of shape"),
        ({"betas": BETAS[0]}, r"shape \(7,\)"),
        ({"betas": BETAS[:, :, None]}, r"shape \(10, 7, 1\)"),
        ({"images": PICTURES[0, 0, 0]}, "pictures of shape"),
        ({"images": "nowhere"}, "nowhere"),
    ],
)
def test_numbers_that_disagree(change, message):
    given = {"images": PICTURES, "betas": BETAS, "trial_image": SHOWN} | change
    with pytest.raises(DataError, match=message) as error:
        load_trials(**given)
    assert "\n" not in str(error.value)


def test_lists_with_windows_line_ends(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n b.jpg \r\n\r\nc.jpg")
    assert read_lines(tmp_path / "list.txt") == ["a.jpg", "b.jpg", "c.jpg"]
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="empty.txt: empty"):
        read_lines(tmp_path / "empty.txt")


def test_a_directory_is_complete_only_once_marked(tmp_path):
    info = {"seed": 1, "voxels": {"CSI1": {"LHPPA": 3}}, "runs": (1, 2)}
    assert not is_complete(tmp_path, info)
    mark_complete(tmp_path, info)
    assert is_complete(tmp_path) and is_complete(tmp_path, info)
    assert not is_complete(tmp_path, info | {"seed": 2})
    (tmp_path / "COMPLETE.json").write_text('{"seed"')
    assert not is_complete(tmp_path)


def test_find_looks_one_level_up_and_down(tmp_path):
    (tmp_path / "zip" / "a" / "b").mkdir(parents=True)
    path = tmp_path / "zip" / "a" / "b" / "c.txt"
    path.write_text("x")
    for root in (path.parent, path.parents[1], path.parents[2], path.parents[3]):
        assert find(root, "a/b/c.txt").samefile(path)
    with pytest.raises(DataError, match="d.txt: no such file"):
        find(tmp_path, "a/b/d.txt")


def test_free_memory_is_told():
    assert 2**28 < files.available_memory() < 2**46


# Splits ----------------------------------------------------------------------------------


def test_repeats_never_straddle():
    names = [f"p{i}" for i in range(20)] + ["rep_p3", "rep_p5", "rep_p3"]
    plain = [plain_name(name) for name in names]
    train, test = split_by_group(plain, ["p3", "p5"])
    assert test.tolist() == [3, 5, 20, 21, 22] and len(train) == 18
    assert split_by_group(plain, ["p0"])[1].tolist() == [0]
    refuse_leak([names[i] for i in train], ["p3", "p5"])
    with pytest.raises(DataError, match="some of both"):
        split_by_group(plain, ["q"])


def test_held_out_categories_are_never_trained_on():
    categories = np.array(["cat", "dog", "", "cat", "fish", "", "dog", "bird"])
    train, test = split_by_group(categories, some_categories(categories, 0.25, seed=0))
    assert len(test) and not set(categories[train]) & set(categories[test])
    assert {2, 5} <= set(train.tolist())


def test_folds_keep_groups_whole_and_test_every_trial_once():
    groups = np.repeat(list("abcdef"), 3)
    for k in (None, 2, 4, 6):
        parts = folds(groups, k, seed=2)
        assert len(parts) == (k or 6)
        assert sorted(np.concatenate([test for _, test in parts]).tolist()) == list(range(18))
        assert all(not set(groups[a]) & set(groups[b]) for a, b in parts)
    assert parts[0][0].tolist() == folds(groups, 6, seed=9)[0][0].tolist()  # one each: sorted
    with pytest.raises(DataError, match="7 folds of 6 groups"):
        folds(groups, 7)


def test_a_leak_is_refused_by_name_and_by_pixels():
    with pytest.raises(DataError, match=r"1 of 2 test pictures .*\(b, "):
        refuse_leak(["a", "rep_b"], ["b", "c"])
    refuse_leak(PICTURES[:3], PICTURES[3:])
    with pytest.raises(DataError, match=r"1 of 3 test pictures .*test picture 2"):
        refuse_leak(PICTURES[:4], np.concatenate([PICTURES[4:], PICTURES[:1]]))


def test_a_leak_is_found_on_any_scale_and_in_tensors():
    scales = (lambda x: x, lambda x: x / 255, lambda x: (x / 255).astype(np.float32),
              lambda x: (x / 255).astype(np.float16), lambda x: x / 127.5 - 1,
              lambda x: torch.from_numpy(x), lambda x: torch.from_numpy(x) / 255)
    for one in scales:
        for other in scales:
            refuse_leak(one(PICTURES[:3]), other(PICTURES[3:]))
            with pytest.raises(DataError, match=r"1 of 3 test pictures .*test picture 2"):
                refuse_leak(one(PICTURES[:4]), other(PICTURES[[4, 5, 0]]))
    white = np.full((1, 12, 12, 3), 255, np.uint8)
    with pytest.raises(DataError, match="1 of 1"):
        refuse_leak(white, white > 0)
    a = RNG.random((4, 6, 6, 1))  # fractions: no two of these are alike
    refuse_leak(a[:2], a[:2] + 1e-3)
    with pytest.raises(DataError, match="1 of 2"):
        refuse_leak(a[:3], a[2:])


def test_pictures_that_cannot_be_compared_are_refused():
    first = torch.from_numpy(PICTURES).permute(0, 3, 1, 2)
    with pytest.raises(DataError, match="shapes .* cannot be compared"):
        refuse_leak(PICTURES[:3], first[3:])
    for pair in ((PICTURES, ["a", "b"]), (["a", "b"], PICTURES)):
        with pytest.raises(DataError, match="expected real numbers"):
            refuse_leak(*pair)


# Real recordings -------------------------------------------------------------------------


@pytest.mark.slow
def test_haxby_blocks_tell_the_category():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    blocks = haxby_blocks()
    patterns, category, run = blocks.patterns, blocks.category, blocks.run
    assert patterns.shape == (96, 530) and np.isfinite(patterns).all()
    assert len(set(category.tolist())) == 8 and np.bincount(run).tolist() == [8] * 12
    right = []
    for train, test in folds(run):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        model.fit(patterns[train], category[train])
        right.append(model.predict(patterns[test]) == category[test])
    assert np.mean(right) > 0.8  # chance .125


def test_haxby_file_is_checked(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(DataError, match="expected bold, label and run"):
        haxby_blocks(tmp_path / "other.npz")
    with pytest.raises(DataError, match="no such file"):
        haxby_blocks(tmp_path / "missing.npz")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared recordings are not here")
def test_haxby_is_the_shared_recording():
    assert PATH.read_bytes() == (SHARED / "haxby_sub1_1slice.npz").read_bytes()


@pytest.mark.skipif(not SHARED.exists(), reason="the shared recordings are not here")
def test_miyawaki_as_anybody_would_bring_it(tmp_path):
    path = SHARED / "miyawaki_structured_28x28.mat"
    shown = np.concatenate([read_array(f"{path}:{name}") for name in ("stimTrn", "stimTest")])
    betas = np.concatenate([read_array(f"{path}:{name}") for name in ("fmriTrn", "fmriTest")])
    # MATLAB runs down the columns: turn each picture back upright
    _, first, which = np.unique(shown.round(3), axis=0, return_index=True, return_inverse=True)
    pictures = shown[first].reshape(-1, 28, 28).transpose(0, 2, 1)
    np.save(tmp_path / "pictures.npy", pictures)
    np.save(tmp_path / "betas.npy", betas)
    np.savetxt(tmp_path / "shown.txt", which, fmt="%d")
    own = load_trials(tmp_path / "pictures.npy", tmp_path / "betas.npy", tmp_path / "shown.txt")
    assert own.images.shape == (20, 64, 64, 1) and own.betas.shape == (119, 967)
    assert np.bincount(own.trial_image).min() >= 2  # every picture came more than once
    parts = folds(own.groups)
    assert len(parts) == 20
    loader = create_loader(64, 8, images=own.images[own.trial_image], vectors=own.betas)
    assert loader.channels == 1 and loader.condition_size == 967
