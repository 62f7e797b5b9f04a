"""Which GPU each role takes."""

import pytest

from dualnet.devices import device_of, spread
from dualnet.errors import UserError

ROLES = ("net1", "net2")


@pytest.mark.parametrize(("num_gpus", "expected"), [
    (0, {"net1": "cpu", "net2": "cpu"}),
    (1, {"net1": "cuda:0", "net2": "cuda:0"}),
    (2, {"net1": "cuda:0", "net2": "cuda:1"}),
    (8, {"net1": "cuda:0", "net2": "cuda:1"}),
])
def test_roles_get_a_gpu_each_while_there_are_enough(num_gpus, expected):
    assert spread(ROLES, num_gpus) == expected


def test_a_wish_is_granted_or_refused():
    assert device_of("net2", ROLES, "auto", 2) == "cuda:1"
    assert device_of("net2", ROLES, "cpu", 2) == "cpu"
    assert device_of("net2", ROLES, "cuda", 1) == "cuda:0"
    assert device_of("net2", ROLES, "cuda:3", 4) == "cuda:3"
    with pytest.raises(UserError, match="this machine has 1 usable GPUs"):
        device_of("net2", ROLES, "cuda:1", 1)
    for wrong in ("gpu", "cuda:x", "cuda:-1", "cpu:0"):
        with pytest.raises(UserError, match="--device takes auto, cpu, cuda or cuda:N"):
            device_of("net2", ROLES, wrong, 1)
