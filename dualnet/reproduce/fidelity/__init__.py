"""How far dualnet's Caffe semantics are from arrays that Caffe itself wrote.

A set of golden arrays is a folder: `cases.json` with the parameters and shapes of the layer and
solver cases and a `.npz` for each file it names; `e2e_topology.json` with the nets of the
end-to-end runs, `e2e_inputs.npz` and a `.npz` for each variant.  Everything that is computed here
is read from them.
"""

from pathlib import Path

from dualnet.errors import UserError
from dualnet.reproduce.fidelity import fillers, layers, nets, solvers
from dualnet.reproduce.fidelity.golden import Case, CaseResult, Golden
from dualnet.reproduce.fidelity.table import write_table

__all__ = ["CaseResult", "compare", "compare_case", "list_cases", "write_table"]

RUNNERS = {
    "conv": layers.convolution, "inner_product": layers.inner_product, "pool": layers.pooling,
    "relu": layers.relu, "lrn": layers.lrn, "dropout": layers.dropout,
    "softmax_loss": layers.softmax_loss, "euclidean_loss": layers.euclidean_loss,
    "accuracy": layers.accuracy, "fillers": fillers.filler, "solver": solvers.solver}


def list_cases(folder: Path) -> list[tuple[str, str]]:
    """(file, case) of everything in a set; an end-to-end run is a file with the case "".

    Raises UserError if the folder has neither cases nor nets.
    """
    golden = Golden(folder)
    if not golden.cases and not golden.topology:
        raise UserError(f"{folder} has no golden arrays: expected cases.json or e2e_topology.json "
                        "with the .npz files they name")
    cases = [(file, name) for file, names in golden.cases.items() for name in names
             if (file, name) != ("solver", solvers.INPUTS)]
    return cases + [(file, "") for file in nets.files(golden.topology)]


def compare(folder: Path) -> list[CaseResult]:
    """Every case of a set."""
    return [compare_case(folder, file, case) for file, case in list_cases(folder)]


def compare_case(folder: Path, file: str, case: str) -> CaseResult:
    """One case: what Caffe wrote against what dualnet computes, array by array.

    Raises UserError if the case has a file or array that is not understood.
    """
    golden = Golden(folder)
    try:
        if file in nets.files(golden.topology):
            return CaseResult(file, case, tuple(nets.end_to_end(golden, file)))
        if file in RUNNERS:
            return _compare(Case(golden, file, case))
    except KeyError as error:
        raise UserError(f"{file} {case} lacks {error}, which is needed to compare it") from error
    raise UserError(f"there is nothing to compare '{file}' with (known: {', '.join(RUNNERS)})")


def _compare(case: Case) -> CaseResult:
    differences = tuple(RUNNERS[case.file](case))
    if not differences:
        raise UserError(f"{case.file} '{case.name}' has no array to compare with")
    return CaseResult(case.file, case.name, differences, case.undefined, case.unread())
