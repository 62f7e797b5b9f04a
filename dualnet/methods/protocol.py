"""What a training method is: an iterator of records, and a way to test what it has trained."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from dualnet.config import TrainConfig
from dualnet.data.batches import Batches

if TYPE_CHECKING:
    import torch

Record = dict[str, Any]


class Method(Protocol):
    """One process' share of a training method; `train.py` owns everything around it."""

    batches: Batches

    def steps(self, start: int = 0) -> Iterator[Record]:
        """Train, one record per iteration.

        A record has `step` (counted from 0), `loss`, `lr`, and `accuracy` where labels are known;
        on logged steps it adds figures of the method as `method/name`.
        """
        ...

    def evaluate(self) -> Record:
        """Score the test images now; empty in a role that only helps another to do so."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint holds: weights, optimiser and what else has a history.

        It changes at the end of an iteration only: an error or a stop inside one leaves the state
        of the iteration before.
        """
        ...

    @property
    def is_whole(self) -> bool:
        """Whether `state_dict` says all that the next iterations depend on: not while something
        of a later iteration is under way."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave: from here on everything is as if never stopped."""
        ...

    def facts(self) -> Record:
        """What summary.json says about this method beyond the common keys."""
        ...


class Alone(Method, Protocol):
    """A method that one process trains by itself."""

    @property
    def name(self) -> str:
        """The role under which the run folder keeps it."""
        ...

    @property
    def settings(self) -> TrainConfig:
        """Those of this training."""
        ...

    @property
    def device(self) -> "torch.device":
        """What it runs on."""
        ...
