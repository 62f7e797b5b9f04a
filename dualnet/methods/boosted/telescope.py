"""The boosting of BoostResNet: functions of scores, labels and the outputs of hypothesis modules.

m samples with labels y_i among k classes.  o_t [m, k] are the probabilities that module t and its
linear classifier give; o_0 = 0, alpha_0 = 0, and the weak classifiers telescope:

    h_t = alpha_{t+1} o_{t+1} - alpha_t o_t          s_t = sum_{r<t} h_r = alpha_t o_t

Huang et al. 2018, section 3 and, for several classes, appendix E.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_EDGE = 1 - 1e-9     # alpha stays finite where all samples are certain


def costs(scores: Tensor, labels: Tensor) -> Tensor:
    """C_t(i, l) = exp(s(i,l) - s(i,y_i)) for l != y_i, and C_t(i, y_i) = -sum of these; [m, k].

    What boosting weighs mistakes with; algorithm 3.
    """
    found = (scores - scores.gather(1, labels[:, None])).exp()
    found.scatter_(1, labels[:, None], 0.0)
    return found.scatter(1, labels[:, None], -found.sum(1, keepdim=True))


def edge(scores: Tensor, outputs: Tensor, labels: Tensor) -> float:
    """How much better than chance o_{t+1} is on the samples as s_t weighs them, in [-1, 1].

        gamma~_{t+1} = - sum_i <C_t(i,:), o_{t+1}(x_i)> / sum_i sum_{l != y_i} C_t(i, l)
    """
    weights = costs(scores, labels)
    return float(-(weights * outputs).sum() / weights.clamp_min(0).sum())


def alpha(edge: float) -> float:
    """alpha_{t+1} = 1/2 ln( (1 + gamma~) / (1 - gamma~) )"""
    return math.atanh(min(max(edge, -LARGEST_EDGE), LARGEST_EDGE))


def weak_learning(edge: float, previous: float) -> float:
    """gamma_t^2 = (gamma~_{t+1}^2 - gamma~_t^2) / (1 - gamma~_t^2), with its sign kept.

    What module t adds to the edge; section 4, definition 2.  The square of an edge below 0, worse
    than chance, counts as negative.
    """
    return (edge * abs(edge) - previous * abs(previous)) / (1 - previous * previous)


def exponential_loss(scores: Tensor, labels: Tensor) -> float:
    """1/m sum_i sum_{l != y_i} exp(s(i,l) - s(i,y_i)): at least the share of wrong answers, since
    each of them has a term of at least 1."""
    return float(costs(scores, labels).clamp_min(0).sum() / len(labels))


def error(scores: Tensor, labels: Tensor) -> float:
    """Share of the samples with another class at least as high as the label's."""
    own = scores.gather(1, labels[:, None])
    others = scores.scatter(1, labels[:, None], -math.inf)
    return float((others.amax(1, keepdim=True) >= own).double().mean())


class Round(NamedTuple):
    """What module t and its classifier reach on the training samples.

    gamma_squared     of `weak_learning`
    bound             (k - 1) exp(-1/2 sum_{r<=t} gamma_r^2), theorem 2 of the paper; it follows
                      from its assumptions, of which one may fail: that o is no worse on samples
                      that count alike than on those that count as s_t weighs them
    exponential_loss  bounds the error whatever happens
    """

    edge: float
    alpha: float
    gamma_squared: float
    error: float
    exponential_loss: float
    bound: float

    @property
    def gamma(self) -> float:
        """gamma_t, negative where the edge has shrunk."""
        return math.copysign(math.sqrt(abs(self.gamma_squared)), self.gamma_squared)


class Telescope:
    """The sum of weak classifiers so far: alpha_t, o_t and gamma~_t of the last module.

    labels  of the training samples, int64 [m]
    """

    def __init__(self, labels: Tensor, classes: int) -> None:
        self.labels, self.classes = labels, classes
        self.alpha = self.edge = self.sum_gamma_squared = 0.0
        self.outputs = torch.zeros(len(labels), classes, dtype=torch.float64)

    @property
    def scores(self) -> Tensor:
        """s_t, the telescoped sum, float64 [m, k]."""
        return self.alpha * self.outputs

    def judge(self, outputs: Tensor) -> Round:
        """What a module with these outputs, float64 [m, k], would add."""
        found = edge(self.scores, outputs, self.labels)
        weight, gamma_squared = alpha(found), weak_learning(found, self.edge)
        scores = weight * outputs
        bound = (self.classes - 1) * math.exp(-(self.sum_gamma_squared + gamma_squared) / 2)
        return Round(found, weight, gamma_squared, error(scores, self.labels),
                     exponential_loss(scores, self.labels), bound)

    def add(self, outputs: Tensor) -> None:
        """Go on from a module with these outputs."""
        found = self.judge(outputs)
        self.outputs, self.alpha, self.edge = outputs, found.alpha, found.edge
        self.sum_gamma_squared += found.gamma_squared
