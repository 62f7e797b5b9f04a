"""The processes of a run, followed to their end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualnet.stopping import StopRequest, noted

if TYPE_CHECKING:
    from dualnet.launcher import Failure
    from dualnet.metrics import MetricsReader
    from dualnet.run import Run

POLL_S = 0.1    # between two looks at the processes

# Shows what the readers of the roles have that is new; also gets the processes of the roles.
Show = Callable[["dict[str, MetricsReader]", Mapping[str, int]], None]


def follow(run: "Run", arguments: Mapping[str, Sequence[str | Path]], show: Show,
           at_once: int | None = None, environment: Mapping[str, str] | None = None
           ) -> "tuple[Failure | None, StopRequest]":
    """Start each role with its arguments, see `Launcher`, and call `show` up to the end of all.

    A signal is passed on to all roles, which write a checkpoint.  Returns the first failure and
    whether a signal has come.
    """
    from dualnet.launcher import Launcher
    from dualnet.metrics import MetricsReader

    readers = {role: MetricsReader(run.metrics_path(role)) for role in arguments}
    for reader in readers.values():
        reader.new()        # what an earlier attempt has written is not news
    with noted() as stop, Launcher(run, arguments, at_once, environment) as launcher:
        while launcher.wait(POLL_S) and launcher.failure() is None and not stop.is_asked:
            show(readers, launcher.pids)
        failure = launcher.failure()
        if stop.number is not None:
            launcher.stop(stop.number)
    show(readers, launcher.pids)
    return failure, stop
