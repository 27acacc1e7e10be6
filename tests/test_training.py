"""The training loop: it learns, resumes exactly, stops in good order and refuses bad files."""

import csv
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_lib.common import paths
from recon_lib.common.errors import DataError, Interrupted
from recon_lib.data.loader import create_loader
from recon_lib.training import device as devices
from recon_lib.training import loop, run, step
from recon_lib.training.checkpoints import (
    load_checkpoint,
    load_model,
    read_info,
    save_model,
    start_from,
)
from recon_lib.training.device import cpu_has_bf16_units  # before a fixture puts another there
from recon_lib.training.loop import train_conditional_diffusion, train_unconditional_diffusion
from recon_lib.training.options import Training
from recon_lib.training.step import learning_rate, update_average
from recon_lib.unet import UNet

SMALL = dict(channels=[16, 32], blocks=1, patch=2, attention=[1], width=32, dropout=0.1)


def loader(n=24, batch_size=8, vectors=False, size=16):
    g = torch.Generator().manual_seed(0)
    colour = torch.randint(256, (n, 1, 1, 3), generator=g, dtype=torch.uint8)
    images = colour.expand(n, size, size, 3).numpy()
    y = colour.view(n, 3).float() / 50 if vectors else None
    return create_loader(size, batch_size, images=images, vectors=y)


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return UNet(**{**SMALL, **changes})


def fit(tmp_path, name="run", conditional=False, **options):
    train = train_conditional_diffusion if conditional else train_unconditional_diffusion
    defaults = dict(epochs=2, image_size=16, device="cpu", grids=0, quiet=True)
    options = {**defaults, "out_dir": tmp_path / name, **options}
    if options.get("model_in") is None and "model" not in options:
        options["model"] = network(condition_size=3 if conditional else None)
    return train(options.pop("loader", loader(vectors=conditional)), **options)


def losses(folder):
    with open(folder / "loss.csv", newline="") as file:
        return [(int(r["step"]), float(r["loss"])) for r in csv.DictReader(file)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


@pytest.mark.slow
def test_the_loss_falls_and_the_files_are_there(tmp_path):
    fit(tmp_path, epochs=20, lr=3e-3, grids=2)
    curve = [loss for _, loss in losses(tmp_path / "run")]
    assert len(curve) == 60 and sum(curve[-20:]) < 0.5 * sum(curve[:20])
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["last_epoch"] == 20 and state["step"] == 60
    assert {"model_state_dict", "optimizer_state_dict", "ema_state_dict", "config"} <= state.keys()
    grids = sorted(p.name for p in (tmp_path / "run" / "training_progression").iterdir())
    assert grids == ["step_0000030.png", "step_0000060.png"]
    model, info = load_model(tmp_path / "run" / "model.safetensors")
    assert info["prediction"] == "x0" and info["image_size"] == 16 and info["steps"] == 60
    assert list((tmp_path / "run").glob(".partial*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("conditional, kind, other", [
    (False, "adamw", "muon"), (True, "muon", "adamw")])
def test_resuming_is_bit_equal_even_from_the_middle_of_an_epoch(tmp_path, conditional, kind, other,
                                                                monkeypatch):
    """It goes on with the optimizer that it began with, whatever the option says."""
    whole = fit(tmp_path, "whole", conditional, epochs=3, optimizer=kind)
    # the same training, interrupted by SIGTERM after step 4 of 9
    real, calls = loop.gradient_step, []

    def step_and_kill(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "gradient_step", step_and_kill)
    checkpoint = tmp_path / "cut" / "checkpoint.pt"
    with pytest.raises(Interrupted, match="SIGTERM after step 4 .*model_in") as stop:
        fit(tmp_path, "cut", conditional, epochs=3, optimizer=kind)
    assert stop.value.status == 143 and str(checkpoint) in str(stop.value)
    assert not (tmp_path / "cut" / "model.safetensors").exists()  # it is not finished
    state = torch.load(checkpoint, weights_only=True)
    assert (state["step"], state["last_epoch"], state["batch"]) == (4, 1, 1)
    torch.manual_seed(99)
    resumed = fit(tmp_path, "cut", conditional, epochs=3, model_in=checkpoint, optimizer=other)
    assert same(resumed.state_dict(), whole.state_dict())
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ends = [
        torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["model_state_dict"]
        for n in ("cut", "whole")
    ]
    assert same(*ends)
    finished = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("cut", "whole")]
    assert finished[0] == finished[1]


