"""Batches depend on nothing but (seed, step), and preprocessing is what it is by hand."""

from collections import Counter

import numpy as np
import pytest

from dualnet.data.batches import Batches, Preprocessing, equalised
from dualnet.data.dataset import Dataset
from dualnet.errors import DataError, UserError

PLAIN = Preprocessing(mean="none", scale=1.0)


def tiny(num_train: int = 12, num_test: int = 5, side: int = 4) -> Dataset:
    random = np.random.default_rng(1)
    return Dataset(
        name="tiny",
        class_names=("even", "odd"),
        train_images=random.integers(0, 256, (num_train, 3, side, side), dtype=np.uint8),
        train_labels=np.arange(num_train, dtype=np.int64),
        test_images=random.integers(0, 256, (num_test, 3, side, side), dtype=np.uint8),
        test_labels=np.arange(num_test, dtype=np.int64) % 2,
    )


def test_two_batches_objects_agree_in_any_order_of_calls():
    every = Preprocessing(mean="channel", equalise=True, bgr=True, mirror=True, crop=2)
    one, other = Batches(tiny(), 5, 7, every), Batches(tiny(), 5, 7, every)
    forwards = {step: (one.images(step), one.labels(step)) for step in range(8)}
    for step in [6, 0, 7, 3, 3, 1, 5, 2, 4, 0]:
        labels, images = other.labels(step), other.images(step)
        np.testing.assert_array_equal(labels, forwards[step][1])
        np.testing.assert_array_equal(images, forwards[step][0])


def test_changing_a_returned_array_changes_no_later_one():
    batches = Batches(tiny(), 5, 7, Preprocessing())
    before = batches.sample_ids(1).copy(), batches.images(1).copy()
    batches.sample_ids(1)[:] = 0
    batches.images(1)[:] = 0
    np.testing.assert_array_equal(batches.sample_ids(1), before[0])
    np.testing.assert_array_equal(batches.images(1), before[1])


@pytest.mark.parametrize(("batch_size", "num_seen"), [(4, 12), (5, 10), (12, 12), (7, 7)])
def test_an_epoch_visits_each_image_at_most_once(batch_size, num_seen):
    batches = Batches(tiny(12), batch_size, 0, PLAIN)
    assert batches.steps_per_epoch == 12 // batch_size
    epochs = []
    for epoch in range(3):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        ids = np.concatenate([batches.sample_ids(step) for step in steps])
        assert len(set(ids.tolist())) == len(ids) == num_seen
        assert set(ids.tolist()) <= set(range(12))
        epochs.append(ids.tolist())
    assert epochs[0] != epochs[1] != epochs[2]


def test_another_seed_is_another_order():
    orders = [Batches(tiny(12), 12, seed, PLAIN).sample_ids(0).tolist() for seed in range(4)]
    assert len({tuple(order) for order in orders}) == 4


def test_epoch_counts_fractions():
    batches = Batches(tiny(12), 5, 0, PLAIN)  # two whole batches
    assert [batches.epoch(step) for step in (0, 1, 2, 5)] == [0.0, 0.5, 1.0, 2.5]


def test_of_a_subset_only_its_images_are_drawn_and_the_mean_stays_that_of_all():
    subset = np.array([1, 4, 5, 8, 10])
    batches = Batches(tiny(12), 2, 0, Preprocessing(), subset=subset)
    assert batches.steps_per_epoch == 2
    epochs = [[*batches.sample_ids(2 * epoch), *batches.sample_ids(2 * epoch + 1)]
              for epoch in range(20)]
    assert all(len(set(ids)) == 4 and set(ids) <= set(subset.tolist()) for ids in epochs)
    assert set(np.concatenate(epochs)) == set(subset.tolist())
    np.testing.assert_array_equal(batches.mean, Batches(tiny(12), 2, 0, Preprocessing()).mean)
    with pytest.raises(DataError, match=r"larger than the data: 6 .* has 5 training"):
        Batches(tiny(12), 6, 0, PLAIN, subset=subset)


