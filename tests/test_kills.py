"""Kill it, anywhere, many times: nothing half written is read as whole, and the rerun ends as if
nothing had happened. Processes are killed for real, by SIGKILL after a random time.

KILL_SEED=… chooses the times (a failing test prints its seed), KILLS=… how many.
"""

import csv
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_lib.bold import whole_brain
from recon_lib.common.errors import DataError
from recon_lib.common.folders import is_complete
from recon_lib.data import bold5000, release
from recon_lib.data.bold5000 import KEYS, read_r2
from recon_lib.data.loader import create_loader
from recon_lib.training import loop
from recon_lib.training.checkpoints import load_checkpoint, load_model, save_checkpoint
from recon_lib.unet import UNet
from recon_lib.world import experiment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs SIGKILL and forkserver"),
]

VOXELS = dict.fromkeys(KEYS, 2)
DESIGN = dict(runs_per_session=(1, 1), repeated=4, test_trials=12)
SEED = int(os.environ.get("KILL_SEED", int.from_bytes(os.urandom(4))))  # another in each session
KILLS = int(os.environ.get("KILLS", 4))
TOLD = f"KILL_SEED={SEED}"


@pytest.fixture
def rng():
    """When to kill; from the same seed whichever tests run before."""
    print(TOLD)  # pytest shows it where the test fails
    return np.random.default_rng(SEED)


@pytest.fixture(scope="module")
def processes():
    """Starts processes quickly: all of them are forked from one that has done its imports."""
    context = multiprocessing.get_context("forkserver")
    preload = ["recon_lib.world.experiment", "recon_lib.training.loop", "test_kills"]
    context.set_forkserver_preload(preload)
    return context


def run(processes, work, *args, kill_after=None):
    """Run `work(*args)` in a process of its own; kill it after so many seconds.

    Returns its exit code, which is -9 when it was killed, and the seconds that it worked.
    """
    ready = processes.Event()
    process = processes.Process(target=begin, args=(ready, work, *args))
    process.start()
    assert ready.wait(60)
    start = time.monotonic()
    process.join(kill_after)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode, time.monotonic() - start


def begin(ready, work, *args):
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    ready.set()
    work(*args)


def kill_until_done(processes, work, folder, seconds, check, rng, left=None):
    """Kill `work` at random moments of the `seconds` it takes, look, start it again; at last let
    it end. Where it came to its end before the kill, it starts anew and is given less time.

    `left(folder)` counts the pieces of work that are not on disk yet, by kind. No run, killed or
    not, does more than these, and the last does just these: work goes on where it stopped.
    """
    killed = 0
    for _ in range(5 * KILLS):
        before = left(folder) if left else {}
        calls_of(folder).unlink(missing_ok=True)
        code, _ = run(processes, work, folder, kill_after=rng.uniform(0, 0.7 * seconds))
        assert code in (0, -signal.SIGKILL), TOLD
        check()
        if left:
            done, after = calls(folder), left(folder)
            assert done <= before, f"{TOLD}: {done} done, though only {before} were left"
            assert after <= before, f"{TOLD}: {after} left, but {before} before the kill"
        killed += code != 0
        if killed == KILLS:
            break
        if code == 0:
            seconds /= 2
            shutil.rmtree(folder)
    assert killed == KILLS, TOLD
    before = left(folder) if left else {}
    calls_of(folder).unlink(missing_ok=True)
    assert run(processes, work, folder)[0] == 0, TOLD
    check()
    if left:
        assert calls(folder) == before, f"{TOLD}: {before} were left"


def calls_of(folder):
    return folder.with_name(f"{folder.name}.calls")


def calls(folder):
    """How often each `noted` function was called."""
    path = calls_of(folder)
    return Counter(path.read_text().split() if path.exists() else [])


def noted(folder, name, function):
    """The same function, each call of which is noted beside `folder`."""
    def call(*args, **kwargs):
        folder.parent.mkdir(exist_ok=True)
        with open(calls_of(folder), "a") as file:
            file.write(f"{name}\n")
        return function(*args, **kwargs)

    return call


def build(root):
    experiment.build(root, 0, voxels=VOXELS, **DESIGN)
    if not is_complete(root / experiment.BETAS):
        experiment.estimate_betas(root)


def contents(folder):
    """Bytes of every file that somebody may read; a .mat file begins with the time of day."""
    return {str(p.relative_to(folder)): p.read_bytes()[128 * (p.suffix == ".mat") :]
            for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith(".")}


