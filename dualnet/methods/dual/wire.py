"""What crosses between the two roles: names and shapes of the messages."""

import re
from dataclasses import dataclass

NET1, NET2 = "net1", "net2"
ROLES = (NET1, NET2)


@dataclass(frozen=True)
class Wire:
    """The messages of one cut.

    boundary        name of the layer that is cut behind: pool2
    compared        name of the layer that both parts hold: conv3
    boundary_shape  one sample of z, the boundary activation
    compared_shape  one sample of x and y, the activations that are compared
    """

    boundary: str
    compared: str
    boundary_shape: tuple[int, ...]
    compared_shape: tuple[int, ...]

    @property
    def activation(self) -> str:
        """z of iteration t, net1 to net2."""
        return _channel(self.boundary)

    @property
    def answer(self) -> str:
        """y, or y* for admm, of iteration t, net2 to net1."""
        return _channel(self.compared + "p")

    @property
    def diagnosis(self) -> str:
        """y itself, net2 to net1, when the residual or the dual variable needs it."""
        return _channel(self.compared + "p_y")

    @property
    def penalty(self) -> str:
        """rho, net2 to net1, whenever it changes."""
        return "rho"

    @property
    def test_activation(self) -> str:
        """z of a batch of test images, net1 to net2."""
        return _channel("test_" + self.boundary)

    @property
    def test_compared(self) -> str:
        """x of a batch of test images, net1 to net2."""
        return _channel("test_" + self.compared)

    def channels(self) -> dict[str, tuple[str, str]]:
        """Channel name -> (sender, receiver)."""
        forward = (self.activation, self.test_activation, self.test_compared)
        backward = (self.answer, self.diagnosis, self.penalty)
        return {**dict.fromkeys(forward, (NET1, NET2)), **dict.fromkeys(backward, (NET2, NET1))}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Channel name -> shape of one sample, of the channels that carry activations."""
        return {**dict.fromkeys((self.activation, self.test_activation), self.boundary_shape),
                **dict.fromkeys((self.answer, self.diagnosis, self.test_compared),
                                self.compared_shape)}


def _channel(name: str) -> str:
    """`name` as shared_fs allows it: lower case letters, digits and _, at most 32 characters."""
    return re.sub(r"[^a-z0-9_]", "_", name.lower())[:32]
