"""Settings of the training of residual nets.  No torch."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from dualnet.config import TrainConfig, changed, choose, flag
from dualnet.errors import UserError
from dualnet.nets import NETS

RESNET = "resnet"
PREACT = "preact-"
AUTOCAST = ("bfloat16", "float16")
# The keys of OPTIMIZERS in optimizer.py, which needs torch.
OPTIMIZERS = ("sgd", "nesterov", "yellowfin")

# Solomatov and Stepanov 2017, whose "20" is n, the blocks of a stage.  An epoch has 390 batches of
# 128, 48 of 1024.  Normalize(0.5, 0.5) is scale 1/127.5 with another mean.  The large batch warms
# up within the 200 epochs, they added three in front.
_POSTER = {
    "net": "resnet122-projection", "mean": "channel", "scale": 1 / 127.5, "mirror": True, "crop": 4,
    "lr": 0.1, "lr_schedule": "step", "lr_factor": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
_SMALL_BATCH = {"batch_size": 128, "iterations": 200 * 390, "lr_step": 80 * 390}
_LARGE_BATCH = {"batch_size": 1024, "iterations": 200 * 48, "lr_step": 80 * 48, "base_batch": 128}


@dataclasses.dataclass(frozen=True)
class ResnetConfig(TrainConfig):
    """What `train resnet` needs besides the settings of every method."""

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "poster-baseline": {**_POSTER, **_SMALL_BATCH},
        "poster-best": {**_POSTER, **_LARGE_BATCH, "preact": True, "stochastic_depth": "uniform",
                        "survival": 0.5, "warmup_epochs": 3.0},
        # Goyal et al. 2017, sections 2 and 5.1, with the rate of CIFAR-10.
        "large-batch": {**_POSTER, **_LARGE_BATCH, "net": "resnet20", "warmup_epochs": 5.0,
                        "optimizer": "nesterov", "zero_gamma": True, "norm_decay": 0.0}}

    net: str = changed(TrainConfig, "net", "resnet20")
    mirror: bool = changed(TrainConfig, "mirror", True)
    crop: int = changed(TrainConfig, "crop", 4)
    batch_size: int = changed(TrainConfig, "batch_size", 128,
                              help="images per iteration, of all processes together")
    lr: float = changed(TrainConfig, "lr", 0.1)
    weight_decay: float = changed(TrainConfig, "weight_decay", 1e-4)
    precision: str = changed(
        TrainConfig, "precision", "float32", choices=("float32", "float64", *AUTOCAST),
        help="number format; bfloat16 and float16 are those of convolutions and products under"
        " autocast, with weights in float32, and float16 scales the loss; tests are in float32")
    preact: bool = flag(False, "pre-activated blocks: preact-NAME for --net NAME", group="resnet")
    stochastic_depth: str = flag(
        "none", "leave out blocks at random in each iteration: each with the same probability, or"
        " the deeper the more often", choices=("none", "linear", "uniform"), group="resnet")
    survival: float = flag(0.5, "probability that a block is kept: with linear the last one, with"
                           " uniform each", group="resnet")
    optimizer: str = flag("sgd", "optimiser; yellowfin tunes its rate and momentum, and of the"
                          " rates by flags only their change over time counts",
                          choices=OPTIMIZERS, group="resnet")
    meprop: float = flag(0.0, "outputs of each layer that the backward pass follows, those with the"
                         " largest gradients (meProp); below 1 a share of them; 0 follows all",
                         minimum=0, group="resnet")
    meprop_by_sample: bool = flag(False, "each image has its own outputs of --meprop, instead of"
                                  " the same for the batch", group="resnet")
    base_batch: int = flag(0, "batch that --lr is meant for; with another --batch-size the rate is"
                           " scaled in proportion; 0 takes --lr as it is", minimum=0,
                           group="resnet")
    warmup_epochs: float = flag(0.0, "epochs in which the rate rises from --lr to the scaled one",
                                minimum=0, group="resnet")
    zero_gamma: bool = flag(False, "begin with 0 as the last scale of each branch, so that each"
                            " block starts as its shortcut", group="resnet")
    norm_decay: float = flag(1.0, "decay of scales and shifts of batch normalisation, as a multiple"
                             " of --weight-decay", minimum=0, group="resnet")
    on_device: bool | None = flag(None, "keep the training images in the memory of the device and"
                                  " augment them there; the batches are the same; auto: on a GPU",
                                  local=True, group="machine")
    compile: bool = flag(False, "compile with torch.compile: the net, or with --stochastic-depth"
                         " each branch", group="machine")
    channels_last: bool = flag(False, "keep images with their channels last", group="machine")
    rank_timeout: float = flag(1800.0, "seconds that a process waits for the others under torchrun,"
                               " tests of the first one included", minimum=0, local=True,
                               group="machine")

    @property
    def weight_format(self) -> str:
        """Number format of the weights."""
        return "float32" if self.precision in AUTOCAST else self.precision

    @property
    def scaled_lr(self) -> float:
        """Learning rate for the batch: --lr times --batch-size / --base-batch.

        Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.1.
        """
        return self.lr * self.batch_size / self.base_batch if self.base_batch else self.lr

    def resolved(self) -> Self:
        """With the net that --preact names.  Raises UserError for switches that do not fit."""
        if self.prototxt or self.solver_prototxt:
            raise UserError("Caffe's files are for `train single` and `train dual`; give --net and "
                            "the rates by flags")
        if not 0 < self.survival <= 1:
            raise UserError(f"--survival is above 0 and at most 1, found {self.survival:g}")
        if self.warmup_epochs and not self.base_batch:
            raise UserError("--warmup-epochs rises from --lr to the rate scaled by --base-batch, "
                            "which is missing; give both or neither")
        if self.optimizer == "nesterov" and (self.solver == "caffe" or self.momentum == 0):
            raise UserError("--optimizer nesterov needs --solver torch and a --momentum above 0")
        if self.optimizer == "yellowfin" and self.solver == "caffe":
            raise UserError("--optimizer yellowfin is no form of SGD; leave out --solver caffe")
        if self.meprop and (self.compile or self.precision in AUTOCAST):
            raise UserError("--meprop has backward passes of its own, which neither --compile nor "
                            f"autocast knows; leave out --compile and --precision {self.precision}")
        if not self.preact or self.net.startswith((PREACT, "wrn-")):
            return self
        if self.net_source:
            raise UserError(f"--preact is for the networks of this package, not for "
                            f"{self.net_source}; leave it out")
        choose("pre-activated network", PREACT + self.net, [n for n in NETS if PREACT in n])
        return self.replace(net=PREACT + self.net)
