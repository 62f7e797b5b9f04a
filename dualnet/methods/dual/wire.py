"""What crosses between the two roles: names and shapes of the messages."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass

from dualnet.errors import UserError

NET1, NET2 = "net1", "net2"
ROLES = (NET1, NET2)
LONGEST = 32    # characters of a channel's name


@dataclass(frozen=True)
class Wire:
    """The messages of one cut.

    boundary        name of the layer that is cut behind: pool2
    compared        name of the layer that both parts hold: conv3
    boundary_shape  one sample of z, the boundary activation
    compared_shape  one sample of x and y, the activations that are compared

    Raises UserError if two messages would have one name.
    """

    boundary: str
    compared: str
    boundary_shape: tuple[int, ...]
    compared_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        names = (self.activation, self.answer, self.diagnosis, self.penalty, self.test_activation,
                 self.test_compared)
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise UserError(f"a cut between the layers '{self.boundary}' and '{self.compared}' "
                            f"would give two kinds of messages the name {name}; rename one layer, "
                            "or cut elsewhere")

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
    """`name` as shared_fs allows it: lower case letters, digits and _, at most 32 characters.

    What is longer ends in a part of its SHA-256, so that two long names stay apart.
    """
    plain = re.sub(r"[^a-z0-9_]", "_", name.lower())
    if len(plain) <= LONGEST:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[:LONGEST - len(digest) - 1]}_{digest}"
