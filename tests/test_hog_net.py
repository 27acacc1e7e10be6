"""The independent classifier reads what is there, by other means than the other two networks."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from recon_lib import recipes
from recon_lib.brain.features import load_factor_net, read_factors, save_factor_net
from recon_lib.common.errors import DataError
from recon_lib.data.loader import to_batch
from recon_lib.scores.hog_net import (
    CELL,
    DIRECTIONS,
    distorted,
    edges_and_colours,
    load_independent_classifier,
)
from recon_lib.scores.report import INDEPENDENT, factors_read, load_classifiers
from recon_lib.training.checkpoints import CHECKPOINTS
from recon_lib.world.scenes import CATEGORIES, draw, sample_factors

NAMES = ("category", "background", "light")


def to_pictures(x):
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def scenes():
    factors = sample_factors(400, 777)
    return factors, draw(factors)


def right(net, pictures, factors):
    read = read_factors(net, pictures)
    return {key: (read[key].argmax(1) == factors[key]).mean() for key in NAMES}


@pytest.mark.slow
def test_it_reads_scenes_that_it_has_not_seen(scenes):
    factors, pictures = scenes
    assert min(right(load_independent_classifier(), pictures, factors).values()) >= 0.97
    read = read_factors(load_independent_classifier(), pictures)
    assert np.allclose(read["category"].sum(1), 1, atol=1e-4)
    for key in ("x", "y", "size"):
        assert np.corrcoef(read[key], factors[key])[0, 1] > 0.8


@pytest.mark.slow
def test_it_bears_an_unsteady_hand(scenes):
    factors, pictures = scenes
    poor = to_pictures(distorted(to_batch(pictures), torch.Generator().manual_seed(1)))
    assert np.abs(poor.astype(float) - pictures).mean() > 5  # they are not what they were
    assert min(right(load_independent_classifier(), poor, factors).values()) >= 0.95


@pytest.mark.slow
def test_it_is_not_deceived_by_what_deceives_the_encoder(scenes):
    """Pixels moved a little along the encoder's gradient: its own architecture falls for it."""
    factors, pictures = scenes
    factors, pictures = factors[:100], pictures[:100]
    encoder, wrong = load_factor_net("feature_encoder"), (factors["category"] + 5) % len(CATEGORIES)
    start, most = to_batch(pictures), 16 / 127.5  # of 255 levels, at most 16 in any pixel
    x = start.clone()
    for _ in range(20):
        x.requires_grad_(True)
        away = F.cross_entropy(encoder(x)["category"], torch.from_numpy(wrong.astype(np.int64)))
        x = x.detach() - most / 6 * torch.autograd.grad(away, x)[0].sign()
        x = start + (x - start).clamp(-most, most)
    bribed = {name: (read_factors(net, to_pictures(x))["category"].argmax(1) == wrong).mean()
              for name, net in (
                  ("feature_encoder", encoder),
                  ("evaluation_classifier", load_factor_net("evaluation_classifier")),
                  ("independent_classifier", load_independent_classifier()))}
    assert bribed["feature_encoder"] > 0.95
    assert bribed["independent_classifier"] < 0.5 * bribed["evaluation_classifier"]


def test_edges_of_a_ramp_by_hand():
    """Brightness that rises evenly along one direction has edges of that direction everywhere."""
    row, column = np.mgrid[:64, :64] / 64
    for k in range(DIRECTIONS):
        turn = np.pi * k / DIRECTIONS
        ramp = np.cos(turn) * column + np.sin(turn) * row - 0.5
        x = torch.from_numpy(np.tile(0.5 * ramp, (1, 3, 1, 1))).float()
        cells = edges_and_colours(x)[0].numpy()
        inner = cells[:DIRECTIONS, 2:-2, 2:-2] ** 2  # strength, away from the frame
        slope = 3 * 2 * 0.5 / 64  # three colours, over two pixels
        off = 2 * np.pi * (np.arange(DIRECTIONS) - k) / DIRECTIONS
        expected = slope * np.clip(np.cos(off), 0, None)  # half of the directions have a share
        np.testing.assert_allclose(inner.mean((1, 2)), expected, atol=0.03 * slope)
        blocks = x[0].numpy().reshape(3, 16, CELL, 16, CELL).mean((2, 4))
        np.testing.assert_allclose(cells[DIRECTIONS:], blocks, atol=1e-6)


def test_edges_do_not_care_what_is_light_and_what_is_dark(scenes):
    x = to_batch(scenes[1][:4])
    one, other = edges_and_colours(x), edges_and_colours(-x)
    torch.testing.assert_close(one[:, :DIRECTIONS], other[:, :DIRECTIONS])
    torch.testing.assert_close(one[:, DIRECTIONS:], -other[:, DIRECTIONS:])


@pytest.mark.slow
def test_the_scores_have_both_readers(scenes):
    factors, pictures = scenes
    scores = factors_read(pictures, factors, load_classifiers())
    evaluation, independent = (
        load_factor_net("evaluation_classifier"), load_independent_classifier())
    assert scores["object" + INDEPENDENT] == right(independent, pictures, factors)["category"]
    assert scores["object"] == right(evaluation, pictures, factors)["category"]


def test_a_hog_net_is_no_factor_net(tmp_path):
    with pytest.raises(DataError, match="does not hold a FactorNet"):
        load_factor_net("independent_classifier")
    with pytest.raises(DataError, match="does not hold a HogNet"):
        load_independent_classifier("evaluation_classifier")
    save_factor_net(load_independent_classifier(), tmp_path / "net.safetensors", seed=1)
    x = torch.rand(2, 3, 64, 64)
    again = load_independent_classifier(tmp_path / "net.safetensors")
    assert torch.equal(again(x)["category"], load_independent_classifier()(x)["category"])


@pytest.mark.slow
def test_one_command_trains_all_readers_and_the_card_says_how(tmp_path, monkeypatch):
    seeds = [seed for seed, *_ in recipes.READERS.values()]
    assert len(set(seeds)) == 3  # no two of them learnt from the same scenes
    with safe_open(CHECKPOINTS / "independent_classifier.safetensors", "pt") as file:
        card = json.loads(file.metadata()["card"])
    told = recipes.READERS["independent_classifier"][:3]
    assert (card["seed"], card["scenes"], card["epochs"]) == told
    assert min(card["held_out_accuracy"].values()) >= 0.97
    short = {name: (seed, 64, 1, *how) for name, (seed, _, _, *how) in recipes.READERS.items()}
    monkeypatch.setattr(recipes, "READERS", short)
    recipes.train_readers(tmp_path)
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    for name, load in (("feature_encoder", load_factor_net),
                       ("evaluation_classifier", load_factor_net),
                       ("independent_classifier", load_independent_classifier)):
        read = read_factors(load(tmp_path / f"{name}.safetensors"), grey)
        assert read["category"].shape == (1, len(CATEGORIES)) and np.isfinite(read["hue"]).all()
