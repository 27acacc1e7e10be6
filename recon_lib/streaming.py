"""A whole brain in little memory: runs kept on disk, voxels worked through in blocks."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np

from recon_lib.errors import DataError, atomic_write, enough_memory, writing
from recon_lib.files import readable
from recon_lib.locks import alone_in, only_one
from recon_lib.single_trial import Estimate, estimate

CHUNK = 1024  # voxels that lie together on disk


def spool(runs, folder):
    """Put runs on disk one at a time, so that later steps can read some voxels of each.

    Runs that are on disk already are not loaded again, so a killed job goes on where it stopped.

    Parameters
    ----------
    runs : sequence of functions
        Each takes nothing and returns `(bold, onsets)`.
    folder : str or Path

    Returns
    -------
    list of (bold, onsets)
        `bold` is an h5py data set (volumes, voxels) of float32: slicing reads those voxels.

    Raises
    ------
    DataError
        If a run on disk is damaged.
    """
    out, folder = [], Path(folder)
    for i, load in enumerate(runs):
        path = folder / f"run-{i:03d}.h5"
        if not path.exists():
            with alone_in(folder):
                if not path.exists():  # nor did another process just write it
                    _write_run(path, *load())
        with readable(path):
            file = h5py.File(path)
            out.append((file["bold"], file["onsets"][:]))
    return out


def _write_run(path, bold, onsets):
    with atomic_write(path) as partial, h5py.File(partial, "w") as file:
        chunk = (len(bold), min(bold.shape[1], CHUNK))
        file.create_dataset("bold", data=bold, dtype=np.float32, chunks=chunk)
        file["onsets"] = np.asarray(onsets, float)


def estimate_to_file(runs, path, tr, block=8192, **settings):
    """`single_trial.estimate` for more voxels than fit in memory, written to an HDF5 file.

    Works a block of voxels at a time over all runs. Each finished block is a file of its own
    beside the target, so that a killed job goes on where it stopped; the last step joins them.
    Where the result of the same job is there already, nothing is done.

    Parameters
    ----------
    runs : sequence of (bold, onsets)
        See `spool`.
    path : str or Path
        Gets the data sets `betas` (trials, voxels), `hrf` and `fraction` (voxels,).
    tr : float
        Repetition time, in seconds.
    block : int
        Voxels at a time. Memory is about 4 bytes x volumes of all runs x block, three times.
    **settings
        Passed to `estimate`.

    Raises
    ------
    DataError
        If a half-done job with other settings lies at the target, the disk is full, or a block
        does not fit in memory.
    """
    path = Path(path)
    voxels = runs[0][0].shape[1]
    if any(bold.shape[1] != voxels for bold, _ in runs):
        counts = sorted({bold.shape[1] for bold, _ in runs})
        raise DataError(f"runs have {counts} voxels; expected the same voxels in every run")
    parts = path.with_name(path.name + ".parts")
    job = {"tr": tr, "block": block, "fingerprint": fingerprint(runs, settings)}
    with only_one(path.with_name(f".{path.name}.lock")):
        if not is_done(path, job):
            _same_job(parts, job)
            _estimate_parts(parts, runs, tr, range(0, voxels, block), settings)
            _join(parts, path, sum(len(onsets) for _, onsets in runs), voxels, job)
        shutil.rmtree(parts, ignore_errors=True)


def _estimate_parts(parts, runs, tr, starts, settings):
    for start in starts:
        part = parts / f"{start:09d}.npz"
        if not part.exists():
            columns = slice(start, start + starts.step)
            with enough_memory("`block`, the voxels worked on at a time"):
                result = estimate(  # the list has no name: freed before the next is made
                    [(np.array(bold[:, columns]), onsets) for bold, onsets in runs], tr, **settings
                )
            with atomic_write(part) as partial, open(partial, "wb") as stream:
                np.savez(stream, **vars(result))


def _join(parts, path, trials, voxels, job):
    block = job["block"]
    whole = parts / "whole.h5"  # goes with the parts if this is killed
    with writing(path), h5py.File(whole, "w") as file:
        file.attrs["job"] = json.dumps(job)
        betas = file.create_dataset(
            "betas", (trials, voxels), np.float32, chunks=(trials, min(voxels, 64))
        )
        hrf = file.create_dataset("hrf", (voxels,), np.int16)
        fraction = file.create_dataset("fraction", (voxels,), np.float32)
        for start in range(0, voxels, block):
            columns = slice(start, min(start + block, voxels))
            with np.load(parts / f"{start:09d}.npz") as result:
                betas[:, columns] = result["betas"]
                hrf[columns], fraction[columns] = result["hrf"], result["fraction"]
    with writing(path):
        os.replace(whole, path)


def read_estimate(path, voxels=slice(None)):
    """Read back what `estimate_to_file` wrote, all voxels or a slice of them."""
    with readable(path), h5py.File(path) as file:
        return Estimate(file["betas"][:, voxels], file["hrf"][voxels], file["fraction"][voxels])


def fingerprint(runs, settings):
    """Tells this job from others: onsets, shapes, the first voxel of each run, the settings."""
    digest = sha256()
    for bold, onsets in runs:
        digest.update(np.asarray(onsets, float).tobytes())
        digest.update(str(bold.shape).encode())
        digest.update(np.ascontiguousarray(bold[:, :1]).tobytes())
    for name in sorted(settings):
        values = settings[name] if isinstance(settings[name], list) else [settings[name]]
        for value in (name, *values):  # the bytes of a None or a str are an address: not those
            array = np.asarray(value)
            digest.update(array.tobytes() if array.dtype.kind in "biuf" else repr(value).encode())
    return digest.hexdigest()


def is_done(path, job):
    """Whether `path` holds the result of just this job."""
    if not path.exists():
        return False
    try:
        with h5py.File(path) as file:
            return json.loads(file.attrs["job"]) == job
    except (OSError, KeyError, ValueError):  # something else: it will be replaced
        return False


def _same_job(parts, job):
    """Note what job the parts belong to, or refuse to mix two jobs."""
    note = parts / "job.json"
    if note.exists() and json.loads(note.read_text()) != job:
        raise DataError(
            f"{parts} holds a half-done job with other runs or settings; finish that one or "
            "remove the folder"
        )
    with atomic_write(note) as partial:
        partial.write_text(json.dumps(job))
