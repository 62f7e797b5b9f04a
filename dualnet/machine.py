"""This machine: what a process runs on, and what is written down about it."""

import importlib.metadata
import os
import platform
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dualnet
from dualnet.config import TrainConfig
from dualnet.devices import device_of


def prepare(settings: TrainConfig, name: str, roles: Sequence[str]) -> torch.device:
    """Set the number of threads and choose the device of role `name`."""
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    return torch.device(device_of(name, roles, settings.device, torch.cuda.device_count()))


def environment(device: torch.device) -> dict[str, Any]:
    """Where and with what a process ran: the content of env.json."""
    return {
        "device": str(device), "device_name": _device_name(device),
        "threads": torch.get_num_threads(), "cores": os.cpu_count(), "host": socket.gethostname(),
        "pid": os.getpid(), "arguments": sys.argv[1:], **versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds")}


def peak_memory() -> int:
    """The most bytes that this process has held: of its GPU if it uses one, or else of memory,
    the libraries included; 0 where the system does not tell."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else 0


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {"dualnet": dualnet.__version__, "python": platform.python_version(),
            "torch": torch.__version__, "numpy": np.__version__,
            "filelock": importlib.metadata.version("filelock")}


def describe(roles: Sequence[str]) -> dict[str, str]:
    """What training would run on here, in words."""
    num_gpus = torch.cuda.device_count()
    devices = [torch.device(f"cuda:{number}") for number in range(num_gpus)] or [
        torch.device("cpu")]
    chosen = {role: device_of(role, roles, "auto", num_gpus) for role in roles}
    return {"system": platform.platform(),
            "devices": ", ".join(f"{device} ({_device_name(device)})" for device in devices),
            "cuda": torch.version.cuda or "not built in",
            "cores": f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}",
            "roles": ", ".join(f"{role} on {device}" for role, device in chosen.items())}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
