"""Scores of the literature: its table of eight, and n-way top-k of a classifier.

They are given so that numbers can be set beside published ones. Read them with care: two-way
scores saturate, and a classifier's label says nothing beyond the category. The networks were tested
here with random weights against the formulas; with their real weights they have not been run.
"""

import socket
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from recon_lib.brain.encoders import CLIP, IMAGENET, from_torchvision, from_transformers
from recon_lib.brain.patterns import similarity, unit_rows
from recon_lib.common.errors import DataError, reason
from recon_lib.data.pictures import squared, uint8_pictures
from recon_lib.scores.identification import bootstrap_interval, n_way_hits, two_way_wins
from recon_lib.scores.metrics import pixel_correlation, ssim

# Network, layer, side of its pictures: as in MindEye (Scotti et al. 2023, arXiv:2305.18274).
LAYERS = {
    "AlexNet(2)": ("alexnet", "features.4", 256),
    "AlexNet(5)": ("alexnet", "features.11", 256),
    "Inception": ("inception_v3", "avgpool", 342),
    "EffNet-B": ("efficientnet_b1", "avgpool", 255),
    "SwAV": ("resnet50", "avgpool", 224),
}
DISTANCES = ("EffNet-B", "SwAV")  # lower is better; the other networks name the picture, two-way
TABLE = ("PixCorr", "SSIM", "AlexNet(2)", "AlexNet(5)", "Inception", "CLIP", *DISTANCES)
SIDE = 425  # at which the literature compares pixels
CLIP_MODEL = "openai/clip-vit-large-patch14"
SWAV = "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar"


def n_way_top_k(probabilities: np.ndarray, target: np.ndarray, n: int = 50, k: int = 1) -> float:
    """How often the true class is among the k most probable of n classes (MinD-Vis).

    MinD-Vis (Chen et al. 2023, arXiv:2211.06956) draws n - 1 wrong classes at random and looks
    whether the true one is among the first k, a thousand times. Here all draws are counted at
    once, see `identification.n_way_hits`.

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
    return float(n_way_hits(probabilities, target, n, k).mean())


def prepared(images, side, colours=IMAGENET):
    """Pictures (n, H, W, 3) uint8 as a network wants them: (n, 3, side, side), standardised."""
    images = np.ascontiguousarray(uint8_pictures(images))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    mean, spread = torch.tensor(colours).view(2, 3, 1, 1)
    return (x - mean) / spread


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
    return torch.cat([part.flatten(1).float().cpu() for part in parts]).numpy()


def torchvision_network(name, weights="DEFAULT"):
    """The network of one of `LAYERS`; SwAV's weights are those of its authors, for a ResNet-50."""
    theirs = name == "SwAV" and weights is not None
    net = from_torchvision(LAYERS[name][0], weights is not None and not theirs).eval()
    if not theirs:
        return net
    state = torch.hub.load_state_dict_from_url(SWAV, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    left = net.load_state_dict(state, strict=False)  # it has a head of its own in place of fc
    if set(left.missing_keys) - {"fc.weight", "fc.bias"}:
        raise RuntimeError(f"{SWAV} lacks {left.missing_keys[0]}")
    return net


def layer_features(name: str, weights: str | None = "DEFAULT", device: str = "cpu") -> Callable:
    """Features at one of `LAYERS`: a function images (n, H, W, 3) -> (n, d).

    `weights`: "DEFAULT", those of ImageNet, fetched on first use (AlexNet 244 MB, Inception 109
    MB), or None, random ones.
    """
    from torchvision.models.feature_extraction import create_feature_extractor

    _, layer, side = LAYERS[name]
    with warnings.catch_warnings():  # of layers that exist in training only
        warnings.simplefilter("ignore", UserWarning)
        net = create_feature_extractor(torchvision_network(name, weights), [layer]).to(device)
    return lambda images: in_batches(
        lambda some: net(prepared(some, side).to(device))[layer], images)


def clip_features(name: str = CLIP_MODEL, device: str = "cpu") -> Callable:
    """What CLIP (ViT-L/14) makes of pictures: a function images -> (n, 768). Needs transformers."""
    net = from_transformers("CLIPVisionModelWithProjection", name).eval().to(device)
    side = net.config.image_size
    return lambda images: in_batches(
        lambda some: net(prepared(some, side, CLIP).to(device)).image_embeds, images)


def pixel_scores(name, pictures, seen):
    """PixCorr or SSIM (in grey) of each picture (n,), at `SIDE` pixels as in the literature."""
    if name == "PixCorr":
        return pixel_correlation(squared(pictures, SIDE), squared(seen, SIDE))
    return ssim(*(squared(images, SIDE, 1) for images in (pictures, seen)))


def space_scores(name, features, known, target):
    """A score of each reconstruction (trials,) in one space, from `features` (trials, d).

    `known` (candidates, d) are those of the pictures seen. Correlation distance for `DISTANCES`,
    two-way for the others.
    """
    if name in DISTANCES:
        return 1 - (unit_rows(features) * unit_rows(known)[target]).sum(1)
    return two_way_wins(similarity(features, known), target)


def feature_space(name, make, say):
    """The function that gives features in one space; or None, and a sentence says why."""
    try:
        with impatient():
            return make()
    except ImportError as error:
        say(f"{name} is left out: it needs the package {error.name}.")
    except (OSError, RuntimeError) as error:  # no network, or a damaged download
        say(f"{name} is left out: its weights cannot be had here ({reason(error)}).")
    return None


def literature_scores(reconstructions: dict[str, np.ndarray], truth: np.ndarray,
                      target: np.ndarray, names: Sequence[str] = TABLE, say: Callable = print,
                      make: dict[str, Callable] | None = None, device: str = "cpu",
                      seed: int = 0) -> dict[str, dict[str, tuple]]:
    """The scores of the literature's table, of those networks whose weights can be had.

    PixCorr and SSIM by pixels; AlexNet, Inception and CLIP by two-way identification, chance .5;
    EfficientNet-B1 and SwAV by the correlation distance to the picture seen, 0 the best.

    Parameters
    ----------
    reconstructions : dict of str to uint8 array (trials, H, W, C)
    truth : uint8 array (candidates, H, W, C)
    target : (trials,) int array
        Which candidate was seen.
    names : sequence of str
        Which of `TABLE`, or of `make`; the weights of others are not fetched.
    say : function
        Told in a sentence which is left out, and why.
    make : dict of str to function, optional
        Name of a space -> function that makes `features(images)`, in place of those of `TABLE`.
    device : str
    seed : int
        Of the intervals.

    Returns
    -------
    dict of str to dict of str to (float, float, float)
        ``{decoder: {score: (mean over trials, low, high)}}``: a 95 % bootstrap interval over
        pictures.
    """
    make = {name: partial(layer_features, name, device=device) for name in LAYERS} | {
        "CLIP": partial(clip_features, device=device)} | (make or {})
    unknown = set(names) - set(make) - set(TABLE)
    if unknown:
        raise DataError(f"found a score named {sorted(unknown)[0]}; expected some of "
                        + ", ".join(TABLE))
    table: dict = {name: {} for name in reconstructions}
    for name in names:
        features = feature_space(name, make[name], say) if name in make else None
        if name in make and features is None:
            continue
        known = None if features is None else features(truth)
        for decoder, pictures in reconstructions.items():
            values = (pixel_scores(name, pictures, truth[target]) if features is None else
                      space_scores(name, features(pictures), known, target))
            table[decoder][name] = (float(values.mean()),
                                    *bootstrap_interval(values, target, seed=seed))
    return table
