"""Files made to do harm: bombs are refused before memory is taken, tricks before they work."""

import gzip
import io
import os
import pickle
import resource
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from conftest import random_unet
from PIL import Image
from safetensors.torch import save_file

from recon_lib import results
from recon_lib.bold import whole_brain
from recon_lib.common import files, folders
from recon_lib.common.errors import DataError
from recon_lib.data import bold5000, haxby, pictures, release, stimuli, volumes
from recon_lib.data.arrays import load_trials
from recon_lib.decoding import baselines
from recon_lib.training.checkpoints import load_checkpoint, load_model, save_model


@pytest.fixture
def no_growth():
    """Within, this process may not take more than 200 MB on top of what it has."""
    if sys.platform != "linux":
        pytest.skip("limits as Linux has them")
    usual = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 200 * 2**20, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, usual)


def refused(read, *args, match):
    with pytest.raises(DataError, match=match) as error:
        read(*args)
    assert "\n" not in str(error.value)


def png(width, height):
    """A PNG that claims a size and holds zeros, a thousand times smaller."""
    def chunk(name, data):
        body = name + data
        return len(data).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bombs_of_arrays(tmp_path, no_growth):
    with h5py.File(tmp_path / "chunked.h5", "w") as file:  # a few bytes that claim a terabyte
        file.create_dataset("betas", (10**6, 10**6), np.float32, chunks=(1000, 1000),
                            compression="gzip")
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        file.create_dataset("a/b/c", (2**40, 2), np.int8, chunks=(2**20, 2))
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (1, 1)).flush()
    whole = (tmp_path / "a.npy").read_bytes()
    for shape in (b"(9999999, 99999)", b"(-1, 4)", b"(2**70, 1)"):
        (tmp_path / "a.npy").write_bytes(whole.replace(b"(1, 1)", shape))
        refused(files.read_array, tmp_path / "a.npy", match="a.npy")
    refused(files.read_array, tmp_path / "chunked.h5", match="GiB")
    refused(files.read_array, f"{tmp_path / 'deep.h5'}:a/b/c", match="GiB")


H5_READERS = {  # the data sets that it reads -> the reader
    ("betas", "hrf", "ratio", "prior", "r2"): whole_brain.read_estimate,
    ("onsets", "bold"): lambda path: whole_brain.spool([None], path.parent),
    ("names", "factors"): lambda path: release.read_truth(path, "factors", []),
    ("subject/roi",): lambda path: baselines.ideal_observer(SimpleNamespace(truth=path)),
}
H5_CASES = [(read, names, name) for names, read in H5_READERS.items() for name in names]


@pytest.mark.parametrize("read, names, bad", [c for c in H5_CASES if c[2] != "bold"])
def test_bombs_of_data_sets(tmp_path, no_growth, read, names, bad):
    """Every data set that is read whole; the BOLD of a spooled run is read in blocks."""
    with h5py.File(tmp_path / "run-000.h5", "w") as file:
        for name in names:
            shape = (10**6, 10**6) if name == bad else (0, 0)
            file.create_dataset(name, shape, np.float32, chunks=(1000, 1000), maxshape=(None,) * 2)
    refused(read, tmp_path / "run-000.h5", match="GiB")


@pytest.mark.parametrize("read, file, names", [
    (haxby.haxby_blocks, "a.npz", ("bold", "label", "run")),
    (results.load_arrays, results.OWN, ("truth", "trial_image", "fold")),
    (results.load_arrays, results.RELEASE, ("settings", "averaged/target")),
])
def test_bombs_of_archives(tmp_path, no_growth, monkeypatch, read, file, names):
    """An array that claims a terabyte, and arrays of zeros that are too large together."""
    for bad in names:
        with zipfile.ZipFile(tmp_path / file, "w") as archive:
            for name in names:
                header = io.BytesIO()
                shape = (10**6, 10**6) if name == bad else (0, 0)
                np.lib.format.write_array_header_1_0(
                    header, {"shape": shape, "fortran_order": False, "descr": "<f4"})
                archive.writestr(f"{name}.npy", header.getvalue())
        refused(read, tmp_path / file, match="GiB")
    np.savez_compressed(tmp_path / file, **{name: np.zeros(50_000) for name in names})
    assert (tmp_path / file).stat().st_size < 5000
    monkeypatch.setattr(files, "available_memory", lambda: 1_500_000)  # half: one, but not two
    refused(read, tmp_path / file, match="its arrays need")


