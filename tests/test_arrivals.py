"""What real data look like when they arrive: each is read right, or refused in one line."""

import gzip
import json
import os
import shutil
import signal
import unicodedata
import warnings
from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from conftest import random_unet
from PIL import Image
from safetensors.torch import save_file
from test_command_lines import program
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from recon_lib.bold import whole_brain
from recon_lib.bold.glm import single_trial_betas
from recon_lib.bold.single_trial import estimate, hrf_fit
from recon_lib.brain.features import (
    FactorNet,
    load_factor_net,
    save_factor_net,
    train_factor_net,
)
from recon_lib.brain.latents import load_latent, packed
from recon_lib.common import files, paths
from recon_lib.common.errors import DataError, Interrupted, reason
from recon_lib.common.files import read_array, read_dict, read_table
from recon_lib.common.folders import MARK
from recon_lib.course.plots_bold import diagnosis
from recon_lib.data import bids, bold5000, raw_betas, release, stimuli, volumes
from recon_lib.data.arrays import load_betas, load_labels, load_trials, read_glmsingle
from recon_lib.data.bold5000 import KEYS
from recon_lib.data.loader import create_loader
from recon_lib.data.pictures import AVIF, as_uint8, read_picture, square_arrays
from recon_lib.data.volumes import compact_box
from recon_lib.decoding import crossval
from recon_lib.decoding.sampling import (
    PLAIN,
    Guidance,
    load_drawing,
    load_latent_of,
    sample_pictures,
)
from recon_lib.samplers import initial_noise
from recon_lib.training import (
    loop,
    train_conditional_diffusion,
    train_unconditional_diffusion,
)
from recon_lib.training.checkpoints import load_model, save_checkpoint, save_model
from recon_lib.unet import UNet
from recon_lib.world.scenes import draw, sample_factors

RNG = np.random.default_rng(0)
BETAS = RNG.standard_normal((6, 4))
DRAWN = dict(prediction="x0", schedule="cosine", image_size=16)
PICTURES = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def refuses(call, match):
    with pytest.raises(DataError, match=match) as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
    assert "\n" not in str(error.value)


# Tables ----------------------------------------------------------------------------------

TABLES = {  # how people save six trials of four voxels
    "pandas": lambda f, p: f.to_csv(p),
    "pandas without its index": lambda f, p: f.to_csv(p, index=False),
    "numbers alone": lambda f, p: f.to_csv(p, index=False, header=False),
    "an index, no heading": lambda f, p: f.to_csv(p, header=False),
    "named columns": lambda f, p: f.add_prefix("v").to_csv(p, index=False),
    "named columns and an index": lambda f, p: f.add_prefix("v").to_csv(p),
    "voxel numbers": lambda f, p: f.set_axis([17, 23, 40, 41], axis=1).to_csv(p, index=False),
    "R": lambda f, p: f.set_axis(["V1", "V2", "V3", "V4"], axis=1).set_axis(range(1, 7)).to_csv(
        p, quoting=2),
    "Excel in Germany": lambda f, p: f.add_prefix("v").to_csv(p, sep=";", decimal=",", index=False),
    "tabs": lambda f, p: f.to_csv(p, sep="\t"),
    "spaces": lambda f, p: np.savetxt(p, f.to_numpy()),
    "Windows": lambda f, p: f.to_csv(p, lineterminator="\r\n", encoding="utf-8-sig"),
}


