"""Scores of the literature: features of deep networks, and n-way top-k of a classifier.

They are given so that numbers can be set beside published ones. Beware of both: two-way scores
saturate, and a classifier's label says nothing beyond the category.
"""

import socket
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import hypergeom

from recon_lib.brain.patterns import similarity
from recon_lib.common.errors import DataError
from recon_lib.data.pictures import uint8_pictures
from recon_lib.scores.identification import checked, two_way

# Network, layer, side of its pictures: as in MindEye (Scotti et al. 2023, arXiv:2305.18274).
LAYERS = {
    "AlexNet(2)": ("alexnet", "features.4", 256),
    "AlexNet(5)": ("alexnet", "features.11", 256),
    "Inception": ("inception_v3", "avgpool", 342),
}
CLIP = "openai/clip-vit-large-patch14"
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CLIP_MEAN, CLIP_SPREAD = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)


def n_way_top_k(probabilities: np.ndarray, target: np.ndarray, n: int = 50, k: int = 1) -> float:
    """How often the true class is among the k most probable of n classes (MinD-Vis).

    MinD-Vis (Chen et al. 2023, arXiv:2211.06956) draws n - 1 wrong classes at random and looks
    whether the true one is among the first k, a thousand times. Here all draws are counted at
    once: with g classes above the true one, the number drawn of them is hypergeometric.

    Parameters
    ----------
    probabilities : (pictures, classes) array
        A classifier's, for the reconstructions.
    target : (pictures,) int array
        The class that the *same classifier* gives to the picture seen. It is no human label.
    n, k : int

    Returns
    -------
    float
        In [0, 1]; chance k / n. Ties count as a random order.
    """
    p, target = checked(probabilities, target)
    classes = p.shape[1]
    if not 1 <= k <= n <= classes:
        raise DataError(f"{n}-way top-{k} of {classes} classes; expected 1 <= k <= n <= {classes}")
    own = p[np.arange(len(p)), target][:, None]
    above, equal = (p > own).sum(1), (p == own).sum(1) - 1
    scores = [hypergeom.cdf(k - 1, classes - 1, a + np.arange(e + 1), n - 1).mean()
              for a, e in zip(above, equal, strict=True)]
    return float(np.mean(scores))


def prepared(images, side, mean=MEAN, spread=SPREAD):
    """Pictures (n, H, W, 3) uint8 as a network wants them: (n, 3, side, side), standardised."""
    images = np.ascontiguousarray(uint8_pictures(images))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(spread).view(3, 1, 1)


@contextmanager
def impatient(seconds=20):
    """No connection may hang for longer than this."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@torch.inference_mode()
def in_batches(function, images, batch=16):
    """Apply `function` to a few pictures at a time: (n, d) array."""
    parts = [function(images[i : i + batch]) for i in range(0, len(images), batch)]
    return torch.cat([part.flatten(1).float() for part in parts]).numpy()


def layer_features(name, weights="DEFAULT"):
    """Features at one of `LAYERS`: a function images (n, H, W, 3) -> (n, d).

    Parameters
    ----------
    weights : "DEFAULT" or None
        Those of ImageNet, fetched on first use (AlexNet 244 MB, Inception 109 MB), or random
        ones.
    """
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    network, layer, side = LAYERS[name]
    options = {"init_weights": False} if network == "inception_v3" and weights is None else {}
    net = get_model(network, weights=weights, **options).eval()
    with warnings.catch_warnings():  # of layers that exist in training only
        warnings.simplefilter("ignore", UserWarning)
        net = create_feature_extractor(net, [layer])
    return lambda images: in_batches(lambda some: net(prepared(some, side))[layer], images)


def clip_features(name=CLIP):
    """What CLIP (ViT-L/14) makes of pictures: a function images -> (n, 768). Needs transformers."""
    from transformers import CLIPVisionModelWithProjection

    net = CLIPVisionModelWithProjection.from_pretrained(name).eval()
    side = net.config.image_size
    return lambda images: in_batches(
        lambda some: net(prepared(some, side, CLIP_MEAN, CLIP_SPREAD)).image_embeds, images
    )


def deep_scores(reconstructions: dict[str, np.ndarray], truth: np.ndarray, target: np.ndarray,
                say: Callable = print, make: dict[str, Callable] | None = None) -> dict[str, dict]:
    """Two-way identification in each feature space whose weights can be had.

    Parameters
    ----------
    reconstructions : dict of str to uint8 array (trials, H, W, 3)
    truth : uint8 array (candidates, H, W, 3)
    target : (trials,) int array
        Which candidate was seen.
    say : function
        Told in a sentence which space is left out, and why.
    make : dict of str to function, optional
        Name of a space -> function that makes `features(images)`; default: AlexNet, layers 2
        and 5, Inception and CLIP.

    Returns
    -------
    dict of str to dict of str to float
        ``{decoder: {space: two-way}}``; chance .5.
    """
    if make is None:
        make = {name: lambda name=name: layer_features(name) for name in LAYERS}
        make["CLIP"] = clip_features
    table: dict = {name: {} for name in reconstructions}
    for space, features_of in make.items():
        try:
            with impatient():
                features = features_of()
        except ImportError as error:
            say(f"{space} is left out: it needs the package {error.name}.")
            continue
        except (OSError, RuntimeError) as error:  # no network, or a damaged download
            reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
            say(f"{space} is left out: its weights cannot be had here ({reason}).")
            continue
        known = features(truth)
        for name, pictures in reconstructions.items():
            table[name][space] = two_way(similarity(features(pictures), known), target)
    return table
