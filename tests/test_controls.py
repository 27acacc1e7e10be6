"""Controls against refits by scikit-learn, channels that are known, and closed forms."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge

from recon_lib.common.errors import DataError
from recon_lib.course import explore_chance
from recon_lib.scores.controls import bits, decode_unseen
from recon_lib.scores.identification import two_way, two_way_null_sd


def test_a_decoder_without_a_group_is_one_refitted_without_it():
    rng = np.random.default_rng(0)
    betas, new = rng.normal(1, 1, (60, 15)), rng.normal(1, 1, (9, 15))
    targets, group = rng.normal(2, 1, (60, 4)), rng.integers(0, 3, 60)
    new_group = np.array([0, 1, 2, 7, 0, 1, 2, 7, 2])  # nobody was trained on 7
    ours = decode_unseen(betas, targets, group, new, new_group, penalty=3.0)
    for one in np.unique(new_group):
        fit = Ridge(alpha=3.0).fit(betas[group != one], targets[group != one])
        assert np.allclose(ours[new_group == one], fit.predict(new[new_group == one]), atol=1e-9)


def test_what_cannot_be_left_out_is_refused():
    x = np.ones((4, 2))
    with pytest.raises(DataError, match="expected \\(4, d\\)"):
        decode_unseen(x, x[:3], np.arange(4), x, np.arange(4), 1.0)
    with pytest.raises(DataError, match="nothing is left"):
        decode_unseen(x, x, np.zeros(4), x, np.zeros(4), 1.0)
    for penalty in (-30, 0, np.nan, np.inf):
        with pytest.raises(DataError, match="a number above 0"):
            decode_unseen(x, x, np.arange(4), x, np.arange(4), penalty)


@pytest.mark.parametrize(("share", "m"), [(0.3, 2), (0.7, 4), (0.9, 113), (1.0, 8)])
def test_bits_are_the_mutual_information_of_a_symmetric_channel(share, m):
    joint = np.full((m, m), (1 - share) / (m - 1) / m)
    np.fill_diagonal(joint, share / m)
    flow = joint[joint > 0] * np.log2(joint[joint > 0] * m * m)
    assert bits(share, m) == pytest.approx(flow.sum() if share > 1 / m else 0)


def test_bits_have_ends():
    assert bits(1 / 113, 113) == bits(0.0, 113) == 0 and bits(1.0, 8) == 3
    for wrong in ((1.1, 4), (-0.1, 4), (0.5, 1)):
        with pytest.raises(DataError, match="expected 0 to 1"):
            bits(*wrong)


def test_simulated_experiments_are_those_of_real_similarity_matrices():
    """The short cut against `two_way` of matrices of noise, best of three by the truth."""
    n, tries, rng = 30, 3, np.random.default_rng(0)
    real = []
    for _ in range(400):
        matrix = rng.standard_normal((tries, n, n))
        matrix[:, np.arange(n), np.arange(n)] += 0.5
        pick = matrix[:, np.arange(n), np.arange(n)].argmax(0)
        real.append(two_way(matrix[pick, np.arange(n)], np.arange(n)))
    quick = explore_chance.simulated_two_way(n, 0.5, tries)
    assert np.mean(real) == pytest.approx(quick.mean(), abs=4 * quick.std() / 20)
    assert np.std(real) == pytest.approx(quick.std(), rel=0.15)


def test_chance_explorer_shows_that_the_binomial_lies():
    box = explore_chance.chance_explorer()
    now = box.numbers
    assert now["sd"] == pytest.approx(two_way_null_sd(113), rel=0.05)
    ratio = explore_chance.binomial_sd(113) / two_way_null_sd(113)
    lie = stats.norm.sf(stats.norm.ppf(0.95) * ratio)
    assert now["binomial"] == pytest.approx(lie, abs=0.05) and lie > 0.35
    assert now["permutation"] == pytest.approx(0.05, abs=0.025)
    box.controls["tries"].value = 5
    assert box.numbers["permutation"] > 0.99  # permuting does not help those who chose by the truth
    assert box.numbers["scores"].mean() == pytest.approx(5 / 6, abs=0.01)  # E max of 5 uniforms
    box.set(tries=1, information=0.5)
    expected = stats.norm.cdf(0.5 / np.sqrt(2))
    assert box.numbers["scores"].mean() == pytest.approx(expected, abs=0.01)