def test_bombs_of_volumes(tmp_path, no_growth):
    path = tmp_path / "bomb.nii.gz"
    volumes.save_volume(path, np.zeros((4, 4, 4, 5), np.int16))
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[42:50] = np.array([32767] * 4, "<i2").tobytes()  # claims 2 exabytes
    path.write_bytes(gzip.compress(bytes(header)))
    refused(volumes.load_volume, path, match="GiB")
    volumes.save_volume(path, np.zeros((4, 4, 4, 5), np.int16))
    path.write_bytes(path.read_bytes() + 10 * gzip.compress(bytes(50_000_000), 1))
    assert volumes.load_volume(path).shape == (4, 4, 4, 5)  # what follows is not kept


def test_bombs_of_networks(tmp_path, no_growth):
    """A small file whose config asks for a network of a terabyte, or of a billion blocks."""
    net = random_unet(None)
    path = tmp_path / "net.safetensors"
    for change in (dict(channels=[2**18, 2**18]), dict(width=2**28), dict(blocks=10**9),
                   dict(blocks=-1), dict(patch=0), dict(channels=[]), dict(width="wide")):
        net.config, usual = net.config | change, net.config
        save_model(net, path)
        net.config = usual
        refused(load_model, path, match="another architecture")
    save_file({"x": torch.zeros(3)}, path, {"config": "[1, 2]", "info": "{}"})
    refused(load_model, path, match="net.safetensors")


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1), (0, 5)])
def test_bombs_of_pictures(tmp_path, no_growth, size):
    (tmp_path / "bomb.png").write_bytes(png(*size))
    refused(pictures.read_picture, tmp_path / "bomb.png", 8, match="bomb.png")


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def test_files_that_would_run_code(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    array = np.array([Bomb()], object)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", betas=array)
    for name in ("a.npy", "a.npz"):
        refused(files.read_array, tmp_path / name, match=name)
    for name in ("a.pt", "b.pth", "c.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        refused(load_checkpoint, tmp_path / name, match="not a readable checkpoint")
        refused(load_model, tmp_path / name, match="not a readable checkpoint")
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
                                    "(%pipe%mkdir exploded) (w) file\n%%EOF\n")
    refused(pictures.read_picture, tmp_path / "a.png", 8, match="not a readable picture")
    assert not (tmp_path / "exploded").exists()


def test_h5_files_that_lead_elsewhere(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(range(64)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.ones((4, 4))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", (4, 4), np.int32, external=[(str(secret), 0, 64)])
        file["link"] = h5py.ExternalLink(tmp_path / "other.h5", "x")
        layout = h5py.VirtualLayout((4, 4), float)
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (4, 4))
        file.create_virtual_dataset("virtual", layout)
    for name in ("raw", "link", "virtual"):
        refused(files.read_array, f"{tmp_path / 'a.h5'}:{name}", match="no array called")


@pytest.mark.parametrize("kind", ["external", "link", "soft link", "virtual"])
@pytest.mark.parametrize("read, names, bad", H5_CASES)
def test_data_sets_that_lie_elsewhere(tmp_path, read, names, bad, kind):
    secret, other = tmp_path / "secret.bin", tmp_path / "other.h5"
    secret.write_bytes(bytes(range(64)))
    with h5py.File(other, "w") as file:
        file["x"] = np.ones((4, 4))
    with h5py.File(tmp_path / "run-000.h5", "w") as file:
        for name in names:
            if name != bad:
                file[name] = [b"a"] if name == "names" else np.ones((4, 4))
            elif kind == "external":
                file.create_dataset(name, (4, 4), np.float32, external=[(str(secret), 0, 64)])
            elif kind == "link":
                file[name] = h5py.ExternalLink(other, "x")
            elif kind == "soft link":
                file["first"], file[name] = h5py.ExternalLink(other, "/"), h5py.SoftLink("/first/x")
            else:
                layout = h5py.VirtualLayout((4, 4), float)
                layout[:] = h5py.VirtualSource(other, "x", (4, 4))
                file.create_virtual_dataset(name, layout)
    refused(read, tmp_path / "run-000.h5", match=f"holds no data set {bad} of its own")


def test_a_folder_of_odd_pictures(tmp_path):
    """What can be read is, and what cannot is counted and named; trials stay in step."""
    folder, secret = tmp_path / "pictures", tmp_path / "secret.txt"
    folder.mkdir()
    secret.write_text("not for you")
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8))
    colour.save(folder / "00.png")
    colour.convert("CMYK").save(folder / "01.jpg")
    deep = (np.asarray(colour)[..., 0].astype(np.uint16) * 257)
    Image.fromarray(deep).save(folder / "02.png")
    Image.fromarray(deep).save(folder / "03.tif")
    colour.save(folder / "04.gif", save_all=True, append_images=[colour.rotate(90)])
    (folder / "05.png").write_bytes(b"")
    (folder / "06.jpg").write_bytes((folder / "01.jpg").read_bytes()[:300])
    (folder / "07.png").write_bytes(png(50_000, 50_000))
    (folder / "08.png").symlink_to(secret)
    (folder / "09.png").symlink_to("/dev/zero")  # endless, were it opened
    (folder / "10.png").symlink_to(folder / "10.png")  # leads to itself
    (folder / "11.png").mkdir()
    os.mkfifo(folder / "12.png")  # waits for ever, were it opened
    (folder / "loop").symlink_to(folder)
    colour.save(folder / "13 ünï;$(x) 'y'.png")
    (folder / "14.png").write_bytes((folder / "03.tif").read_bytes())  # another format's ending
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = pictures.picture_files(folder)
        inside = [path for path in found if "loop" not in path.parts]
        images, kept = pictures.read_pictures(inside, 16, 3)
    assert [p.name[:2] for p in inside] == [f"{i:02d}" for i in (*range(9), 10, 13, 14)]
    assert np.flatnonzero(~kept).tolist() == [5, 6, 7, 8, 9] and len(images) == 7
    text = " ".join(str(w.message) for w in said)
    assert "5 of 12 pictures skipped, not readable: 05.png, 06.jpg, 07.png, 08.png, 10" in text
    assert "1 of 12 pictures animated" in text and "loop: links to folders, not looked" in text
    np.testing.assert_array_equal(images[2], images[3])  # 16 bits as PNG, as TIFF
    assert np.abs(images[0].astype(int) - images[5]).max() == 0  # whatever its name


