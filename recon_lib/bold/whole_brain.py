"""A whole brain in little memory: runs kept on disk, voxels worked through in blocks."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np

from recon_lib.bold.single_trial import Estimate, estimate, variance_prior
from recon_lib.common.errors import DataError, atomic_write, enough_memory, writing
from recon_lib.common.files import dataset, read_dataset, readable
from recon_lib.common.folders import alone_in, only_one

CHUNK = 1024  # voxels that lie together on disk
SAMPLE = 2000  # voxels, spread over all, that set the prior of the variance ratios for every block


def spool(runs, folder, sources=""):
    """Put runs on disk one at a time, so that later steps can read some voxels of each.

    Each of `runs` is a function that returns (bold, onsets). Runs that are on disk already, made of
    the same, are not loaded again, so a killed job goes on where it stopped: `sources` says what
    each is made of, such as its files with their sizes and dates. Returns (bold, onsets) of each,
    where `bold` is an h5py data set (volumes, voxels) of float32: slicing reads those voxels. A
    damaged run on disk is a `DataError`.
    """
    out, folder = [], Path(folder)
    sources = [sources] * len(runs) if isinstance(sources, str) else sources
    for i, (load, source) in enumerate(zip(runs, sources, strict=True)):
        path = folder / f"run-{i:03d}.h5"
        if not _made_of(path, source):
            with alone_in(folder):
                if not _made_of(path, source):  # nor did another process just write it
                    _write_run(path, source, *load())
        with readable(path):
            file = h5py.File(path)
            try:
                out.append((dataset(file, "bold"), read_dataset(file, "onsets")))
            except BaseException:
                file.close()  # HDF5 would take a new file at this place for the one still open
                raise
    return out


def _made_of(path, source):
    """Whether a run is on disk that was made of this."""
    with readable(path):
        if not path.exists():
            return False
        with h5py.File(path) as file:
            return file.attrs.get("source", "") == source


def _write_run(path, source, bold, onsets):
    with atomic_write(path) as partial, h5py.File(partial, "w", libver="v110") as file:
        file.attrs["source"] = source
        chunk = (len(bold), min(bold.shape[1], CHUNK))
        file.create_dataset("bold", data=bold, dtype=np.float32, chunks=chunk, fletcher32=True)
        file.create_dataset("onsets", data=np.asarray(onsets, float), fletcher32=True)


def estimate_to_file(runs, path, tr, block=8192, beside=None, **settings):
    """`single_trial.estimate` for more voxels than fit in memory, written to an HDF5 file.

    Works a block of voxels at a time over all runs (see `spool`); memory is about 4 bytes x volumes
    of all runs x block, four times. What is chosen for a voxel does not depend on the blocks:
    voxels spread over all of them set the prior that they share. Each finished block is a file of
    its own beside the target, so that a killed job goes on where it stopped; the last step joins
    them. Finished blocks, and a finished result, are kept only where the data, read once more, are
    the ones that they were made of.

    `path` gets the data sets `betas` (trials, voxels), `hrf`, `ratio` and `r2` (voxels,), `prior`,
    and those of `beside`: what the trials and the voxels are. `settings` are passed to `estimate`.
    A half-done job with other settings at the target, a damaged run, a full disk and a block that
    does not fit in memory are a `DataError`.
    """
    path = Path(path)
    voxels = runs[0][0].shape[1]
    if any(bold.shape[1] != voxels for bold, _ in runs):
        counts = sorted({bold.shape[1] for bold, _ in runs})
        raise DataError(f"runs have {counts} voxels; expected the same voxels in every run")
    parts = path.with_name(path.name + ".parts")
    job = {"tr": tr, "block": block, "fingerprint": job_digest(runs, settings)}
    with only_one(path.with_name(f".{path.name}.lock")):
        blocks = [slice(start, min(start + block, voxels)) for start in range(0, voxels, block)]
        with enough_memory("`block`, the voxels worked on at a time"):
            sample = spread(runs)
            mark = digest(*(bold for bold, _ in sample))
            done = is_done(path, job, runs, blocks, mark)
        if not done:
            _same_job(parts, job)
            with enough_memory("`block`, the voxels worked on at a time"):
                settings["prior"] = variance_prior(sample, tr, **settings)
                del sample
                for columns in blocks:
                    _estimate_part(_part(parts, columns), runs, columns, tr, settings, mark)
            _join(parts, path, sum(len(onsets) for _, onsets in runs), blocks, job, beside)
        shutil.rmtree(parts, ignore_errors=True)


def spread(runs):
    """Some voxels of each run, spread over all, in memory: a list of (bold, onsets)."""
    step = max(1, runs[0][0].shape[1] // SAMPLE)
    return [(read_columns(bold, slice(0, bold.shape[1], step)), onsets) for bold, onsets in runs]


def _part(parts, columns):
    return parts / f"{columns.start:09d}.npz"


def _estimate_part(part, runs, columns, tr, settings, mark):
    mine = [(read_columns(bold, columns), onsets) for bold, onsets in runs]
    data = digest(mark, *(bold for bold, _ in mine))
    if not _is_whole(part, data):
        result = estimate(mine, tr, **settings)
        with atomic_write(part) as partial, open(partial, "wb") as stream:
            np.savez(stream, data=data, **vars(result))


def read_columns(bold, columns):
    """Some voxels of a run as an array; of a damaged file a `DataError`."""
    try:
        return np.array(bold[:, columns])
    except OSError as error:  # of a file whose checksum is wrong
        name = bold.file.filename if isinstance(bold, h5py.Dataset) else "a run"
        raise DataError(
            f"{name}: voxels {columns.start} to {columns.stop} cannot be read; the file is "
            "damaged, remove it and write it again") from error


def _is_whole(part, data):
    """Whether a block is on disk, undamaged, and was made of these data."""
    try:
        with np.load(part) as held:
            return str(held["data"]) == data and held.zip.testzip() is None
    except Exception:  # missing, or damaged somehow: it is made again
        return False


def _join(parts, path, trials, blocks, job, beside=None):
    voxels = blocks[-1].stop
    whole = parts / "whole.h5"  # goes with the parts if this is killed
    sizes = {  # name: shape, type, shape of a chunk
        "betas": ((trials, voxels), np.float32, (trials, min(voxels, 64))),
        "hrf": ((voxels,), np.int16, True),
        "ratio": ((voxels,), np.float32, True),
        "r2": ((voxels,), np.float32, True),
    }
    with writing(path), h5py.File(whole, "w", libver="v110") as file:
        file.attrs["job"] = json.dumps(job)
        for name, (shape, kind, chunks) in sizes.items():
            file.create_dataset(name, shape, kind, chunks=chunks, fletcher32=True)
        data = []
        for columns in blocks:
            with np.load(_part(parts, columns)) as result:
                for name in sizes:
                    file[name][..., columns] = result[name]
                data.append(str(result["data"]))
                prior = result["prior"]
        file["data"] = np.array(data, "S")
        file.create_dataset("prior", data=prior, fletcher32=True)
        for name, value in (beside or {}).items():
            file[name] = value
    with writing(path):
        os.replace(whole, path)


def read_estimate(path, voxels=slice(None)):
    """Read back what `estimate_to_file` wrote, and nothing else: all voxels or a slice of them."""
    with readable(path), h5py.File(path) as file:
        return Estimate(read_dataset(file, "betas", (slice(None), voxels)),
                        read_dataset(file, "hrf", voxels),
                        read_dataset(file, "ratio", voxels),
                        read_dataset(file, "prior"),
                        read_dataset(file, "r2", voxels))


def digest(*values):
    """A hash of arrays, strings and None: values, shapes and types."""
    sums = sha256()
    for value in values:
        array = np.asarray(value)
        sums.update(f"{array.dtype.str} {array.shape} ".encode())
        if array.dtype.kind == "O":  # the bytes of a None are an address: not those
            sums.update(repr(array.tolist()).encode())  # of an array repr leaves out the middle
        else:
            sums.update(np.ascontiguousarray(array).view(np.uint8))
    return sums.hexdigest()


def job_digest(runs, settings):
    """Tells this job from others: onsets, shapes and settings; the data are told block by block."""
    values = [value for bold, onsets in runs for value in (np.asarray(onsets, float), bold.shape)]
    for name in sorted(settings):
        value = settings[name]
        values += [name, *value] if isinstance(value, (list, tuple)) else [name, value]
    return digest(*values)


def is_done(path, job, runs, blocks, mark):
    """Whether `path` holds the result of just this job, made of just these data."""
    if not path.exists():
        return False
    try:
        with h5py.File(path) as file:
            if json.loads(file.attrs["job"]) != job:
                return False
            data = read_dataset(file, "data").astype(str)
    except (OSError, KeyError, ValueError):  # something else: it will be replaced
        return False
    return len(data) == len(blocks) and all(
        digest(mark, *(read_columns(bold, columns) for bold, _ in runs)) == told
        for columns, told in zip(blocks, data, strict=True))


def _same_job(parts, job):
    """Note what job the parts belong to, or refuse to mix two jobs."""
    note = parts / "job.json"
    with readable(note):
        other = note.exists() and json.loads(note.read_text()) != job
    if other:
        raise DataError(
            f"{parts} holds a half-done job with other runs or settings; finish that one or "
            "remove the folder")
    with atomic_write(note) as partial:
        partial.write_text(json.dumps(job))
