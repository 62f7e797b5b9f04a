"""The ledger of a target: one line per variant and seed.

    results/<target>.jsonl    lines
            <target>.png      drawn from them
            README.md         the report, rendered from all ledgers
"""

from pathlib import Path
from typing import NamedTuple

from dualnet import ledger
from dualnet.ledger import Line

KEYS = ("target", "variant", "seed", "scale", "config", "figure", "ours", "unit", "published",
        "iterations", "data", "data_official", "device", "device_name", "threads", "versions",
        "commit", "dirty", "date", "command", "wall_s", "figures", "curves")


class Key(NamedTuple):
    """What is measured once."""

    variant: str
    seed: int
    scale: str
    config: str


class Ledger(ledger.Ledger):
    """The lines of one target."""

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__(folder / f"{target}.jsonl", KEYS)
        self.figure_path = folder / f"{target}.png"

    def latest(self) -> dict[Key, Line]:
        """The newest line of each key."""
        return {key_of(line): line for line in self.lines()}


def key_of(line: Line) -> Key:
    """What the line is a measurement of."""
    return Key(line["variant"], line["seed"], line["scale"], line["config"])
