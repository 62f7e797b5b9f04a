"""The loop around a method: what it writes and when it stops."""

import json
from types import SimpleNamespace

import pytest

from dualnet.checkpoints import Spent
from dualnet.config import TrainConfig
from dualnet.errors import Diverged, Stopped
from dualnet.metrics import MetricsFile
from dualnet.stopping import StopRequest
from dualnet.train import Clock, train


class Counting:
    """A method whose loss is a given list."""

    def __init__(self, losses):
        self.losses, self.tests = losses, []
        self.batches = SimpleNamespace(epoch=lambda done: done / 4)

    def steps(self, start=0):
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


# -- checkpoints and stopping ----------------------------------------------------------------------

class Journal(Counting):
    """A method that notes what happens to it, in order."""

    def __init__(self, count):
        super().__init__([1.0] * count)
        self.events = []

    def steps(self, start=0):
        for record in super().steps(start):
            self.events.append(f"update {self.step + 1}")
            yield record

    def evaluate(self):
        self.events.append(f"test {self.step + 1}")
        return {"accuracy": 0.5, "loss": 1.0}


class JournalFile(MetricsFile):
    def __init__(self, path, events):
        super().__init__(path)
        self.events = events

    def write(self, record):
        self.events.append(f"{record['split']} line {record['step']}")
        super().write(record)


def go(method, path, *, start=0, base=0, stop_at=None, **settings):
    """What happened, in order; a stop is asked for during the update or test `stop_at`."""
    stop = StopRequest()

    def save(done):
        if f"save {done}" not in method.events:
            method.events.append(f"save {done}")
        return done

    settings = TrainConfig(**{"iterations": len(method.losses), "log_every": 2, **settings})
    metrics = JournalFile(path, method.events)
    lines = train(method, settings, metrics, Clock(done=start), generation=1 + base,
                  base=base, save=save, stop=stop)
    class Watching(list):
        def append(self, event):
            super().append(event)
            if event == stop_at:
                stop.take(15, None)

    method.events = Watching(method.events)
    method.step = start - 1     # as a method that took over a checkpoint
    metrics.events = method.events
    list(lines)
    return method.events


def test_after_an_update_come_its_line_the_checkpoint_and_the_test(tmp_path):
    events = go(Journal(4), tmp_path / "m", checkpoint_every=2, eval_every=2)
    assert events == [
        "update 1", "update 2", "train line 2", "save 2", "test 2", "test line 2",
        "update 3", "update 4", "train line 4", "save 4", "test 4", "test line 4"]


def test_without_an_interval_there_is_a_checkpoint_at_the_end_only(tmp_path):
    events = go(Journal(5), tmp_path / "m", checkpoint_every=0)
    assert [event for event in events if event.startswith("save")] == ["save 5"]


@pytest.mark.parametrize(("stop_at", "after"), [
    ("update 3", ["save 3"]), ("update 4", ["train line 4", "save 4"]),
    ("test 4", ["test line 4"]), ("update 6", ["train line 6", "save 6"])])
def test_a_stop_saves_the_iteration_and_ends_before_the_test(tmp_path, stop_at, after):
    method = Journal(6)
    with pytest.raises(Stopped) as raised:
        go(method, tmp_path / "m", stop_at=stop_at, checkpoint_every=4, eval_every=4)
    assert raised.value.code == 143
    assert str(raised.value) == ("stopped by SIGTERM; run the same command again to resume from "
                                 f"iteration {stop_at.split()[1]}")
    assert method.events[method.events.index(stop_at) + 1:] == after


def test_a_start_from_a_checkpoint_makes_its_test_again(tmp_path):
    # killed during the test of iteration 4, or after it: the line of that test may be there or not
    events = go(Journal(6), tmp_path / "m", start=4, base=1, checkpoint_every=2, eval_every=4)
    assert events == ["resume line 4", "test 4", "test line 4", "update 5", "update 6",
                      "train line 6", "save 6", "test 6", "test line 6"]


@pytest.mark.fault(11, "a start from the checkpoint of the last iteration")
def test_a_start_from_the_last_iteration_tests_and_trains_no_further(tmp_path):
    events = go(Journal(6), tmp_path / "m", start=6, base=1, checkpoint_every=2)
    assert events == ["resume line 6", "test 6", "test line 6"]


def test_the_clock_goes_on_from_what_the_checkpoint_had_spent():
    class Channel:
        wait_s, bytes_sent = 5.0, 70

    clock = Clock(Channel(), Spent(wall_s=100.0, wait_s=50.0, bytes_sent=1000), done=3)
    Channel.wait_s, Channel.bytes_sent = 6.0, 80
    spent = clock.spent()
    # 1 s and 10 bytes since the start here, on top of what was before
    assert (spent.wait_s, spent.bytes_sent, clock.done) == (51.0, 1010, 3)
    assert 100 <= spent.wall_s < 110 and clock.wait_share() == pytest.approx(0.51, abs=0.06)
