"""The haemodynamic response: what a voxel does in the half minute after a picture.

A *kernel* is a response sampled every `tr / oversampling` seconds, as `regressors` wants it.
The canonical ones follow SPM and Glover (1999, doi:10.1006/nimg.1998.0419) and equal
nilearn's. Every response is causal: nothing happens before the picture.
"""

import re
from functools import cache

import numpy as np
from scipy.special import gammaln, xlogy

from recon_lib.common.errors import DataError, as_numbers, check

LENGTH = 32.0  # seconds after which a response is taken to be over


def double_gamma(t, delay=6.0, undershoot=16.0, dispersion=1.0, undershoot_dispersion=1.0,
                 ratio=0.167, start=0.0):
    """A peak and an undershoot: the difference of two gamma densities.

    Parameters
    ----------
    t : array
        Seconds since the event.
    delay, undershoot : float
        Mean time of the peak and of the undershoot, in seconds. The response peaks near
        `delay - dispersion`.
    dispersion, undershoot_dispersion : float
        Scale of each gamma density, in seconds: larger is wider.
    ratio : float
        Size of the undershoot relative to the peak.
    start : float
        Seconds after the event at which the response begins.

    Returns
    -------
    array, the shape of `t`
        Not normalised. Zero before `start`.
    """
    t = as_numbers(t, "the times").astype(float)
    peak = _gamma_density(t - start, delay / dispersion, dispersion)
    dip = _gamma_density(t - start, undershoot / undershoot_dispersion, undershoot_dispersion)
    return peak - ratio * dip


def _gamma_density(t, shape, scale):
    """As `scipy.stats.gamma.pdf`, which takes half a second to import."""
    z = np.maximum(t, 0) / scale
    return np.where(t >= 0, np.exp(xlogy(shape - 1, z) - z - gammaln(shape)) / scale, 0)


SHAPES = {
    "spm": {},
    "glover": {"undershoot": 12.0, "dispersion": 0.9, "undershoot_dispersion": 0.9, "ratio": 0.48},
}


def check_sampling(tr, oversampling):
    """Stop if this is no repetition time, or samples are so far apart that a response is missed."""
    if not (tr > 0 and oversampling >= 1 and tr <= 4 * oversampling):
        raise DataError(f"tr is {tr} s, oversampling {oversampling}; expected a TR above 0 and "
                        "samples at most 4 s apart")


def kernel(tr, oversampling=50, onset=0.0, **shape):
    """Sample a double gamma for convolution; the samples sum to one.

    Parameters
    ----------
    tr : float
        Repetition time, in seconds.
    oversampling : int
        Samples per TR.
    onset : float
        Extra delay of the whole response, in seconds.
    **shape
        Passed to `double_gamma`.

    Returns
    -------
    (samples,) array
        `LENGTH * oversampling / tr` samples. As in nilearn the response starts one sample late.

    Raises
    ------
    DataError
        If samples would be more than 4 s apart, or no time.
    """
    check_sampling(tr, oversampling)
    step = tr / oversampling
    t = np.linspace(0, LENGTH, round(LENGTH / step)) - onset
    values = double_gamma(t, start=step, **shape)
    return values / values.sum()


def spm_hrf(tr: float, oversampling: int = 50, onset: float = 0.0):
    """SPM's canonical response, sampled: see `kernel`."""
    return kernel(tr, oversampling, onset, **SHAPES["spm"])


def glover_hrf(tr: float, oversampling: int = 50, onset: float = 0.0):
    """Glover's canonical response, sampled: earlier dip, deeper undershoot. See `kernel`."""
    return kernel(tr, oversampling, onset, **SHAPES["glover"])


def time_derivative(name, tr, oversampling=50):
    """Change of a canonical response with its onset, per second (difference over 0.1 s)."""
    shape = SHAPES[name]
    later = kernel(tr, oversampling, 0.1, **shape)
    return (kernel(tr, oversampling, **shape) - later) / 0.1


