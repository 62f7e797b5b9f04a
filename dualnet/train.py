"""The loop that every method shares: train, write metrics, test, stop."""

import math
import time
from collections.abc import Iterator
from typing import Any

from dualnet.config import TrainConfig
from dualnet.errors import Diverged
from dualnet.methods.protocol import Method, Record
from dualnet.run import MetricsFile


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
    """How long this process has trained, and how many of the seconds it waited for a peer.

    done  iterations that are over
    """

    def __init__(self, channel: Any = None) -> None:
        self._channel = channel
        self.done = 0
        self._started = time.monotonic()
        self._waited_s = self.wait_s()

    def wait_s(self) -> float:
        """Seconds spent waiting for others since the process started; 0 without a channel."""
        return float(self._channel.wait_s) if self._channel else 0.0

    def wall_s(self) -> float:
        """Seconds since training began."""
        return time.monotonic() - self._started

    def wait_share(self) -> float:
        """Share of the training time spent waiting, 0-1."""
        return (self.wait_s() - self._waited_s) / max(self.wall_s(), 1e-9)


def train(method: Method, settings: TrainConfig, metrics: MetricsFile, clock: Clock,
          generation: int = 1, start: int = 0) -> Iterator[Record]:
    """Run `method` to its last iteration and yield each line as it is written.

    Raises Diverged, after a line that shows it, when a loss is not finite.
    """
    meter = Meter(settings.batch_size, clock.wait_s())
    for record in method.steps(start):
        meter.add(record)
        step = record["step"]
        finite = math.isfinite(record["loss"])
        if settings.is_logged(step) or not finite:
            line = meter.line(record, clock.wait_s())
            meter = Meter(settings.batch_size, clock.wait_s())
            yield _write(metrics, line, "train", clock, generation)
        if not finite:
            raise Diverged(f"the loss of iteration {step + 1} is {record['loss']}; take a smaller "
                           "learning rate, or a smaller penalty")
        if settings.is_evaluated(step):
            score = method.evaluate()
            meter = Meter(settings.batch_size, clock.wait_s())
            if score:
                line = {"step": step, "epoch": record["epoch"], **score}
                yield _write(metrics, line, "test", clock, generation)
        clock.done = step + 1


def _write(metrics: MetricsFile, line: Record, split: str, clock: Clock,
           generation: int) -> Record:
    line = {"step": line.pop("step") + 1, "epoch": line.pop("epoch"), "time_s": clock.wall_s(),
            "split": split, "generation": generation, **line}
    metrics.write(line)
    return line
