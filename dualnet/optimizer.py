"""The optimiser of one part of a net, from the settings that all methods share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.modules.batchnorm import _NormBase

from dualnet import caffe, schedules
from dualnet.caffe.params import param_groups
from dualnet.caffe.solver_file import read_solver
from dualnet.config import TrainConfig, choose
from dualnet.errors import UserError
from dualnet.optim.yellowfin import YellowFin

Groups = list[dict[str, Any]]


def sgd(groups: Groups, settings: TrainConfig, lr: float) -> torch.optim.Optimizer:
    """Torch's SGD, or Caffe's with --solver caffe."""
    if settings.solver == "caffe":
        return caffe.SGD(groups, lr=lr, momentum=settings.momentum)
    return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum)


def nesterov(groups: Groups, settings: TrainConfig, lr: float) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum."""
    return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=True)


def yellowfin(groups: Groups, settings: TrainConfig, lr: float) -> torch.optim.Optimizer:
    """YellowFin, which finds its own rate; the schedule counts relative to its start."""
    return YellowFin([{**group, "multiple": group["multiple"] / (lr or 1.0)} for group in groups])


# What --optimizer names.  Before each step, "lr" of each group is set to the rate of the schedule
# times the group's "multiple"; of YellowFin it is the factor on the rate.
OPTIMIZERS: dict[str, Callable[[Groups, TrainConfig, float], torch.optim.Optimizer]] = {
    "sgd": sgd, "nesterov": nesterov, "yellowfin": yellowfin}


class Optimizer:
    """SGD whose learning rate follows the schedule of the settings, or the solver of a prototxt.

    lr          learning rate at step 0; settings.lr is not read, since two parts may differ in it
    part        which of the files of --solver-prototxt counts, from 0
    kind        one of OPTIMIZERS
    schedule    in place of that of the settings
    norm_decay  decay of scales and shifts of a normalisation, as a multiple of their layer's
    """

    def __init__(self, net: nn.Module, settings: TrainConfig, lr: float, part: int = -1, *,
                 kind: str = "sgd", schedule: schedules.Schedule | None = None,
                 norm_decay: float = 1.0) -> None:
        if settings.solver_prototxt:
            found = read_solver(Path(settings.solver_prototxt.split(",")[part].strip()))
            groups = [{**group, "multiple": 1.0} for group in param_groups(net)]
            self._schedule = found.rate
            self._sgd: torch.optim.Optimizer = found.optimizer(groups, is_mean=True)
            return
        self._schedule = schedule or schedule_of(settings, lr)
        groups = (_groups_of_file(net, settings) if settings.prototxt
                  else _groups(net, settings, norm_decay))
        self._sgd = OPTIMIZERS[kind](groups, settings, lr)

    def lr(self, step: int) -> float:
        """The learning rate of the weights at `step`."""
        return self._schedule(step)

    def zero_grad(self) -> None:
        """Drop the gradients of the last iteration."""
        self._sgd.zero_grad(set_to_none=True)

    def unscale(self, scaler: GradScaler) -> None:
        """Divide the gradients by the scale of the loss that they come from."""
        scaler.unscale_(self._sgd)

    def step(self, step: int, scaler: GradScaler | None = None) -> None:
        """Update the weights by the gradients they hold, at the rate of `step`.

        scaler  of the loss: leaves the weights as they are if a gradient is not finite
        """
        key = "lr_factor" if isinstance(self._sgd, YellowFin) else "lr"
        for group in self._sgd.param_groups:
            group[key] = self._schedule(step) * group["multiple"]
        if scaler is None:
            self._sgd.step()
        else:
            scaler.step(self._sgd)

    def tuned(self) -> dict[str, float]:
        """What the optimiser has chosen itself for the last step; empty if it chooses nothing."""
        tuning = getattr(self._sgd, "tuning", None)
        return {} if tuning is None else tuning._asdict()

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


def _groups(net: nn.Module, settings: TrainConfig, norm_decay: float = 1.0) -> Groups:
    """Weights, then biases, apart where their rate or decay is."""
    norms = {name for name, module in net.named_modules() if isinstance(module, _NormBase)}
    rates, decays = settings.layer_lrs(), settings.layer_decays()
    if isinstance(net, nn.Sequential):      # of a part of a net the other layers are not known
        for flag, layers in (("--layer-lr", rates), ("--layer-decay", decays)):
            for layer in layers:
                choose(f"layer in {flag}", layer, dict(net.named_children()))
    named = sorted(net.named_parameters(), key=lambda item: item[0].endswith("bias"))
    groups: dict[tuple[bool, float, float], dict[str, Any]] = {}
    for name, parameter in named:
        is_bias, path = name.endswith("bias"), name.rpartition(".")[0]
        multiple = _of_layer(rates, path, 1.0) * (settings.bias_lr if is_bias else 1.0)
        decay = (_of_layer(decays, path, settings.weight_decay)
                 * (settings.bias_decay if is_bias else 1.0))
        decay *= norm_decay if path in norms else 1
        group = groups.setdefault((is_bias, multiple, decay), {
            "params": [], "multiple": multiple, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def _of_layer(numbers: Mapping[str, float], path: str, default: float) -> float:
    """The number of the layer that holds what stands at `path`: block1_0 of "body.block1_0.conv1",
    whose first word is the part of a cut net."""
    return next((numbers[word] for word in path.split(".") if word in numbers), default)


def _groups_of_file(net: nn.Module, settings: TrainConfig) -> Groups:
    """By lr_mult and decay_mult of the net's prototxt."""
    return [{"params": group["params"], "multiple": group["lr_mult"],
             "weight_decay": settings.weight_decay * group["decay_mult"]}
            for group in param_groups(net)]


def schedule_of(settings: TrainConfig, lr: float) -> schedules.Schedule:
    """--lr-schedule, from `lr` on.  Raises UserError for one that needs a file."""
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
