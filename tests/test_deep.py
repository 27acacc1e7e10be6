"""Scores of the literature against their own definitions, with random weights: no download."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.models import alexnet
from torchvision.transforms.functional import normalize, resize

from recon_lib.common.errors import DataError
from recon_lib.scores import deep
from recon_lib.scores.deep import deep_scores, layer_features, n_way_top_k, prepared

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (6, 32, 32, 3), np.uint8)


def drawn(p, target, n, k, draws, seed=0):
    """MinD-Vis's procedure, word for word: draw wrong classes, sort, look."""
    rng, right = np.random.default_rng(seed), []
    for row, true in zip(p, target, strict=True):
        wrong = np.delete(np.arange(len(row)), true)
        for _ in range(draws):
            some = np.append(rng.choice(wrong, n - 1, replace=False), true)
            right.append(true in some[np.argsort(-row[some])[:k]])
    return np.mean(right), len(right)


@pytest.mark.parametrize("n, k", [(2, 1), (5, 1), (10, 3), (20, 20)])
def test_n_way_is_what_drawing_gives(n, k):
    p = RNG.dirichlet(np.ones(20), 8)
    target = RNG.integers(0, 20, 8)
    simulated, count = drawn(p, target, n, k, 1000)
    exact = n_way_top_k(p, target, n, k)
    assert abs(exact - simulated) < 4 * 0.5 / count**0.5


def test_n_way_by_hand_and_at_chance():
    p = np.array([[0.4, 0.3, 0.2, 0.1]])
    assert n_way_top_k(p, [0], 4) == 1 and n_way_top_k(p, [3], 2) == 0
    assert n_way_top_k(p, [1], 2) == pytest.approx(2 / 3)  # one of three rivals is above
    assert n_way_top_k(p, [2], 3, 2) == pytest.approx(2 / 3)  # fails only when both above come
    same = np.full((5, 1000), 1e-3)
    for n, k in ((50, 1), (100, 5), (2, 1)):
        assert n_way_top_k(same, np.arange(5), n, k) == pytest.approx(k / n)
    with pytest.raises(DataError, match="5-way top-1 of 4 classes"):
        n_way_top_k(p, [0], 5)
    with pytest.raises(DataError, match="no columns"):
        n_way_top_k(p, [4], 2)


@pytest.mark.slow
def test_layers_are_those_of_the_network(monkeypatch):
    torch.manual_seed(0)
    net = alexnet(weights=None).eval()
    monkeypatch.setattr("torchvision.models.get_model", lambda *a, **k: net)
    x = resize(torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255.0, [256, 256], antialias=True)
    x = normalize(x, deep.MEAN, deep.SPREAD)
    with torch.no_grad():
        second = torch.relu(net.features[3](net.features[:3](x)))  # after the second convolution
        fifth = net.features[:12](x)
    for name, wanted in (("AlexNet(2)", second), ("AlexNet(5)", fifth)):
        got = layer_features(name)(PICTURES)
        np.testing.assert_allclose(got, wanted.flatten(1), rtol=1e-3, atol=1e-4)
    assert isinstance(net.features[10], torch.nn.Conv2d) and second.shape[1] == 192


@pytest.mark.slow
def test_inception_gives_its_pooled_features():
    torch.manual_seed(0)
    assert layer_features("Inception", weights=None)(PICTURES[:2]).shape == (2, 2048)
    assert prepared(PICTURES[:1], 342).shape == (1, 3, 342, 342)


def test_networks_refuse_pictures_from_0_to_1():
    assert torch.equal(prepared(PICTURES.astype(float), 64), prepared(PICTURES, 64))
    with pytest.raises(DataError, match="values from 0 to 1, expected whole numbers"):
        prepared(PICTURES / 255, 64)
    with pytest.raises(DataError, match="shape .32, 32, 3., expected"):
        prepared(PICTURES[0], 64)


def test_scores_of_good_bad_and_swapped_pictures():
    flat = {"pixels": lambda: lambda images: images.reshape(len(images), -1) / 255.0}
    rows = {"perfect": PICTURES, "swapped": PICTURES[[1, 0, 3, 2, 5, 4]],
            "grey": np.full_like(PICTURES, 128)}
    table = deep_scores(rows, PICTURES, np.arange(6), make=flat)
    assert table["perfect"]["pixels"] == 1
    assert table["swapped"]["pixels"] < 0.5 and table["grey"]["pixels"] == 0.5


@pytest.mark.slow
def test_what_cannot_be_had_is_left_out_with_a_sentence(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)

    def without():
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    said, make = [], {name: lambda name=name: layer_features(name) for name in deep.LAYERS}
    table = deep_scores({"a": PICTURES}, PICTURES, np.arange(6), said.append,
                        {**make, "CLIP": without})
    assert table == {"a": {}} and len(said) == 4
    assert all("left out" in sentence for sentence in said)
    assert "no network" in said[0] and "needs the package transformers" in said[-1]


def test_clip_is_what_transformers_makes_of_the_picture(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        image_size=30, patch_size=10, projection_dim=16)
    torch.manual_seed(0)
    net = transformers.CLIPVisionModelWithProjection(config).eval()
    net.save_pretrained(tmp_path)
    got = deep.clip_features(tmp_path)(PICTURES)
    from PIL import Image

    processor = transformers.CLIPImageProcessor(
        size={"height": 30, "width": 30}, do_center_crop=False, resample=Image.BILINEAR)
    x = processor([Image.fromarray(p) for p in PICTURES], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = net(x).image_embeds.numpy()
    assert got.shape == (6, 16)
    for a, b in zip(got, wanted, strict=True):  # Pillow rounds to whole grey levels
        assert np.corrcoef(a, b)[0, 1] > 0.99
