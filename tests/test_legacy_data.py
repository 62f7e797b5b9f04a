"""legacy_caffe's batches are dualnet's; its readers of CIFAR-10 and of folders of images."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from official_files import write_cifar10

from dualnet.data import cifar10
from dualnet.data.batches import Batches as PortBatches
from dualnet.data.batches import Preprocessing
from dualnet.data.batches import equalised as port_equalised
from legacy_caffe import prepare_cifar10, prepare_images
from legacy_caffe.batches import BadData, Batches, equalised, load

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The same 100 training and 20 test images for both: (port's data set, script's data set)."""
    folder = tmp_path_factory.mktemp("cifar")
    write_cifar10(folder)
    prepare_cifar10.prepare(folder / cifar10.BATCHES_FOLDER, folder / "arrays", equalised_bgr=True)
    return cifar10.load(folder), load(folder / "arrays"), folder


def test_both_sides_tell_that_they_have_the_same_images(tiny):
    port, script, _ = tiny
    assert script.fingerprint() == port.fingerprint()
    other = script._replace(test_labels=script.test_labels[::-1])
    assert other.fingerprint() != script.fingerprint()


@pytest.mark.parametrize("words", [
    {}, {"mean": "channel", "scale": 1.0}, {"mean": "none", "equalise": True, "bgr": True},
    {"mirror": True, "bgr": True}, {"equalise": True, "mirror": True}],
    ids=lambda words: "+".join(words) or "defaults")
def test_batches_are_those_of_the_port(tiny, words):
    port, script, _ = tiny
    ours = Batches(script, 30, 5, **words)
    theirs = PortBatches(port, 30, 5, Preprocessing(**words))
    for step in (0, 1, 2, 3, 40, 2):        # three batches an epoch; the order is not a history
        assert (ours.ids(step) == theirs.sample_ids(step)).all()
        assert (ours.labels(step) == theirs.labels(step)).all()
        np.testing.assert_allclose(ours.images(step), theirs.images(step), rtol=1e-6, atol=1e-5)
    tests = list(ours.tests())
    assert len(tests) == theirs.num_test_batches == 1
    np.testing.assert_allclose(tests[0][0], theirs.test_images(0), rtol=1e-6, atol=1e-5)
    assert (tests[0][1] == theirs.test_labels(0)).all()


def test_epochs_and_seeds_differ_and_every_image_comes_once(tiny):
    script = tiny[1]
    ids = [np.concatenate([Batches(script, 50, seed, mean="none").ids(step)
                           for step in (2 * epoch, 2 * epoch + 1)])
           for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(each) == list(range(100)) for each in ids)
    assert len({tuple(each) for each in ids}) == 3


def test_equalising_is_that_of_the_port():
    images = np.random.default_rng(1).integers(0, 256, (4, 3, 9, 7)) // np.array(
        [1, 3, 60, 256]).reshape(4, 1, 1, 1)    # ever fewer levels, and a single one at the end
    images = images.astype(np.uint8)
    assert (equalised(images) == port_equalised(images)).all()


def test_the_mean_image_and_the_equalised_variant_are_written(tiny):
    port, _, folder = tiny
    mean = np.load(folder / "arrays" / "mean_image.npy")
    np.testing.assert_allclose(mean, port.train_images.mean(axis=0), rtol=1e-6)
    variant = np.load(folder / "arrays" / "train_images_equalised_bgr.npy")
    assert (variant == port_equalised(port.train_images)[:, ::-1]).all()


