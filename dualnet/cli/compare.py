"""compare: trains variants of the net one after another, or takes finished runs; one table."""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.dual import run_dual
from dualnet.cli.plan import Planned, add_chosen, digest_of, plan_of, seeds_of
from dualnet.cli.progress import clock_text
from dualnet.cli.single import run_single
from dualnet.config import field_names, spelling
from dualnet.errors import Diverged, UserError
from dualnet.methods.dual.settings import DualConfig

if TYPE_CHECKING:
    from dualnet.compare import Folder
    from dualnet.run import Run

DIVERGED = 76


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare", help="train variants and tabulate them, or tabulate finished runs",
        description="Train variants of the net, one after another, and tabulate them; the same "
        "command again goes on where it stopped. Or tabulate finished runs: compare RUN RUN ...")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN",
                        help="folders of finished runs, instead of training")
    add_chosen(parser)
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder of the runs and the table (default: runs/compare- and a "
                        "name made of the settings; none for finished runs)")
    parser.add_argument("--exchange-dir", type=Path, metavar="DIR",
                        help="folder in which each run gets one for its messages (default: "
                        "exchange in the run)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(command=compare, parser=parser)


def compare(arguments: argparse.Namespace) -> int:
    """The command `compare`."""
    from dualnet.compare import Folder
    from dualnet.run import Run

    if arguments.runs:
        _refuse_settings(arguments)
        _tabulate([Run(path) for path in arguments.runs], None,
                  Folder(arguments.out) if arguments.out else None)
        return 0
    if arguments.exchange_dir and not arguments.exchange_dir.is_dir():
        raise UserError(f"--exchange-dir {arguments.exchange_dir} is no folder; name one that is "
                        "there")
    plan = plan_of(arguments)
    folder = Folder(arguments.out or Path("runs") / f"compare-{digest_of(plan)}")
    runs = [folder.run(planned.kind, planned.settings.seed) for planned in plan]
    for planned, run in zip(plan, runs, strict=True):
        if run.config_path.exists():
            run.check_settings(planned.method, planned.settings)
    with folder.held():
        code = _train_all(plan, runs, arguments)
        if code == 0:
            seeds = seeds_of(arguments)
            kinds = list(dict.fromkeys(planned.kind for planned in plan))
            _tabulate([folder.run(kind, seed) for kind in kinds for seed in seeds],
                      [kind for kind in kinds for _ in seeds], folder)
    return code


def _refuse_settings(arguments: argparse.Namespace) -> None:
    given = [name for name in ("losses", "variant", "seeds", "single", "config", "recipe",
                               "exchange_dir", *field_names(DualConfig))
             if getattr(arguments, name, None)]
    if given:
        raise UserError(f"compare RUN ... trains nothing, so {spelling(given[0])} has no use; "
                        "leave it out, or leave out the runs")


def _train_all(plan: Sequence[Planned], runs: Sequence["Run"],
               arguments: argparse.Namespace) -> int:
    """Train what is not over yet; the exit code of the first run that failed, else 0."""
    left = [index for index, run in enumerate(runs) if not run.is_over]
    say = (lambda text: None) if arguments.quiet else _say
    say(f"{len(plan)} runs in {runs[0].folder.parent}, {len(plan) - len(left)} of them trained "
        "before")
    started = time.monotonic()
    for count, index in enumerate(left, start=1):
        planned, run = plan[index], runs[index]
        code = 1
        try:
            code = _train(planned, run, arguments.exchange_dir, say)
        finally:
            if code != 0:
                _say(f"compare: stopped in {run.folder}; the same command again goes on there")
        if code != 0:
            return code
        each = (time.monotonic() - started) / count
        say(f"{len(plan) - len(left) + count}/{len(plan)}  {run.folder.name}  {_ending(run)}  "
            f"ETA {clock_text(each * (len(left) - count))}")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _train(planned: Planned, run: "Run", exchange_dir: Path | None,
           say: Callable[[str], None]) -> int:
    """Train one run, on from its checkpoint if it has one; 0 if it finished or diverged."""
    roles = (planned.settings.roles if isinstance(planned.settings, DualConfig)
             else (planned.method,))
    step = run.resumes_from(roles)
    if step is not None:
        say(f"resuming {run.folder} from iteration {step}")
    if not isinstance(planned.settings, DualConfig):
        with contextlib.suppress(Diverged):
            run_single(planned.settings, run, overwrite=False, quiet=True)
        return 0
    with _exchange(run, exchange_dir) as messages:
        failure = run_dual(planned.settings, run, messages, overwrite=False, quiet=True)
    if failure is None or (failure.code == DIVERGED and run.divergence()):
        return 0
    _say(failure.reason)
    return failure.code


@contextlib.contextmanager
def _exchange(run: "Run", parent: Path | None) -> Iterator[Path]:
    """A folder for the messages of one run, which no earlier attempt has used."""
    if parent is None:
        yield run.exchange
        return
    with tempfile.TemporaryDirectory(prefix=f"{run.folder.name}-", dir=parent) as folder:
        yield Path(folder)


def _ending(run: "Run") -> str:
    divergence = run.divergence()
    if divergence:
        return f"DIVERGED at iteration {divergence['step']}"
    summary = run.summary()
    merged = summary.get("test_accuracy_merged")
    return (f"{100 * summary['test_accuracy']:.2f} %"
            + ("" if merged is None else f" through conv3', {100 * merged:.2f} % through conv3")
            + (", collapsed" if summary["collapsed"] else "") + f"  {summary['wall_s']:.1f} s")


def _tabulate(runs: Sequence["Run"], names: Sequence[str] | None,
              folder: "Folder | None") -> None:
    """Print the table, and write it and the curves where there is a folder for them.

    names  the variant of each run; None: by the settings in which they differ
    """
    from dualnet import compare, fingerprint

    table = compare.compare(runs, names)
    print(compare.text(table), end="")
    if folder is not None:
        from dualnet.plot import draw

        folder.write(table)
        draw([run.folder for run in runs], [folder.figure_path], names=names,
             stamp=fingerprint.metadata(compare.runs_csv(table)))
        print(f"curves: {folder.figure_path}\ntable: {folder.text_path}")
