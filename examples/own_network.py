"""Train networks that dualnet has never seen, on data it has never seen, cut in two processes.

    python own_network.py

Runs in any folder where dualnet is installed; leaves points/, pictures/ and runs/ there.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dualnet.api import save_arrays, train


def perceptron(input_shape, num_classes):
    """For plain vectors."""
    return nn.Sequential(OrderedDict([
        ("fc1", nn.Linear(input_shape[0], 32)), ("tanh1", nn.Tanh()),
        ("fc2", nn.Linear(32, 32)), ("tanh2", nn.Tanh()),
        ("fc3", nn.Linear(32, num_classes))]))


class Residual(nn.Module):
    """A layer of one's own, with batch normalisation."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


def residual_net(input_shape, num_classes):
    """For images."""
    return nn.Sequential(OrderedDict([
        ("stem", nn.Conv2d(input_shape[0], 8, 3, padding=1)), ("relu", nn.ReLU()),
        ("block1", Residual(8)), ("pool1", nn.MaxPool2d(2)),
        ("block2", Residual(8)), ("pool2", nn.AdaptiveAvgPool2d(2)),
        ("flat", nn.Flatten()), ("fc", nn.Linear(32, num_classes))]))


def write_points(folder):
    """A tensor data set: is a point of the plane inside the ring?"""
    x = torch.rand(1200, 2, generator=torch.Generator().manual_seed(0)) * 4 - 2
    y = ((x.norm(dim=1) > 0.7) & (x.norm(dim=1) < 1.5)).long()
    save_arrays(folder, train=(x[:1000], y[:1000]), test=(x[1000:], y[1000:]))


def write_pictures(folder):
    """A folder of images, a subfolder per class: stripes across, or upright."""
    random = np.random.default_rng(0)
    for split, count in (("train", 100), ("test", 20)):
        for name in ("across", "upright"):
            place = Path(folder, split, name)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = random.integers(0, 120, (3, 12, 12), dtype=np.uint8)
                first = random.integers(0, 3)
                (image if name == "upright" else image.swapaxes(1, 2))[:, :, first::3] += 100
                np.save(place / f"{number:03}.npy", image)      # or .png, .jpg


if __name__ == "__main__":
    write_points("points")
    trained = train(perceptron, "points", iterations=300, lr=0.4, threads=1)
    print(f"points: {100 * trained.summary['test_accuracy']:.1f} %")
    net = trained.net()                             # one module again, and one state dict
    print(net(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).argmax(1).tolist(), "should be [1, 0]")
    torch.save(trained.state_dict(), "points.pt")

    write_pictures("pictures")
    trained = train(residual_net, "pictures", cut="pool1", iterations=60, batch_size=20,
                    threads=1)
    print(f"pictures: {100 * trained.summary['test_accuracy']:.1f} %")
