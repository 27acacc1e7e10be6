"""The network to beat: a plain U-Net on pixels, with attention at every level."""

import torch
import torch.nn.functional as F
from torch import nn

from recon_lib.unet import time_features


class Block(nn.Module):
    """Two convolutions, the time added between them, then self-attention over all places."""

    def __init__(self, channels_in, channels_out, width=256, heads=4):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, channels_out), nn.GroupNorm(8, channels_out)
        self.time = nn.Linear(width, channels_out)
        self.norm3 = nn.LayerNorm(channels_out)
        self.attention = nn.MultiheadAttention(channels_out, heads, batch_first=True)

    def forward(self, x, time):  # (b, in, h, w) -> (b, out, h, w)
        h = F.silu(self.norm1(self.conv1(x))) + self.time(time)[:, :, None, None]
        h = F.silu(self.norm2(self.conv2(h)))
        places = self.norm3(h.flatten(2).transpose(1, 2))  # (b, h w, out)
        seen, _ = self.attention(places, places, places, need_weights=False)
        return h + seen.transpose(1, 2).view_as(h)


class PlainUNet(nn.Module):
    """Levels of 64, 128 and 256 channels, a bottleneck of 512, concatenated skips."""

    def __init__(self, channels=(64, 128, 256), bottleneck=512, width=256):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        sizes = [3, *channels]
        self.down = nn.ModuleList(Block(i, o) for i, o in zip(sizes, channels, strict=False))
        self.middle = Block(channels[-1], bottleneck)
        self.rise, self.up, last = nn.ModuleList(), nn.ModuleList(), bottleneck
        for c in reversed(channels):
            self.rise.append(nn.ConvTranspose2d(last, c, 2, stride=2))
            self.up.append(Block(2 * c, c))
            last = c
        self.leave = nn.Conv2d(last, 3, 1)

    def forward(self, x, t):  # (b, 3, h, w), (b,) -> (b, 3, h, w)
        time, skips = F.silu(self.time(time_features(t, self.width))), []
        for block in self.down:
            x = block(x, time)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x, time)
        for rise, block in zip(self.rise, self.up, strict=True):
            x = block(torch.cat([rise(x), skips.pop()], 1), time)
        return self.leave(x)
