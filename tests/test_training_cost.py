"""Costs against a count of what really runs, by hand and by torch; the explorer built on them."""

import re

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recon_lib import recipes
from recon_lib.course import explore_cost
from recon_lib.recipes import PLANS, plan_cost
from recon_lib.training import cost as training_cost
from recon_lib.training.checkpoints import load_model
from recon_lib.training.cost import PEAK, count, hours, operations
from recon_lib.unet import Attention, UNet

CONFIGS = {
    "default": ({}, 64),
    "shipped": ({"channels": (96, 160, 256)}, 64),
    "grey, no patch, two blocks": (
        {"image_channels": 1, "patch": 1, "channels": (16, 32), "blocks": 2, "attention": ()}, 32),
    "one level, odd channels": (
        {"patch": 8, "channels": (24,), "attention": (0,), "width": 64}, 32),
}


def multiplications_by_hand(model, size):
    """One picture forward: in x out x k x k at a place; 2 p p c for attention over p places."""
    total = []

    def convolution(layer, inputs, output):
        total.append(layer.weight.numel() * output[0, 0].numel())

    def linear(layer, inputs, output):
        total.append(layer.weight.numel())

    def attention(layer, inputs, output):
        total.append(2 * output[0, 0].numel() ** 2 * output.shape[1])

    kinds = {torch.nn.Conv2d: convolution, torch.nn.Linear: linear, Attention: attention}
    for module in model.modules():
        if type(module) in kinds:
            module.register_forward_hook(kinds[type(module)])
    with torch.no_grad():
        model(torch.zeros(1, model.config["image_channels"], size, size), torch.tensor([5]))
    return sum(total)


@pytest.mark.parametrize("config, size", CONFIGS.values(), ids=CONFIGS)
def test_costs_are_those_counted_by_hand(config, size):
    rows, model = count(config, size), UNet(**config).eval()
    assert sum(r["parameters"] for r in rows) == sum(p.numel() for p in model.parameters())
    assert sum(r["multiplications"] for r in rows) == multiplications_by_hand(model, size)


def test_every_part_costs_what_torch_counts():
    config, size = CONFIGS["grey, no patch, two blocks"]
    model, counted, ours = UNet(**config), {}, {}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, size, size), torch.tensor([5]))
    for path, found in counter.get_flop_counts().items():  # such as UNet.up.0.1: level 0, stage 1
        part = re.fullmatch(r"UNet\.(time|conv_\w+|(?:down|up)\.\d\.\d|(?:middle|up_conv)\.\d)",
                            path)
        if part:
            name = re.sub(r"(middle|\w+\.\d)\.\d", r"\1", part[1]).replace(".", " ")
            counted[name] = counted.get(name, 0) + sum(found.values()) // 2
    for row in count(config, size):
        ours[row["part"]] = ours.get(row["part"], 0) + row["multiplications"]
    assert {part: n for part, n in ours.items() if n} == counted


def test_costs_know_the_shapes():
    shapes = {row["part"]: row["shape"] for row in count({"channels": (16, 32, 48)}, 64)}
    assert shapes["down 0"] == (16, 16, 16) and shapes["up 2"] == (48, 4, 4)
    assert shapes["middle"] == (48, 4, 4) and shapes["up_conv 1"] == (16, 8, 8)
    assert shapes["conv_out"] == (48, 16, 16)


def test_operations_are_what_torch_counts_on_the_way_forth_and_back():
    network, size = dict(channels=(32, 64), width=64), 32
    x, t = torch.randn(2, 3, size, size), torch.tensor([5, 700])
    model = UNet(**network)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x, t).sum().backward()
    counted, ours = counter.get_total_flops(), operations(network, size, 2)
    assert 0.95 < ours / counted < 1.06  # the first layers need no gradient of their input
    assert ours == 2 * 6 * multiplications_by_hand(model, size)


def test_hours_by_hand():
    fewest, most = hours(3.12e14 * 3600, 312e12)
    assert fewest == pytest.approx(1 / 0.30) and most == pytest.approx(1 / 0.05)
    assert operations({}, 64, 10) == 10 * operations({}, 64, 1)


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_a_network_that_can_be_built(name):
    p, cost = PLANS[name], plan_cost(name)
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
    assert set(before["hours"]) == set(explore_cost.MACHINES) < set(PEAK)
    box.controls["millions"].value = 40.0
    assert box.numbers["operations"] == pytest.approx(2 * before["operations"])
    box.controls["patch"].value = 2  # four times as many places
    assert 3 < box.numbers["operations"] / before["operations"] / 2 < 5
    box.controls["size"].value = 128
    box.reset.click()
    assert box.numbers == before
    low, high = before["hours"]["A100"]
    assert high / low == pytest.approx(training_cost.USE[1] / training_cost.USE[0])
    assert box.draw(before).axes


@pytest.mark.parametrize("hours, text", [
    (0.5 / 3600, "0.5 s"), (0.79, "47 min"), (4.83, "4.8 h"), (36, "1.5 days"),
    (20_000, "2.3 years"),
])
def test_a_duration_is_told_in_a_unit_that_fits(hours, text):
    assert explore_cost.duration(hours) == text
