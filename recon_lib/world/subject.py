"""A simulated subject in the scanner: BOLD5000's design in, BOLD out, with the truth kept.

What each voxel answers to each picture is in `tuning`. Here every voxel gets an HRF, a gain in
each session, drift and AR(1) noise of its own, and shares some noise with the others.
"""

from dataclasses import dataclass

import numpy as np

from recon_lib.bold import hrf
from recon_lib.bold.events import peak_height, regressors
from recon_lib.common.errors import DataError
from recon_lib.data.bold5000 import (
    FIRST_ONSET,
    RUNS_PER_SESSION,
    SHOWN,
    TR,
    TRIAL,
    TRIALS_PER_RUN,
    VOLUMES,
)

SHARED = 0.25  # share of the noise variance that voxels have in common
SOURCES = 5  # number of shared noise sources
SNR = 0.030  # mean over voxels of var(signal) / var(noise) of single-trial betas, HRF known


@dataclass(frozen=True)
class Design:
    """Who saw what when: one entry per trial."""

    image: np.ndarray  # (trials,) index of the picture shown
    session: np.ndarray  # (trials,) int, counted from 1
    run: np.ndarray  # (trials,) int, counted from 1 anew in each session
    onset: np.ndarray  # (trials,) seconds from the first volume of the run
    repeated: np.ndarray  # (m,) the pictures shown more than once: the test set

    @property
    def test(self):
        """(trials,) bool: trials that show a repeated picture."""
        return np.isin(self.image, self.repeated)


def make_design(seed, runs_per_session=RUNS_PER_SESSION["CSI1"], repeated=113, test_trials=451):
    """Order the pictures into trials, runs and sessions as BOLD5000 did: a `Design`.

    `runs_per_session` lists the runs of each session, of 37 trials each; `repeated` pictures are
    shown on `test_trials` trials. By default 5254 trials of 4916 pictures, 113 of them on 451
    trials.
    """
    rng = np.random.default_rng(seed)
    trials = TRIALS_PER_RUN * sum(runs_per_session)
    pictures = trials - test_trials + repeated
    again = rng.permutation(pictures)[:repeated]
    shown = np.resize(again, test_trials)  # each about test_trials / repeated times
    image = rng.permutation(np.concatenate([np.setdiff1d(np.arange(pictures), again), shown]))
    runs = [(s, r) for s, n in enumerate(runs_per_session, 1) for r in range(1, n + 1)]
    session, run = np.repeat(runs, TRIALS_PER_RUN, axis=0).T
    onset = np.tile(FIRST_ONSET + TRIAL * np.arange(TRIALS_PER_RUN), len(runs))
    onset = onset + rng.uniform(0, 0.1, trials)  # the small jitter of a real scanner
    return Design(image, session, run, onset, np.sort(again))


