"""The U-Net: shapes, conditioning, what starts at zero, and clear refusals."""

import pytest
import torch

from recon_lib.common.errors import DataError
from recon_lib.diffusion import cosine_schedule, denoiser
from recon_lib.guidance import guided
from recon_lib.unet import Attention, ResidualBlock, UNet, VectorEncoder

SMALL = dict(channels=(16, 32), blocks=1, patch=2, attention=(1,), width=32)


def awake(seed=0, **changes):
    """A small network without zeroed layers, so that everything has an effect."""
    torch.manual_seed(seed)
    model = UNet(**{**SMALL, **changes})
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(b=3, channels=3, side=16, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(b, channels, side, side, generator=g), torch.randint(1000, (b,), generator=g)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 12, 32])
@pytest.mark.parametrize("blocks, patch", [(1, 1), (2, 2)])
def test_output_is_shaped_like_the_picture(channels, side, blocks, patch):
    model = awake(image_channels=channels, blocks=blocks, patch=patch)
    x, t = inputs(2, channels, side)
    assert model(x, t).shape == x.shape


@pytest.mark.parametrize("side", [4, 16, 20])  # few places, as many as count as few, many
def test_attention_is_that_of_pytorch(side):
    torch.manual_seed(0)
    ours, theirs = Attention(128), torch.nn.MultiheadAttention(128, heads := 2, batch_first=True)
    assert ours.heads == heads
    torch.nn.init.normal_(ours.out.weight, std=0.1)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight.flatten(1))
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight.flatten(1))
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(2, 128, side, side)
    places = ours.norm(x).flatten(2).transpose(1, 2)  # (b, places, c)
    wanted = theirs(places, places, places, need_weights=False)[0].transpose(1, 2)
    torch.testing.assert_close(ours(x), x + wanted.reshape(x.shape), atol=1e-5, rtol=1e-4)


def test_heads_share_the_channels_out_evenly():
    """336 channels have no five equal heads; they have four."""
    assert [Attention(c).heads for c in (32, 64, 320, 336)] == [1, 1, 5, 4]
    assert Attention(336)(torch.zeros(1, 336, 2, 2)).shape == (1, 336, 2, 2)


def test_default_network_is_small_and_starts_at_zero():
    model = UNet()
    assert 3e6 < sum(p.numel() for p in model.parameters()) < 5e6
    x, t = inputs(1, 3, 64)
    assert not model(x, t).any()


def test_parameters_of_a_block_counted_by_hand():
    block = ResidualBlock(16, 32, width=8, conditional=True)
    convolutions = (16 * 32 * 9 + 32) + (32 * 32 * 9 + 32) + (16 * 32 + 32)  # two 3x3, a 1x1
    scale_shift, norms = 2 * (8 * 64 + 64), 2 * 16 + 2 * 32
    assert sum(p.numel() for p in block.parameters()) == convolutions + scale_shift + norms


def test_config_rebuilds_the_network():
    model = awake(condition_size=7)
    again = UNet(**model.config)
    again.load_state_dict(model.state_dict())
    x, t = inputs()
    y = torch.randn(3, 7)
    torch.testing.assert_close(again.eval()(x, t, y), model(x, t, y), rtol=0, atol=0)


def test_every_parameter_gets_a_gradient():
    model, (x, t) = awake(condition_size=7), inputs()
    mask = torch.tensor([True, False, True])
    model(x, t, torch.randn(3, 7), mask).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_time_and_condition_enter_every_residual_block():
    model = awake(condition_size=7, blocks=2)
    blocks = [m for m in model.modules() if isinstance(m, ResidualBlock)]
    assert len(blocks) == 2 * 2 * 2 + 2
    x, t = inputs()
    for block in blocks:
        seen = []
        hook = block.norm2.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        model(x, t, torch.ones(3, 7))
        hook.remove()
        width = torch.randn(1, 32)
        h = torch.randn(1, block.conv1.in_channels, 4, 4)
        base = block(h, width, width)
        assert seen and not torch.equal(block(h, width + 1, width), base)
        assert not torch.equal(block(h, width, width + 1), base)


