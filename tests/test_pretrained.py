"""The adapter to a pretrained diffusion model, on a tiny pipeline with random weights."""

import gc
import sys
import weakref
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch

from recon_lib.brain.encoders import CLIP
from recon_lib.common.errors import DataError
from recon_lib.data.arrays import load_trials
from recon_lib.decoding import CrossValidation, cross_validate, pretrained
from recon_lib.decoding.baselines import Training, Trials, shuffled_brain
from recon_lib.decoding.pretrained import (
    PretrainedSampling,
    embed_pictures,
    fit_pretrained,
    like_embeddings,
    load_pretrained,
    sample_embeddings,
    untrained,
)
from recon_lib.scores import score_cross_validated

pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow  # importing it alone takes seconds
RNG = np.random.default_rng(0)
QUICK = PretrainedSampling(steps=2, size=64, scale=2.0, batch_size=2)
TOLD = RNG.normal(size=(3, 12)).astype(np.float32)
START = RNG.integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def net():
    return untrained(12)


def differ(a, b):
    """Largest difference in grey levels."""
    return np.abs(a.astype(int) - b).max()


def test_the_embedding_reaches_the_network(net):
    """It is what the U-Net is told, with that of nothing before it; another draws another."""
    told = []
    hook = net.draw.unet.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["added_cond_kwargs"]["image_embeds"]),
        with_kwargs=True)
    drawn = sample_embeddings(net, TOLD[:2], 0, QUICK)
    hook.remove()
    np.testing.assert_array_equal(told[0][:2], np.tile(net.nothing, (2, 1)))
    np.testing.assert_array_equal(told[0][2:], TOLD[:2])
    assert drawn.shape == (2, 64, 64, 3) and drawn.dtype == np.uint8
    assert differ(drawn, sample_embeddings(net, TOLD[[1, 0]], 0, QUICK)) > 2


@pytest.mark.parametrize("start", [None, START])
def test_one_seed_one_picture_whatever_its_batch(net, start):
    drawn = sample_embeddings(net, TOLD, 0, QUICK, start)
    first = sample_embeddings(net, TOLD[:1], 0, QUICK, None if start is None else start[:1])
    assert differ(drawn[:1], first) <= 1  # a batch rounds in another order
    np.testing.assert_array_equal(drawn, sample_embeddings(net, TOLD, 0, QUICK, start))
    assert differ(drawn, sample_embeddings(net, TOLD, 1, QUICK, start)) > 2


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_in_half_precision_no_number_stays_behind_in_another(half):
    """As on a GPU, where a float32 beside weights of half precision is an error or costs double."""
    net, seen = untrained(12), set()
    net.draw.to(dtype=half)
    for part in (net.draw.unet, net.draw.movq):
        for module in part.modules():
            module.register_forward_hook(lambda module, given, out: seen.update(
                (type(module).__name__, x.dtype) for x in (*given, out)
                if isinstance(x, torch.Tensor) and x.is_floating_point()))
    for start in (None, START[:1]):
        drawn = sample_embeddings(net, TOLD[:1], 0, QUICK, start)
        whole = sample_embeddings(untrained(12), TOLD[:1], 0, QUICK, start)
        assert 0 < differ(drawn, whole) < 60  # the same picture, rounded
    assert len({name for name, _ in seen}) > 10
    assert {kind for name, kind in seen if name != "Timesteps"} == {half}


def test_guidance_strength_and_start_change_the_picture(net):
    drawn = sample_embeddings(net, TOLD, 0, QUICK, START)
    for change in ({"scale": 1.0}, {"strength": 1.0}, {"steps": 4}):
        other = PretrainedSampling(**{**vars(QUICK), **change})
        assert differ(drawn, sample_embeddings(net, TOLD, 0, other, START)) > 2, change
    assert differ(drawn, sample_embeddings(net, TOLD, 0, QUICK, 255 - START)) > 2


