"""MonolithNet: wide residual nets side by side, whose features one small classifier reads.

    trunks ( trunk1 | trunk2 | trunk3 ) | fc1 | relu1 | fc2

Bidart and Wong 2018, "MonolithNet: Training monolithic deep neural networks via a partitioned
training strategy", figure 1: three WRN-28-20, the features of their last layers concatenated, 16
neurons with ReLU, and the classes.  A trunk that is trained alone has a proxy layer, the classifier
of a wide residual net, which the whole net does without.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dualnet.nets.residual import Classifier
from dualnet.nets.wide_resnet import wide_resnet

PROXY = "fc"
NEURONS = 16


class Trunks(nn.Module):
    """What each trunk makes of the same images, side by side: [N, C, H, W] -> [N, features].

    trunks  nets that end with a proxy layer, which is left out; their other layers are taken over
    """

    def __init__(self, trunks: Sequence[nn.Sequential]) -> None:
        super().__init__()
        for number, trunk in enumerate(trunks, start=1):
            self.add_module(f"trunk{number}", nn.Sequential(OrderedDict(
                (name, layer) for name, layer in trunk.named_children() if name != PROXY)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([trunk(x) for trunk in self.children()], 1)


def proxy_of(trunk: nn.Sequential) -> nn.Linear:
    """The classifier of a trunk that is trained alone."""
    proxy = trunk.get_submodule(PROXY)
    assert isinstance(proxy, nn.Linear)
    return proxy


def head_of(features: int, classes: int, neurons: int = NEURONS) -> nn.Sequential:
    """What reads the features of all trunks; with 0 neurons a single linear layer."""
    if neurons == 0:
        return nn.Sequential(OrderedDict(fc2=Classifier(features, classes)))
    return nn.Sequential(OrderedDict(fc1=Classifier(features, neurons), relu1=nn.ReLU(),
                                     fc2=Classifier(neurons, classes)))


@torch.no_grad()
def average_proxies(head: nn.Sequential, trunks: Sequence[nn.Sequential]) -> None:
    """Give a linear head the weights with which its logits are the mean of those of the trunks.

        W = [W_1 ... W_K] / K,  b = mean_i b_i      W_i, b_i of the proxy layer of trunk i
    """
    proxies = [proxy_of(trunk) for trunk in trunks]
    linear = head.get_submodule("fc2")
    assert isinstance(linear, nn.Linear)
    linear.weight.copy_(torch.cat([proxy.weight for proxy in proxies], 1) / len(proxies))
    linear.bias.copy_(torch.stack([proxy.bias for proxy in proxies]).mean(0))


def joined(trunks: Sequence[nn.Sequential], head: nn.Sequential) -> nn.Sequential:
    """The whole net of trunks, their proxy layers left out, and a head."""
    return nn.Sequential(OrderedDict([("trunks", Trunks(trunks)), *head.named_children()]))


def monolith(input_shape: tuple[int, int, int], classes: int, *, trunks: int = 3, depth: int = 28,
             width: int = 20, neurons: int = NEURONS) -> nn.Sequential:
    """The whole net: 437,469,738 weights for 32x32x3 images, ten classes and what is published."""
    nets = [wide_resnet(input_shape, classes, depth=depth, widen=width) for _ in range(trunks)]
    features = sum(proxy_of(net).in_features for net in nets)
    return joined(nets, head_of(features, classes, neurons))
