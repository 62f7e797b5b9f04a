"""Which device each role gets."""

from collections.abc import Sequence

from dualnet.errors import UserError


def spread(roles: Sequence[str], num_gpus: int) -> dict[str, str]:
    """One GPU each while there are enough, in turn when there are fewer, the CPU without any.

    >>> spread(["net1", "net2"], 2)
    {'net1': 'cuda:0', 'net2': 'cuda:1'}
    """
    if num_gpus == 0:
        return dict.fromkeys(roles, "cpu")
    return {role: f"cuda:{number % num_gpus}" for number, role in enumerate(roles)}


def device_of(role: str, roles: Sequence[str], wanted: str, num_gpus: int) -> str:
    """The device that `role` takes when the user wants `wanted` ("auto", "cpu", "cuda[:N]").

    Raises UserError for a device that is not there.
    """
    if wanted == "auto":
        return spread(roles, num_gpus)[role]
    kind, _, number = wanted.partition(":")
    if kind == "cpu" and not number:
        return "cpu"
    if kind == "cuda" and (not number or number.isdecimal()):
        if int(number or 0) < num_gpus:
            return f"cuda:{int(number or 0)}"
        raise UserError(f"--device {wanted}: this machine has {num_gpus} usable GPUs; take --device"
                        " auto or cpu")
    raise UserError(f"--device takes auto, cpu, cuda or cuda:N, found '{wanted}'")