def test_batches_behind_others_count_on_and_draw_augmentations_of_their_own():
    whole = Batches(tiny(12), 4, 0, PLAIN)      # 3 an epoch
    later = Batches(tiny(12), 4, 0, PLAIN, since=(10, 2.5))
    assert [later.epoch(step) for step in (10, 13, 16)] == [2.5, 3.5, 4.5]
    for step in range(6):
        np.testing.assert_array_equal(later.sample_ids(10 + step), whole.sample_ids(step))
    both = Preprocessing(mirror=True, crop=2)
    whole, later = Batches(tiny(12), 4, 0, both), Batches(tiny(12), 4, 0, both, since=(10, 2.5))
    for one, other in ((whole.mirrored(10), later.mirrored(10)),
                       (whole.corners(10), later.corners(10))):
        np.testing.assert_array_equal(one, other)


def test_images_and_labels_belong_together():
    dataset = tiny()
    batches = Batches(dataset, 5, 3, PLAIN)
    ids = batches.sample_ids(4)
    np.testing.assert_array_equal(batches.labels(4), ids)  # The label of image i is i.
    images = batches.images(4)
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    np.testing.assert_array_equal(images, dataset.train_images[ids].astype(np.float32))


def test_test_batches_are_the_file_in_order_with_a_small_last_one():
    dataset = tiny(num_test=5)
    batches = Batches(dataset, 2, 0, Preprocessing(mean="none", scale=0.5, mirror=True, crop=1))
    parts = [batches.test_images(i) for i in range(batches.num_test_batches)]
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), dataset.test_images / 2)
    labels = [batches.test_labels(i) for i in range(batches.num_test_batches)]
    assert np.concatenate(labels).tolist() == [0, 1, 0, 1, 0]


def flat(*images: list[list[list[int]]]) -> Dataset:
    """A data set of the given images [C, H, W], the same for training and test."""
    pixels, labels = np.array(images, dtype=np.uint8), np.zeros(len(images), np.int64)
    return Dataset("flat", ("only",), pixels, labels, pixels, labels)


def test_mean_image_by_hand():
    dataset = flat([[[10, 20]], [[0, 100]]], [[[30, 20]], [[2, 200]]])
    # Means over the two images: 20, 20 in the first channel; 1, 150 in the second.
    by_hand = [[[[-5, 0]], [[-0.5, -25]]], [[[5, 0]], [[0.5, 25]]]]
    batches = Batches(dataset, 2, 0, Preprocessing(mean="image", scale=0.5))
    np.testing.assert_array_equal(batches.test_images(0), by_hand)
    np.testing.assert_array_equal(batches.images(0), np.array(by_hand)[batches.sample_ids(0)])


def test_mean_channel_by_hand():
    dataset = flat([[[10, 20]], [[0, 100]]], [[[30, 20]], [[2, 200]]])
    # Means: (10 + 20 + 30 + 20) / 4 = 20 and (0 + 100 + 2 + 200) / 4 = 75.5.
    by_hand = [[[[-10, 0]], [[-75.5, 24.5]]], [[[10, 0]], [[-73.5, 124.5]]]]
    batches = Batches(dataset, 2, 0, Preprocessing(mean="channel", scale=1.0))
    np.testing.assert_array_equal(batches.test_images(0), by_hand)


def test_the_mean_is_that_of_the_training_images_alone():
    dataset = tiny(num_train=2500, num_test=3)
    batches = Batches(dataset, 3, 0, Preprocessing(scale=1.0))
    mean = dataset.train_images.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(batches.test_images(0), dataset.test_images - mean, atol=1e-4)


def test_bgr_reverses_channels_and_their_means():
    dataset = tiny()
    rgb = Batches(dataset, 5, 0, Preprocessing()).images(2)
    bgr = Batches(dataset, 5, 0, Preprocessing(bgr=True)).images(2)
    assert bgr.flags.c_contiguous
    np.testing.assert_array_equal(bgr, rgb[:, [2, 1, 0]])


