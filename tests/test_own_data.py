"""Data that the user brings: a folder of images, and plain arrays."""

import sys

import numpy as np
import pytest
from PIL import Image

from dualnet import data
from dualnet.data import arrays
from dualnet.data.batches import Batches, Preprocessing
from dualnet.errors import DataError, UserError


def write_folder(folder, size=(6, 5), end=".png"):
    """Two classes; image i of a split is all i, its red plane 10 i.  Returns those numbers."""
    number = 0
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            place = folder / split / name
            place.mkdir(parents=True)
            (place / ".DS_Store").write_text("of no interest")
            for index in range(count):
                pixels = np.full((*size, 3), number, np.uint8)
                pixels[..., 0] = 10 * number
                if end == ".npy":
                    np.save(place / f"{index}.npy", pixels.transpose(2, 0, 1))
                else:
                    Image.fromarray(pixels).save(place / f"{index}{end}")
                number += 1


@pytest.mark.parametrize("end", [".png", ".npy", ".BMP"])
def test_a_folder_of_images_has_a_class_per_subfolder(tmp_path, end):
    write_folder(tmp_path, end=end)
    found = data.load("folder", tmp_path)
    assert found.class_names == ("cat", "dog") and found.input_shape == (3, 6, 5)
    assert found.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test_labels.tolist() == [0, 0, 1, 1]
    assert found.train_images[:, 1, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.test_images[:, 0, 5, 4].tolist() == [60, 70, 80, 90]
    assert found.train_images.dtype == np.uint8


def test_grey_images_have_one_plane(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / split / "a" / "0.png")
    assert data.load("folder", tmp_path).input_shape == (1, 4, 4)


def spoil_size(folder):
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(folder / "train" / "dog" / "9.png")


def spoil_type(folder):
    np.save(folder / "train" / "dog" / "9.npy", np.zeros((3, 6, 5)))


@pytest.mark.parametrize(("spoil", "sentence"), [
    (spoil_size, r"9.png has 3 planes of 3x3 pixels, but \S*cat/0.png has 3 planes of 6x5 pixels"),
    (spoil_type, r"9.npy should hold uint8 \[C, H, W\] or \[H, W\], found float64"),
    (lambda f: (f / "train" / "dog" / "9.png").write_bytes(b"no image"), "cannot be read as an im"),
    (lambda f: (f / "train" / "dog" / "notes.txt").write_text("x"), "notes.txt is no image"),
    (lambda f: (f / "test" / "dogs").mkdir(), "that train/ does not have; did you mean dog"),
    (lambda f: (f / "test").rename(f / "val"), "test is no folder; --data folder takes images at"),
])
def test_a_folder_that_does_not_fit_is_refused(tmp_path, spoil, sentence):
    write_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=sentence):
        data.load("folder", tmp_path)


def test_without_pillow_image_files_are_refused_and_arrays_are_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    write_folder(tmp_path / "arrays", end=".npy")
    assert len(data.load("folder", tmp_path / "arrays").train_images) == 6
    monkeypatch.undo()
    write_folder(tmp_path / "images")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match="takes Pillow, which is not installed; 'pip install"):
        data.load("folder", tmp_path / "images")


# -- arrays ----------------------------------------------------------------------------------------

def samples(count, shape=(4,), dtype=np.float64):
    generator = np.random.default_rng(count)
    return (100 * generator.random((count, *shape))).astype(dtype), np.arange(count) % 3


def test_floating_samples_are_kept_in_single_precision(tmp_path):
    train, test = samples(9), samples(5)
    arrays.save(tmp_path, train, test)
    found = data.load("arrays", tmp_path)
    assert found.input_shape == (4,) and found.num_classes == 3
    np.testing.assert_array_equal(found.train_images, train[0].astype(np.float32))
    np.testing.assert_array_equal(found.test_labels, test[1])
    plain = Batches(found, 3, 0, Preprocessing(mean="none", scale=1.0))
    ids = plain.sample_ids(1)
    np.testing.assert_array_equal(plain.images(1), train[0][ids].astype(np.float32))
    centred = Batches(found, 3, 0, Preprocessing(mean="image", scale=0.5))
    np.testing.assert_allclose(centred.images(1), (train[0][ids] - train[0].mean(0)) / 2, rtol=1e-4)


def test_arrays_of_images_are_like_any_images(tmp_path):
    arrays.save(tmp_path, samples(6, (3, 4, 4), np.uint8), samples(3, (3, 4, 4), np.uint8))
    found = data.load("arrays", tmp_path)
    batches = Batches(found, 2, 0, Preprocessing(mean="channel", mirror=True, equalise=True))
    assert found.train_images.dtype == np.uint8 and batches.images(0).shape == (2, 3, 4, 4)


@pytest.mark.parametrize(("options", "flag"), [
    ({"mirror": True}, "--mirror"), ({"crop": 2}, "--crop"), ({"equalise": True}, "--equalise"),
    ({"mean": "channel"}, "--mean channel")])
def test_what_is_for_images_only_is_refused_for_other_samples(tmp_path, options, flag):
    arrays.save(tmp_path, samples(9), samples(5))
    with pytest.raises(UserError, match=f"{flag} is for images"):
        Batches(data.load("arrays", tmp_path), 3, 0, Preprocessing(**options))


@pytest.mark.parametrize(("x", "y", "sentence"), [
    (np.zeros((3, 2), np.int64), np.zeros(3, int), "x should be samples .* of uint8 or floating"),
    (np.zeros((3, 2), np.uint8), np.zeros(3, int), r"uint8 should be images \[N, C, H, W\]"),
    (np.zeros((3, 2)), np.zeros(2, int), r"y should be whole numbers \[3\], one per sample"),
    (np.zeros((3, 2)), np.zeros(3), "y should be whole numbers"),
    (np.zeros((3, 2)), np.array([0, -1, 2]), "labels should be in 0.."),
    (np.array([[1.0], [np.nan]]), np.zeros(2, int), "found nan or inf in sample 1")])
def test_arrays_that_are_no_samples_are_refused(tmp_path, x, y, sentence):
    with pytest.raises(DataError, match=sentence):
        arrays.save(tmp_path, (x, y), samples(3, (2,)))
    np.savez(tmp_path / "train.npz", x=x, y=y)
    np.savez(tmp_path / "test.npz", x=x, y=y)
    with pytest.raises(DataError, match=sentence):
        data.load("arrays", tmp_path)


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no train.npz; write it with numpy\.savez"):
        data.load("arrays", tmp_path)
    arrays.save(tmp_path, samples(6), samples(3, (5,)))
    with pytest.raises(DataError, match="give them one shape and type"):
        data.load("arrays", tmp_path)
    whole = (tmp_path / "train.npz").read_bytes()
    for content in (whole[:40], b"", b"text", whole[:len(whole) // 2]):
        (tmp_path / "train.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"not a file of numpy\.savez"):
            data.load("arrays", tmp_path)
