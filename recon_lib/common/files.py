"""Reading other people's files: every failure is one line that names the file."""

import csv
import hashlib
import json
import math
import re
import zipfile
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pandas
import psutil
import scipy.io

from recon_lib.common.errors import DataError, atomic_write

MATLAB_TYPES = {"single": "f4", "double": "f8", "sparse": "f8", "logical": "?"}
ARRAYS = (".npy", ".npz", ".h5", ".hdf5", ".mat", ".csv", ".tsv", ".txt")
WITH_KEY = re.compile(r"(.+\.(?:npz|h5|hdf5|mat)):([^\\/:]+(?:/[^\\/:]+)*)", re.IGNORECASE)


@contextmanager
def readable(path):
    """Turn whatever a parser raises inside the block into a `DataError` naming `path`."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path, or fetch the file") from error
    except MemoryError as error:
        raise DataError(f"{path}: too large for this machine's memory") from error
    except Exception as error:  # parsers raise anything: struct.error, zlib.error, ...
        detail = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: cannot be read ({detail}); it may be truncated or of another type, "
            "fetch or save it again"
        ) from error


def available_memory():
    """Free memory of this machine in bytes."""
    return psutil.virtual_memory().available


def check_size(path, shape, dtype):
    """Refuse an array that would not fit in memory, before any of it is allocated."""
    check_sizes(path, f"an array of shape {tuple(shape)} needs", [(shape, dtype)])


def check_sizes(path, what, arrays):
    """`check_size` for several arrays that will be in memory together, (shape, type) each."""
    size = sum(abs(math.prod(map(int, shape))) * np.dtype(dtype).itemsize
               for shape, dtype in arrays)
    room = available_memory()
    if size > room // 2:
        raise DataError(
            f"{path}: {what} {size / 2**30:.1f} GiB, more than half of the "
            f"{room / 2**30:.1f} GiB free; is the shape right?"
        )


def _npy_header(stream):
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    if version > (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def arrays_in(path):
    """Name, shape and type of every array in a .npy, .npz, .h5 or .mat file, without reading it.

    Returns
    -------
    dict of str to (tuple, numpy.dtype)
        A .npy file has one array, called "". Text and structures are left out.
    """
    path = Path(path)
    found = {}
    with readable(path):
        if path.suffix == ".npy":
            with open(path, "rb") as stream:
                found[""] = _npy_header(stream)
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    with archive.open(name) as stream:
                        found[name.removesuffix(".npy")] = _npy_header(stream)
        elif path.suffix == ".mat" and not h5py.is_hdf5(path):
            for name, shape, kind in scipy.io.whosmat(path):
                if kind not in ("cell", "struct", "char", "object", "function", "opaque"):
                    found[name] = (shape, np.dtype(MATLAB_TYPES.get(kind, kind)))
        elif path.suffix in (".h5", ".hdf5", ".mat"):
            with h5py.File(path, "r") as file:

                def note(name, item):
                    if not is_own(item):
                        return
                    if item.dtype.kind in "biuf":
                        flip = path.suffix == ".mat"  # MATLAB stores the axes backwards
                        found[name] = (item.shape[::-1] if flip else item.shape, item.dtype)

                file.visititems(note)
        elif not path.exists():
            raise FileNotFoundError(path)
        else:
            raise DataError(f"{path}: unknown file type; expected one of {', '.join(ARRAYS)}")
    return found


def is_own(item):
    """Whether an HDF5 object is a data set whose values lie in this file, not in another one."""
    return isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual


def dataset(file, name):
    """A data set of an open HDF5 file, nothing of it read yet.

    Raises
    ------
    DataError
        If it is missing, or leads to another file of this machine.
    """
    parts = name.split("/")
    links = [file.get("/".join(parts[: i + 1]), getlink=True) for i in range(len(parts))]
    if not all(isinstance(link, h5py.HardLink) for link in links) or not is_own(file[name]):
        raise DataError(
            f"{file.filename}: holds no data set {name} of its own (missing, or a link to another "
            "file); write the file again"
        )
    return file[name]


def read_dataset(file, name, key=()):
    """`dataset(file, name)[key]`, after making sure that it fits in memory."""
    found = dataset(file, name)
    shape = np.broadcast_to(np.int8(), found.shape)[key].shape  # takes no memory
    check_size(file.filename, shape, found.dtype)
    return found[key]


def read_npz(path, names=None):
    """Read arrays of an .npz into a dict, after making sure that together they fit in memory.

    Parameters
    ----------
    path : path
    names : sequence of str, optional
        Default: all of them.
    """
    held = arrays_in(path)
    names = list(held) if names is None else names
    missing = [name for name in names if name not in held]
    if missing:
        expected = " and ".join(", ".join(names).rsplit(", ", 1))
        raise DataError(f"{path}: holds {', '.join(held) or 'nothing'}; expected {expected}")
    check_sizes(path, "its arrays need", [held[name] for name in names])
    with readable(path), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in names}


def _load(path, name):
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    if path.suffix == ".mat" and not h5py.is_hdf5(path):
        array = scipy.io.loadmat(path, variable_names=[name])[name]
        return array.toarray() if hasattr(array, "toarray") else array
    with h5py.File(path, "r") as file:
        array = file[name][()]
    return np.ascontiguousarray(array.T) if path.suffix == ".mat" else array


def read_table(path, **options):
    """Read a text table: tabs, semicolons, commas or spaces between its cells; quotes are known.

    Parameters
    ----------
    path : path
    **options
        For `pandas.read_csv`, such as `dtype`, or `header=None` where there is no heading.

    Returns
    -------
    DataFrame

    Raises
    ------
    DataError
        If the file is missing, empty or not text, or a row is not as wide as the first.
    """
    lines = read_lines(path, around=" ")
    mark = next((mark for mark in "\t;," if mark in lines[0]), " ")
    options |= {"sep": r"\s+" if mark == " " else mark}
    if mark in "\t;" and "," in lines[-1] and "." not in lines[-1]:
        options["decimal"] = ","
    rows = map(str.split, lines) if mark == " " else csv.reader(lines, delimiter=mark)
    width = None
    for number, row in enumerate(rows, 1):
        width = width or len(row)
        if len(row) != width:
            raise DataError(f"{path}: {len(row)} cells in row {number}, {width} in the first; "
                            "expected as many: an empty cell keeps its separator")
    with readable(path):
        return pandas.read_csv(StringIO("\n".join(lines)), **options)


def read_numbers(path):
    """Read a table of numbers (rows, columns); a first row that is not all numbers is a heading."""
    with readable(path):
        table = read_table(path, header=None)
        try:
            return table.to_numpy(float)
        except ValueError:
            return table[1:].to_numpy(float)


def read_array(path, prefer=(), ndim=None):
    """Read one array from a file of any supported type.

    Parameters
    ----------
    path : path
        .npy, .npz, .h5, .mat or a text table. `file.npz:name` picks one array of several.
    prefer : sequence of str
        Names to look for first in a file of several arrays.
    ndim : sequence of int, optional
        How many axes the array may have: decides between several.

    Returns
    -------
    array

    Raises
    ------
    DataError
        If the file is missing, damaged, too large, of unknown type, or holds several arrays
        that would do.
    """
    match = WITH_KEY.fullmatch(str(path))
    path, key = (Path(match[1]), match[2]) if match else (Path(path), None)
    if path.suffix in (".csv", ".tsv", ".txt"):
        return read_numbers(path)
    found = arrays_in(path)
    if key is None:
        fit = [n for n, (shape, _) in found.items() if ndim is None or len(shape) in ndim]
        names = [n for n in prefer if n in fit] or fit
        if not names or (len(names) > 1 and names[0] not in prefer):
            held = ", ".join(f"{n} {tuple(s)}" for n, (s, _) in found.items()) or "no arrays"
            raise DataError(f"{path}: holds {held}; name the one you mean as {path.name}:NAME")
        key = names[0]
    elif key not in found:
        raise DataError(f"{path}: no array called {key}; it holds {', '.join(found) or 'none'}")
    check_size(path, *found[key])
    with readable(path):
        return _load(path, key)


def read_lines(path, around=None):
    """Read the lines of a text file: any line ends, no blank lines, nothing of `around` around.

    Raises
    ------
    DataError
        If the file is missing, empty or not text.
    """
    with readable(path):
        text = Path(path).read_text(encoding="utf-8-sig")
    lines = [line.strip(around) for line in text.splitlines() if line.strip(around)]
    if not lines:
        raise DataError(f"{path}: empty; expected one entry a line")
    return lines


def find(root, path):
    """Find a file of a release whichever level of the release `root` is.

    Looks for `root/a/b/c`, `root/b/c`, `root/c`, then one folder further down.

    Raises
    ------
    DataError
        If it is nowhere; names the place where it was expected.
    """
    root, parts = Path(root), Path(path).parts
    for i in range(len(parts)):
        if (root.joinpath(*parts[i:])).exists():
            return root.joinpath(*parts[i:])
    for found in sorted(root.glob(str(Path("*", path)))):
        return found
    raise DataError(f"{root / path}: no such file; is {root} the release, and is this part of it?")


def mark_complete(root, info):
    """Write `root/COMPLETE.json` last of all: from now on the directory counts as whole.

    Parameters
    ----------
    root : path
    info : dict
        What was written and from which settings. `info["voxels"]`, a dict of subject to
        {ROI: count}, lets the readers notice swapped files.
    """
    with atomic_write(Path(root) / "COMPLETE.json") as partial:
        partial.write_text(json.dumps(info, indent=2, sort_keys=True) + "\n")


def completed(root):
    """Return the dict that `mark_complete` stored, or None when there is none."""
    path = Path(root) / "COMPLETE.json"
    if not path.exists():
        return None
    with readable(path):
        return json.loads(path.read_text())


def is_complete(root, info=None):
    """Whether `root` was written to its end, and, with `info`, from exactly these settings."""
    try:
        stored = completed(root)
    except DataError:
        return False
    return stored is not None and (info is None or stored == json.loads(json.dumps(info)))


def sealed(whole):
    """Bytes of a safetensors file with a checksum of all the rest put into its metadata.

    The metadata are sorted by name, so that the same model is the same file.
    """
    header, body = _parts(whole)
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    header["__metadata__"]["sha256"] = _checksum(header, body)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def refuse_broken_seal(path):
    """Hold a safetensors file against the checksum that `sealed` gave it, if it has one.

    Raises
    ------
    ValueError
        If they differ.
    """
    header, body = _parts(Path(path).read_bytes())
    told = header.get("__metadata__", {}).pop("sha256", None)
    if told is not None and told != _checksum(header, body):
        raise ValueError("wrong checksum")


def _parts(whole):
    size = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + size]), memoryview(whole)[8 + size :]


def _checksum(header, body):
    text = json.dumps(header, sort_keys=True).encode()
    return hashlib.sha256(text + hashlib.sha256(body).digest()).hexdigest()