def test_building_the_experiment(processes, rng, tmp_path):
    once, root = tmp_path / "once", tmp_path / "killed"
    code, seconds = run(processes, build, once)
    assert code == 0
    expected = contents(once)

    def check():
        if root.exists():  # then it is whole: every picture, run and list
            there = contents(root)
            late = [name for name in expected if name not in there]
            assert all("ROI" in name or "imgnames" in name or "stim_lists" in name
                       or name.startswith((experiment.BETAS, "Stimuli_Pres")) for name in late)
            assert [n for n in there if there[n] != expected[n]] == []  # none is half
        if is_complete(root / experiment.BETAS):
            assert read_r2(root, "CSI1").values.shape == (74, 20)

    kill_until_done(processes, build, root, seconds, check, rng)
    assert contents(root) == expected
    left = [p.name for p in tmp_path.iterdir()]
    assert sorted(left) == [".killed.lock", ".once.lock", "killed", "once"]  # no halves stay


def glm(folder):
    """Six runs, spooled and estimated in blocks."""
    onsets = 4.0 + 10 * np.arange(12)

    def load(i):
        bold = np.random.default_rng(i).normal(1000, 10, (72, 240))
        return bold, onsets

    runs = whole_brain.spool([lambda i=i: load(i) for i in range(6)], folder)
    whole_brain.estimate_to_file(runs, folder / "betas.h5", 2.0, 40, confounds=None)


def glm_noted(folder):
    spool = whole_brain.spool
    whole_brain.spool = lambda runs, to: spool([noted(folder, "load", run) for run in runs], to)
    whole_brain.estimate = noted(folder, "estimate", whole_brain.estimate)
    glm(folder)


def left_of_glm(folder):
    """Runs that are not spooled, blocks that are not estimated; six of each in all."""
    blocks = 6 - len(list(folder.glob("betas.h5.parts/0*.npz")))
    return Counter(load=6 - len(list(folder.glob("run-*.h5"))),
                   estimate=0 if (folder / "betas.h5").exists() else blocks)


def test_streaming_the_glm(processes, rng, tmp_path):
    once, folder = tmp_path / "once", tmp_path / "killed"
    code, seconds = run(processes, glm, once)
    assert code == 0
    expected = whole_brain.read_estimate(once / "betas.h5")

    def check():
        if (folder / "betas.h5").exists():
            found = whole_brain.read_estimate(folder / "betas.h5")
            for name, value in vars(expected).items():
                np.testing.assert_array_equal(getattr(found, name), value)

    kill_until_done(processes, glm_noted, folder, seconds, check, rng, left_of_glm)
    assert sorted(p.name for p in folder.iterdir()) == [
        ".betas.h5.lock", ".lock", "betas.h5", *(f"run-{i:03d}.h5" for i in range(6))
    ]
    start = (folder / "betas.h5").stat().st_mtime_ns
    calls_of(folder).unlink(missing_ok=True)
    assert run(processes, glm_noted, folder)[0] == 0  # a finished job is not done again
    assert not calls(folder)
    assert (folder / "betas.h5").stat().st_mtime_ns == start


def train(out, minutes=0.0):
    images = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), dtype=np.uint8)
    checkpoint = out / "checkpoint.pt"
    torch.manual_seed(0)
    model = UNet(channels=[16, 32], blocks=1, patch=4, attention=[], width=32, dropout=0.1)
    loop.train_unconditional_diffusion(
        create_loader(16, 8, images=images), epochs=8, image_size=16, device="cpu", grids=0,
        quiet=True, model=model, out_dir=out, checkpoint_minutes=minutes,
        model_in=checkpoint if checkpoint.exists() else None, precision="no",
    )


def train_noted(out):
    loop.gradient_step = noted(out, "step", loop.gradient_step)
    train(out)


def left_of_training(out):
    """Steps of the 24 that the checkpoint has not seen."""
    path = out / "checkpoint.pt"
    return Counter(step=24 - (load_checkpoint(path)["step"] if path.exists() else 0))


def log(out):
    """All of the log but the seconds."""
    with open(out / "loss.csv", newline="") as file:
        return [(row["step"], row["epoch"], row["loss"]) for row in csv.DictReader(file)]


def test_training(processes, rng, tmp_path):
    once, out = tmp_path / "once", tmp_path / "killed"
    code, seconds = run(processes, train, once)
    assert code == 0

    def check():
        if (out / "model.safetensors").exists():
            load_model(out / "model.safetensors")

    kill_until_done(processes, train_noted, out, seconds, check, rng, left_of_training)
    assert left_of_training(out)["step"] == 0
    ours, theirs = (load_checkpoint(f / "checkpoint.pt") for f in (out, once))
    for key in ("model_state_dict", "ema_state_dict"):
        assert all(torch.equal(ours[key][k], v) for k, v in theirs[key].items())
    assert (out / "model.safetensors").read_bytes() == (once / "model.safetensors").read_bytes()
    assert log(out) == log(once)
    assert not list(out.glob(".partial*"))  # what the killed ones left is swept away


def write_for_ever(path):
    number = 0
    while True:
        number += 1
        save_checkpoint(path, {"model_state_dict": {"w": torch.full((200_000,), float(number))},
                               "config": {}, "number": number})


