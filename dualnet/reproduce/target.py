"""What a target is: variants with settings, and the published values they are compared with."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dualnet.config import TrainConfig

SCALES = ("smoke", "cpu", "gpu", "full")
TRAINING = "dualnet.reproduce.runner:training"


class Published(NamedTuple):
    """A published figure.

    value   in the unit of the figure; None where the source says something in words only
    source  who says it, where, and for how many iterations
    """

    value: float | None
    source: str


@dataclass(frozen=True)
class Variant:
    """One row of a target.

    settings      what is trained; the seed and the machine's settings are filled in later
    figure, unit  the figure that stands in `ours` of the ledger
    published     figure -> what was published of it
    test_images   how many of the test images are scored; None takes all
    measure       "module:function" that takes (Job) and gives an Outcome
    """

    name: str
    settings: TrainConfig
    published: Mapping[str, Sequence[Published]] = dataclasses.field(default_factory=dict)
    figure: str = "accuracy"
    unit: str = "share"
    test_images: int | None = None
    measure: str = TRAINING


@dataclass(frozen=True)
class Target:
    """A published table or figure.

    variants   scale -> the rows
    cost       scale -> how long it takes, in words
    curves     names of the curves that explain the figures, and how their axis is scaled
    seeded     whether the seed changes anything
    densities  names of curves that are shares of pairs of values in 0 to 1, a matrix each
    remark     what a reader of the figures must know
    references variants with which those behind them are compared, seed by seed
    compared   whether its variants are methods to be chosen from, and not losses and rates that
               show what goes wrong
    """

    name: str
    paper: str
    shows: str
    cost: Mapping[str, str]
    variants: Callable[[str], list[Variant]]
    curves: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seeded: bool = True
    densities: Sequence[str] = ()
    remark: str = ""
    references: Sequence[str] = ()
    compared: bool = True

    @property
    def publication(self) -> str:
        """Author and year."""
        return self.paper.partition(",")[0]

    def reference_of(self, variants: Sequence[Variant], variant: Variant) -> Variant | None:
        """Of `variants`, the one that `variant` is compared with: the reference nearest before it;
        None for a reference, and where there is none."""
        found = None
        for each in variants:
            if each.name == variant.name:
                return None if each.name in self.references else found
            found = each if each.name in self.references else found
        return None


class Outcome(NamedTuple):
    """What a measurement gave.

    figures  name -> value, None where it could not be measured
    curves   name -> [[iteration, value], ...], or the rows of a matrix
    where    device, device_name, threads and versions
    """

    figures: dict[str, float | None]
    curves: dict[str, list[list[float]]]
    where: dict[str, Any]


def digest(settings: TrainConfig) -> str:
    """Eight hex digits that name what is trained, the seed included.

    Only settings that differ from their defaults count, so that a setting which is new to the
    program does not make earlier measurements strangers.
    """
    defaults = type(settings)().agreed()
    changed = {key: value for key, value in settings.agreed().items() if value != defaults[key]}
    text = json.dumps([type(settings).__name__, changed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
