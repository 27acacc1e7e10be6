"""Costs of training against torch's own count of operations, and the explorer built on them."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recon_lib import recipes
from recon_lib.course import explore_cost
from recon_lib.training import cost as training_cost
from recon_lib.training.checkpoints import load_model
from recon_lib.training.cost import PEAK, PLANS, hours, operations, plan
from recon_lib.unet import UNet


def test_operations_are_what_torch_counts_on_the_way_forth_and_back():
    network, size = dict(channels=(32, 64), width=64), 32
    x, t = torch.randn(2, 3, size, size), torch.tensor([5, 700])
    model = UNet(**network)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x, t).sum().backward()
    counted, ours = counter.get_total_flops(), operations(network, size, 2)
    assert 0.95 < ours / counted < 1.06  # the first layers need no gradient of their input


def test_hours_by_hand():
    fewest, most = hours(3.12e14 * 3600, 312e12)
    assert fewest == pytest.approx(1 / 0.30) and most == pytest.approx(1 / 0.05)
    assert operations({}, 64, 10) == 10 * operations({}, 64, 1)


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_a_network_that_can_be_built(name):
    p, cost = PLANS[name], plan(name)
    with torch.device("meta"):
        model = UNet(**p["network"], condition_size=97)
    assert p["size"] % model.stride == 0 and p["batch"] % 8 == 0
    unconditional = sum(q.numel() for n, q in model.named_parameters()
                        if not n.startswith(("encoder", "null")) and ".condition." not in n)
    assert cost["parameters"] == unconditional
    assert 0.5 < cost["hours"][0] < cost["hours"][1] < 24 * 60


@pytest.mark.parametrize("name", ["unconditional", "conditional"])
def test_the_shipped_models_are_what_the_shell_trains(name):
    config = load_model(name)[0].config
    assert {k: config[k] for k in recipes.NETWORK} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in recipes.NETWORK.items()}


@pytest.mark.slow
def test_the_explorer_follows_its_controls():
    box = explore_cost.cost_explorer()
    before = dict(box.numbers)
    assert set(before["hours"]) == set(PEAK)
    box.controls["millions"].value = 40.0
    assert box.numbers["operations"] == pytest.approx(2 * before["operations"])
    box.controls["patch"].value = 2  # four times as many places
    assert 3 < box.numbers["operations"] / before["operations"] / 2 < 5
    box.controls["size"].value = 128
    box.reset.click()
    assert box.numbers == before
    low, high = before["hours"]["A100"]
    assert high / low == pytest.approx(training_cost.USE[1] / training_cost.USE[0])
    assert before["hours"]["8 x A100"][0] == pytest.approx(low / 8)
    assert box.draw(before).axes


@pytest.mark.parametrize("hours, text", [
    (0.5 / 3600, "0.5 s"), (0.79, "47 min"), (4.83, "4.8 h"), (36, "1.5 days"),
    (20_000, "2.3 years"),
])  # fmt: skip
def test_a_duration_is_told_in_a_unit_that_fits(hours, text):
    assert explore_cost.duration(hours) == text