@pytest.mark.parametrize("way", TABLES)
def test_a_table_of_betas_is_what_was_saved(tmp_path, way):
    path = tmp_path / ("b.txt" if way == "spaces" else "b.csv")
    TABLES[way](pd.DataFrame(BETAS), path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        np.testing.assert_allclose(load_betas(path), BETAS, rtol=1e-6)
    told = ["commas are taken for decimal points" in str(one.message) for one in said]
    assert any(told) == (way == "Excel in Germany")


def test_what_is_left_out_of_a_table_is_said(tmp_path):
    pd.DataFrame(BETAS).to_csv(tmp_path / "b.csv")
    with pytest.warns(UserWarning) as said:
        load_betas(tmp_path / "b.csv")
    assert "numbers the columns: taken for a heading" in str(said[0].message)
    assert "counts 0, 1, 2, ...: left out as an index" in str(said[1].message)


def test_missing_cells_stay_in_their_place(tmp_path):
    for text, want in (
        ("a,b\n1.5,NA\n2,3\n", [[1.5, np.nan], [2, 3]]),
        ("NA,1.5\n2,3\n", [[np.nan, 1.5], [2, 3]]),  # the first trial is not a heading
        ("1.5,2\n,\n3,4\n", [[1.5, 2], [np.nan, np.nan], [3, 4]]),
        ("1.5\t\t2\n3\t4\t5\n", [[1.5, np.nan, 2], [3, 4, 5]]),
        ("\t1.5\n2\t3\n", [[np.nan, 1.5], [2, 3]]),
        ('"1.5","2"\n"3","4"\n', [[1.5, 2], [3, 4]]),
        ("1e-3 -2\n+.5 7.\n", [[1e-3, -2], [0.5, 7]]),
        ("5\n3\n", [[5], [3]]),
        ("nan nan\n1 2\n", [[np.nan] * 2, [1, 2]]),
    ):
        (tmp_path / "b.txt").write_text(text)
        np.testing.assert_array_equal(read_array(tmp_path / "b.txt"), want, err_msg=text)


def test_odd_tables_are_named(tmp_path):
    for text, match in (
        ("1,2,3\n4,5\n", "2 cells in row 2, 3 in the first"),
        ("a,b\n1,2,3\n", "3 cells in row 2, 2 in the first"),
        ("x,1.5,2.5\ny,3,4\n", "first row holds numbers and 'x'"),
        ("a,b\n1,2\n3,four\n", "column b holds 'four'"),
        ("\n\n", "empty"),
    ):
        (tmp_path / "b.csv").write_text(text)
        refuses(lambda: load_betas(tmp_path / "b.csv"), f"b.csv.*{match}")


def test_labels_come_from_the_column_that_is_called_so(tmp_path):
    names = ["cat, big.png", "dog.png", "a b.png"]
    table = pd.DataFrame({"onset": [1.5, 2, 3], "image": names, "run": [1, 1, 2]})
    for path, options in (("l.csv", {}), ("l.tsv", {"sep": "\t"}), ("m.csv", {"index": False})):
        table.to_csv(tmp_path / path, **options)
        for what, column, want in (("trial_image", "image", names), ("runs", "run", [1, 1, 2])):
            with pytest.warns(UserWarning) as said:
                assert load_labels(tmp_path / path, what).tolist() == want
            last, *index = (str(one.message) for one in reversed(said))
            assert f"{what} is column '{column}'" in last
            assert ["an index" in one for one in index] == [True] * ("index" not in options)
        refuses(lambda p=path: load_labels(tmp_path / p, "groups"), "columns; expected one")
    (tmp_path / "l.txt").write_text("image\n" + "\n".join(names) + "\n")
    assert load_labels(tmp_path / "l.txt", "trial_image").tolist() == names
    table[["image"]].to_csv(tmp_path / "o.csv", index=False)
    assert load_labels(tmp_path / "o.csv", "trial_image").tolist() == names
    pd.Series([2, 0, 1]).to_csv(tmp_path / "o.csv", header=False)
    with pytest.warns(match="left out as an index"), pytest.warns(match="trial_image is column 1"):
        assert load_labels(tmp_path / "o.csv", "trial_image").tolist() == [2, 0, 1]
    (tmp_path / "l.txt").write_text("01\n1\n2\n")
    assert load_labels(tmp_path / "l.txt", "runs").tolist() == ["01", "1", "2"]
    table.assign(session=[1, 2, 2]).to_csv(tmp_path / "l.csv", index=False)
    with pytest.warns(UserWarning, match="runs is column 'run' of each session"):
        assert load_labels(tmp_path / "l.csv", "runs").tolist() == ["1 1", "2 1", "2 2"]


@pytest.mark.parametrize("labels", [
    ["a", None, "b"], ["a", float("nan"), "b"], [1, np.nan, 2], "run\n1\nn/a\n2\n",
    "run,x\n1,a\n,a\n2,a\n", "run\n1\nNaN\n2\n",
    "session,run\n1,1\n1,\n2,1\n", "session,run\n1,1\nn/a,2\n2,1\n"])
def test_a_label_that_is_missing_is_no_label(tmp_path, labels):
    if isinstance(labels, str):
        (tmp_path / "l.csv").write_text(labels)
        labels = tmp_path / "l.csv"
    refuses(lambda: load_labels(labels, "runs"), "runs: 1 of 3 entries are missing; expected a lab")


@pytest.mark.parametrize("name", ["session", "Run", "image", "onset", "SessionID", "run_number"])
def test_columns_that_describe_trials_are_no_voxels(tmp_path, name):
    table = pd.DataFrame(BETAS).add_prefix("v")
    table.assign(**{name: [3, 1, 2, 1, 3, 2]}).to_csv(tmp_path / "b.csv", index=False)
    with pytest.warns(UserWarning, match=f"{name} left out: by their names they say what a row is"):
        np.testing.assert_allclose(load_betas(tmp_path / "b.csv"), BETAS, rtol=1e-6)


# Trials and pictures ---------------------------------------------------------------------


def folder_of(root, *names):
    for name, picture in zip(names, PICTURES, strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / name)
    return root


def shown(images, trial_image, n=6):
    betas = RNG.standard_normal((n, 4))
    return load_trials(images, betas, trial_image, size=8)


def test_indices_need_one_order_of_the_files(tmp_path):
    folder = folder_of(tmp_path / "p", *(f"img_{i}.png" for i in range(1, 13)))
    for call in (lambda: shown(folder, [0, 1, 2, 0, 1, 2]), lambda: shown(folder, None, 12),
                 lambda: create_loader(8, 4, data_path=folder, vectors=np.zeros((12, 3)))):
        refuses(call, r"picture 1 could be img_10.png \(by letter\) or img_2.png \(by number\)")
    own = shown(folder, [f"img_{i}" for i in (1, 2, 10, 12, 3, 1)])
    assert np.array_equal(own.images[own.trial_image], PICTURES[[0, 1, 9, 11, 2, 0]])
    assert create_loader(8, 4, data_path=folder).images.shape[0] == 12  # no vectors, no order
    padded = folder_of(tmp_path / "q", *(f"img_{i:02d}.png" for i in range(1, 13)))
    own = shown(padded, None, 12)
    assert np.array_equal(own.images[own.trial_image], PICTURES)
    assert "the first trial saw img_01.png" in own.report[1]
    refuses(lambda: shown(folder_of(tmp_path / "r", "B.png", "a.png"), [0, 1] * 3), "could be")


def test_indices_that_may_count_from_1_are_refused():
    for images in (PICTURES[:6], PICTURES[:4]):
        refuses(lambda images=images: shown(images, [1, 2, 3, 1, 2, 3]), "may count from 1")
    assert shown(PICTURES, [0, 5, 11, 5, 0, 2]).trial_image.tolist() == [0, 5, 11, 5, 0, 2]
    refuses(lambda: shown(PICTURES[:2], np.array([True, False] * 3)), "type bool")
    refuses(lambda: shown(PICTURES, np.ma.masked_equal([0, 1, 2, 9, 4, 5], 9)), "1 entries are mas")


def test_pictures_that_cannot_be_read_keep_their_place(tmp_path):
    folder = folder_of(tmp_path, "a.png", "c.png", "d.png")
    (folder / "b.avif").write_bytes(b"\0\0\0 ftypavif")
    shutil.copy(folder_of(tmp_path / "jpg", "x.jpg") / "x.jpg", folder / "e.jfif")
    shutil.rmtree(tmp_path / "jpg")
    with pytest.warns(match="1 of 5 pictures skipped, .*: b.avif"), \
            pytest.warns(match="1 of 6 trials dropped: their picture cannot be read"):
        own = shown(folder, [0, 2, 3, 1, 0, 4])
    assert np.array_equal(own.images[own.trial_image][:4], PICTURES[[0, 1, 2, 0]])
    assert len(own.betas) == 5  # the trial of b.avif is dropped


def test_hidden_folders_are_no_pictures(tmp_path):
    folder = folder_of(tmp_path, "a.png", "b.png", ".ipynb_checkpoints/a-checkpoint.png",
                       "__MACOSX/._a.png", ".hidden.png")
    assert len(shown(folder, [0, 1] * 3).images) == 2


def test_names_meet_however_they_are_spelt(tmp_path):
    accent = unicodedata.normalize("NFD", "café.png")
    folder = folder_of(tmp_path, "rep_cat.png", "cat.png", accent, "dir/dog.png", "Fish.PNG")
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.is_file())
    index = {path.rpartition("/")[2]: i for i, path in enumerate(paths)}
    with pytest.warns(UserWarning, match=r"without the folders before them \(stimuli/...\)"):
        own = shown(folder, ["rep_cat.png", "cat.png", unicodedata.normalize("NFC", accent),
                             "stimuli\\dir\\dog.png", "stimuli/rep_fish.png", "./dir/dog"])
    want = [index[n] for n in ("rep_cat.png", "cat.png", accent, "dog.png", "Fish.PNG", "dog.png")]
    assert own.trial_image.tolist() == want
    refuses(lambda: shown(folder, ["a/cat.png", "b/cat.png"] * 3), "are two pictures, but")
    refuses(lambda: shown(folder, ["../cat.png", "cat.png"] * 3), "1 names without a picture")
    folder_of(folder, unicodedata.normalize("NFC", accent))  # as well: which of the two is meant?
    refuses(lambda: shown(folder, [accent, "cat.png"] * 3), "could be .*png or .*png; give")


# The wrong array -------------------------------------------------------------------------


def test_the_array_that_is_called_so_is_taken_or_refused(tmp_path):
    runs = np.repeat([0, 1], 3)
    scipy.io.savemat(tmp_path / "a.mat", {"trial_image": np.array([{"x": 1}], object), "run": runs})
    np.savez(tmp_path / "a.npz", betas=np.array(["text"] * 6), other=BETAS)
    np.savez(tmp_path / "b.npz", betas=BETAS[0], other=BETAS)
    with h5py.File(tmp_path / "c.mat", "w") as file:
        file["betas"] = np.zeros(3, np.uint64)
        file["betas"].attrs["MATLAB_class"] = np.bytes_("cell")
        file["#refs#/a"] = BETAS
    refuses(lambda: load_betas(tmp_path / "a.npz"), "betas is a <U4 of shape .6,.; expected numb")
    refuses(lambda: load_betas(tmp_path / "b.npz"), r"betas is a float64 of shape \(4,\)")
    refuses(lambda: load_betas(tmp_path / "c.mat"), "betas is a cell")
    assert np.array_equal(load_betas(f"{tmp_path / 'b.npz'}:other"), BETAS.astype("f4"))


