"""Settings and nets of a run that is described by Caffe's files.

--prototxt and --solver-prototxt name one file each for a single net, or two, "NET1,NET2", for a
dual net.  What the files say becomes settings; a setting given beside them must say the same, but
for those in FREE, which win.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualnet import nets
from dualnet.config import TrainConfig, spelling
from dualnet.errors import UserError
from dualnet.nets import own

if TYPE_CHECKING:
    from torch import nn

    from dualnet.caffe.definition import NetDefinition
    from dualnet.caffe.solver_file import SolverFile
    from dualnet.nets.prototxt import FileNet

FREE = ("iterations", "seed", "eval_every", "loss", "denominator")


def settings_from(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The settings given, and those that the files add.

    method  "dual" or "single"
    Raises UserError where the two disagree, PrototxtError for a file that cannot be used.
    """
    values = dict(values)
    if not (values.get("prototxt") or values.get("solver_prototxt")):
        return values
    files = _read(values.get("prototxt", ""), values.get("solver_prototxt", ""))
    _check_number(len(files.paths), method)
    # Data layers do not say how large their images are; build_net sees the real ones.
    image_shape = (1, 28, 28) if values.get("data") == "mnist" else (3, 32, 32)
    found = _from_net(files, _net_of(files, image_shape), method)
    if files.solvers:
        found |= _from_solvers(files, found["batch_size"], method)
    for name, value in found.items():
        if values.get(name, value) != value and name not in FREE:
            said = "nothing of it" if value == "" else value
            raise UserError(f"{spelling(name)} {values[name]} contradicts the files of --prototxt "
                            f"and --solver-prototxt, which say {said}; leave it out, or change the "
                            "file")
    # Whole paths, so that the run can be used from any folder.
    places = {"prototxt": _whole(map(str, files.paths)),
              "solver_prototxt": _whole(_split(values.get("solver_prototxt", "")))}
    return {**found, **values, **places}


def notes(settings: TrainConfig) -> list[str]:
    """What the solvers ask for and dualnet does in another way, a sentence each."""
    if not settings.solver_prototxt:
        return []
    solvers = _read(settings.prototxt, settings.solver_prototxt).solvers
    return [note for solver in solvers for note in solver.notes]


def build_net(settings: TrainConfig, input_shape: tuple[int, ...],
              classes: int) -> "nn.Sequential":
    """The net of the settings, by its name, by the user's function or from Caffe's files, before
    its weights are drawn.

    Raises UserError if a file has changed since the settings were made, or does not fit the data.
    """
    if settings.net_source:
        return own.build(own.parse(settings.net_source), settings.net_sha256, input_shape, classes,
                         settings.seed)
    if not settings.prototxt:
        return nets.build(settings.net, input_shape, classes)
    files = _read(settings.prototxt, settings.solver_prototxt)
    if files.sha256 != settings.prototxt_sha256:
        raise UserError(f"{settings.prototxt} or {settings.solver_prototxt or 'its net'} has "
                        f"changed since this run began: its sha256 is {files.sha256}, expected "
                        f"{settings.prototxt_sha256}; put the file back, or start a new run")
    found = _net_of(files, input_shape)
    if found.input_shape != tuple(input_shape):
        raise UserError(f"{files.paths[0]} takes images of {_sides(found.input_shape)}, but those "
                        f"of --data {settings.data} are {_sides(input_shape)}")
    if found.num_outputs != classes:
        raise UserError(f"{files.paths[-1]} gives {found.num_outputs} scores, but --data "
                        f"{settings.data} has {classes} classes")
    return found.net


class _Files(NamedTuple):
    """The files of a run: nets and, if they are given, their solvers."""

    paths: list[Path]
    definitions: "list[NetDefinition]"
    solvers: "list[SolverFile]"
    sha256: str


