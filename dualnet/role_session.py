"""One role of the dual net, from its settings to its end."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualnet import machine, nets
from dualnet.channel import FileChannel
from dualnet.methods.dual.build import build_parts, build_role, describe_wire
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import NET1, NET2, ROLES
from dualnet.methods.protocol import Record
from dualnet.run import Run
from dualnet.session import agreed_digest, common_summary, divergence_noted, load_data
from dualnet.stopping import noted
from dualnet.train import Clock, Saver, train
from shared_fs import Exchange, Start


def role(name: str, settings: DualConfig, run: Run, exchange_dir: Path, *,
         overwrite: bool = False) -> Iterator[Record]:
    """Train as `name`, net1 or net2, through `exchange_dir`; yields each line of metrics.

    net2 leaves summary.json behind.  Raises the errors of shared_fs.
    """
    device = machine.prepare(settings, name, ROLES)
    dataset, batches = load_data(settings)
    parts = build_parts(settings, nets.build(settings.net, dataset.input_shape,
                                             dataset.num_classes))
    wire = describe_wire(parts, dataset.input_shape)
    run.admit(name, "dual", settings, overwrite=overwrite)
    exchange = Exchange(
        exchange_dir, name, channels=wire.channels(), roles=ROLES,
        agreement={**settings.agreed(), "images": dataset.fingerprint()},
        window=settings.window, fsync=settings.fsync,  # type: ignore[arg-type]
        nonfinite=settings.nonfinite,  # type: ignore[arg-type]
        handshake_timeout_s=settings.handshake_timeout, peer_timeout_s=settings.peer_timeout,
        progress_timeout_s=settings.progress_timeout)
    last: Record = {}
    with exchange:
        run.join("dual", settings)
        channel = FileChannel(exchange)
        method = build_role(name, settings, parts, wire, batches, channel, device)
        metrics = run.open_metrics(name, machine.environment(device))
        clock = Clock(channel)
        start = Start(exchange.run, exchange.generation, 0, 0)
        checkpoints = run.checkpoints(name, agreed_digest(settings, dataset), machine.versions())
        save = Saver(checkpoints, method, clock, start, lambda checkpoint: None)
        with divergence_noted(run, clock), noted() as stop:
            for last in train(method, settings, metrics, clock, generation=start.generation,
                              save=save, stop=stop):
                channel.report(**_live(last, settings.iterations))
                yield last
        mine = {"wait_share": clock.wait_share(), "bytes": channel.bytes_sent, "pid": os.getpid()}
        channel.report(phase="done", step=settings.iterations, **mine)
        summary = common_summary("dual", settings, method, clock)
    if name == NET2:
        both = {NET1: exchange.peer_info(NET1), NET2: mine}
        run.write_summary({
            **summary, "test_accuracy": last["accuracy"],
            "test_accuracy_merged": last["dual/accuracy_merged"],
            "wait_share": {each: info["wait_share"] for each, info in both.items()},
            "pids": {each: info["pid"] for each, info in both.items()},
            "bytes_exchanged": sum(info["bytes"] for info in both.values())})


def _live(line: Record, iterations: int) -> dict[str, Any]:
    """What onlookers are told of a line of metrics; see the command `status`."""
    if line["split"] != "train":
        return {}
    keys = ("loss", "accuracy", "images_per_s", "wait_share")
    shown: dict[str, Any] = {key: line[key] if math.isfinite(line[key]) else None
                             for key in keys if key in line}
    left_s = line["time_s"] / line["step"] * (iterations - line["step"])
    return {**shown, "iterations": iterations, "left_s": left_s}