def test_names_are_read_from_every_file(tmp_path):
    names = ["cat.png", "dog.png", "a.png"]
    cell = np.empty(3, object)
    cell[:] = names
    scipy.io.savemat(tmp_path / "cell.mat", {"stimulus": cell, "run": [1, 1, 2]})
    scipy.io.savemat(tmp_path / "char.mat", {"trial_image": np.array(["catt", "dog1", "fish"])})
    np.savez(tmp_path / "a.npz", trial_image=np.array(names), run=[1, 1, 2])
    np.save(tmp_path / "a.npy", np.array(names))
    np.save(tmp_path / "pandas.npy", cell)
    np.savez(tmp_path / "pandas.npz", stim_file=cell)
    with h5py.File(tmp_path / "new.mat", "w") as file:  # as MATLAB writes a cell of texts
        refs = file.create_dataset("stim_file", (1, 3), h5py.ref_dtype)
        refs.attrs["MATLAB_class"] = np.bytes_("cell")
        for i, name in enumerate(names):
            text = file.create_dataset(f"#refs#/{i}", data=[[ord(letter)] for letter in name])
            text.attrs["MATLAB_class"] = np.bytes_("char")
            refs[0, i] = text.ref
        numbers = file.create_dataset("run", (1, 3), h5py.ref_dtype)  # and of numbers
        for i, number in enumerate((1.0, 1.0, 2.0)):
            cell_of = file.create_dataset(f"#refs#/run{i}", data=[[number]])
            cell_of.attrs["MATLAB_class"] = np.bytes_("double")
            numbers[0, i] = cell_of.ref
    with h5py.File(tmp_path / "rows.mat", "w") as file:  # and rows of letters, padded
        file["stim_file"] = np.array([[ord(letter) for letter in f"{name:7}"] for name in names]).T
        file["stim_file"].attrs["MATLAB_class"] = np.bytes_("char")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x/trial_image"], file["x/run"] = names, [1, 1, 2]
    scipy.io.savemat(tmp_path / "padded.mat", {"stim_file": np.array(names)})
    for name in ("cell.mat", "a.npz", "a.npy", "a.h5", "pandas.npy", "pandas.npz", "new.mat",
                 "rows.mat", "padded.mat"):
        assert load_labels(tmp_path / name, "trial_image").tolist() == names, name
    assert load_labels(tmp_path / "char.mat", "trial_image").tolist() == ["catt", "dog1", "fish"]
    for name in ("cell.mat", "new.mat"):
        assert load_labels(tmp_path / name, "runs").tolist() == [1, 1, 2], name


def test_masked_and_transposed_betas():
    masked = np.ma.masked_where(np.arange(24).reshape(6, 4) == 9, BETAS)
    with pytest.warns(UserWarning, match="1 of 4 voxels dropped: values missing"):
        own = load_trials(PICTURES[:6], masked, size=8)
    assert own.voxels.tolist() == [0, 2, 3]
    refuses(lambda: load_trials(PICTURES[:6], BETAS.T, size=8), "look transposed, turn them round")
    refuses(lambda: load_trials(PICTURES, BETAS.T, range(6), size=8), "look transposed")
    refuses(lambda: as_uint8(np.ma.masked_less(PICTURES, 9)), "NaN")


@pytest.mark.parametrize("volume", [True, False])
@pytest.mark.parametrize("kind", ["npy", "hdf5", "mat", "new.mat"])
def test_what_glmsingle_writes(tmp_path, kind, volume):
    """(x, y, z, trials) or (voxels, trials), as Python writes or MATLAB does, trials in order."""
    box = RNG.standard_normal((3, 2, 2, 6) if volume else (12, 6)).astype(np.float32)
    name = "betasmd" if kind in ("npy", "hdf5") else "modelmd"
    held = {name: box, "HRFindex": np.arange(12.0).reshape(box.shape[:-1]),
            "R2": RNG.random(box.shape[:-1]), "pcnum": 3, "meanvol": np.ones(box.shape[:-1]),
            "pcregressors": [np.ones((5, 2))]}
    path = tmp_path / f"TYPED_FITHRF_GLMDENOISE_RR.{kind}"
    if kind == "npy":
        np.save(path, held, allow_pickle=True)
    elif kind == "mat":
        scipy.io.savemat(path, held)
    else:
        with h5py.File(path, "w") as file:
            for key, value in held.items():
                if key != "pcregressors":
                    file[key] = np.transpose(value) if kind == "new.mat" else value
    if kind == "new.mat":
        path = path.rename(tmp_path / "TYPED.mat")
    want = box.reshape(12, 6).T
    found = read_glmsingle(path)
    assert np.array_equal(found.betas, want) and np.array_equal(load_betas(path), want)
    assert np.array_equal(found.hrf, np.arange(12)) and np.allclose(found.r2, held["R2"].ravel())
    assert np.array_equal(load_trials(PICTURES[:6], path, size=8).betas, want)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def test_a_dict_of_arrays_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    inside = np.empty(1, object)
    inside[0] = Bomb()
    for held in ({"betasmd": Bomb()}, {"betasmd": inside}, {"betasmd": [1], "x": {"y": Bomb()}}):
        np.save(tmp_path / "a.npy", held, allow_pickle=True)
        refuses(lambda: load_betas(tmp_path / "a.npy"), "a.npy.*it would run .*mkdir")
    np.save(tmp_path / "a.npy", [1, 2])
    refuses(lambda: read_dict(tmp_path / "a.npy"), "expected a dict")
    assert not (tmp_path / "exploded").exists()
    for code in ("builtins.eval", "numpy.fromfile", "numpy.memmap", "os.system"):
        module, name = code.split(".")
        body = f"c{module}\n{name}\n(S'1'\ntR.".encode()
        np.save(tmp_path / "a.npy", {}, allow_pickle=True)
        whole = (tmp_path / "a.npy").read_bytes()
        (tmp_path / "a.npy").write_bytes(whole[: whole.index(b"\x80")] + body)
        refuses(lambda: read_dict(tmp_path / "a.npy"), f"it would run {module}.{name}")


# Pictures --------------------------------------------------------------------------------


def test_the_scale_of_pictures_is_told_by_range_or_refused():
    unit = PICTURES / 255
    overshoot = unit * 1.1 - 0.03
    assert np.abs(as_uint8(overshoot) - np.clip(np.rint(overshoot * 255), 0, 255)).max() == 0
    signed = (PICTURES / 127.5 - 1) * 1.04
    assert np.abs(as_uint8(signed) - np.clip(np.rint((signed + 1) * 127.5), 0, 255)).max() == 0
    assert np.abs(as_uint8(PICTURES * 1.02 - 2.0) - PICTURES.astype(int)).max() <= 4
    for bad in (unit * 7, unit - 0.3, PICTURES.astype("u2") * 12, np.full((2, 3, 3), -500)):
        refuses(lambda bad=bad: as_uint8(bad), "expected 0 to 1, -1 to 1, 0 to 255 or 16 bits")


