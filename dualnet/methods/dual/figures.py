"""Figures of the dual net that metrics and summary tell."""

from collections.abc import Mapping

from torch import Tensor, nn

from dualnet import losses
from dualnet.methods.protocol import Record


def dead_units(key: str, layers: nn.Sequential, activation: Tensor) -> Record:
    """Share of dead units of what `layers` gave, as figure `key`; nothing unless they end in a
    ReLU, since a 0 means nothing elsewhere."""
    if len(layers) == 0 or not isinstance(layers[-1], nn.ReLU):
        return {}
    return {key: losses.dead_share(activation)}


def share_correct(logits: Tensor, labels: Tensor) -> float:
    """Share of the samples whose largest score is that of their label, 0-1."""
    return (logits.argmax(1) == labels).double().mean().item()


def joint_facts(each: Mapping[str, Record]) -> Record:
    """What the summary says of all boundaries.

    each  role -> what it said, the `facts` of those that answer included, in the order of the chain
    A chain collapsed if any of its boundaries did; its rho is that of each role that answers.
    """
    answering = {role: said for role, said in each.items() if "collapsed" in said}
    rhos = {role: said["rho"] for role, said in answering.items()}
    reasons = [said["collapse_reason"] for said in answering.values() if said["collapsed"]]
    return {"rho": rhos if len(rhos) > 1 else rhos.popitem()[1],
            "collapsed": bool(reasons), "collapse_reason": "; ".join(reasons)}
