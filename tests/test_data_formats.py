"""MNIST, CIFAR-100 and SVHN from files in their official formats, and from damaged ones."""

import gzip
import os
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from official_files import (
    cifar100_rows,
    cifar100_split,
    house_numbers,
    py2_array,
    py2_dict,
    write_cifar100,
    write_svhn,
)

from dualnet import data
from dualnet.data import cifar100, mnist, svhn
from dualnet.errors import DataError


def refusal(module, folder):
    with pytest.raises(DataError) as refused:
        module.load(folder)
    assert "\n" not in str(refused.value)
    assert f"dualnet data fetch {module.__name__.rpartition('.')[2]}" in str(refused.value)
    return str(refused.value)


# ---- every data set ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", data.DATASETS)
def test_every_data_set_says_what_it_publishes(name, tmp_path):
    module = data.module_of(name)
    for file in module.FILES:
        assert re.fullmatch("[0-9a-f]{32}", file.md5) and file.size > 0
        assert file.url.endswith(file.name) and file.url.startswith("http")
        assert not Path(file.path).is_absolute() and ".." not in file.path
    assert module.verify(tmp_path) == dict.fromkeys(module.verify(tmp_path), False)
    assert module.present(tmp_path) == (not module.FILES)


@pytest.mark.parametrize("name", [name for name in data.DATASETS if name != "shapes"])
def test_a_missing_data_set_names_the_command_that_fetches_it(name, tmp_path):
    with pytest.raises(DataError, match=f"'dualnet data fetch {name} --data-dir {tmp_path}'"):
        data.load(name, tmp_path)


# ---- MNIST -------------------------------------------------------------------------------------

RAW = Path("MNIST") / "raw"


def idx(array: np.ndarray, magic: int) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def digits_of(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (number, 28, 28), dtype=np.uint8)
    return images, np.arange(number, dtype=np.uint8) % 10