@pytest.mark.parametrize("at", [1, 6])  # the first step, the last
def test_ctrl_c_checkpoints_and_says_so_and_handlers_are_put_back(tmp_path, monkeypatch, at):
    before, generator = signal.getsignal(signal.SIGINT), torch.get_rng_state()
    real, calls = loop.gradient_step, []

    def step_and_interrupt(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "gradient_step", step_and_interrupt)
    model = network()
    torch.set_rng_state(generator)
    with pytest.raises(Interrupted, match="SIGINT") as stop:
        fit(tmp_path, model=model)
    assert stop.value.status == 130
    assert len(losses(tmp_path / "run")) == at
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == at
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.equal(torch.get_rng_state(), generator)
    fit(tmp_path, model_in=tmp_path / "run" / "checkpoint.pt")
    assert load_model(tmp_path / "run" / "model.safetensors")[1]["steps"] == 6


def test_a_signal_after_the_last_step_is_not_lost(tmp_path, monkeypatch):
    real = run.save_model

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        real(*args)

    monkeypatch.setattr(run, "save_model", interrupted)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background
    try:  # ignores Ctrl-C
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert load_model(tmp_path / "run" / "model.safetensors")[1]["steps"] == 6  # whole


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_tells_the_shell(tmp_path, number, status):
    """A real signal to a training in a fold: one line, no result of half a training."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "pictures.npy", rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8))
    np.save(tmp_path / "betas.npy", rng.standard_normal((8, 5)))
    command = ["reconstruct-arrays", "--images", "pictures.npy", "--betas", "betas.npy",
               "--size", "16", "--folds", "2", "--train-steps", "100000", "--device", "cpu",
               "--encoder", "category-network", "--out", "out"]
    job = subprocess.Popen([sys.executable, "-m", "recon_lib", *command], cwd=tmp_path, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = tmp_path / "out" / "folds" / "fold_1" / "loss.csv"
    deadline = time.monotonic() + 200
    while not (log.exists() and len(log.read_text().splitlines()) > 2):
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.1)
    job.send_signal(number)
    _, said = job.communicate(timeout=100)
    line = said.strip().splitlines()[-1]
    assert job.returncode == status and "Traceback" not in said
    assert line.startswith("recon_lib: the training of fold_1 was stopped and is not finished")
    assert "the same reconstruct-arrays command goes on" in line
    assert (log.parent / "checkpoint.pt").exists()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["folds"]
    assert [p.name for p in log.parent.parent.iterdir()] == ["fold_1"]
    assert not (log.parent / "model.safetensors").exists()


def test_training_works_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=fit, args=(tmp_path,), kwargs={"max_steps": 2})
    thread.start()
    thread.join()
    assert len(losses(tmp_path / "run")) == 2


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    fit(tmp_path, epochs=1)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    kept = checkpoint.read_bytes()
    real = loop.diffusion_loss
    monkeypatch.setattr(loop, "diffusion_loss", lambda *a, **k: real(*a, **k) * float("nan"))
    with pytest.raises(FloatingPointError, match="nan.*step 3"):
        fit(tmp_path, epochs=2, model_in=checkpoint)
    assert checkpoint.read_bytes() == kept


@pytest.mark.slow
def test_warm_start_is_the_unconditional_network(tmp_path):
    prior = fit(tmp_path, "prior", epochs=3)
    for name in ("checkpoint.pt", "model.safetensors"):
        model = network(seed=5, condition_size=3)
        start_from(model, tmp_path / "prior" / name)
        x, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
        got = model.eval()(x, t, torch.randn(2, 3))
        torch.testing.assert_close(got, prior(x, t), atol=2e-3 if name[0] == "m" else 1e-5, rtol=0)
    warm = fit(tmp_path, "warm", True, model_in=tmp_path / "prior" / "checkpoint.pt",
               optimizer="muon")
    assert read_info(tmp_path / "warm" / "model.safetensors")["optimizer"] == "muon"
    assert warm.config == {**prior.config, "condition_size": 3}
    assert losses(tmp_path / "warm")[0][0] == 1  # a new training, not a resumed one


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint.pt", "model.safetensors"])
def test_a_start_that_has_seen_the_test_is_refused(tmp_path, name):
    told = {kind: {"split": "category", "held": kind.split("+")} for kind in ("cat", "cat+dog")}
    told["repeated"] = {"split": "repeated", "held": []}
    for kind, info in told.items():
        fit(tmp_path, kind, max_steps=1, info=info)
    for first, then in (("repeated", "cat"), ("cat", "cat+dog"), ("cat", "repeated")):
        with pytest.raises(DataError, match=r"split .*has seen what .*held out"):
            fit(tmp_path, "new", True, model_in=tmp_path / first / name, info=told[then])
    for first, then in (("cat", "cat"), ("cat+dog", "cat"), ("repeated", "repeated")):
        start = tmp_path / first / name
        fit(tmp_path, "new", True, model_in=start, info=told[then], max_steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint.pt", "model.safetensors"])
def test_an_unconditional_start_is_the_null_branch_of_the_conditional_network(tmp_path, name):
    told = fit(tmp_path, "told", True, epochs=8, drop=0.5, lr=0.02)
    assert told.null.abs().max() > 1e-3  # the null embedding has been trained
    alone = network(seed=5)
    start_from(alone, tmp_path / "told" / name)
    torch.manual_seed(1)
    x, t = torch.randn(4, 3, 16, 16), torch.tensor([10, 300, 600, 900])
    atol = 2e-3 if name[0] == "m" else 1e-5
    torch.testing.assert_close(alone.eval()(x, t), told(x, t), atol=atol, rtol=0)
    assert (told(x, t) - told(x, t, torch.randn(4, 3))).abs().max() > 10 * atol
    after = fit(tmp_path, "alone", model_in=tmp_path / "told" / name, model=None)
    assert after.config == {**told.config, "condition_size": None}
    assert losses(tmp_path / "alone")[0][0] == 1


@pytest.mark.slow
def test_a_model_counts_the_steps_of_the_models_that_it_began_from(tmp_path):
    def steps(name):
        return load_model(tmp_path / name / "model.safetensors")[1]["steps"]

    fit(tmp_path, "first", max_steps=4)
    fit(tmp_path, "second", model_in=tmp_path / "first" / "model.safetensors", max_steps=2)
    fit(tmp_path, "third", True, model_in=tmp_path / "second" / "checkpoint.pt", max_steps=3)
    assert [steps(name) for name in ("first", "second", "third")] == [4, 6, 9]
    fit(tmp_path, "third", True, model_in=tmp_path / "third" / "checkpoint.pt", max_steps=5)
    assert steps("third") == 11  # resumed: five of its own


def test_pictures_that_do_not_fit_are_refused_before_a_file_is_touched(tmp_path):
    fit(tmp_path, max_steps=2)
    before = losses(tmp_path / "run")
    deep = UNet(channels=[16] * 5, patch=2)
    with pytest.raises(DataError, match="sides"):
        fit(tmp_path, model=deep)
    assert losses(tmp_path / "run") == before


def test_limits_of_steps_and_seconds(tmp_path):
    fit(tmp_path, "steps", max_steps=2, epochs=50)
    assert len(losses(tmp_path / "steps")) == 2
    fit(tmp_path, "seconds", seconds=0.5, epochs=100_000)
    assert 0 < len(losses(tmp_path / "seconds")) < 1000


def test_a_training_without_an_end_or_a_step_is_refused(tmp_path):
    for wrong in ({"max_steps": 0}, {"max_steps": -1}, {"epochs": 0}, {"steps": 0}):
        with pytest.raises(DataError, match="expected 1 or more"):
            fit(tmp_path, **wrong)
    with pytest.raises(DataError, match="without an end"):
        fit(tmp_path, epochs=None)
    assert not (tmp_path / "run").exists()


def test_steps_can_be_asked_for_as_steps(tmp_path):
    """More or fewer than a pass over the data, with the same learning rates as by epochs."""
    fit(tmp_path, "two passes", epochs=2)
    fit(tmp_path, "six steps", epochs=1, steps=6)
    assert losses(tmp_path / "two passes") == losses(tmp_path / "six steps")
    fit(tmp_path, "two steps", epochs=50, steps=2)
    assert len(losses(tmp_path / "two steps")) == 2
    fit(tmp_path, "by the clock", epochs=None, seconds=0.3)
    assert len(losses(tmp_path / "by the clock")) > 0


@pytest.mark.slow
def test_seconds_that_are_over_stay_over(tmp_path):
    fit(tmp_path, seconds=0.5, epochs=100_000)
    curve = losses(tmp_path / "run")
    resume = tmp_path / "run" / "checkpoint.pt"
    fit(tmp_path, seconds=0.5, epochs=100_000, model_in=resume)
    assert losses(tmp_path / "run") == curve


class Shuffled(torch.utils.data.DataLoader):
    """Pictures alone, in one-tuples, as `TensorDataset` yields them, shuffled anew every epoch."""

    def __init__(self, generator=None):
        g = torch.Generator().manual_seed(0)
        pictures = torch.rand(24, 1, 1, 3, generator=g).permute(0, 3, 1, 2).expand(24, 3, 16, 16)
        dataset = torch.utils.data.TensorDataset(2 * pictures - 1)
        super().__init__(dataset, batch_size=8, shuffle=True, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_a_dataloader_is_shuffled_by_the_seed_and_resumed_where_it_was(tmp_path, generator):
    torch.manual_seed(1)
    fit(tmp_path, "whole", loader=Shuffled(generator), epochs=3)
    torch.manual_seed(2)
    fit(tmp_path, "cut", loader=Shuffled(generator), epochs=3, max_steps=4)
    state = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert (state["last_epoch"], state["batch"]) == (1, 1)
    resume = tmp_path / "cut" / "checkpoint.pt"
    fit(tmp_path, "cut", loader=Shuffled(generator), epochs=3, model_in=resume)
    rows = [losses(tmp_path / name) for name in ("whole", "cut")]
    assert len(rows[0]) == len(rows[1]) == 9
    # the rate follows the end that was planned, so the losses of the cut one are only near
    torch.testing.assert_close(*map(torch.tensor, rows), rtol=0.05, atol=1e-3)
    assert rows[0][:2] == rows[1][:2]


@pytest.mark.parametrize("low, high", [(0, 255), (-2.1, 2.6), (float("nan"), 1.0)])
def test_pictures_on_another_scale_are_refused(tmp_path, low, high):
    pictures = torch.rand(8, 3, 16, 16) * 2 - 1
    pictures[3, 0, 0, :2] = torch.tensor([low, high])
    with pytest.raises(DataError, match="values from .*bring them to"):
        fit(tmp_path, loader=torch.utils.data.DataLoader(pictures, batch_size=8))


def test_what_belongs_beside_a_model_comes_with_it(tmp_path, monkeypatch):
    """Stopped, it is in the checkpoint alone: the finished pair that was there stays a pair."""
    beside = tmp_path / "run" / "latent"
    fit(tmp_path, max_steps=1, beside={"latent": b"old"})
    old, stopped = beside.with_name("model.safetensors").read_bytes(), []
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(run, "log_row", lambda *_: stopped or stopped.append(
            signal.raise_signal(signal.SIGTERM)))
        fit(tmp_path, max_steps=3, lr=1e-2, beside={"latent": b"new"})
    assert beside.read_bytes() == b"old"
    assert beside.with_name("model.safetensors").read_bytes() == old
    kept = load_checkpoint(beside.with_name("checkpoint.pt"))["beside"]["latent"]
    assert kept.numpy().tobytes() == b"new"
    fit(tmp_path, max_steps=3, lr=1e-2, model_in=beside.with_name("checkpoint.pt"),
        beside={"latent": b"new"})
    assert beside.read_bytes() == b"new"
    assert beside.with_name("model.safetensors").read_bytes() != old


@pytest.mark.slow
@pytest.mark.parametrize("n, shape", [(4, (2, 4)), (11, (2, 8)), (24, (4, 8))])
def test_grids_hold_whole_rows(tmp_path, n, shape):
    from PIL import Image

    images, vectors = torch.zeros(n, 3, 16, 16), torch.randn(n, 3)
    info = {"prediction": "x0", "schedule": "cosine"}
    run.draw_grid(network(condition_size=3), info, images, vectors, tmp_path / "grid.png")
    width, height = Image.open(tmp_path / "grid.png").size
    assert (height // 18, width // 18) == shape


def test_same_seed_same_training_and_the_global_generator_is_left_alone(tmp_path):
    model = network()
    torch.manual_seed(3)
    a = fit(tmp_path, "a", epochs=1, model=model)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert same(a.state_dict(), fit(tmp_path, "b", epochs=1).state_dict())
    assert not same(a.state_dict(), fit(tmp_path, "c", epochs=1, seed=1).state_dict())


def test_the_old_interface_and_a_missing_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.FOLDER, str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(run, "draw_grid", lambda *_: None)
    with pytest.warns(UserWarning, match="CPU"):
        train_unconditional_diffusion(
            loader(n=2, batch_size=2, size=64), epochs=1, lr=3e-4, image_size=64, device="cuda",
            model_in=None,
        )
    state = torch.load(tmp_path / "results/unconditional/checkpoint.pt", weights_only=True)
    assert state["last_epoch"] == 1


@pytest.mark.slow
def test_a_compiled_network_trains_the_same_weights(tmp_path, monkeypatch):
    plain = fit(tmp_path, "plain", epochs=1, precision="no", optimizer="muon")
    real, calls = torch.compile, []

    def trace_only(model, **options):  # the same graph, without minutes of a C++ compiler
        calls.append(options)
        return real(model, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", trace_only)
    compiled = fit(tmp_path, "compiled", epochs=1, precision="no", compiled=True,
                   optimizer="muon")
    assert calls == [{"dynamic": False}]
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in
               zip(compiled.state_dict().values(), plain.state_dict().values(), strict=True))


@pytest.mark.parametrize("device, bf16, units, expected", [
    ("cuda", True, False, "bf16"), ("cuda", False, True, "fp16"), ("cpu", True, True, "bf16"),
    ("cpu", True, False, "no"), ("mps", True, True, "no"),
])
def test_precision_is_what_the_device_can_do(monkeypatch, device, bf16, units, expected):
    """No stopwatch: a T4 (no bfloat16) takes float16, a CPU bfloat16 with matrix units only."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(devices, "cpu_has_bf16_units", lambda: units)
    assert devices.pick_precision(device) == expected


