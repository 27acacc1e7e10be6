"""Public functions and odd arrays: other types, orders, shapes, holes. Each gives the right answer,
that of a plain loop in float64, or says in one line what is wrong; never a wrong number.
"""

import warnings
from itertools import product

import numpy as np
import pytest

from recon_lib.bold import betas
from recon_lib.bold.design import nuisance
from recon_lib.bold.glm import single_trial_betas, trial_design
from recon_lib.bold.hrf import spm_hrf
from recon_lib.bold.regression import ols
from recon_lib.brain import patterns
from recon_lib.brain.ridge import fit_ridge
from recon_lib.common.errors import DataError
from recon_lib.data.bold5000 import TR
from recon_lib.scores import identification, metrics

ONSETS = np.array([4.0, 14.0, 24.0])
SESSION = np.repeat([1, 2], 6)
LABELS = np.tile([0, 1, 2], 4)


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return 0.0 if size < 1e-9 else a @ b / size


def rows_of(x):
    return x.reshape(len(x), -1)


def plain_similarity(a, b):
    return np.array([[pearson(x, y) for y in rows_of(b)] for x in rows_of(a)])


def plain_top1(matrix, target):
    shares = []
    for row, t in zip(matrix, target.astype(int), strict=True):
        others = np.delete(row, t)
        shares.append(0 if (others > row[t]).any() else 1 / (1 + (others == row[t]).sum()))
    return np.mean(shares)


def plain_two_way(matrix, target):
    wins = [np.mean([(row[t] > o) + (row[t] == o) / 2 for o in np.delete(row, t)])
            for row, t in zip(matrix, target.astype(int), strict=True)]
    return np.mean(wins)


def plain_zscore(x, session):
    out = np.empty(x.shape)
    for s in np.unique(session):
        for v in range(x.shape[1]):
            part = x[session == s, v]
            sd = part.std()
            out[session == s, v] = 0 if sd == 0 else (part - part.mean()) / sd
    return out


def plain_means(x, labels):
    return np.array([x[labels == name].mean(0) for name in np.unique(labels)])


def plain_ceiling(x, labels):
    noise = np.mean([x[labels == name].var(0, ddof=1) for name in np.unique(labels)
                     if (labels == name).sum() > 1], 0)
    return 100 * (1 - np.minimum(noise, 1))  # which for one trial is what the formula says


def plain_columns(a, b):
    return np.array([pearson(x, y) if x.std() * y.std() else np.nan
                     for x, y in zip(a.T, b.T, strict=True)])


def plain_ols(bold, design):
    return np.stack([np.linalg.lstsq(design, one, rcond=None)[0] for one in bold.T], axis=1)


def plain_single_trials(bold, onsets):
    onsets, percent = np.atleast_1d(onsets), 100 * (bold / bold.mean(0) - 1)
    percent[:, np.ptp(bold, axis=0) == 0] = np.nan  # a voxel that never varies has no betas
    columns = trial_design(onsets, len(bold), TR, spm_hrf(TR))
    design = np.column_stack([columns, nuisance(len(bold), TR)])
    alive, betas = np.isfinite(percent).all(0), np.full((design.shape[1], bold.shape[1]), np.nan)
    betas[:, alive] = np.linalg.lstsq(design, percent[:, alive], rcond=None)[0]
    return betas[: len(onsets)]


def plain_ridge(x, y):
    return fit_ridge(x, y).predict(x)


def design_of(volumes, k):
    return np.column_stack([np.random.default_rng(9).normal(size=(volumes, k - 1)),
                            np.ones(volumes)])


CASES = {  # name: good arguments, the function, the same as a plain loop, which are data
    "similarity": ([(6, 8), (5, 8)], patterns.similarity, plain_similarity),
    "top_k": ([(5, 7), np.array([0, 6, 2, 2, 1])], identification.top_k, plain_top1),
    "two_way": ([(5, 7), np.array([0, 6, 2, 2, 1])], identification.two_way, plain_two_way),
    "pixel_correlation": ([(4, 3, 3, 3), (4, 3, 3, 3)], metrics.pixel_correlation,
                          lambda a, b: np.array([*map(pearson, rows_of(a), rows_of(b))])),
    "zscore_sessions": ([(12, 4), SESSION], betas.zscore_sessions, plain_zscore),
    "average_repeats": ([(12, 4), LABELS], lambda x, y: betas.average_repeats(x, y)[0],
                        plain_means),
    "noise_ceiling": ([(12, 4), LABELS], betas.noise_ceiling, plain_ceiling),
    "correlate_columns": ([(12, 4), (12, 4)], betas.correlate_columns, plain_columns),
    "ols": ([(20, 5), design_of(20, 4)], lambda y, x: ols(y, x).betas, plain_ols),
    "single_trial_betas": ([(25, 4), ONSETS], lambda y, t: single_trial_betas(y, t, TR),
                           plain_single_trials),
    "fit_ridge": ([(12, 4), (12, 3)], plain_ridge, plain_ridge),
}
CHANGES = {
    "nothing": lambda x, i: x,
    "int16": lambda x, i: np.rint(x).astype(np.int16),
    "uint8": lambda x, i: np.abs(np.rint(x)).astype(np.uint8),
    "bool": lambda x, i: x > np.median(x),
    "float16": lambda x, i: x.astype(np.float16),
    "float32": lambda x, i: x.astype(np.float32),
    "big-endian": lambda x, i: x.astype(">f8"),
    "a list": lambda x, i: x.tolist(),
    "Fortran's order": lambda x, i: np.asfortranarray(x),
    "backwards in memory": lambda x, i: np.ascontiguousarray(x[::-1])[::-1],
    "read-only": lambda x, i: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "text": lambda x, i: x.astype(str),
    "objects": lambda x, i: x.astype(object),
    "complex": lambda x, i: x + 1j,
    "a row less": lambda x, i: x[:-1],
    "no rows": lambda x, i: x[:0],
    "an axis more": lambda x, i: x[..., None],
    "an axis less": lambda x, i: x.ravel(),
    "turned": lambda x, i: x.T,
    "a number": lambda x, i: x.flat[0],
    "NaN": lambda x, i: put(x, i, np.nan),
    "infinite": lambda x, i: put(x, i, np.inf),
    "constant": lambda x, i: np.full_like(x, x.flat[0]),
}


def put(x, place, value):
    x = x.astype(float)
    x.flat[place % x.size] = value
    return x


def numbers(x):
    """What an argument says, as float64, or as it is when it is not numbers."""
    x = np.asarray(x)
    return x.astype(float) if x.dtype.kind in "biufO" else x


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", CASES)
def test_right_or_refused(name, change):
    shapes, function, plain = CASES[name]
    for which, seed, place in product(range(len(shapes)), range(2), (0, 37)):
        rng = np.random.default_rng(seed)
        level = 100 if name == "single_trial_betas" else 8
        good = [rng.normal(level, 4, s) if isinstance(s, tuple) else s for s in shapes]
        given = list(good)
        given[which] = CHANGES[change](good[which], place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = np.asarray(function(*given))
            except DataError as error:
                assert "\n" not in str(error)
                assert change not in ("nothing", "float32", "float16", "big-endian", "read-only",
                                      "Fortran's order", "backwards in memory", "int16") \
                    or isinstance(shapes[which], np.ndarray), error  # good data are not refused
                continue
            expected = np.asarray(plain(*map(numbers, given)))
        assert found.shape == expected.shape
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * scale,
                                   err_msg=f"argument {which}, seed {seed}, place {place}")
