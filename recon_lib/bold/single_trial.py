"""Better single-trial betas: an HRF for each voxel, shrinkage, and noise regressors.

The three ideas of GLMsingle (Prince et al. 2022, doi:10.7554/eLife.77599), each a function; in
place of its ridge, which shrinks the mean response as well, stands `reml`.
`runs` is a sequence of `(bold, onsets)`, one per run; `bold` is anything that gives a
`(volumes, voxels)` array when sliced, such as an array or an h5py data set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recon_lib.bold import hrf as responses
from recon_lib.bold.design import nuisance_basis
from recon_lib.bold.glm import percent_change, single_trial_betas
from recon_lib.bold.regression import project_out, whiten
from recon_lib.bold.reml import (
    RATIOS,
    autocorrelations,
    common_prior,
    each_run,
    of_run,
    reml_betas,
    shape_likelihood,
)
from recon_lib.common.errors import DataError, as_count, as_numbers

FEW = 5  # noise components where no picture was shown in two runs


@dataclass
class Estimate:
    """Betas with what was chosen for each voxel on the way."""

    betas: np.ndarray  # (trials, voxels) float32, % signal change, trials in order of the runs
    hrf: np.ndarray  # (voxels,) row of `hrf.library`
    ratio: np.ndarray  # (voxels,) variance of trials' deviations from their mean over the noise's
    prior: np.ndarray  # (20, ratios) how common each shape is with each of `reml.RATIOS`
    r2: np.ndarray  # (voxels,) share of whitened, drift-free variance by the mean, see `hrf_fit`
    # (20, voxels) each: probability of each shape, and mean ratio given it; of a file None
    chance: np.ndarray | None = None
    ratios: np.ndarray | None = None


def estimate(runs, tr, confounds=None, durations=1.0, high_pass=0.01, prior=None):
    """The whole chain: choose an HRF for each voxel, then give betas that are shrunk by REML.

    HRF and ratio of variances are chosen together, by the restricted likelihood of each pair under
    a prior that all voxels share. That chooses better than the fit of the mean response
    (`hrf_fit`): what sets single trials apart has the shape of the response, too.

    A beta's unit is a response that peaks 1 % above the voxel's mean. Its mean over trials keeps it
    as far as the library holds the voxel's HRF. Where it does not and pictures come at a constant
    interval, the height of the mean response cannot be told from the depth of its undershoot, which
    lies under the next picture: for responses of half cosines (Woolrich et al. 2004) every 10 s the
    mean comes out 1.22 times as high (sd .10 over shapes), at irregular intervals of 4 s and more
    .96 times (.04). Deviations of single trials from the mean keep their unit (.99 and .97).

    Parameters
    ----------
    runs : sequence of (bold, onsets)
    tr : float
        Repetition time, in seconds.
    confounds : list of (volumes, c) arrays, optional
        One per run, for instance `noise_components`.
    durations : float, or list of float or (trials,) arrays
        Seconds for which each picture was shown: all, or in each run.
    high_pass : float or str
        As in `design.nuisance`.
    prior : (20, ratios) array, optional
        How common each pair is, for instance `Estimate.prior` of other voxels; default: in these.

    Returns
    -------
    Estimate
    """
    settings = {"confounds": confounds, "durations": durations, "high_pass": high_pass}
    runs = [(as_numbers(bold[:], "the BOLD"), onsets) for bold, onsets in runs]
    chance, ratios, prior = _chances(runs, tr, prior, settings)
    hrf, voxel = chance.argmax(0), np.arange(chance.shape[1])
    ratio = np.where(np.isfinite(chance[0]), ratios[hrf, voxel], np.nan)
    betas = reml_betas(runs, tr, hrf, ratio=np.nan_to_num(ratio), **settings).betas
    r2 = hrf_fit(runs, tr, **settings)[hrf, voxel]
    return Estimate(betas, hrf, ratio, prior, r2, chance, ratios)


def _chances(runs, tr, prior, settings):
    """Probability of each shape, (20, voxels), the mean ratio given it, and the common prior."""
    likelihood = shape_likelihood(runs, tr, **settings)
    likelihood = np.exp(likelihood - likelihood.max((0, 1)))
    pairs = likelihood.reshape(-1, likelihood.shape[-1])
    prior = common_prior(pairs).reshape(len(likelihood), -1) if prior is None else prior
    chance = likelihood * prior[:, :, None]  # (shapes, ratios, voxels)
    total = chance.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.einsum("srv,r->sv", chance, RATIOS) / total
        return total / total.sum(0), np.nan_to_num(ratios), prior


def standard_errors(runs: Sequence, tr: float, found: Estimate,
                    confounds: Sequence | None = None, durations: Sequence | float = 1.0,
                    high_pass: float | str = 0.01) -> np.ndarray:
    """How far the betas of `estimate` may lie from the truth, the HRF's choice included.

    Each shape k of the library has a probability p_k given the data, betas b_k and standard errors
    s_k (`reml.Shrinkage`). The expected squared error of a beta b is then Σ p_k (s_k² + (b_k - b)²)
    (law of total variance). That of the likeliest shape alone leaves out the second part.

    Over all voxels of simulated scans, silent ones too, errors are .96 to 1.11 times as large where
    the true HRFs are in the library. Where they are not, and pictures come every 10 s, they are 1.2
    to 1.4 times as large: the unit of the mean response (see `estimate`) is not counted, for no
    shape of the library tells it. Of deviations from the voxel's mean, errors are .9 to 1.1 times
    as large there, too.

    Parameters
    ----------
    runs : sequence of (bold, onsets)
    tr : float
        Repetition time, in seconds.
    found : Estimate
        Of `estimate`, with the same settings.
    confounds, durations, high_pass
        As in `estimate`.

    Returns
    -------
    (trials, voxels) float32 array
        Percent signal change; NaN where there is no beta.
    """
    settings: dict = {"confounds": confounds, "durations": durations, "high_pass": high_pass}
    runs = [(as_numbers(bold[:], "the BOLD"), onsets) for bold, onsets in runs]
    chance, ratios = found.chance, found.ratios
    if chance is None:
        chance, ratios, _ = _chances(runs, tr, found.prior, settings)
    total = np.where(np.isfinite(chance[0]), np.float32(0), np.nan) * found.betas
    for shape, weight in enumerate(chance):
        some = np.flatnonzero(weight > 0.001)
        if len(some):
            one = reml_betas([(bold[:, some], onsets) for bold, onsets in runs], tr,
                             np.full(len(some), shape), ratio=ratios[shape, some], **settings)
            off = one.error**2 + (one.betas - found.betas[:, some]) ** 2
            total[:, some] += weight[some] * off
    return np.sqrt(total)


def variance_prior(runs, tr, **settings):
    """The `prior` of `estimate` alone, for other voxels of the same brain."""
    return _chances(runs, tr, None, settings)[2]


def hrf_fit(runs: Sequence, tr: float, confounds: Sequence | None = None,
            durations: Sequence | float = 1.0, high_pass: float | str = 0.01):
    """How well each response shape of the library explains each voxel's mean response.

    All trials of all runs share one regressor and one weight, and both sides are whitened with the
    voxel's own autocorrelation. Free trial regressors on raw series would fit the noise too, and
    since BOLD noise is slow, wide shapes would win in every voxel. No voxel's result depends on
    the others in hand.

    Returns
    -------
    (20, voxels) array
        Share of the whitened, drift-free variance that the shape explains. `argmax(0)` chooses.

    Raises
    ------
    DataError
        If there is no run, or not one set of confounds for each.
    """
    shapes = responses.library(tr)
    rho = autocorrelations(runs, tr, confounds, durations, high_pass)
    product = np.zeros((len(shapes), len(rho)))  # of model and series
    models, power = np.zeros_like(product), np.zeros(len(rho))  # squares of either
    for series, drift, design in each_run(runs, tr, confounds, durations, high_pass):
        each = np.stack([design(shape).sum(1) for shape in shapes], axis=1)
        for level in np.unique(rho):
            mine = np.flatnonzero((rho == level) & np.isfinite(series).all(0))
            basis, _ = np.linalg.qr(whiten(drift, level))
            white = project_out(basis, whiten(series[:, mine], level))
            model = project_out(basis, whiten(each, level))
            product[:, mine] += model.T.astype(series.dtype) @ white
            models[:, mine] += (model**2).sum(0)[:, None]
            power[mine] += np.einsum("tv,tv->v", white, white, dtype=float)
    with np.errstate(invalid="ignore"):
        return product**2 / (models * power)


def noise_components(runs: Sequence, tr: float, pool: np.ndarray, count: int,
                     high_pass: float | str = 0.01,
                     confounds: Sequence | None = None) -> list[np.ndarray]:
    """What voxels that do not care for the pictures have in common, as confounds.

    Principal components of the drift-free series of the noise pool, each voxel scaled to length
    1, run by run (GLMdenoise: Kay et al. 2013, doi:10.3389/fnins.2013.00247).

    Parameters
    ----------
    runs : sequence of (bold, onsets)
    pool : (voxels,) boolean array
        The noise pool: for instance the voxels that `hrf_fit` explains worst.
    count : int
        Number of components.
    confounds : list of (volumes, c) arrays, optional
        One per run, taken out first: the components are of what they leave.

    Returns
    -------
    list of (volumes, count) arrays

    Raises
    ------
    DataError
        If the pool is no mask of the voxels, or too small for so many components.
    """
    pool = np.asarray(pool)
    if pool.dtype != bool:  # indices would be taken for it without a word
        raise DataError(f"the noise pool holds {pool.dtype}; expected one True or False per voxel")
    count, components = as_count(count, "the number of noise components", 1), []
    for i, (bold, _) in enumerate(runs):
        bold = as_numbers(bold[:], "the BOLD", 2)
        if pool.shape != bold.shape[1:]:
            raise DataError(f"the noise pool has shape {pool.shape}; expected one True or False "
                            f"for each of {bold.shape[1]} voxels")
        series = percent_change(bold[:, np.flatnonzero(pool)])
        series = project_out(
            nuisance_basis(len(series), tr, high_pass, of_run(confounds, i)), series)
        series = series[:, np.isfinite(series).all(0)].astype(np.float64)
        length = np.linalg.norm(series, axis=0)
        series = series[:, length > 0] / length[length > 0]
        if min(series.shape) < count:
            raise DataError(
                f"a noise pool of {series.shape[1]} voxels cannot give {count} components; enlarge "
                "the pool or ask for fewer"
            )
        _, vectors = np.linalg.eigh(series @ series.T)  # (volumes, volumes)
        components.append(vectors[:, ::-1][:, :count])
    return components


def choose_count(runs: Sequence, tr: float, labels: np.ndarray, components: Sequence,
                 hrf: np.ndarray, responsive: np.ndarray, confounds: Sequence | None = None,
                 durations: Sequence | float = 1.0):
    """How many noise components to take: the repeats decide, a run left out at a time.

    With each count, a picture's LSA betas in the other runs predict its beta, made with no
    component, in the run left out. The smallest count whose gain is within a twentieth of the best
    gain wins, as in GLMsingle: components cost degrees of freedom, and where voxels of the pool
    answer to the pictures, signal.

    Parameters
    ----------
    runs : sequence of (bold, onsets)
    tr : float
        Repetition time, in seconds.
    labels : (trials,) array
        Which picture each trial showed, -1 for trials that do not count.
    components : list of (volumes, most) arrays
        Of `noise_components`, the strongest first.
    hrf : (voxels,) int array
        A row of `hrf.library` each.
    responsive : (voxels,) boolean array
        Voxels that answer to the pictures, whose median gain counts.
    confounds : list of (volumes, c) arrays, optional
        One per run, taken out with every count.
    durations : float, or list of float or (trials,) arrays
        As in `estimate`.

    Returns
    -------
    count : int
    gains : (most + 1,) array
        Share of the squared error that each count saves; 0 for none.

    Raises
    ------
    DataError
        If there is not one label for each trial, or no picture occurs in two runs.
    """
    labels, run_of = np.asarray(labels), np.repeat(np.arange(len(runs)), [len(o) for _, o in runs])
    if labels.shape != run_of.shape:
        raise DataError(f"{labels.size} labels for {len(run_of)} trials, of shape {labels.shape}; "
                        "expected a list of one per trial")
    known = labels.astype(str) != "-1"
    same = (labels[:, None] == labels) & known[:, None] & (run_of[:, None] != run_of)
    left_out, others = np.nonzero(same)
    if not len(others):
        raise DataError("no picture was shown in two runs, so the number of noise components "
                        "cannot be chosen by leave-one-run-out; give a number")
    errors, plain = [], None
    for count in range(components[0].shape[1] + 1):
        noise = beside(confounds, [some[:, :count] for some in components])
        betas = np.concatenate([
            single_trial_betas(bold[:, responsive], onsets, tr, hrf[responsive],
                               of_run(durations, i), confounds=noise[i])
            for i, (bold, onsets) in enumerate(runs)])
        plain = betas if plain is None else plain
        errors.append(((betas[others] - plain[left_out]) ** 2).mean(0) / plain.var(0))
    gains = np.nanmedian(errors[0] - np.array(errors), axis=1) / np.nanmedian(errors[0])
    return int(np.argmax(gains * 1.05 >= gains.max())), gains


@dataclass
class Noise:
    """What is taken out of each run: noise components, behind the confounds that were given.

    Attributes
    ----------
    confounds : list of (volumes, c + count) arrays
    count : int
        Of the components.
    gains : (counts,) array or None
        What each number of them saves, see `choose_count`; None where no picture was in two runs.
    """

    confounds: list
    count: int
    gains: np.ndarray | None

    def __str__(self):
        if self.gains is None:
            return (f"{self.count} noise components, a number not chosen: no picture was shown in "
                    "two runs")
        return (f"{self.count} noise components of 0 to {len(self.gains) - 1}, chosen by "
                f"leave-one-run-out: {100 * self.gains[self.count]:.1f} % less error")


def find_noise(runs: Sequence, tr: float, labels: np.ndarray, durations: Sequence | float = 1.0,
               confounds: Sequence | None = None):
    """Noise components of the voxels that answer least, as many as the repeats choose.

    The pool is the 30 % of voxels that the mean response explains worst; those from the median on
    choose the number. At most 10 components are tried, and no more than half of the degrees of
    freedom that trials, drift and confounds leave. Without repeats the number is `FEW`.

    Parameters
    ----------
    runs, tr, durations, confounds
        As in `estimate`.
    labels : (trials,) array
        Which picture each trial showed.

    Returns
    -------
    Noise
    """
    fit = hrf_fit(runs, tr, confounds, durations)
    r2, gains = fit.max(0), None
    pool = r2 < np.nanquantile(r2, 0.3)
    spare = min(len(bold) - len(onsets) - nuisance_basis(len(bold), tr, 0.01, of_run(
        confounds, i)).shape[1] for i, (bold, onsets) in enumerate(runs))
    most = max(0, min(10, pool.sum(), spare // 2))
    components = noise_components(runs, tr, pool, most, confounds=confounds) if most else [
        np.empty((len(bold), 0)) for bold, _ in runs]
    run_of = np.repeat(np.arange(len(runs)), [len(onsets) for _, onsets in runs])
    pairs = np.unique(np.rec.fromarrays([labels, run_of]))
    count = min(FEW, most)
    if len(np.unique(pairs["f0"])) < len(pairs):  # a picture in two runs
        count, gains = choose_count(runs, tr, labels, components, fit.argmax(0),
                                    r2 >= np.nanmedian(r2), confounds, durations)
    return Noise(beside(confounds, [some[:, :count] for some in components]), count, gains)


def beside(confounds, components):
    """Confounds of each run, if any, and components behind them."""
    return components if confounds is None else [
        np.hstack([one, some]) for one, some in zip(confounds, components, strict=True)]
