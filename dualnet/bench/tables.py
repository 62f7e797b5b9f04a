"""What the report of the benchmarks is made of: tables, and words for sizes and devices."""

from collections.abc import Sequence

from dualnet.ledger import Line

NOT_MEASURED = "not measured"
MEGABYTE = 2**20


def footnote(line: Line) -> str:
    """How, when, where and with what a line was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    changed = " (changed)" * bool(line["dirty"])
    return (f"`{line['command']}`, {line['wall_s']:.0f} s, {line['date'][:10]}; {device(line)}; "
            f"commit {(line['commit'] or 'unknown')[:8]}{changed}; {versions}.\n")


def device(line: Line) -> str:
    """The device of a line, in words."""
    return (f"{line['device_name']}, {line['cores']} cores" if line["device"] == "cpu"
            else str(line["device_name"]))


def said(size: int) -> str:
    """"64 kB", "2 MB"."""
    return f"{size // MEGABYTE} MB" if size >= MEGABYTE else f"{size // 2**10} kB"


def table(cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its head first."""
    head, *rest = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([head, "|" + " --- |" * len(cells[0]), *rest])
