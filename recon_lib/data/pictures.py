"""Pictures of any kind, made into one uint8 array `(n, size, size, channels)`.

The rule, everywhere: cut the largest square out of the middle, then resize it with an
antialiased bicubic filter. Nothing is stretched, and nothing depends on the other pictures.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

try:
    from PIL.AvifImagePlugin import SUPPORTED as AVIF  # since Pillow 11.3
except ImportError:
    AVIF = False

from recon_lib.common.errors import DataError, as_count, as_numbers, check
from recon_lib.common.files import check_size

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp",
            ".ppm", ".pgm", ".pbm", ".pnm"} | ({".avif"} if AVIF else set())
NOT_READ = {".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".tga", ".ico", ".psd", ".svg",
            ".eps", ".exr", ".hdr", ".dds", ".dng"} - SUFFIXES  # pictures: they keep their place
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", *["AVIF"] * AVIF)
# told by content: an EPS called .png would be handed to Ghostscript, which runs programs
BROKEN, ANIMATED = "skipped, not readable", "animated, first frame kept"
UNREAD = "skipped, of a kind that is not read (save them as PNG)"
DARK = "nearly black, none of their 16-bit values above 4095 (of 8 or 12 bits? save them as 8)"
DEEP = "of 32 bits a value, each scaled by what it holds (save them as 8 bits to keep brightness)"
LARGEST = 150_000_000  # pixels; a larger file is a mistake or a decompression bomb


def as_uint8(array):
    """Bring picture values of any type to 0–255; the range is judged over the whole array.

    Whole numbers: 0–1 is multiplied by 255, 0–255 is kept, 0–65535 is divided by 257. Fractions:
    0–1 is multiplied by 255, −1–1 is shifted first, 0–255 is rounded; what overshoots by a tenth of
    the range or less is cut off. Values far beyond all of these (z-scores, say) are stretched from
    the smallest to the largest, with a warning. Values that are not finite, or lie between two
    ranges, are a `DataError`.
    """
    array = check(array, what="pictures")
    if array.size == 0:
        return array.astype(np.uint8)
    low, high = array.min().item(), array.max().item()
    scaled = None
    if array.dtype.kind in "ui":
        if 0 <= low and high <= 255:
            return (array * np.uint8(255) if high <= 1 else array).astype(np.uint8, copy=False)
        if 0 <= low and 4095 < high <= 65535:
            scaled = array / np.float32(257)
        between = 0 <= low and high <= 4095
    else:
        if -0.1 <= low and high <= 1.1:
            scaled = array * np.float32(255)
        elif -1.1 <= low <= -0.5 and high <= 1.1:
            scaled = (array + 1) * np.float32(127.5)
        elif -16 <= low and 16 <= high <= 272:
            scaled = array
        between = -1.1 <= low and high < 16
    if scaled is None and (between or low == high):
        raise DataError(f"pictures of type {array.dtype} with values from {low:.4g} to {high:.4g}; "
                        "expected 0 to 1, -1 to 1, 0 to 255 or 16 bits: bring them to 0-255")
    if scaled is None:
        warnings.warn(
            f"picture values run from {low:.4g} to {high:.4g}: stretched to 0-255", stacklevel=2)
        scaled = (array.astype(np.float32) - low) * np.float32(255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def uint8_pictures(images):
    """Pictures (n, H, W, 1 or 3) of 0–255 as uint8; another scale or shape is refused.

    uint8 comes back as it is, whole numbers from 0 to 255 of another type are cast; all else is a
    `DataError`: pictures from 0 to 1 would all turn black.
    """
    images = as_numbers(images, "pictures")
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DataError(f"found pictures of shape {images.shape}, expected (n, height, width, 1 or "
                        "3): bring them there with pictures.square_arrays")
    if images.dtype == np.uint8:
        return images
    low, high = images.min(initial=0), images.max(initial=0)
    unit = images.dtype.kind == "f" and 0 < high <= 1
    if unit or not (low >= 0 and high <= 255) or not np.array_equal(images, np.rint(images)):
        raise DataError(f"found pictures of type {images.dtype} with values from {low:.4g} to "
                        f"{high:.4g}, expected whole numbers from 0 to 255: bring them there with "
                        "pictures.as_uint8")
    return images.astype(np.uint8)


def square(picture, size):
    """Cut the middle square out of one Pillow image and resize it to `(size, size)`."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if picture.size == (size, size):
        return picture
    if width != height:
        picture = picture.crop((left, top, left + side, top + side))
    return picture.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)


def square_arrays(images, size, channels=None):
    """Square and resize pictures that are already an array: (n, size, size, channels) uint8.

    `images` are (n, H, W), (n, H, W, C) or (n, C, H, W), grey, colour, or colour with alpha, of any
    number type (see `as_uint8`). `size` 0 keeps pictures that are square already. `channels`: 1, 3,
    or None, which keeps grey as grey and colour as colour.
    """
    size, images = as_count(size, "the side of the pictures"), as_numbers(images, "pictures")
    shape, kinds = images.shape, (1, 3, 4)
    stacked = images.ndim == 3 and shape[0] == shape[1] != shape[2] or (
        images.ndim == 4 and shape[2] in kinds and not {shape[1], shape[3]} & set(kinds))
    if stacked and images.ndim == 3 and shape[2] in kinds[1:]:
        raise DataError(f"shape {shape}: one in colour, or {shape[2]} in grey? expected "
                        "(n, height, width) or (n, height, width, 3): turn the axes round")
    if stacked:
        warnings.warn(f"pictures of shape {shape}: taken for {shape[-1]} pictures along the last "
                      "axis, as MATLAB stacks them", stacklevel=2)
        images = np.moveaxis(images, -1, 0)
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[-1] not in kinds and shape[1] in kinds:
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in kinds or 0 in images.shape[1:]:
        raise DataError(
            f"pictures of shape {shape}: expected (n, height, width) or (n, height, width, 3)")
    return squared(as_uint8(images), size, channels)


