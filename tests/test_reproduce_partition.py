"""What `reproduce` tells of nets that are trained narrow first: figures, times and curves."""

import numpy as np
import pytest

from dualnet.config import TrainConfig
from dualnet.methods.net2wider.settings import Net2WiderConfig
from dualnet.methods.partition.settings import PartitionConfig
from dualnet.reproduce.phases import Part, Phase, followed, pairs, phases
from dualnet.reproduce.runner import Job
from dualnet.reproduce.speed import in_turns, iteration_speed
from dualnet.reproduce.targets import TARGETS
from dualnet.run import Run

SETTINGS = {"net": "lenet-dropout", "data": "shapes", "iterations": 6, "batch_size": 10,
            "log_every": 1, "device": "cpu", "threads": 1}


def test_the_errors_before_and_after_a_merge_are_those_of_the_run(tmp_path):
    settings = PartitionConfig(**SETTINGS, sub_models=2, merge_at=4, eval_every=2)
    figures, curves, _ = phases(Job(settings, tmp_path, 40))
    run = Run(tmp_path)
    accuracy = {role: {line["step"]: line["accuracy"] for line in run.metrics(role)
                       if line["split"] == "test"} for role in run.roles}
    means = {step: 1 - (accuracy["sub1"][step] + accuracy["sub2"][step]) / 2 for step in (2, 4)}
    assert figures["errors_before"] == pytest.approx(1e4 * means[4])
    assert figures["errors_after"] == pytest.approx(1e4 * (1 - accuracy["merged"][4]))
    assert figures["errors"] == pytest.approx(1e4 * (1 - accuracy["merged"][6]))
    assert figures["accuracy"] == run.summary()["test_accuracy"]
    assert figures["diversity"] == run.summary()["diversity"]
    # an epoch of 8,000 images has 800 iterations
    assert [x for x, _ in curves["errors"]] == [2 / 800, 4 / 800, 4 / 800, 6 / 800]
    assert [y for _, y in curves["errors"]] == pytest.approx(
        [1e4 * value for value in (means[2], means[4], 1 - accuracy["merged"][4],
                                   1 - accuracy["merged"][6])], rel=1e-3)
    assert np.array(curves["probabilities"]).sum() == pytest.approx(1, abs=1e-3)


def test_a_merge_or_widening_before_all_training_is_a_whole_net_from_the_start(tmp_path):
    for settings in (PartitionConfig(**SETTINGS, merge_at=0),
                     Net2WiderConfig(**SETTINGS, widen_at=0)):
        figures, curves, _ = phases(Job(settings, tmp_path / type(settings).__name__, 20))
        assert figures["speedup"] == figures["speedup_parallel"] == 1
        assert "errors_before" not in figures and len(curves["errors"]) == 1


def test_a_single_net_is_one_phase_and_one_that_diverges_says_where(tmp_path):
    figures, curves, _ = phases(Job(TrainConfig(**SETTINGS), tmp_path / "a", 20))
    assert figures["speedup"] == 1 and [len(curve) for curve in curves.values()] == [1] * 4
    settings = PartitionConfig(**SETTINGS, merge_at=3, lr=1e30)
    figures, curves, _ = phases(Job(settings, tmp_path / "b", 20))
    assert figures["errors"] is None and 1 < figures["diverged_at"] <= 3 and curves == {}


def test_times_in_series_and_in_parallel_by_hand():
    # two sub-models of 2 and 3 s for 10 iterations, the whole net of 7 s for 20
    both = Phase(0, 10, [Part([], 2.0), Part([], 3.0)])
    whole = Phase(10, 30, [Part([], 7.0)])
    assert (both.serial_s(), both.parallel_s()) == (50, 30)
    assert (whole.serial_s(), whole.parallel_s()) == (140, 140)


