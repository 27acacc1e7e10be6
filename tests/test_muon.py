"""Muon, held against the singular value decomposition and against PyTorch's own."""

import numpy as np
import pytest
import torch
from test_training import ScaledLoss, network

from recon_lib.training import step
from recon_lib.training.muon import Muon, hidden_convolutions, orthogonal


@pytest.mark.parametrize("shape", [(12, 108), (40, 24), (32, 32)])
def test_every_singular_value_goes_near_one_and_its_vectors_stay(shape):
    rng, n = np.random.default_rng(0), min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((size, n)))[0] for size in shape)
    values = np.geomspace(1, 0.03, n)  # of the matrix; the vectors are columns
    wanted = values / np.linalg.norm(values)
    for _ in range(5):
        wanted = 3.4445 * wanted - 4.775 * wanted**3 + 2.0315 * wanted**5
    assert 0.67 < wanted.min() and wanted.max() < 1.21
    found = orthogonal(torch.from_numpy((left * values) @ right.T).float()).numpy()
    np.testing.assert_allclose(found, (left * wanted) @ right.T, atol=1e-4)
    assert np.sum(found * (left @ right.T)) > 0.97 * n**0.5 * np.linalg.norm(found)  # the nearest
    assert not orthogonal(torch.zeros(shape)).any()  # of none: none


@pytest.mark.parametrize("fused", [True, False])  # False: as on Apple's GPUs
def test_a_step_is_that_of_pytorchs(fused):
    """Theirs takes matrices alone and computes in bfloat16; a 1x1 convolution is a matrix."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    torch.manual_seed(0)
    mine = torch.nn.Conv2d(40, 24, 1)
    its, bias = (torch.nn.Parameter(w.detach().clone()) for w in (mine.weight[..., 0, 0],
                                                                  mine.bias))
    start, options = its.detach().clone(), dict(weight_decay=0.01)
    theirs = (torch.optim.Muon([its], 0.02, adjust_lr_fn="match_rms_adamw", **options),
              torch.optim.AdamW([bias], 0.01, betas=(0.9, 0.99), **options))
    ours = Muon(mine, 0.01, times=2, fused=fused)
    for _ in range(3):
        its.grad, bias.grad = torch.randn(24, 40), torch.randn(24)
        mine.weight.grad, mine.bias.grad = its.grad[..., None, None].clone(), bias.grad.clone()
        for optimizer in (ours, *theirs):
            optimizer.step()
    moved = its - start
    assert (mine.weight[..., 0, 0] - its).norm() < 0.02 * moved.norm() and moved.norm() > 0.1
    torch.testing.assert_close(mine.bias, bias)


def test_all_convolutions_but_the_first_and_the_last_are_hidden():
    net = network(condition_size=3)
    kinds = [kind for kind in net.modules() if isinstance(kind, torch.nn.Conv2d)]
    hidden = {id(w) for w in hidden_convolutions(net)}
    assert hidden == {id(k.weight) for k in kinds if k not in (net.conv_in, net.conv_out)}
    groups = Muon(net, 0.1).param_groups
    assert sorted(id(w) for group in groups for w in group["params"]) == sorted(
        id(w) for w in net.parameters())


def test_an_overflow_of_float16_leaves_out_both_parts():
    net = network()
    before = {name: w.detach().clone() for name, w in net.named_parameters()}
    accelerator = ScaledLoss(scale=2.0**127)
    optimizer = accelerator.prepared(Muon(net, 0.1))
    for size, moved in ((1e30, False), (2.0**-100, True)):  # the first overflows
        loss = size * sum(w.sum() for w in net.parameters())
        step.gradient_step(accelerator, net, optimizer, loss, 0.1)
        assert all(torch.equal(w, before[name]) != moved for name, w in net.named_parameters())
