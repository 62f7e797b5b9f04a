"""Caffe's losses and accuracy, each an nn.Module that returns a scalar.

A loss returns the number that Caffe's top blob holds, which is unweighted.  What is differentiated
is the sum of loss_weight * loss over the losses of a net; `loss_weight` is an attribute here and
the caller multiplies.

x      [N, C, ...]  scores, before the softmax
label  one class 0..C-1 per remaining position, integers or floats: [N], [N, 1], [N, 1, H, W], ...
Raises ValueError for a label that is no class: Caffe would read foreign memory.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMALIZATIONS = ("VALID", "BATCH_SIZE", "FULL", "NONE")
LARGEST_LOSS = -math.log(torch.finfo(torch.float32).tiny)     # 87.3365


class EuclideanLoss(nn.Module):
    """sum (a - b)^2 / 2N, N the first dimension; both bottoms get a gradient.

    torch's mse_loss divides by the number of elements instead.  As in Caffe the shapes may differ
    behind the first dimension if their counts agree.
    """

    def __init__(self, *, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if a.shape[0] != b.shape[0] or a.numel() != b.numel():
            raise ValueError("EuclideanLoss needs as many samples and numbers on both sides, "
                             f"found {list(a.shape)} and {list(b.shape)}")
        return (a.flatten() - b.flatten()).square().sum() / (2 * a.shape[0])


class SoftmaxWithLoss(nn.Module):
    """-sum log p(label) / Z, p the softmax along `axis`.

    ignore_label   positions with this label count neither in the sum nor in VALID
    normalization  Z: VALID the positions counted, BATCH_SIZE the product of the dimensions before
                   `axis`, FULL all positions, NONE 1; never less than 1

    p is clamped at FLT_MIN in the loss alone, so a position adds at most 87.3365; the gradient is
    that of the plain softmax.
    """

    def __init__(self, *, axis: int = 1, ignore_label: int | None = None,
                 normalization: str = "VALID", loss_weight: float = 1.0) -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, "
                             f"found {normalization}")
        self.axis, self.ignore_label = axis, ignore_label
        self.normalization, self.loss_weight = normalization, loss_weight

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        scores, labels, is_counted = _positions(x, label, self.axis, self.ignore_label)
        loss = F.cross_entropy(scores, labels, reduction="none")
        # The clamped value with the gradient of the loss itself.
        loss = torch.where(loss > LARGEST_LOSS, LARGEST_LOSS + (loss - loss.detach()), loss)
        num_counted = int(is_counted.sum())
        divisor = {"VALID": num_counted, "BATCH_SIZE": math.prod(x.shape[:self.axis]),
                   "FULL": len(labels), "NONE": 1}[self.normalization]
        return torch.where(is_counted, loss, 0).sum() / max(divisor, 1)


class Accuracy(nn.Module):
    """Share of the positions whose label is among the top_k scores, 0-1.

    A class that ties with the label's counts as better, so scores that are all equal are wrong
    (argmax would find them right in one of C cases).  As in Caffe, scores that are nan are right,
    since nothing is as large as nan; the accuracy is 0 if all positions are ignored.
    """

    def __init__(self, *, top_k: int = 1, axis: int = 1, ignore_label: int | None = None) -> None:
        super().__init__()
        self.top_k, self.axis, self.ignore_label = top_k, axis, ignore_label

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        if self.top_k > x.shape[self.axis]:
            raise ValueError(f"top_k must be at most the number of classes, {x.shape[self.axis]}, "
                             f"found {self.top_k}")
        scores, labels, is_counted = _positions(x, label, self.axis, self.ignore_label)
        own = scores.gather(1, labels[:, None])
        others_as_good = (scores >= own).sum(1) - 1
        is_right = (others_as_good < self.top_k) & is_counted
        return is_right.sum() / is_counted.sum().clamp(min=1)


def _positions(x: Tensor, label: Tensor, axis: int,
               ignore_label: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [P, C], labels [P] (0 where ignored) and whether a position counts [P]."""
    scores = x.movedim(axis, -1).flatten(0, -2)
    labels = label.flatten().long()
    if len(labels) != len(scores):
        raise ValueError(f"scores {list(x.shape)} need {len(scores)} labels, found {len(labels)}")
    is_counted = torch.ones_like(labels, dtype=torch.bool)
    if ignore_label is not None:
        is_counted = labels != ignore_label
    labels = labels.where(is_counted, 0)
    num_classes = scores.shape[1]
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(f"labels must be classes 0 to {num_classes - 1}, found {int(wrong[0])}")
    return scores, labels, is_counted
