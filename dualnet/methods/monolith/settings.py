"""Settings of the three stages of a MonolithNet.  No torch.

The published ones are the defaults (Bidart and Wong 2018, sections 2 and 4), but for the share of
the images that each trunk is trained on, which is not stated.
"""

import dataclasses
from typing import Any, NamedTuple

from dualnet.config import TrainConfig, changed, flag
from dualnet.errors import UserError

MONOLITH = "monolith"
TRUNK, HEAD, WHOLE = STAGES = ("trunk", "head", "whole")
WORDS = {TRUNK: "stage 1, each trunk alone", HEAD: "stage 2, the head on resting trunks",
         WHOLE: "stage 3, everything"}
# Fields that get no flag: each stage has its own, or they mean layers and files of other nets.
HIDDEN = ("net", "net_source", "net_sha256", "prototxt", "solver_prototxt", "prototxt_sha256",
          "iterations", "batch_size", "lr", "lr_schedule", "lr_step", "lr_factor", "layer_lr",
          "layer_decay", "input_side", "ten_views")


class Stage(NamedTuple):
    """How a stage trains: `drops` are the epochs after which the rate is multiplied by `factor`."""

    epochs: float
    batch_size: int
    lr: float
    drops: tuple[float, ...]
    factor: float


class Span(NamedTuple):
    """Which iterations are those of a stage, counted through from the start of stage 1.

    epochs           that went before
    steps_per_epoch  iterations of an epoch of its own
    """

    since: int
    until: int
    epochs: float
    steps_per_epoch: int

    def milestones(self, stage: Stage) -> tuple[int, ...]:
        """The iterations at which the rate drops."""
        return tuple(self.since + round(drop * self.steps_per_epoch) for drop in stage.drops)


def _stage(stage: str, epochs: float, batch_size: int, lr: float, drops: str,
           factor: float) -> tuple[Any, ...]:
    """The five flags of a stage."""
    return (flag(epochs, f"epochs of {WORDS[stage]}, at least one iteration", minimum=0,
                 group="stages"),
            flag(batch_size, f"images per iteration of {WORDS[stage]}", minimum=1, group="stages"),
            flag(lr, f"learning rate of {WORDS[stage]}", minimum=0, group="stages"),
            flag(drops, f"epochs of {WORDS[stage]} after which the rate drops", group="stages"),
            flag(factor, f"factor of each drop in {WORDS[stage]}", minimum=0, group="stages"))


_TRUNK = _stage(TRUNK, 200.0, 128, 0.1, "60,120,160", 0.2)
_HEAD = _stage(HEAD, 40.0, 300, 0.005, "13,26,39", 0.3)
_WHOLE = _stage(WHOLE, 25.0, 88, 1e-4, "13", 0.2)


