"""train boosted: a residual net, block by block."""

import argparse
from typing import Any

from dualnet.cli import runs
from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.methods.boosted.settings import ROLE, BoostedConfig


def add(methods: Any) -> None:
    """Add the command to the methods of `train`."""
    text = "a residual net block by block, each as a weak learner of boosting"
    method = methods.add_parser("boosted", help=text, description=f"Train {text}.")
    add_settings(method, BoostedConfig)
    runs.add_output(method)
    method.set_defaults(command=train_boosted, parser=method)


def train_boosted(arguments: argparse.Namespace) -> int:
    """The command `train boosted`."""
    settings = runs.resolve_auto(settings_of(arguments, BoostedConfig, "boosted"))
    run = runs.run_of(arguments, "boosted", settings)
    from dualnet import session
    from dualnet.boosting import draw

    run.start("boosted", settings, overwrite=arguments.overwrite)
    progress = Progress(settings.iterations, (ROLE,), run=run.folder, quiet=arguments.quiet)
    try:
        for line in session.boosted(settings, run):
            progress.show(ROLE, line)
            if text := judgement(line):
                progress.say(text)
    finally:
        progress.close()
        runs.discard_if_untrained(run)
    draw(run)
    runs.report(run)
    summary = run.summary()
    print(f"{summary['modules_used']} of {summary['modules']} modules\n"
          f"boosting: {run.boosting_path}")
    return 0


def judgement(line: dict[str, Any]) -> str:
    """What a line of metrics says of a module that was judged; empty if none was."""
    if "boosted/gamma" not in line:
        return ""
    return (f"module {line['boosted/module'] + 1}: gamma {line['boosted/gamma']:.3f}, "
            f"edge {line['boosted/edge']:.3f}, training error {100 * line['boosted/error']:.2f} %, "
            f"bound {line['boosted/bound']:.3g}")
