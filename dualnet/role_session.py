"""One role of the dual net, from its settings to its end, through all the generations it takes.

A generation starts from the newest checkpoint that both roles hold, or from the seed.  It ends when
both are done, or when the other role began anew: then this one goes back with it, in process.
"""

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualnet import machine
from dualnet.channel import FileChannel
from dualnet.cut import Part
from dualnet.from_prototxt import build_net
from dualnet.methods.dual.build import build_parts, build_role, describe_wire
from dualnet.methods.dual.formats import message_bytes
from dualnet.methods.dual.role import Role
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import NET1, NET2, ROLES
from dualnet.methods.protocol import Record
from dualnet.metrics import MetricsFile
from dualnet.run import Run
from dualnet.session import agreed_digest, begin, common_summary, divergence_noted, load_data
from dualnet.stopping import StopRequest, noted, resume_hint
from dualnet.train import Clock, Saver, train
from shared_fs import Checkpoint, Exchange, PeerLost, PeerRestarted, RunOver

log = logging.getLogger("dualnet")


def role(name: str, settings: DualConfig, run: Run, exchange_dir: Path, *,
         overwrite: bool = False) -> Iterator[Record]:
    """Train as `name`, net1 or net2, through `exchange_dir`; yields each line of metrics.

    Goes on with a run that was interrupted.  net2 leaves summary.json behind.  Raises the errors
    of shared_fs; Stopped, when a signal asked for it and a checkpoint is written.
    """
    session = RoleSession(name, settings, run)
    run.admit(name, "dual", settings, overwrite=overwrite)
    try:
        yield from session.run_through(exchange_dir)
    finally:
        run.leave(name)


