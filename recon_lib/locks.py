"""One process at a time: two runs on the same folder wait for each other, or the second refuses."""

from contextlib import contextmanager
from pathlib import Path

from recon_lib.errors import DataError, writing

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
