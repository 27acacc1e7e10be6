"""Anybody's data on a tiny linear world: pictures -> pixels -> voxels, plus noise."""

from dataclasses import replace

import numpy as np
import pytest

from recon_lib.bold.betas import zscore
from recon_lib.brain.decoder import fit_decoder
from recon_lib.brain.encoders import choose_encoder
from recon_lib.common.errors import DataError
from recon_lib.data.arrays import load_trials
from recon_lib.data.pictures import square_arrays
from recon_lib.decoding.crossval import (
    CrossValidation,
    cross_validate,
    cut_and_paste,
    fit_fold,
    small_unet,
    wrong_vectors,
)
from recon_lib.decoding.sampling import SAMPLING
from recon_lib.scores.report import score_cross_validated

ONE_STEP = replace(SAMPLING, steps=1, candidates=1)


def pictures(n, side, channels=3, seed=0):
    """Smooth random blobs: (n, side, side, channels) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, channels), dtype=np.uint8)
    return square_arrays(coarse, side)


def world(n=24, side=16, channels=3, repeats=2, noise=0.2, seed=0):
    """Every picture shown `repeats` times; 60 voxels linear in its coarse pixels."""
    images = pictures(n, side, channels, seed)
    rng = np.random.default_rng(seed + 1)
    shown = rng.permutation(np.repeat(np.arange(n), repeats))
    pixels = images.reshape(n, 4, side // 4, 4, side // 4, channels).mean((2, 4)).reshape(n, -1)
    pixels = (pixels - pixels.mean(0)) / pixels.std()
    betas = pixels[shown] @ rng.normal(size=(pixels.shape[1], 60)) / pixels.shape[1] ** 0.5
    betas += noise * rng.normal(size=betas.shape)
    return load_trials(images, betas, shown, size=side)


def arrays_of(data, out):
    return {"truth": data.images, "trial_image": data.trial_image} | out


GREY = CrossValidation(folds=2, pool=64, encoder="category-network",
                       sampling=replace(ONE_STEP, steps=3))


@pytest.fixture(scope="module")
def grey():
    """Grey pictures, two folds."""
    data, said = world(channels=1), []
    out = cross_validate(data, GREY, say=said.append)
    assert len(said) == 2 and "fold 1 of 2: 24 training, 24 test" in said[0]
    return data, out


@pytest.mark.slow
def test_grey_pictures_stay_grey(grey, tmp_path):
    """By the exact denoiser, and by a network that was trained in each fold for a moment."""
    trained = cross_validate(grey[0], replace(GREY, train_steps=4, out_dir=tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {"fold_1", "fold_2"}
    for out in (grey[1], trained):
        assert set(out) == {"diffusion", "shuffled_brain", "ridge", "retrieval", "mean_image",
                            "fold", "posterior_retrieval", "inverse_retinotopy"}
        for name in set(out) - {"fold"}:
            assert out[name].shape == (48, 16, 16, 1) and out[name].dtype == np.uint8
            assert out[name].std() > 0


def test_trials_of_a_picture_share_a_fold(grey):
    data, out = grey
    assert np.bincount(out["fold"]).tolist() == [24, 24]
    for picture in range(24):
        assert len(set(out["fold"][data.trial_image == picture])) == 1


def test_no_fold_shows_its_own_test_pictures(grey):
    data, out = grey
    for fold in (0, 1):
        held = {bytes(data.images[i]) for i in data.trial_image[out["fold"] == fold]}
        train = {bytes(data.images[i]) for i in data.trial_image[out["fold"] != fold]}
        assert {bytes(p) for p in out["retrieval"][out["fold"] == fold]} <= train - held
        mean = np.mean([data.images[i] for i in data.trial_image[out["fold"] != fold]], axis=0)
        assert np.abs(out["mean_image"][out["fold"] == fold] - mean).max() <= 0.5


def test_a_pool_of_nothing_is_the_training_pictures():
    data, rows = world(channels=1), np.arange(40)
    encoder = choose_encoder(data.images, "category-network")
    pool, latent, training = fit_fold(data, rows, data.betas[rows], encoder,
                                      replace(GREY, pool=0), 0)
    own = data.images[np.unique(data.trial_image[rows])]
    assert np.array_equal(pool, own)
    assert training.latents.shape == (40, sum(latent.blocks)) and max(latent.blocks) < len(own)


def test_ridge_reads_a_linear_brain(grey):
    data, out = grey
    scores = score_cross_validated(arrays_of(data, out), permutations=100)
    table, info = scores["single_trial"], scores["info"]
    assert info == {"trials": 48, "pictures": 24, "permutations": 100, "folds": 2}
    assert table["ridge"]["two_way"] > 0.75 and table["ridge"]["p_value"] < 0.02
    assert table["ridge"]["pixcorr"] > 0.2
    assert table["retrieval"]["two_way"] > 0.55
    # the mean of all other pictures is, if anything, least like the ones held out
    assert table["mean_image"]["two_way"] < 0.55
    assert abs(table["shuffled_brain"]["two_way"] - 0.5) < 0.2
    assert table["chance"] == {"top1": 1 / 24, "two_way": 0.5}


@pytest.mark.slow
def test_retrieval_finds_what_is_in_the_gallery():
    """Copies of the pictures seen, one grey level brighter, are what is likeliest of all."""
    data = world(n=100, noise=0.05)
    near = (data.images.astype(int) + 1).clip(0, 255).astype(np.uint8)
    options = CrossValidation(2, pool=60, sampling=ONE_STEP, encoder="category-network")
    plain = cross_validate(data, options, say=len)["posterior_retrieval"]
    found = cross_validate(data, replace(options, gallery=near), say=len)["posterior_retrieval"]
    seen = near[data.trial_image]
    assert not (plain == seen).all((1, 2, 3)).any()
    assert (found == seen).all((1, 2, 3)).mean() > 0.3  # of 150 candidates
    with pytest.raises(DataError, match="test pictures are in the training set"):
        cross_validate(data, replace(options, gallery=data.images[:3]), say=len)


@pytest.mark.slow
def test_a_ready_model_needs_no_training(tiny_model, tmp_path):
    data = world(n=12, side=64, repeats=1)
    options = CrossValidation(3, tiny_model, sampling=ONE_STEP, out_dir=tmp_path)
    out = cross_validate(data, options, say=len)
    assert out["diffusion"].shape == (12, 64, 64, 3)
    assert not any(tmp_path.iterdir())
    again = cross_validate(data, options, say=len)
    assert all(np.array_equal(out[name], again[name]) for name in out)
    alone = cross_validate(data, replace(options, folds=None), say=len)
    assert sorted(alone["fold"]) == list(range(12))  # each picture by itself


@pytest.mark.slow
def test_a_ready_model_must_fit_the_pictures(tiny_model):
    options = CrossValidation(2, tiny_model, sampling=ONE_STEP)
    with pytest.raises(DataError, match="makes pictures of 64 pixels .* yours have 16"):
        cross_validate(world(n=8), options, say=len)
    with pytest.raises(DataError, match="3 channels, yours have 64 and 1"):
        cross_validate(world(n=8, side=64, channels=1), options, say=len)


def test_a_picture_on_both_sides_is_refused(tiny_model):
    data = world(n=6, side=64, repeats=2)
    by_run = replace(data, groups=np.arange(12) // 6)  # runs that share their pictures
    with pytest.raises(DataError, match="in another group .run. than the first"):
        cross_validate(by_run, CrossValidation(None, tiny_model, sampling=ONE_STEP), say=len)
    with pytest.raises(DataError, match="13 folds of 6 groups"):
        cross_validate(data, CrossValidation(13, tiny_model, sampling=ONE_STEP), say=len)


def test_wrong_vectors_are_never_fitted_ones():
    rng = np.random.default_rng(0)
    betas, latents = rng.standard_normal((60, 300)), rng.standard_normal((60, 2))
    train = rng.permutation(60)[:50]
    decoder = fit_decoder(betas[train], latents[train])
    donors = np.concatenate([train[[3, 40, 7]], np.setdiff1d(np.arange(60), train)[:2]])
    wrong = wrong_vectors(decoder, donors, train, betas[donors])
    assert np.allclose(wrong[:3, :-1], decoder.ridge.out_of_fold[[3, 40, 7]], atol=1e-6)
    assert np.allclose(wrong[3:], decoder.vector(betas[donors[3:]])) and (wrong[:, -1] == 1).all()
    everyone = wrong_vectors(decoder, train, train, betas[train])[:, :-1]
    fitted = decoder.vector(betas[train])[:, :-1]
    r = [np.corrcoef(v.ravel(), latents[train].ravel())[0, 1] for v in (everyone, fitted)]
    assert abs(r[0]) < 0.35 < 0.7 < r[1]  # nothing can be read, and the fit remembers it all


def test_zscore_uses_the_training_trials():
    train = np.array([[1.0, 5, 0], [3, 5, 4]])
    test = np.array([[5.0, 7, 2]])
    a, b = zscore(train, test)
    assert np.array_equal(a, [[-1, 0, -1], [1, 0, 1]]) and np.array_equal(b, [[3, 2, 0]])


def test_cut_and_paste_without_a_shift_takes_each_pixel_from_one_of_two():
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 20, 20, 1), np.uint8)
    made = cut_and_paste(images, 200, seed=0, shift=0)
    assert made.shape == (200, 20, 20, 1) and made.dtype == np.uint8
    values = [np.unique(m) for m in made]
    assert max(map(len, values)) == 2 and min(map(len, values)) == 1
    for picture in made:
        for value in np.unique(picture):  # one of the two is a rectangle
            y, x = np.nonzero(picture[..., 0] == value)
            if (np.ptp(y) + 1) * (np.ptp(x) + 1) == len(y):
                break
        else:
            raise AssertionError("no rectangle")
    assert np.array_equal(np.unique(np.concatenate(values)), np.arange(4))


def test_cut_and_paste_repeats_itself_and_leaves_its_source_alone():
    images = pictures(6, 16)
    before = images.copy()
    made = cut_and_paste(images, 50, seed=3)
    assert np.array_equal(images, before)
    assert np.array_equal(made, cut_and_paste(images, 50, seed=3))
    assert not np.array_equal(made, cut_and_paste(images, 50, seed=4))
    assert len({bytes(m) for m in made}) > 45


def test_cut_and_paste_shifts_a_little_and_never_mirrors():
    ramp = np.tile(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], (20, 1, 1))[None]
    made = cut_and_paste(ramp, 100, seed=1, shift=0.1)[..., 0].astype(int)
    assert (np.diff(made, axis=2) >= 0).all()  # left stays left
    assert np.abs(made - ramp[..., 0]).max() == 20  # two pixels of 20, at most


def test_small_networks_fit_the_pictures():
    for size, patch in ((8, 2), (16, 4), (20, 1), (40, 2), (64, 4)):
        assert small_unet(size, 1, 7).config["patch"] == patch
    with pytest.raises(DataError, match="side 18; expected a multiple of 4"):
        small_unet(18, 3, 7)
