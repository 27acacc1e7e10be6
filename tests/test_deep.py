"""Scores of the literature against their own definitions, with random weights: no download."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import correlation
from torchvision.models import alexnet
from torchvision.transforms.functional import normalize, resize

from recon_lib.brain.encoders import IMAGENET
from recon_lib.common.errors import DataError
from recon_lib.scores import deep
from recon_lib.scores.deep import layer_features, literature_scores, n_way_top_k, prepared

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
    with pytest.raises(DataError, match="5-way top-1 of 4 candidates"):
        n_way_top_k(p, [0], 5)
    with pytest.raises(DataError, match="no columns"):
        n_way_top_k(p, [4], 2)


@pytest.mark.slow
def test_layers_are_those_of_the_network(monkeypatch):
    torch.manual_seed(0)
    net = alexnet(weights=None).eval()
    monkeypatch.setattr(deep, "torchvision_network", lambda *a: net)
    x = resize(torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255.0, [256, 256], antialias=True)
    x = normalize(x, *IMAGENET)
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


SWAPPED = [1, 0, 3, 2, 5, 4]
ROWS = {"perfect": PICTURES, "swapped": PICTURES[SWAPPED], "grey": np.full_like(PICTURES, 128)}


def test_scores_of_good_bad_and_swapped_pictures():
    flat = {"pixels": lambda: lambda images: images.reshape(len(images), -1) / 255.0}
    table = literature_scores(ROWS, PICTURES, np.arange(6), ["pixels"], make=flat)
    assert table["perfect"]["pixels"] == (1, 1, 1)
    mean, low, high = table["swapped"]["pixels"]
    assert low <= mean <= high and mean < 0.5 and table["grey"]["pixels"] == (0.5, 0.5, 0.5)
    with pytest.raises(DataError, match="a score named VGG; expected some of PixCorr"):
        literature_scores(ROWS, PICTURES, np.arange(6), ["VGG"])


@pytest.mark.slow
@pytest.mark.parametrize("name, side", [("EffNet-B", 255), ("SwAV", 224)])
def test_distances_are_scipys_of_the_pooled_features(name, side, monkeypatch):
    torch.manual_seed(0)
    net = deep.torchvision_network(name, None)
    pooled, kept = [], net.avgpool.register_forward_hook(
        lambda module, given, made: pooled.append(made.flatten(1)))
    x = resize(torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255.0, [side, side], antialias=True)
    x = normalize(x, *IMAGENET)
    for layer in net.modules():  # untrained, it lets nothing through before it has seen a picture
        layer.momentum = 1.0
    with torch.no_grad():
        net.train()(x)
        net.eval()(x)
    kept.remove()
    wanted = np.mean([correlation(pooled[1][i], pooled[1][j]) for i, j in enumerate(SWAPPED)])
    monkeypatch.setattr(deep, "torchvision_network", lambda *a: net)
    table = literature_scores(ROWS, PICTURES, np.arange(6), [name])
    assert table["perfect"][name] == pytest.approx((0, 0, 0), abs=1e-6)
    assert table["swapped"][name][0] == pytest.approx(wanted, rel=1e-3) and wanted > 1e-3


@pytest.mark.slow
def test_pixel_scores_are_the_literatures():
    """Both at 425 pixels, SSIM in grey: of scikit-image, whose defaults the literature takes."""
    metrics = pytest.importorskip("skimage.metrics")
    large = [np.stack([np.asarray(Image.fromarray(p).resize((425, 425), Image.BICUBIC))
                       for p in pictures]) for pictures in (PICTURES[SWAPPED], PICTURES)]
    grey = [x @ [0.299, 0.587, 0.114] / 255 for x in large]
    ours = literature_scores(ROWS, PICTURES, np.arange(6), ["PixCorr", "SSIM"])["swapped"]
    theirs = [metrics.structural_similarity(a, b, gaussian_weights=True, sigma=1.5, data_range=1,
                                            use_sample_covariance=False)
              for a, b in zip(*grey, strict=True)]
    assert ours["SSIM"][0] == pytest.approx(np.mean(theirs), abs=2e-3)
    r = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(*large, strict=True)]
    assert ours["PixCorr"][0] == pytest.approx(np.mean(r), abs=1e-6)


@pytest.mark.slow
def test_swav_takes_its_authors_file_and_nothing_that_lacks_a_layer(monkeypatch):
    """Their file has names with "module." in front and a head in place of the classifier."""
    net = deep.torchvision_network("SwAV", None)
    theirs = {f"module.{k}": v for k, v in net.state_dict().items() if not k.startswith("fc")}
    theirs["module.prototypes.weight"] = torch.zeros(3, 3)
    asked = []
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url",
                        lambda url, **kw: asked.append((url, kw["weights_only"])) or theirs)
    got = deep.torchvision_network("SwAV")
    assert torch.equal(got.layer4[2].conv3.weight, net.layer4[2].conv3.weight)
    assert asked == [(deep.SWAV, True)]
    del theirs["module.layer3.0.conv1.weight"]
    with pytest.raises(RuntimeError, match="lacks layer3.0.conv1.weight"):
        deep.torchvision_network("SwAV")


@pytest.mark.slow
def test_what_cannot_be_had_is_left_out_with_a_sentence(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)

    def without():
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    said = []
    table = literature_scores({"a": PICTURES}, PICTURES, np.arange(6), [*deep.LAYERS, "CLIP"],
                              said.append, {"CLIP": without})
    assert table == {"a": {}} and len(said) == 6
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
    processor = transformers.CLIPImageProcessor(
        size={"height": 30, "width": 30}, do_center_crop=False, resample=Image.BILINEAR)
    x = processor([Image.fromarray(p) for p in PICTURES], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = net(x).image_embeds.numpy()
    assert got.shape == (6, 16)
    for a, b in zip(got, wanted, strict=True):  # Pillow rounds to whole grey levels
        assert np.corrcoef(a, b)[0, 1] > 0.99
