"""Pictures of every kind, and the loader: what comes out, in which order, for which process."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from recon_lib.brain.features import embed, load_factor_net, read_factors
from recon_lib.common.errors import DataError
from recon_lib.data.loader import BatchLoader, create_loader
from recon_lib.data.pictures import (
    as_uint8,
    picture_files,
    read_pictures,
    square_arrays,
    uint8_pictures,
)

PICTURES = np.random.default_rng(0).integers(0, 256, (25, 8, 8, 3), dtype=np.uint8)


def batches(loader):
    return [images.numpy() for images in loader]


# The loader ------------------------------------------------------------------------------


def test_batches_hold_every_picture_once_between_minus_one_and_one():
    loader = create_loader(8, 4, images=PICTURES)
    seen = np.concatenate(batches(loader))
    assert len(loader) == 7 and seen.shape == (25, 3, 8, 8) and seen.dtype == np.float32
    back = np.rint((seen + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    assert sorted(p.tobytes() for p in back) == sorted(p.tobytes() for p in PICTURES)
    assert seen.min() >= -1 and seen.max() <= 1


def test_order_depends_on_seed_and_epoch_only():
    first, second = (create_loader(8, 4, images=PICTURES, seed=3) for _ in range(2))
    one, two = batches(first), batches(first)  # a finished pass moves on
    assert first.epoch == 2 and not np.array_equal(one[0], two[0])
    second.set_epoch(1)
    assert all(np.array_equal(a, b) for a, b in zip(two, batches(second), strict=True))
    next(iter(first))
    assert first.epoch == 2  # an unfinished pass does not count
    in_order = create_loader(8, 25, images=PICTURES, shuffle=False)
    assert np.array_equal(batches(in_order)[0], batches(in_order)[0])


@pytest.mark.parametrize(("world", "shuffle"), list(itertools.product((1, 2, 3), (True, False))))
def test_processes_share_without_duplicates(world, shuffle):
    whole = create_loader(8, 4, images=PICTURES, shuffle=shuffle)
    shares = [whole.shard(rank, world) for rank in range(world)]
    parts = [batches(share) for share in shares]
    seen = [p.tobytes() for part in parts for batch in part for p in batch]
    assert len(seen) == len(set(seen)) >= (25 if not shuffle else 25 - 25 % world)
    assert [len(share) for share in shares] == [len(part) for part in parts]
    if shuffle:  # or the processes would wait for each other for ever
        assert len({len(part) for part in parts}) == 1
    assert shares[0].images.data_ptr() == whole.images.data_ptr()


def test_mirrored_pictures_are_the_same_in_all_processes_and_others_in_each_epoch():
    """Every picture comes once an epoch, as it is or mirrored; which, depends on seed and epoch."""
    either = {p.tobytes(): i for i, p in enumerate(PICTURES)}
    mirrored = {np.ascontiguousarray(p[:, ::-1]).tobytes(): i for i, p in enumerate(PICTURES)}

    def seen(loader):  # pictures as they are, pictures mirrored
        back = np.rint((np.concatenate(batches(loader)) + 1) * 127.5).astype(np.uint8)
        keys = [np.ascontiguousarray(p.transpose(1, 2, 0)).tobytes() for p in back]
        kept, turned = ({d[k] for k in keys if k in d} for d in (either, mirrored))
        assert kept | turned == set(range(25)) and len(keys) == 25
        return kept, turned

    whole = create_loader(8, 4, images=PICTURES, seed=5, mirror=True, shuffle=False)
    share = [whole.shard(rank, 2) for rank in range(2)]
    kept, turned = seen(whole)
    assert not kept & turned and 6 <= len(turned) <= 19  # less likely than 1 in 500
    both = np.concatenate([np.concatenate(batches(part)) for part in share])
    assert np.array_equal(np.sort(both.ravel()), np.sort(np.concatenate(
        batches(create_loader(8, 4, images=PICTURES, seed=5, mirror=True))).ravel()))
    assert seen(whole)[1] != turned  # the next epoch
    whole.set_epoch(0)
    assert seen(whole)[1] == turned
    assert not seen(create_loader(8, 4, images=PICTURES, seed=5))[1]
    with pytest.raises(DataError, match="mirror with brain vectors"):
        create_loader(8, 4, images=PICTURES, vectors=np.zeros((25, 5)), mirror=True)


def test_vectors_follow_their_pictures():
    vectors = PICTURES[:, 0, 0].astype(np.float32)
    for images, vector in create_loader(8, 4, images=PICTURES, vectors=vectors):
        assert np.allclose((images[:, :, 0, 0] + 1) * 127.5, vector, atol=1e-3)


def test_vectors_made_afresh_repeat_with_the_epoch():
    def noisy(index, generator):
        return index[:, None] + torch.rand(len(index), 5, generator=generator)

    loader = create_loader(8, 4, images=PICTURES, vectors=noisy, seed=1)
    one = [v for _, v in loader]
    two = [v for _, v in loader]
    assert loader.condition_size == 5
    assert not torch.equal(torch.cat(one).sort(0)[0], torch.cat(two).sort(0)[0])
    assert len({v[0, 0].frac().item() for v in one}) == len(one)  # new noise in every batch
    loader.set_epoch(0)
    assert all(torch.equal(a, b[1]) for a, b in zip(one, loader, strict=True))


def test_loader_says_what_is_wrong():
    with pytest.raises(DataError, match="25 images but vectors of shape"):
        create_loader(8, 4, images=PICTURES, vectors=np.zeros((24, 5)))
    with pytest.raises(DataError, match="either data_path or images"):
        create_loader(8, 4)
    with pytest.raises(DataError, match="batch_size is 0"):
        create_loader(8, 0, images=PICTURES)
    with pytest.raises(DataError, match="rank 2 of 2"):
        create_loader(8, 4, images=PICTURES, rank=2, world=2)
    with pytest.raises(DataError, match="no such file"):
        create_loader(8, 4, data_path="nowhere.npy")


UNFIT = {
    "from 0 to 1": (PICTURES / 255, "values from 0 to 1, expected whole"),
    "in float32": ((PICTURES / 255).astype("f4"), "values from 0 to 1, expected whole"),
    "from -1 to 1": (PICTURES / 127.5 - 1, "values from -1 to 1, expected whole"),
    "fractions": (PICTURES * 0.7, "expected whole numbers"),
    "black and white": (PICTURES > 127, "values from 0 to 1, expected whole"),
    "too large": (np.full((4, 8, 8, 3), 300), "values from 0 to 300, expected whole"),
    "not finite": (np.full((4, 8, 8, 3), np.nan), "values from nan"),
    "an axis less": (PICTURES[0], r"shape \(8, 8, 3\), expected \(n, height"),
    "an axis more": (PICTURES[None], "shape .1, 25, 8, 8, 3., expected"),
    "channels first": (PICTURES.transpose(0, 3, 1, 2), r"shape \(25, 3, 8, 8\), expected"),
    "with alpha": (np.zeros((4, 8, 8, 4), np.uint8), "shape .4, 8, 8, 4., expected"),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_pictures_on_another_scale_are_not_taken_for_uint8(unfit):
    pictures, message = UNFIT[unfit]
    classifier = load_factor_net("evaluation_classifier")
    for call in (uint8_pictures, lambda x: BatchLoader(x, 4), lambda x: read_factors(classifier, x),
                 lambda x: embed(classifier, x)):
        with pytest.raises(DataError, match=message):
            call(pictures)


def test_whole_numbers_of_any_type_are_the_same_pictures():
    assert uint8_pictures(PICTURES) is PICTURES
    wanted = embed(load_factor_net("evaluation_classifier"), PICTURES)
    for change in (np.int64, np.float32, np.float16, torch.from_numpy, list):
        same = change(PICTURES) if change in (torch.from_numpy, list) else PICTURES.astype(change)
        assert np.array_equal(uint8_pictures(same), PICTURES)
        assert np.array_equal(embed(load_factor_net("evaluation_classifier"), same), wanted)
        assert np.array_equal(BatchLoader(same, 4).images, PICTURES.transpose(0, 3, 1, 2))
    black = np.zeros((2, 8, 8, 1))
    assert not uint8_pictures(black).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_not_trained_on(bad):
    vectors = np.zeros((25, 5))
    vectors[3, 2] = bad
    with pytest.raises(DataError, match="brain vectors hold NaN"):
        create_loader(8, 4, images=PICTURES, vectors=vectors)


def test_loader_reads_files_folders_and_datasets(tmp_path):
    np.save(tmp_path / "pictures.npy", PICTURES)
    np.savez(tmp_path / "pictures.npz", labels=np.arange(25), images=PICTURES)
    for name in ("pictures.npy", "pictures.npz"):
        loader = create_loader(8, 25, data_path=tmp_path / name, shuffle=False)
        assert np.array_equal(loader.images.numpy(), PICTURES.transpose(0, 3, 1, 2))
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    for i, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(folder / ("b" if i > 9 else "") / f"a{i:02d}.png")
    loader = create_loader(8, 25, data_path=folder, shuffle=False)
    assert np.array_equal(loader.images.numpy(), PICTURES.transpose(0, 3, 1, 2))

    class Labelled:
        def __init__(self, change):
            self.change = change

        def __len__(self):
            return len(PICTURES)

        def __getitem__(self, i):
            return self.change(PICTURES[i]), 0

    for change in (
        Image.fromarray,
        lambda p: torch.from_numpy(p).permute(2, 0, 1) / 255,
        lambda p: torch.from_numpy(p).permute(2, 0, 1) / 127.5 - 1,
    ):
        loader = create_loader(8, 25, images=Labelled(change), shuffle=False)
        assert np.array_equal(loader.images.numpy(), PICTURES.transpose(0, 3, 1, 2))


@pytest.mark.slow
def test_datasets_of_torchvision(tmp_path):
    """A folder of classes, as it is and with a transform; random pictures of another size."""
    from torchvision.datasets import FakeData, ImageFolder
    from torchvision.transforms import v2

    for i, picture in enumerate(PICTURES):
        path = tmp_path / f"class {i % 2}" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    expected = np.concatenate([PICTURES[::2], PICTURES[1::2]]).transpose(0, 3, 1, 2)
    scaled = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    for transform in (None, scaled):
        loader = create_loader(8, 4, images=ImageFolder(tmp_path, transform), shuffle=False)
        assert np.array_equal(loader.images.numpy(), expected)
    fake = FakeData(5, (3, 16, 24))  # wider than high: cut to its middle
    loader = create_loader(16, 4, images=fake, shuffle=False)
    middle = np.stack([np.asarray(picture)[:, 4:20] for picture, _ in fake]).transpose(0, 3, 1, 2)
    assert np.array_equal(loader.images.numpy(), middle)


# Pictures --------------------------------------------------------------------------------


def test_every_number_type_becomes_the_same_picture():
    for array in (
        PICTURES.astype(np.int64),
        PICTURES.astype(np.float64),
        PICTURES / 255,
        PICTURES / np.float32(127.5) - 1,
        PICTURES.astype(np.uint16) * 257,
    ):
        assert np.array_equal(as_uint8(array), PICTURES)
    assert np.array_equal(as_uint8(np.array([[0, 1]])), [[0, 255]])
    assert np.array_equal(as_uint8(np.array([[False, True]])), [[0, 255]])
    with pytest.warns(UserWarning, match="run from -2 to 2: stretched"):
        assert np.array_equal(as_uint8(np.array([-2.0, 0, 2])), [0, 128, 255])
    with pytest.raises(DataError, match="1 values that are NaN"):
        as_uint8(np.array([0.0, np.nan]))
    with pytest.raises(DataError, match="type <U1"):
        as_uint8(np.array(["a"]))


def test_pictures_are_cut_square_from_the_middle():
    wide = np.zeros((2, 10, 30), np.uint8)
    wide[:, :, 10:20] = 200
    out = square_arrays(wide, 5)
    assert out.shape == (2, 5, 5, 1) and (out == 200).all()
    assert square_arrays(wide, 5, channels=3).shape == (2, 5, 5, 3)
    assert square_arrays(PICTURES.transpose(0, 3, 1, 2), 8).tobytes() == PICTURES.tobytes()
    see_through = np.dstack([PICTURES[0], np.zeros((8, 8), np.uint8)])[None]
    assert (square_arrays(see_through, 8) == 255).all()
    assert square_arrays(PICTURES, 4, channels=1).shape == (25, 4, 4, 1)
    with pytest.raises(DataError, match=r"shape \(8, 8\)"):
        square_arrays(PICTURES[0, :, :, 0], 8)
    with pytest.raises(DataError, match="side of the pictures is -3; expected 0 or more"):
        square_arrays(PICTURES, -3)


def test_odd_picture_files_are_converted_or_named(tmp_path):
    colour = Image.fromarray(PICTURES[0]).resize((20, 30))
    colour.save(tmp_path / "01.png")
    colour.convert("CMYK").save(tmp_path / "02.jpg")
    colour.convert("P").save(tmp_path / "03.png")
    Image.fromarray(np.full((9, 9), 300 * 257 // 2, np.uint16)).save(tmp_path / "04.png")
    colour.save(tmp_path / "05.gif", save_all=True, append_images=[colour.rotate(90)])
    (tmp_path / "06.png").write_bytes(b"")
    (tmp_path / "07.jpg").write_bytes((tmp_path / "02.jpg").read_bytes()[:200])
    (tmp_path / "notes.txt").write_text("not a picture")
    files = picture_files(tmp_path)
    assert [f.name for f in files] == [f"0{i}.{e}" for i, e in enumerate(
        ("png", "jpg", "png", "png", "gif", "png", "jpg"), 1)]
    with pytest.warns(UserWarning) as said:
        images, kept = read_pictures(files, 8)
    assert images.shape == (5, 8, 8, 3) and kept.tolist() == [True] * 5 + [False] * 2
    assert "2 of 7 pictures skipped, not readable: 06.png, 07.jpg" in str(said[0].message)
    assert "1 of 7 pictures animated, first frame kept: 05.gif" in str(said[1].message)
    assert (images[3] == 150).all()
    assert np.abs(images[0].astype(int) - images[2].astype(int)).mean() < 20
    with pytest.raises(DataError, match="none of the 2 pictures"), pytest.warns(UserWarning):
        read_pictures(files[5:], 8)
    with pytest.raises(DataError, match="no picture files"):
        picture_files(tmp_path / "empty")


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("L", (400, 400)).save(tmp_path / "big.png")
    monkeypatch.setattr("recon_lib.data.pictures.LARGEST", 100_000)
    with pytest.raises(DataError, match="none of the 1"), pytest.warns(UserWarning, match="big"):
        read_pictures([tmp_path / "big.png"], 8)


def test_grey_folder_stays_grey_and_black_stays_black(tmp_path):
    Image.new("L", (9, 9), 1).save(tmp_path / "a.png")  # nearly black, not a 0/1 mask
    images, _ = read_pictures(picture_files(tmp_path), 8)
    assert images.shape == (1, 8, 8, 1) and (images == 1).all()