@pytest.mark.parametrize("most, said", [(65535, False), (4095, True), (255, True), (0, False)])
def test_few_bits_in_a_file_of_sixteen_are_told(tmp_path, most, said):
    deep = np.linspace(0, most, 64).reshape(8, 8).astype(np.uint16)
    for name in ("a.png", "b.tif"):
        Image.fromarray(deep).save(tmp_path / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = create_loader(8, 2, tmp_path).images
    assert images.max() == np.rint(most / 257)
    assert ["2 of 2 pictures nearly black" in str(one.message) for one in caught] == [True] * said


@pytest.mark.parametrize("shape", [(20, 20, 7), (20, 24, 3, 7)])
def test_a_stack_of_matlab_is_turned(shape):
    stack = RNG.integers(0, 256, shape, dtype=np.uint8)
    with pytest.warns(UserWarning, match="taken for 7 pictures along the last axis"):
        found = square_arrays(stack, 20)
    one = stack[..., 4] if len(shape) == 4 else stack[..., 4, None]
    assert np.array_equal(found[4], one[:, (shape[1] - 20) // 2:][:, :20])


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_becomes_white(tmp_path, mode):
    picture = Image.new("RGB", (8, 8), (10, 10, 10))
    picture.paste((200, 200, 200), (0, 0, 4, 8))
    picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    clear = {"L": 10, "RGB": (10, 10, 10), "P": picture.getpixel((7, 0))}[mode]
    picture.save(tmp_path / "a.png", transparency=clear)
    found = read_picture(tmp_path / "a.png", 8)[0].reshape(8, 8, -1)
    assert (abs(found[:, :4].astype(int) - 200) < 8).all() and (found[:, 4:] == 255).all()


def test_tables_are_not_read_for_ever(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    refuses(lambda: read_table(tmp_path / "a.csv"), "not a file")


# Runs, masks and events ------------------------------------------------------------------

ROI = np.repeat(KEYS, 3)
IJK = compact_box(len(ROI))
ONSETS = np.array([6.0, 16.0, 26.0])
NAMES = ["n01234567_1.JPEG", "airport1.jpg", "COCO_train2014_000000000001.jpg"]
BOLD = (800 + 10 * RNG.standard_normal((20, len(ROI)))).astype(np.float32)
STEM = bids.run_stem("CSI1", 1, 1)


@pytest.fixture
def raw(tmp_path):
    volumes.write_masks(tmp_path, "CSI1", ROI, IJK, (4, 5, 6))
    run = bids.Run(BOLD, ROI, IJK, ONSETS, np.ones(3), NAMES, 2.0, 1, 1)
    bids.write_run(tmp_path, "CSI1", run, (4, 5, 6), confounds=np.full((20, 6), 2.5))
    return tmp_path


def read(root):
    return bids.read_run(root, "CSI1", 1, 1)


@pytest.mark.parametrize("axes", ["LAS", "RPI", "PSR", "AIL"])
def test_a_run_stored_the_other_way_round_is_read_by_its_affine(raw, axes):
    """The same run with flipped and swapped axes; nilearn's masker is the oracle."""
    from nilearn.maskers import NiftiMasker

    path = raw / f"{STEM}_bold.nii.gz"
    image = nibabel.load(path)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes))
    image.as_reoriented(turn).to_filename(path)
    assert "".join(nibabel.aff2axcodes(nibabel.load(path).affine)) == axes
    one = read(raw)
    assert np.abs(one.bold - BOLD).max() < 0.05
    mask = raw / volumes.mask_path("CSI1", "RHPPA")
    theirs = NiftiMasker(mask_img=mask, standardize=None).fit_transform(str(path))
    assert np.allclose(one.bold[:, ROI == "RHPPA"], theirs, rtol=1e-5)


def test_grids_that_lie_elsewhere(raw):
    path = raw / f"{STEM}_bold.nii.gz"
    image = nibabel.load(path)
    away, tilted, unknown = (image.affine.copy() for _ in range(3))
    away[:3, 3] = 40, 0, 0
    tilted[:3, :3] = [[2, 0.4, 0], [-0.4, 2, 0], [0, 0, 2]]
    for affine, match in ((away, r"\[40.  0.  0.\] mm away; expected volumes in their place"),
                          (tilted, "of other axes"), (np.diag([3.0, 3, 3, 1]), "of other axes")):
        nibabel.Nifti1Image(image.get_fdata(), affine).to_filename(path)
        refuses(lambda: read(raw), f"run-01_bold.nii.gz: .*{match}")
    nibabel.Nifti1Image(image.get_fdata()[..., None], image.affine).to_filename(path)
    refuses(lambda: read(raw), r"bold.nii.gz: shape \(4, 5, 6, 20, 1\); expected volumes over time")
    new = nibabel.Nifti1Image(image.get_fdata(), unknown)
    new.set_sform(None, 0)
    new.set_qform(None, 0)
    new.header["pixdim"][4] = 2.0
    new.to_filename(path)
    with pytest.warns(UserWarning, match="says nothing of its orientation; .* by index"):
        assert np.abs(read(raw).bold - BOLD).max() < 0.05
    mask = raw / volumes.mask_path("CSI1", "LHLOC")
    one = nibabel.load(mask)
    nibabel.Nifti1Image(one.get_fdata(), away).to_filename(mask)
    refuses(lambda: read(raw), "mask-LHLOC.nii.gz: .*the other masks have")


def test_release_2_volumes_are_turned_but_not_moved(tmp_path):
    values = RNG.standard_normal((3, len(ROI))).astype(np.float32)
    betas = bold5000.Betas(values, ROI, NAMES, np.ones(3, int), np.ones(3, int), "CSI1")
    volumes.write_masks(tmp_path, "CSI1", ROI, IJK, (4, 5, 6))
    volumes.write_r2_volumes(tmp_path, betas, IJK, (4, 5, 6), origin=(-70, -88, -71))
    path = next(tmp_path.glob("CSI1_GLMbetas*"))
    image = nibabel.load(path)
    image.as_reoriented([[0, -1], [1, 1], [2, 1]]).to_filename(path)
    with pytest.warns(UserWarning, match=r"origins differ by \[-70. -88. -71.\] mm"):
        found = volumes.read_r2_volumes(tmp_path, "CSI1")
    assert np.array_equal(found.values, values)
    nibabel.Nifti1Image(image.get_fdata(), np.diag([3.0, 2, 2, 1])).to_filename(path)
    refuses(lambda: volumes.read_r2_volumes(tmp_path, "CSI1"), "ses-01.nii.gz: .*of other axes")


def test_masks_of_other_makes(raw):
    path = raw / volumes.mask_path("CSI1", "LHPPA")
    image = nibabel.load(path)
    ones, affine = image.get_fdata() > 0, image.affine
    want = np.argwhere(ones)
    blurred = np.where(ones, 0.8, 0.01).astype(np.float32)
    for array, said in ((ones[..., None].astype("u1"), None), (ones * np.float32(255), None),
                        (np.where(ones, 1, np.nan), None), (blurred, "an interpolated mask")):
        nibabel.Nifti1Image(array, affine).to_filename(path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert np.array_equal(volumes.read_masks(raw, "CSI1", ("PPA",)).ijk[:3], want)
        assert [str(w.message) for w in caught if said is None or said not in str(w.message)] == []
        assert bool(caught) == bool(said)
    nibabel.Nifti1Image((ones * 2 + 1).astype("u1"), affine).to_filename(path)
    refuses(lambda: volumes.read_masks(raw, "CSI1", ("PPA",)), "values from 1 to 3; expected a mas")


@pytest.mark.parametrize("name", ["_space-T1w_desc-preproc_bold", "_bold_space-T1w_preproc",
                                  "_space-T1w_res-2_desc-preproc_bold"])
def test_every_fmriprep_comes_before_the_raw_run(raw, name):
    folder = raw / "derivatives/fmriprep/sub-CSI1/ses-01/func"
    stem = STEM.rpartition("/")[2]
    image = nibabel.load(raw / f"{STEM}_bold.nii.gz")
    clean = nibabel.Nifti1Image(image.get_fdata() + 50, image.affine)
    clean.header["pixdim"][4] = 2.0
    clean.to_filename(folder / f"{stem}{name}.nii.gz")
    other = f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    clean.to_filename(folder / other)
    run = read(raw)
    assert np.abs(run.bold - BOLD - 50).max() < 0.05 and run.path == folder / f"{stem}{name}.nii.gz"
    run.path.unlink()
    refuses(lambda: read(raw), f"{other}; expected one run in space-T1w")
    (folder / other).unlink()
    assert read(raw).path == raw / f"{STEM}_bold.nii.gz"


@pytest.mark.parametrize("name", ["regressors", "timeseries"])
def test_confounds_of_a_newer_fmriprep(raw, name):
    old = raw / f"derivatives/fmriprep/{STEM}_bold_confounds.tsv"
    table = pd.read_csv(old, sep="\t").set_axis(bids.NEW_MOTION, axis=1)
    table.insert(0, "framewise_displacement", [np.nan] + [0.1] * 19)
    new = old.with_name(old.name.replace("_bold_confounds", f"_desc-confounds_{name}"))
    table.to_csv(new, sep="\t", na_rep="n/a", index=False)
    old.unlink()
    assert np.array_equal(bids.read_confounds(raw, "CSI1", 1, 1), np.full((20, 6), 2.5))
    more = bids.read_confounds(raw, "CSI1", 1, 1, ["framewise_displacement", "RotZ"])
    assert np.allclose(more[:2], [[0, 2.5], [0.1, 2.5]])


@pytest.mark.parametrize("where", ["beside", "above"])
def test_the_json_knows_the_repetition_time(raw, where):
    path = raw / (f"{STEM}_bold.json" if where == "beside" else "task-5000scenes_bold.json")
    image = nibabel.load(raw / f"{STEM}_bold.nii.gz")
    image.header["pixdim"][4] = 1.0
    image.to_filename(raw / f"{STEM}_bold.nii.gz")
    path.write_text('{"RepetitionTime": 2.0, "TaskName": "x"}')
    with pytest.warns(UserWarning, match="a volume every 2 s, as .*json says; the header says 1 s"):
        assert read(raw).tr == 2.0
    path.write_text('{"RepetitionTime": 2.0, "StartTime": 0.75}')  # slice timing was corrected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.allclose(read(raw).onsets, ONSETS - 0.75)
    path.write_text('{"RepetitionTime": 2.0, "StartTime": 750}')
    refuses(lambda: read(raw), "json: StartTime 750; expected seconds")
    path.write_text('{"RepetitionTime": 2000}')
    refuses(lambda: read(raw), "json: RepetitionTime 2000; expected seconds")
    path.write_text('{"RepetitionTime": ')
    refuses(lambda: read(raw), "json")


def events(root, **columns):
    path = root / f"{STEM}_events.tsv"
    table = pd.read_csv(path, sep="\t")
    for name, cells in columns.items():
        table[name] = cells
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    return bids.read_events(root, "CSI1", 1, 1)


def test_events_forget_no_column(raw):
    path = raw / f"{STEM}_events.tsv"
    table = pd.read_csv(path, sep="\t")
    table.to_csv(path, sep="\t", na_rep="n/a")  # with pandas' index
    with pytest.warns(UserWarning, match="left out as an index"):
        found = bids.read_events(raw, "CSI1", 1, 1)
    assert found.onsets.tolist() == ONSETS.tolist() and found.names == NAMES
    table["Response"] = ["", "b", ""]
    table.drop(columns="stim_file").to_csv(path, sep="\t", index=False, na_rep="")
    assert bids.read_events(raw, "CSI1", 1, 1).names == NAMES
    path.write_text("onset\tduration\tstim_file\n6\t1\n")
    refuses(lambda: read(raw), "2 cells in row 2, 3 in the first")


def test_durations_are_used_or_refused(raw):
    assert events(raw, duration=[1.0, 4.0, 0.5]).durations.tolist() == [1, 4, 0.5]
    with pytest.warns(UserWarning, match="1 durations not known: 1 s each"):
        assert events(raw, duration=[2.0, None, 2.0]).durations.tolist() == [2, 1, 2]
    for bad in ([1, -4, 1], [1, np.inf, 1], [1, "long", 1]):
        refuses(lambda bad=bad: events(raw, duration=bad), "duration")


def test_events_that_are_no_trials_are_left_out_and_counted(raw):
    with pytest.warns(UserWarning, match="1 events without a picture left out"):
        found = events(raw, stim_file=[NAMES[0], None, NAMES[2]])
    assert found.names == [NAMES[0], NAMES[2]] and found.onsets.tolist() == [6, 26]
    with pytest.warns(UserWarning, match="1 events without an onset .*; 1 events before the first"):
        found = events(raw, onset=[-3.0, None, 26], stim_file=NAMES)
    assert found.names == NAMES[2:]
    with pytest.warns(UserWarning, match="1 events that are there twice"):
        found = events(raw, onset=[6, 6, 26.0], stim_file=[NAMES[0], NAMES[0], NAMES[2]])
    assert found.onsets.tolist() == [6, 26]
    refuses(lambda: events(raw, onset=[6, 6, 26.0], stim_file=NAMES), "3 pictures at 2 times")
    refuses(lambda: events(raw, onset=["soon", 6, 26], stim_file=NAMES), "onset 'soon'; expected")


def test_longer_pictures_and_short_scans_in_betas(raw):
    events(raw, duration=[4.0, 4.0, 4.0])
    raw_betas.estimate_betas(raw, "CSI1")
    found, run = bold5000.read_r2(raw, "CSI1"), read(raw)
    want = single_trial_betas(run.bold, ONSETS, 2.0, durations=4.0)
    assert np.allclose(found.values, want, atol=1e-5)
    raw_betas.estimate_betas(raw, "CSI1")  # its own betas it may write over
    for left in (raw / release.BETAS / raw_betas.OURS.format("CSI1"), raw / release.BETAS / MARK):
        left.unlink()  # now they could be the published ones
    refuses(lambda: raw_betas.estimate_betas(raw, "CSI1"), "CSI1_.*betas of CSI1 that this command")
    shutil.rmtree(raw / release.BETAS)
    shutil.rmtree(raw / "ROIs")
    events(raw, onset=[6.0, 16.0, 32.0])
    refuses(lambda: raw_betas.estimate_betas(raw, "CSI1", points=("5",)),
            "ends 1 volumes too soon for time point 5")


def test_the_report_of_betas(raw):
    scans, folder = raw_betas.raw_scans(raw, "CSI1"), raw / "derivatives/betas"
    found = raw_betas.report(scans, folder, "CSI1")
    voxels, runs = (pd.read_csv(folder / f"CSI1_{name}.csv") for name in ("voxels", "runs"))
    assert voxels.area.tolist() == list(scans.masks.roi) and np.isfinite(voxels.explained).all()
    assert len(runs) == 1 and runs["outlier volumes"][0] <= 2
    volume = nibabel.load(folder / "CSI1_explained.nii.gz").get_fdata()
    there = volume[tuple(voxels[["i", "j", "k"]].to_numpy().T)]
    assert np.allclose(there, voxels.explained, rtol=1e-3)
    assert np.isfinite(volume).sum() == len(voxels)
    assert len(diagnosis(found, scans.masks.roi).axes) == 6
    page = diagnosis(found, scans.masks.roi, ijk=scans.masks.ijk)
    assert len(page.axes) == 6 + 4 and np.isfinite(page.axes[6].images[0].get_array()).any()


@pytest.mark.parametrize("last", [36.0, 38.5])
def test_a_trial_that_the_end_of_the_run_cuts_off_is_named_and_left_out(raw, last):
    events(raw, onset=[6.0, 16.0, last])
    said = raw_betas.estimate_betas(raw, "CSI1")
    assert said.endswith(f"left out, as the run ends before its response: {NAMES[2]}, session 1 "
                         f"run 1, at {last:.0f} of 40 s") and "2 trials of 2 pictures" in said
    found = bold5000.read_r2(raw, "CSI1")
    assert list(found.stimuli) == NAMES[:2]
    want = single_trial_betas(read(raw).bold, ONSETS[:2], 2.0)
    assert np.allclose(found.values, want, atol=1e-5)


# Lists of a release ----------------------------------------------------------------------


def test_repeated_pictures_are_found_however_the_list_spells_them(mini_release, tmp_path):
    shutil.copytree(mini_release, tmp_path / "r")
    root, path = tmp_path / "r", next((tmp_path / "r").rglob("repeated_stimuli_113_list.txt"))
    want, names = release.load_experiment(root, "CSI1").test, path.read_text().split()
    for change in (lambda n: n.upper(), lambda n: n.rpartition(".")[0], lambda n: f"stimuli/{n}",
                   lambda n: f"stimuli\\{n}", lambda n: n.replace(".JPEG", ".jpg")):
        path.write_text("\n".join(map(change, names)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.array_equal(release.load_experiment(root, "CSI1").test, want)
    path.write_text("\n".join([*names[1:], "x" + names[0]]))
    refuses(lambda: release.load_experiment(root, "CSI1"),
            "1 names on the list of repeated pictures are no p")


def test_pictures_of_a_release_are_found_however_the_disk_spells_them(tmp_path):
    name = unicodedata.normalize("NFC", "café1.png")
    stimuli.write_images(tmp_path, [unicodedata.normalize("NFD", name), "Desert.PNG"], PICTURES[:2])
    assert np.array_equal(stimuli.read_images(tmp_path, [name, "desert.png"], 8), PICTURES[:2])
    (tmp_path / "list.txt").write_text(f"stimuli/rep_{name}\nstimuli\\a.png\n")
    found = stimuli.read_stimuli(tmp_path, "CSI1", "list.txt").stimuli
    assert found == [name, "a.png"]


def test_runs_are_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / f"{stimuli.LISTS}/CSI1/CSI1_sess1"
    folder.mkdir(parents=True)
    for run in range(1, 12):
        (folder / f"CSI_sess1_run{run}.txt").write_text(f"stimuli/{run}.png\n")
    (folder / "._CSI_sess1_run1.txt").write_bytes(b"\0\5\x16\7\xff")  # what a Mac leaves
    found = stimuli.read_presentation_lists(tmp_path, "CSI1")
    assert found.run.tolist() == list(range(1, 12))
    assert found.stimuli == [f"{run}.png" for run in range(1, 12)]


# Loaders ---------------------------------------------------------------------------------


def test_datasets_of_other_makes():
    want = PICTURES.transpose(0, 3, 1, 2)
    for dataset in ([{"image": Image.fromarray(p), "label": 3} for p in PICTURES],
                    [{"label": 1, "pixel_values": p} for p in PICTURES],
                    (Image.fromarray(p) for p in PICTURES), ((p, 7) for p in PICTURES)):
        assert np.array_equal(create_loader(8, 4, images=dataset, shuffle=False).images, want)
    refuses(lambda: create_loader(8, 4, images=[{"x": PICTURES[0]}]), "yields x; expected a pict")


# Words -----------------------------------------------------------------------------------


def test_text_that_cannot_be_read_is_not_called_truncated(tmp_path):
    for name, whole in (("a.csv", "größe,2\n".encode("latin-1")), ("a.txt", b"\xff\xfe1\x00\n")):
        (tmp_path / name).write_bytes(whole)
        refuses(lambda name=name: load_betas(tmp_path / name), "expected plain text in UTF-8")
    np.save(tmp_path / "a.npy", BETAS)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-9])
    refuses(lambda: load_betas(tmp_path / "a.npy"), "may be truncated")


def test_pictures_that_come_in_several_runs_cannot_be_held_out_by_run():
    own = load_trials(PICTURES[:3], RNG.standard_normal((6, 4)), [0, 1, 2, 0, 1, 2],
                      runs=[1, 1, 1, 2, 2, 2], size=16)
    own.groups = own.runs
    refuses(lambda: crossval.cross_validate(own),
            "3 showings of the 3 pictures are in another group .run. than the first")


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_seeds_may_be_numpys(kind):
    assert torch.equal(initial_noise(3, (1, 2, 2), kind(200)), initial_noise(3, (1, 2, 2), 200))
    pair = [create_loader(8, 4, images=PICTURES, vectors=lambda i, g: torch.rand(len(i), 2,
            generator=g), seed=seed) for seed in (kind(200), 200)]
    for (a, x), (b, y) in zip(*pair, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)
    factors = sample_factors(8, 1)
    nets = [train_factor_net(draw(factors), factors, seed, epochs=1) for seed in (kind(3), 3)]
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(a, b)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.zeros(4, 3, 16, 16))


def loaders_of(images, *more, batch=4):
    return DataLoader(TensorDataset(images, *more), batch)


def test_loaders_of_other_makes_train_or_are_refused(tmp_path):
    signed = torch.from_numpy(RNG.uniform(-1, 1, (8, 3, 16, 16))).float()
    small = dict(channels=[8, 8], patch=4, attention=[], width=8)

    def train(loader, condition=None):
        kind = train_unconditional_diffusion if condition is None else train_conditional_diffusion
        model = UNet(condition_size=condition, **small)
        return kind(loader, image_size=16, device="cpu", model=model, out_dir=tmp_path / "m",
                    max_steps=2, quiet=True, grids=0)

    train(loaders_of(signed, torch.arange(8)))  # class numbers, as torchvision's have
    vectors = torch.ones(8, 3)
    vectors[6] = np.nan
    late = signed.clone()
    late[6] = (late[6] + 1) * 127.5
    for loader, condition, match in (
        (loaders_of((signed + 1) / 2), None, "to .-1, 1., as create_loader does .0 to 1: 2"),
        (loaders_of(late), None, "values from .* to 2[0-9][0-9]; bring them to"),
        ([{"pixel_values": signed}], None, "the loader yields pixel_values; expected tensors"),
        (DataLoader(Stream(), 2), None, "the loader has no length"),
        (loaders_of(signed, torch.arange(8)), 3, "yields pictures alone"),
        (loaders_of(signed, vectors), 3, "vectors that hold NaN"),
    ):
        refuses(lambda a=loader, b=condition: train(a, b), match)


def test_what_was_read_is_reported(mini_release, raw):
    line = release.load_experiment(mini_release, "CSI2").report
    assert "CSI2: 74 trials of " in line and "50 voxels in EarlyVis, LOC, OPA, PPA, RSC" in line
    assert "GLMsingle_ROI_betas" in line and "pictures (repeated split)" in line
    folder = raw / "volumes"
    betas = bold5000.Betas(BOLD[:3], ROI, NAMES, np.ones(3, int), np.ones(3, int), "CSI1")
    volumes.write_r2_volumes(folder, betas, IJK, (4, 5, 6))
    shutil.copytree(raw / "derivatives", folder / "derivatives")
    assert volumes.read_r2_volumes(folder, "CSI1").path.parent == folder
    events(raw, onset=[2.0, 8.0, 14.0])
    said = raw_betas.estimate_betas(raw, "CSI1")
    assert "3 trials of 3 pictures in 1 runs such as" in said and "_bold.nii.gz, 30 voxels" in said
    assert "a volume every 2 s" in said


def test_a_voxel_with_a_negative_mean_has_no_betas():
    bold = np.concatenate([BOLD[:, :5], -BOLD[:, :1]], axis=1)
    found = single_trial_betas(bold, ONSETS, 2.0)
    assert np.isnan(found[:, 5]).all()
    assert np.array_equal(found[:, :5], single_trial_betas(BOLD[:, :5], ONSETS, 2.0))


def test_runs_of_other_voxels_are_refused():
    runs = [(BOLD, ONSETS), (BOLD[:, :-1], ONSETS)]
    refuses(lambda: estimate(runs, 2.0), "run 2 has .29,. voxels, the first has .30,.; expected")
    refuses(lambda: hrf_fit(runs, 2.0), "run 2 has .29,. voxels")


# Caches, models and notes ----------------------------------------------------------------


def test_a_spool_of_another_subject_is_made_anew(tmp_path):
    def made(bold, *source):
        [(found, onsets)] = whole_brain.spool([lambda: (bold, ONSETS)], tmp_path, *source)
        assert np.array_equal(onsets, ONSETS)
        return found[:]

    one, two = np.float32(BOLD), np.float32(BOLD + 5)
    assert np.array_equal(made(one, "CSI1"), one)
    assert np.array_equal(made(two, "CSI1"), one)  # the same name: it is not even loaded
    assert np.array_equal(made(two, "CSI2"), two)
    assert np.array_equal(made(one), one)  # nobody knows of what


def test_a_whole_brain_of_newer_runs_is_unpacked_anew(raw):
    events(raw, onset=[2.0, 8.0, 14.0])
    before, _ = raw_betas.estimate_whole_brain(raw)
    first = whole_brain.read_estimate(before).betas
    folder, run = before.with_suffix(".runs"), raw / f"{STEM}_bold.nii.gz"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before.unlink()
        patch.setattr(raw_betas, "estimate_to_file", stop)  # the runs stay unpacked
        raw_betas.estimate_whole_brain(raw)
    assert list(folder.glob("*.h5"))
    image = nibabel.load(run)
    changed = image.get_fdata()
    changed[..., 5] += 100
    volumes.save_volume(run, changed.astype(np.float32), image.affine, tr=2.0)
    second = whole_brain.read_estimate(raw_betas.estimate_whole_brain(raw)[0]).betas
    assert np.abs(second - first).max() > 1


def stop(*args, **kwargs):
    raise KeyboardInterrupt


def test_pictures_of_newer_kinds_are_read_or_named(tmp_path):
    flat = np.full((16, 16, 3), (200, 60, 20), np.uint8)
    if AVIF:
        Image.fromarray(flat).save(tmp_path / "a.avif", quality=95)
        assert np.abs(read_picture(tmp_path / "a.avif", 8)[0].astype(int) - flat[0, 0]).max() < 8
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    refuses(lambda: read_picture(tmp_path / "b.heic", 8), r"\.heic is not read here, save it as")
    (tmp_path / "heic").mkdir()
    shutil.copy(tmp_path / "b.heic", tmp_path / "heic")
    refuses(lambda: create_loader(8, 1, tmp_path / "heic"), "but b.heic: save such pictures as PNG")
    Image.fromarray(flat).save(tmp_path / "c.png")
    with pytest.warns(UserWarning, match="2 of .* of a kind that is not read .* b.heic"):
        create_loader(8, 1, tmp_path)


def test_numbers_that_are_none_do_not_leave_a_file(tiny_model, tmp_path):
    """NaN weights are refused at load, of every kind of network and file."""
    net = random_unet(None)
    net.conv_in.weight.data[0, 0] = np.nan
    save_model(net, tmp_path / "model.safetensors", DRAWN)
    refuses(lambda: load_model(tmp_path / "model.safetensors"), "weights that are NaN")
    state = dict(config=net.config, info=DRAWN, step=1, model_state_dict=net.state_dict())
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    refuses(lambda: load_model(tmp_path / "checkpoint.pt"), "weights that are NaN")
    whole = {name: w.round().to(torch.int8) for name, w in net.state_dict().items()}
    save_checkpoint(tmp_path / "checkpoint.pt", state | {"model_state_dict": whole})
    refuses(lambda: load_model(tmp_path / "checkpoint.pt"), "of another architecture")
    reader = FactorNet()
    next(reader.parameters()).data[0] = np.inf
    save_factor_net(reader, tmp_path / "eye.safetensors")
    refuses(lambda: load_factor_net(tmp_path / "eye.safetensors"), "weights that are NaN")
    latent = load_latent(tiny_model.with_name("latent.safetensors"))
    latent.features.mean[3] = np.nan
    (tmp_path / "latent.safetensors").write_bytes(packed(latent))
    refuses(lambda: load_latent(tmp_path / "latent.safetensors"), "numbers that are NaN")


@pytest.mark.parametrize("spoil", [lambda x: x * np.nan, lambda x: (x * 0).sqrt(),
                                   lambda x: (x * 0).log()])
@pytest.mark.parametrize("sampling", [dict(strength=1.0), dict(candidates=2)])
def test_a_likelihood_that_is_nan_leads_nowhere(spoil, sampling):
    guidance = Guidance(log_likelihood=lambda vectors: lambda x: spoil(x).sum((1, 2, 3)))
    if "candidates" in sampling and not np.isnan(float(spoil(torch.zeros(1)))):
        return  # all are as likely, or as impossible: the first is taken
    refuses(lambda: sample_pictures(random_unet(3), DRAWN, np.zeros((2, 3)), 0,
                                    replace(PLAIN, steps=2, **sampling), guidance),
            "log-likelihood")


@pytest.mark.slow
def test_a_fold_that_was_stopped_goes_on(tmp_path, monkeypatch):
    own = load_trials(PICTURES, RNG.standard_normal((12, 5)), size=16)
    options = crossval.CrossValidation(2, None, 4, 30, replace(PLAIN, steps=1), out_dir=tmp_path,
                                       encoder="category-network")
    usual, taken = loop.gradient_step, []

    def step(*args, last=6):
        taken.append(1)
        if len(taken) == last:
            signal.raise_signal(signal.SIGINT)
        return usual(*args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as told:
        patch.setattr(loop, "gradient_step", step)
        crossval.cross_validate(own, options, say=lambda _: None)
    assert "fold_2 was stopped" in str(told.value) and "same reconstruct-arrays" in str(told.value)
    assert told.value.status == 130 and len(taken) == 6
    monkeypatch.setattr(loop, "gradient_step", step)
    again = crossval.cross_validate(own, options, say=lambda _: None)
    assert len(taken) == 8  # four in each fold, none twice
    whole = crossval.cross_validate(own, replace(options, out_dir=tmp_path / "whole"),
                                    say=lambda _: None)
    assert all(np.array_equal(again[name], whole[name]) for name in whole)
    crossval.cross_validate(own, replace(options, train_steps=3), say=lambda _: None)
    assert len(taken) == 8 + 8 + 6  # another training begins anew


def test_nothing_depends_on_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.FOLDER, str(tmp_path / "data"))
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        assert crossval.CrossValidation().out_dir == tmp_path / "data" / "results" / "own"


@pytest.mark.slow
def test_notes_are_plain_lines(tmp_path):
    """No path of a source file, no line of code."""
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    done = program("simulate", "--images", tmp_path, "--out", tmp_path / "out")
    note, last = done.stderr.splitlines()
    assert note == "note: 1 of 2 pictures skipped, not readable: b.png"
    assert done.returncode == 2 and last.startswith("recon_lib: ")


# What a fresh attack found ---------------------------------------------------------------


def test_odd_tables_of_a_fresh_attack(tmp_path):
    def table(text):
        (tmp_path / "a.csv").write_text(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_betas(tmp_path / "a.csv").tolist()

    refuses(lambda: table("v1,v2,v3\n"), "a heading and no rows")
    assert table("True,False\nFalse,True\n") == [[1, 0], [0, 1]]
    assert table(",a,b\n0.0,1,2\n1.0,3,4\n2.0,5,6\n") == [[1, 2], [3, 4], [5, 6]]
    for size in (1e-300, 1e300):
        refuses(lambda size=size: load_betas(size * BETAS), "bring them to another unit")
    assert load_labels(np.array(["ü.png".encode(), b"b.png"]), "groups").tolist() == [
        "ü.png", "b.png"]
    refuses(lambda: load_labels(1j * np.arange(3), "trial_image"), "type complex128")
    refuses(lambda: square_arrays(PICTURES[0], 8), "one in colour, or 3 in grey")


def test_volumes_of_no_real_numbers_or_no_place(raw):
    path = raw / f"{STEM}_bold.nii.gz"
    image = nibabel.load(path)
    values = image.get_fdata()
    nibabel.Nifti1Image(values.astype(np.complex64), image.affine).to_filename(path)
    refuses(lambda: read(raw), "holds values of type complex64")
    for hole in (0.0, np.nan):
        nibabel.Nifti1Image(values.astype(np.float32), image.affine).to_filename(path)
        broken = bytearray(gzip.decompress(path.read_bytes()))
        broken[296:312] = np.full(4, hole, "<f4").tobytes()  # srow_y
        path.write_bytes(gzip.compress(broken))
        refuses(lambda: read(raw), "_bold.nii.gz")


@pytest.mark.parametrize("info", [
    "[" * 100_000, "[]", "3", '{"image_size": "a", "prediction": 3, "schedule": []}',
    '{"image_size": 16, "prediction": "x0", "schedule": "nope"}',
    '{"image_size": -16, "prediction": "x0", "schedule": "cosine"}',
    '{"image_size": 1e9, "prediction": "x0", "schedule": "cosine"}',
    '{"image_size": 16, "prediction": "y", "schedule": "cosine"}'])
def test_models_whose_information_is_none(tmp_path, info):
    net = random_unet(None)
    for config in (json.dumps(net.config), info):
        save_file(net.state_dict(), tmp_path / "m.safetensors", {"config": config, "info": info})
        refuses(lambda: load_drawing(tmp_path / "m.safetensors"), "m.safetensors")
    state = dict(model_state_dict=net.state_dict(), config=net.config)
    for odd in (dict(info={"steps_before": "x"}), dict(info=[]), dict(beside=3), dict(step="x"),
                dict(beside={"latent.safetensors": torch.zeros(3)})):
        save_checkpoint(tmp_path / "c.pt", state | odd)
        refuses(lambda: load_model(tmp_path / "c.pt"), "use a checkpoint that training wrote")
    packed = dict(beside={"latent.safetensors": torch.zeros(3, dtype=torch.uint8)})
    save_checkpoint(tmp_path / "c.pt", state | packed)
    refuses(lambda: load_latent_of(tmp_path / "c.pt"), "does not hold a latent")


def test_a_trial_column_is_no_voxel_and_a_name_of_two_columns_no_label(tmp_path):
    betas = np.random.default_rng(0).standard_normal((6, 4))
    table = pd.DataFrame(betas)
    table.index.name = "trial"
    table.to_csv(tmp_path / "b.csv")
    with pytest.warns(match="left out as an index"), pytest.warns(match="taken for a heading"):
        assert np.allclose(load_betas(tmp_path / "b.csv"), betas)
    (tmp_path / "l.csv").write_text("stim_file,stim_file\na.png,b.png\nc.png,d.png\n")
    refuses(lambda: load_labels(tmp_path / "l.csv", "trial_image"), "2 columns are called")


@pytest.mark.parametrize("bad", [dict(seed=-1), dict(seed=1.5), dict(batch_size=2.5),
                                 dict(batch_size=None), dict(image_size="16"),
                                 dict(image_size=16.5), dict(channels=2)], ids=str)
def test_loaders_take_whole_numbers(bad):
    refuses(lambda: create_loader(**{"image_size": 8, "batch_size": 2, "images": PICTURES} | bad),
            f"{next(iter(bad))} is")


@pytest.mark.parametrize("said, told", [
    ("cannot read /home/me/data/b.npy", "cannot read b.npy"),
    ("cannot read C:\\Users\\me\\b.npy", "cannot read b.npy"),
    ("401 for https://huggingface.co/a/b/c", "401 for https://huggingface.co/a/b/c"),
    ("found 3/4/5", "found 3/4/5"), ("", "OSError")])
def test_a_reason_names_files_without_folders(said, told):
    assert reason(OSError(said)) == told


# What a third attack found ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["table", "string", "categorical", "datetime", "empty"])
def test_what_matlab_keeps_of_objects_is_no_numbers(tmp_path, kind):
    """An .mat of version 7.3 holds six numbers that point to it, or the shape of nothing."""
    with h5py.File(tmp_path / "a.mat", "w") as file:
        for name in ("betas", "trial_image"):
            file[name] = np.array([[3707764736, 2, 1, 1, 1, 1]], np.uint32)
            file[name].attrs["MATLAB_class"] = np.bytes_("double" if kind == "empty" else kind)
            if kind == "empty":
                file[name].attrs["MATLAB_empty"] = np.uint8(1)
    refuses(lambda: load_betas(tmp_path / "a.mat"), f"betas is a {kind} of shape")
    refuses(lambda: load_labels(tmp_path / "a.mat", "trial_image"), f"trial_image is a {kind} of")


def test_labels_of_other_makes(tmp_path):
    folder = folder_of(tmp_path / "p", "a.png", "b.png")
    with pytest.warns(UserWarning, match="names matched without the folders before them"):
        own = shown(folder, [folder / "b.png", folder / "a.png"] * 3)
    assert own.trial_image.tolist() == [1, 0] * 3
    structured = np.zeros(6, [("image", "U5"), ("run", int)])
    refuses(lambda: shown(folder, structured), "type .*; expected one entry for each trial")
    refuses(lambda: shown(folder, [["a.png", "b.png"], ["a.png"]]), "cannot be made an array")
    cell = np.array(["a.png", np.zeros((0, 0)), "b.png"], object)  # MATLAB's '' among texts
    scipy.io.savemat(tmp_path / "a.mat", {"trial_image": cell})
    refuses(lambda: load_labels(tmp_path / "a.mat", "trial_image"), "1 of 3 entries are missing")


def test_betas_that_cannot_be_meant(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("a;b\n1,5;2.5\n3,5;4\n")
    refuses(lambda: load_betas(tmp_path / "a.csv"), "column b holds '2.5'; expected numbers")
    empty = BETAS.copy()
    empty[2], empty[4] = 0, [0, np.nan, 0, 0]
    with pytest.warns(UserWarning, match="2 of 6 trials dropped: 0 or no number in all voxels"):
        own = load_trials(PICTURES[:6], empty, size=8)
    assert own.trial_image.tolist() == [0, 1, 3, 5]
    monkeypatch.setattr(files, "_load", None)  # from here on nothing may be read
    with h5py.File(tmp_path / "nsd.hdf5", "w") as file:
        file.create_dataset("betas", (750, 83, 104, 81), np.int16, chunks=(1, 83, 104, 81))
    refuses(lambda: load_betas(tmp_path / "nsd.hdf5"), r"\(750, 83, 104, 81\); expected .trials, v")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ses-01/betas"], file["ses-02/betas"] = BETAS, BETAS
    refuses(lambda: load_betas(tmp_path / "a.h5"), r"ses-02/betas \(6, 4\); name the one you mean")
    np.savez(tmp_path / "many.npz", **{f"p{i}.png": BETAS[0] for i in range(30)})
    refuses(lambda: load_betas(tmp_path / "many.npz"), r"p7.png \(4,\) and 22 more; name the one")
    np.save(tmp_path / "one.npy", BETAS[0])
    refuses(lambda: load_betas(tmp_path / "one.npy"), r"shape \(4,\); expected numbers of 2 or 4")


def test_pictures_that_were_not_fetched_or_are_scaled_one_by_one(tmp_path):
    folder, away = folder_of(tmp_path / "p", "a.png", "c.png"), folder_of(tmp_path / "q", "d.png")
    (folder / "b.png").symlink_to("../.git/annex/objects/b.png")
    (folder / "more").symlink_to(away)
    with pytest.warns(UserWarning, match="p: more: links to folders, not looked into"), \
            pytest.warns(UserWarning, match="1 of 3 pictures skipped, not readable: b.png"):
        own = shown(folder, [0, 2] * 3)
    assert np.array_equal(own.images[own.trial_image][:2], PICTURES[:2])
    for i, size in enumerate((500, 5000)):
        Image.fromarray(np.float32(PICTURES[0, ..., 0]) * size).save(away / f"{i}.tif")
    with pytest.warns(UserWarning, match="2 of 3 pictures of 32 bits a value, each scaled by what"):
        create_loader(8, 1, away)


def test_a_surface_is_no_volume(tmp_path):
    nibabel.GiftiImage(darrays=[nibabel.gifti.GiftiDataArray(np.zeros(9, "f4"))]).to_filename(
        tmp_path / "V1.func.gii")
    refuses(lambda: volumes.load_volume(tmp_path / "V1.func.gii"), "a GiftiImage; expected a vol")


def test_runs_of_two_trs_and_a_sidecar_that_was_not_fetched(raw):
    run = bids.Run(BOLD, ROI, IJK, ONSETS, np.ones(3), NAMES, 1.5, 1, 2)
    bids.write_run(raw, "CSI1", run, (4, 5, 6))
    refuses(lambda: raw_betas.estimate_betas(raw, "CSI1"), "run-02.*every 1.5 s, but every 2 s in")
    (raw / f"{STEM}_bold.json").symlink_to("../.git/annex/objects/x.json")
    refuses(lambda: read(raw), "run-01_bold.json: no such file")


def test_blanks_around_cells_mean_nothing(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_text("onset\tduration\ttrial_type\tstim_file\n1 \t1\timage \ta.png \n3\t 1\tscene\t"
                    " b.png\n5\t1\timage\tn/a \n6\t1\timage\tNone\n7\tn/a \tfix\tc.png\n"
                    "8\t1\timage\tnone\n")
    with pytest.warns(UserWarning, match="4 events without a picture"):
        found = bids.events_in(path, where="trial_type = image, scene")
    assert found.names == ["a.png", "b.png"] and found.onsets.tolist() == [1, 3]
    assert found.others.trial_type.tolist() == ["image", "image", "fix", "image"]
