"""Score a net on the test images of a data set."""

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
