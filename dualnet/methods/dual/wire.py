"""What crosses between the roles: names and shapes of the messages."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dualnet.errors import UserError

NET1, NET2 = "net1", "net2"
ROLES = (NET1, NET2)    # of a net that is cut once
MOST_PARTS = 8
LONGEST = 32            # characters of a channel's name


def role_names(count: int) -> tuple[str, ...]:
    """The roles of a chain of `count` parts, in its order: net1, net2, ..."""
    return tuple(f"net{number}" for number in range(1, count + 1))


def roles_of(cut: str) -> tuple[str, ...]:
    """The roles that the setting `cut` makes: as many as it names layers, and one more.

    >>> roles_of("pool1,pool2")
    ('net1', 'net2', 'net3')
    """
    return role_names(1 + len(cut.split(",")))


def through(roles: Sequence[str]) -> tuple[str, str]:
    """What the test images went through: the shared layers of the parts behind the boundaries, and
    those of the parts before them.

    >>> through(("net1", "net2"))
    ("through conv3' of net2", 'through conv3 of net1')
    """
    return (f"through conv3' of {', '.join(roles[1:])}",
            f"through conv3 of {', '.join(roles[:-1])}")


@dataclass(frozen=True)
class Wire:
    """The messages of one boundary, between the role before it (`front`) and behind it (`back`).

    boundary        name of the layer that is cut behind: pool2
    compared        name of the layer that both parts hold: conv3
    boundary_shape  one sample of z, the boundary activation
    compared_shape  one sample of x and y, the activations that are compared
    number          which boundary of a chain this is, from 1; it ends the names of its messages.
                    0: the only one, whose messages bear the plain names

    Raises UserError if two messages would have one name.
    """

    boundary: str
    compared: str
    boundary_shape: tuple[int, ...]
    compared_shape: tuple[int, ...]
    number: int = 0

    def __post_init__(self) -> None:
        names = (self.activation, self.answer, self.diagnosis, self.penalty, self.test_activation,
                 self.test_compared)
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise UserError(f"a cut between the layers '{self.boundary}' and '{self.compared}' "
                            f"would give two kinds of messages the name {name}; rename one layer, "
                            "or cut elsewhere")

    @property
    def front(self) -> str:
        """The role before the boundary."""
        return f"net{self.number or 1}"

    @property
    def back(self) -> str:
        """The role behind the boundary."""
        return f"net{(self.number or 1) + 1}"

    @property
    def activation(self) -> str:
        """z of iteration t, to the role behind."""
        return self._channel(self.boundary)

    @property
    def answer(self) -> str:
        """y, or y* for admm, of iteration t, to the role before."""
        return self._channel(self.compared + "p")

    @property
    def diagnosis(self) -> str:
        """y itself, to the role before, when the residual or the dual variable needs it."""
        return self._channel(self.compared + "p_y")

    @property
    def penalty(self) -> str:
        """rho, to the role before, whenever it changes."""
        return self._channel("rho")

    @property
    def test_activation(self) -> str:
        """z of a batch of test images, to the role behind."""
        return self._channel("test_" + self.boundary)

    @property
    def test_compared(self) -> str:
        """x of a batch of test images, to the role behind."""
        return self._channel("test_" + self.compared)

    def channels(self) -> dict[str, tuple[str, str]]:
        """Channel name -> (sender, receiver)."""
        forward = (self.activation, self.test_activation, self.test_compared)
        backward = (self.answer, self.diagnosis, self.penalty)
        return {**dict.fromkeys(forward, (self.front, self.back)),
                **dict.fromkeys(backward, (self.back, self.front))}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Channel name -> shape of one sample, of the channels that carry activations."""
        return {**dict.fromkeys((self.activation, self.test_activation), self.boundary_shape),
                **dict.fromkeys((self.answer, self.diagnosis, self.test_compared),
                                self.compared_shape)}

    def _channel(self, name: str) -> str:
        """`name` as shared_fs allows it: lower case letters, digits and _, at most 32 characters.

        What is longer ends in a part of its SHA-256, so that two long names stay apart.
        """
        end = f"_{self.number}" if self.number else ""
        plain = re.sub(r"[^a-z0-9_]", "_", name.lower()) + end
        if len(plain) <= LONGEST:
            return plain
        end = f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}{end}"
        return plain[:LONGEST - len(end)] + end


def all_channels(wires: Iterable[Wire]) -> dict[str, tuple[str, str]]:
    """Channel name -> (sender, receiver), of all boundaries."""
    return {name: ends for wire in wires for name, ends in wire.channels().items()}


def all_shapes(wires: Iterable[Wire]) -> dict[str, tuple[int, ...]]:
    """Channel name -> shape of one sample, of all channels that carry activations."""
    return {name: shape for wire in wires for name, shape in wire.shapes().items()}
