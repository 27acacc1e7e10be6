"""Subjects with different voxels in one network: a first layer each, the rest in common."""

import pytest
import torch

from recon_lib.common.errors import DataError
from recon_lib.data.loader import create_loader
from recon_lib.training.checkpoints import load_model, save_model
from recon_lib.training.loop import train_conditional_diffusion
from recon_lib.unet import JoinedEncoder, UNet, VectorEncoder, joined_vectors

SIZES = [5, 3, 8]
SMALL = dict(channels=(16, 32), patch=2, attention=(), width=32)


def brains(trials=(4, 2, 3), seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, v, generator=g) for n, v in zip(trials, SIZES, strict=True)]


def test_vectors_are_laid_out_as_documented():
    vectors = joined_vectors([[[1.0, 2.0]], [[3.0], [4.0]]])
    assert vectors.tolist() == [[0, 1, 2], [1, 3, 0], [1, 4, 0]]
    with pytest.raises(DataError, match="expected .trials, voxels."):
        joined_vectors([torch.zeros(3)])


def test_each_subject_goes_through_a_plain_encoder_with_its_own_first_layer():
    torch.manual_seed(0)
    joined, betas = JoinedEncoder(SIZES, 16), brains()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    got = torch.empty(9, 16)
    got[order] = joined(joined_vectors(betas)[order])
    rest = {k: v for k, v in joined.state_dict().items() if not k.startswith("enter")}
    for i, (mine, part) in enumerate(zip(betas, got.split([4, 2, 3]), strict=True)):
        plain = VectorEncoder(SIZES[i], 16)
        plain.load_state_dict({**rest, "enter.weight": joined.enter[i].weight,
                               "enter.bias": joined.enter[i].bias})  # fmt: skip
        torch.testing.assert_close(part, plain(mine))


def test_only_present_subjects_learn_but_all_have_gradients():
    joined = JoinedEncoder(SIZES, 16)
    vectors = joined_vectors(brains())[:6]  # the third subject is absent
    joined(vectors).square().sum().backward()
    assert all(p.grad is not None for p in joined.parameters())
    assert joined.enter[0].weight.grad.any() and joined.enter[1].weight.grad.any()
    assert not joined.enter[2].weight.grad.any()


def test_a_network_for_several_subjects_trains_and_comes_back(tmp_path):
    """Each subject's voxels tell the colour in their own way; one network reads all of them."""
    g = torch.Generator().manual_seed(0)
    colour = torch.rand(60, 3, generator=g)
    mix = [torch.randn(3, v, generator=g) for v in SIZES]
    which = torch.arange(60) % 3
    betas = [(2 * colour[which == i] - 1) @ m for i, m in enumerate(mix)]
    images = torch.cat([colour[which == i] for i in range(3)])
    images = (255 * images).byte()[:, None, None].expand(60, 8, 8, 3).numpy()
    loader = create_loader(8, 30, images=images, vectors=joined_vectors(betas))
    torch.manual_seed(0)
    model = UNet(condition_size=SIZES, **SMALL)
    assert model.config["condition_size"] == SIZES
    train_conditional_diffusion(loader, 110, 5e-3, 8, "cpu", model=model, out_dir=tmp_path,
                                grids=0, quiet=True, ema=0.5)  # fmt: skip
    again, _ = load_model(tmp_path / "model.safetensors")
    noise = torch.randn(60, 3, 8, 8, generator=g)
    vectors, t = joined_vectors(betas), torch.full((60,), 999)
    truth = torch.from_numpy(images[:, 0, 0].copy()) / 127.5 - 1  # (60, 3)
    with torch.no_grad():
        for part in range(3):
            mine = slice(20 * part, 20 * part + 20)
            read = again(noise[mine], t[mine], vectors[mine]).mean((2, 3))
            other = again(noise[mine], t[mine], vectors[mine].roll(1, 0)).mean((2, 3))
            error, wrong = ((x - truth[mine]).square().mean() for x in (read, other))
            assert error < 0.5 * wrong
    save_model(again, tmp_path / "again.safetensors")
    assert load_model(tmp_path / "again.safetensors")[0].config == again.config


def test_vectors_of_another_width_are_refused():
    model = UNet(condition_size=SIZES, **SMALL)
    with pytest.raises(DataError, match="vector of 9 numbers"):
        model(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, 8))


@pytest.mark.parametrize("subject", [3.0, -1.0, float("nan")])
def test_a_subject_that_the_network_does_not_know_is_refused(subject):
    vectors = joined_vectors(brains())
    vectors[2, 0] = subject
    with pytest.raises(DataError, match="expected 0 to 2"):
        JoinedEncoder(SIZES, 16)(vectors)