def test_a_start_under_little_noise_is_kept(net):
    """Against the pipeline's own autoencoder, which is all that is left without noise."""
    start = np.zeros((1, 64, 64, 3), np.uint8)
    start[:, 32:] = 255
    little = PretrainedSampling(steps=100, strength=0.01, size=64, scale=1.0)
    drawn = sample_embeddings(net, TOLD[:1], 0, little, start)
    x = torch.from_numpy(start).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        back = net.draw.movq.decode(net.draw.movq.encode(x).latents, force_not_quantize=True).sample
    back = (back.permute(0, 2, 3, 1).numpy() / 2 + 0.5).clip(0, 1) * 255
    assert np.corrcoef(drawn.ravel(), back.ravel())[0, 1] > 0.9


def test_decoded_embeddings_get_the_mean_and_the_norm_of_real_ones():
    known = RNG.normal(2, 1, (400, 50))
    known *= 10 / np.linalg.norm(known, axis=1, keepdims=True)
    mean = known.mean(0)
    shrunk = mean + 0.1 * (known - mean)
    told = like_embeddings(shrunk, shrunk, known)
    np.testing.assert_allclose(told, known, rtol=1e-3)  # a shrinking alone is undone
    noisy = like_embeddings(shrunk[:5] + RNG.normal(0, 0.05, (5, 50)), shrunk, known)
    np.testing.assert_allclose(np.linalg.norm(noisy, axis=1), 10, rtol=1e-5)
    one = like_embeddings(shrunk[:1], shrunk, known)  # of no other trial that is decoded
    np.testing.assert_allclose(one, told[:1], rtol=1e-5)


def subject():
    """Sixty trials of twenty pictures whose embeddings the betas hold, and training on fifteen."""
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(20, 12)).astype(np.float32)
    pictures = rng.integers(0, 256, (20, 16, 16, 3), np.uint8)
    image = np.arange(60) % 20
    betas = embeddings[image] @ rng.normal(size=(12, 30)) + 0.1 * rng.normal(size=(60, 30))
    train = image < 15
    training = Training(betas[train], pictures[image[train]], image[train])
    return training, Trials(betas[~train]), image[~train], embeddings


def test_a_shuffled_brain_gives_another_picture_and_a_decoder_finds_the_embedding(net, monkeypatch):
    training, trials, seen, embeddings = subject()
    draw = fit_pretrained(net, embeddings, training, QUICK)
    drawn = draw(trials)
    assert drawn.shape == (15, 16, 16, 3)
    order = shuffled_brain(seen)
    other = draw(trials.take(order))
    assert all(differ(a, b) > 2 for a, b in zip(drawn, other, strict=True))
    told = []
    monkeypatch.setattr(pretrained, "sample_embeddings", lambda net, told_, *rest: told.append(
        told_) or np.zeros((len(told_), 64, 64, 3), np.uint8))
    draw(trials)
    nearest = (told[0] @ embeddings.T / np.linalg.norm(embeddings, axis=1)).argmax(1)
    assert (nearest == seen).mean() > 0.9


def test_controls_and_scores_run_on_it_unchanged(net):
    """Cross-validated with every baseline, and scored as any other decoder."""
    rng = np.random.default_rng(2)
    pictures = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    embeddings, image = rng.normal(size=(8, 12)), np.arange(16) % 8
    betas = (embeddings[image] @ rng.normal(size=(12, 20))).astype(np.float32)
    data = load_trials(pictures, betas, image, size=32)
    fit = partial(fit_pretrained, net, embeddings, sampling=QUICK)
    out = cross_validate(data, CrossValidation(2, pool=1, fit=fit), say=lambda text: None)
    assert {"diffusion", "shuffled_brain", "ridge", "retrieval", "mean_image"} <= set(out)
    rows = score_cross_validated(out | {"truth": data.images, "trial_image": data.trial_image}, 9)
    assert 0 <= rows["single_trial"]["diffusion"]["two_way"] <= 1


