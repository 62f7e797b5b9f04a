"""Score a net on the test images of a data set."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dualnet.data.batches import Batches


@torch.no_grad()
def score(net: nn.Module, batches: Batches, device: torch.device,
          dtype: torch.dtype) -> dict[str, float]:
    """Mean classification loss and share of correct answers (0-1) over all test images."""
    net.eval()
    loss, correct = 0.0, 0
    for index in range(batches.num_test_batches):
        labels = torch.as_tensor(batches.test_labels(index)).to(device)
        logits = net(torch.as_tensor(batches.test_images(index)).to(device, dtype))
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
    return {"loss": loss / batches.num_test_samples,
            "accuracy": correct / batches.num_test_samples}


@torch.no_grad()
def probabilities(net: nn.Module, batches: Batches, device: torch.device,
                  dtype: torch.dtype) -> np.ndarray:
    """The probability that the net gives the correct class of each test image, float64 [N]."""
    net.eval()
    found = []
    for index in range(batches.num_test_batches):
        labels = torch.as_tensor(batches.test_labels(index)).to(device)
        logits = net(torch.as_tensor(batches.test_images(index)).to(device, dtype))
        found.append(logits.double().softmax(1).gather(1, labels[:, None])[:, 0].cpu())
    result: np.ndarray = torch.cat(found).numpy()
    return result
