"""The uncut net with switches that make residual nets train faster."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet.config import TrainConfig
from dualnet.data.batches import Batches
from dualnet.data.on_device import DeviceBatches
from dualnet.errors import UserError
from dualnet.methods.resnet.settings import RESNET, ResnetConfig
from dualnet.nets.initial import draw_weights
from dualnet.nets.residual import blocks_of, survival_by_layer, survivals
from dualnet.operations import num_parameters
from dualnet.optim.meprop import MeProp
from dualnet.optimizer import Optimizer, schedule_of
from dualnet.parallel import World
from dualnet.precision import autocast, scaler_of
from dualnet.schedules import warmup
from dualnet.supervised import Record, Supervised

ALONE = World()


def with_survival(settings: ResnetConfig, net: nn.Sequential) -> nn.Sequential:
    """`net`, whose blocks survive as --stochastic-depth says.  Raises UserError without blocks."""
    blocks = list(blocks_of(net))
    if not blocks and (settings.stochastic_depth != "none" or settings.zero_gamma):
        raise UserError(f"--net {settings.net} has no residual blocks, so --stochastic-depth and "
                        "--zero-gamma have no meaning; take a residual network such as resnet20")
    if settings.stochastic_depth != "none":
        found = survivals(settings.stochastic_depth, settings.survival, len(blocks))
        for (_, block), survival in zip(blocks, found, strict=True):
            block.survival = survival
    return net


def start_as_shortcuts(net: nn.Module) -> None:
    """Set the last scale of each branch to 0.

    Goyal et al. 2017, section 5.1.  Raises UserError where a branch ends with no normalisation.
    """
    for name, block in blocks_of(net):
        last = block.last_layer()
        if not isinstance(last, nn.BatchNorm2d):
            raise UserError(f"--zero-gamma: the branch of '{name}' ends with no normalisation, as "
                            "in all pre-activated networks; leave it out")
        nn.init.zeros_(last.weight)


class Resnet(Supervised):
    """One process of the training; all processes have the same weights after each iteration.

    batches  of this process: its share of each batch
    world    the processes among which the batch is shared
    """

    name = RESNET
    settings: ResnetConfig

    def __init__(self, settings: ResnetConfig, net: nn.Sequential, batches: Batches,
                 device: torch.device, world: World = ALONE) -> None:
        draw_weights(with_survival(settings, net), settings.seed)
        if settings.zero_gamma:
            start_as_shortcuts(net)
        self.world = world
        self._autocast = autocast(settings.precision, device)
        self._scaler = scaler_of(settings.precision, device)
        super().__init__(self.name, self.name, settings, net, batches, device)
        self._sparse: AbstractContextManager[Any] = nullcontext()
        if settings.meprop:
            self._sparse = MeProp(net, settings.meprop, unified=not settings.meprop_by_sample)
        self._blocks = dict(blocks_of(net))
        self._layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.net.to(memory_format=self._layout)  # type: ignore[call-overload]
        self._model = self._trained()
        is_on_device = (device.type == "cuda" if settings.on_device is None
                        else settings.on_device)
        self._on_device = DeviceBatches(batches, device) if is_on_device else None

    def _trained(self) -> nn.Module:
        """The net as it is called in training."""
        skips = self.settings.stochastic_depth != "none"
        model = self.world.parallel(self.net, self.device, skips=skips)
        if not self.settings.compile:
            return model
        if not skips:
            return cast(nn.Module, torch.compile(model))
        # Which blocks are skipped changes with the step: only what stays the same is compiled.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        for block in self._blocks.values():
            block.branch = torch.compile(block.branch)  # type: ignore[method-assign]
        return model

    def make_optimizer(self, settings: TrainConfig) -> Optimizer:
        """By --optimizer, at a rate that fits the batch and is reached gradually."""
        mine = self.settings
        schedule = schedule_of(settings, mine.scaled_lr)
        if mine.warmup_epochs:
            schedule = warmup(schedule, start=mine.lr,
                              steps=mine.warmup_epochs * self.batches.steps_per_epoch)
        return Optimizer(self.net, settings, mine.scaled_lr, kind=mine.optimizer,
                         schedule=schedule, norm_decay=mine.norm_decay)

    def forward(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        if self._on_device is not None:
            labels = self._on_device.labels(step)
            images = self._on_device.images(step).to(self.dtype)
        else:
            labels = torch.as_tensor(self.batches.labels(step)).to(self.device)
            images = self._images(self.batches.images(step))
        if images.dim() == 4:
            images = images.contiguous(memory_format=self._layout)
        with self._autocast, self._sparse:
            logits = self._model(images)
            return logits, labels, functional.cross_entropy(logits, labels)

    def backward(self, loss: Tensor) -> None:
        if self._scaler is None:
            loss.backward()
        else:
            self._scaler.scale(loss).backward()
            self.optimizer.unscale(self._scaler)

    def figures(self, logits: Tensor, labels: Tensor, loss: Tensor) -> Record:
        """Loss and accuracy of the whole batch; how many blocks were computed, and the scale."""
        mine = super().figures(logits, labels, loss)
        found: Record = dict(zip(mine, self.world.mean(list(mine.values())), strict=True))
        if self.settings.stochastic_depth != "none":
            found["resnet/blocks"] = sum(not block.is_skipped for block in self._blocks.values())
        if self._scaler is not None:
            found["resnet/loss_scale"] = self._scaler.get_scale()
        return found

    def update(self, step: int) -> None:
        self.optimizer.step(step, self._scaler)
        if self._scaler is not None:
            self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scale of the loss, too, and by which factor a test multiplies which layers."""
        return {**super().state_dict(), "survival": survival_by_layer(self.net),
                "scaler": self._scaler.state_dict() if self._scaler else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])

    def facts(self) -> Record:
        """Processes, size of the net, and how many blocks an iteration computes on average."""
        return {**super().facts(), "processes": self.world.size,
                "parameters": num_parameters(self.net),
                "blocks": len(self._blocks),
                "expected_blocks": sum(block.survival for block in self._blocks.values())}
