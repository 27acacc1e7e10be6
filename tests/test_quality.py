"""Scores of sets of samples against torchmetrics, double loops and values by hand."""

import json

import numpy as np
import pytest
import torch
from conftest import random_unet
from torch import nn

from recon_lib import __main__ as shell
from recon_lib import recipes
from recon_lib.brain.features import load_factor_net, read_factors
from recon_lib.common.errors import DataError
from recon_lib.decoding.retrieval_prior import sample_prior
from recon_lib.scores import quality
from recon_lib.training import checkpoints
from recon_lib.training.checkpoints import save_model
from recon_lib.world.scenes import draw, sample_factors

CLASSIFIER = load_factor_net("evaluation_classifier")


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_kid_is_the_double_loop(rng):
    x, y = rng.standard_normal((7, 5)), rng.standard_normal((9, 5)) + 0.5

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 5 + 1) ** 3

    within_x = [kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j]
    within_y = [kernel(y[i], y[j]) for i in range(9) for j in range(9) if i != j]
    between = [kernel(a, b) for a in x for b in y]
    expected = np.mean(within_x) + np.mean(within_y) - 2 * np.mean(between)
    assert quality.kid(x, y)[0] == pytest.approx(expected, rel=1e-12)
    assert quality.kid(y, x) == pytest.approx(quality.kid(x, y), rel=1e-12)


class Flat(nn.Module):
    """A feature extractor that sees the pixels themselves."""

    num_features = 12

    def forward(self, images):
        return images.flatten(1).float() / 64


@pytest.mark.filterwarnings("ignore:Metric")
@pytest.mark.slow  # its import takes seconds
def test_kid_is_that_of_torchmetrics(rng):
    from torchmetrics.image.kid import KernelInceptionDistance

    pictures = rng.integers(0, 256, (2, 50, 3, 2, 2), dtype=np.uint8)
    theirs = KernelInceptionDistance(Flat(), subsets=1, subset_size=50)
    for images, real in zip(pictures, (True, False), strict=True):
        theirs.update(torch.from_numpy(images), real=real)
    features = pictures.reshape(2, 50, 12) / 64
    assert quality.kid(*features)[0] == pytest.approx(float(theirs.compute()[0]), rel=1e-3)


@pytest.mark.parametrize("shift, n, m", [(1.0, 40, 60), (0.5, 80, 40)])
def test_error_of_kid_is_its_spread(shift, n, m):
    rng = np.random.default_rng(0)
    draws = np.array([quality.kid(rng.standard_normal((n, 4)), rng.standard_normal((m, 4)) + shift)
                      for _ in range(400)])
    assert draws[:, 1].mean() == pytest.approx(draws[:, 0].std(), rel=0.15)


def test_kid_of_one_source_is_zero_on_average():
    rng = np.random.default_rng(1)
    draws = [quality.kid(*rng.standard_normal((2, 30, 4)))[0] for _ in range(600)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 600**0.5
    assert min(draws) < 0  # unbiased, hence not always positive


def test_precision_and_recall_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [10.0]])  # with k = 1: radii 1, 1, 1, 8
    made = np.array([[0.5], [2.5], [5.0], [30.0], [31.0]])  # radii 2, 2, 2.5, 1, 1
    # 0.5 and 2.5 lie by 0 and 2; 5 in the ball of 10; 30 and 31 nowhere
    # 0, 1 and 2 are covered, 10 is not (5 reaches to 7.5)
    assert quality.precision_recall(real, made, k=1) == pytest.approx((3 / 5, 3 / 4))
    assert quality.precision_recall(made, real, k=1) == pytest.approx((3 / 4, 3 / 5))


def test_precision_and_recall_part_ways(rng):
    real = rng.standard_normal((200, 3))
    one_mode = 0.02 * rng.standard_normal((200, 3))  # all real, all alike
    precision, recall = quality.precision_recall(real, one_mode)
    assert precision > 0.95 and recall < 0.05
    everything = 4 * rng.standard_normal((200, 3))  # mostly unreal, but nothing is left out
    precision, recall = quality.precision_recall(real, everything)
    assert recall > precision + 0.3
    assert quality.precision_recall(real, real) == (1, 1)


def test_features_must_fit(rng):
    with pytest.raises(DataError, match="at least 2 rows"):
        quality.kid(rng.standard_normal((1, 3)), rng.standard_normal((5, 3)))
    with pytest.raises(DataError, match=r"expected \(m, 3\)"):
        quality.precision_recall(rng.standard_normal((9, 3)), rng.standard_normal((9, 4)))
    with pytest.raises(DataError, match="at least 4 rows"):
        quality.precision_recall(rng.standard_normal((3, 3)), rng.standard_normal((9, 3)))


@pytest.fixture(scope="module")
def pictures():
    """Three disjoint sets of 150 scenes."""
    return [draw(sample_factors(150, seed)) for seed in (31, 32, 33)]


