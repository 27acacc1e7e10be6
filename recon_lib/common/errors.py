"""The one error the user is meant to read, and files that are whole or not there at all."""

import operator
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

FOLDERS = re.compile(r"(?<![\w:/.\\])(?:[A-Za-z]:)?[\\/]+(?:[^\\/\s'\"]+[\\/]+)+")  # no addresses


class DataError(ValueError):
    """Something about the user's data or files is wrong.

    The message is one line: what was found, what was expected, what to do.
    """


class Interrupted(Exception):
    """Ctrl-C or a signal ended a training before its end, after its checkpoint was written.

    The message says how to go on. `status` is the exit status that a shell expects: 128 plus the
    number of the signal.
    """

    def __init__(self, message, status=130):
        super().__init__(message, status)
        self.status = status

    def __str__(self):
        return self.args[0]

def as_numbers(x, what, ndim=None):
    """An array of real numbers in this machine's byte order, whatever came: a list, a table, bools.

    Its type is the one that came, but float32 for bool and float16, and float64 for Python objects;
    what a masked array masks is NaN. Text, complex numbers and other than `ndim` axes are a
    `DataError`, in which the array is called `what`.
    """
    try:
        if np.ma.isMaskedArray(x):
            x = x.astype(np.result_type(x, np.float32)).filled(np.nan) if x.mask.any() else x.data
        x = np.asarray(x)
        x = x.astype(float) if x.dtype.kind == "O" else x
    except (TypeError, ValueError) as error:  # rows of different lengths, or not numbers at all
        raise DataError(f"{what} cannot be made an array; expected numbers") from error
    if x.dtype.kind not in "biuf":
        raise DataError(f"{what} holds values of type {x.dtype}; expected real numbers")
    if ndim is not None and x.ndim != ndim:
        raise DataError(f"{what} has shape {x.shape}; expected {ndim} axes")
    if x.dtype.kind == "b" or x.dtype == np.float16:
        return x.astype(np.float32)
    return x.astype(x.dtype.newbyteorder("="), copy=False)


def as_count(x, what, least=0):
    """A whole number that counts something, as an int; others, or below `least`, a `DataError`."""
    try:
        number = operator.index(x)
    except TypeError:
        number = None
    if number is None or number < least:
        raise DataError(f"{what} is {x!r}; expected {least} or more, a whole number")
    return number


def check(x, shape=None, finite=True, what="the array"):
    """The first line of a public function: `x` as an array of real numbers that fits, or a refusal.

    `shape` says what is expected of each axis: a number, or a name for a length that is free.
    Another shape, values that are no numbers (`as_numbers`) or, with `finite`, not finite are a
    `DataError`, in which the array is called `what`.

    >>> check([[1, 2, 3]], ("trials", 3), what="betas").shape
    (1, 3)
    """
    x = as_numbers(x, what)
    if shape is not None:
        fits = x.ndim == len(shape) and all(not isinstance(want, int) or want == have
                                            for want, have in zip(shape, x.shape, strict=True))
        if not fits:
            wanted = ", ".join(str(want) for want in shape) + ("," if len(shape) == 1 else "")
            raise DataError(f"{what} has shape {x.shape}; expected ({wanted})")
    if finite and not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).sum())
        raise DataError(f"{what} holds {bad} values that are NaN or infinite of {x.size}; "
                        "expected finite numbers: repair them or leave those rows out")
    return x


def reason(error):
    """The first line of what an error says, without folders, or its class where it says nothing."""
    return FOLDERS.sub("", (str(error).splitlines() or [type(error).__name__])[0])[:80]


@contextmanager
def writing(path):
    """Turn what the system says of a full disk or a folder read-only into one line."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else reason(error)
        raise DataError(f"cannot write {path}: {why}; free some space there, or choose a folder "
                        "that you may write to") from error


# PyTorch has no class for this on a processor: it raises a bare RuntimeError.
NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|bad_alloc", re.I)


@contextmanager
def enough_memory(lower):
    """Running out of memory, of machine or GPU, as one line that says what to `lower`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # PyTorch raises the second
        if not isinstance(error, MemoryError) and not NO_MEMORY.search(str(error)):
            raise
        raise DataError(f"out of memory; lower {lower}, or close other programs") from error


@contextmanager
def atomic_write(path):
    """Write beside the target, then rename: `path` is never half written. Its folder is made.

    Yields the path of a temporary file in the same folder, with the same suffixes, which takes the
    place of `path` when the block ends well and is removed when it does not. A folder that cannot
    be made or written, or a full disk, is a `DataError`.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".partial-{os.getpid()}-",
                                        suffix="".join(path.suffixes[-2:]) or ".tmp")
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


def one_label_each(groups):
    """Labels of trials as an array: all text or all numbers, so that none is taken for another.

    Anything but a list of such labels, none of them missing, is a `DataError`.
    """
    kinds = {isinstance(label, str) for label in groups} if np.iterable(groups) else set()
    try:
        labels = np.array(groups.tolist() if isinstance(groups, np.ndarray) else list(groups))
    except (TypeError, ValueError):  # a number; rows of different lengths
        labels = np.array(None)
    missing = np.ma.is_masked(groups) or labels.dtype.kind == "f" and np.isnan(labels).any()
    if isinstance(groups, str) or labels.ndim != 1 or labels.dtype.kind not in "biufUS" \
            or missing or len(kinds) > 1:
        raise DataError("groups of trials have to be a list of one label each, all names or all "
                        "numbers, none missing; repair the list")
    return labels
