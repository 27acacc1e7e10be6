"""The one error the user is meant to read, and files that are whole or not there at all."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


class DataError(ValueError):
    """Something about the user's data or files is wrong.

    The message is one line: what was found, what was expected, what to do.
    """


@contextmanager
def atomic_write(path):
    """Write beside the target, then rename: `path` is never half written.

    Parameters
    ----------
    path : str or Path
        The file to make. Its folder is created when missing.

    Yields
    ------
    Path
        A temporary file in the same folder, with the same suffixes. It takes the
        place of `path` when the block ends well, and is removed when it does not.

    Raises
    ------
    DataError
        If the folder cannot be made or written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=".partial-", suffix="".join(path.suffixes[-2:]) or ".tmp"
        )
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror}; choose a folder you may write to"
        ) from error
    os.close(handle)
    partial = Path(name)
    umask = os.umask(0)
    os.umask(umask)
    try:
        yield partial
        os.chmod(partial, 0o666 & ~umask)  # mkstemp makes files that only their owner may read
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
