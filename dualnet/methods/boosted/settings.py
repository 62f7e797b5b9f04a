"""Settings of BoostResNet.  No torch."""

import dataclasses

from dualnet.config import TrainConfig, changed, flag
from dualnet.errors import UserError

ROLE = "boosted"


@dataclasses.dataclass(frozen=True)
class BoostedConfig(TrainConfig):
    """What `train boosted` needs besides the settings of every method."""

    net: str = changed(TrainConfig, "net", "resnet20")
    batch_size: int = changed(TrainConfig, "batch_size", 128)
    lr: float = changed(TrainConfig, "lr", 0.1, help="learning rate at the start of each block;"
                        " --lr-schedule runs over the iterations of one block")
    weight_decay: float = changed(TrainConfig, "weight_decay", 1e-4)
    block_iterations: int | None = flag(None, "iterations of a block; auto shares --iterations out"
                                        " evenly", minimum=1, group="boosted")
    gamma: float = flag(0.0, "weak-learning figure that a block must exceed before the next one"
                        " begins; one that does not trains for the iterations of another block",
                        group="boosted")
    block_loss: str = flag("cross_entropy", "loss of a block and its classifier: cross_entropy, or"
                           " exponential, the sum of exp(z_l - z_y) over the wrong classes l",
                           choices=("cross_entropy", "exponential"), group="boosted")
    cache_mb: int = flag(1024, "megabytes that may hold what the frozen blocks make of the training"
                         " images, where no augmentation changes them; 0 computes it each time",
                         minimum=0, group="boosted")

    def shared_out(self, num_blocks: int) -> "BoostedConfig":
        """With the iterations of a block decided.  Raises UserError if there are too few."""
        if self.block_iterations is not None:
            return self
        if self.iterations < num_blocks:
            raise UserError(f"--net {self.net} has {num_blocks} blocks to train one after the "
                            f"other, which takes as many iterations, found --iterations "
                            f"{self.iterations}")
        return self.replace(block_iterations=self.iterations // num_blocks)

    def is_round_over(self, step: int) -> bool:
        """Whether the block in training is judged after iteration `step` (counted from 0)."""
        assert self.block_iterations is not None
        return (step + 1) % self.block_iterations == 0 or step + 1 == self.iterations

    def is_logged(self, step: int) -> bool:
        """A judgement is always logged."""
        return super().is_logged(step) or (
            self.block_iterations is not None and self.is_round_over(step))
