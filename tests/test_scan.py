"""The small scan: its truth is what its BOLD is made of."""

import importlib.resources

import numpy as np
import pytest

from recon_lib.bold import glm
from recon_lib.bold.betas import zscore_sessions
from recon_lib.common.errors import DataError
from recon_lib.world import scan


@pytest.fixture(scope="module")
def world():
    return scan.simulate(sessions=1, voxels={"LHPPA": 30, "RHLOC": 20}, seed=1)


@pytest.mark.slow
def test_shapes_and_repeats(world):
    assert len(world.runs) == 10 and world.runs[0][0].shape == (194, 50)
    assert world.truth.shape == (370, 50) and world.session.tolist() == [1] * 370
    shown = world.labels[world.labels >= 0]
    assert (np.unique(shown, return_counts=True)[1] == 4).all()
    assert (world.image[world.labels >= 0] == shown).all()


@pytest.mark.parametrize("options", [{"sessions": 0}, {"sessions": 16}, {"voxels": {"V1": 9}}])
def test_other_sessions_and_areas_than_there_are_are_refused(options):
    with pytest.raises(DataError, match="expected 1 to 15 sessions, and areas of LHEarlyVis"):
        scan.simulate(**options)


def test_the_signal_is_in_the_bold(world):
    """BOLD contains the signal once (a slope of 1), and LSA of the signal is the truth."""
    together = alone = 0.0
    for run, (bold, _) in enumerate(world.runs):
        signal = world.signal(run) - world.signal(run).mean(0)
        together += (glm.percent_change(bold) * signal).sum()
        alone += (signal**2).sum()
    assert together / alone == pytest.approx(1, abs=0.1)
    clean = (1 + world.signal(3) / 100) * 1000
    betas = glm.single_trial_betas(clean, world.runs[3][1], 2.0, hrf=world.person.shape)
    truth = world.truth[3 * 37 : 4 * 37]
    for estimate, true in zip(betas.T, truth.T, strict=True):
        assert np.corrcoef(estimate, true)[0, 1] > 0.999


def test_agreement_is_a_correlation(world):
    noisy = world.truth + np.random.default_rng(0).normal(size=world.truth.shape)
    mine = world.agreement(noisy)
    by_hand = [np.corrcoef(a, b)[0, 1] for a, b in zip(noisy.T, world.truth.T, strict=True)]
    np.testing.assert_allclose(mine, by_hand, atol=1e-5)
    assert zscore_sessions(world.truth, world.session).shape == world.truth.shape


def test_real_recording():
    bold, onsets, kinds = scan.real_event_related()
    assert bold.shape == (3360, 1) and len(onsets) == 576
    assert np.unique(kinds, return_counts=True)[1].tolist() == [96] * 6


def test_real_recording_says_what_is_missing(monkeypatch):
    def nothing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(scan, "files", nothing)
    assert importlib.resources.files  # only the name in the module was replaced
    with pytest.raises(DataError, match="pip install nitime"):
        scan.real_event_related()
