"""Training in half the bits: torch's autocast, and a loss that is scaled for float16."""

import logging

import torch
from torch.amp.grad_scaler import GradScaler

from dualnet.errors import UserError

log = logging.getLogger("dualnet")


def in_software(precision: str, device: str) -> bool:
    """Whether a device of the type `device` computes `precision` many times more slowly than
    float32: bfloat16 on a CPU without AVX-512."""
    return (precision == "bfloat16" and device == "cpu"
            and torch.backends.cpu.get_cpu_capability() == "AVX2")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of forward passes: convolutions and products in bfloat16 or float16.

    Raises UserError if the device has no use for it; warns of a CPU that is slow at it.
    """
    if precision not in ("bfloat16", "float16"):
        return torch.autocast(device.type, enabled=False)
    if precision == "float16" and device.type == "cpu":
        raise UserError("--precision float16 needs a GPU; on a CPU take bfloat16 or float32")
    if (precision == "bfloat16" and device.type == "cuda"
            and not torch.cuda.is_bf16_supported(including_emulation=False)):
        raise UserError(f"--precision bfloat16: {torch.cuda.get_device_name(device)} does not "
                        "compute in it; take float16 or float32")
    if in_software(precision, device.type):
        log.warning("this CPU has no AVX-512 and so computes bfloat16 in software, many times more "
                    "slowly than float32")
    return torch.autocast(device.type, getattr(torch, precision))


def scaler_of(precision: str, device: torch.device) -> GradScaler | None:
    """What scales the loss, so that small gradients do not vanish in float16; else None.

    Micikevicius et al. 2018, "Mixed precision training", section 3.2, with a scale that follows
    what the gradients allow.
    """
    return GradScaler(device.type) if precision == "float16" else None
