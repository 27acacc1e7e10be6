"""Numbers: float32 against float64 within a bound, CPUs without bf16, seeds, losses that burst."""

import multiprocessing
import os
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon_lib.bold.design import design_matrix
from recon_lib.bold.glm import single_trial_betas, trial_estimator
from recon_lib.bold.hrf import spm_hrf
from recon_lib.bold.regression import ols
from recon_lib.bold.single_trial import estimate
from recon_lib.data.bold5000 import TR
from recon_lib.data.loader import create_loader
from recon_lib.training import loop
from recon_lib.training.checkpoints import load_checkpoint
from recon_lib.unet import UNet

ROUNDING = float(np.finfo(np.float32).eps) / 2  # largest relative error of one operation
ONSETS = 6 + 10.0 * np.arange(18)


def bold_of(seed, level, noise, volumes=194, voxels=40):
    rng = np.random.default_rng(seed)
    return level + noise * rng.normal(size=(volumes, voxels))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.sampled_from([1.0, 1e3, 1e6]), st.sampled_from([0.01, 1.0, 30.0]))
def test_ols_in_float32_is_within_its_bound(seed, level, noise):
    """The bound that `ols` states, from every rounding of a product of `volumes` terms."""
    bold = bold_of(seed, level, noise)
    design, _ = design_matrix(len(bold), TR, ONSETS, ["a", "b"] * 9)
    exact = np.linalg.lstsq(design, bold, rcond=None)[0]
    bound = (len(bold) + 3) * ROUNDING * np.abs(np.linalg.pinv(design)) @ np.abs(bold)
    error = np.abs(ols(bold.astype(np.float32), design).betas - exact)
    assert (error <= bound).all()


@pytest.mark.parametrize("method", ["lsa", "lss"])
def test_single_trial_betas_in_float32_are_within_a_hundredth_of_their_noise(method):
    bold = bold_of(0, 1000, 10, voxels=200)
    small = single_trial_betas(bold.astype(np.float32), ONSETS, TR, method=method)
    exact = single_trial_betas(bold, ONSETS, TR, method=method)
    matrix = trial_estimator(ONSETS, len(bold), TR, spm_hrf(TR), method=method)
    noise = np.sqrt((matrix**2).sum(1)).mean()  # standard error of a beta at 1 % of noise
    assert np.abs(small - exact).max() < 0.01 * noise


def test_the_whole_chain_in_float32():
    """Where float32 chooses the same HRF, betas agree; it nearly always does."""
    runs = [(bold_of(i, 1000, 10), ONSETS) for i in range(4)]
    exact = estimate(runs, TR)
    small = estimate([(bold.astype(np.float32), onsets) for bold, onsets in runs], TR)
    same = exact.hrf == small.hrf
    assert same.mean() > 0.9
    scale = exact.betas.std()
    assert np.abs(small.betas - exact.betas)[:, same].max() < 0.005 * scale


def train(out, precision="no", lr=3e-3, steps=60, start=None, minutes=5.0):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (32, 1, 1, 3), dtype=np.uint8)
    loader = create_loader(16, 8, images=np.tile(colour, (1, 16, 16, 1)))
    torch.manual_seed(0)
    model = UNet(channels=[16, 32], blocks=1, patch=4, attention=[], width=32)
    loop.train_unconditional_diffusion(
        loader, epochs=1000, max_steps=steps, lr=lr, image_size=16, device="cpu", grids=0,
        quiet=True, model=model, out_dir=out, precision=precision, warmup=5,
        model_in=start, checkpoint_minutes=minutes,
    )
    return np.loadtxt(out / "loss.csv", delimiter=",", skiprows=1)[:, 3]


def train_on(capability, out, precision):
    """What an older CPU does: PyTorch and oneDNN are told to use no newer instructions."""
    os.environ |= {"ATEN_CPU_CAPABILITY": capability, "ONEDNN_MAX_CPU_ISA": capability.upper(),
                   "MKL_ENABLE_INSTRUCTIONS": capability.upper()}
    torch.set_num_threads(1)
    if capability == "avx2":
        assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT")
    train(out, precision)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs forkserver")
def test_a_cpu_without_bf16_trains_as_well(tmp_path):
    """Full precision on an old CPU, and bf16 emulated there, end at the loss of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recon_lib.training.loop"])
    ends = {"here": train(tmp_path / "here")[-20:].mean()}
    for precision in ("no", "bf16"):
        out = tmp_path / precision
        process = context.Process(target=train_on, args=("avx2", out, precision))
        process.start()
        process.join()
        assert process.exitcode == 0
        loss = np.loadtxt(out / "loss.csv", delimiter=",", skiprows=1)[:, 3]
        assert loss[-20:].mean() < 0.6 * loss[:20].mean()  # it learns
        ends[precision] = loss[-20:].mean()
    assert ends["no"] == pytest.approx(ends["here"], rel=0.02)
    assert ends["bf16"] == pytest.approx(ends["here"], rel=0.1)


def test_the_same_seed_gives_the_same_numbers_twice(tmp_path):
    a, b = (train(tmp_path / name, steps=12) for name in "ab")
    np.testing.assert_array_equal(a, b)
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in "ab"]
    for key in ("model_state_dict", "ema_state_dict"):
        assert all(map(torch.equal, *(state[key].values() for state in states)))


def test_a_loss_that_bursts_stops_the_training(tmp_path):
    """A learning rate without measure: it stops, says where, and the last checkpoint is good."""
    train(tmp_path, steps=10)
    kept = load_checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(FloatingPointError, match=r"at step 1\d; the last checkpoint .* is kept"):
        train(tmp_path, lr=1e25, start=tmp_path / "checkpoint.pt", minutes=0)
    now = load_checkpoint(tmp_path / "checkpoint.pt")
    assert now["step"] == kept["step"] == 10  # not the weights that would burst at the next step
    for key in ("model_state_dict", "ema_state_dict"):
        assert all(map(torch.equal, now[key].values(), kept[key].values()))
    assert np.isfinite(train(tmp_path, steps=20, start=tmp_path / "checkpoint.pt")).all()
