"""The numbers behind the explorers of noise and of the U-Net."""

import numpy as np
import pytest
import torch

from recon_lib.brain.features import load_factor_net
from recon_lib.course import explore_diffusion as wd
from recon_lib.diffusion import cosine_schedule
from recon_lib.unet import UNet
from recon_lib.world.scenes import BACKGROUNDS, CATEGORIES, LIGHTS, draw, sample_factors

FACTORS = sample_factors(3, seed=5)
IMAGES = draw(FACTORS)


@pytest.fixture(scope="module")
def classifier():
    return load_factor_net("evaluation_classifier")


@pytest.mark.slow
def test_scrubber_reads_less_and_less(classifier):
    box = wd.noising_scrubber(IMAGES, classifier)
    box.controls["t"].value = 0
    names = {"category": CATEGORIES, "background": BACKGROUNDS, "light": LIGHTS}
    for factor, values in names.items():
        assert box.numbers["read"][factor][0] == values[FACTORS[factor][0]]
    assert box.numbers["snr"] > 100
    before = box.children[-1].value
    box.controls["t"].value = 999
    assert box.numbers["snr"] < 1e-3 and box.children[-1].value != before
    assert float(box.numbers["x_t"].std()) == pytest.approx(1, abs=0.05)
    box.controls["t"].value = 500
    alpha_bar = float(cosine_schedule()[500])
    assert box.numbers["alpha_bar"] == pytest.approx(alpha_bar)
    assert box.numbers["snr"] == pytest.approx(alpha_bar / (1 - alpha_bar), rel=1e-5)
    x_t = box.numbers["x_t"]
    box.controls["draw"].value = 3
    assert not torch.equal(box.numbers["x_t"], x_t)
    box.reset.click()
    assert box.numbers["t"] == 300 and box.controls["draw"].value == 0


@pytest.mark.slow
def test_designer_shifts_the_snr():
    box = wd.schedule_designer(IMAGES[0])
    before = box.numbers["snr"]
    assert sum(box.numbers["share"].values()) == pytest.approx(1)
    box.controls["factor"].value = 4.0
    np.testing.assert_allclose(box.numbers["snr"], before / 16, rtol=1e-3)
    assert box.numbers["share"]["nearly clean"] < (before > 100).mean()
    box.controls["steps"].value = 100
    assert box.numbers["alpha_bar"].shape == (100,) and box.numbers["strip"].shape[0] == 8
    box.controls["schedule"].value = "linear"
    assert 0 < box.numbers["left"] < 1e-3
    box.reset.click()
    np.testing.assert_array_equal(box.numbers["snr"], before)


@pytest.mark.slow
def test_tour_counts_the_network_it_describes():
    box = wd.unet_tour()
    start = dict(box.numbers)
    model = UNet(**start["config"])
    assert start["parameters"] == sum(p.numel() for p in model.parameters())
    box.controls["patch"].value = 2  # four times the places
    assert box.numbers["multiplications"] > 3.5 * start["multiplications"]
    assert box.numbers["parameters"] < start["parameters"] * 1.02
    assert box.numbers["seconds"] > 3 * start["seconds"] > 0
    box.controls["attention"].value = "every level"
    assert box.numbers["config"]["attention"] == [0, 1, 2]
    box.controls["size"].value, box.controls["patch"].value = 32, 8
    box.controls["levels"].value = 4  # 32 pixels in patches of 8 can be halved twice only
    assert len(box.numbers["config"]["channels"]) == 3
    box.reset.click()
    assert box.numbers["parameters"] == start["parameters"]
