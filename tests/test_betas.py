"""Z-scores, reliability, ceilings and decoding against closed forms."""

import numpy as np
import pytest

from recon_lib.bold import betas as b
from recon_lib.brain.patterns import compare_rdms, decode, rdm
from recon_lib.common.errors import DataError

RNG = np.random.default_rng


def repeated(pictures=4000, repeats=4, noise=0.8, seed=0):
    """Z-scored betas whose signal variance is 1 - noise: (trials, 3), labels."""
    rng = RNG(seed)
    signal = rng.normal(0, np.sqrt(1 - noise), (pictures, 3))
    labels = np.repeat(np.arange(pictures), repeats)
    return signal[labels] + rng.normal(0, np.sqrt(noise), (len(labels), 3)), labels


def test_zscores_use_training_trials_of_the_session_only():
    rng = RNG(0)
    session = np.repeat([1, 2, 7], 40)
    betas = rng.normal(3, 2, (120, 5)) + session[:, None]
    train = rng.random(120) < 0.7
    z = b.zscore_sessions(betas, session, train)
    assert z.dtype == np.float32
    for one in (1, 2, 7):
        known = z[(session == one) & train]
        np.testing.assert_allclose(known.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(known.std(0), 1, atol=1e-6)
    changed = betas.copy()
    changed[~train] = 1e6
    np.testing.assert_array_equal(z[train], b.zscore_sessions(changed, session, train)[train])


def test_zscores_of_flat_and_nan_voxels():
    betas = RNG(0).normal(size=(20, 3))
    betas[:, 1] = 4
    betas[3, 2] = np.nan
    z = b.zscore_sessions(betas, np.ones(20))
    assert not z[:, 1].any() and np.isnan(z[:, 2]).all() and np.isfinite(z[:, 0]).all()


def test_zscore_errors():
    with pytest.raises(DataError, match="session 2 has 1 training trials"):
        b.zscore_sessions(np.ones((5, 2)), [1, 1, 1, 1, 2])
    with pytest.raises(DataError, match="entries per trial"):
        b.zscore_sessions(np.ones((5, 2)), [1, 1])


    with pytest.raises(DataError, match="True or False"):
        b.zscore_sessions(np.ones((4, 2)), [1, 1, 2, 2], np.arange(4))


def test_average_repeats_by_hand():
    betas = np.array([[1.0, 2], [3, 4], [5, 6]], np.float32)
    means, names, counts = b.average_repeats(betas, ["b", "a", "b"])
    np.testing.assert_array_equal(means, [[3, 4], [3, 4]])
    assert list(names) == ["a", "b"] and list(counts) == [1, 2]
    assert means.dtype == np.float32


def test_reliability_is_what_the_signal_share_says():
    """Halves of two trials correlate s / (s + n/2), s and n the shares of signal and noise."""
    betas, labels = repeated(noise=0.8)
    expected = 0.2 / (0.2 + 0.8 / 2)
    got = b.split_half_reliability(betas, labels, splits=4)
    np.testing.assert_allclose(got, expected, atol=0.03)
    shuffled = RNG(1).permutation(labels)
    np.testing.assert_allclose(b.split_half_reliability(betas, shuffled, 4), 0, atol=0.05)


@pytest.mark.parametrize("repeats", [1, 4])
def test_noise_ceiling_is_the_signal_share(repeats):
    betas, labels = repeated(noise=0.8)
    expected = 100 * 0.2 / (0.2 + 0.8 / repeats)
    np.testing.assert_allclose(b.noise_ceiling(betas, labels, repeats), expected, atol=4)
    pure = RNG(0).normal(size=betas.shape)
    assert b.noise_ceiling(pure, labels).max() < 3
    with pytest.warns(UserWarning, match="median variance of 0.01; .* expects z-scores"):
        b.noise_ceiling(0.1 * pure, labels)


def test_noise_variance_by_hand():
    betas = np.array([[1.0], [3], [10], [10], [13], [99]])
    labels = [0, 0, 1, 1, 1, 2]  # variances 2 and 3; picture 2 has no repeat
    assert b.noise_variance(betas, np.array(labels)) == pytest.approx((2 + 3) / 2)


def test_reliability_needs_repeats():
    with pytest.raises(DataError, match="pictures were shown more than once"):
        b.split_half_reliability(np.ones((5, 2)), np.arange(5))


def test_areas():
    roi = np.array(["LHPPA", "RHPPA", "LHLOC", "V1"])
    assert b.areas_of(roi).tolist() == ["PPA", "PPA", "LOC", "V1"]
    assert list(b.in_areas(roi, "PPA")) == [True, True, False, False]
    assert list(b.in_areas(roi, "LOC", "V1")) == [False, False, True, True]
    with pytest.raises(DataError, match="no voxel lies in 'OPA'"):
        b.in_areas(roi, "OPA")


def test_decoding_finds_what_is_there_and_nothing_else():
    rng = RNG(0)
    kind, size = rng.integers(0, 3, 300), rng.normal(size=300)
    tuning = rng.normal(size=(3, 40))
    betas = tuning[kind] + np.outer(size, rng.normal(size=40)) + rng.normal(0, 2, (300, 40))
    assert decode(betas, np.array(["cat", "shoe", "face"])[kind]) > 0.85
    assert decode(betas, {"kind": kind, "size": size}) == pytest.approx(
        {"kind": decode(betas, kind), "size": decode(betas, size)}, abs=1e-6)
    assert decode(betas, kind) > 0.85
    assert decode(betas, size) > 0.8
    assert decode(betas, rng.permutation(kind)) < 0.45
    assert abs(decode(betas, rng.permutation(size))) < 0.2


def test_rdm_by_hand():
    patterns = np.array([[1.0, 2, 3], [2, 4, 6.0], [3, 2, 1]])
    np.testing.assert_allclose(rdm(patterns), [[0, 0, 2], [0, 0, 2], [2, 2, 0]], atol=1e-12)
    random = rdm(RNG(0).normal(size=(10, 20)))
    assert compare_rdms(random, np.exp(random)) == pytest.approx(1)  # ranks only
    assert abs(compare_rdms(random, rdm(RNG(1).normal(size=(10, 20))))) < 0.5