def write_mnist(folder: Path, pack=gzip.compress, end=".gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train", "t10k")):
        images, labels = digits_of(seed, 30 - 10 * seed)
        (folder / f"{split}-images-idx3-ubyte{end}").write_bytes(pack(idx(images, 2051)))
        (folder / f"{split}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels, 2049)))
    return folder


@pytest.mark.parametrize("place", [RAW, Path(".")])
@pytest.mark.parametrize(("pack", "end"), [(gzip.compress, ".gz"), (bytes, "")])
def test_mnist_is_read_packed_or_plain_in_either_place(tmp_path, place, pack, end):
    write_mnist(tmp_path / place, pack, end)
    assert mnist.present(tmp_path)
    dataset = data.load("mnist", tmp_path)
    assert (dataset.input_shape, dataset.num_classes) == ((1, 28, 28), 10)
    assert dataset.train_images.dtype == np.uint8 and dataset.train_labels.dtype == np.int64
    np.testing.assert_array_equal(dataset.train_images[:, 0], digits_of(0, 30)[0])
    np.testing.assert_array_equal(dataset.test_images[:, 0], digits_of(1, 20)[0])
    assert dataset.train_labels.tolist() == list(range(10)) * 3
    assert dataset.class_names[7] == "7"


def test_mnist_by_hand(tmp_path):
    # Two images of one row and two pixels: magic 00 00 08 03, lengths 2, 1, 2, then the pixels.
    images = bytes.fromhex("00000803 00000002 00000001 00000002") + bytes([1, 2, 3, 4])
    labels = bytes.fromhex("00000801 00000002") + bytes([9, 0])
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    dataset = mnist.load(tmp_path)
    assert dataset.train_images.tolist() == [[[[1, 2]]], [[[3, 4]]]]
    assert dataset.train_labels.tolist() == [9, 0]


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
GOOD = idx(digits_of(0, 30)[0], 2051)
DAMAGED_DIGITS = {
    "empty": (IMAGES, b"", "header has 16 bytes, found 0"),
    "web page": (IMAGES, b"<html>" * 9, "begin with 0x00000803, found 0x3c68746d"),
    "labels as images": (IMAGES, idx(digits_of(0, 30)[1], 2049) + b"0" * 9,
                         "begin with 0x00000803, found 0x00000801"),
    "one byte short": (IMAGES, GOOD[:-1], "should hold 23520 elements, found 23519"),
    "one byte more": (IMAGES, GOOD + b"0", "should hold 23520 elements, found 23521"),
    "absurd lengths": (IMAGES, struct.pack(">4I", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1) + b"0",
                       "elements, found 1"),
    "no images": (IMAGES, struct.pack(">4I", 2051, 0, 28, 28), "no length: [0, 28, 28]"),
    "label 10": (LABELS, idx(np.full(30, 10, np.uint8), 2049), "0..9, found 10"),
    "29 labels": (LABELS, idx(np.zeros(29, np.uint8), 2049), "29 labels for 30 images"),
}


@pytest.mark.parametrize("damage", DAMAGED_DIGITS)
def test_a_damaged_idx_file_is_refused_in_a_sentence(tmp_path, damage):
    name, content, said = DAMAGED_DIGITS[damage]
    path = write_mnist(tmp_path / RAW) / f"{name}.gz"
    path.write_bytes(gzip.compress(content))
    message = refusal(mnist, tmp_path)
    assert said in message and str(path) in message


@pytest.mark.security(10, "a gzip bomb")
def test_a_broken_gzip_file_and_a_bomb_are_refused(tmp_path):
    path = write_mnist(tmp_path / RAW) / f"{IMAGES}.gz"
    whole = path.read_bytes()
    for content in (whole[:-9], b"hello", whole[:100] + b"xxxx" + whole[104:]):
        path.write_bytes(content)
        assert "not a whole gzip file" in refusal(mnist, tmp_path)
    path.write_bytes(gzip.compress(bytes(65 * 2**20), 1))
    assert "larger than 64 MB" in refusal(mnist, tmp_path)


def test_mnist_verify_knows_the_content_however_it_is_packed(tmp_path, monkeypatch):
    # MD5 of "abc" as RFC 1321 prints it.
    monkeypatch.setitem(mnist.OFFICIAL_MD5, IMAGES, "900150983cd24fb0d6963f7d28e17f72")
    for name, content in [(f"{IMAGES}.gz", gzip.compress(b"abc")), (IMAGES, b"abc")]:
        (tmp_path / name).write_bytes(content)
        assert [name for name, good in mnist.verify(tmp_path).items() if good] == [IMAGES]
        (tmp_path / name).unlink()


def test_real_mnist_is_official():
    folder = Path(os.environ.get("DUALNET_DATA", "data"))
    if not mnist.present(folder):
        pytest.skip(f"no MNIST in {folder.resolve()}; DUALNET_DATA names its folder")
    assert all(mnist.verify(folder).values())
    dataset = mnist.load(folder)
    assert dataset.train_images.shape == (60_000, 1, 28, 28)
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    # The known mean of the training pixels, 0.1307 of full scale.
    assert dataset.train_images.mean() / 255 == pytest.approx(0.1307, abs=1e-4)


# ---- CIFAR-100 ---------------------------------------------------------------------------------

@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    """A folder laid out as the official archive of CIFAR-100, with 12 images in each split."""
    return write_cifar100(tmp_path)


def test_cifar100_loads_with_its_fine_labels(hundred):
    dataset = data.load("cifar100", hundred)
    assert (dataset.input_shape, dataset.num_classes) == ((3, 32, 32), 100)
    assert dataset.train_labels.tolist() == list(range(88, 100))
    assert dataset.test_labels.tolist() == list(range(12))
    assert dataset.class_names[42] == "class42"
    # Row 7, green plane (the second 1024 bytes), line 2, column 5.
    assert dataset.train_images[7, 1, 2, 5] == cifar100_rows(0)[7, 1024 + 2 * 32 + 5]
    np.testing.assert_array_equal(dataset.test_images.reshape(12, 3072), cifar100_rows(1))


def test_damaged_cifar100_is_refused_in_a_sentence(hundred):
    path = hundred / "cifar-100-python" / "test"
    for content, said in [
            (cifar100_split(1, [100] * 12), "0..99, found 100"),
            (cifar100_split(1, [0] * 11), "12 images but 11 labels"),
            (py2_dict({b"data": py2_array(cifar100_rows(1))}), "no entry 'fine_labels'"),
            (cifar100_split(1, [0] * 12)[:500], "not a whole pickle"),
            (b"\x80\x02cos\nsystem\n.", "os.system")]:
        path.write_bytes(content)
        message = refusal(cifar100, hundred)
        assert said in message and str(path) in message
    path.write_bytes(pickle.dumps({"data": [1], "fine_labels": [1]}))
    assert "array, found list" in refusal(cifar100, hundred)


# ---- SVHN --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
def test_svhn_loads_with_10_as_the_digit_0(tmp_path, compress):
    dataset = data.load("svhn", write_svhn(tmp_path, compress))
    assert (dataset.input_shape, dataset.num_classes) == ((3, 32, 32), 10)
    assert dataset.train_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert dataset.train_labels.dtype == np.int64 and dataset.class_names[0] == "0"
    # Image 9, channel 2, row 30, column 4.
    assert dataset.train_images[9, 2, 30, 4] == house_numbers(0, 12)[0][30, 4, 2, 9]
    assert dataset.test_images[11, 0, 1, 2] == house_numbers(1, 12)[0][1, 2, 0, 11]
    assert dataset.train_images.flags.c_contiguous


X, Y = house_numbers(0, 12)
DAMAGED_NUMBERS = {
    "no X": ({"X": None}, "X should be uint8 (32, 32, 3, N), found None"),
    "no y": ({"y": None}, "y should be (12, 1) labels, found None"),
    "other order": ({"X": X.transpose(3, 0, 1, 2)}, "(32, 32, 3, N)"),
    "floats": ({"X": X / 255}, "(32, 32, 3, N)"),
    "11 labels": ({"y": Y[:11]}, "y should be (12, 1) labels"),
    "label 0": ({"y": Y - 1}, "1..10, found 0"),
    "label 11": ({"y": Y + 1}, "1..10, found 11"),
    "half a label": ({"y": Y - 0.5}, "1..10, found 0.5"),
    "no number": ({"y": np.full((12, 1), np.nan)}, "1..10, found nan"),
    "text": ({"y": np.array([["a"]] * 12, dtype=object)}, "y should hold numbers"),
}


@pytest.mark.parametrize("damage", DAMAGED_NUMBERS)
def test_a_damaged_mat_file_is_refused_in_a_sentence(tmp_path, damage):
    train, said = DAMAGED_NUMBERS[damage]
    assert said in refusal(svhn, write_svhn(tmp_path, **train))


@pytest.mark.filterwarnings("ignore")
def test_random_damage_never_ends_in_another_exception(tmp_path):
    path = write_svhn(tmp_path) / "train_32x32.mat"
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    cuts = [whole[:length] for length in (0, 4, 127, 128, 140, 1000, len(whole) - 1)]
    for damaged in [*cuts, b"<html>not found</html>", bytes(300)]:
        path.write_bytes(damaged)
        assert str(path) in refusal(svhn, tmp_path)
    num_refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in random.integers(100, 400, 3):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            svhn.load(tmp_path)
        except DataError:
            num_refused += 1
    assert num_refused > 100
