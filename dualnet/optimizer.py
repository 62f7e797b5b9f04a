"""The optimiser of one part of a net, from the settings that all methods share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualnet import caffe, schedules
from dualnet.caffe.params import param_groups
from dualnet.caffe.solver_file import read_solver
from dualnet.config import TrainConfig, choose
from dualnet.errors import UserError


class Optimizer:
    """SGD whose learning rate follows the schedule of the settings, or the solver of a prototxt.

    lr    learning rate at step 0; settings.lr is not read, since two parts may differ in it
    part  which of the files of --solver-prototxt counts, from 0
    """

    def __init__(self, net: nn.Module, settings: TrainConfig, lr: float, part: int = -1) -> None:
        if settings.solver_prototxt:
            found = read_solver(Path(settings.solver_prototxt.split(",")[part].strip()))
            groups = [{**group, "multiple": 1.0} for group in param_groups(net)]
            self._schedule = found.rate
            self._sgd: torch.optim.Optimizer = found.optimizer(groups, is_mean=True)
            return
        self._schedule = _schedule(settings, lr)
        sgd = caffe.SGD if settings.solver == "caffe" else torch.optim.SGD
        groups = _groups_of_file(net, settings) if settings.prototxt else _groups(net, settings)
        self._sgd = sgd(groups, lr=lr, momentum=settings.momentum)

    def lr(self, step: int) -> float:
        """The learning rate of the weights at `step`."""
        return self._schedule(step)

    def zero_grad(self) -> None:
        """Drop the gradients of the last iteration."""
        self._sgd.zero_grad(set_to_none=True)

    def step(self, step: int) -> None:
        """Update the weights by the gradients they hold, at the rate of `step`."""
        for group in self._sgd.param_groups:
            group["lr"] = self._schedule(step) * group["multiple"]
        self._sgd.step()

    def state_dict(self) -> dict[str, Any]:
        """The momentum of every weight."""
        return self._sgd.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the momentum of `state_dict`; the tensors are copied to the weights' device."""
        self._sgd.load_state_dict(state)

    def momentum(self, net: nn.Module) -> dict[str, Tensor]:
        """The momentum of each parameter of `net` by its name; empty before the first update."""
        found = {name: self._buffer(parameter) for name, parameter in net.named_parameters()}
        return {name: buffer for name, buffer in found.items() if buffer is not None}

    def set_momentum(self, net: nn.Module, momentum: Mapping[str, Tensor]) -> None:
        """Go on with this momentum, by name; parameters that it does not name begin with none."""
        for name, parameter in net.named_parameters():
            if name in momentum:
                self._sgd.state[parameter][self._key] = momentum[name].to(parameter).clone()

    @property
    def _key(self) -> str:
        return "update" if isinstance(self._sgd, caffe.SGD) else "momentum_buffer"

    def _buffer(self, parameter: nn.Parameter) -> Tensor | None:
        buffer: Tensor | None = self._sgd.state.get(parameter, {}).get(self._key)
        return buffer


def _groups(net: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """Weights, then biases, apart where their rate or decay is."""
    rates, decays = settings.layer_lrs(), settings.layer_decays()
    if isinstance(net, nn.Sequential):      # of a part of a net the other layers are not known
        for flag, layers in (("--layer-lr", rates), ("--layer-decay", decays)):
            for layer in layers:
                choose(f"layer in {flag}", layer, dict(net.named_children()))
    named = sorted(net.named_parameters(), key=lambda item: item[0].endswith("bias"))
    groups: dict[tuple[bool, float, float], dict[str, Any]] = {}
    for name, parameter in named:
        is_bias, layer = name.endswith("bias"), name.rpartition(".")[0].rpartition(".")[2]
        multiple = rates.get(layer, 1.0) * (settings.bias_lr if is_bias else 1.0)
        decay = decays.get(layer, settings.weight_decay) * (settings.bias_decay if is_bias else 1)
        group = groups.setdefault((is_bias, multiple, decay), {
            "params": [], "multiple": multiple, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def _groups_of_file(net: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """By lr_mult and decay_mult of the net's prototxt."""
    return [{"params": group["params"], "multiple": group["lr_mult"],
             "weight_decay": settings.weight_decay * group["decay_mult"]}
            for group in param_groups(net)]


def _schedule(settings: TrainConfig, lr: float) -> schedules.Schedule:
    if settings.lr_schedule == "solver":
        raise UserError("--lr-schedule solver needs --solver-prototxt")
    if settings.lr_schedule == "tail":
        return schedules.tail(lr, settings.iterations)
    if settings.lr_schedule == "step":
        return schedules.step_decay(lr, factor=settings.lr_factor, every=settings.lr_step)
    return schedules.constant(lr)


def gradient_norm(net: nn.Module) -> float:
    """Euclidean norm of all gradients of `net`; 0 where there are none."""
    norms = [torch.linalg.vector_norm(p.grad) for p in net.parameters() if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
