"""doctor: versions, devices and threads of this machine; and whether a folder will do."""

import argparse
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dualnet.methods.dual.wire import ROLES

if TYPE_CHECKING:
    from shared_fs.doctor import Report

ABOUT = """\
Without a folder: versions, devices and threads of this machine.

With a folder, two processes use it as net1 and net2 would, and the answer is whether dualnet may
use it, and with which profile.  Both run on this machine; a folder of several hosts is tested
from two of them: start one command on each, in any order.

  host a$ dualnet doctor DIR --role first
  host b$ dualnet doctor DIR --role second

The exit code is 0 if the folder may be used, 74 if not.  Nothing is left behind in it."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", description=ABOUT, help="versions and devices of this "
                                 "machine; or test a folder for the exchange")
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="folder to test")
    parser.add_argument("--peer-dir", type=Path, metavar="DIR", help="another mount of the same "
                        "folder, which the second process uses")
    parser.add_argument("--role", choices=("first", "second"),
                        help="test together with the other role on another host")
    parser.add_argument("--wait", type=float, default=600.0, metavar="S",
                        help="seconds to wait for the other host (default: 600)")
    parser.add_argument("--size", type=int, default=2 * 2**20, metavar="BYTES",
                        help="bytes of a message (default: 2097152)")
    parser.set_defaults(command=doctor, parser=parser)


def doctor(arguments: argparse.Namespace) -> int:
    """The command `doctor`."""
    if arguments.folder is not None:
        return test(arguments)
    from dualnet import machine

    for name, value in {**machine.versions(), **machine.describe(ROLES)}.items():
        print(f"{name:9} {value}")
    return 0


def test(arguments: argparse.Namespace) -> int:
    """The command `doctor DIR`."""
    from dualnet.errors import UserError
    from shared_fs.doctor import examine, examine_as

    for folder in filter(None, (arguments.folder, arguments.peer_dir)):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; name one that is there")
    if arguments.size < 1 or arguments.wait <= 0:
        raise UserError("doctor needs a positive --size and --wait, found "
                        f"{arguments.size} and {arguments.wait:g}")
    if arguments.role and arguments.peer_dir:
        raise UserError("give --role on two hosts, or --peer-dir on one, not both")
    if arguments.role:
        other = "second" if arguments.role == "first" else "first"
        print(f"waiting up to {arguments.wait:g} s for the other host: "
              f"dualnet doctor DIR --role {other}", flush=True)
        report = examine_as(arguments.folder, arguments.role, num_bytes=arguments.size,
                            timeout_s=arguments.wait)
    else:
        report = examine(arguments.folder, arguments.peer_dir, num_bytes=arguments.size)
    print("\n".join(describe(report)))
    return 0 if report.profile else 74


def describe(report: "Report") -> list[str]:
    """The report in lines."""
    lines = [f"{'file system':46} {', '.join(report.kinds)}"]
    if report.free_bytes is not None:
        files = "no limit" if report.free_files is None else f"{report.free_files}"
        lines.append(f"{'free':46} {report.free_bytes / 1e6:.1f} MB, files: {files}")
    if report.seen:
        lines.append(f"{'O_DIRECT':46} {'accepted' if report.direct else 'refused'}")
        lines.append(f"{'until the other process sees a number':46} median / max ms, n")
        lines += [f"  {name:44} {_times(times)}" for name, times in report.seen.items()]
    if report.messages:
        size = f"message of {report.num_bytes / 1e6:.1f} MB, sent to read"
        lines.append(f"{size:46} {_times(report.messages)}")
    for name, fault in report.locks.items():
        lines.append(f"{name:46} {fault or 'excludes'}")
    lines += [f"note: {note}" for note in report.notes]
    if report.profile:
        lines.append(f"dualnet may use it, with the profile {report.profile}")
    else:
        lines.append(f"dualnet may not use it: {'; '.join(report.faults)}")
    return lines


def _times(times: list[float]) -> str:
    if not times:
        return "not seen in time"
    return f"{1e3 * median(times):.1f} / {1e3 * max(times):.1f}, {len(times)}"