def test_embeddings_of_test_pictures_are_not_looked_at(net):
    training, trials, _, embeddings = subject()
    hidden = embeddings.copy()
    hidden[15:] = np.nan
    np.testing.assert_array_equal(fit_pretrained(net, embeddings, training, QUICK, False)(trials),
                                  fit_pretrained(net, hidden, training, QUICK, False)(trials))


def test_memory_is_freed():
    with untrained(12) as net:
        parts = [weakref.ref(part) for part in (net.draw.unet, net.draw.movq)]
        sample_embeddings(net, TOLD[:1], 0, QUICK)
    gc.collect()
    assert [part() for part in parts] == [None, None]


def test_weights_are_read_from_a_folder(net, tmp_path):
    """In the layout of the hub, decoder and encoder: the same pictures as before."""
    net.draw.save_pretrained(tmp_path)
    with load_pretrained(net.nothing, source=str(tmp_path)) as again:
        np.testing.assert_array_equal(sample_embeddings(again, TOLD, 0, QUICK),
                                      sample_embeddings(net, TOLD, 0, QUICK))
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        image_size=16, patch_size=4, projection_dim=12)
    clip = transformers.CLIPVisionModelWithProjection(config).eval()
    clip.save_pretrained(tmp_path / "image_encoder")
    made, nothing = embed_pictures(START, source=str(tmp_path), batch_size=2)
    mean, spread = np.reshape(CLIP, (2, 3, 1, 1))
    x = (START.transpose(0, 3, 1, 2) / 255 - mean) / spread
    with torch.no_grad():
        wanted = clip(torch.tensor(np.concatenate([x, np.zeros((1, 3, 16, 16))]),
                                   dtype=torch.float32)).image_embeds.numpy()
    np.testing.assert_allclose(np.vstack([made, nothing]), wanted, atol=1e-5)


@pytest.mark.parametrize("device, half", [
    ("cuda", torch.float16), ("cuda:0", torch.float16), (torch.device("cuda:1"), torch.float16),
    ("cpu", torch.float32),
])
def test_every_gpu_is_told_half_precision(monkeypatch, device, half):
    """With the device mocked: the networks are asked to go there, and no further."""
    net = mock.Mock()
    net.eval.return_value = net
    net.to.side_effect = InterruptedError
    monkeypatch.setattr(pretrained, "package", mock.Mock())
    monkeypatch.setattr(pretrained, "fetched", lambda *_, **__: net)
    with pytest.raises(InterruptedError):
        embed_pictures(START, device)
    net.to.assert_called_once_with(device, half)
    with pytest.raises(InterruptedError):
        load_pretrained(np.zeros(12), device)
    net.to.assert_called_with(dtype=half)


def test_what_cannot_be_is_refused_in_one_line(net, monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"own encoder, has shape \(3, 11\); expected \(n, 12\)"):
        sample_embeddings(net, TOLD[:, :11], 0, QUICK)
    with pytest.raises(DataError, match="NaN"):
        sample_embeddings(net, np.full((1, 12), np.nan), 0, QUICK)
    with pytest.raises(DataError, match="pictures to start from has shape"):
        sample_embeddings(net, TOLD, 0, QUICK, START[:2])
    for change in ({"steps": 0}, {"scale": 0.5}, {"strength": 0}, {"strength": 0.001},
                   {"size": 100}, {"batch_size": 0}):
        with pytest.raises(DataError, match=f"^{next(iter(change))} is"):
            PretrainedSampling(**change)
    with pytest.raises(DataError, match="the embedding of nothing has shape"):
        untrained(12).nothing, pretrained.of_pipeline(net.draw, np.zeros(3))
    with pytest.raises(DataError, match="cannot be had .*; connect to the network once"):
        load_pretrained(net.nothing, source=str(tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(DataError, match="diffusers is not installed; .pip install"):
        untrained(12)