def design_for(pictures):
    """Options of `make_design` for a collection of another size than BOLD5000's.

    A tenth of the pictures, 113 at most, is shown four times. There are as many whole runs as the
    pictures fill, in sessions of ten at most; the few that are left over are not shown. Too few
    pictures for two runs are a `DataError`.
    """
    repeated = min(113, pictures // 10)
    runs = min(142, (pictures + 3 * repeated) // TRIALS_PER_RUN)
    if runs < 2 or repeated < 2:
        raise DataError(f"found {pictures} pictures, an experiment needs 60 or more; add some")
    sessions = -(-runs // 10)
    per_session = [len(part) for part in np.array_split(np.arange(runs), sessions)]
    return dict(runs_per_session=per_session, repeated=repeated, test_trials=4 * repeated)


@dataclass
class Subject:
    """All that is true of a simulated subject. V voxels, S sessions."""

    roi: np.ndarray  # (V,) str: area of each voxel, such as "LHPPA"
    mean: np.ndarray  # (V,) mean response over pictures, in % signal change
    amplitude: np.ndarray  # (V,) standard deviation of the response over pictures, in % too
    shape: np.ndarray  # (V,) which HRF: index into `hrf.library`
    gain: np.ndarray  # (S, V) factor on the response in each session
    rho: np.ndarray  # (V,) AR(1) coefficient of the noise
    sigma: np.ndarray  # (V,) standard deviation of the noise, in % signal change
    weight: np.ndarray  # (SOURCES, V) of the shared noise sources, of unit length for each voxel
    baseline: np.ndarray  # (V,) mean BOLD in scanner units


def make_subject(voxels, seed, sessions=15, snr=SNR):
    """Draw a `Subject` with so many voxels in each area, {"LHEarlyVis": int, …}; `snr` as `SNR`."""
    rng = np.random.default_rng(seed)
    roi = np.repeat(list(voxels), list(voxels.values()))
    n = len(roi)
    amplitude = 0.3 * rng.lognormal(0, 0.3, n)
    rho = rng.choice((0.1, 0.2, 0.3, 0.4), n)
    spread = rng.lognormal(0, 0.6, n)
    weight = rng.normal(size=(SOURCES, n))
    # variance of an LSA beta, in units of the noise variance; shared noise has a rho of 0.5
    factor = {r: beta_variance(r) for r in (0.1, 0.2, 0.3, 0.4, 0.5)}
    own = np.array([factor[r] for r in rho])
    scale = (1 - SHARED) * own + SHARED * factor[0.5]
    return Subject(roi=roi,
                   mean=rng.normal(0.8, 0.4, n),
                   amplitude=amplitude,
                   shape=np.clip(np.round(rng.normal(10, 4, n)), 0, 19).astype(int),
                   gain=1 + 0.1 * rng.normal(size=(sessions, n)),
                   rho=rho,
                   sigma=amplitude / np.sqrt(snr * spread / spread.mean() * scale),
                   weight=weight / np.linalg.norm(weight, axis=0),
                   baseline=rng.uniform(700, 1300, n))


def event_columns(onsets, kernel):
    """Responses to one-second pictures with a peak of one: (VOLUMES, trials)."""
    columns = regressors(onsets, SHOWN, VOLUMES, TR, kernel)
    return columns / peak_height(kernel, SHOWN, TR)


def beta_variance(rho):
    """Mean variance of an LSA beta under AR(1) noise of unit variance (closed form)."""
    onsets = FIRST_ONSET + TRIAL * np.arange(TRIALS_PER_RUN)
    x = event_columns(onsets, hrf.library(TR)[10])
    solve = np.linalg.pinv(np.column_stack([x, np.ones(VOLUMES), drifts()]))[:TRIALS_PER_RUN]
    lag = np.abs(np.subtract.outer(np.arange(VOLUMES), np.arange(VOLUMES)))
    return np.einsum("it,ts,is->i", solve, rho**lag, solve).mean()


def drifts():
    """Five slow cosines, (VOLUMES, 5): the drift of the scanner is a sum of these."""
    t = (np.arange(VOLUMES) + 0.5) / VOLUMES
    return np.cos(np.pi * t[:, None] * np.arange(1, 6))


def ar1_noise(rho, volumes, columns, rng):
    """AR(1) noise of unit variance, stationary from the first volume: (volumes, columns)."""
    from scipy.signal import lfilter  # takes half a second to import

    e = rng.standard_normal((volumes, columns), dtype=np.float32)
    e[1:] *= np.float32((1 - rho**2) ** 0.5)
    return lfilter([1.0], [1.0, -rho], e, axis=0).astype(np.float32)


def true_betas(subject, response, design):
    """The response to each trial in % signal change: (trials, V) float32."""
    evoked = subject.mean + subject.amplitude * response[design.image]
    return (subject.gain[design.session - 1] * evoked).astype(np.float32)


def bold_runs(subject, betas, design, seed):
    """The subject in the scanner: yields session, run, trials (37,) and BOLD (194, V) of each.

    The BOLD is float32 in scanner units; `betas` (trials, V) are `true_betas`. The noise of a run
    depends on (seed, session, run) only.
    """
    kernels = hrf.library(TR)
    for session, run in dict.fromkeys(zip(design.session, design.run, strict=True)):
        rng = np.random.default_rng((seed, session, run))
        trials = np.flatnonzero((design.session == session) & (design.run == run))
        n = betas.shape[1]
        signal = np.empty((VOLUMES, n), np.float32)
        for shape in np.unique(subject.shape):
            mine = subject.shape == shape
            signal[:, mine] = event_columns(design.onset[trials], kernels[shape]) @ betas[
                np.ix_(trials, mine)
            ]
        noise = np.empty((VOLUMES, n), np.float32)
        for rho in np.unique(subject.rho):
            mine = subject.rho == rho
            noise[:, mine] = ar1_noise(rho, VOLUMES, mine.sum(), rng)
        common = ar1_noise(0.5, VOLUMES, SOURCES, rng) @ subject.weight
        noise = (1 - SHARED) ** 0.5 * noise + SHARED**0.5 * common
        drift = drifts() @ (rng.normal(size=(5, n)) * 1.5 / np.arange(1, 6)[:, None])
        percent = signal + subject.sigma * noise + drift
        yield session, run, trials, (subject.baseline * (1 + percent / 100)).astype(np.float32)
