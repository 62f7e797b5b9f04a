"""What can be drawn of a run: which figures of the metrics share an axis."""

from collections.abc import Mapping
from typing import NamedTuple


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


PANELS = (
    Panel("loss", "loss of net1 at the cut", {"net1": "loss"}),
    Panel("loss", "classification loss", {"net2": "loss", "single": "loss"}, scale="linear"),
    Panel("accuracy", "accuracy", {"net2": "accuracy", "single": "accuracy"}, scale="share"),
    Panel("norms", "mean norm at the cut", {"net1": "dual/norm_x", "net2": "dual/norm_y"},
          {"net1": "conv3 of net1", "net2": "conv3' of net2"}),
    Panel("residual", "residual |x - y| / |y|", {"net1": "dual/residual"}),
    Panel("grad_norm", "norm of all gradients", {
        "net1": "dual/grad_norm", "net2": "dual/grad_norm", "single": "single/grad_norm"},
        {"net1": "net1", "net2": "net2, or the single net"}),
    Panel("dead", "share of dead units", {"net1": "dual/dead_x", "net2": "dual/dead_y"},
          {"net1": "conv3 of net1", "net2": "conv3' of net2"}, scale="share"),
)
METRICS = tuple(dict.fromkeys(panel.metric for panel in PANELS))
DEFAULT_METRICS = ("loss", "accuracy")
ABSCISSAE = {"iteration": "step", "time": "time_s"}
SMOOTHING = 0.5