@pytest.mark.slow
def test_scores_know_scenes_from_wreckage(pictures):
    real, train, other = pictures
    good = quality.quality_scores(other, real, CLASSIFIER, train)
    assert abs(good["kid"]) < 4 * good["kid_error"] + 1e-3
    assert good["precision"] > 0.6 and good["recall"] > 0.6 and good["sure_category"] > 0.8
    assert good["memorised"] < 0.06

    noise = np.random.default_rng(0).normal(0, 120, other.shape)
    noisy = quality.quality_scores(
        np.clip(other + noise, 0, 255).astype(np.uint8), real, CLASSIFIER, train)
    assert noisy["kid"] > good["kid"] + 5 * noisy["kid_error"]
    assert noisy["precision"] < good["precision"] and noisy["sure_category"] < good["sure_category"]

    one = quality.quality_scores(np.repeat(other[:1], 150, 0), real, CLASSIFIER)
    assert one["recall"] < 0.1 and one["kid"] > 5 * one["kid_error"] and "memorised" not in one


def test_copies_are_found(pictures):
    real, train, other = pictures
    speckle = np.random.default_rng(0).integers(0, 4, (30, *train.shape[1:]), dtype=np.uint8)
    copies = np.minimum(train[40:70], 250) + speckle
    made = np.concatenate([copies, other[:30]])
    share, nearest = quality.memorised(made, train, real)
    distance, index = nearest.distance, nearest.index
    assert (index[:30] == np.arange(40, 70)).all()
    assert distance[:30].max() < distance[30:].min()
    assert 0.5 <= share <= 0.55


def test_confidence_counts_what_the_classifier_is_sure_of(pictures):
    share = quality.read_confidently(pictures[0], CLASSIFIER)
    best = read_factors(CLASSIFIER, pictures[0])["light"].max(1)
    assert share["light"] == pytest.approx(sum(p >= 0.9 for p in best) / 150)
    everything = {"category": 1, "background": 1, "light": 1}
    assert quality.read_confidently(pictures[0], CLASSIFIER, 0.0) == everything
    grey = np.full((5, 64, 64, 3), 128, np.uint8)
    assert quality.read_confidently(grey, CLASSIFIER)["category"] in (0, 1)  # five equal pictures


@pytest.mark.slow
def test_quality_from_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "EXTRA", 50)
    save_model(random_unet(None), tmp_path / "model.safetensors",
               dict(prediction="x0", schedule="cosine", image_size=64))
    command = ["quality", "--model", tmp_path / "model.safetensors", "--out", tmp_path, "--n", 40,
               "--steps", 2, "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["recon_lib", *map(str, command)])
    with pytest.raises(SystemExit):
        shell.main()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["samples"]["kid"] > 0.1 > abs(scores["new scenes"]["kid"])
    assert scores["samples"]["recall"] < 0.2 < scores["new scenes"]["recall"]
    assert f"{scores['samples']['kid']:.4f}" in capsys.readouterr().out
    assert (tmp_path / "samples.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_conditional_model_draws_for_vectors_of_its_prior(
    miniature, loaded, tiny_model, tmp_path, monkeypatch
):
    """The sampler is given one vector of the prior a sample, and draws without them otherwise."""
    given = []

    def noted(model, info, vectors, seed, sampling, guidance):
        given.append((vectors, sampling))
        return np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)

    monkeypatch.setattr(recipes, "EXTRA", 50)
    monkeypatch.setattr(recipes, "sample_pictures", noted)
    options = ["--model", tiny_model, "--out", tmp_path, "--n", 40, "--device", "cpu"]
    for command in (["quality"], ["quality-prior", "--data", miniature]):
        monkeypatch.setattr("sys.argv", ["recon_lib", *map(str, [*command, *options])])
        with pytest.raises(SystemExit):
            shell.main()
    (without, _), (vectors, sampling) = given
    assert without == len(vectors) == 40 and sampling.scale == recipes.SAMPLING.scale
    net, decoder = recipes.with_decoder(tiny_model, loaded)
    expected = sample_prior(decoder, net.latent.prior, 40, recipes.SAMPLING.pseudo_trials)
    assert np.array_equal(vectors, expected) and np.ptp(vectors[:, 0]) > 0


def test_shipped_models_are_found_by_name(tmp_path, monkeypatch):
    save_model(random_unet(None), tmp_path / "unconditional.safetensors", {"steps": 5})
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    model, info = checkpoints.load_model("unconditional")
    assert info == {"steps": 5} and model.config["condition_size"] is None
    with pytest.raises(DataError, match="conditional.safetensors"):
        checkpoints.load_model("conditional")


def test_features_must_be_numbers_and_neighbours_exist(rng):
    fine, odd = rng.standard_normal((2, 9, 3))
    odd[4, 1] = np.nan
    for pair in ((fine, odd), (odd, fine)):
        for score in (quality.kid, quality.precision_recall):
            with pytest.raises(DataError, match="NaN or infinite"):
                score(*pair)
    for k in (0, -1, np.nan):
        with pytest.raises(DataError, match=f"k is {k}; expected"):
            quality.precision_recall(fine, fine, k=k)


@pytest.mark.parametrize("which", [0, 1])
def test_quality_refuses_pictures_from_0_to_1(rng, which):
    pair = [rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8) for _ in range(2)]
    pair[which] = (pair[which] / 255).astype(np.float32)
    with pytest.raises(DataError, match="values from 0 to 1, expected whole numbers"):
        quality.quality_scores(*pair, CLASSIFIER)
