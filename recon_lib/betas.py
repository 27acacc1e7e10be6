"""What betas are worth: z-scores, reliability, noise ceilings and linear decoders."""

import warnings

import numpy as np

from recon_lib.errors import DataError


def zscore_sessions(betas, session, train=None):
    """Put every session on the same scale: z-score each voxel within each session.

    Parameters
    ----------
    betas : (trials, voxels) array
    session : (trials,) array
        Session of each trial.
    train : (trials,) boolean array, optional
        Trials that set the mean and the standard deviation; all when left out. Test trials
        must not: give the training mask.

    Returns
    -------
    (trials, voxels) float32 array
        A voxel that never varies in a session is 0 there.

    Raises
    ------
    DataError
        If lengths disagree, or a session has fewer than two training trials.
    """
    betas, session = np.asarray(betas), np.asarray(session)
    train = np.ones(len(betas), bool) if train is None else np.asarray(train, bool)
    if not len(betas) == len(session) == len(train):
        raise DataError(
            f"{len(betas)} trials of betas, {len(session)} session labels and {len(train)} training "
            "flags; expected as many of each"
        )
    out = np.empty(betas.shape, np.float32)
    for one in np.unique(session):
        mine = session == one
        known = betas[mine & train]
        if len(known) < 2:
            raise DataError(
                f"session {one} has {len(known)} training trials; z-scoring needs 2 or more: "
                "leave the session out or move trials to the training set"
            )
        mean, sd = known.mean(0, dtype=np.float64), known.std(0, dtype=np.float64)
        scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=(sd > 0) | np.isnan(sd))
        out[mine] = (betas[mine] - mean) * scale
    return out
