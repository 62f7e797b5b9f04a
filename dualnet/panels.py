"""What can be drawn of a run: which figures of the metrics share an axis."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Record = dict[str, Any]

# Roles that have a classification loss; "subs" stands for the mean of all sub-models.
SUBS = "subs"
PART = r"(sub|trunk)\d+"
WHOLE = ("net2", "single", SUBS, "merged", "teacher", "wider", "resnet", "boosted",
         "head", "whole", "resist")
# The roles of a chain between its first and its last, which are drawn as net1 and net2.
MIDDLE = tuple(f"middle{number}" for number in range(2, 8))
# Roles that go on from where another ends.
SECOND = {"merged": "merge", "wider": "widening", "head": "trunks rest", "whole": "all train"}


class Panel(NamedTuple):
    """One axis of the figure.

    metric  the word that asks for it
    keys    role -> name of its figure in the metrics
    names   role -> what that figure is called where several roles share the axis
    scale   "log", "linear" or "share" (0 to 1)
    """

    metric: str
    title: str
    keys: Mapping[str, str]
    names: Mapping[str, str] = {}
    scale: str = "log"


def _before_a_cut(key: str) -> dict[str, str]:
    """`key` of each role that has a part before a cut."""
    return dict.fromkeys(("net1", *MIDDLE), key)


PANELS = (
    Panel("loss", "loss at the cut", _before_a_cut("loss")),
    Panel("loss", "classification loss", dict.fromkeys(WHOLE, "loss"), scale="linear"),
    Panel("accuracy", "accuracy", dict.fromkeys(WHOLE, "accuracy"), scale="share"),
    Panel("norms", "mean norm at the cut", {**_before_a_cut("dual/norm_x"), "net2": "dual/norm_y"},
          {"net1": "conv3 of net1", "net2": "conv3' of net2"}),
    Panel("residual", "residual |x - y| / |y|", _before_a_cut("dual/residual")),
    Panel("grad_norm", "norm of all gradients", {
        **_before_a_cut("dual/grad_norm"), "net2": "dual/grad_norm", "single": "single/grad_norm",
        "subs": "partition/grad_norm", "merged": "partition/grad_norm",
        "teacher": "net2wider/grad_norm", "wider": "net2wider/grad_norm",
        "resnet": "resnet/grad_norm", "boosted": "boosted/grad_norm",
        "head": "monolith/grad_norm", "whole": "monolith/grad_norm",
        "resist": "resist/grad_norm"},
        {"net1": "net1", "net2": "net2, or a whole net"}),
    Panel("dead", "share of dead units", {**_before_a_cut("dual/dead_x"), "net2": "dual/dead_y"},
          {"net1": "conv3 of net1", "net2": "conv3' of net2"}, scale="share"),
)
METRICS = tuple(dict.fromkeys(panel.metric for panel in PANELS))
DEFAULT_METRICS = ("loss", "accuracy")
ABSCISSAE = {"iteration": "step", "time": "time_s"}
SMOOTHING = 0.5


def with_chain_as_pair(records: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """The records by role, those of a chain under the names of the panels: its first role is net1,
    its last, which knows the labels, net2, and those between are middle2, middle3, ..."""
    roles = sorted(role for role in records if re.fullmatch(r"net\d", role))
    names = {role: f"middle{role[3:]}" for role in roles[1:-1]}
    if len(roles) > 1:
        names[roles[-1]] = "net2"
    return {names.get(role, role): list(lines) for role, lines in records.items()}


def with_mean_of_subs(records: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """The records by role, those of sub-models or trunks as one role, "subs": of each iteration
    that all have a line of, the mean of the figures and the sum of the seconds, as if one were
    trained behind the other.  They are independent nets, no ensemble (Miranda and Von Zuben 2016,
    3.1).
    """
    parts = [list(lines) for role, lines in records.items() if re.fullmatch(PART, role)]
    kept = {role: list(lines) for role, lines in records.items()
            if not re.fullmatch(PART, role)}
    if parts:
        by_step = [{(line["step"], line["split"]): line for line in lines} for lines in parts]
        common = [key for key in by_step[0] if all(key in part for part in by_step)]
        kept[SUBS] = [_mean([part[key] for part in by_step]) for key in common]
    return kept


def _mean(lines: Sequence[Record]) -> Record:
    first = lines[0]
    figures = [key for key, value in first.items() if isinstance(value, float)
               and all(isinstance(line.get(key), float) for line in lines)]
    means = {key: sum(line[key] for line in lines) / len(lines) for key in figures}
    return {**first, **means, "time_s": sum(line["time_s"] for line in lines)}