@pytest.mark.parametrize("flags, expected", [("sse avx2 amx_bf16", True), ("sse avx2", False)])
def test_matrix_units_are_looked_up_where_torch_does_not_tell(monkeypatch, flags, expected):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags : {flags}\n")
    assert cpu_has_bf16_units.__wrapped__() is expected
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not expected, raising=False)
    assert cpu_has_bf16_units.__wrapped__() is not expected


@pytest.mark.parametrize("cuda, mps, auto", [
    (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"),
])
def test_auto_takes_the_first_device_that_is_there(monkeypatch, cuda, mps, auto):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert devices.pick_device() == auto and devices.pick_device("cpu") == "cpu"
    for name, there in (("cuda", cuda), ("mps", mps)):
        if there:
            assert devices.pick_device(name) == name
        else:
            with pytest.warns(UserWarning, match=f"no {name.upper()} device"):
                assert devices.pick_device(name) == "cpu"


@pytest.mark.parametrize("there, bf16, precision", [
    ("cuda", True, "bf16"), ("cuda", False, "fp16"), ("mps", False, "no"),
])
def test_training_computes_in_the_precision_of_the_table(monkeypatch, there, bf16, precision):
    """With the device mocked; accelerate scales the loss where it is told fp16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there == "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there == "mps")
    monkeypatch.setattr(devices, "Accelerator", lambda **options: options)
    assert devices.make_accelerator() == {"cpu": False, "mixed_precision": precision}


def test_vectors_of_any_type_reach_the_device_in_float32():
    """Apple's GPUs have no float64: a tensor of it would stop the training there."""
    pictures = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    for kind in (torch.float64, torch.float32, torch.int64):
        images, vectors = run.unpack((pictures, torch.ones(2, 5, dtype=kind)), "cpu")
        assert images.dtype == vectors.dtype == torch.float32


def test_float16_needs_a_gpu(tmp_path):
    with pytest.raises(DataError, match="precision is 'fp16' on cpu"):
        fit(tmp_path, precision="fp16")
    assert not (tmp_path / "run").exists()


class ScaledLoss:
    """An accelerator of float16 on the CPU: it scales the loss as on a GPU, and is one process."""

    def __init__(self, scale):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def clip_grad_norm_(self, parameters, largest):
        self.scaler.unscale_(self.optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, largest)

    def reduce(self, loss, how):
        return loss

    def prepared(self, optimizer):
        """As accelerate wraps it: a step that overflowed is left out, and the scale halved."""
        self.optimizer, accelerator = optimizer, self

        class Scaled:
            param_groups, zero_grad = optimizer.param_groups, optimizer.zero_grad

            def step(self):
                accelerator.scaler.step(optimizer)
                accelerator.scaler.update()

        return Scaled()


def test_an_overflow_of_float16_is_left_out_and_a_burst_is_not():
    net = torch.nn.Linear(3, 1)
    before = net.weight.detach().clone()
    accelerator = ScaledLoss(scale=2.0**127)
    optimizer = accelerator.prepared(torch.optim.SGD(net.parameters(), 1.0))
    x = torch.full((2, 3), 64.0)
    loss, gradient = step.gradient_step(accelerator, net, optimizer, net(x).mean(), 0.1)
    assert gradient == float("inf") and torch.equal(net.weight, before)  # overflowed: left out
    assert accelerator.scaler.get_scale() == 2.0**126
    while gradient == float("inf"):
        _, gradient = step.gradient_step(accelerator, net, optimizer, net(x).mean(), 0.1)
    assert gradient == pytest.approx((3 * 64.0**2 + 1) ** 0.5)
    torch.testing.assert_close(net.weight, before - 0.1 * 64 / gradient)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        step.gradient_step(accelerator, net, optimizer, net(x).mean() * float("nan"), 0.1)


def test_average_and_learning_rate_by_hand():
    a, b = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    wanted = 0.9 * a.weight + 0.1 * b.weight
    update_average(a.requires_grad_(False), b, 0.9)
    torch.testing.assert_close(a.weight, wanted)
    assert learning_rate(0, 0.0, 200) == pytest.approx(1 / 200)
    assert learning_rate(500, 0.5, 200) == pytest.approx(0.5)
    assert learning_rate(9, 0.05, 200) > 0.99  # short trainings warm up in 5 %
    assert learning_rate(999, 1.0, 200) == pytest.approx(0.0)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    path = tmp_path / "evil.pt"
    torch.save({"model_state_dict": Bomb(), "config": {}}, path)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Bomb(), protocol=2))
    for file in (path, plain):
        with pytest.raises(DataError, match="not a readable checkpoint"):
            fit(tmp_path, model_in=file)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint.pt", "model.safetensors"])
