"""The independent classifier: what can be seen in a picture, by a network of another kind.

The feature encoder and the evaluation classifier are of one architecture, `features.FactorNet`:
convolutions on pixels. A picture that was steered until the feature encoder finds what it should
may deceive the evaluation classifier too, though no person sees anything in it. This network shares
nothing with them but the names that it may give. Its inputs are the strength of the edges of each
direction in small cells, and the mean colour of each cell (histograms of oriented gradients, Dalal
and Triggs 2005, doi:10.1109/CVPR.2005.177). A window of the size of an object slides over the
cells, and its strongest and mean outputs are kept. It was trained on distorted scenes of its own,
so that it can also read poor drawings.

It only reports: nothing is chosen by it, and no score of identification uses it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from recon_lib.brain.features import load_factor_net, named_readouts, read_named

DIRECTIONS = 8  # of edges, from 0 to 180 degrees
CELL = 4  # pixels a side
WINDOW, STRIDE = 10, 2  # cells: a window of 40 pixels, as large as objects are, every 8 pixels
WIDTH, EMBEDDING = 256, 128


def edges_and_colours(x):
    """Inputs of a `HogNet` from pictures (n, 3, 64, 64) in [-1, 1]: (n, DIRECTIONS + 3, 16, 16).

    For each cell, how strong its edges of each direction are (square root of the mean over its
    pixels, the colours added), and its mean colour. Direction k is that of a brightness that
    changes along k · 180 / `DIRECTIONS` degrees, clockwise from the right.
    """
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]  # (n, 3, 64, 64)
    dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    strength = (dx**2 + dy**2 + 1e-6).sqrt()
    # From light to dark or from dark to light, an edge is the same: twice its angle counts.
    cos = ((dx**2 - dy**2) / strength).sum(1, keepdim=True)  # (n, 1, 64, 64)
    sin = (2 * dx * dy / strength).sum(1, keepdim=True)
    angle = 2 * torch.pi * torch.arange(DIRECTIONS, device=x.device).view(1, -1, 1, 1) / DIRECTIONS
    votes = (cos * angle.cos() + sin * angle.sin()).relu()  # (n, DIRECTIONS, 64, 64)
    return torch.cat([F.avg_pool2d(votes, CELL).sqrt(), F.avg_pool2d(x, CELL)], 1)


class HogNet(nn.Module):
    """One small network looks into every window; the strongest and the mean answers are read."""

    def __init__(self):
        super().__init__()
        told = (DIRECTIONS + 3) * WINDOW**2
        self.window = nn.Sequential(nn.LayerNorm(told), nn.Linear(told, WIDTH), nn.GELU(),
                                    nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.whole = nn.Sequential(
            nn.LayerNorm(2 * WIDTH), nn.Linear(2 * WIDTH, EMBEDDING), nn.GELU())
        self.named = named_readouts(EMBEDDING)
        self.measured = nn.Linear(EMBEDDING, 5)  # as in a `FactorNet`

    def forward(self, x):  # (b, 3, 64, 64) in [-1, 1]
        cells = edges_and_colours(x)
        windows = F.unfold(cells, WINDOW, stride=STRIDE).transpose(1, 2)  # (b, 16, told)
        answers = self.window(windows)  # (b, 16, WIDTH)
        e = self.whole(torch.cat([answers.amax(1), answers.mean(1)], 1))
        return read_named(self.named, e) | {"measured": self.measured(e)}


def distorted(x, generator):
    """Pictures (b, 3, 64, 64) as a poor drawing would show them, for training.

    Each is moved (by an SD of 1.3 pixels each way), bent (by 0.6), blurred between not at all and
    half the resolution, and gets noise with an SD from 0 to 0.2.
    """
    n = len(x)
    bend = 0.04 * torch.randn(n, 2, 1, 1, generator=generator)  # 1 is half a side, 32 pixels
    bend = bend + 0.02 * torch.randn(n, 2, 5, 5, generator=generator)
    bend = F.interpolate(bend, x.shape[-2:], mode="bicubic", align_corners=True)
    still = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), x.shape, align_corners=False)
    x = F.grid_sample(x, still + bend.permute(0, 2, 3, 1), padding_mode="border",
                      align_corners=False)
    coarse = F.interpolate(F.avg_pool2d(x, 2), x.shape[-2:], mode="bilinear")
    x = torch.lerp(x, coarse, torch.rand(n, 1, 1, 1, generator=generator))
    noise = 0.2 * torch.rand(n, 1, 1, 1, generator=generator)
    return x + noise * torch.randn(x.shape, generator=generator)


def load_independent_classifier(path: str | Path = "independent_classifier"):
    """Read a `HogNet`, by default the shipped one; use it with `features.read_factors`."""
    return load_factor_net(path, HogNet)
