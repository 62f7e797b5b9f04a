"""status: what the roles of a run are doing, or how they ended."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.progress import clock_text, train_text
from dualnet.cli.runs import hint_for
from dualnet.errors import UserError
from dualnet.methods.dual.wire import roles_of

if TYPE_CHECKING:
    from dualnet.run import Run
    from shared_fs import Observation

# state of shared_fs.Observation -> what it means to the user
WORDS = {
    "absent": "has not started",
    "starting": "waits for the other role",
    "running": "is running",
    "done": "has finished",
    "stopping": "was stopped by a signal",
    "failed": "failed",
    "killed": "was killed: its process is gone without a word",
    "silent": "is silent: no heartbeat from its host; it is gone, or the file system hangs",
}
ENDED = ("stopping", "failed", "killed")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("status", help="what the roles of a run are doing, live")
    parser.add_argument("folder", type=Path, metavar="DIR", help="run folder or exchange folder")
    parser.set_defaults(command=status, parser=parser)


def status(arguments: argparse.Namespace) -> int:
    """The command `status`."""
    from dualnet.run import Run
    from shared_fs import is_exchange, observe

    run = Run(arguments.folder)
    for folder in (run.folder, run.exchange):
        if is_exchange(folder):
            observations = observe(folder)
            for observation in observations:
                print(describe(observation))
            if run.config_path.exists() and all(each.state in ENDED for each in observations):
                print_hint(run, roles_of(run.config()["cut"]))
            return 0
    if run.config_path.exists():
        for role in run.roles:
            print(f"{role}: {last_line(run.metrics(role))}"
                  f"{'; the run has finished' if run.summary_path.exists() else ''}")
        return 0
    raise UserError(f"{arguments.folder} is neither a run nor an exchange folder: there is no "
                    "config.json and no hello of a role in it")


def print_hint(run: "Run", roles: tuple[str, ...]) -> None:
    """Say where a run goes on that nobody trains now."""
    if hint := hint_for(run, roles):
        print(f"{run.folder} was interrupted; {hint}")


def describe(role: "Observation") -> str:
    """One role in one line."""
    who = f" ({role.who})" if role.who else ""
    text = f"{role.role}{who} {WORDS[role.state]}"
    if role.state == "failed":
        text += f": {role.error}"
    if role.status is None or role.status.step is None or role.state in ("done", "absent"):
        return text
    info = role.info
    text += f"; iteration {role.status.step + 1} of {info.get('iterations', '?')}"
    if "loss" in info:
        text += f", {train_text([info])}"
    if "left_s" in info and role.state == "running":
        text += f", ETA {clock_text(info['left_s'])}"
    return text


def last_line(records: list[dict[str, Any]]) -> str:
    """The newest line of metrics of a role that has no exchange folder here."""
    train = [record for record in records if record["split"] == "train"]
    if not train:
        return "no iteration is logged yet"
    return f"logged iteration {train[-1]['step']}, {train_text(train[-1:])}"
