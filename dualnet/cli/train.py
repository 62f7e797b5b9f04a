"""train dual, train single: a whole run on this machine."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.cuts import resolve_cut, show_cuts
from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.config import TrainConfig
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import through
from dualnet.stopping import noted, resume_hint

if TYPE_CHECKING:
    from dualnet.launcher import Failure
    from dualnet.metrics import MetricsReader
    from dualnet.run import Run

POLL_S = 0.1


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("train", help="train a net on this machine")
    methods = parser.add_subparsers(title="methods", metavar="METHOD", required=True,
                                    parser_class=type(parser))
    for name, config, command, text in (
            ("dual", DualConfig, train_dual, "the cut net, a process for each part"),
            ("single", TrainConfig, train_single, "the uncut net, in one process")):
        method = methods.add_parser(name, help=text, description=f"Train {text}.")
        add_settings(method, config)
        add_output(method)
        if name == "dual":
            method.add_argument("--exchange-dir", type=Path, metavar="DIR",
                                help="folder of the messages (default: exchange in the run)")
            method.add_argument("--list-cuts", action="store_true", help="train nothing; show where"
                                " the net can be cut, and what each cut costs and brings")
        method.set_defaults(command=command, parser=method)
    from dualnet.cli import boosted, pretrain, resnet  # which use what is below

    pretrain.add(methods)
    resnet.add(methods)
    boosted.add(methods)


def add_output(parser: argparse.ArgumentParser) -> None:
    """The flags that say where the run goes."""
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="run folder (default: runs/ and a name made of the settings)")
    parser.add_argument("--overwrite", action="store_true",
                        help="replace the run that is in the folder")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def resolve_auto(settings: Any) -> Any:
    """The settings with `--data auto` and `--cut auto` decided; says what was taken."""
    from dualnet import data

    name = data.resolve(settings.data, Path(settings.data_dir))
    if settings.data == "auto" and name == "shapes":
        print(f"no CIFAR-10 in {settings.data_dir}: taking the built-in set 'shapes' "
              "(--data-dir names another folder)", file=sys.stderr)
    return resolve_cut(settings.replace(data=name))


def tell_notes(settings: TrainConfig) -> None:
    """Say what Caffe's files ask for and dualnet does in another way."""
    if settings.solver_prototxt:
        from dualnet.from_prototxt import notes

        for note in notes(settings):
            print(note, file=sys.stderr)


def run_of(arguments: argparse.Namespace, method: str, settings: TrainConfig) -> "Run":
    """The run folder that the flags or the settings name."""
    return run_named(arguments.out, method, settings)


def run_named(out: Path | None, method: str, settings: TrainConfig) -> "Run":
    """The run in `out`, or by default in runs/ under a name made of the settings."""
    from dualnet.run import Run

    if out is not None:
        return Run(out)
    words = [method, settings.net, settings.data]
    if isinstance(settings, DualConfig):
        words += [settings.loss, settings.schedule]
    return Run(Path("runs") / "-".join([*words, f"s{settings.seed}", settings.digest()]))


def train_single(arguments: argparse.Namespace) -> int:
    """The command `train single`."""
    settings = resolve_auto(settings_of(arguments, TrainConfig, "single"))
    run = run_of(arguments, "single", settings)
    if not arguments.quiet:
        tell_notes(settings)
    run_single(settings, run, overwrite=arguments.overwrite, quiet=arguments.quiet)
    report(run)
    return 0


def run_single(settings: TrainConfig, run: "Run", *, overwrite: bool, quiet: bool) -> None:
    """Train the uncut net in this process, into `run`."""
    from dualnet import session

    run.start("single", settings, overwrite=overwrite)
    progress = Progress(settings.iterations, ("single",), run=run.folder, quiet=quiet)
    try:
        for line in session.single(settings, run):
            progress.show("single", line)
    finally:
        progress.close()
        discard_if_untrained(run)


