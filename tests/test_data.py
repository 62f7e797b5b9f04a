"""CIFAR-10 is read without trusting it."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from official_files import (
    CLASSES,
    labels_of,
    py2_array,
    py2_dict,
    py2_ints,
    py2_list,
    py2_str,
    rows_of,
    write_cifar10,
)

from dualnet import data
from dualnet.data import cifar10
from dualnet.data.batches import Preprocessing
from dualnet.errors import DataError, UserError

PLAIN = Preprocessing(mean="none", scale=1.0)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder laid out as the official archive."""
    return write_cifar10(tmp_path)


def refusal(folder: Path, name: str, content: bytes | None) -> str:
    """What `load` says after the file `name` was replaced by `content`, or removed."""
    path = folder / "cifar-10-batches-py" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        cifar10.load(folder)
    message = str(refused.value)
    assert str(path) in message
    assert "unpack" in message
    assert "\n" not in message
    return message


def batch(labels: bytes, rows: bytes) -> bytes:
    return py2_dict({b"labels": labels, b"data": rows})


def test_official_files_load_in_the_order_of_the_batches(official):
    dataset = cifar10.load(official)
    assert dataset.name == "cifar10"
    assert dataset.class_names == tuple(name.decode() for name in CLASSES)
    assert (dataset.input_shape, dataset.num_classes) == ((3, 32, 32), 10)
    assert dataset.train_images.shape == (100, 3, 32, 32)
    assert dataset.train_labels.dtype == np.int64
    assert dataset.train_labels.tolist() == [n for i in range(5) for n in labels_of(i)]
    assert dataset.test_labels.tolist() == labels_of(5)
    # Row 7 of batch 3, green plane (the second 1024 bytes), line 2, column 5.
    assert dataset.train_images[47, 1, 2, 5] == rows_of(2)[7, 1024 + 2 * 32 + 5]
    assert dataset.test_images[19, 2, 31, 31] == rows_of(5)[19, 3071]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_written_again_by_python_3_load(official, protocol, order):
    batches = official / "cifar-10-batches-py"
    rows = np.asarray(rows_of(9), order=order)
    content = {"labels": labels_of(9), "data": rows}
    (batches / "test_batch").write_bytes(pickle.dumps(content, protocol))
    names = {"label_names": [name.decode() for name in CLASSES]}
    (batches / "batches.meta").write_bytes(pickle.dumps(names, protocol))
    dataset = cifar10.load(official)
    assert dataset.class_names[9] == "truck"
    np.testing.assert_array_equal(dataset.test_images.reshape(20, 3072), rows)


@pytest.mark.security(1, "a pickle that would run a command")
@pytest.mark.security(9, "a pickle that would run a command")
def test_a_malicious_pickle_is_named_and_runs_nothing(official, tmp_path):
    trace = tmp_path / "trace"

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    attack = pickle.dumps({b"labels": labels_of(0), b"data": Attack()}, protocol=2)
    message = refusal(official, "data_batch_2", attack)
    assert f"{os.system.__module__}.system" in message
    assert not trace.exists()
    pickle.loads(attack)  # The attack itself is a live one.
    assert trace.exists()


@pytest.mark.parametrize(
    "source",
    ["cbuiltins\neval\n", "cnumpy\nload\n", "cnumpy.core.multiarray\nscalar\n", "cos\nenviron\n"],
)
@pytest.mark.security(9, "pickles that ask for other names")
def test_every_other_global_is_refused(official, source):
    module, name = source[1:].split()
    content = b"\x80\x02" + source.encode() + b"."
    assert f"{module}.{name}" in refusal(official, "data_batch_1", content)


@pytest.mark.parametrize("kept", [0, 1, 2, 100, 40_000, -1])
def test_a_truncated_batch_is_refused(official, kept):
    whole = (official / "cifar-10-batches-py" / "data_batch_4").read_bytes()
    assert "not a whole pickle" in refusal(official, "data_batch_4", whole[:kept])