def test_names_that_lead_out_of_the_folder(tmp_path):
    root = tmp_path / "release"
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    stimuli.write_images(root, ["a.png"], picture)
    Image.fromarray(picture[0]).save(tmp_path / "secret.png")
    for name in ("../../../../secret.png", str(tmp_path / "secret.png"), "..", "x\\..\\s.png"):
        refused(stimuli.read_images, root, [name], 8, match="leads out of")
        with pytest.raises(DataError, match="without a picture"):
            folder = root / stimuli.PRESENTED
            load_trials(folder, np.random.default_rng(0).normal(size=(2, 3)), [name, name], size=8)
    assert len(stimuli.read_images(root, ["rep_a.png"], 8)) == 1
    assert bold5000.roi_keys(["PPA"]) == ["LHPPA", "RHPPA"]
    refused(bold5000.roi_keys, ["../PPA"], match="unknown region")


ENDLESS = {  # reader -> name of its file
    "lines": (files.read_lines, "a.txt"),
    "table": (files.read_array, "a.csv"),
    "npy": (files.read_array, "a.npy"),
    "npz": (files.read_array, "a.npz"),
    "h5": (files.read_array, "a.h5"),
    "mat": (files.read_array, "a.mat"),
    "mark": (lambda path: folders.completed(path.parent), folders.MARK),
    "volume": (volumes.load_volume, "a.nii.gz"),
}


@pytest.mark.parametrize("read, name", ENDLESS.values(), ids=ENDLESS)
def test_pipes_and_devices_are_no_files(tmp_path, read, name):
    """A pipe would wait for ever, and /dev/zero has no end."""
    path = tmp_path / name
    os.mkfifo(path)
    refused(read, path, match="not a file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(read, path, match="not a file")


def test_text_that_is_larger_than_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    with open(path, "wb") as file:
        file.truncate(2**40)  # takes no disk
    refused(files.read_lines, path, match="its text needs")


def test_a_data_set_without_a_dataspace(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["null"] = h5py.Empty("f4")
    refused(files.read_array, tmp_path / "a.h5", match="holds no arrays")
    with h5py.File(tmp_path / "a.h5") as file:
        refused(files.read_dataset, file, "null", match="no data set null")
        file_names = files.arrays_in(tmp_path / "a.h5")
    assert file_names == {}
