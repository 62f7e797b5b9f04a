"""compare: trains variants of the net one after another, or takes finished runs; one table."""

import argparse
import contextlib
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import clock_text
from dualnet.cli.train import resolve_auto, run_dual, run_single
from dualnet.config import TrainConfig, choose, field_names, spelling
from dualnet.errors import Diverged, UserError
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.methods.dual.wire import ROLES

if TYPE_CHECKING:
    from dualnet.compare import Folder
    from dualnet.run import Run

CHOSEN = ("loss", "seed")     # by --losses and --seeds
DIVERGED = 76


class Planned(NamedTuple):
    """One run of the comparison; dual or single by the class of its settings."""

    kind: str
    settings: TrainConfig

    @property
    def method(self) -> str:
        """The method, as config.json has it."""
        return "dual" if isinstance(self.settings, DualConfig) else "single"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare", help="train variants and tabulate them, or tabulate finished runs",
        description="Train variants of the net, one after another, and tabulate them; the same "
        "command again goes on where it stopped. Or tabulate finished runs: compare RUN RUN ...")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN",
                        help="folders of finished runs, instead of training")
    parser.add_argument("--losses", type=_losses, default=[], metavar="LOSS,...",
                        help=f"losses and controls to train: {', '.join(LOSSES)}")
    parser.add_argument("--seeds", type=_seeds, metavar="N,...",
                        help="seeds to train each with (default: 0)")
    parser.add_argument("--single", action="store_true", help="train the uncut net as well")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder of the runs and the table (default: runs/compare- and a "
                        "name made of the settings; none for finished runs)")
    parser.add_argument("--exchange-dir", type=Path, metavar="DIR",
                        help="folder in which each run gets one for its messages (default: "
                        "exchange in the run)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_settings(parser, DualConfig, without=CHOSEN)
    parser.set_defaults(command=compare, parser=parser)


def _losses(text: str) -> list[str]:
    try:
        return _unique([choose("loss", word.strip(), LOSSES) for word in text.split(",")])
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seeds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"expected whole numbers from 0, as in 0,1,2; found "
                                         f"'{text}'")
    return _unique([int(word) for word in words])


def _unique(found: list[Any]) -> list[Any]:
    return list(dict.fromkeys(found))


def compare(arguments: argparse.Namespace) -> int:
    """The command `compare`."""
    from dualnet.compare import Folder
    from dualnet.run import Run

    if arguments.runs:
        _refuse_settings(arguments)
        _tabulate([Run(path) for path in arguments.runs],
                  Folder(arguments.out) if arguments.out else None)
        return 0
    if arguments.exchange_dir and not arguments.exchange_dir.is_dir():
        raise UserError(f"--exchange-dir {arguments.exchange_dir} is no folder; name one that is "
                        "there")
    plan = _plan(arguments)
    folder = Folder(arguments.out or Path("runs") / f"compare-{_digest(plan)}")
    runs = [folder.run(planned.kind, planned.settings.seed) for planned in plan]
    for planned, run in zip(plan, runs, strict=True):
        if run.config_path.exists():
            run.check_settings(planned.method, planned.settings)
    with folder.held():
        code = _train_all(plan, runs, arguments)
        if code == 0:
            kinds = _unique([planned.kind for planned in plan])
            _tabulate([folder.run(kind, seed) for kind in kinds for seed in _seeds_of(arguments)],
                      folder)
    return code


def _seeds_of(arguments: argparse.Namespace) -> list[int]:
    return arguments.seeds or [0]


def _refuse_settings(arguments: argparse.Namespace) -> None:
    given = [name for name in ("losses", "seeds", "single", "config", "recipe", "exchange_dir",
                               *field_names(DualConfig)) if getattr(arguments, name, None)]
    if given:
        raise UserError(f"compare RUN ... trains nothing, so {spelling(given[0])} has no use; "
                        "leave it out, or leave out the runs")


def _plan(arguments: argparse.Namespace) -> list[Planned]:
    """All runs, seed by seed, so that a comparison that was stopped holds whole pairs.

    Raises UserError for settings that a loss does not allow, before anything is trained.
    """
    if not arguments.losses and not arguments.single:
        raise UserError("compare needs something to compare: --losses LOSS,..., --single, or the "
                        "folders of finished runs")
    base = resolve_auto(settings_of(arguments, DualConfig, "dual"))
    plan = []
    for seed in _seeds_of(arguments):
        if arguments.single:
            settings = _single_settings(arguments, base)
            plan.append(Planned("single", settings.replace(seed=seed, data=base.data)))
        plan += [Planned(loss, _dual_settings(base, loss, seed)) for loss in arguments.losses]
    return plan


def _dual_settings(base: DualConfig, loss: str, seed: int) -> DualConfig:
    """What `train dual` makes of the flags; a rate of net1 is for the losses that train it."""
    lr_net1 = base.lr_net1 if LOSSES[loss].updates else None
    return base.replace(loss=loss, seed=seed, lr_net1=lr_net1).resolved()


def _single_settings(arguments: argparse.Namespace, base: DualConfig) -> TrainConfig:
    """What `train single` makes of the same flags; a --config of a dual net serves it too."""
    if arguments.config is None:
        settings: TrainConfig = settings_of(arguments, TrainConfig, "single")
        return settings
    return TrainConfig(**{name: getattr(base, name) for name in field_names(TrainConfig)})


def _digest(plan: Sequence[Planned]) -> str:
    words = sorted(f"{planned.kind} {planned.settings.digest()}" for planned in plan)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


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
    roles = ROLES if planned.method == "dual" else (planned.method,)
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


def _tabulate(runs: Sequence["Run"], folder: "Folder | None") -> None:
    """Print the table, and write it and the curves where there is a folder for them."""
    from dualnet import compare

    table = compare.compare(runs)
    print(compare.text(table), end="")
    if folder is not None:
        from dualnet.plot import draw

        folder.write(table)
        draw([run.folder for run in runs], [folder.figure_path])
        print(f"curves: {folder.figure_path}\ntable: {folder.text_path}")