def squared(images, size, channels=None):
    """`square_arrays` for pictures that are (n, H, W, C) uint8 already: their range is kept."""
    if images.shape[-1] == 4:  # a see-through part becomes white
        alpha = images[..., 3:].astype(np.float32) / 255
        images = np.rint(images[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    _, height, width, now = images.shape
    size = size or min(height, width)
    channels = channels or now
    if (height, width) != (size, size):
        if now == 1:
            small = [square(Image.fromarray(image[..., 0]), size) for image in images]
        else:
            small = [square(Image.fromarray(image), size) for image in images]
        images = np.array([np.asarray(picture) for picture in small], dtype=np.uint8)
        images = images.reshape(-1, size, size, now)
    if channels == 3 and now == 1:
        images = np.repeat(images, 3, axis=-1)
    elif channels == 1 and now == 3:  # ITU-R 601 luma, as Pillow's mode "L"
        luma = images.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])
        images = np.rint(luma)[..., None].astype(np.uint8)
    return np.ascontiguousarray(images)


def to_pillow(picture):
    """Turn any Pillow image (16-bit, CMYK, palette, alpha, animated) into mode "L" or "RGB"."""
    if picture.mode.startswith("I;16") or (picture.mode, picture.format) == ("I", "PNG"):
        return Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        return Image.fromarray(as_uint8(np.asarray(picture)))
    clear = "transparency" in picture.info
    if picture.mode in ("1", "L") and not clear:
        return picture.convert("L")
    if clear or picture.mode in ("LA", "PA", "RGBA", "RGBa", "La", "P"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def read_picture(path, size):
    """One file as a square picture, (size, size[, 3]) uint8, and what has to be said of it.

    Of several frames the first is kept. A file that is missing, empty, broken, far too large or not
    a picture is a `DataError`.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning: LARGEST decides
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > LARGEST:
                    raise DataError(f"{path}: {picture.width} x {picture.height} is too large")
                said = [ANIMATED] if getattr(picture, "n_frames", 1) > 1 else []
                picture.draft("RGB", (2 * size, 2 * size))  # JPEG only: decode at a fraction
                check_size(path, (picture.height, picture.width, 8), np.uint8)  # decoded, converted
                said += [DARK] if _of_few_bits(picture) else []
                said += [DEEP] if picture.mode in ("I", "F") and picture.format == "TIFF" else []
                ImageOps.exif_transpose(picture, in_place=True)  # no copy
                picture = to_pillow(picture)
                return np.asarray(square(picture, size)), said
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such picture") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        what = f"{path.suffix} is not read here, save it as PNG" * (path.suffix.lower() in NOT_READ)
        raise DataError(f"{path}: not a readable picture{what and f' ({what})'}") from error


def _of_few_bits(picture):
    """Whether a picture of 16 bits is not black, but uses no more than 12 of them."""
    return picture.mode.startswith("I;16") and 0 < np.max(picture) < 4096


def picture_files(folder):
    """List the picture files under a folder, sorted by their path inside it.

    Hidden files and folders are left out, and with a warning links to folders; pictures of a kind
    that is not read, and links that lead nowhere, keep their place.
    """
    folder, found, links = Path(folder), [], []
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        if path.is_symlink() and path.is_dir():
            links.append(path.name)
        elif path.suffix.lower() in SUFFIXES | NOT_READ and (
                path.is_file() or path.is_symlink() and not path.exists()):  # not fetched
            found.append(path)
    if links:
        warnings.warn(f"{folder}: {', '.join(sorted(links)[:5])}: links to folders, not looked "
                      "into: give a folder that holds the pictures themselves", stacklevel=3)
    if not any(path.suffix.lower() in SUFFIXES for path in found):
        raise DataError(f"{folder}: no picture files (.png, .jpg, ...) in this folder"
                        + (f", but {found[0].name}: save such pictures as PNG" if found else ""))
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_pictures(paths, size, channels=None):
    """Read picture files; skip, count and name those that cannot be read.

    Returns (n, size, size, channels) uint8, and (len(paths),) bool: False where a file was skipped.
    `channels` None gives 1 when every picture is stored as grey, else 3. It is a `DataError` if not
    one of the files can be read.
    """
    size = as_count(size, "the side of the pictures", 1)
    pictures, notes = [], {what: [] for what in (BROKEN, ANIMATED, DARK, DEEP, UNREAD)}
    kept = np.ones(len(paths), bool)
    for i, path in enumerate(paths):
        try:
            picture, said = read_picture(path, size)
        except DataError:
            kept[i] = False
            said = [UNREAD if Path(path).suffix.lower() in NOT_READ else BROKEN]
        else:
            pictures.append(picture)
        for what in said:
            notes[what].append(Path(path).name)
    for what, names in notes.items():
        if names:
            listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            warnings.warn(f"{len(names)} of {len(paths)} pictures {what}: {listed}", stacklevel=2)
    if not pictures:
        where = Path(paths[0]).parent if len(paths) else "the list"
        raise DataError(f"{where}: none of the {len(paths)} pictures can be read")
    if channels is None:
        channels = 1 if all(picture.ndim == 2 for picture in pictures) else 3
    images = np.empty((len(pictures), size, size, channels), np.uint8)
    for i, picture in enumerate(pictures):
        picture = picture.reshape(1, size, size, -1)
        images[i] = squared(picture, size, channels)[0]
    return images, kept
