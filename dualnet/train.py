"""The loop that every method shares: train, write metrics, save, test, stop."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from dualnet.checkpoints import Checkpoints, Spent
from dualnet.config import TrainConfig
from dualnet.errors import Diverged
from dualnet.methods.protocol import Method, Record
from dualnet.metrics import RESUME, MetricsFile
from dualnet.stopping import StopRequest, resume_hint
from shared_fs import Checkpoint, Start

NOTHING = Spent()
NEVER = StopRequest()


class Meter:
    """Means of what happened since the last line of metrics."""

    def __init__(self, batch_size: int, wait_s: float) -> None:
        self._batch_size = batch_size
        self._sums: dict[str, float] = {}
        self._count = 0
        self._started, self._waited_s = time.monotonic(), wait_s

    def add(self, record: Record) -> None:
        """Count one iteration."""
        self._count += 1
        for key in ("loss", "accuracy"):
            if key in record:
                self._sums[key] = self._sums.get(key, 0.0) + record[key]

    def line(self, record: Record, wait_s: float) -> Record:
        """`record` of the last iteration with the means in place of its own loss and accuracy.

        wait_s  seconds the process has waited for others since it started
        """
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return {**record, **{key: total / self._count for key, total in self._sums.items()},
                "images_per_s": self._count * self._batch_size / elapsed,
                "wait_share": (wait_s - self._waited_s) / elapsed}


class Clock:
    """How long the training has taken, and how many of the seconds it waited for a peer.

    spent  what the checkpoint that it goes on from had taken
    done   iterations that are over
    """

    def __init__(self, channel: Any = None, spent: Spent = NOTHING, done: int = 0) -> None:
        self._channel, self._before = channel, spent
        self.done = done
        self._started = time.monotonic()
        self._waited_s, self._sent = self.wait_s(), self._bytes_sent()

    def wait_s(self) -> float:
        """Seconds spent waiting for others since the process started; 0 without a channel."""
        return float(self._channel.wait_s) if self._channel else 0.0

    def wall_s(self) -> float:
        """Seconds of training, those before the checkpoint included."""
        return self._before.wall_s + time.monotonic() - self._started

    def wait_share(self) -> float:
        """Share of the training time spent waiting, 0-1."""
        spent = self.spent()
        return spent.wait_s / max(spent.wall_s, 1e-9)

    def spent(self) -> Spent:
        """What the training has taken until now."""
        return Spent(self.wall_s(), self._before.wait_s + self.wait_s() - self._waited_s,
                     self._before.bytes_sent + self._bytes_sent() - self._sent)

    def _bytes_sent(self) -> int:
        return int(self._channel.bytes_sent) if self._channel else 0


class Saver:
    """Writes what `method` has become after an iteration, each iteration once.

    A method that is not whole then is left for the next checkpoint that is due.

    start    where the generation began: that state is on the disk already
    written  called with each new checkpoint
    """

    def __init__(self, checkpoints: Checkpoints, method: Method, clock: Clock, start: Start,
                 written: Callable[[Checkpoint], None]) -> None:
        self._checkpoints, self._method, self._clock = checkpoints, method, clock
        self._start, self._written = start, written
        self._newest = start.step

    def __call__(self, done: int) -> int:
        """Save the state after `done` iterations; the newest iteration that is saved then.

        Raises StorageError.
        """
        if done == self._newest or not self._method.is_whole:
            return self._newest
        checkpoint = Checkpoint(self._start.run, self._start.generation, done)
        self._checkpoints.save(checkpoint, self._method.state_dict(), self._clock.spent())
        self._newest = done
        self._written(checkpoint)
        return done


def _save_nothing(done: int) -> int:
    """For a training without checkpoints."""
    return 0


def train(method: Method, settings: TrainConfig, metrics: MetricsFile, clock: Clock, *,
          generation: int = 1, base: int = 0,
          save: Callable[[int], int] = _save_nothing, stop: StopRequest = NEVER
          ) -> Iterator[Record]:
    """Run `method` from iteration `clock.done` to its last and yield each line as it is written.

    base  the generation that wrote the checkpoint it goes on from; 0 if there is none
    save  called with the number of iterations that are over when a checkpoint is due, and again
          when a stop is requested; gives the newest iteration that is saved
    stop  asked after each iteration

    After an update comes its line of metrics, then the checkpoint, then the test of the net: a
    process that is killed during the test makes it again from that checkpoint.

    Raises Diverged, after a line that shows it, when a loss is not finite; Stopped.
    """
    start = clock.done
    if base or not metrics.is_empty:
        line = {"step": start - 1, "epoch": method.batches.epoch(start), "base": base}
        yield _write(metrics, line, RESUME, clock, generation)
    if start > 0:
        yield from _test(method, settings, metrics, clock, generation)
        _check(stop, save, start)
    meter = Meter(settings.batch_size, clock.wait_s())
    for record in method.steps(start):
        meter.add(record)
        step = record["step"]
        finite = math.isfinite(record["loss"])
        clock.done = step + 1 if finite else step
        if settings.is_logged(step) or not finite:
            line = meter.line(record, clock.wait_s())
            meter = Meter(settings.batch_size, clock.wait_s())
            yield _write(metrics, line, "train", clock, generation)
        if not finite:
            raise Diverged(f"the loss of iteration {step + 1} is {record['loss']}; take a smaller "
                           "learning rate, or a smaller penalty")
        if settings.is_saved(step):
            metrics.sync()
            save(clock.done)
        _check(stop, save, clock.done)
        if settings.is_evaluated(step):
            yield from _test(method, settings, metrics, clock, generation)
            meter = Meter(settings.batch_size, clock.wait_s())
            _check(stop, save, clock.done)


def _check(stop: StopRequest, save: Callable[[int], int], done: int) -> None:
    """Save what is done and raise Stopped, if a stop is requested."""
    if stop.is_asked:
        stop.check(resume_hint(save(done)))


def _test(method: Method, settings: TrainConfig, metrics: MetricsFile, clock: Clock,
          generation: int) -> Iterator[Record]:
    """The test that is due after the iterations that are over, if one is."""
    step = clock.done - 1
    if not settings.is_evaluated(step):
        return
    score = method.evaluate()
    if score:
        line = {"step": step, "epoch": method.batches.epoch(clock.done), **score}
        yield _write(metrics, line, "test", clock, generation)


def _write(metrics: MetricsFile, line: Record, split: str, clock: Clock,
           generation: int) -> Record:
    line = {"step": line.pop("step") + 1, "epoch": line.pop("epoch"), "time_s": clock.wall_s(),
            "split": split, "generation": generation, **line}
    metrics.write(line)
    return line
