"""HRFs and regressors against nilearn and against integrals of the gamma density."""

import numpy as np
import pytest
from nilearn.glm import first_level as nilearn
from nilearn.glm.first_level import hemodynamic_models as models
from scipy.stats import gamma

from recon_lib.bold import hrf
from recon_lib.bold.events import condition_regressors, fir, peak_height, regressors
from recon_lib.common.errors import DataError

REPETITION_TIMES = [2.0, 1.1, 0.72]
NAMES = [f"{name}{more}" for name in ("spm", "glover")
         for more in ("", " + derivative", " + derivative + dispersion")]


@pytest.mark.parametrize("tr", REPETITION_TIMES)
def test_kernels_equal_nilearn(tr):
    pairs = [
        (hrf.spm_hrf(tr), nilearn.spm_hrf(tr)),
        (hrf.glover_hrf(tr), nilearn.glover_hrf(tr)),
        (hrf.spm_hrf(tr, onset=0.7), nilearn.spm_hrf(tr, onset=0.7)),
        (hrf.time_derivative("spm", tr), nilearn.spm_time_derivative(tr)),
        (hrf.time_derivative("glover", tr), nilearn.glover_time_derivative(tr)),
        (hrf.dispersion_derivative("spm", tr), nilearn.spm_dispersion_derivative(tr)),
        (hrf.dispersion_derivative("glover", tr), models.glover_dispersion_derivative(tr)),
    ]
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tr", REPETITION_TIMES)
def test_regressors_equal_nilearn_for_any_jitter(name, tr):
    rng = np.random.default_rng(0)
    for _ in range(5):
        events = rng.uniform(-20, 110 * tr, 30), rng.uniform(0, 4, 30), rng.normal(size=30)
        theirs, _ = models.compute_regressor(events, name, np.arange(100) * tr)
        onsets, durations, amplitudes = events
        mine = condition_regressors(onsets, durations, 100, tr, name, amplitudes)
        np.testing.assert_allclose(mine, theirs, atol=1e-10)


def test_regressor_converges_to_the_integral():
    """With finer sampling the regressor becomes the exact convolution of box and response."""
    t, onset, duration = np.arange(40) * 2.0, 6.137, 1.0

    def integral(s):  # of the SPM response from 0 to s
        return gamma.cdf(s, 6) - 0.167 * gamma.cdf(s, 16)

    exact = (integral(t - onset) - integral(t - onset - duration)) / integral(32.0)
    errors = []
    for oversampling in (50, 500):
        kernel = hrf.spm_hrf(2.0, oversampling)
        mine = regressors(onset, duration, 40, 2.0, kernel, oversampling)[:, 0]
        errors.append(np.abs(mine - exact)[t < onset + 30].max() / exact.max())
    assert errors[1] < errors[0] / 5 and errors[1] < 0.002


def test_responses_never_precede_their_events():
    onsets = np.array([3.3, 10.0, 21.999])
    columns = regressors(onsets, 1.0, 50, 2.0, hrf.spm_hrf(2.0))
    found = fir(onsets, 50, 2.0, 6)
    for onset, column in zip(onsets, columns.T, strict=True):
        assert not column[np.arange(50) * 2.0 < onset].any()
        assert column.max() > 0
    assert not found[np.arange(50) * 2.0 < onsets[0]].any()


def test_fir_equals_nilearn_for_events_on_volumes():
    onsets = np.array([4.0, 18.0, 22.0, 60.0])
    theirs, _ = models.compute_regressor(
        (onsets, np.full(4, 2.0), np.ones(4)), "fir", np.arange(50) * 2.0, fir_delays=range(8)
    )
    np.testing.assert_allclose(fir(onsets, 50, 2.0, 8), theirs, atol=1e-9)


def test_library_spans_three_to_seven_seconds():
    shapes = hrf.library(2.0)
    peaks = np.linspace(0, 32, shapes.shape[1])[shapes.argmax(1)]
    assert shapes.shape == (20, 800)
    assert (np.diff(peaks) >= 0).all()
    assert peaks.min() == pytest.approx(3, abs=0.1) and peaks.max() == pytest.approx(7, abs=0.1)
    similar = np.corrcoef(shapes) - np.eye(20)
    assert similar.max() < 0.999  # no shape twice


def test_peak_height_is_that_of_an_isolated_response():
    kernel = hrf.glover_hrf(2.0)
    fine = regressors(0.0, 3.0, 1000, 0.04, kernel, oversampling=1)
    assert peak_height(kernel, 3.0, 2.0) == pytest.approx(fine.max(), rel=1e-9)


def test_bad_input_is_one_line():
    with pytest.raises(DataError, match="unknown HRF 'spn'"):
        hrf.kernels("spn", 2.0)
    with pytest.raises(DataError, match="onset at -30.0 s"):
        regressors([-30.0, 4.0], 1.0, 50, 2.0, hrf.spm_hrf(2.0))
    with pytest.raises(DataError, match="onset at nan"):
        regressors([np.nan], 1.0, 50, 2.0, hrf.spm_hrf(2.0))
