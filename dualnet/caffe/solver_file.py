"""A solver prototxt: its rates, its optimiser, its net, and what of it is not carried out here."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dualnet.caffe import prototxt
from dualnet.caffe.definition import NetDefinition, NetState, definition_of, read_net
from dualnet.caffe.prototxt import Message
from dualnet.caffe.rates import POLICIES, Rate, rate
from dualnet.caffe.schema import Record, decode
from dualnet.caffe.solvers import SOLVERS, Solver, solver
from dualnet.config import nearest

_OLD_TYPES = {name.upper(): name for name in SOLVERS}
_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")
_RATE_FIELDS = ("gamma", "power", "stepsize", "stepvalue", "max_iter")
_SOLVER_FIELDS = ("momentum", "weight_decay", "regularization_type", "clip_gradients", "iter_size",
                  "delta", "momentum2", "rms_decay")
# Fields that change nothing in the weights, and what does their work in dualnet.
_NOTES = {
    "snapshot": "checkpoints are those of the run folder",
    "snapshot_prefix": "checkpoints are those of the run folder",
    "snapshot_format": "checkpoints are those of the run folder",
    "snapshot_diff": "checkpoints are those of the run folder",
    "snapshot_after_train": "the last weights are always kept",
    "solver_mode": "--device chooses the device", "device_id": "--device chooses the device",
    "display": "--log-every chooses the lines of metrics",
    "average_loss": "metrics hold the loss of each iteration",
    "test_net": "the test images are those of the data set",
    "test_net_param": "the test images are those of the data set",
    "test_state": "the test images are those of the data set",
    "test_iter": "a test takes all test images",
    "test_initialization": "there is no test before the first iteration",
    "test_compute_loss": "a test always gives the loss", "debug_info": "not printed",
    "layer_wise_reduce": "it is about several GPUs", "weights": "weights are drawn from the seed"}


@dataclasses.dataclass(frozen=True)
class SolverFile:
    """A solver prototxt as read.

    type           SGD, Nesterov, AdaGrad, RMSProp, AdaDelta or Adam
    rate           the learning rate of each iteration, counted from 0
    max_iter       updates of the weights
    iter_size      batches per update
    test_interval  updates between two tests; 0: no test on the way
    seed           of the random numbers; None: the file leaves it open
    state          the state of the net in training
    fields         arguments of the solver, momentum and the like
    notes          what the file asks for and dualnet does in another way, a sentence each
    """

    record: Record
    type: str
    rate: Rate
    max_iter: int
    iter_size: int
    test_interval: int
    seed: int | None
    state: NetState
    fields: dict[str, Any]
    notes: tuple[str, ...]

    def optimizer(self, params: Iterable[Any], *, is_mean: bool = False) -> Solver:
        """The solver for weights or groups of them, `params.param_groups(net)`.

        is_mean  the gradients are means over iter_size batches already, not sums
        """
        fields = dict(self.fields)
        if is_mean:
            if fields["clip_gradients"] > 0:
                fields["clip_gradients"] /= self.iter_size
            fields["iter_size"] = 1
        return solver(self.type, params, self.rate(0), **fields)

    def substance(self) -> dict[str, Any]:
        """What decides the weights: all fields but the net and those that `notes` are about."""
        return {name: value for name, value in sorted(self.record.given().items())
                if name not in _NOTES and name not in _NET_FIELDS}

    def net(self) -> NetDefinition:
        """The definition of the net to train.  Raises PrototxtError or UserError."""
        name = _one_net(self.record)
        if name.endswith("_param"):
            return definition_of(self.record[name])
        return read_net(self.net_path() or Path())

    def net_path(self) -> Path | None:
        """The file of the net to train; None if the net stands in the solver's file.

        Found from the working directory, as in Caffe, or else from the folder of the solver's file.
        """
        name = _one_net(self.record)
        if name.endswith("_param"):
            return None
        path = Path(self.record[name])
        beside = Path(self.record.at.source).parent / path
        for candidate in (path, beside):
            if candidate.is_file():
                return candidate
        raise self.record.fail(f"'{name}' names {path}, which is neither in the working directory "
                               f"nor beside the solver ({beside})", name)


def read_solver(path: Path) -> SolverFile:
    """The solver in a file.  Raises PrototxtError, or UserError if it cannot be read."""
    return solver_of(prototxt.read(path))


def solver_of(message: Message) -> SolverFile:
    """The solver that a tree holds.  Raises PrototxtError."""
    record = decode(message, "SolverParameter")
    for name in ("base_lr", "lr_policy", "max_iter"):
        if name not in record:
            raise record.fail(f"a solver needs '{name}'")
    _check_numbers(record)
    state = record["train_state"]
    found = SolverFile(
        record, _type(record), _rate(record), record["max_iter"], record["iter_size"],
        record["test_interval"], record["random_seed"] if record["random_seed"] >= 0 else None,
        NetState("TRAIN", state["level"], tuple(state["stage"])),
        {name: record[name] for name in _SOLVER_FIELDS if record[name] is not None},
        tuple(f"{record.where(name)}: '{name}' has no effect here: {reason}"
              for name, reason in _NOTES.items() if name in record))
    _try_optimizer(found)
    return found


def _check_numbers(record: Record) -> None:
    for name, value in record.given().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise record.fail(f"'{name}' must be finite, found {value:g}", name)
    for name, minimum in (("max_iter", 0), ("iter_size", 1), ("test_interval", 0), ("base_lr", 0),
                          ("momentum", 0), ("weight_decay", 0)):
        value = record[name]
        if value is not None and value < minimum:
            raise record.fail(f"'{name}' must be at least {minimum}, found {value:g}", name)
    if record["momentum"] is not None and record["momentum"] >= 1:
        raise record.fail(f"'momentum' must be less than 1, found {record['momentum']:g}",
                          "momentum")


def _type(record: Record) -> str:
    """`type: "Adam"`, or the old form `solver_type: ADAM`."""
    if "solver_type" in record:
        if "type" in record:
            raise record.fail("'type' or, in the old form, 'solver_type' is to be given, found "
                              "both", "solver_type")
        return _OLD_TYPES[record["solver_type"]]
    name: str = record["type"]
    if name not in SOLVERS:
        raise record.fail(f"unknown solver type '{name}'{nearest(name, SOLVERS)} "
                          f"(known: {', '.join(SOLVERS)})", "type")
    return name


def _rate(record: Record) -> Rate:
    policy = record["lr_policy"]
    if policy not in POLICIES:
        raise record.fail(f"unknown lr_policy '{policy}'{nearest(policy, POLICIES)} "
                          f"(known: {', '.join(POLICIES)})", "lr_policy")
    fields = {name: record[name] for name in _RATE_FIELDS if name in record}
    try:
        found = rate(policy, record["base_lr"], **fields)
        for step in (0, max(record["max_iter"] - 1, 0)):
            found(step)
        return found
    except (ValueError, ArithmeticError) as error:
        raise record.fail(str(error), "lr_policy") from None


def _try_optimizer(found: SolverFile) -> None:
    """Raises PrototxtError for fields that the solver refuses."""
    try:
        found.optimizer([torch.zeros(1)])
    except ValueError as error:
        raise found.record.fail(str(error), "type") from None


def _one_net(record: Record) -> str:
    """Which field names the net to train."""
    given = [name for name in _NET_FIELDS if name in record]
    if len(given) != 1:
        raise record.fail(f"a solver needs one of {', '.join(_NET_FIELDS)}, found "
                          f"{', '.join(given) or 'none'}", given[-1] if given else "")
    return given[0]
