"""Settings of the dual net, and the table of its losses and controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from dualnet.config import AUTO, RECIPES, TrainConfig, flag
from dualnet.errors import UserError
from dualnet.methods.dual.wire import MOST_PARTS, roles_of


@dataclass(frozen=True)
class Loss:
    """What `--loss NAME` stands for.

    answer    what a role sends to the one before it: "y" (its activation), "y_star" (the ADMM
              step), "zero", or "earlier" (y of the batch before)
    function  the boundary loss, by its name in losses.py
    tie       whether the two copies of a shared layer start with the same weights
    weight    factor on the boundary losses in the backward pass
    lr_net1   default rate of all parts but the last by denominator; empty: the rate of the last
    updates   whether any part but the last is trained at all
    """

    answer: str
    function: str = "euclidean"
    tie: bool = False
    weight: float = 1.0
    lr_net1: Mapping[str, float] | None = None
    updates: bool = True


_EUCLIDEAN = dict.fromkeys(("constant", "exact", "target"), 1e-5)
_NORMALIZED = {"exact": 1e-3, "constant": 1e-4, "target": 1e-4}

LOSSES = {
    "admm": Loss("y_star", tie=True),
    "euclidean": Loss("y", lr_net1=_EUCLIDEAN),
    "normalized_both": Loss("y", "normalized_both", lr_net1=_NORMALIZED),
    "normalized": Loss("y", "normalized", lr_net1=_NORMALIZED),
    "euclidean_by_hand": Loss("y", "euclidean_by_hand", lr_net1=_EUCLIDEAN),
    # Controls: what the losses above must beat, and the mistakes of 2017 on purpose.
    "frozen": Loss("y", updates=False, lr_net1=dict.fromkeys(_EUCLIDEAN, 0.0)),
    "zero_target": Loss("zero", lr_net1=_EUCLIDEAN),
    "misaligned": Loss("earlier", lr_net1=_EUCLIDEAN),
    "no_loss_weight": Loss("y", weight=0.0, lr_net1=_EUCLIDEAN),
}
# What every implementation of a role must know to take part: which images, in which order, what
# crosses and when.  All else is how one part is trained, and compared where both sides have it.
COMMON = ("mean", "scale", "equalise", "bgr", "mirror", "crop", "iterations", "batch_size", "seed",
          "log_every", "eval_every", "cut", "before_activation", "loss", "denominator", "schedule",
          "net1_steps", "net2_steps", "message_dtype")
SCHEDULE_NAMES = ("lockstep", "pipelined", "async", "alternating")


@dataclass(frozen=True)
class DualConfig(TrainConfig):
    """What `train dual`, `net1`, `net2` and the roles of longer chains can be told."""

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "thesis": {**RECIPES["thesis"], "loss": "euclidean", "lr": 4e-3, "lr_net1": 5e-11,
                   "schedule": "alternating", "iterations": 8000}}

    cut: str = flag("pool2", "layer behind which the net is cut, or several for a chain, as in"
                    " pool1,pool2; auto: where the work is split best, as --list-cuts of `train"
                    " dual` shows", group="dual net")
    parts: int | None = flag(None, "parts that --cut auto makes (auto: 2); without --cut, it is"
                             " auto", minimum=2, local=True, group="dual net")
    before_activation: bool = flag(False, "compare the shared layer before its activation",
                                   group="dual net")
    loss: str = flag("admm", "loss at each cut, or a control", choices=tuple(LOSSES),
                     group="dual net")
    denominator: str = flag("constant", "denominator of the normalised losses: a constant in the"
                            " gradient, differentiated exactly, or the target's norm",
                            choices=("constant", "exact", "target"), group="dual net")
    schedule: str = flag("lockstep", "who works when: one after the other; the same in"
                         " micro-batches, at the same time; all but the last one batch ahead,"
                         " with weights that lack an update; updates in turns",
                         choices=SCHEDULE_NAMES, group="dual net")
    micro_batches: int = flag(4, "parts of a batch, with --schedule pipelined; batch"
                              " normalisation has the statistics of each part", minimum=1,
                              group="dual net")
    net1_steps: int = flag(50, "iterations of a turn of net1, or of each part of a chain but the"
                           " last, with --schedule alternating", minimum=1, group="dual net")
    net2_steps: int = flag(150, "iterations of a turn of the last part, with --schedule"
                           " alternating", minimum=1, group="dual net")
    lr_net1: float | None = flag(None, "learning rate of net1, or of all parts but the last; auto:"
                                 " that of the last for admm, 1e-5 for euclidean, 1e-4 for the"
                                 " normalised losses (1e-3 with --denominator exact)", minimum=0,
                                 group="dual net")
    tie: bool | None = flag(None, "start both copies of the shared layer with the same weights;"
                            " auto: yes for admm only", group="dual net")
    rho: float | None = flag(None, "penalty of admm, loss per squared activation; auto measures"
                             " it at step 0", minimum=0, group="dual net")
    rho_growth: float = flag(1.0, "factor on the penalty after each epoch, up to the limit of"
                             " stability", minimum=1, group="dual net")
    dual: str = flag("none", "scaled dual variable of admm: none, or one per training sample"
                     " (untied, without augmentation; memory: a copy of the activation per"
                     " image)", choices=("none", "sample"), group="dual net")
    message_dtype: str = flag("float32", "number format of the messages; int8 has a scale per"
                              " sample", choices=("int8", "bfloat16", "float16", "float32",
                                                  "float64"), group="dual net")
    nonfinite: str = flag("error", "what a message with nan or inf does",
                          choices=("error", "warn", "allow"), group="dual net")
    backend: str = flag("file", "how the roles reach each other: through a folder; or, at"
                        " MASTER_ADDR and MASTER_PORT, by torch.distributed with gloo (CPU memory,"
                        " any network) or nccl (GPUs; not verified)",
                        choices=("file", "gloo", "nccl"), local=True, group="exchange")
    window: int = flag(2, "messages in flight per channel", minimum=1, local=True,
                       group="exchange")
    transport: str = flag("auto", "how messages cross: a renamed file each, or memory that both"
                          " processes map (one host, local file system); auto: mapped where"
                          " possible", choices=("auto", "rename", "mapped"), local=True,
                          group="exchange")
    checksum: bool = flag(False, "a crc32 for mapped messages, too; files always have one",
                          local=True, group="exchange")
    fsync: str = flag("auto", "fsync each message; auto: on network file systems",
                      choices=("auto", "never", "always"), local=True, group="exchange")
    fs_profile: str = flag("auto", "what to take the exchange folder's file system for; auto goes"
                           " by its type, `doctor DIR` measures it",
                           choices=("auto", "local", "network"), local=True, group="exchange")
    handshake_timeout: float = flag(600.0, "seconds to wait for the other role to start",
                                    minimum=0, local=True, group="exchange")
    peer_timeout: float | None = flag(None, "seconds without a sign of life after which the other"
                                      " role counts as lost; auto: 120; on network file systems,"
                                      " and with gloo and nccl, where only a message is one, 300",
                                      minimum=0, local=True, group="exchange")
    progress_timeout: float = flag(1800.0, "seconds the other role may stay in one iteration",
                                   minimum=0, local=True, group="exchange")

    storage_timeout: float = flag(60.0, "seconds to try again while the disk is full or fails",
                                  minimum=0, local=True, group="exchange")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_cut()
        if self.loss == "normalized_both" and self.denominator == "target":
            raise UserError("normalized_both divides by both norms: --denominator must be constant"
                            " or exact, found target")
        if self.rho == 0:
            raise UserError("--rho must be above 0, found 0")
        if not LOSSES[self.loss].updates and self.lr_net1:
            raise UserError(f"--loss {self.loss} never updates net1, so --lr-net1 must be left"
                            f" out, found {self.lr_net1:g}")
        if self.ten_views:
            raise UserError("--ten-views is for nets in one process: leave it out, and the dual net"
                            " is tested on the middle of each image")
        if self.dual == "sample":
            self._check_dual()

        if self.num_micro_batches > self.batch_size:
            raise UserError(f"--micro-batches must be at most --batch-size {self.batch_size}, found"
                            f" {self.micro_batches}")

    @property
    def cuts(self) -> list[str]:
        """The layers behind which the net is cut."""
        return self.cut.split(",")

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the parts, in the order of the layers."""
        return roles_of(self.cut)

    def _check_cut(self) -> None:
        cuts = [word.strip() for word in self.cut.split(",")]
        object.__setattr__(self, "cut", ",".join(cuts))
        if not all(cuts) or (AUTO in cuts and len(cuts) > 1):
            raise UserError("--cut takes names of layers with commas between, as in pool1,pool2, or"
                            f" auto; found '{self.cut}'")
        most = max(len(self.roles), self.parts or 0)
        if most > MOST_PARTS:
            raise UserError(f"a net is cut into at most {MOST_PARTS} parts, found {most}; take away"
                            " cuts")
        if self.cut != AUTO and self.parts not in (None, len(self.roles)):
            raise UserError(f"--parts {self.parts} is for --cut auto, but --cut {self.cut} makes"
                            f" {len(self.roles)} parts; leave one out")

    def is_diagnosed(self, step: int) -> bool:
        """Whether y itself crosses in iteration `step`: on logged steps, or for the dual."""
        return self.is_logged(step) or self.dual == "sample"

    def is_rho_due(self, step: int, steps_per_epoch: int) -> bool:
        """Whether rho crosses in iteration `step`: at the start, and at each epoch if it grows."""
        if LOSSES[self.loss].answer != "y_star":
            return False
        return step == 0 or (self.rho_growth != 1 and step % steps_per_epoch == 0)

    @property
    def num_micro_batches(self) -> int:
        """Parts of a batch that are on their way at the same time; 1 without a pipeline."""
        return self.micro_batches if self.schedule == "pipelined" else 1

    def _check_dual(self) -> None:
        if self.loss != "admm" or self.resolved_tie():
            raise UserError("--dual sample needs --loss admm --no-tie: tied copies leave it zero")
        if self.mirror or self.crop or self.input_side:
            raise UserError("--dual sample needs each image to stay the same: leave out --mirror"
                            " and --crop, and --input-side")

    def resolved_tie(self) -> bool:
        """Whether the copies start equal, with auto decided by the loss."""
        return LOSSES[self.loss].tie if self.tie is None else self.tie

    def resolved(self) -> Self:
        """The same settings with every "auto" that depends on other settings decided."""
        lr_net1 = self.lr_net1
        if lr_net1 is None:
            rates = LOSSES[self.loss].lr_net1
            lr_net1 = self.lr if rates is None else rates[self.denominator]
        return self.replace(lr_net1=lr_net1 if LOSSES[self.loss].updates else None,
                            tie=self.resolved_tie())

    def agreement(self) -> dict[str, Any]:
        """What the roles compare before they start."""
        agreed = self.agreed()
        common = {name: agreed.pop(name) for name in COMMON}
        return {**common, "optional": agreed}
