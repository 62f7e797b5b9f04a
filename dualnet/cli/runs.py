"""What all commands that train have in common: where a run goes, and how its end is told."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.cuts import resolve_cut
from dualnet.config import TrainConfig
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import through
from dualnet.stopping import resume_hint

if TYPE_CHECKING:
    from dualnet.run import Run


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


def hint_for(run: "Run", roles: tuple[str, ...]) -> str:
    """What to do about a run that was interrupted; empty if it cannot go on."""
    step = None if run.is_over else run.resumes_from(roles)
    return "" if step is None else resume_hint(step)


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
                 f"{summary['images_per_s']:.0f} images/s" + f"; waiting: {shares}" * bool(shares))
    return "\n".join(lines)