def _read(prototxt: str, solver_prototxt: str) -> _Files:
    from dualnet.caffe.definition import read_net
    from dualnet.caffe.solver_file import read_solver

    solvers = [read_solver(Path(path)) for path in _split(solver_prototxt)]
    paths = [Path(path) for path in _split(prototxt)] or [_path_of(solver) for solver in solvers]
    if solvers and len(solvers) != len(paths):
        raise UserError(f"--solver-prototxt needs a solver for each of {len(paths)} nets, found "
                        f"{len(solvers)}")
    definitions = [read_net(path) for path in paths]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(_content(path))
    for solver in solvers:
        digest.update(repr(solver.substance()).encode())
    return _Files(paths, definitions, solvers, digest.hexdigest())


def _split(paths: str) -> list[str]:
    return [path.strip() for path in paths.split(",")] if paths else []


def _whole(paths: Iterable[str]) -> str:
    return ",".join(str(Path(path).resolve()) for path in paths)


def _path_of(solver: "SolverFile") -> Path:
    path = solver.net_path()
    if path is None:
        raise solver.record.fail("a net inside a solver is not trained here; write it to a file "
                                 "and name that as 'net'")
    return path


def _content(path: Path) -> bytes:
    """What a file says, without its comments and spaces."""
    from dualnet.caffe import prototxt

    return prototxt.to_text(prototxt.read(path)).encode("utf-8", "surrogateescape")


def _check_number(number: int, method: str) -> None:
    if number > 2 or (method == "dual" and number != 2):
        expected = "two nets, NET1,NET2" if method == "dual" else "one net, or two to join"
        raise UserError(f"--prototxt or --solver-prototxt of the method {method} takes {expected}, "
                        f"found {number}")


def _net_of(files: _Files, image_shape: tuple[int, ...]) -> "FileNet":
    from dualnet.caffe.definition import NetState
    from dualnet.nets.prototxt import dual_net, single_net

    states = [solver.state for solver in files.solvers] or [NetState()] * len(files.paths)
    if len(files.paths) == 2:
        return dual_net(files.definitions, states, image_shape)
    return single_net(files.definitions[0], states[0], image_shape)


def _from_net(files: _Files, net: "FileNet", method: str) -> dict[str, Any]:
    names = [definition.name for definition in files.definitions]
    found: dict[str, Any] = {
        "prototxt_sha256": files.sha256,
        "net": re.sub(r"[^\w.+-]", "_", "+".join(filter(None, names))) or "prototxt",
        "batch_size": net.batch_size, "bias_lr": 1.0, "bias_decay": 1.0, "layer_lr": "",
        "layer_decay": "", **net.preprocessing}
    if method == "dual":
        found |= {"cut": net.cut, "before_activation": net.before_activation, "loss": net.loss,
                  "denominator": net.denominator}
    return found


def _from_solvers(files: _Files, batch_size: int, method: str) -> dict[str, Any]:
    solvers = files.solvers
    for field in ("max_iter", "iter_size", "seed"):
        if len({getattr(solver, field) for solver in solvers}) > 1:
            both = " and ".join(str(getattr(solver, field)) for solver in solvers)
            name = "random_seed" if field == "seed" else field
            raise solvers[-1].record.fail(f"'{name}' must be the same in both solvers, found "
                                          f"{both}", name)
    last = solvers[-1]
    found: dict[str, Any] = {
        "iterations": last.max_iter, "batch_size": batch_size * last.iter_size,
        "eval_every": last.test_interval, "solver": "caffe", "lr_schedule": "solver",
        "lr": last.rate(0), "momentum": last.fields.get("momentum", 0.0),
        "weight_decay": last.fields.get("weight_decay", 0.0)}
    if last.max_iter < 1:
        raise last.record.fail(f"'max_iter' must be at least 1, found {last.max_iter}", "max_iter")
    if last.seed is not None:
        found["seed"] = last.seed
    if method == "dual":
        found["lr_net1"] = solvers[0].rate(0)
    return found


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