class RoleSession:
    """One process of a role: what it keeps from generation to generation."""

    def __init__(self, name: str, settings: DualConfig, run: Run) -> None:
        self._name, self._settings, self._run = name, settings, run
        self._device = machine.prepare(settings, name, ROLES)
        self._dataset, self._batches = load_data(settings)
        self._wire = describe_wire(self._parts(), self._batches.input_shape)
        self._held: list[Checkpoint] = []
        self._common: Checkpoint | None = None

    def run_through(self, exchange_dir: Path) -> Iterator[Record]:
        """Meet the other role in `exchange_dir` and train to the end."""
        run, name, settings = self._run, self._name, self._settings
        self._checkpoints = run.checkpoints(name, agreed_digest(settings, self._dataset),
                                            machine.versions())
        self._checkpoints.sweep()
        self._exchange = self._make_exchange(exchange_dir)
        try:
            with self._exchange:
                run.join("dual", settings)
                metrics = run.open_metrics(name, machine.environment(self._device))
                yield from self._generations(metrics)
        except RunOver as over:
            log.info("%s", over)

    def _make_exchange(self, folder: Path) -> Exchange:
        settings = self._settings
        return Exchange(
            folder, self._name, channels=self._wire.channels(), roles=ROLES,
            agreement={**settings.agreement(), "images": self._dataset.fingerprint()},
            window=max(settings.window, settings.num_micro_batches),
            transport=settings.transport,  # type: ignore[arg-type]
            checksum=settings.checksum, fsync=settings.fsync,  # type: ignore[arg-type]
            fs_profile=settings.fs_profile,  # type: ignore[arg-type]
            nonfinite=settings.nonfinite,  # type: ignore[arg-type]
            home=self._run.home(self._name), held=self._checkpoints.held,
            message_bytes={
                channel: message_bytes((settings.batch_size, *shape), settings.message_dtype)
                for channel, shape in self._wire.shapes().items()},
            storage_timeout_s=settings.storage_timeout,
            handshake_timeout_s=settings.handshake_timeout, peer_timeout_s=settings.peer_timeout,
            progress_timeout_s=settings.progress_timeout)

    def _generations(self, metrics: MetricsFile) -> Iterator[Record]:
        other = NET1 if self._name == NET2 else NET2
        while True:
            try:
                yield from self._generation(metrics)
                return
            except PeerRestarted:
                start = self._exchange.rejoin()
                log.info("%s began anew: rolling back to iteration %d", other, start.step)

    def _generation(self, metrics: MetricsFile) -> Iterator[Record]:
        exchange, start = self._exchange, self._exchange.start
        channel = FileChannel(exchange)
        method = build_role(self._name, self._settings, self._parts(), self._wire, self._batches,
                            channel, self._device)
        spent = begin(method, self._checkpoints, start)
        self._held, self._common = self._checkpoints.held(start.run), start.checkpoint
        clock = Clock(channel, spent, start.step)
        save = Saver(self._checkpoints, method, clock, start, self._written)
        last: Record = {}
        with divergence_noted(self._run, clock), noted() as stop:
            lines = train(method, self._settings, metrics, clock, generation=start.generation,
                          base=start.base, save=save, stop=stop)
            for last in self._with_its_peer(lines, clock, save, stop):
                channel.report(**_live(last, self._settings.iterations))
                yield last
        self._end(method, channel, clock, last)

    def _with_its_peer(self, lines: Iterator[Record], clock: Clock, save: Saver,
                       stop: StopRequest) -> Iterator[Record]:
        """`lines`; should the other role be gone, what is done is saved, and then it is waited for
        unless this role is asked to stop as well."""
        def peer_is_gone() -> bool:
            save(clock.done)    # before a wait that may end in a kill
            return stop.is_asked

        self._exchange.stop_waiting = peer_is_gone
        try:
            yield from lines
        except PeerLost:
            stop.check(resume_hint(save(clock.done)))
            raise
        finally:
            self._exchange.stop_waiting = lambda: False

    def _written(self, checkpoint: Checkpoint) -> None:
        """Tell the other role of a new checkpoint, and remove what neither will ask for.

        The newest common one is kept, and the one before it in case that one is damaged.
        """
        self._held.append(checkpoint)
        self._exchange.announce_held(self._held)
        common = self._exchange.common(self._held)
        if common is None or common == self._common:
            return
        if self._common is not None:
            self._checkpoints.remove_older(self._common)
            self._held = self._checkpoints.listed(checkpoint.run)
        self._common = common

    def _end(self, method: Role, channel: FileChannel, clock: Clock, last: Record) -> None:
        """Tell what this role took; net2 writes down what came of both."""
        mine = {"wait_share": clock.wait_share(), "bytes": clock.spent().bytes_sent,
                "pid": os.getpid()}
        channel.report(phase="done", step=self._settings.iterations, **mine)
        summary = common_summary("dual", self._settings, method, clock)
        if self._name == NET2:
            self._exchange.wait_for_others_done()
            both = {NET1: self._exchange.peer_info(NET1), NET2: mine}
            self._run.write_summary({
                **summary, "test_accuracy": last["accuracy"],
                "test_accuracy_merged": last["dual/accuracy_merged"],
                "wait_share": {each: info["wait_share"] for each, info in both.items()},
                "pids": {each: info["pid"] for each, info in both.items()},
                "bytes_exchanged": sum(info["bytes"] for info in both.values())})
        self._exchange.finish()

    def _parts(self) -> list[Part]:
        """Both parts with the weights of the seed.  Raises UserError for an impossible cut."""
        shape, classes = self._batches.input_shape, self._dataset.num_classes
        return build_parts(self._settings, build_net(self._settings, shape, classes))


def _live(line: Record, iterations: int) -> dict[str, Any]:
    """What onlookers are told of a line of metrics; see the command `status`."""
    if line["split"] != "train":
        return {}
    keys = ("loss", "accuracy", "images_per_s", "wait_share")
    shown: dict[str, Any] = {key: line[key] if math.isfinite(line[key]) else None
                             for key in keys if key in line}
    left_s = line["time_s"] / line["step"] * (iterations - line["step"])
    return {**shown, "iterations": iterations, "left_s": left_s}
