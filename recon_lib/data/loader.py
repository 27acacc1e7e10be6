"""Pictures and brain vectors, ready for training."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from recon_lib.common.errors import DataError, as_count, as_numbers
from recon_lib.data.arrays import in_one_order, load_pictures
from recon_lib.data.pictures import square, square_arrays, squared, to_pillow, uint8_pictures


def to_batch(images: np.ndarray):
    """Pictures (n, H, W, 1 or 3) uint8 -> Tensor (n, 1 or 3, H, W) in [-1, 1], as networks see."""
    images = np.ascontiguousarray(uint8_pictures(images))
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


class BatchLoader:
    """Batches from memory: pictures stay uint8, each batch becomes float in [-1, 1].

    The order, and any noise drawn by `vectors`, depend on `seed` and the epoch only, so
    a resumed run sees what an unbroken one would have seen.

    Parameters
    ----------
    images : (n, H, W, C) uint8 array
    batch_size : int
        Pictures per batch and per process.
    vectors : (n, d) array or tensor, function, or None
        Brain vectors. A function `(index (b,) long tensor, generator) -> (b, d)` is asked
        anew for every batch: that is how noise is added afresh in each epoch.
    shuffle : bool
    seed : int
    mirror : bool
        Show about half of the pictures mirrored left to right, others in each epoch. Not with
        brain vectors: the visual field has sides.

    Notes
    -----
    Iterating yields `images (b, C, H, W)`, or `(images, vectors (b, d))` when there are
    vectors. A finished pass moves on to the next epoch; `set_epoch` goes to a given one.
    """

    def __init__(self, images, batch_size, vectors=None, shuffle=True, seed=0, mirror=False):
        self.batch_size = as_count(batch_size, "batch_size", 1)
        self.seed = as_count(seed, "seed")
        images = uint8_pictures(images)
        if mirror and vectors is not None:
            raise DataError("found mirror with brain vectors; a mirrored picture would have evoked "
                            "another response: leave mirror out")
        images = torch.as_tensor(np.require(images, requirements="W"))
        self.images = images.permute(0, 3, 1, 2).contiguous()  # (n, C, H, W) uint8
        if vectors is not None and not callable(vectors):
            vectors = vectors if isinstance(vectors, torch.Tensor) else torch.from_numpy(
                as_numbers(vectors, "the array of brain vectors").astype(np.float32))
            vectors = vectors.float()
            if vectors.ndim != 2 or len(vectors) != len(images):
                raise DataError(
                    f"{len(images)} images but vectors of shape {tuple(vectors.shape)}; "
                    f"expected ({len(images)}, d): one brain vector for each image")
            if not vectors.isfinite().all():
                raise DataError("the brain vectors hold NaN or infinite values; expected numbers: "
                                "repair them, or drop them with their pictures")
        self.vectors = vectors
        self.shuffle, self.mirror = shuffle, mirror
        self.epoch, self.rank, self.world = 0, 0, 1

    def shard(self, rank, world):
        """A loader over one process's share of the same pictures in memory.

        Parameters
        ----------
        rank, world : int
            The process's number, and how many share the work. No picture goes to two of them.
            When shuffling, up to `world - 1` pictures sit out an epoch, so that all processes
            take the same number of steps.
        """
        if not 0 <= rank < world:
            raise DataError(f"rank {rank} of {world} processes; expected 0 to {world - 1}")
        if len(self.images) < world:
            raise DataError(f"{len(self.images)} images for {world} processes; expected one for "
                            "each")
        share = copy.copy(self)
        share.rank, share.world = rank, world
        return share

    def set_epoch(self, epoch):
        """Choose which epoch the next pass is: order and noise follow from it."""
        self.epoch = int(epoch)

    @property
    def image_size(self):
        """Side of the pictures in pixels."""
        return self.images.shape[-1]

    @property
    def channels(self):
        """1 for grey pictures, 3 for colour."""
        return self.images.shape[1]

    @property
    def condition_size(self):
        """Length d of the brain vectors, or None without them."""
        if self.vectors is None:
            return None
        if callable(self.vectors):
            probe = torch.Generator().manual_seed(0)
            return self.vectors(torch.zeros(1, dtype=torch.long), probe).shape[1]
        return self.vectors.shape[1]

    def _order(self):
        n = len(self.images)
        if not self.shuffle:
            return np.arange(n)[self.rank :: self.world]
        order = np.random.default_rng([self.seed, self.epoch]).permutation(n)
        return order[: n - n % self.world][self.rank :: self.world]

    def __len__(self):
        n = len(self.images)
        mine = n // self.world
        if not self.shuffle and self.rank < n % self.world:
            mine += 1
        return -(-mine // self.batch_size)

    def __iter__(self):
        epoch, order = self.epoch, torch.from_numpy(self._order())
        draw = np.random.default_rng([self.seed, epoch, 1])  # the same in all processes
        turned = torch.from_numpy(draw.random(len(self.images)) < 0.5) if self.mirror else None
        for step, index in enumerate(order.split(self.batch_size)):
            images = self.images[index].float().div_(127.5).sub_(1)  # (b, C, H, W)
            if turned is not None:
                images = torch.where(turned[index, None, None, None], images.flip(3), images)
            if self.vectors is None:
                yield images
            elif callable(self.vectors):
                noise_seed = np.random.SeedSequence([self.seed, epoch, step, self.rank])
                generator = torch.Generator().manual_seed(int(noise_seed.generate_state(1)[0]))
                yield images, self.vectors(index, generator)
            else:
                yield images, self.vectors[index]
        self.epoch = epoch + 1


def batch_of(item):
    """Pictures (b, C, H, W) in [-1, 1] and brain vectors (b, d) or None of what any loader yields.

    An item is pictures, or a tuple that begins with them and perhaps vectors; class numbers are
    left out. Anything else, values far from that range, and vectors that are not finite are a
    `DataError`.
    """
    images, vectors = (*item, None)[:2] if isinstance(item, tuple | list) else (item, None)
    if not isinstance(images, torch.Tensor) or images.ndim != 4:
        what = ", ".join(map(str, item)) if isinstance(item, Mapping) else type(images).__name__
        raise DataError(f"the loader yields {what}; expected tensors (b, C, H, W) of pictures, or "
                        "pictures and vectors (b, d): give create_loader the data")
    if images.device.type == "cpu":  # elsewhere it would wait for all that was asked before
        low, high = images.aminmax()
        if not -1.5 <= low <= high <= 1.5:  # a resize may overshoot a little
            raise DataError(
                f"the loader yields pictures with values from {low:.3g} to {high:.3g}; bring them "
                "to [-1, 1], as create_loader does (0 to 255: x / 127.5 - 1)")
    if not isinstance(vectors, torch.Tensor) or vectors.ndim < 2:
        return images, None
    if vectors.device.type == "cpu" and not vectors.isfinite().all():
        raise DataError("the loader yields vectors that hold NaN or infinite values; expected "
                        "numbers: repair them, or drop them with their pictures")
    return images, vectors


def create_loader(image_size: int, batch_size: int, data_path: str | Path | None = None,
                  images: Any = None, vectors: Any = None, shuffle: bool = True, seed: int = 0,
                  channels: int | None = None, rank: int = 0, world: int = 1,
                  mirror: bool = False) -> BatchLoader:
    """Make a `BatchLoader` from pictures of any kind.

    Parameters
    ----------
    image_size : int
        Side of the square pictures in pixels. Others are cut square from the middle and
        resized (see `recon_lib.data.pictures`).
    batch_size : int
    data_path : path
        A folder of picture files (subfolders too), or a .npy, .npz, .mat or .h5 file.
    images : (n, H, W[, C]) array, or a dataset
        Instead of `data_path`. A dataset is anything with a length whose items are a
        picture, a tuple that starts with one, such as those of torchvision, or a dict with an
        "image"; or something of finite length that can be iterated over.
    vectors : (n, d) array or function, optional
        See `BatchLoader`.
    shuffle : bool
    seed : int
    channels : {None, 1, 3}
        None keeps grey pictures grey.
    rank, world
        See `BatchLoader.shard`.
    mirror
        See `BatchLoader`.
    """
    image_size = as_count(image_size, "image_size", 1)
    if channels not in (None, 1, 3):
        raise DataError(f"channels is {channels!r}; expected 1 (grey), 3 (colour) or None")
    if (data_path is None) == (images is None):
        raise DataError("create_loader needs either data_path or images, and not both")
    if data_path is not None:
        found = load_pictures(data_path, image_size, channels)
        if vectors is not None and not found.kept.all():
            raise DataError(
                f"{data_path}: {int((~found.kept).sum())} pictures cannot be read, so the vectors "
                "no longer match; remove those files together with their vectors")
        if vectors is not None:
            in_one_order(np.arange(len(found.kept)), found.names)
        images = found.images
    elif isinstance(images, np.ndarray | torch.Tensor):
        images = square_arrays(images, image_size, channels)
    else:
        images = _from_dataset(images, image_size, channels)
    return BatchLoader(images, batch_size, vectors, shuffle, seed, mirror).shard(rank, world)


def _picture(item):
    """The picture of a dataset's item: itself, the first of several, or what a dict calls one."""
    if isinstance(item, Mapping):
        known = [item[name] for name in ("image", "img", "picture", "pixel_values") if name in item]
        if not known:
            raise DataError(f"the dataset yields {', '.join(map(str, item))}; expected a picture "
                            "called image: give pictures alone, or rename it")
        return known[0]
    pair = isinstance(item, tuple | list) and isinstance(item[0], np.ndarray | torch.Tensor
                                                         | Image.Image)
    return item[0] if pair else item


def _from_dataset(dataset, size, channels):
    """Read every picture of a torchvision-like dataset into memory."""
    items = [_picture(item) for item in (
        map(dataset.__getitem__, range(len(dataset))) if hasattr(dataset, "__len__") else dataset)]
    if not items:
        raise DataError("the dataset is empty; expected at least one picture")
    if not all(hasattr(item, "convert") for item in items):  # arrays or tensors
        arrays = [np.asarray(item) for item in items]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise DataError(f"the dataset's pictures have {len(shapes)} shapes; make them one, or "
                            "leave out its transform so that it gives Pillow pictures")
        return square_arrays(np.stack(arrays), size, channels)
    small = [np.asarray(square(to_pillow(item), size)) for item in items]
    if channels is None:
        channels = 1 if all(picture.ndim == 2 for picture in small) else 3
    small = [squared(picture.reshape(1, size, size, -1), size, channels) for picture in small]
    return np.concatenate(small)
