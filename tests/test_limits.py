"""Too little disk, a folder read-only, too little memory: one line says so, and nothing is half."""

import multiprocessing
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from recon_lib.bold import whole_brain
from recon_lib.common.errors import DataError, atomic_write, enough_memory
from recon_lib.data.bold5000 import KEYS
from recon_lib.data.loader import create_loader
from recon_lib.data.volumes import save_volume
from recon_lib.decoding import sampling
from recon_lib.training import loop
from recon_lib.training.checkpoints import load_checkpoint, save_checkpoint, save_model
from recon_lib.training.run import log_row
from recon_lib.unet import UNet
from recon_lib.world import experiment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them"),
]

ROOT = Path(__file__).resolve().parent.parent
NOISE = np.random.default_rng(0).integers(0, 30_000, (40, 40, 40, 4), dtype=np.int16)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["recon_lib.world.experiment", "recon_lib.training.loop"])


def limited(limit, size, work, *args):
    """Run `work` in a process of its own with less of something; return what it had to say."""
    receive, send = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=within, args=(send, limit, size, work, *args))
    process.start()
    send.close()
    said = receive.recv()
    process.join()
    return said


def within(send, limit, size, work, *args):
    torch.set_num_threads(1)
    if limit == resource.RLIMIT_AS:
        size += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(limit, (size, resource.RLIM_INFINITY))
    try:
        work(*args)
        send.send("done")
    except Exception as error:
        send.send(f"{type(error).__name__}: {error}")


def write(kind, path):
    if kind == ".pt":
        save_checkpoint(path, {"model_state_dict": {"w": torch.zeros(100_000)}, "config": {}})
    elif kind == ".safetensors":
        save_model(UNet(channels=[32, 64], patch=4, attention=[], width=64), path)
    elif kind == ".nii.gz":
        save_volume(path, NOISE)
    elif kind == ".csv":
        log_row(path, ["x" * 200_000])
    elif kind == ".h5":
        with atomic_write(path) as partial, h5py.File(partial, "w") as file:
            file["x"] = NOISE
    else:
        with atomic_write(path) as partial:
            np.save(partial, NOISE)


def files_in(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock"))


@pytest.mark.parametrize("kind", [".pt", ".safetensors", ".nii.gz", ".csv", ".h5", ".npy"])
def test_a_file_that_does_not_fit(tmp_path, kind):
    """The system refuses to let files grow; whatever was there before stays whole."""
    path = tmp_path / f"file{kind}"
    said = limited(resource.RLIMIT_FSIZE, 50_000, write, kind, path)
    assert said.startswith(f"DataError: cannot write {path}: ") and "free some space" in said
    assert "\n" not in said
    if kind != ".csv":  # a log grows in place; half a row is left out when training goes on
        assert files_in(tmp_path) == []


def test_a_checkpoint_survives_a_full_disk(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"model_state_dict": {"w": torch.ones(3)}, "config": {}})
    said = limited(resource.RLIMIT_FSIZE, 50_000, write, ".pt", path)
    assert said.startswith("DataError")
    assert load_checkpoint(path)["model_state_dict"]["w"].tolist() == [1, 1, 1]


def build(root):
    experiment.build(root, voxels=dict.fromkeys(KEYS, 2), runs_per_session=(1,), repeated=3,
                     test_trials=6)


def test_an_experiment_that_does_not_fit_is_not_there(tmp_path):
    said = limited(resource.RLIMIT_FSIZE, 2000, build, tmp_path / "small")
    assert said.startswith("DataError: cannot write")
    assert files_in(tmp_path) == []
    build(tmp_path / "small")  # with room enough it goes well


@pytest.fixture(scope="module")
def mounts():
    """A command that may mount file systems of its own, where the machine allows it."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    probe = "mkdir -p $0/p && mount -t tmpfs -o size=1m tmpfs $0/p"
    if subprocess.run([*command, probe, "/dev/shm"], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    return command


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_on_a_real_file_system(tmp_path, mounts, state):
    """A disk of 300 kB, and one that may only be read: exit status 2 and one line."""
    options = "size=300k" if state == "full" else "ro,size=9m"
    script = f"""mount -t tmpfs -o {options} tmpfs "$0" &&
    exec "$1" -m recon_lib simulate --images "$2" --out "$0/e" """
    pictures, disk = tmp_path / "pictures.npy", tmp_path / "disk"
    np.save(pictures, np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    disk.mkdir()
    done = subprocess.run([*mounts, script, disk, sys.executable, pictures], cwd=ROOT, text=True,
                          capture_output=True, timeout=120)
    begin, reason = {  # the second is found before anything is made
        "full": ("recon_lib: cannot write", "No space left on device"),
        "read-only": ("recon_lib: Invalid value for '--out'", "not a folder that you may write to"),
    }[state]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(begin) and reason in last


def train(out, batch=1500):
    images = np.zeros((batch, 64, 64, 3), np.uint8)
    loop.train_unconditional_diffusion(
        create_loader(64, batch, images=images), device="cpu", quiet=True, grids=0, max_steps=1,
        model=UNet(channels=[64, 64], patch=2, attention=[], width=64), out_dir=out,
    )


def sample(_, batch=1500):
    model = UNet(channels=[64, 64], patch=2, attention=[], width=64).eval().requires_grad_(False)
    info = {"prediction": "x0", "schedule": "cosine", "image_size": 64}
    sampling.sample_pictures(
        model, info, batch, sampling=replace(sampling.PLAIN, steps=1, batch_size=batch))


class Wide:
    """Two runs of far more voxels than there is memory for."""

    shape = (60, 40_000_000)

    def __getitem__(self, key):
        columns = range(self.shape[1])[key[1]]
        return np.full((60, len(columns)), 7, np.float32)


def stream(out):
    runs = [(Wide(), [4.0, 14.0])] * 2
    whole_brain.estimate_to_file(runs, out / "betas.h5", 2.0, block=20_000_000)


@pytest.mark.parametrize("work, lower", [(train, "the batch size"), (sample, "`batch_size`"),
                                         (stream, "`block`")])
def test_too_little_memory_says_what_to_lower(tmp_path, work, lower):
    said = limited(resource.RLIMIT_AS, 700 * 2**20, work, tmp_path / "out")
    assert said.startswith("DataError: out of memory") and f"lower {lower}" in said, said
    assert set(files_in(tmp_path)) <= {"loss.csv", "job.json"}  # begun, and nothing half


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("x"):
        raise RuntimeError("shapes do not agree")
    for text in ("CUDA out of memory. Tried to allocate 2 GiB", "std::bad_alloc"):
        with pytest.raises(DataError, match="lower x"), enough_memory("x"):
            raise RuntimeError(text)
