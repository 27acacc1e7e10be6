"""TinyScenes: every factor shows, nothing else does."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from recon_lib.brain.features import (
    SHIPPED,
    FactorNet,
    fitted,
    load_factor_net,
    read_factors,
    save_factor_net,
)
from recon_lib.common.errors import DataError
from recon_lib.data.loader import to_batch
from recon_lib.world.scenes import BACKGROUNDS, CATEGORIES, FACTORS, LIGHTS, draw, sample_factors

HAXBY = {"bottle", "cat", "chair", "face", "house", "scissors", "shoe", "scrambled"}
OTHER = dict(category=1, background=1, light=1, hue=0.5, x=0.1, y=0.1, size=0.1, tilt=15, detail=1)


def changed(factors, **shift):
    """A copy with some factors moved."""
    out = factors.copy()
    for name, amount in shift.items():
        out[name] = out[name] + amount
    return out


def test_same_seed_same_pixels():
    a, b = (draw(sample_factors(6, 3)) for _ in range(2))
    assert a.shape == (6, 64, 64, 3) and a.dtype == np.uint8
    assert np.array_equal(a, b)
    assert not np.array_equal(a, draw(sample_factors(6, 4)))
    # a picture depends on its own factors only
    assert np.array_equal(draw(sample_factors(6, 3)[4]), a[4:5])


def test_names():
    assert len(CATEGORIES) >= 12 and set(CATEGORIES) >= HAXBY
    assert len(set(CATEGORIES)) == len(CATEGORIES)
    assert len(BACKGROUNDS) == 6 and LIGHTS == ("day", "sunset", "night")


@pytest.mark.parametrize("name", FACTORS.names)
def test_every_factor_changes_the_picture(name):
    scene = sample_factors(8, 0)
    scene["category"], scene["background"], scene["light"] = np.arange(8), np.arange(8) % 5, 0
    scene["x"] = scene["y"] = 0.5
    difference = draw(changed(scene, **{name: OTHER[name]})).astype(int) - draw(scene)
    moved = (np.abs(difference).max(3) > 8).mean((1, 2))  # share of pixels that differ clearly
    assert (moved > 0.01).all()


def test_the_thing_stands_where_the_factors_say():
    scene = sample_factors(len(CATEGORIES), 1)
    scene["category"], scene["size"], scene["tilt"] = np.arange(len(CATEGORIES)), 0.4, 0
    scene["x"], scene["y"] = 0.3, 0.6
    recoloured = changed(scene, hue=0.5)
    where = np.abs(draw(scene).astype(int) - draw(recoloured)).sum(3) > 30  # its colour, only
    for mask in where:
        y, x = (np.argwhere(mask).T + 0.5) / 64
        assert x.min() > 0.3 - 0.23 and x.max() < 0.3 + 0.23
        assert y.min() > 0.6 - 0.23 and y.max() < 0.6 + 0.23
        assert mask.sum() > 20  # enough of it to be seen


def test_factor_marginals_are_uniform_and_independent():
    factors = sample_factors(20_000, 5)
    for name, names in (("category", CATEGORIES), ("background", BACKGROUNDS), ("light", LIGHTS)):
        assert chisquare(np.bincount(factors[name], minlength=len(names))).pvalue > 1e-3
        assert factors[name].max() == len(names) - 1
    for name, low, high in (("hue", 0, 1), ("x", 0.28, 0.72), ("y", 0.46, 0.70),
                            ("size", 0.40, 0.62)):
        assert kstest((factors[name] - low) / (high - low), "uniform").pvalue > 1e-3
    columns = np.array([factors[name] for name in FACTORS.names], float)
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("size", [16, 32, 100])
def test_other_sizes_show_the_same_scene(size):
    factors = sample_factors(6, 2)
    picture = draw(factors, size)
    assert picture.shape == (6, size, size, 3)
    coarse = [p.reshape(6, 4, s // 4, 4, s // 4, 3).mean((2, 4)).reshape(6, -1)
              for p, s in ((picture, size), (draw(factors), 64))]
    for a, b in zip(*coarse, strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.95


@pytest.mark.slow
def test_light_tints_the_picture():
    scene = sample_factors(60, 9)
    mean = []
    for light in range(3):
        scene["light"] = light
        mean.append(draw(scene, 32).mean((1, 2)))  # (60, 3): red, green, blue
    day, sunset, night = mean
    assert (day.mean(1) > night.mean(1) + 15).all()  # night is darker, whatever the scene
    assert sunset.mean() < day.mean()
    red_share = [m[:, 0] / m.sum(1) for m in mean]
    assert (red_share[1] > red_share[0]).mean() > 0.95  # the evening is redder than the day
    blue_share = [m[:, 2] / m.sum(1) for m in mean]
    assert blue_share[2].mean() > blue_share[0].mean()  # the night is bluer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["feature_encoder", "evaluation_classifier"])
def test_the_shipped_networks_read_scenes_they_have_not_seen(name):
    factors = sample_factors(150, 777)
    read = read_factors(load_factor_net(name), draw(factors))
    for key in ("category", "background", "light"):
        assert np.allclose(read[key].sum(1), 1, atol=1e-4)
        assert (read[key].argmax(1) == factors[key]).mean() > 0.9
    for key in ("x", "y", "size"):
        assert np.corrcoef(read[key], factors[key])[0, 1] > 0.8
    turn = np.abs(read["hue"] - factors["hue"])
    assert np.median(np.minimum(turn, 1 - turn)) < 0.06


def test_shipped_networks_are_found_by_their_former_names_too():
    for name, former in SHIPPED.items():
        if name != "independent_classifier":
            nets = load_factor_net(name), load_factor_net(former)
            assert all(map(torch.equal, *(net.state_dict().values() for net in nets)))


def test_factor_nets_take_any_size_and_grey_and_refuse_other_files(tmp_path):
    grey = np.full((2, 20, 20, 1), 255, np.uint8)
    batch = fitted(to_batch(grey))
    assert batch.shape == (2, 3, 64, 64) and np.allclose(batch, 1)
    save_factor_net(FactorNet(), tmp_path / "net.safetensors", seed=1)
    load_factor_net(tmp_path / "net.safetensors")
    whole = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(whole[:-50])
    with pytest.raises(DataError, match="FactorNet"):
        load_factor_net(tmp_path / "net.safetensors")
    with pytest.raises(DataError, match="no file"):
        load_factor_net(tmp_path / "absent.safetensors")
