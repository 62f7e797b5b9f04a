"""One role of the dual net, from its settings to its end, through all the generations it takes.

A generation starts from the newest checkpoint that all roles hold, or from the seed.  It ends when
all are done, or when another role began anew: then this one goes back with it, in process.
"""

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualnet import machine
from dualnet.channel import Channel, FileChannel
from dualnet.cut import Part
from dualnet.errors import UserError
from dualnet.from_prototxt import build_net
from dualnet.group import Group
from dualnet.methods.dual.build import build_parts, build_role, describe_wires
from dualnet.methods.dual.figures import joint_facts
from dualnet.methods.dual.formats import message_bytes
from dualnet.methods.dual.role import Role
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import all_channels, all_shapes
from dualnet.methods.protocol import Record
from dualnet.metrics import MetricsFile
from dualnet.rendezvous import meeting_of_environment
from dualnet.run import Run
from dualnet.session import agreed_digest, begin, common_summary, divergence_noted, load_data
from dualnet.stopping import StopRequest, noted, resume_hint
from dualnet.train import Clock, Saver, train
from shared_fs import Checkpoint, Exchange, PeerLost, PeerRestarted, RunOver

log = logging.getLogger("dualnet")

PEER_TIMEOUT_S = 300.0      # in a group, where only a message is a sign of life


def role(name: str, settings: DualConfig, run: Run, exchange_dir: Path | None, *,
         overwrite: bool = False) -> Iterator[Record]:
    """Train as `name`, net1 or another; yields each line of metrics.

    exchange_dir  the folder of the messages, with --backend file
    Goes on with a run that was interrupted.  The last role leaves summary.json behind.  Raises the
    errors of shared_fs; Stopped, when a signal asked for it and a checkpoint is written; UserError
    for a role that the cut does not make.
    """
    if name not in settings.roles:
        raise UserError(f"--cut {settings.cut} makes {len(settings.roles)} parts "
                        f"({', '.join(settings.roles)}), so there is no {name}; start one of those"
                        ", or name more layers to cut behind")
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
        self._device = machine.prepare(settings, name, settings.roles)
        self._dataset, self._batches = load_data(settings)
        self._wires = describe_wires(self._parts(), self._batches.input_shape)
        self._held: list[Checkpoint] = []
        self._common: Checkpoint | None = None

    def run_through(self, exchange_dir: Path | None) -> Iterator[Record]:
        """Meet the other roles, in `exchange_dir` or in a group, and train to the end."""
        run, name, settings = self._run, self._name, self._settings
        self._checkpoints = run.checkpoints(name, agreed_digest(settings, self._dataset),
                                            machine.versions())
        self._checkpoints.sweep()
        self._exchange = (self._make_group() if exchange_dir is None
                          else self._make_exchange(exchange_dir))
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
            folder, self._name, channels=all_channels(self._wires), roles=settings.roles,
            agreement={**settings.agreement(), "images": self._dataset.fingerprint()},
            window=self._window,
            transport=settings.transport,  # type: ignore[arg-type]
            checksum=settings.checksum, fsync=settings.fsync,  # type: ignore[arg-type]
            fs_profile=settings.fs_profile,  # type: ignore[arg-type]
            nonfinite=settings.nonfinite,  # type: ignore[arg-type]
            home=self._run.home(self._name), held=self._checkpoints.held,
            message_bytes={
                channel: message_bytes((settings.batch_size, *shape), settings.message_dtype)
                for channel, shape in all_shapes(self._wires).items()},
            storage_timeout_s=settings.storage_timeout,
            handshake_timeout_s=settings.handshake_timeout, peer_timeout_s=settings.peer_timeout,
            progress_timeout_s=settings.progress_timeout)

    def _make_group(self) -> Group:
        settings, name = self._settings, self._name
        if settings.backend == "nccl" and self._device.type != "cuda":
            raise UserError(f"--backend nccl is between GPUs, and {name} is on {self._device}; "
                            "take --backend gloo")
        return Group(
            meeting_of_environment(), name, backend=settings.backend, device=self._device,
            channels=all_channels(self._wires), roles=settings.roles,
            agreement={**settings.agreement(), "images": self._dataset.fingerprint()},
            window=self._window, nonfinite=settings.nonfinite, home=self._run.home(name),
            held=self._checkpoints.held, took_part=self._run.next_generation(name) - 1,
            join_timeout_s=settings.handshake_timeout,
            peer_timeout_s=settings.peer_timeout or PEER_TIMEOUT_S)

    @property
    def _window(self) -> int:
        return max(self._settings.window, self._settings.num_micro_batches)

    def _generations(self, metrics: MetricsFile) -> Iterator[Record]:
        while True:
            try:
                yield from self._generation(metrics)
                return
            except PeerRestarted as restart:
                assert isinstance(self._exchange, Exchange)     # a group begins anew as a whole
                start = self._exchange.rejoin()
                who_began_anew = str(restart).partition(";")[0]
                log.info("%s: rolling back to iteration %d", who_began_anew, start.step)

    def _generation(self, metrics: MetricsFile) -> Iterator[Record]:
        exchange, start = self._exchange, self._exchange.start
        channel: Channel = (exchange.channel if isinstance(exchange, Group)
                            else FileChannel(exchange, self._device))
        method = build_role(self._name, self._settings, self._parts(), self._wires, self._batches,
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
        """`lines`; should another role be gone, what is done is saved, and then it is waited for
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
        """Tell the other roles of a new checkpoint, and remove what none will ask for.

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

    def _end(self, method: Role, channel: Channel, clock: Clock, last: Record) -> None:
        """Tell what this role took; the last role writes down what came of all."""
        mine = {"wait_share": clock.wait_share(), "bytes": clock.spent().bytes_sent,
                "memory": machine.peak_memory(), "pid": os.getpid(), **method.facts()}
        channel.report(phase="done", step=self._settings.iterations, **mine)
        *others, last_role = self._settings.roles
        if self._name == last_role:
            self._exchange.wait_for_others_done()
            each = {**{name: self._exchange.peer_info(name) for name in others}, last_role: mine}
            self._run.write_summary({
                **common_summary("dual", self._settings, joint_facts(each), clock),
                "test_accuracy": last["accuracy"],
                "test_accuracy_merged": last["dual/accuracy_merged"],
                "wait_share": {name: info["wait_share"] for name, info in each.items()},
                "pids": {name: info["pid"] for name, info in each.items()},
                # A role of another framework need not tell its memory.
                "memory_bytes": max(info.get("memory", 0) for info in each.values()),
                "bytes_exchanged": sum(info["bytes"] for info in each.values())})
        self._exchange.finish()

    def _parts(self) -> list[Part]:
        """All parts with the weights of the seed.  Raises UserError for an impossible cut."""
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