def test_histogram_equalisation_by_hand():
    # Levels 50, 60, 60, 200: cdf 1, 3, 4; cdf_min 1, n 4.
    # 50 -> 0, 60 -> round(2 / 3 * 255) = 170, 200 -> 255.  A plane of one level stays.
    image = np.array([[[[50, 60], [60, 200]], [[9, 9], [9, 9]]]], dtype=np.uint8)
    assert equalised(image).tolist() == [[[[0, 170], [170, 255]], [[9, 9], [9, 9]]]]
    dataset = flat(*image.tolist())
    batches = Batches(dataset, 1, 0, Preprocessing(mean="none", scale=1.0, equalise=True))
    assert batches.images(0).tolist() == [[[[0, 170], [170, 255]], [[9, 9], [9, 9]]]]


def equalised_slowly(plane: np.ndarray) -> np.ndarray:
    """The formula, a pixel at a time."""
    at_most = {v: sum(u <= v for u in plane.ravel().tolist()) for v in plane.ravel().tolist()}
    least = min(at_most.values())
    new = [(at_most[v] - least) / (plane.size - least) * 255 for v in plane.ravel().tolist()]
    return np.round(new).astype(np.uint8).reshape(plane.shape)


def test_histogram_equalisation_treats_each_channel_of_each_image_alone():
    images = np.random.default_rng(0).normal(120, 30, (4, 3, 9, 7)).clip(0, 255).astype(np.uint8)
    slowly = [[equalised_slowly(plane) for plane in image] for image in images]
    np.testing.assert_array_equal(equalised(images), slowly)


def test_mirror_turns_whole_images_about_half_of_the_time():
    # One row of two pixels: [1, 2] or, turned, [2, 1].
    dataset = flat(*[[[[1, 2]]]] * 10)
    batches = Batches(dataset, 10, 0, Preprocessing(mean="none", scale=1.0, mirror=True))
    rows = [tuple(row) for step in range(100) for row in batches.images(step)[:, 0, 0].tolist()]
    seen = Counter(rows)
    assert set(seen) == {(1.0, 2.0), (2.0, 1.0)}
    # 1000 fair coins: 500 +- 16, so six standard deviations either way.
    assert 400 < seen[2.0, 1.0] < 600
    assert rows[:10] != rows[10:20]


def test_crop_cuts_every_window_of_the_padded_image():
    # Padded by one zero: 0 0 0 0       The nine windows of 2 by 2, each at its place:
    #                     0 1 2 0       their corners at row 0, 1, 2 and column 0, 1, 2.
    #                     0 3 4 0
    #                     0 0 0 0
    padded = [[0, 0, 0, 0], [0, 1, 2, 0], [0, 3, 4, 0], [0, 0, 0, 0]]
    windows = {
        tuple(padded[r + i][c + j] for i in range(2) for j in range(2))
        for r in range(3)
        for c in range(3)
    }
    dataset = flat(*[[[[1, 2], [3, 4]]]] * 10)
    batches = Batches(dataset, 10, 0, Preprocessing(mean="none", scale=1.0, crop=1))
    images = np.concatenate([batches.images(step) for step in range(90)])
    assert images.flags.c_contiguous
    seen = Counter(tuple(image) for image in images.reshape(-1, 4).tolist())
    assert set(seen) == windows
    # 900 draws from nine equal windows: 100 +- 9.4, so six standard deviations either way.
    assert all(43 < count < 157 for count in seen.values())


def numbered(count, side):
    """`count` equal images of one channel whose pixels say where they are: 10 row + column."""
    return flat(*[[[[10 * row + column for column in range(side)] for row in range(side)]]] * count)


