"""Scans to try things out on: a short simulated one with its truth, and a real one."""

from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from recon_lib.bold.betas import zscore_sessions
from recon_lib.common.errors import DataError
from recon_lib.data.bold5000 import RUNS_PER_SESSION, TR, TRIALS_PER_RUN, VOXELS
from recon_lib.world import scenes, subject, tuning


@dataclass
class Scan:
    """What was measured, and what only a simulation knows.

    Attributes
    ----------
    runs : list of (bold, onsets)
        BOLD (volumes, voxels) float32 in scanner units, onsets in seconds.
    session, image : (trials,) int arrays
        Trials in order of the runs.
    labels : (trials,) int array
        `image` where the picture was shown more than once, else -1.
    images : (n, 64, 64, 3) uint8 array
        Thumbnails of 8 x 8 where no voxel lies in EarlyVis and so none looks at pixels.
    factors : (n,) structured array
        What the pictures were drawn from.
    truth : (trials, voxels) float32 array
        True responses, in % signal change.
    person : subject.Subject
        Everything else that is true.
    """

    runs: list
    session: np.ndarray
    image: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    factors: np.ndarray
    truth: np.ndarray
    person: subject.Subject

    def signal(self, run):
        """What the pictures alone did to the BOLD of a run, in %: (volumes, voxels)."""
        onsets = self.runs[run][1]
        trials = slice(run * TRIALS_PER_RUN, (run + 1) * TRIALS_PER_RUN)
        out = np.empty(self.runs[run][0].shape)
        for shape in np.unique(self.person.shape):
            mine = self.person.shape == shape
            columns = subject.event_columns(onsets, subject.hrf.library(TR)[shape])
            out[:, mine] = columns @ self.truth[trials][:, mine]
        return out

    def agreement(self, betas):
        """Correlation over trials of betas with the truth, per voxel, z-scored in sessions."""
        mine, true = (zscore_sessions(x, self.session) for x in (betas, self.truth))
        return (mine * true).mean(0)


def simulate(sessions: int = 1, voxels: dict | None = None, seed: int = 0) -> Scan:
    """Put the simulated subject into the scanner for a few sessions.

    Parameters
    ----------
    sessions : int
        Of CSI1's; the first has ten runs.
    voxels : dict of {"LHPPA": int, …}, optional
        Voxels in each area; default: CSI1's.
    seed : int

    Returns
    -------
    Scan
        About one trial in eleven shows a picture that comes back, as in the full experiment.

    Raises
    ------
    DataError
        If CSI1 does not have so many sessions, or such areas.
    """
    runs_of, known = RUNS_PER_SESSION["CSI1"], VOXELS["CSI1"]  # runs of each session
    voxels = voxels or known
    if not 1 <= sessions <= len(runs_of) or not set(voxels) <= set(known):
        raise DataError(f"found {sessions} sessions, areas {', '.join(voxels)}; expected 1 to "
                        f"{len(runs_of)} sessions, and areas of {', '.join(known)}")
    per_session = runs_of[:sessions]
    trials = TRIALS_PER_RUN * sum(per_session)
    repeated = max(1, round(113 * trials / 5254))
    design = subject.make_design(seed, per_session, repeated, 4 * repeated)
    factors = scenes.sample_factors(design.image.max() + 1, seed)
    sees = any(area.endswith("EarlyVis") for area in voxels)  # the others know the factors
    images = scenes.draw(factors, 64 if sees else 8)
    response = tuning.responses(images, factors, voxels, seed)
    person = subject.make_subject(voxels, seed, sessions)
    truth = subject.true_betas(person, response, design)
    runs, order = [], []
    for _, _, mine, bold in subject.bold_runs(person, truth, design, seed):
        runs.append((bold, design.onset[mine]))
        order.append(mine)
    order = np.concatenate(order)
    return Scan(runs=runs,
                session=design.session[order],
                image=design.image[order],
                labels=np.where(design.test, design.image, -1)[order],
                images=images,
                factors=factors,
                truth=truth[order],
                person=person)


def real_event_related() -> tuple:
    """A real event-related recording: one BOLD series of visual area MT.

    It comes with the nitime package (BSD licence), TR 2 s.

    Returns
    -------
    bold : (3360, 1) array
        Around 0, in units of the recording.
    onsets : (576,) array
        In seconds from the first volume.
    kinds : (576,) int array
        Which of six kinds each event was.

    Raises
    ------
    DataError
        If nitime is not installed.
    """
    try:
        path = files("nitime") / "data" / "event_related_fmri.csv"
    except ModuleNotFoundError as error:
        raise DataError(
            "the real recording is part of the package nitime, which is not here; "
            "`python -m pip install nitime`, restart the kernel and run again") from error
    with path.open() as lines:
        table = np.genfromtxt(lines, delimiter=",", names=True)
    volume = np.flatnonzero(table["events"])
    return table["bold"][:, None], volume * 2.0, table["events"][volume].astype(int)
