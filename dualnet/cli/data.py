"""data fetch, data verify, data list: the data sets in the folder of the data sets."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.parser import default_data_dir
from dualnet.cli.progress import clock_text

if TYPE_CHECKING:
    from dualnet.data.fetch import Progress

LOG_EVERY_S = 5.0
TIMEOUT_S = 60.0
MB = 10**6


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("data", help="fetch, verify and list the data sets")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True,
                                    parser_class=type(parser))
    fetch_parser = _add_action(actions, "fetch", fetch, "download a data set, going on where an "
                               "earlier download broke off")
    fetch_parser.add_argument("--mirror", metavar="URL", help="base address to take instead of "
                              "the official one; the checksums stay the official ones")
    fetch_parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS",
                              help="seconds without a new byte after which to give up "
                              f"(default: {TIMEOUT_S:g})")
    verify_parser = _add_action(actions, "verify", verify, "compare the files of a data set with "
                                "their official checksums")
    verify_parser.add_argument("--strict-checksums", action="store_true", help="refuse files that "
                               "load but are not the official ones")
    _add_action(actions, "list", list_all, "show which data sets there are")


def _add_action(actions: Any, name: str, command: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
    if name != "list":
        parser.add_argument("name", metavar="NAME", help="data set, as --data names it")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the data sets "
                        "(default: data; the variable DUALNET_DATA sets another)")
    parser.set_defaults(command=command, parser=parser)
    return parser


def fetch(arguments: argparse.Namespace) -> int:
    """The command `data fetch`."""
    from dualnet import data
    from dualnet.data.fetch import fetch as fetch_files
    from dualnet.errors import UserError

    if not arguments.timeout > 0:
        raise UserError(f"--timeout must be above 0, found {arguments.timeout:g}")
    name, folder = arguments.name, _folder(arguments)
    display = _Display()
    try:
        for progress in fetch_files(name, folder, timeout_s=arguments.timeout,
                                    mirror=arguments.mirror):
            display.show(progress)
    finally:
        display.close()
    has_files = bool(data.module_of(name).FILES)
    print(f"{name}: every file is official, in {folder}" if has_files else
          f"{name}: built in, nothing to fetch")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """The command `data verify`."""
    from dualnet import data
    from dualnet.errors import DataError

    name, folder = arguments.name, _folder(arguments)
    found = data.module_of(name).verify(folder)
    for file, official in found.items():
        print(f"{file}: {'official' if official else 'missing, or not the official file'}")
    others = [file for file, official in found.items() if not official]
    if not others:
        print(f"{name}: {len(found)} of {len(found)} files are official" if found else
              f"{name}: built in, nothing to verify")
        return 0
    dataset = data.load(name, folder)     # raises what is missing or damaged
    sentence = (f"{name} in {folder} loads ({len(dataset.train_images)} training and "
                f"{len(dataset.test_images)} test images), but the checksums of "
                f"{', '.join(others)} are not the official ones")
    if arguments.strict_checksums:
        raise DataError(f"{sentence}; move it away and run 'dualnet data fetch {name}'")
    print(f"warning: {sentence}", file=sys.stderr)
    return 0


def list_all(arguments: argparse.Namespace) -> int:
    """The command `data list`."""
    from dualnet import data

    folder = _folder(arguments)
    for name in data.DATASETS:
        module = data.module_of(name)
        size = sum(file.size for file in module.FILES)
        if not size:
            state = "built in"
        elif module.present(folder):
            state = f"in {folder}"
        else:
            state = f"not in {folder}; 'dualnet data fetch {name}' downloads {size / MB:.0f} MB"
        print(f"{name:10} {state}")
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    return arguments.data_dir or Path(default_data_dir())


class _Display:
    """Shows the fetching: a bar on a terminal, a line every few seconds otherwise."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._showing: tuple[str, str] | None = None
        self._start, self._start_bytes, self._next_s = 0.0, 0, 0.0

    def show(self, progress: "Progress") -> None:
        """Take one report."""
        now = time.monotonic()
        if (progress.file, progress.doing) != self._showing:
            self._showing = progress.file, progress.doing
            self._start, self._start_bytes, self._next_s = now, progress.done, now
            self._open_bar(progress)
        if self._bar is not None:
            self._bar.update(progress.done - self._bar.n)
        elif now >= self._next_s or (progress.doing == "fetching"
                                     and progress.done == progress.total):
            self._next_s = now + LOG_EVERY_S
            print(self._line(progress, now), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open_bar(self, progress: "Progress") -> None:
        self.close()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=progress.total, initial=progress.done, unit="B",
                             unit_scale=True, dynamic_ncols=True,
                             desc=f"{progress.doing} {progress.file}")

    def _line(self, progress: "Progress", now: float) -> str:
        text = f"{progress.doing} {progress.file}: {progress.done / MB:.1f}"
        if progress.total is None:
            return f"{text} MB"
        text += f" of {progress.total / MB:.1f} MB"
        fetched = progress.done - self._start_bytes
        if fetched <= 0 or now <= self._start:
            return text
        speed = fetched / (now - self._start)     # bytes per second
        left_s = (progress.total - progress.done) / speed
        return f"{text}  {speed / MB:.2f} MB/s  ETA {clock_text(left_s)}"
