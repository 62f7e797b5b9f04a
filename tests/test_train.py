"""The loop around a method: what it writes and when it stops."""

import json
from types import SimpleNamespace

import pytest

from dualnet.config import TrainConfig
from dualnet.errors import Diverged
from dualnet.metrics import MetricsFile
from dualnet.train import Clock, train


class Counting:
    """A method whose loss is a given list."""

    def __init__(self, losses):
        self.losses, self.tests = losses, []
        self.batches = SimpleNamespace(epoch=lambda done: done / 4)

    def steps(self, start=0):
        self.step = start - 1
        for step in range(start, len(self.losses)):
            self.step = step
            yield {"step": step, "epoch": (step + 1) / 4, "lr": 0.1, "loss": self.losses[step],
                   "accuracy": step / 10}

    def evaluate(self):
        self.tests.append(self.step)
        return {"accuracy": 0.5, "loss": 1.0}


def run(method, path, **settings):
    settings = TrainConfig(iterations=len(method.losses), **settings)
    return list(train(method, settings, MetricsFile(path), Clock()))


def test_a_line_has_the_means_since_the_line_before(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = run(Counting([4.0, 2.0, 1.0, 3.0, 8.0]), path, log_every=2)
    # step      1    2  | 3    4  | 5
    # loss      4    2  | 1    3  | 8
    train_lines = [line for line in lines if line["split"] == "train"]
    assert [(line["step"], line["loss"]) for line in train_lines] == [(2, 3.0), (4, 2.0), (5, 8.0)]
    assert [line["accuracy"] for line in train_lines] == pytest.approx([0.05, 0.25, 0.4])
    assert [json.loads(text) for text in path.read_text().splitlines()] == lines
    for line in lines:
        assert {"step", "epoch", "time_s", "split", "generation"} <= set(line)


def test_the_test_images_are_scored_when_asked_and_at_the_end(tmp_path):
    method = Counting([1.0] * 7)
    lines = run(method, tmp_path / "m", eval_every=3)
    assert method.tests == [2, 5, 6]
    assert [line["step"] for line in lines if line["split"] == "test"] == [3, 6, 7]


def test_a_loss_that_is_not_finite_ends_training_after_its_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    method = Counting([1.0, float("nan"), 1.0])
    with pytest.raises(Diverged, match="the loss of iteration 2 is nan"):
        run(method, path, log_every=10)
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["step"] == 2 and last["loss"] is None
    assert method.tests == []
