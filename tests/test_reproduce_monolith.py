"""monolith-table-1: what its rows train, and what is told of them."""

import pytest

from dualnet.methods.monolith.settings import STAGES
from dualnet.reproduce.bidart import TABLE_1, TARGETS
from dualnet.reproduce.runner import Job
from dualnet.reproduce.stages import stages
from dualnet.run import Run

TARGET, = TARGETS


def test_the_full_scale_is_what_was_published():
    first, second = (variant.settings for variant in TARGET.variants("full"))
    assert (first.subset, second.subset) == (0.8, 1.0)
    assert (first.depth, first.width, first.trunks, first.neurons) == (28, 20, 3, 16)
    assert first.augment_head and first.images == 0 and first.data == "cifar10"
    assert first.iterations == 83_240 and second.iterations == 200 * 390 + 20_840
    assert [first.stage(name).epochs for name in STAGES] == [200, 40, 25]


def test_short_schedules_drop_where_the_published_one_does():
    full, short = (TARGET.variants(scale)[0].settings for scale in ("full", "cpu"))
    for name in ("trunk", "whole"):
        one, other = full.stage(name), short.stage(name)
        assert [drop / other.epochs for drop in other.drops] == pytest.approx(
            [drop / one.epochs for drop in one.drops], abs=0.021)
        assert (one.lr, one.batch_size, one.factor) == (other.lr, other.batch_size, other.factor)
    assert full.stage("head") == short.stage("head") and short.images == 10_000


def test_the_errors_of_the_others_are_quoted():
    assert len(TABLE_1) == 12
    for words in ("WideResNet-28-10 3.89 % (36.5 million)", "Shake-Shake 2x96d 2.86 % (26.2",
                  "MonolithNet 3.01 % (437 million)"):
        assert words in TARGET.remark


def test_figures_are_those_of_the_run_and_the_weights_those_of_the_paper(tmp_path):
    variant = TARGET.variants("smoke")[0]
    found = stages(Job(variant.settings.replace(device="cpu", threads=1), tmp_path / "run", 20))
    run = Run(tmp_path / "run")

    def last(role):
        return [line for line in run.metrics(role) if line["split"] == "test"][-1]["accuracy"]

    trunks = [last(f"trunk{number}") for number in (1, 2, 3)]
    figures = found.figures
    assert figures["parameters_3xwrn_28_20"] == 437_469_738
    assert figures["parameters"] == 3 * 77_200 + 193 * 16 + 170
    assert (figures["accuracy"], figures["accuracy_head"]) == (last("whole"), last("head"))
    assert figures["accuracy_best_trunk"] == max(trunks)
    assert figures["bytes_exchanged"] == 0 and figures["diverged_at"] is None
    # one iteration of each stage: the trunks and their mean, the head, the whole net
    assert found.curves["accuracy"] == [
        [1, pytest.approx(sum(trunks) / 3, rel=1e-3)],
        [1, pytest.approx(figures["accuracy_mean_probabilities"])], [2, last("head")],
        [3, last("whole")]]
    losses = [run.metrics(f"trunk{number}")[0]["loss"] for number in (1, 2, 3)]
    assert found.curves["loss"][0] == [1, pytest.approx(sum(losses) / 3, rel=1e-3)]
    assert [step for step, _ in found.curves["loss"]] == [1, 2, 3]
    assert set(variant.published) <= set(figures)
