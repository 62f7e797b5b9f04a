"""Which checkpoint a restarted run goes on from: the newest one that every role holds.

A checkpoint is named by the generation that wrote it and the step, never by the step alone: after
a roll-back the same step is reached again, in another history.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A state that a role can start from: of which run, written in which generation, after how
    many steps.  Of two checkpoints of a run the greater is the newer."""

    run: str
    generation: int
    step: int


@dataclass(frozen=True)
class Start:
    """Where a generation begins: each role loads its checkpoint (base, step).

    generation  number of the generation that begins, from 1
    base        the generation that wrote the checkpoint; 0: there is none, start from the seed
    step        steps that are already done
    """

    run: str
    generation: int
    base: int
    step: int

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What to load, None at the very beginning."""
        return Checkpoint(self.run, self.base, self.step) if self.base else None


def newest_common(
    held: Iterable[Iterable[Checkpoint]], run: str | None = None
) -> Checkpoint | None:
    """The newest checkpoint in all of the lists; of `run` only, if it is given."""
    first, *others = (set(checkpoints) for checkpoints in held)
    common = first.intersection(*others)
    return max((c for c in common if run in (None, c.run)), default=None,
               key=lambda c: (c.generation, c.step))
