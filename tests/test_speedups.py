"""reproduce resnet-speedups: what its rows are, and how speeds become ratios."""

import numpy as np
import pytest

from dualnet.data.arrays import save
from dualnet.methods.boosted.settings import BoostedConfig
from dualnet.methods.resnet.settings import ResnetConfig
from dualnet.reproduce.runner import Job
from dualnet.reproduce.solomatov import TARGETS
from dualnet.reproduce.speedups import (
    GOALS,
    goal_name,
    in_one_process,
    in_several_processes,
    plain_of,
    seconds_to,
    speed_of,
)
from dualnet.reproduce.target import SCALES

TARGET, = TARGETS


def rows(scale):
    return {variant.name: variant for variant in TARGET.variants(scale)}


def test_the_published_times_are_ratios_to_the_baseline():
    # 2:42 is 162 minutes, 4 GPUs 49, stochastic depth 90, best 32
    found = {name: row.published["speedup"][0].value for name, row in rows("full").items()
             if row.published["speedup"]}
    assert found == pytest.approx({
        "baseline": 1, "half precision": 1, "pre-activation": 1, "several GPUs, batch 1024": 3.306,
        "stochastic depth": 1.8, "best model": 5.0625}, rel=1e-3)


def test_the_settings_at_full_scale_are_those_of_the_recipes():
    best, recipe = rows("full")["best model"].settings, ResnetConfig.recipes["poster-best"]
    expected = ResnetConfig(**recipe).resolved()
    differing = {name for name, value in best.agreed().items()
                 if value != expected.agreed()[name]}
    assert differing == {"data", "checkpoint_every"}
    assert rows("full")["BoostResNet"].settings.lr_step == 78000 // 61 * 2 // 5


@pytest.mark.parametrize("scale", SCALES)
def test_each_technique_has_a_row_of_its_own_in_equal_epochs(scale):
    found = rows(scale)
    images = {row.settings.iterations * row.settings.batch_size for row in found.values()}
    assert max(images) <= 1.03 * min(images)        # the last batch of an epoch is left out
    assert found["YellowFin"].settings.optimizer == "yellowfin"
    assert found["YellowFin"].settings.lr_step == found["baseline"].settings.lr_step
    assert isinstance(found["BoostResNet"].settings, BoostedConfig)


def test_a_speed_weighs_lines_by_their_time_and_leaves_out_the_first():
    lines = [{"split": "train", "step": 2, "images_per_s": 1.0},
             {"split": "train", "step": 4, "images_per_s": 10.0},    # 20 images in 2 s
             {"split": "test", "step": 4},
             {"split": "train", "step": 5, "images_per_s": 2.0}]     # 10 images in 5 s
    assert speed_of(lines, 10) == pytest.approx(30 / 7)
    assert speed_of(lines[:1], 10) == 1.0


def test_the_time_to_an_accuracy_is_that_of_the_training_until_a_test_finds_it():
    lines = [{"split": "train", "step": 2, "images_per_s": 1.0, "accuracy": 0.9},  # 20 s
             {"split": "test", "step": 2, "accuracy": 0.2},
             {"split": "train", "step": 4, "images_per_s": 10.0, "accuracy": 0.9},     # 2 s
             {"split": "train", "step": 5, "images_per_s": 2.0, "accuracy": 0.9},      # 5 s
             {"split": "test", "step": 5, "accuracy": 0.5},
             {"split": "train", "step": 6, "images_per_s": 1.0, "accuracy": 0.9},
             {"split": "test", "step": 6, "accuracy": 0.6}]
    assert seconds_to(lines, 10, 0.2) == 20
    assert seconds_to(lines, 10, 0.4) == seconds_to(lines, 10, 0.5) == pytest.approx(27)
    assert seconds_to(lines, 10, 0.61) is None
    for scale in SCALES:
        for row in rows(scale).values():
            assert set(row.published) & {goal_name(goal) for goal in GOALS}


def test_the_plain_net_has_the_size_and_no_switch():
    for name, row in rows("cpu").items():
        plain = plain_of(row.settings)
        assert plain.net == "resnet20-projection", name
        assert (plain.batch_size, plain.meprop, plain.optimizer, plain.stochastic_depth) == (
            128, 0.0, "sgd", "none")


@pytest.fixture
def job(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (24, 3, 8, 8), dtype=np.uint8)
    save(tmp_path, (images, np.arange(24) % 2), (images[:8], np.arange(8) % 2))
    settings = rows("smoke")["baseline"].settings.replace(
        data="arrays", data_dir=str(tmp_path), device="cpu", threads=1, iterations=4)
    return Job(settings, tmp_path / "run", None)


def test_a_row_has_accuracy_and_the_ratio_of_speeds(job):
    figures = in_one_process(job).figures
    assert 0 <= figures["accuracy"] <= 1 and figures["diverged_at"] is None
    assert figures["speedup"] == figures["images_per_s"] / figures["images_per_s_plain"] > 0
    assert {goal_name(goal) for goal in GOALS} <= set(figures)


def test_a_row_that_diverges_says_when(job):
    # the plain net ahead of it keeps its own rate
    figures = in_one_process(job._replace(settings=job.settings.replace(lr=1e38))).figures
    assert figures["accuracy"] is None and figures["diverged_at"] is not None


@pytest.mark.slow
def test_a_row_of_several_processes_is_a_run_under_torchrun(job):
    figures = in_several_processes(job).figures
    assert figures["processes"] == 2 and 0 <= figures["accuracy"] <= 1
    assert figures["speedup"] > 0
