"""Decoding to embeddings: a linear world whose answer is known, and counts by hand."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from recon_lib.__main__ import app
from recon_lib.common.errors import DataError
from recon_lib.data.arrays import load_embedded
from recon_lib.decoding.embeddings import decode_embeddings
from recon_lib.scores.embeddings import ceilings, score_embeddings
from recon_lib.scores.identification import n_way_hits, two_way, two_way_wins

PICTURES, D, VOXELS, NOISE = 120, 12, 60, 1.5


def world(seed=0, read=1.0):
    """Each picture shown twice; voxels linear in its embedding, plus white noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(PICTURES, D))
    image = rng.permutation(np.repeat(np.arange(PICTURES), 2))
    signal = read * features[image] @ rng.normal(size=(D, VOXELS))
    return signal + NOISE * D**0.5 * rng.normal(size=signal.shape), features, image


@pytest.fixture(scope="module")
def decoded():
    return decode_embeddings(*world(), folds=4, say=len)


def test_a_linear_world_is_read_and_controls_are_not(decoded):
    table = score_embeddings(decoded, 200)
    assert table["info"] == {"n_way": 30, "folds": 4, "pictures": PICTURES, "permutations": 200}
    one, mean = table["single_trial"], table["averaged"]
    for row in (one["likelihood"], one["correlation"]):
        assert row["two_way"] > 0.9 and row["p_value"] < 0.01
        assert row["top1_low"] < row["top1"] < row["top1_high"]
    assert mean["likelihood"]["top1"] > one["likelihood"]["top1"] > 0.3
    for name in ("shuffled_brain", "permuted_voxels"):  # null SD of 120 pictures: about .026
        assert abs(one[name]["two_way"] - 0.5) < 0.1 and abs(mean[name]["two_way"] - 0.5) < 0.1
    assert one["chance"] == {"top1": 1 / 30, "two_way": 0.5}


def test_nothing_is_read_where_nothing_is():
    table = score_embeddings(decode_embeddings(*world(3, read=0), folds=4, say=len), 200)
    assert abs(table["single_trial"]["likelihood"]["two_way"] - 0.5) < 0.1
    assert table["single_trial"]["likelihood"]["p_value"] > 0.01


def test_no_picture_is_ranked_by_a_decoder_that_saw_it(decoded):
    held = np.concatenate([fold.picture for fold in decoded["averaged"]])
    assert sorted(held) == list(range(PICTURES))
    for one, mean in zip(decoded["single_trial"], decoded["averaged"], strict=True):
        assert np.array_equal(one.picture, mean.picture) and len(one.target) == 2 * len(one.picture)
        assert np.array_equal(mean.target, np.arange(len(mean.picture)))


def test_the_truth_cannot_leak_through_the_features(decoded):
    """Another embedding for the pictures of the first fold: other folds' decoders see it, not its
    own, so its own ranking changes only through the candidates."""
    betas, features, image = world()
    first = decoded["averaged"][0]
    features[first.picture] = features[first.picture][::-1]
    other = decode_embeddings(betas, features, image, folds=4, say=len)["averaged"][0]
    np.testing.assert_allclose(other.rankings["likelihood"], first.rankings["likelihood"][:, ::-1],
                               rtol=1e-5)


def test_shares_by_hand():
    m, target = np.array([[4, 3, 2, 1], [1, 1, 1, 1], [1, 2, 3, 4.0]]), np.array([1, 2, 3])
    assert np.allclose(two_way_wins(m, target), [2 / 3, 1 / 2, 1])
    assert two_way_wins(m, target).mean() == pytest.approx(two_way(m, target))
    assert np.allclose(n_way_hits(m, target, 2), [2 / 3, 1 / 2, 1])
    assert np.allclose(n_way_hits(m, target, 4), [0, 1 / 4, 1])
    with pytest.raises(DataError, match="5-way top-1 of 4 candidates"):
        n_way_hits(m, target, 5)


def test_ceilings_of_a_world_whose_noise_is_known():
    betas, _, image = world()
    found = ceilings(betas, image)
    share = 1 / (1 + NOISE**2)  # of the variance, in the mean voxel
    assert found["one_trial_median"] == pytest.approx(100 * share, abs=8)
    assert found["averaged_median"] > found["one_trial_median"] + 5
    assert found["trials_averaged"] == 2 and ceilings(betas[:3], [0, 1, 2]) == {}


def test_what_does_not_fit_is_refused(tmp_path):
    betas, features, image = world()
    with pytest.raises(DataError, match="rows of 100 features"):
        decode_embeddings(betas, features[:100], image)
    with pytest.raises(DataError, match="holds out 1 picture"):
        decode_embeddings(betas, features, image, folds=PICTURES, say=len)
    with pytest.raises(DataError, match="are in another group"):
        decode_embeddings(betas, features, image, np.arange(len(image)) % 7)
    with pytest.raises(DataError, match="expected .pictures, d."):
        load_embedded(np.zeros((4, 4, 3)), betas, image)


def test_the_command_needs_no_picture(tmp_path):
    betas, features, image = world()
    for name, array in (("b", betas), ("f", features), ("t", image)):
        np.save(tmp_path / f"{name}.npy", array)
    done = CliRunner().invoke(app, [
        "decode-features", "--features", f"{tmp_path}/f.npy", "--betas", f"{tmp_path}/b.npy",
        "--trials", f"{tmp_path}/t.npy", "--out", f"{tmp_path}/out", "--permutations", "20"])
    assert done.exit_code == 0 and "top-1 of 12" in done.stdout and "noise ceiling" in done.stdout
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["averaged"]["likelihood"]["two_way"] > 0.9 and scores["info"]["folds"] == 10
