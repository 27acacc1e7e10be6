"""Reading other people's files: every failure is one line that names the file."""

import csv
import hashlib
import json
import math
import os
import pickle
import re
import warnings
import zipfile
from contextlib import contextmanager
from io import BytesIO, StringIO
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
import pandas
import psutil
import scipy.io

from recon_lib.common.errors import DataError, atomic_write, reason

MATLAB_TYPES = {"single": "f4", "double": "f8", "sparse": "f8", "logical": "?"}
MATLAB_NUMBERS = {*MATLAB_TYPES, *(f"{kind}{bits}" for kind in ("int", "uint")
                                   for bits in (8, 16, 32, 64))}
ARRAYS = (".npy", ".npz", ".h5", ".hdf5", ".mat", ".csv", ".tsv", ".txt")
WITH_KEY = re.compile(r"(.+\.(?:npz|h5|hdf5|mat)):([^\\/:]+(?:/[^\\/:]+)*)", re.IGNORECASE)
NO_VALUE = ("", "na", "n/a", "nan", "null", "none")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+|inf(inity)?)(e[+-]?\d+)?")


@contextmanager
def readable(path):
    """Turn whatever a parser raises inside the block into a `DataError` naming `path`.

    A pipe or a device is refused: it may have no end.
    """
    try:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise DataError(f"{path}: not a file; expected one, so write what comes into it first")
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path, or fetch the file") from error
    except MemoryError as error:
        raise DataError(f"{path}: too large for this machine's memory") from error
    except Exception as error:  # parsers raise anything: struct.error, zlib.error, ...
        text = Path(path).suffix.lower() in (".txt", ".csv", ".tsv", ".json")
        raise DataError(
            f"{path}: cannot be read ({reason(error)}); "
            + ("expected plain text in UTF-8, repair it or save it again" if text else
               "it may be truncated or of another type, fetch or save it again")) from error


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
        raise DataError(f"{path}: {what} {size / 2**30:.1f} GiB, more than half of the "
                        f"{room / 2**30:.1f} GiB free; is the shape right?")