def train_dual(arguments: argparse.Namespace) -> int:
    """The command `train dual`: trains, says how it went, draws the curves."""
    settings = settings_of(arguments, DualConfig, "dual").resolved()
    if arguments.list_cuts:
        show_cuts(resolve_auto(settings.replace(cut=DualConfig.cut, parts=None)), settings.parts)
        return 0
    settings = resolve_auto(settings)
    run = run_of(arguments, "dual", settings)
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
    from dualnet.launcher import Launcher
    from dualnet.metrics import MetricsReader

    run.start("dual", settings, overwrite=overwrite)
    words: list[str | Path] = ["--config", run.config_path, "--out", run.folder,
                               "--exchange-dir", exchange_dir, "--quiet", "--end-with-stdin",
                               "--threads", str(threads_of_each(settings))]
    roles = settings.roles
    progress = Progress(settings.iterations, roles, run=run.folder, quiet=quiet)
    readers = {role: MetricsReader(run.metrics_path(role)) for role in roles}
    for reader in readers.values():
        reader.new()        # what an earlier attempt has written is not news
    with noted() as stop, Launcher(run, {role: [role, *words] for role in roles}) as launcher:
        devices = ""
        while launcher.wait(POLL_S) and launcher.failure() is None and not stop.is_asked:
            if not devices and (devices := devices_of(run, launcher.pids)):
                progress.say(devices)
            follow(readers, progress)
        failure = launcher.failure()
        if stop.number is not None:
            launcher.stop(stop.number)
    follow(readers, progress)
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


def hint_for(run: "Run", roles: tuple[str, ...]) -> str:
    """What to do about a run that was interrupted; empty if it cannot go on."""
    step = None if run.is_over else run.resumes_from(roles)
    return "" if step is None else resume_hint(step)


def devices_of(run: "Run", pids: Mapping[str, int]) -> str:
    """Which role runs where, once all these processes have started; empty before."""
    found = {role: run.environment(role) for role in pids}
    texts = [f"{role} on {where['device']} ({where['device_name']}, {where['threads']} threads)"
             for role, where in found.items() if where and where.get("pid") == pids[role]]
    return ", ".join(texts) if len(texts) == len(pids) else ""


def follow(readers: "dict[str, MetricsReader]", progress: Progress) -> None:
    """Show what the roles have written since the last look, step by step."""
    lines = [(line["generation"], line["step"], role, line) for role, reader in readers.items()
             for line in reader.new()]
    for _, _, role, line in sorted(lines, key=lambda entry: entry[:3]):
        progress.show(role, line)


def discard_if_untrained(run: "Run") -> None:
    """A run that ended before its first iteration leaves no folder behind."""
    if run.is_untrained:
        run.clear()


def report(run: "Run") -> None:
    """Print the outcome and draw the curves."""
    from dualnet.plot import draw

    summary = run.summary()
    draw([run.folder], [run.figure_path])
    print(outcome(summary))
    print(f"curves: {run.figure_path}\nsummary: {run.summary_path}")


def outcome(summary: dict[str, Any]) -> str:
    """The result of a run in a few lines."""
    lines = [f"test accuracy {100 * summary['test_accuracy']:.2f} %"]
    if "test_accuracy_merged" in summary:
        behind, before = through(list(summary["wait_share"]))
        lines = [f"test accuracy {100 * summary['test_accuracy']:.2f} % {behind}, "
                 f"{100 * summary['test_accuracy_merged']:.2f} % {before}"]
    if summary["collapsed"]:
        lines.append(f"warning: the net collapsed: {summary['collapse_reason']}")
    shares = ", ".join(f"{role} {100 * share:.0f} %"
                       for role, share in summary["wait_share"].items())
    lines.append(f"{summary['iterations']} iterations in {summary['wall_s']:.1f} s, "
                 f"{summary['images_per_s']:.0f} images/s; waiting: {shares}")
    return "\n".join(lines)
