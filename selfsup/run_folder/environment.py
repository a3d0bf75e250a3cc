"""What a process runs on, for the record: versions, device, launcher."""

import platform
import shlex
import sys
import time
from importlib import metadata
from typing import Any

import torch

from selfsup import distributed
from selfsup.runtime import arithmetic, inherited

_PACKAGES = ("selfsup", "torch", "torchvision", "kornia", "accelerate", "safetensors", "numpy", "numba", "pillow")


def environment(device: torch.device) -> dict[str, Any]:
    """What this process runs on, for the record."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": device_name(device),
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "arithmetic": arithmetic.in_force(),
        "launcher": inherited.recorded(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "checkout" if package == "selfsup" else "not installed"


def device_name(device: torch.device) -> str:
    """A GPU by its name, a CPU by the number of threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"
