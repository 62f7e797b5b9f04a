"""What the figure of a target shows, known without drawing it."""

from typing import Any, NamedTuple

from dualnet.ledger import Line
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.rows import measured_scales, table
from dualnet.reproduce.target import Target


class Drawing(NamedTuple):
    """Lines of one scale, of all seeds."""

    target: Target
    scale: str
    lines: list[Line]

    @property
    def content(self) -> Any:
        """All that the figure depends on, for its fingerprint."""
        target = self.target
        return [target.name, target.paper, self.scale, target.curves, list(target.densities),
                self.lines, [[variant.name, variant.unit, variant.published.get(variant.figure, ())]
                             for variant in target.variants(self.scale)]]


def drawing_of(target: Target, ledger: Ledger) -> Drawing | None:
    """The lines to be drawn: of the scale at which most variants were measured, and the largest of
    several; None if there are none.  Raises DataError if the ledger is damaged."""
    lines = list(ledger.latest().values())
    found = [Drawing(target, scale, table(target, lines, scale).used)
             for scale in measured_scales(target, lines)]
    return max(reversed(found), default=None,
               key=lambda drawing: len({line["variant"] for line in drawing.lines}))