def dispersion_derivative(name, tr, oversampling=50):
    """Change of a canonical response with the width of its peak (difference over 0.01 s).

    As in nilearn, the undershoot keeps a dispersion of 1.
    """
    shape = {**SHAPES[name], "undershoot_dispersion": 1.0}
    width = shape.pop("dispersion", 1.0)
    narrow = kernel(tr, oversampling, dispersion=width, **shape)
    wide = kernel(tr, oversampling, dispersion=width + 0.01, **shape)
    return (narrow - wide) / 0.01


def makers(hrf):
    """The functions that make kernels, where `hrf` is one or a list of them; else []."""
    some = list(hrf) if isinstance(hrf, (list, tuple)) else [hrf]
    return some if some and all(map(callable, some)) else []


def fir_delays(hrf):
    """The number of delays that "fir 12" asks for; 0 where `hrf` is something else."""
    asked = re.fullmatch(r"fir ([1-9]\d*)", hrf) if isinstance(hrf, str) else None
    return int(asked[1]) if asked else 0


def kernels(hrf, tr, oversampling=50):
    """The kernels (k, samples) that a name stands for.

    `hrf` is `"spm"` or `"glover"`, alone or followed by `" + derivative"` or `" + derivative +
    dispersion"`; kernels already sampled, (samples,) or (k, samples); or what makes one from `tr`
    and `oversampling`, such as `glover_hrf`; or a list of such functions.
    """
    if made := makers(hrf):
        hrf = [make(tr, oversampling) for make in made]
    if not isinstance(hrf, str):
        hrf = np.atleast_2d(as_numbers(hrf, "the HRF"))
        return check(hrf, ("k", "samples"), what="the HRF").astype(float)
    name, *extra = hrf.split(" + ")
    if name not in SHAPES or extra not in ([], ["derivative"], ["derivative", "dispersion"]):
        raise DataError(
            f"unknown HRF {hrf!r}; expected 'spm' or 'glover', optionally followed by "
            "' + derivative' or ' + derivative + dispersion', or in designs 'fir 12' (delays)")
    rows = [kernel(tr, oversampling, **SHAPES[name])]
    if "derivative" in extra:
        rows.append(time_derivative(name, tr, oversampling))
    if "dispersion" in extra:
        rows.append(dispersion_derivative(name, tr, oversampling))
    return np.stack(rows)


# Twenty responses: ten times of the peak from 3 to 7 s, each with a narrow peak and a deep
# undershoot, and with a wide peak and a shallow one. A gamma density peaks one dispersion before
# its mean.
LIBRARY = [
    {"delay": peak + width, "dispersion": width, "undershoot": peak + 9.0, "ratio": ratio}
    for peak in np.linspace(3.0, 7.0, 10)
    for width, ratio in ((0.7, 0.35), (1.3, 0.15))
]
PEAKS = np.array([shape["delay"] - shape["dispersion"] for shape in LIBRARY])  # seconds


def check_choice(hrf, voxels):
    """A row of `library` for each voxel, as an int array; stop if it is something else."""
    hrf = as_numbers(hrf, "the HRF choice")
    if hrf.shape != (voxels,):
        raise DataError(f"the HRF choice has shape {hrf.shape}; expected one per voxel ({voxels},)")
    if hrf.dtype.kind not in "iu":
        raise DataError(f"the HRF choice holds {hrf.dtype}; expected rows of hrf.library as int")
    if hrf.min() < 0 or hrf.max() >= len(LIBRARY):
        raise DataError(f"the HRF choice holds {hrf.min()} to {hrf.max()}; expected rows of "
                        f"hrf.library, 0 to {len(LIBRARY) - 1}")
    return hrf


@cache
def library(tr, oversampling=50):
    """Twenty response shapes that peak between 3 and 7 s, for a choice per voxel.

    Returns
    -------
    (20, samples) array
        Kernels, ordered by peak time; of each pair the first is narrow with a deep undershoot
        and the second wide with a shallow one.
    """
    shapes = np.stack([kernel(tr, oversampling, **shape) for shape in LIBRARY])
    shapes.flags.writeable = False  # everybody shares it
    return shapes
