"""Settings of Net2WiderNet.  No torch."""

import dataclasses

from dualnet.config import TrainConfig, flag
from dualnet.errors import UserError

TEACHER, WIDER = "teacher", "wider"


@dataclasses.dataclass(frozen=True)
class Net2WiderConfig(TrainConfig):
    """What `train net2wider` needs besides the settings of every method."""

    factor: int = flag(2, "how many times as wide as the teacher the network is", minimum=1,
                       group="net2wider")
    widen_at: int | None = flag(None, "iteration after which the teacher is widened; auto takes"
                                " half of --iterations", minimum=0, group="net2wider")
    mapping: str = flag("exact", "which units are copied: exact copies each equally often, random"
                        " draws them", choices=("exact", "random"), group="net2wider")
    noise: float = flag(0.02, "largest noise on each weight of hidden units, as a share of the"
                        " largest weight of its layer", minimum=0, group="net2wider")

    def resolved(self) -> "Net2WiderConfig":
        """With the widening decided.  Raises UserError for one that cannot be."""
        if self.prototxt or self.solver_prototxt:
            raise UserError("Caffe's files fix one net and its solver, but here nets of other"
                            " widths are trained too: give --net and the rates by flags")
        widen_at = self.iterations // 2 if self.widen_at is None else self.widen_at
        if widen_at >= self.iterations:
            raise UserError(f"--widen-at {widen_at} leaves nothing of {self.iterations} iterations "
                            "to train the wider net; widen earlier, or train longer")
        return self.replace(widen_at=widen_at)

    def is_evaluated(self, step: int) -> bool:
        """The nets are scored just before and after the widening too."""
        return step + 1 == self.widen_at or super().is_evaluated(step)
