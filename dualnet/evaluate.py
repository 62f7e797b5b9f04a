"""Score a net on the test images of a data set."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet.data.batches import Batches


@torch.no_grad()
def score(net: nn.Module, batches: Batches, device: torch.device, dtype: torch.dtype,
          num_views: int = 1) -> dict[str, float]:
    """Mean classification loss and share of correct answers (0-1) over all test images.

    num_views  1, or 10: probabilities are means over the ten views of `Batches.test_views`
    """
    net.eval()
    loss, correct = 0.0, 0
    for index in range(batches.num_test_batches):
        labels = torch.as_tensor(batches.test_labels(index)).to(device)
        if num_views == 1:
            answers = net(torch.as_tensor(batches.test_images(index)).to(device, dtype))
        else:
            answers = _mean_of_views(net, batches.test_views(index, num_views), device, dtype)
        loss += functional.cross_entropy(answers, labels, reduction="sum").item()
        correct += int((answers.argmax(1) == labels).sum())
    return {"loss": loss / batches.num_test_samples,
            "accuracy": correct / batches.num_test_samples}


def _mean_of_views(net: nn.Module, images: np.ndarray, device: torch.device,
                   dtype: torch.dtype) -> Tensor:
    """Logarithms of the mean probabilities, [V, b, C, H, W] -> float64 [b, classes]."""
    views = torch.as_tensor(images).to(device, dtype)
    chances = net(views.flatten(0, 1)).double().softmax(1).unflatten(0, views.shape[:2]).mean(0)
    return chances.clamp_min(torch.finfo(torch.float64).tiny).log()


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