def test_a_batch_larger_than_the_data_is_refused(tiny):
    with pytest.raises(BadData, match="100 training images do not fill a batch of 101"):
        Batches(tiny[1], 101, 0)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(("damage", "named"), [
    (lambda path, _: path.write_bytes(path.read_bytes()[:500]), "no batch of CIFAR-10"),
    (lambda path, _: path.unlink(), "cannot be read"),
    (lambda path, evil: path.write_bytes(pickle.dumps({b"data": Evil(evil)}, 2)), "posix.mkdir"),
    (lambda path, _: path.write_bytes(pickle.dumps({b"data": [0], b"labels": [1]}, 2)),
     "rows of 3072 bytes"),
    (lambda path, _: path.write_bytes(pickle.dumps(
        {b"data": np.zeros((1, 3072)), b"labels": [1]}, 2)), "uint8 was expected"),
], ids=["torn", "absent", "code", "no array", "other type"])
def test_a_bad_batch_ends_in_a_sentence_and_nothing_is_run(tmp_path, damage, named):
    write_cifar10(tmp_path)
    source, evil = tmp_path / cifar10.BATCHES_FOLDER, tmp_path / "made"
    damage(source / "data_batch_3", evil)
    process = subprocess.run(
        [sys.executable, ROOT / "legacy_caffe" / "prepare_cifar10.py", source, tmp_path / "out"],
        capture_output=True, text=True, timeout=120)
    assert process.returncode == 65
    assert process.stderr.count("\n") == 1 and named in process.stderr
    assert "data_batch_3" in process.stderr
    assert not evil.exists() and not (tmp_path / "out").exists()


def test_arrays_that_a_batch_was_pickled_with_by_todays_numpy_are_read(tmp_path):
    write_cifar10(tmp_path)
    path = tmp_path / cifar10.BATCHES_FOLDER / "test_batch"
    pixels = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    path.write_bytes(pickle.dumps({b"data": pixels, b"labels": [3, 9]}, 2))
    images, labels = prepare_cifar10.read_batch(path)
    assert (images.reshape(2, -1) == pixels).all() and labels.tolist() == [3, 9]


def save_image(path, colour, size):
    image = pytest.importorskip("PIL.Image", reason="needs PIL")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new("RGB", size, colour).save(path)


def test_a_folder_of_images_becomes_classes_of_scaled_images(tmp_path):
    for number in range(4):
        save_image(tmp_path / "in" / "dogs" / f"{number}.png", (10, 20, 30), (50, 20 + number))
        save_image(tmp_path / "in" / "cats" / f"{number}.png", (number, 0, 200), (8, 60))
    assert prepare_images.main([str(tmp_path / "in"), str(tmp_path / "out"), "--side", "16",
                                "--test-every", "4"]) == 0
    dataset = load(tmp_path / "out")
    assert dataset.train_images.shape == (6, 3, 16, 16)
    assert dataset.test_images.shape == (2, 3, 16, 16)
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]      # cats come before dogs
    assert dataset.test_labels.tolist() == [0, 1]
    assert (dataset.train_images[3:] == np.array([10, 20, 30]).reshape(3, 1, 1)).all()
    assert [image[0, 0, 0] for image in dataset.train_images[:3]] == [0, 1, 2]
    assert dataset.test_images[0][0, 0, 0] == 3     # every fourth is a test image
    assert Batches(dataset, 6, 0, mean="channel").images(0).shape == (6, 3, 16, 16)


def test_arrays_need_no_pil_and_must_have_the_size(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(2):
            np.save(tmp_path / "in" / name / f"{number}.npy", np.full((5, 5, 3), number, np.uint8))
    code = ("import sys; sys.modules['PIL'] = None; from legacy_caffe import prepare_images;"
            "sys.exit(prepare_images.main(sys.argv[1:]))")

    def run(side):
        return subprocess.run(
            [sys.executable, "-c", code, tmp_path / "in", tmp_path / "out", "--side", side,
             "--test-every", "2"], cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert run("5").returncode == 0
    assert load(tmp_path / "out").test_images.max() == 1
    wrong = run("6")
    assert wrong.returncode == 65
    assert "0.npy: expected uint8 [6, 6, 3], found uint8 [5, 5, 3]" in wrong.stderr
    (tmp_path / "in" / "a" / "2.jpg").write_bytes(b"")
    without = run("5")
    assert without.returncode == 65 and "2.jpg: this kind of file needs PIL" in without.stderr
