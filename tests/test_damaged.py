"""Damaged and hostile files: every public reader gives a right answer or one line, nothing else.

Each reader is shown its own file with bytes changed, cut out or put in, at places that hypothesis
chooses.
"""

import json
import warnings

import h5py
import numpy as np
import pytest
import scipy.io
from conftest import random_unet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from recon_lib.bold import whole_brain
from recon_lib.brain.features import FactorNet, load_factor_net, save_factor_net
from recon_lib.brain.latents import arrays_of, fit_latent, load_latent, packed
from recon_lib.common import files
from recon_lib.common.errors import DataError
from recon_lib.data import arrays, bids, bold5000, haxby, pictures, stimuli, volumes
from recon_lib.results import load_arrays
from recon_lib.training.checkpoints import load_checkpoint, load_model, save_checkpoint, save_model

NUMBERS = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
FUZZ = settings(max_examples=50, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture])
HURT = st.tuples(st.sampled_from(["change", "cut", "end", "insert"]), st.floats(0, 1),
                 st.binary(min_size=1, max_size=8))


def hurt(whole, how, where, what):
    """The bytes of a file, damaged."""
    at = int(where * (len(whole) - 1))
    if how == "end":
        return whole[:at]
    if how == "insert":
        return whole[:at] + what + whole[at:]
    return whole[:at] + (what if how == "change" else b"") + whole[at + len(what) :]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A good file for each reader, and what reads it."""
    root = tmp_path_factory.mktemp("shelf")
    np.save(root / "a.npy", NUMBERS)
    np.savez(root / "a.npz", x=NUMBERS)
    np.savez_compressed(root / "b.npz", x=NUMBERS)
    with h5py.File(root / "a.h5", "w") as file:
        file["x"] = NUMBERS
    scipy.io.savemat(root / "a.mat", {"x": NUMBERS})
    np.savetxt(root / "a.csv", NUMBERS, delimiter=",", header="a,b,c,d,e,f,g", comments="")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8))
    for ending in ("png", "jpg", "gif", "tif", "bmp", "webp", "ppm"):
        picture.save(root / f"a.{ending}")
    save_checkpoint(root / "a.pt", {"model_state_dict": random_unet(5).state_dict(),
                                    "config": random_unet(5).config})
    save_model(random_unet(5), root / "a.safetensors", {"prediction": "x0"})
    save_factor_net(FactorNet(), root / "net.safetensors")
    few = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
    (root / "latent.safetensors").write_bytes(packed(fit_latent(few, FactorNet().eval(), 3, 4)))
    (root / "list.txt").write_text("1\n2\n3\n", encoding="utf-8")
    ijk = volumes.compact_box(20)
    roi = np.repeat(bold5000.KEYS, 2)
    volumes.write_masks(root, "CSI1", roi, ijk)
    bold = np.random.default_rng(0).normal(1000, 10, (40, 20)).astype(np.float32)
    run = bids.Run(bold, roi, ijk, np.array([4.0, 20.0]), np.ones(2), ["a.png", "b.png"], 2.0, 1, 1)
    bids.write_run(root, "CSI1", run, confounds=np.zeros((40, 6)))
    stimuli.write_repeated(root, ["a.png"])
    held = np.load(haxby.PATH)
    np.savez(root / "haxby.npz", bold=held["bold"][:120, :9], label=held["label"][:120],
             run=held["run"][:120])
    runs = [lambda: (bold, [4.0, 20.0])] * 2
    whole_brain.estimate_to_file(whole_brain.spool(runs, root / "runs"), root / "betas.h5", 2.0)
    np.savez(root / "own.npz", truth=NUMBERS, trial_image=NUMBERS, fold=NUMBERS)
    return root


STEM = bids.run_stem("CSI1", 1, 1)
READERS = {  # file -> what reads it
    "a.npy": files.read_array,
    "a.npz": files.read_array,
    "b.npz": files.read_array,
    "a.h5": files.read_array,
    "a.mat": files.read_array,
    "a.csv": files.read_array,
    **{f"a.{kind}": lambda path: pictures.read_picture(path, 8)[0]
       for kind in ("png", "jpg", "gif", "tif", "bmp", "webp", "ppm")},
    "a.pt": lambda path: load_checkpoint(path)["model_state_dict"],
    "a.safetensors": lambda path: weights_and_info(*load_model(path)),
    "latent.safetensors": lambda path: arrays_of(load_latent(path)),
    "net.safetensors": load_factor_net,
    "list.txt": lambda path: arrays.load_labels(path, "runs"),
    "own.npz": load_arrays,
    "haxby.npz": lambda path: vars(haxby.haxby_blocks(path)),
    "betas.h5": lambda path: vars(whole_brain.read_estimate(path)),
    "runs/run-000.h5": lambda path: read_spooled(path.parent),
    f"{STEM}_bold.nii.gz": lambda path: read_run(path).bold,
    f"{STEM}_events.tsv": lambda path: read_run(path).onsets,
    f"derivatives/fmriprep/{STEM}_bold_confounds.tsv":
        lambda path: bids.read_confounds(path.parents[5], "CSI1", 1, 1),
    volumes.mask_path("CSI1", "LHPPA"):
        lambda path: volumes.read_masks(path.parents[3], "CSI1").ijk,
    stimuli.REPEATED: lambda path: stimuli.read_repeated(path.parents[1]),
}
SUMS = {"a.npz", "b.npz", "a.png", "own.npz", "haxby.npz", f"{STEM}_bold.nii.gz", "a.pt",
        "a.safetensors", "latent.safetensors", "betas.h5", "runs/run-000.h5"}  # have checksums


def weights_and_info(model, info):
    return model.state_dict() | {"info": json.dumps(info)}


def read_spooled(folder):
    """One run as the GLM reads it: all voxels, and the onsets."""
    [(bold, onsets)] = whole_brain.spool([None], folder)
    with bold.file:
        return {"bold": whole_brain.read_columns(bold, slice(0, bold.shape[1])), "onsets": onsets}


def read_run(path):
    return bids.read_run(path.parents[3], "CSI1", 1, 1)


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return all(map(equal, a, b))
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damaged_files(shelf, name):
    path, read = shelf / name, READERS[name]
    whole = path.read_bytes()
    expected = read(path)

    @FUZZ
    @given(HURT)
    def check(how):
        path.write_bytes(hurt(whole, *how))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read(path)
        except DataError as error:
            assert "\n" not in str(error)
            return
        assert type(found) is type(expected)
        if name in SUMS:
            assert equal(found, expected)

    try:
        check()
    finally:
        path.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SUMS))
def test_a_flipped_bit_is_noticed(shelf, name, flips=100):
    """At places all over the file: one line, or the very same values."""
    path, read = shelf / name, READERS[name]
    whole = path.read_bytes()
    expected = read(path)
    try:
        for i, at in enumerate(np.linspace(0, len(whole) - 1, flips).astype(int)):
            flipped = bytes([whole[at] ^ 1 << i % 8])
            path.write_bytes(whole[:at] + flipped + whole[at + 1 :])
            try:
                found = read(path)
            except DataError as error:
                assert "\n" not in str(error)
            else:
                assert equal(found, expected), f"bit {i % 8} of byte {at}"
    finally:
        path.write_bytes(whole)