def test_writing_a_checkpoint(processes, rng, tmp_path):
    path, seen = tmp_path / "checkpoint.pt", []
    for _ in range(10):
        run(processes, write_for_ever, path, kill_after=rng.uniform(0, 0.2))
        if path.exists():
            state = load_checkpoint(path)
            assert (state["model_state_dict"]["w"] == state["number"]).all()
            seen.append(state["number"])
    assert len(seen) > 1, TOLD


def ready_at_once(root, gate, queue):
    gate.wait()
    build(root)
    queue.put(sorted(contents(root)))


def test_two_builds_at_once(processes, tmp_path):
    """The second waits for the first, and both find the same experiment."""
    once, root = tmp_path / "once", tmp_path / "both"
    assert run(processes, build, once)[0] == 0
    gate, queue = processes.Barrier(2), processes.Queue()
    both = [processes.Process(target=ready_at_once, args=(root, gate, queue)) for _ in range(2)]
    for process in both:
        process.start()
    lists = [queue.get(timeout=120) for _ in both]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert lists[0] == lists[1] == sorted(contents(once))
    assert contents(root) == contents(once)


def test_two_builds_of_like_names_at_once(processes, tmp_path):
    """The second sweeps up after killed builds of its own name, never a running neighbour's."""
    work = tmp_path / "work"
    names = ["exp.v2", "exp", "[ab]", "a", "*"]
    ready = processes.Event()  # kept: what nobody holds is gone before the process looks for it
    slow = processes.Process(target=begin, args=(ready, build_slowly, work / names[0]))
    slow.start()
    while not list(work.glob(".exp.v2.*partial/**/*.png")):
        assert slow.is_alive(), "the slow one ended before it wrote a picture"
        time.sleep(0.01)
    for name in names[1:]:
        assert run(processes, build_only, work / name)[0] == 0
    assert slow.is_alive() and not is_complete(work / names[0])
    (work / "go").touch()
    slow.join()
    assert slow.exitcode == 0 and all(is_complete(work / name) for name in names)
    assert len({tuple(sorted(contents(work / name))) for name in names}) == 1


def build_only(root):
    experiment.build(root, 0, voxels=VOXELS, **DESIGN)


def build_slowly(root):
    usual = experiment.scan

    def slow(*args, **kwargs):
        while not (Path(root).parent / "go").exists():
            time.sleep(0.01)
        return usual(*args, **kwargs)

    experiment.scan = slow
    build_only(root)


def test_betas_by_another_method(processes, rng, tmp_path):
    """Killed while it rewrites: the areas are all of one method, or are refused."""
    root, other = tmp_path / "exp", tmp_path / "other"
    assert run(processes, build, root)[0] == run(processes, build, other)[0] == 0
    code, seconds = run(processes, estimate_anew, other)
    assert code == 0
    whole = [read_r2(folder, "CSI1").values for folder in (root, other)]
    assert not np.allclose(*whole)
    for _ in range(2 * KILLS):
        run(processes, estimate_anew, root, kill_after=rng.uniform(0.3, 1) * seconds)
        if is_complete(root / experiment.BETAS):
            found = read_r2(root, "CSI1").values
            assert any(np.array_equal(found, values) for values in whole), TOLD
        else:
            with pytest.raises(DataError, match="not whole"):
                release.load_experiment(root)
    assert run(processes, estimate_anew, root)[0] == 0
    assert np.array_equal(read_r2(root, "CSI1").values, whole[1])


def estimate_anew(root):
    usual = bold5000.atomic_write

    def slow(path):
        time.sleep(0.05)
        return usual(path)

    bold5000.atomic_write = slow
    experiment.estimate_betas(root, method="lss")


def glm_at_once(folder, gate):
    gate.wait()
    glm(folder)


def test_two_jobs_on_one_file_at_once(processes, tmp_path):
    once, folder = tmp_path / "once", tmp_path / "both"
    assert run(processes, glm, once)[0] == 0
    gate = processes.Barrier(2)
    both = [processes.Process(target=glm_at_once, args=(folder, gate)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    ours, theirs = (whole_brain.read_estimate(f / "betas.h5") for f in (folder, once))
    np.testing.assert_array_equal(ours.betas, theirs.betas)


def train_slowly(out, started):
    usual = loop.gradient_step

    def slow(*args, **kwargs):
        started.set()
        time.sleep(1)
        return usual(*args, **kwargs)

    loop.gradient_step = slow
    train(out)


def test_a_second_training_into_the_same_folder_is_refused(processes, tmp_path):
    started = processes.Event()
    first = processes.Process(target=train_slowly, args=(tmp_path, started))
    first.start()
    assert started.wait(60)
    with pytest.raises(DataError, match="another training is writing into"):
        train(tmp_path)
    first.kill()
    first.join()
    train(tmp_path)  # a dead process holds no lock
    assert len(log(tmp_path)) == 24