GOOD_ROWS, GOOD_LABELS = py2_array(rows_of(0)), py2_ints(labels_of(0))
WIDE = np.zeros((20, 3073), np.uint8)
DAMAGED_BATCHES = {
    "not a pickle": (b"<html>404 not found</html>", "not a whole pickle"),
    "not a dictionary": (b"\x80\x02" + GOOD_LABELS + b".", "dictionary, found list"),
    "no data": (py2_dict({b"labels": GOOD_LABELS}), "no entry 'data'"),
    "no labels": (py2_dict({b"data": GOOD_ROWS}), "no entry 'labels'"),
    "data is a list": (batch(GOOD_LABELS, GOOD_LABELS), "array, found list"),
    "wrong width": (batch(GOOD_LABELS, py2_array(WIDE)), "found u1 (20, 3073)"),
    "wrong rank": (batch(GOOD_LABELS, py2_array(np.zeros(3072, np.uint8))), "found u1 (3072,)"),
    "wrong type": (batch(GOOD_LABELS, py2_array(rows_of(0), b"f4")), "found f4 (20, 3072)"),
    "no images": (batch(py2_ints([]), py2_array(rows_of(0)[:0])), "found u1 (0, 3072)"),
    "missing label": (batch(py2_ints([1] * 19), GOOD_ROWS), "20 images but 19 labels"),
    "label 10": (batch(py2_ints([1] * 19 + [10]), GOOD_ROWS), "0..9, found 10"),
    "label -1": (batch(py2_ints([-1] + [1] * 19), GOOD_ROWS), "0..9, found -1"),
    "label is text": (batch(py2_list([py2_str(b"cat")] * 20), GOOD_ROWS), "list of integers"),
    "too few bytes": (
        batch(GOOD_LABELS, GOOD_ROWS.replace(struct.pack("<i", 20), struct.pack("<i", 21), 1)),
        "64512 bytes, found 61440",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED_BATCHES)
def test_a_damaged_batch_is_refused_in_a_sentence(official, damage):
    content, said = DAMAGED_BATCHES[damage]
    assert said in refusal(official, "data_batch_3", content)


def test_damaged_class_names_are_refused(official):
    nine = py2_dict({b"label_names": py2_list([py2_str(name) for name in CLASSES[:9]])})
    assert "10 names, found 9" in refusal(official, "batches.meta", nine)
    numbers = py2_dict({b"label_names": py2_ints(range(10))})
    assert "list of names" in refusal(official, "batches.meta", numbers)


@pytest.mark.parametrize("name", ["data_batch_5", "test_batch", "batches.meta"])
def test_a_missing_file_is_named(official, name):
    assert "cannot be read" in refusal(official, name, None)


def test_a_file_larger_than_any_batch_is_refused(official):
    path = official / "cifar-10-batches-py" / "data_batch_1"
    with open(path, "r+b") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(DataError, match="larger than 64 MB"):
        cifar10.load(official)


def test_a_missing_folder_says_where_to_unpack(tmp_path):
    with pytest.raises(DataError, match=f"unpack cifar-10-python.tar.gz into {tmp_path}"):
        cifar10.load(tmp_path)


def test_random_damage_never_ends_in_another_exception(official):
    path = official / "cifar-10-batches-py" / "batches.meta"
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    num_refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            cifar10.load(official)
        except DataError:
            num_refused += 1
    assert num_refused > 100


@pytest.mark.security(9, "a changed byte in a batch")
def test_verify_knows_an_official_file_from_another(official, monkeypatch):
    (official / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"abc")
    (official / "cifar-10-batches-py" / "test_batch").unlink()
    train = [f"data_batch_{i}" for i in range(1, 6)]
    ours = dict.fromkeys([*train, "test_batch", "batches.meta"], False)
    assert cifar10.verify(official) == ours
    # MD5 of "abc" as RFC 1321 prints it.
    monkeypatch.setitem(cifar10.OFFICIAL_MD5, "data_batch_2", "900150983cd24fb0d6963f7d28e17f72")
    assert cifar10.verify(official) == ours | {"data_batch_2": True}


def test_real_cifar10_is_balanced():
    folder = Path(os.environ.get("DUALNET_DATA", "data"))
    if not (folder / "cifar-10-batches-py").is_dir():
        pytest.skip(f"no cifar-10-batches-py in {folder.resolve()}; DUALNET_DATA names its folder")
    dataset = cifar10.load(folder)
    assert dataset.train_images.shape == (50_000, 3, 32, 32)
    assert np.bincount(dataset.train_labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    assert dataset.class_names[3] == "cat"
    # The known mean of the training set: red 0.491, green 0.482, blue 0.447 of full scale.
    mean = dataset.train_images.mean(axis=(0, 2, 3)) / 255
    assert mean == pytest.approx([0.491, 0.482, 0.447], abs=0.002)


def test_auto_is_cifar10_where_it_is_and_shapes_elsewhere(official, tmp_path):
    assert data.resolve("auto", official) == "cifar10"
    assert data.resolve("auto", tmp_path / "elsewhere") == "shapes"
    assert data.resolve("shapes", official) == "shapes"
    assert data.load("cifar10", official).train_labels.shape == (100,)


def test_an_unknown_data_set_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"'cifar'; did you mean cifar10.*auto, cifar10, .*shapes"):
        data.resolve("cifar", tmp_path)
    known = ", ".join(["auto", *data.DATASETS, *data.OWN])
    with pytest.raises(UserError, match=rf"unknown data set 'xyz' \(known: {known}\)"):
        data.load("xyz", tmp_path)