def test_damaged_missing_and_foreign_files_are_refused_in_one_line(tmp_path, name):
    fit(tmp_path, epochs=1)
    good = tmp_path / "run" / name
    cut = tmp_path / f"cut{good.suffix}"
    cut.write_bytes(good.read_bytes()[:-100])
    other = network(channels=[16, 48])
    foreign = dict(model=other, out_dir=tmp_path / "new")
    wrong = dict(prediction="v", out_dir=tmp_path / "new")
    cases = [
        (lambda: fit(tmp_path, model_in=cut), "damaged"),
        (lambda: load_model(cut), "damaged"),
        (lambda: fit(tmp_path, model_in=tmp_path / f"no{good.suffix}"), "no (checkpoint|model) at"),
        (lambda: fit(tmp_path, model_in=good, **foreign), "another architecture"),
        (lambda: fit(tmp_path, model_in=good, **wrong), "trained with prediction 'x0'"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "new" / "checkpoint.pt").exists()


def test_wrong_size_missing_vectors_and_unknown_device(tmp_path):
    with pytest.raises(DataError, match="16x16.*64"):
        fit(tmp_path, image_size=64)
    with pytest.raises(DataError, match="brain vectors"):
        fit(tmp_path, conditional=True, loader=loader())
    with pytest.raises(DataError, match="auto, cuda, mps or cpu"):
        fit(tmp_path, device="gpu")


@pytest.mark.parametrize("half, tolerance", [(True, 2e-3), (False, 1e-5)])
def test_models_survive_safetensors(tmp_path, half, tolerance):
    model = network(condition_size=3).eval()
    torch.nn.init.normal_(model.conv_out.weight, std=0.1)
    save_model(model, tmp_path / "m.safetensors", {"note": "x"}, half)
    again, info = load_model(tmp_path / "m.safetensors")
    assert info == {"note": "x"} == read_info(tmp_path / "m.safetensors")
    assert again.config == model.config and not again.training
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([5, 500]), torch.randn(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(again(x, t, y), model(x, t, y), atol=tolerance, rtol=0)
    whole = bytearray((tmp_path / "m.safetensors").read_bytes())
    whole[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(whole)
    assert read_info(tmp_path / "m.safetensors") == info  # without a look at the weights
    with pytest.raises(DataError, match="damaged"):
        load_model(tmp_path / "m.safetensors")


def former(weights):
    """Names of the layers as earlier versions wrote them."""
    old = {"conv_in.": "enter.", "up_conv.": "rise.", "conv_out.": "leave.",
           "encoder.first.": "encoder.enter.", "encoder.last.": "encoder.leave."}
    names = {k: next((b + k.removeprefix(a) for a, b in old.items() if k.startswith(a)), k)
             for k in weights}
    assert len(set(names.values()) - set(names)) == 10  # two in each of these five layers
    return {names[k]: v for k, v in weights.items()}


@pytest.mark.slow
def test_files_of_earlier_versions_load_and_resume(tmp_path, monkeypatch):
    whole = fit(tmp_path, "whole", True, epochs=3)
    fit(tmp_path, "cut", True, epochs=3, max_steps=4, lr=1e-9)
    fit(tmp_path, "again", True, epochs=3, max_steps=4, lr=1e-9)
    path = tmp_path / "cut" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    for kind in ("model_state_dict", "ema_state_dict"):
        state[kind] = former(state[kind])
    del state["info"]["optimizer"]  # they had AdamW alone
    torch.save(state, path)
    a, b = (fit(tmp_path, name, True, epochs=3, model_in=tmp_path / name / "checkpoint.pt",
                optimizer="muon")
            for name in ("cut", "again"))
    assert same(a.state_dict(), b.state_dict()) and a.config == whole.config
    real = UNet.state_dict
    monkeypatch.setattr(UNet, "state_dict", lambda net: former(real(net)))
    save_model(whole, tmp_path / "old.safetensors", half=False)
    monkeypatch.undo()
    assert same(load_model(tmp_path / "old.safetensors")[0].state_dict(), whole.state_dict())


TWO = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_training import fit, loader, network
fit(
    Path(sys.argv[2]), "two", True, loader=loader(batch_size=4, vectors=True), lr=3e-3,
    model=network(condition_size=3, dropout=0.0), optimizer="muon",
)
import numpy as np
from recon_lib import recipes
recipes.fit(
    np.zeros((24, 16, 16, 3), np.uint8), None, Path(sys.argv[2], "steps"), {}, steps=7, batch=4,
    device="cpu", network=dict(channels=[16], patch=2, attention=[], width=16), grids=0, quiet=True,
)
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    one = network(condition_size=3, dropout=0.0)
    fit(tmp_path, "one", True, loader=loader(batch_size=8, vectors=True), lr=3e-3, model=one,
        optimizer="muon")
    script = tmp_path / "two.py"
    script.write_text(TWO)
    tests = Path(__file__).parent
    command = "torch.distributed.run --standalone --nproc_per_node 2".split()
    done = subprocess.run(
        [sys.executable, "-m", *command, script, tests, tmp_path],
        env={**os.environ, "PYTHONPATH": str(tests.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pair = torch.tensor(losses(tmp_path / "two")), torch.tensor(losses(tmp_path / "one"))
    torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-4)
    assert len(losses(tmp_path / "steps")) == 7  # as many as were asked for, whatever the number
    assert read_info(tmp_path / "steps" / "model.safetensors")["optimizer"] == "muon"


@pytest.mark.parametrize("wrong", [
    dict(epochs="3"), dict(epochs=2.5), dict(steps=float("nan")), dict(lr="x"), dict(lr=0),
    dict(lr=None), dict(seed=-1), dict(seed=1.5), dict(ema=2), dict(drop=-0.1), dict(warmup=-1),
    dict(prediction="y"), dict(schedule="y"), dict(optimizer="y"),
    dict(checkpoint_minutes=float("nan"))], ids=str)
def test_options_out_of_their_range_are_one_line(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))) as refusal:
        Training(**wrong)
    assert "\n" not in str(refusal.value)


def test_options_may_be_numpys():
    options = Training(
        epochs=np.int64(3), lr=np.float32(1e-3), seed=np.uint32(7), warmup=np.int8(2)
    )
    assert options.last_step(10) == 30
