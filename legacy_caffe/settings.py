"""What a role can be told, and what the two roles must have in common."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

MEANS = ("image", "channel", "none")
DENOMINATORS = ("constant", "exact", "target")
SCHEDULES = ("lockstep", "alternating")
MESSAGE_DTYPES = ("float16", "float32", "float64")


class BadSetting(Exception):
    """Settings that do not go together."""


class Loss(NamedTuple):
    """What `--loss NAME` stands for; the names are those of dualnet.

    answer       what net2 sends: "y" (its conv3'), "zero", or "earlier" (y of the batch before)
    layer        class in losses.py
    updates      whether net1 is trained at all
    has_weight   whether the layer has its `loss_weight: 1`
    """

    answer: str = "y"
    layer: str = "EuclideanLossLayer"
    updates: bool = True
    has_weight: bool = True


LOSSES = {
    "euclidean": Loss(),
    "normalized_both": Loss(layer="NormalizedBothLossLayer"),
    "normalized": Loss(layer="NormalizedLossLayer"),
    # Controls: what the losses above must beat, and the mistakes of 2017 on purpose.
    "frozen": Loss(updates=False),
    "zero_target": Loss(answer="zero"),
    "misaligned": Loss(answer="earlier"),
    "no_loss_weight": Loss(has_weight=False),
}


@dataclass(frozen=True)
class Settings:
    """What changes the result of both roles; every field has the name it has in dualnet.

    Raises BadSetting.
    """

    iterations: int = 1000
    batch_size: int = 100
    seed: int = 0
    loss: str = "euclidean"
    denominator: str = "constant"
    schedule: str = "lockstep"
    net1_steps: int = 50
    net2_steps: int = 150
    log_every: int = 10
    eval_every: int = 0
    mean: str = "image"
    scale: float = 1 / 64
    equalise: bool = False
    bgr: bool = False
    mirror: bool = False
    message_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.loss == "normalized_both" and self.denominator == "target":
            raise BadSetting("normalized_both divides by both norms: --denominator must be "
                             "constant or exact, found target")
        for name in ("iterations", "batch_size", "log_every", "net1_steps", "net2_steps"):
            if getattr(self, name) < 1:
                raise BadSetting(f"--{name.replace('_', '-')} must be at least 1, found "
                                 f"{getattr(self, name)}")
        if self.seed < 0 or self.eval_every < 0 or not self.scale > 0:
            raise BadSetting("--seed and --eval-every must be at least 0, --scale above 0")

    def preprocessing(self) -> dict[str, Any]:
        """The arguments of `Batches` that say what happens to the pixels."""
        return {name: getattr(self, name)
                for name in ("mean", "scale", "equalise", "bgr", "mirror")}

    def agreement(self, fingerprint: str) -> Mapping[str, Any]:
        """What the other role must have too, be it this script or dualnet.

        fingerprint  of the images and labels
        """
        return {**asdict(self), "images": fingerprint, "crop": 0, "cut": "pool2",
                "before_activation": False}

    def is_logged(self, step: int) -> bool:
        """Whether net2 also sends conv3' itself, and a line is printed, after `step` (from 0)."""
        return (step + 1) % self.log_every == 0 or step + 1 == self.iterations

    def is_evaluated(self, step: int) -> bool:
        """Whether the test images are scored after `step` (from 0)."""
        done = step + 1
        return done == self.iterations or (self.eval_every > 0 and done % self.eval_every == 0)

    def updates(self, role: str, step: int) -> bool:
        """Whether the weights of `role` move in `step`."""
        if role == "net1" and not LOSSES[self.loss].updates:
            return False
        if self.schedule == "lockstep":
            return True
        in_net1_turn = step % (self.net1_steps + self.net2_steps) < self.net1_steps
        return in_net1_turn == (role == "net1")