def test_windows_are_cut_at_random_in_training_and_from_the_middle_in_tests():
    plain = {"mean": "none", "scale": 1.0}
    batches = Batches(numbered(10, 4), 10, 0, Preprocessing(**plain, window=2))
    assert batches.input_shape == (1, 2, 2)
    images = np.concatenate([batches.images(step) for step in range(90)])
    seen = Counter(tuple(image) for image in images.reshape(-1, 4).tolist())
    # nine places for the first pixel: rows and columns 0 to 2
    assert set(seen) == {(p, p + 1, p + 10, p + 11) for p in (0, 1, 2, 10, 11, 12, 20, 21, 22)}
    assert all(43 < count < 157 for count in seen.values())
    assert batches.test_images(0)[0].tolist() == [[[11, 12], [21, 22]]]


def test_padding_lets_a_window_reach_beyond_the_image():
    padded = Preprocessing(mean="none", scale=1.0, crop=1, window=3)
    batches = Batches(numbered(10, 2), 10, 0, Preprocessing(mean="none", scale=1.0, crop=1))
    assert batches.input_shape == (1, 2, 2)
    with pytest.raises(UserError, match="a window of 3 pixels does not fit into the images"):
        Batches(numbered(10, 2), 10, 0, padded)
    batches = Batches(numbered(10, 4), 10, 0, padded)
    firsts = {batches.images(step)[n, 0, 1, 1] for step in range(50) for n in range(10)}
    # the middle of a 3 x 3 window of a 6 x 6 image: every pixel of the 4 x 4
    assert firsts == {10 * row + column for row in range(4) for column in range(4)}


def test_the_ten_views_are_middle_and_corners_and_their_mirror_images():
    batches = Batches(numbered(2, 4), 2, 0, Preprocessing(mean="none", scale=1.0, window=2))
    views = batches.test_views(0, 10)[:, 0, 0].tolist()
    places = [11, 0, 2, 20, 22]
    assert views[:5] == [[[p, p + 1], [p + 10, p + 11]] for p in places]
    assert views[5:] == [[[p + 1, p], [p + 11, p + 10]] for p in places]


def test_crop_pads_with_the_mean_and_moves_all_channels_together():
    dataset = flat([[[10, 10], [10, 10]], [[60, 60], [60, 60]]], [[[30, 30]] * 2, [[20, 20]] * 2])
    # Mean 20 and 40, so image 0 is -10 and +20; the padding is 0, which is the mean itself.
    batches = Batches(dataset, 2, 0, Preprocessing(scale=1.0, crop=1))
    for step in range(20):
        images = batches.images(step)
        assert set(np.abs(images[:, 0]).ravel().tolist()) <= {0.0, 10.0}
        np.testing.assert_array_equal(images[:, 1], -2 * images[:, 0])


def test_mirror_and_crop_depend_on_the_position_in_the_batch_not_on_the_image():
    one, other = flat(*[[[[1, 2, 3]]]] * 6), flat(*[[[[4, 5, 6]]]] * 6)
    both = Preprocessing(mean="none", scale=1.0, mirror=True, crop=1)
    for step in range(5):
        images = Batches(one, 6, 0, both).images(step)
        others = Batches(other, 6, 0, both).images(step)
        np.testing.assert_array_equal(np.where(images > 0, images + 3, 0), others)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(DataError, match=r"larger than the data: 13 .*'tiny' has 12 training"):
        Batches(tiny(12), 13, 0, PLAIN)
    with pytest.raises(UserError, match="at least 1, not 0"):
        Batches(tiny(12), 0, 0, PLAIN)


@pytest.mark.parametrize(
    "wrong",
    [{"mean": "median"}, {"scale": 0.0}, {"scale": -1.0}, {"scale": float("nan")}, {"crop": -1}],
)
def test_meaningless_preprocessing_is_refused_with_its_value(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"{name} should be .*{value}"):
        Preprocessing(**wrong)


def test_fingerprint_tells_data_sets_apart():
    assert tiny().fingerprint() == tiny().fingerprint()
    other = tiny()
    other.train_images[11, 2, 3, 3] ^= 1
    assert other.fingerprint() != tiny().fingerprint()
    other = tiny()
    other.test_labels[4] ^= 1
    assert other.fingerprint() != tiny().fingerprint()
