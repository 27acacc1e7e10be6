"""A folder that is whole or not there at all."""

import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from recon_lib.common.errors import DataError, writing
from recon_lib.common.files import is_complete, mark_complete


def refuse_other(root):
    """Stop if the folder `root` holds anything: it is not what is about to be built."""
    if Path(root).exists() and any(Path(root).iterdir()):
        raise DataError(
            f"{root} holds something other than this experiment (or one with other settings); "
            "choose another folder, or remove it"
        )


def build_whole(root, info, write):
    """Build a folder beside `root`, which takes its name when all is written.

    Parameters
    ----------
    root : path
    info : dict
        What it is made from; a folder that is whole and made from the same stays as it is.
    write : function
        Takes the path of an unfinished folder and fills it.

    Returns
    -------
    Path
        `root`.

    Raises
    ------
    DataError
        If `root` holds something else, or cannot be written.
    """
    root = Path(root)
    if is_complete(root, info):
        return root
    refuse_other(root)
    with only_one(lock_of(root)) as locked:
        if is_complete(root, info):  # another process was faster
            return root
        partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
        for left in root.parent.glob(f".{root.name}.*.partial"):  # of builds that were killed
            if locked or time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)
        try:
            with writing(root):
                write(partial)
                mark_complete(partial, info)
                try:
                    if root.exists():
                        root.rmdir()
                    partial.rename(root)
                except OSError:
                    if not is_complete(root, info):  # without locks another may be faster
                        raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return root


def lock_of(root):
    """The lock file of a folder: beside it, for the folder is not there yet."""
    root = Path(root)
    return root.with_name(f".{root.name}.lock")


try:
    import fcntl
except ImportError:  # Windows has no such locks: nothing is locked there
    fcntl = None


@contextmanager
def only_one(path, busy=None):
    """Hold the lock file `path` within the block. The system lets go of it when a process dies.

    Parameters
    ----------
    path : path
        Made when missing, empty, and left there.
    busy : str, optional
        Raise this at once when another process holds it; default: wait.

    Yields
    ------
    bool
        False where the system or the file system has no locks.

    Raises
    ------
    DataError
        If it is held and `busy` was given, or the file cannot be made.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")
    with file:
        locked = fcntl is not None
        if locked:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError as error:
                raise DataError(busy) from error
            except OSError:  # some network file systems
                locked = False
        yield locked


@contextmanager
def alone_in(folder, busy=None):
    """`only_one` for a whole folder: within, what killed processes left half written is gone."""
    folder = Path(folder)
    with only_one(folder / ".lock", busy) as locked:
        if locked:  # then nobody is writing
            for left in folder.glob(".partial-*"):
                left.unlink(missing_ok=True)
        yield
