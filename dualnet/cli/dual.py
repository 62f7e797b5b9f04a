"""train dual: the cut net, a process for each part; under torchrun this process is one of them."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.cuts import show_cuts
from dualnet.cli.follow import follow
from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.cli.role import role_of_rank, run_role
from dualnet.cli.runs import (
    add_output,
    discard_if_untrained,
    hint_for,
    report,
    resolve_auto,
    run_of,
    tell_notes,
)
from dualnet.methods.dual.settings import DualConfig
from dualnet.rendezvous import environment_here

if TYPE_CHECKING:
    from dualnet.launcher import Failure
    from dualnet.metrics import MetricsReader
    from dualnet.run import Run


def add(methods: Any) -> None:
    """Add the method to those of `train`."""
    text = "the cut net, a process for each part"
    method = methods.add_parser("dual", help=text, description=f"Train {text}.")
    add_settings(method, DualConfig)
    add_output(method)
    method.add_argument("--exchange-dir", type=Path, metavar="DIR",
                        help="folder of the messages (default: exchange in the run)")
    method.add_argument("--list-cuts", action="store_true", help="train nothing; show where the net"
                        " can be cut, and what each cut costs and brings")
    method.set_defaults(command=train_dual, parser=method)


def train_dual(arguments: argparse.Namespace) -> int:
    """The command `train dual`: trains, says how it went, draws the curves."""
    settings = settings_of(arguments, DualConfig, "dual").resolved()
    if arguments.list_cuts:
        show_cuts(resolve_auto(settings.replace(cut=DualConfig.cut, parts=None)), settings.parts)
        return 0
    settings = resolve_auto(settings)
    run = run_of(arguments, "dual", settings)
    if role := role_of_rank(settings):
        return run_role(role, settings, run, arguments.exchange_dir or run.exchange,
                        overwrite=arguments.overwrite,
                        quiet=arguments.quiet or role != settings.roles[-1])
    if not arguments.quiet:
        tell_notes(settings)
    failure = run_dual(settings, run, arguments.exchange_dir or run.exchange,
                       overwrite=arguments.overwrite, quiet=arguments.quiet)
    if failure is not None:
        print(failure.reason, file=sys.stderr)
        if hint := hint_for(run, settings.roles):
            print(f"dualnet: {hint}", file=sys.stderr)
        return failure.code
    report(run)
    return 0


def run_dual(settings: DualConfig, run: "Run", exchange_dir: Path, *, overwrite: bool,
             quiet: bool) -> "Failure | None":
    """Start all roles as processes that train into `run`, and follow them to their end.

    Goes on with a run that was interrupted.  Passes a signal on to all roles, which write a
    checkpoint, and raises Stopped then.
    """
    run.start("dual", settings, overwrite=overwrite)
    words: list[str | Path] = ["--config", run.config_path, "--out", run.folder,
                               "--exchange-dir", exchange_dir, "--quiet", "--end-with-stdin",
                               "--threads", str(threads_of_each(settings))]
    roles = settings.roles
    progress = Progress(settings.iterations, roles, run=run.folder, quiet=quiet)
    devices = ""

    def show(readers: "dict[str, MetricsReader]", pids: Mapping[str, int]) -> None:
        nonlocal devices
        if not devices and (devices := devices_of(run, pids)):
            progress.say(devices)
        show_lines(readers, progress)

    failure, stop = follow(run, {role: [role, *words] for role in roles}, show,
                           environment=environment_here() if settings.backend != "file" else None)
    progress.close()
    if not run.is_over:
        discard_if_untrained(run)
        stop.check(hint_for(run, roles))
    return failure


def threads_of_each(settings: DualConfig) -> int:
    """CPU threads of each role on this machine: those of the settings, or its share of the cores
    if all work at the same time.  0: one per core."""
    if settings.threads or settings.schedule not in ("pipelined", "async"):
        return settings.threads
    return max(1, len(os.sched_getaffinity(0)) // len(settings.roles))


def devices_of(run: "Run", pids: Mapping[str, int]) -> str:
    """Which role runs where, once all these processes have started; empty before."""
    found = {role: run.environment(role) for role in pids}
    texts = [f"{role} on {where['device']} ({where['device_name']}, {where['threads']} threads)"
             for role, where in found.items() if where and where.get("pid") == pids[role]]
    return ", ".join(texts) if len(texts) == len(pids) else ""


def show_lines(readers: "dict[str, MetricsReader]", progress: Progress) -> None:
    """Show what the roles have written since the last look, step by step."""
    lines = [(line["generation"], line["step"], role, line) for role, reader in readers.items()
             for line in reader.new()]
    for _, _, role, line in sorted(lines, key=lambda entry: entry[:3]):
        progress.show(role, line)