@dataclasses.dataclass(frozen=True)
class MonolithConfig(TrainConfig):
    """What `train monolith` needs besides the settings of every method."""

    recipes = {}

    net: str = changed(TrainConfig, "net", "3xwrn-28-20")
    mean: str = changed(TrainConfig, "mean", "channel")
    mirror: bool = changed(TrainConfig, "mirror", True)
    crop: int = changed(TrainConfig, "crop", 4)
    weight_decay: float = changed(TrainConfig, "weight_decay", 5e-4)
    batch_size: int = changed(TrainConfig, "batch_size", 88)
    images: int = flag(0, "training images that count, the first ones; 0 takes all", minimum=0,
                       group="data")
    depth: int = flag(28, "layers of a trunk, 6n + 4", minimum=10, group="network")
    width: int = flag(20, "times as many maps in a trunk as in a plain residual net", minimum=1,
                      group="network")
    trunks: int = flag(3, "trunks side by side", minimum=1, group="network")
    neurons: int = flag(16, "hidden neurons of the head; 0 takes a single linear layer, which"
                        " begins as the mean of the trunks' proxy layers", minimum=0,
                        group="network")
    subset: float = flag(0.8, "share of the training images that each trunk is trained on, drawn"
                         " for it; not published", group="stages")
    augment_head: bool = flag(True, "mirror and crop the images of stage 2 too; without it, what"
                              " the trunks make of them is computed once and kept on the disk",
                              group="stages")
    trunk_epochs: float = _TRUNK[0]
    trunk_batch: int = _TRUNK[1]
    trunk_lr: float = _TRUNK[2]
    trunk_drops: str = _TRUNK[3]
    trunk_factor: float = _TRUNK[4]
    head_epochs: float = _HEAD[0]
    head_batch: int = _HEAD[1]
    head_lr: float = _HEAD[2]
    head_drops: str = _HEAD[3]
    head_factor: float = _HEAD[4]
    whole_epochs: float = _WHOLE[0]
    whole_batch: int = _WHOLE[1]
    whole_lr: float = _WHOLE[2]
    whole_drops: str = _WHOLE[3]
    whole_factor: float = _WHOLE[4]
    jobs: int = flag(1, "trunks trained at a time, each in a process of its own if it is more"
                     " than 1", minimum=1, local=True, group="machine")

    @property
    def num_images(self) -> int:
        """See --images."""
        return self.images

    @property
    def trunk_net(self) -> str:
        """The net of one trunk, its proxy layer included."""
        return f"wrn-{self.depth}-{self.width}"

    @property
    def trunk_roles(self) -> tuple[str, ...]:
        """The names of the trunks."""
        return tuple(f"{TRUNK}{number + 1}" for number in range(self.trunks))

    def resolved(self) -> "MonolithConfig":
        """With what follows from the flags.  Raises UserError for settings that cannot be."""
        if not 0 < self.subset <= 1:
            raise UserError(f"--subset is above 0 and at most 1, found {self.subset:g}")
        for stage in STAGES:
            self.stage(stage)
        return self.replace(net=f"{self.trunks}x{self.trunk_net}", batch_size=self.whole_batch,
                            lr=self.whole_lr)

    def stage(self, name: str) -> Stage:
        """The settings of a stage.  Raises UserError for drops that cannot be read."""
        text = getattr(self, f"{name}_drops")
        try:
            drops = tuple(float(word) for word in filter(None, text.split(",")))
        except ValueError:
            drops = (-1.0,)
        if any(drop < 0 for drop in drops) or list(drops) != sorted(drops):
            raise UserError(f"--{name}-drops takes epochs in ascending order, as in 60,120,160, "
                            f"found '{text}'")
        return Stage(getattr(self, f"{name}_epochs"), getattr(self, f"{name}_batch"),
                     getattr(self, f"{name}_lr"), drops, getattr(self, f"{name}_factor"))

    def of_stage(self, name: str, span: Span) -> "MonolithConfig":
        """The settings with which one stage trains up to its end."""
        stage = self.stage(name)
        changes: dict[str, Any] = {"iterations": span.until, "batch_size": stage.batch_size,
                                   "lr": stage.lr}
        if name == HEAD and not self.augment_head:
            changes |= {"mirror": False, "crop": 0}
        return self.replace(**changes)

    def subset_size(self, num_images: int) -> int:
        """How many of the training images a trunk is trained on."""
        return max(1, round(self.subset * num_images))

    def spans(self, num_images: int) -> dict[str, Span]:
        """The iterations of each stage, for so many training images."""
        spans, since, epochs = {}, 0, 0.0
        for name in STAGES:
            stage = self.stage(name)
            count = self.subset_size(num_images) if name == TRUNK else num_images
            each = max(1, count // stage.batch_size)
            until = since + max(1, round(stage.epochs * each))
            spans[name] = Span(since, until, epochs, each)
            epochs += (until - since) / each
            since = until
        return spans

    def counted(self, num_images: int) -> "MonolithConfig":
        """With the iterations of all stages together, for so many training images."""
        return self.replace(iterations=self.spans(num_images)[WHOLE].until)