def test_condition_starts_without_effect():
    torch.manual_seed(0)
    model = UNet(**SMALL, condition_size=7)
    torch.nn.init.normal_(model.conv_out.weight)
    x, t = inputs()
    assert torch.equal(model(x, t, torch.randn(3, 7)), model(x, t))
    assert model(x, t).any()


@pytest.mark.slow
def test_a_colour_is_learnt_from_the_condition_alone():
    torch.manual_seed(0)
    model = UNet(**{**SMALL, "condition_size": 3})
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    y = torch.rand(8, 3) * 2 - 1
    colour, t = y.view(8, 3, 1, 1).expand(8, 3, 8, 8), torch.full((8,), 999)
    for _ in range(80):
        loss = (model(torch.randn(8, 3, 8, 8), t, y) - colour).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * colour.var()


def test_a_dropped_condition_is_no_condition_and_zero_is_a_condition():
    model, (x, t) = awake(condition_size=7), inputs()
    y = torch.randn(3, 7)
    mask = torch.tensor([True, False, True])
    mixed, kept, without = model(x, t, y, mask), model(x, t, y), model(x, t)
    torch.testing.assert_close(mixed[mask], kept[mask])
    torch.testing.assert_close(mixed[~mask], without[~mask])
    assert (model(x, t, torch.zeros(3, 7)) - without).abs().max() > 1e-3


def test_guidance_at_zero_and_one_with_a_network():
    model, (x, _) = awake(condition_size=7), inputs()
    t, y, alpha_bar = torch.full((3,), 600), torch.randn(3, 7), cosine_schedule()

    def guess(condition=None, scale=1.0):
        with_it, without = (denoiser(model, "x0", alpha_bar, y, clamp=False)
                            for y in (condition, None))
        return guided(with_it, without, alpha_bar, scale, clamp=False)(x, t)

    with torch.no_grad():
        torch.testing.assert_close(guess(y, 0.0), guess(), atol=1e-5, rtol=1e-4)
        half = 0.5 * (guess(y, 1.0) + guess())
        torch.testing.assert_close(guess(y, 0.5), half, atol=1e-5, rtol=1e-4)
        assert (guess(y, 1.0) - guess()).abs().max() > 1e-2


@pytest.mark.parametrize("size", [10, 3000])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_encoder_takes_vectors_of_any_width_and_unit(size, unit):
    torch.manual_seed(0)
    code = VectorEncoder(size, 32)(unit * torch.randn(5, size))
    assert code.isfinite().all() and 0.01 < code.std() < 3
    assert code.std(0).mean() > 1e-3  # different vectors, different codes


def test_encoder_survives_an_all_zero_vector_and_sees_strength():
    torch.manual_seed(0)
    encoder, y = VectorEncoder(20, 32), torch.randn(1, 20)
    assert encoder(torch.zeros(1, 20)).isfinite().all()
    assert (encoder(2 * y) - encoder(y)).abs().max() > 1e-3


def test_misfits_are_refused_in_one_line():
    model, (x, t) = awake(condition_size=7), inputs()
    cases = [
        (lambda: model(x, t, torch.zeros(3, 8)), r"\(3, 8\).*\(3, 7\)"),
        (lambda: model(x, t, torch.zeros(2, 7)), r"\(2, 7\).*\(3, 7\)"),
        (lambda: model(x[..., :14], t), "3 x 16 x 14.*divisible by 4"),
        (lambda: model(x[:, :1], t), "1 x 16 x 16.*3 channels"),
        (lambda: awake()(x, t, torch.zeros(3, 7)), "unconditional"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_channels_last_gives_the_same_answer():
    model, (x, t) = awake(), inputs()
    plain = model(x, t)
    last = torch.channels_last
    model = model.to(memory_format=last)
    torch.testing.assert_close(model(x.to(memory_format=last), t), plain, atol=1e-4, rtol=1e-4)