def _npy_header(stream):
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    if version > (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def arrays_in(path):
    """Name -> (shape, type) of what a .npy, .npz, .h5 or .mat file holds, without reading it.

    A .npy file has one array, called "". What is not an array of numbers or text has the name of
    its kind ("cell", "struct", "table", ...) in place of a type.
    """
    path, found = Path(path), {}
    with readable(path):
        if not path.exists():
            raise FileNotFoundError(path)
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
                if not name.startswith("__"):  # the insides of objects
                    found[name] = shape, np.dtype(MATLAB_TYPES.get(kind, kind)) if (
                        kind in MATLAB_NUMBERS) else kind
        elif path.suffix in (".h5", ".hdf5", ".mat"):
            with h5py.File(path, "r") as file:
                file.visititems(lambda name, item: _note(found, name, item, path.suffix == ".mat"))
        else:
            raise DataError(f"{path}: unknown file type; expected one of {', '.join(ARRAYS)}")
    return found


def _note(found, name, item, matlab):
    """Note one object of an HDF5 file: MATLAB turns the axes round and says what it means."""
    if matlab and name.startswith("#refs#"):  # the insides of cells
        return
    kind = item.attrs.get("MATLAB_class", b"") if matlab else ""
    kind = kind.decode() if isinstance(kind, bytes) else kind
    if isinstance(item, h5py.Dataset) and is_own(item) and item.shape is not None:
        if not kind or kind in MATLAB_NUMBERS:  # tables, strings, dates are numbers of other things
            kind = "empty" if "MATLAB_empty" in item.attrs else item.dtype
        found[name] = item.shape[::-1] if matlab else item.shape, kind
    elif kind:
        found[name] = (), kind


def is_own(item):
    """Whether an HDF5 object is a data set whose values lie in this file, not in another one."""
    return (isinstance(item, h5py.Dataset) and item.shape is not None and not item.external
            and not item.is_virtual)


def dataset(file, name):
    """A data set of an open HDF5 file, nothing of it read yet; none that leads to another file."""
    parts = name.split("/")
    links = [file.get("/".join(parts[: i + 1]), getlink=True) for i in range(len(parts))]
    if not all(isinstance(link, h5py.HardLink) for link in links) or not is_own(file[name]):
        raise DataError(
            f"{file.filename}: holds no data set {name} of its own (missing, or a link to another "
            "file); write the file again")
    return file[name]


def read_dataset(file, name, key=()):
    """`dataset(file, name)[key]`, after making sure that it fits in memory."""
    found = dataset(file, name)
    shape = np.broadcast_to(np.int8(), found.shape)[key].shape  # takes no memory
    check_size(file.filename, shape, found.dtype)
    return found[key]


def read_npz(path, names=None):
    """Arrays of an .npz (default: all) as a dict, once it is sure that they fit in memory."""
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
        array = scipy.io.loadmat(path, variable_names=[name], chars_as_strings=True)[name]
        if array.dtype.kind == "O":  # a cell of texts
            array = np.array([str(cell.item()) if np.size(cell) else "" for cell in array.ravel()])
        return array.toarray() if hasattr(array, "toarray") else array
    with h5py.File(path, "r") as file:
        found = dataset(file, name)
        if h5py.check_ref_dtype(found.dtype):  # MATLAB's cell: of texts
            return np.array([_cell(file, file[cell]) for cell in found[()].T.ravel()])
        if found.attrs.get("MATLAB_class") == b"char":
            return _rows(file, found)
        array = (found.asstr() if h5py.check_string_dtype(found.dtype) else found)[()]
    return np.ascontiguousarray(array.T) if path.suffix == ".mat" else array


def _cell(file, found):
    """A cell as a text: of characters, of one number, or empty."""
    if "MATLAB_empty" in found.attrs:
        return ""
    if found.attrs.get("MATLAB_class") == b"char":
        return _rows(file, found)[0]
    return str(found[()].item())


def _rows(file, found):
    """The rows of MATLAB's characters, stored as numbers, as an array of texts."""
    return np.array(["".join(map(chr, row)) for row in read_dataset(file, found.name[1:]).T])


def _objects(path, name):
    """An array of Python objects in an .npy or .npz file; no code is run, see `_ArraysOnly`."""
    if path.suffix == ".npy":
        whole = path.read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            whole = archive.read(f"{name}.npy")
    stream = BytesIO(whole)
    _npy_header(stream)
    return _ArraysOnly(stream).load()


class _ArraysOnly(pickle.Unpickler):
    """Unpickles containers, numbers, text and NumPy arrays of them; whatever else is refused."""

    def find_class(self, module, name):
        """The few functions that NumPy's own arrays are made of."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            if name == "_reconstruct":  # NumPy calls it for an empty array, then fills that
                return lambda kind, shape, code: np.ndarray((0,), "i1")
            if name == "scalar":
                return super().find_class(module, name)
        if (module, name) not in (("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")):
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return super().find_class(module, name)


def read_dict(path):
    """Read an .npy file that holds a dict of arrays, as GLMsingle writes; no code is run.

    Anything but plain containers, numbers, text and arrays is a `DataError`.
    """
    with readable(path), open(path, "rb") as stream:
        shape, dtype = _npy_header(stream)
        if shape != () or dtype.kind != "O":
            raise DataError(f"{path}: an array of shape {shape}; expected a dict of arrays")
        held = _ArraysOnly(stream).load()
        held = held.item() if isinstance(held, np.ndarray) and held.shape == () else held
    if not isinstance(held, dict):
        raise DataError(f"{path}: holds a {type(held).__name__}; expected a dict of arrays")
    return held


INDEX = ("index", "idx", "id", "row", "trial", "trials", "trial_index", "trial_id")
OF_TRIALS = (*INDEX, "subject", "subj", "sub", "participant", "session", "ses", "run", "block",
             "onset", "duration", "trial_type", "condition", "category", "label", "trial_image",
             "stim_file", "image", "image_id", "picture", "stimulus", "stim")  # no voxels


def read_table(path, heading=None, spaces=False, **options):
    """Read a text table as a DataFrame: tabs, semicolons or commas between cells, and quotes.

    `heading` says whether the first row names the columns; by default it does unless it is a row of
    numbers. With `spaces`, spaces may stand between cells too. `options` are those of
    `pandas.read_csv`. A first column that counts 0, 1, 2, ... is taken for an index and left out,
    with a warning, if it has no name, or one of `INDEX` before columns of numbers. A file that is
    missing, empty or not text, or a row that is not as wide as the first, is a `DataError`.
    """
    lines = read_lines(path, around=" ")
    mark = next((mark for mark in "\t;," if mark in lines[0]), " " if spaces else "\t")
    rows = map(str.split, lines) if mark == " " else csv.reader(lines, delimiter=mark)
    head = []
    for number, row in enumerate(rows, 1):
        head += [row] if number < 3 else []
        if len(row) != len(head[0]):
            raise DataError(f"{path}: {len(row)} cells in row {number}, {len(head[0])} in the "
                            "first; expected as many: an empty cell keeps its separator, a name "
                            "with a separator stands in quotes")
    if heading is None:
        heading = _is_heading(path, *head[:2])
    if mark in "\t;" and "," in lines[-1] and "." not in lines[-1]:
        options["decimal"] = ","
        if "dtype" not in options and re.search(r"\d,\d", lines[-1]):
            warnings.warn(f"{path}: commas are taken for decimal points", stacklevel=2)
    with readable(path):
        table = pandas.read_csv(StringIO("\n".join(lines)), sep=r"\s+" if mark == " " else mark,
                                header=0 if heading else None, skip_blank_lines=False, **options)
    if table.empty:
        raise DataError(f"{path}: a heading and no rows; expected one row for each entry")
    name = head[0][0].strip().lower() if heading else ""
    numbers = name in INDEX and all(kind.kind in "iuf" for kind in table.dtypes)
    if table.shape[1] > 1 and (not name or numbers) and counts(table.iloc[:, 0]):
        warnings.warn(f"{path}: the first column counts 0, 1, 2, ...: left out as an index",
                      stacklevel=2)
        table = table.iloc[:, 1:]
    return table


def counts(cells, least=3):
    """Whether cells count 0, 1, 2, ... or 1, 2, 3, ...: what an index does."""
    cells = [str(cell).strip().removesuffix(".0") for cell in cells]
    return len(cells) >= least and any(
        cells == [str(i) for i in range(start, start + len(cells))] for start in (0, 1))


def _is_heading(path, first, second=()):
    """Whether the first row of a table names its columns; numbers may do so as well."""
    words = [cell for cell in first if not _is_number(cell)]
    named = first[1:] if first[0].strip() == "" or words == first[:1] else first
    if counts(named, 2) or (len(first) > 1 and not words and _whole(first) and not _whole(second)):
        warnings.warn(f"{path}: the first row numbers the columns: taken for a heading",
                      stacklevel=3)
        return True
    if words and len(words) < len([cell for cell in first if cell.strip()]):
        raise DataError(f"{path}: the first row holds numbers and {words[0]!r}; expected numbers, "
                        "or a heading that names the columns")
    return bool(words)


def _is_number(cell):
    cell = cell.strip().lower().replace(",", ".")
    return cell in (*NO_VALUE, "true", "false") or bool(NUMBER.fullmatch(cell))


def _whole(cells):
    """Whether these are rising whole numbers, as a selection of voxels has them."""
    return all(cell.strip().isdecimal() for cell in cells) and (
        np.diff([int(cell) for cell in cells]) > 0).all()


def write_table(path, columns, **options):
    """Write columns (name -> cells, or a DataFrame) as a text table; see `pandas.to_csv`."""
    with atomic_write(path) as partial:
        pandas.DataFrame(columns).to_csv(partial, index=False, lineterminator="\n", **options)


def read_numbers(path):
    """Read a table of numbers as an array (rows, columns), without its heading and its index.

    Columns with one of the names `OF_TRIALS` are left out, with a warning.
    """
    table = values_of(read_table(path, spaces=True), path)
    text = [name for name, kind in table.dtypes.items() if kind.kind not in "biuf"]
    if text:
        cells = table[text[0]]
        bad = cells[pandas.to_numeric(cells, errors="coerce").isna() & cells.notna()]
        bad = bad if len(bad) else cells  # numbers but for a decimal point among decimal commas
        raise DataError(f"{path}: column {text[0]} holds {bad.iloc[0]!r}; expected numbers: leave "
                        "that column out, or repair the cell")
    return table.to_numpy(float)


def values_of(table, what):
    """A table without the columns of one of the names `OF_TRIALS`; a warning names them."""
    told = {name: str(name).strip().lower() for name in table}
    other = [name for name, plain in told.items()  # "session", "SessionID", "run_number", ...
             if {plain, re.sub(r"[ _.-]?(id|idx|index|num|number|nr)$", "", plain)} & {*OF_TRIALS}]
    if not other or len(other) == table.shape[1]:
        return table
    warnings.warn(f"{what}: {', '.join(other)} left out: by their names they say what a row is",
                  stacklevel=3)
    return table.drop(columns=other)


def find_array(path, prefer=(), ndim=None, text=False):
    """Which array of a file is meant: its own path, and its name inside ("" in an .npy file).

    See `read_array`.
    """
    match = WITH_KEY.fullmatch(str(path))
    path, key = (Path(match[1]), match[2]) if match else (Path(path), None)
    found = arrays_in(path)
    held = [f"{n} {tuple(s)}".strip() for n, (s, _) in found.items()] or ["no arrays"]
    held = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")

    def fits(name):
        shape, kind = found[name]
        textual = kind in ("cell", "char") or (not isinstance(kind, str) and kind.kind in "OSU")
        known = text if textual else not isinstance(kind, str)
        return known and (ndim is None or len(shape) in ndim)

    if key is None:
        called = {want: [n for n in found if n.rpartition("/")[2] == want] for want in prefer}
        named = next(filter(None, called.values()), [])
        fit = named or [n for n in found if fits(n)]
        if len(fit) != 1 and len(found) != 1:
            raise DataError(f"{path}: holds {held}; name the one you mean as {path.name}:NAME")
        key = (fit or list(found))[0]
    elif key not in found:
        raise DataError(f"{path}: no array called {key}; it holds {held}")
    if not fits(key):
        shape, kind = found[key]
        axes = f" of {' or '.join(map(str, ndim))} axes" if ndim else ""
        raise DataError(f"{path}: {key or 'the array'} is a {kind} of shape {tuple(shape)}; "
                        f"expected numbers{' or names' if text else ''}{axes}: save them as such, "
                        f"or name another array as {path.name}:NAME")
    return path, key


def read_array(path, prefer=(), ndim=None, text=False):
    """Read one array from a .npy, .npz, .h5 or .mat file or a text table.

    `file.npz:name` picks one array of several. Otherwise the first of the names in `prefer` that is
    there is taken, or refused if it is of another kind: whatever else the file holds is something
    else. `ndim` lists how many axes it may have; `text`: it may hold text. A file that is missing,
    damaged, too large, of unknown type, or with several arrays that would do, is a `DataError`.
    """
    if Path(path).suffix in (".csv", ".tsv", ".txt"):
        return read_numbers(path)
    path, key = find_array(path, prefer, ndim, text)
    shape, kind = arrays_in(path)[key]
    check_size(path, shape, "O" if isinstance(kind, str) else kind)
    with readable(path):
        of_objects = path.suffix in (".npy", ".npz") and kind == np.dtype(object)
        return _objects(path, key) if of_objects else _load(path, key)


def read_lines(path, around=None):
    """Lines of a text file, at least one: any ends, no blank ones, nothing of `around` around."""
    with readable(path):
        check_sizes(path, "its text needs", [((4 * os.path.getsize(path),), np.uint8)])
        text = Path(path).read_text(encoding="utf-8-sig")
    lines = [line.strip(around) for line in text.splitlines() if line.strip(around)]
    if not lines:
        raise DataError(f"{path}: empty; expected one entry a line")
    return lines


def visible(root, pattern):
    """Paths below `root` that fit a pattern, sorted; none that is hidden, or in a hidden folder."""
    root = Path(root)
    return sorted(path for path in root.glob(pattern)
                  if not any(part.startswith(".") for part in path.relative_to(root).parts))


def find(root, *paths):
    """Find the first of these files of a release, whichever level of the release `root` is.

    Looks for `root/a/b/c`, `root/b/c`, `root/c`, then one folder further down; a hidden folder may
    be unfinished, and is not looked into. If none is anywhere, a `DataError` names the place of the
    first.
    """
    found = find_any(root, *paths)
    if found is None:
        raise DataError(f"{Path(root, paths[0])}: no such file; is {root} the release, and is this "
                        "part of it?")
    return found


def find_any(root, *paths):
    """`find`, or None where there is no such file."""
    for path in paths:
        parts = Path(path).parts
        above = (Path(root, *parts[i:]) for i in range(len(parts)))
        below = (folder / path for folder in visible(root, "*/"))
        for place in chain(above, below):
            if place.exists():
                return place
    return None


def sealed(whole):
    """Bytes of a safetensors file with its metadata sorted, and a checksum put into them."""
    header, body = _parts(whole)
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    header["__metadata__"]["sha256"] = _checksum(header, body)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def refuse_broken_seal(whole):
    """ValueError if a safetensors file's bytes do not fit the checksum by `sealed`, if any."""
    header, body = _parts(whole)
    told = header.get("__metadata__", {}).pop("sha256", None)
    if told is not None and told != _checksum(header, body):
        raise ValueError("wrong checksum")


def _parts(whole):
    size = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + size]), memoryview(whole)[8 + size :]


def _checksum(header, body):
    text = json.dumps(header, sort_keys=True).encode()
    return hashlib.sha256(text + hashlib.sha256(body).digest()).hexdigest()
