"""Confounds that say nothing new change nothing, whichever estimator; those that do are taken out.

The oracle is NumPy's `lstsq` on the whole design, which asks for the rank.
"""

import numpy as np
import pytest

from recon_lib.bold import whole_brain
from recon_lib.bold.design import cosine_drift, design_matrix, nuisance, nuisance_basis
from recon_lib.bold.glm import fit_trials, single_trial_betas, trial_design
from recon_lib.bold.hrf import spm_hrf
from recon_lib.bold.regression import ar1, ols, orthonormal
from recon_lib.bold.reml import reml_betas
from recon_lib.bold.single_trial import estimate, hrf_fit
from recon_lib.common.errors import DataError

TR, VOLUMES = 2.0, 194
ONSETS = np.arange(6.0, 376, 10)[:37]
RNG = np.random.default_rng(0)
BOLD = 1000 + 10 * RNG.standard_normal((VOLUMES, 50))
MOTION = np.cumsum(RNG.normal(size=(VOLUMES, 6)), 0) / 200
COSINES = cosine_drift(VOLUMES, TR, 1 / 128)[:, :-1]
NOTHING_NEW = {
    "cosines": COSINES,
    "cosines as float32": COSINES.astype(np.float32),
    "cosines of five digits": np.round(COSINES, 5),
    "zeros": np.zeros((VOLUMES, 20)),
    "a constant": np.full((VOLUMES, 1), 3.7),
    "a constant as float32": (np.full((VOLUMES, 1), 10_000.1)
                              + RNG.normal(0, 1e-3, (VOLUMES, 1))).astype(np.float32),
    "one": np.ones(VOLUMES),
}
BESIDE_MOTION = NOTHING_NEW | {
    "copies": MOTION.copy(),
    "copies as float32": MOTION.astype(np.float32),
    "copies of six digits": np.round(MOTION, 6),
    "sums": MOTION @ RNG.normal(size=(6, 3)) + 5,
    "rescaled": 1e6 * MOTION,
}


def lsa(confounds):
    return single_trial_betas(BOLD, ONSETS, TR, confounds=confounds)


def lss(confounds):
    return single_trial_betas(BOLD, ONSETS, TR, method="lss", confounds=confounds)


RUNS = [(BOLD, ONSETS), (BOLD[::-1] + 0, ONSETS)]
SHAPES = np.arange(50) % 20


def both(confounds):
    return None if confounds is None else [confounds, confounds]


def reml(confounds):
    return reml_betas(RUNS, TR, SHAPES, both(confounds)).betas


def choice(confounds):
    return hrf_fit(RUNS, TR, both(confounds))


def chain(confounds):
    return estimate(RUNS, TR, both(confounds)).betas


def prewhitened(confounds):
    conditions = ["a", "b"] * 18 + ["a"]
    design, _ = design_matrix(VOLUMES, TR, ONSETS, conditions, confounds=confounds)
    return ar1(BOLD, design).contrast(np.eye(design.shape[1])[0]).t


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [lsa, lss, reml, choice, chain, prewhitened])
def test_confounds_that_say_nothing_new_change_nothing(estimator):
    plain, moving = estimator(None), estimator(MOTION)
    assert np.abs(moving - plain).max() > 0.01 * plain.std()  # motion does say something
    for name, columns in NOTHING_NEW.items():
        np.testing.assert_allclose(estimator(columns), plain, atol=1e-5 * plain.std(), err_msg=name)
    for name, columns in BESIDE_MOTION.items():
        found = estimator(np.column_stack([MOTION, columns]))
        np.testing.assert_allclose(found, moving, atol=1e-4 * plain.std(), err_msg=name)


def test_nor_do_they_in_the_whole_brain(tmp_path):
    def estimated(confounds):
        path = tmp_path / "betas.h5"
        whole_brain.estimate_to_file(RUNS, path, TR, block=20, confounds=confounds)
        return whole_brain.read_estimate(path).betas

    plain = estimated(None)
    for name in ("cosines of five digits", "zeros"):
        np.testing.assert_allclose(estimated(both(NOTHING_NEW[name])), plain, atol=1e-5,
                                   err_msg=name)


@pytest.mark.parametrize("name", BESIDE_MOTION)
def test_least_squares_on_the_whole_design_says_the_same(name):
    """With exact copies; columns that rounding moved are first put back, as no rank is sharp."""
    columns = np.asarray(BESIDE_MOTION[name], float).reshape(VOLUMES, -1)
    exact = {"cosines": COSINES, "copies": MOTION, "a constant": np.ones((VOLUMES, 1))}
    whole = next((x for start, x in exact.items() if name.startswith(start)), columns)
    trials = trial_design(ONSETS, VOLUMES, TR, spm_hrf(TR))
    design = np.column_stack([trials, MOTION, whole, cosine_drift(VOLUMES, TR)])
    expected = np.linalg.lstsq(design / np.maximum(np.linalg.norm(design, axis=0), 1e-9), BOLD,
                               rcond=1e-9)[0][:37] / np.linalg.norm(trials, axis=0)[:, None]
    found = fit_trials(BOLD, ONSETS, TR, confounds=np.column_stack([MOTION, columns]))
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.std())


def test_a_basis_is_orthonormal_and_spans_what_it_should():
    confounds = np.column_stack([MOTION, MOTION[:, :2] + 1, np.zeros(VOLUMES), 1e4 * MOTION[:, 0]])
    basis = nuisance_basis(VOLUMES, TR, 0.01, confounds)
    assert basis.shape == (VOLUMES, 8 + 6)
    np.testing.assert_allclose(basis.T @ basis, np.eye(14), atol=1e-12)
    columns = nuisance(VOLUMES, TR, 0.01, confounds)
    np.testing.assert_allclose(basis @ (basis.T @ columns), columns, atol=1e-8)
    far = 1e5 + np.sin(np.arange(VOLUMES) * 0.7)  # small beside its mean, yet a direction
    assert nuisance_basis(VOLUMES, TR, 0.01, far).shape[1] == 9
    assert orthonormal(np.zeros((9, 3))).shape == (9, 0)


def test_a_design_leaves_out_what_says_nothing_new():
    confounds = np.column_stack([MOTION[:, 0], np.zeros(VOLUMES), COSINES[:, 0], MOTION[:, 1]])
    design, names = design_matrix(VOLUMES, TR, ONSETS, ["a"] * 37, confounds=confounds)
    assert names[:4] == ["a", "confound_1", "confound_4", "drift_1"]
    assert design.shape[1] == len(names) == np.linalg.matrix_rank(design)
    np.testing.assert_array_equal(design[:, 2], MOTION[:, 1])
    plain, _ = design_matrix(VOLUMES, TR, ONSETS, ["a"] * 37, confounds=MOTION[:, :2])
    np.testing.assert_array_equal(ols(BOLD, design).betas, ols(BOLD, plain).betas)


def test_confounds_that_explain_every_volume_leave_no_trials():
    with pytest.raises(DataError, match="cannot be told apart"):
        single_trial_betas(BOLD, ONSETS, TR, confounds=RNG.normal(size=(VOLUMES, VOLUMES)))
