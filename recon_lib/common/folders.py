"""Folders that are whole or not there at all: completion marks, and one process at a time."""

import errno
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from recon_lib.common.errors import DataError, atomic_write, writing
from recon_lib.common.files import readable

MARK = "COMPLETE.json"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # what some network file systems answer


@contextmanager
def only_one(path, busy=None):
    """Hold the lock file `path` within the block. The system lets go of it when a process dies.

    The file is made when missing, empty, and left there. When another process holds it, `busy` is
    raised as a `DataError`; without `busy` it is waited for. Yields False where the file system has
    no locks.
    """
    path, locked = Path(path), True
    lock = FileLock(path, timeout=0 if busy else -1)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise DataError(busy) from error
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            locked = False
    try:
        yield locked
    finally:
        lock.release()


@contextmanager
def alone_in(folder, busy=None):
    """`only_one` for a whole folder: within, what killed processes left half written is gone."""
    folder = Path(folder)
    with only_one(folder / ".lock", busy) as locked:
        for left in folder.glob(".partial-*") if locked else ():
            owner = left.name.split("-")[1]  # see `errors.atomic_write`
            if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
                left.unlink(missing_ok=True)
        yield


def lock_of(root):
    """The lock file of a folder: beside it, for the folder is not there yet."""
    root = Path(root)
    return root.with_name(f".{root.name}.lock")


def files_in(root):
    """Paths of all files below a folder, relative to it, sorted; hidden ones and the mark aside."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(folder, name).relative_to(root).as_posix() for name in names
                  if not name.startswith(".")]
    return sorted(set(found) - {MARK})


def mark_complete(root, info):
    """Write `root/COMPLETE.json` last of all: from now on the folder counts as whole.

    `info` says what was written and from which settings; its "voxels", subject -> {ROI: count},
    lets the readers notice swapped files. The files that are there are listed beside it, see
    `lost`.
    """
    with atomic_write(Path(root) / MARK) as partial:
        text = json.dumps({**info, "files": files_in(root)}, indent=1, sort_keys=True)
        partial.write_text(text + "\n", encoding="utf-8")


def withdraw_mark(root):
    """Remove the mark of a folder, before anything in it is written anew."""
    with writing(root):
        Path(root, MARK).unlink(missing_ok=True)


def completed(root):
    """The dict that `mark_complete` stored, or None; a damaged mark is a `DataError`."""
    path = Path(root) / MARK
    if not path.exists():
        return None
    with readable(path):
        stored = json.loads(path.read_text(encoding="utf-8"))
    voxels = stored.get("voxels", {}) if isinstance(stored, dict) else None
    if (not isinstance(voxels, dict) or not isinstance(stored.get("files", []), list)
            or not all(isinstance(one, dict) for one in voxels.values())):
        raise DataError(f"{path}: not a mark of this project; remove the folder, and make it again")
    return stored


def lost(root):
    """Files that the mark of a folder lists and that are not there; [] without a list or a mark."""
    listed = (completed(root) or {}).get("files", [])
    return sorted(set(map(str, listed)) - set(files_in(root))) if listed else []


def is_complete(root, info=None):
    """Whether `root` was written to its end and is all there, with `info` from these settings."""
    try:
        stored = completed(root)
        if stored is None or lost(root):
            return False
    except DataError:
        return False
    return info is None or {**stored, "files": 0} == {**json.loads(json.dumps(info)), "files": 0}


def refuse_other(root):
    """Stop if `root` holds anything: it is not what is about to be built."""
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file; expected a folder, or the name of a new one")
    if root == Path.cwd() or root == root.parent:
        raise DataError(f"{root} is where you stand, so it cannot be made anew; choose another "
                        "folder")
    if gone := lost(root):
        raise DataError(f"{root} has lost {len(gone)} of its files, such as {gone[0]}; remove the "
                        "folder, and it will be made again")
    if root.exists() and any(root.iterdir()):
        raise DataError(
            f"{root} holds something other than this experiment (or one with other settings); "
            "choose another folder, or remove it")


def build_whole(root, info, write):
    """Build a folder beside `root`, which takes its name when all is written; returns `root`.

    A folder that is whole and made from the same `info` stays as it is; another one is a
    `DataError`. `write` takes the path of an unfinished folder, fills it, and returns how many
    files it wrote.
    """
    place = Path(root).resolve()  # a link stays a link
    if is_complete(place, info):
        return Path(root)
    refuse_other(place)
    with only_one(lock_of(place)) as locked:
        if is_complete(place, info):  # another process was faster
            return Path(root)
        mine = "" if locked else f".{os.getpid()}"
        partial = place.with_name(f".{place.name}{mine}.partial")
        try:
            with writing(root):
                if partial.exists():  # of a build that was killed: nobody else holds the lock
                    shutil.rmtree(partial)
                wrote, there = write(partial), len(files_in(partial))
                if there < wrote:
                    raise DataError(f"{partial} lost {wrote - there} of {wrote} files while it was "
                                    "written; keep other programs out of it, and start again")
                mark_complete(partial, info)
                try:
                    if place.exists():
                        place.rmdir()
                    partial.rename(place)
                except OSError:
                    if not is_complete(place, info):  # without locks another may be faster
                        raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Path(root)
