"""The U-Net: a noisy picture, a time and (when there is one) a brain vector in; a prediction out.

Three choices make it fast on a CPU. Patches: `pixel_unshuffle` folds 4x4 pixels into channels, so
that a 64x64 picture is 16x16 for every convolution. Depth where it is cheap: the lower levels have
more channels on fewer places. Attention only on the lowest levels, where all places are few.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon_lib.common.errors import DataError


def time_features(t: Tensor, size: int, longest: float = 10_000.0) -> Tensor:
    """Sines and cosines of the time, from fast to slow ("Attention Is All You Need", sec. 3.5).

    Parameters
    ----------
    t : Tensor (b,)
        Time steps, 0 … 999.
    size : int
        Number of features, even.

    Returns
    -------
    Tensor (b, size)
    """
    rates = torch.exp(-math.log(longest) * torch.arange(size // 2, device=t.device) / (size // 2))
    angles = t[:, None].float() * rates[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def normalise(channels: int):
    """GroupNorm with sixteen channels a group (all in one group when that does not divide)."""
    return nn.GroupNorm(channels // 16 if channels % 16 == 0 else 1, channels)


def zero_init(layer: nn.Module):
    """The same layer with all its parameters at zero: a branch that starts by doing nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; time and condition scale and shift what lies between them."""

    def __init__(self, channels_in, channels_out, width, conditional, dropout=0.0):
        super().__init__()
        self.norm1 = normalise(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(width, 2 * channels_out)
        # at zero the conditional network is the unconditional one: an exact warm start
        self.condition = zero_init(nn.Linear(width, 2 * channels_out)) if conditional else None
        self.norm2 = normalise(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x, time, condition=None):  # (b, in, h, w), (b, width) -> (b, out, h, w)
        h = self.conv1(F.silu(self.norm1(x)))
        scale_shift = self.time(time)
        if self.condition is not None:
            scale_shift = scale_shift + self.condition(condition)
        scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)  # (b, out, 1, 1) each
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        return self.skip(x) + self.conv2(self.dropout(h))


class Attention(nn.Module):
    """Every place looks at every other place."""

    def __init__(self, channels, head=64):
        super().__init__()
        most = max(1, channels // head)
        self.heads = next(n for n in range(most, 0, -1) if channels % n == 0)
        self.norm = normalise(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x):  # (b, c, h, w) -> (b, c, h, w)
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.transpose(3, 4).unbind(1)  # (b, heads, places, c / heads) each
        if x.is_cuda or height * width > 256:  # never holds all pairs of places in memory
            h = F.scaled_dot_product_attention(q, k, v)
        else:  # the same in the open: for few places faster on a CPU, above all on the way back
            h = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return x + self.out(h.transpose(2, 3).reshape(b, c, height, width))


class Stage(nn.Module):
    """A residual block and, where the level asks for it, attention."""

    def __init__(self, channels_in, channels_out, width, conditional, attend, dropout):
        super().__init__()
        self.block = ResidualBlock(channels_in, channels_out, width, conditional, dropout)
        self.attention = Attention(channels_out) if attend else nn.Identity()

    def forward(self, x, time, condition):
        return self.attention(self.block(x, time, condition))


def unit_length(vector: Tensor):
    """A vector (b, size) at length √size, followed by the logarithm of its size: (b, size + 1).

    So betas in any unit are welcome, and a weak response stays a weak response.
    """
    vector = vector.float()
    power = vector.square().mean(1, keepdim=True)
    unit = vector / (power + 1e-6).sqrt()
    return torch.cat([unit, 0.5 * (power + 1e-6).log()], dim=1)


class VectorEncoder(nn.Module):
    """A small MLP from a brain vector of any width to an embedding.

    The vector is layer-normalised and its overall size is handed over separately.

    Parameters
    ----------
    size : int
        Width of the vector.
    width : int
        Width of the embedding.
    dropout : float
        Share of vector entries and hidden units dropped in training.
    """

    def __init__(self, size, width, dropout=0.0):
        super().__init__()
        self.first = nn.Linear(size + 1, width)
        self.hidden = nn.Linear(width, width)
        self.last = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vector):  # (b, size) -> (b, width)
        x = unit_length(vector)
        h = F.silu(self.first(torch.cat([self.dropout(x[:, :-1]), x[:, -1:]], dim=1)))
        h = h + F.silu(self.hidden(self.dropout(h)))
        return self.last(h)


class UNet(nn.Module):
    """A U-Net on patches, conditioned in every block on time and, if asked, on a brain vector.

    Parameters
    ----------
    image_channels : int
        3 for colour, 1 for grey.
    channels : sequence of int
        Channels of each level; every level halves height and width of the one above.
    blocks : int
        Residual blocks a level, on the way down and again on the way up.
    patch : int
        Side of the pixel patches folded into channels (1: none).
    attention : sequence of int
        The levels with self-attention (0 is the finest). The middle has it in any case.
    condition_size : int or None
        Width of the brain vector; None for an unconditional network.
    width : int
        Width of the time and condition embeddings.
    dropout : float
        Dropout in the residual blocks; in the vector encoder too.

    Notes
    -----
    `config` holds these arguments: `UNet(**model.config)` builds the same network.
    """

    def __init__(self, image_channels=3, channels=(64, 128, 192), blocks=1, patch=4, attention=(2,),
                 condition_size=None, width=256, dropout=0.0):
        super().__init__()
        channels, attention = list(channels), list(attention)
        self.config = dict(
            image_channels=image_channels, channels=channels, blocks=blocks, patch=patch,
            attention=attention, condition_size=condition_size, width=width, dropout=dropout)
        self.stride = patch * 2 ** (len(channels) - 1)
        conditional = condition_size is not None
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        if conditional:
            self.encoder = VectorEncoder(condition_size, width, dropout)
            self.null = nn.Parameter(torch.zeros(width))  # "no condition", after the encoder

        def stage(channels_in, channels_out, attend):
            return Stage(channels_in, channels_out, width, conditional, attend, dropout)

        pixels = image_channels * patch**2
        self.conv_in = nn.Conv2d(pixels, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.up_conv = nn.ModuleList()  # 1x1, before each step up: the channels of the level above
        last = channels[0]
        for level, c in enumerate(channels):
            attend = level in attention
            self.down.append(nn.ModuleList([stage(last, c, attend)]))
            self.down[-1].extend(stage(c, c, attend) for _ in range(blocks - 1))
            self.up.append(nn.ModuleList(stage(c, c, attend) for _ in range(blocks)))
            self.up_conv.append(nn.Conv2d(c, last, 1) if level else nn.Identity())
            last = c
        self.middle = nn.ModuleList([stage(last, last, True), stage(last, last, False)])
        last = channels[0]
        self.norm = normalise(last)
        self.conv_out = zero_init(nn.Conv2d(last, pixels, 3, padding=1))

    def embed(self, condition, mask, n):
        """Embedding of the condition, (n, width); where it is masked, the null embedding."""
        if self.config["condition_size"] is None:
            if condition is not None:
                raise DataError(
                    f"a condition {tuple(condition.shape)} was given to an unconditional network; "
                    "build the UNet with condition_size, or pass no condition")
            return None
        if condition is None:
            return self.null.expand(n, -1)
        size = self.config["condition_size"]
        if condition.shape != (n, size):
            raise DataError(
                f"the condition has shape {tuple(condition.shape)}, the network expects "
                f"{(n, size)}; pass one vector of {size} numbers per image")
        code = self.encoder(condition)
        if mask is None:
            return code
        return torch.where(mask[:, None], code, self.null.to(code.dtype))

    def refuse_misfits(self, x):
        """Stop with a `DataError` if pictures (b, C, H, W) have not the channels or sides."""
        c, height, width = x.shape[1:]
        if c != self.config["image_channels"] or height % self.stride or width % self.stride:
            raise DataError(
                f"the pictures are {c} x {height} x {width}, the network takes "
                f"{self.config['image_channels']} channels and sides divisible by {self.stride}; "
                "resize the pictures or change channels/patch")

    def forward(self, x, t, condition=None, mask=None):
        """Predict from a noisy picture.

        Parameters
        ----------
        x : Tensor (b, image_channels, H, W)
            Noisy pictures; H and W divisible by `stride`.
        t : LongTensor (b,)
            Time steps.
        condition : Tensor (b, condition_size), optional
            Brain vectors; without them every sample is unconditional.
        mask : BoolTensor (b,), optional
            Condition mask. False: this sample goes without (classifier-free guidance).

        Returns
        -------
        Tensor (b, image_channels, H, W)
            Whatever the network was trained to predict: x0, epsilon or v.

        Raises
        ------
        DataError
            If the pictures or the condition do not fit the network.
        """
        self.refuse_misfits(x)
        time = F.silu(self.time(time_features(t, self.config["width"])))  # (b, width)
        condition = self.embed(condition, mask, len(x))
        if condition is not None:
            condition = F.silu(condition)

        h = self.conv_in(F.pixel_unshuffle(x, self.config["patch"]))  # (b, c0, H/patch, W/patch)
        skips = []
        for level, stages in enumerate(self.down):
            if level:
                h = F.avg_pool2d(h, 2)  # half the height and width
            for stage in stages:
                h = stage(h, time, condition)
                skips.append(h)
        for stage in self.middle:
            h = stage(h, time, condition)
        for level in reversed(range(len(self.up))):
            for stage in self.up[level]:
                h = stage(h + skips.pop(), time, condition)
            if level:
                h = F.interpolate(self.up_conv[level](h), scale_factor=2.0, mode="nearest")
        h = self.conv_out(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.config["patch"])
