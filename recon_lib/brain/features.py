"""What is in a picture: a small network names its object's category, the background and the light.

It is trained on TinyScenes, whose factors are known. Two of these are shipped, trained on
different pictures from different seeds: the *feature encoder* gives the features that betas are
decoded to, the *evaluation classifier* only ever scores. A reader of another kind is in `hog_net`.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from recon_lib.common.errors import DataError, atomic_write
from recon_lib.data.loader import to_batch
from recon_lib.training.checkpoints import CHECKPOINTS
from recon_lib.world.scenes import BACKGROUNDS, CATEGORIES, LIGHTS

NAMED = {"category": CATEGORIES, "background": BACKGROUNDS, "light": LIGHTS}
MEASURED = {"x": (0.5, 0.127), "y": (0.58, 0.069), "size": (0.51, 0.064)}  # mean, SD over scenes
EMBEDDING, PIXEL_SIDE = 96, 16
BATCH, PEAK_LR = 64, 2e-3  # pictures in hand at a time; peak of the one-cycle learning rate
SHIPPED = {  # name: what the file in data/checkpoints was called once, by which it is found too
    "feature_encoder": "eye", "evaluation_classifier": "judge", "independent_classifier": "referee"}


class FactorNet(nn.Module):
    """Four convolutions down to 4 x 4, one embedding, one linear readout per factor."""

    side, widths = 64, (EMBEDDING,)  # of its pictures; how many features a layer gives

    def __init__(self):
        super().__init__()
        layers, last = [], 3
        for c in (32, 64, 96, 128):  # 64 -> 32 -> 16 -> 8 -> 4 pixels a side
            layers += [nn.Conv2d(last, c, 3, stride=2, padding=1), nn.GroupNorm(8, c), nn.SiLU()]
            last = c
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.embedding = nn.Linear(128 * 16, EMBEDDING)
        self.named = named_readouts(EMBEDDING)
        self.measured = nn.Linear(EMBEDDING, 5)  # cos and sin of the hue, x, y, size

    def embed(self, x):  # (b, 3, 64, 64) in [-1, 1] -> (b, EMBEDDING)
        return self.embedding(self.trunk(x))

    def forward(self, x):
        e = torch.tanh(self.embed(x))
        return read_named(self.named, e) | {"measured": self.measured(e)}


def named_readouts(width):
    """One linear readout for each named factor; weights on disk call the category "kind"."""
    return nn.ModuleDict({"kind" if k == "category" else k: nn.Linear(width, len(v))
                          for k, v in NAMED.items()})


def read_named(readouts, e):
    """Logits of each named factor, {name: (b, classes)}, from an embedding."""
    return {k: readouts["kind" if k == "category" else k](e) for k in NAMED}


def measured_targets(factors):
    """The continuous factors on comparable scales: (n, 5) float32."""
    angle = 2 * np.pi * factors["hue"]
    scaled = [(factors[k] - mean) / sd for k, (mean, sd) in MEASURED.items()]
    return np.stack([np.cos(angle), np.sin(angle), *scaled], 1).astype(np.float32)


def measured_factors(targets):
    """The inverse of `measured_targets`: (n, 5) -> hue, x, y and size (n,) by name."""
    cos, sin, *scaled = targets.T
    return {"hue": (np.arctan2(sin, cos) / (2 * np.pi)) % 1} | {
        k: mean + sd * x for (k, (mean, sd)), x in zip(MEASURED.items(), scaled, strict=True)}


def fitted(x, side=64):
    """Pictures (n, 1 or 3, H, W) as a network takes them: (n, 3, side, side)."""
    if x.shape[-2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    return x.expand(-1, 3, -1, -1)


def coarse_pixels(images: np.ndarray):
    """Pictures at 16 x 16: (n, 768) float32 in [-1, 1]."""
    x = F.adaptive_avg_pool2d(fitted(to_batch(images)), PIXEL_SIDE)
    return x.flatten(1).numpy()


def noisy(x, generator):
    """Pictures (b, 3, 64, 64) in [-1, 1] with noise, whose SD is drawn from 0 to 0.3 for each."""
    sd = 0.3 * torch.rand(len(x), 1, 1, 1, generator=generator)
    return x + sd * torch.randn(x.shape, generator=generator)


def train_factor_net(images, factors, seed=0, epochs=6, kind=FactorNet, spoil=noisy):
    """Fit a network to pictures (n, 64, 64, 3) uint8 with known `scenes.FACTORS` (n,).

    `kind` is the class: `FactorNet`, or another with the same outputs. `spoil` takes the pictures
    (b, 3, 64, 64) of a batch and a generator, and makes them worse, so that the network learns to
    read imperfect ones.
    """
    generator = torch.Generator().manual_seed(int(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = kind()
    named = {k: torch.from_numpy(factors[k].astype(np.int64)) for k in NAMED}
    measured = torch.from_numpy(measured_targets(factors))
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_LR, weight_decay=1e-2)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    for _ in tqdm(range(epochs), desc="factor net", disable=None):
        for i in torch.randperm(len(images), generator=generator).split(BATCH):
            out = net(spoil(fitted(to_batch(images[i.numpy()])), generator))
            loss = sum(F.cross_entropy(out[k], named[k][i]) for k in NAMED)
            loss = loss + F.mse_loss(out["measured"], measured[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def embed(net: nn.Module, images: np.ndarray):
    """Features of pictures by a feature encoder: (n, p) float32."""
    parts = [net.embed(fitted(to_batch(images[i : i + BATCH]), net.side)).float()
             for i in range(0, len(images), BATCH)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def read_factors(net: nn.Module, images: np.ndarray) -> dict:
    """What a `FactorNet`, or the independent classifier, reads from pictures.

    Returns
    -------
    dict
        For "category", "background" and "light" the probabilities (n, classes); for "hue", "x",
        "y" and "size" the estimates (n,), in the units of `scenes.FACTORS`.
    """
    outs = [net(fitted(to_batch(images[i : i + BATCH]))) for i in range(0, len(images), BATCH)]
    read = {k: torch.cat([o[k] for o in outs]).softmax(1).numpy() for k in NAMED}
    return read | measured_factors(torch.cat([o["measured"] for o in outs]).numpy())


def save_factor_net(net, path, **card):
    """Write a network as safetensors, with `card` (how it was made) as metadata."""
    with atomic_write(path) as partial:
        save_file(net.state_dict(), partial,
                  {"kind": type(net).__name__, "card": json.dumps(card)})


def load_factor_net(path: str | Path, kind: type = FactorNet):
    """Read a `FactorNet`, or a network of another kind, from a file or under a name of `SHIPPED`.

    Raises
    ------
    DataError
        If the file is missing, damaged or holds another network.
    """
    for name, former in SHIPPED.items():
        path = CHECKPOINTS / f"{name}.safetensors" if path in (name, former) else path
    try:
        with safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        net = kind()
        net.load_state_dict(state)
        if not all(w.isfinite().all() for w in state.values()):
            raise RuntimeError("weights that are NaN or infinite")
    except FileNotFoundError as error:
        raise DataError(f"no file {path}; make it with `recon_lib train features`") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{path} does not hold a {kind.__name__} ({str(error).splitlines()[0][:80]}); "
            "give a file written by save_factor_net, or download it anew") from error
    return net.eval()
