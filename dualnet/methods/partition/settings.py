"""Settings of partitioned pre-training.  No torch."""

import dataclasses
import re

from dualnet.config import TrainConfig, flag
from dualnet.errors import UserError

MERGED = "merged"


@dataclasses.dataclass(frozen=True)
class PartitionConfig(TrainConfig):
    """What `train partition` needs besides the settings of every method."""

    sub_models: int = flag(2, "sub-models that share the hidden units of the network", minimum=1,
                           group="partition")
    merge_at: int | None = flag(None, "iteration after which the sub-models are merged; auto takes"
                                " half of --iterations", minimum=0, group="partition")
    sizes: str = flag("", "units of each sub-model in layers that they do not share equally, such"
                      " as conv1=7+7+6,fc3=200+200+100", group="partition")
    initial: str = flag("own", "weights of the sub-models at first: own draws them for their"
                        " width, cut takes those within the whole network", choices=("own", "cut"),
                        group="partition")
    output: str = flag("mean", "merge of the output layer: mean divides weights and sums of biases"
                       " by the number of sub-models, scaled does so with the input of the softmax",
                       choices=("mean", "scaled"), group="partition")
    merge_momentum: bool = flag(True, "merge the momentum as the weights; else it begins at 0",
                                group="partition")
    jobs: int = flag(1, "sub-models trained at a time, each in a process of its own if it is more"
                     " than 1", minimum=1, local=True, group="partition")

    def resolved(self) -> "PartitionConfig":
        """With the merge decided.  Raises UserError for one that cannot be."""
        if self.prototxt or self.solver_prototxt:
            raise UserError("Caffe's files fix one net and its solver, but here nets of other"
                            " widths are trained too: give --net and the rates by flags")
        merge_at = self.iterations // 2 if self.merge_at is None else self.merge_at
        if merge_at >= self.iterations:
            raise UserError(f"--merge-at {merge_at} leaves nothing of {self.iterations} iterations "
                            "to train the merged net; merge earlier, or train longer")
        self.given_sizes()
        return self.replace(merge_at=merge_at)

    @property
    def sub_roles(self) -> tuple[str, ...]:
        """The names of the sub-models."""
        return tuple(f"sub{number + 1}" for number in range(self.sub_models))

    def given_sizes(self) -> dict[str, tuple[int, ...]]:
        """--sizes by layer.  Raises UserError if it cannot be read."""
        sizes = {}
        for entry in filter(None, self.sizes.split(",")):
            match = re.fullmatch(r"\s*([^=\s]+)=(\d+(?:\+\d+)*)\s*", entry)
            if match is None:
                raise UserError(f"--sizes takes LAYER=NUMBER+NUMBER,..., found '{entry}'")
            sizes[match[1]] = tuple(map(int, match[2].split("+")))
        return sizes

    def is_evaluated(self, step: int) -> bool:
        """The nets are scored just before and after the merge too."""
        return step + 1 == self.merge_at or super().is_evaluated(step)