def test_the_time_of_an_iteration_leaves_out_tests_and_the_first_line():
    # lines after 5, 7, 8, 12 and 13 seconds: 2 iterations to warm up, 2 in 2 s, the test, 1 in 1.5
    splits = [("train", 12), ("train", 14), ("test", 14), ("train", 15), ("train", 16)]
    clock = iter([0.0, 5.0, 7.0, 57.0, 58.5, 60.5]).__next__
    lines = [{"split": split, "step": step} for split, step in splits]
    part = followed(iter(lines), clock, since=10)
    assert part.iteration_s == 1.5 and part.lines == lines      # the median of 1, 1.5 and 2
    assert followed(iter(lines[:1]), iter([0.0, 5.0]).__next__, since=10).iteration_s == 2.5


def test_pairs_of_probabilities_are_counted_in_squares_of_a_twentieth():
    # images at (0.01, 0.99), (0.01, 0.96) and (1, 0.5)
    found = np.array(pairs(np.array([[0.01, 0.01, 1.0], [0.99, 0.96, 0.5]])))
    assert found.shape == (20, 20)
    assert found[0, 19] == pytest.approx(2 / 3, rel=1e-3)
    assert found[19, 10] == pytest.approx(1 / 3, rel=1e-3)
    assert np.count_nonzero(found) == 2
    assert pairs(np.array([[0.5, 0.5]])) == []
    # three nets have three pairs
    assert np.array(pairs(np.full((3, 7), 0.5)))[10, 10] == 1


def test_two_works_take_turns_and_the_first_turn_does_not_count():
    order = []

    def work(name, seconds):
        while True:
            order.append(name)
            now[0] += seconds
            yield

    now = [0.0]
    found = in_turns([work("a", 1.0), work("b", 3.0)], 3, 2, lambda: now[0])
    assert "".join(order) == "aabbaabbaabb"
    assert found == [[1.0, 1.0], [3.0, 3.0]]


def test_the_speed_of_an_iteration_comes_with_the_size_of_the_sub_model(tmp_path):
    settings = PartitionConfig(**{**SETTINGS, "iterations": 3}, sub_models=5, merge_at=1)
    figures = iteration_speed(Job(settings, tmp_path, 20)).figures
    # on 32x32x3: conv1 4*(75+1), conv2 10*(4*25+1), fc3 100*(10*25+1), fc4 10*101
    assert figures["parameters"] == 4 * 76 + 10 * 101 + 100 * 251 + 1010
    assert figures["iteration_speedup"] == figures["iteration_s"] / figures["iteration_s_narrow"]
    assert not any(tmp_path.iterdir())


def test_table_2_has_every_merge_and_its_speed_ups_at_full_scale():
    variants = {variant.name: variant for variant in TARGETS["partition-table-2"].variants("full")}
    assert len(variants) == 2 + 2 * 11
    # the paper's own speed-ups, rounded: serial, parallel
    printed = {50: (1.04, 1.07), 100: (1.08, 1.14), 150: (1.12, 1.23), 200: (1.17, 1.33),
               250: (1.22, 1.45), 300: (1.28, 1.60), 350: (1.34, 1.78), 400: (1.45, 2.09),
               450: (1.59, 2.54), 500: (1.75, 3.24)}
    for epochs, found in printed.items():
        variant = variants[f"partition, merge at {epochs}/520"]
        assert (variant.settings.merge_at, variant.settings.iterations) == (390 * epochs, 202_800)
        assert tuple(variant.published[figure][0].value for figure in
                     ("speedup", "speedup_parallel")) == found
        wider = variants[f"net2wider, widened at {epochs}/520"]
        assert wider.settings.widen_at == variant.settings.merge_at
        assert wider.published["speedup"][0].value == found[1]


def test_the_sub_models_of_mnist_are_trained_as_published():
    variants = TARGETS["partition-mnist"].variants("full")
    assert [variant.settings.sub_models for variant in variants] == [1, 2, 5, 10]
    for each in (variant.settings for variant in variants):
        # 100 epochs of 60,000 / 500 iterations, then 100 more
        assert (each.merge_at, each.iterations) == (12_000, 24_000)
        assert (each.lr, each.momentum, each.batch_size) == (0.1, 0.9, 500)
