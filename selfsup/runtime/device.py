"""Which device a process computes on."""

import torch

from selfsup import distributed
from selfsup.devices.choice import Device
from selfsup.runtime import inherited


def device_for(device: Device) -> torch.device:
    """The device of what runs in one process; "auto" is the CPU where accelerate was launched with --cpu.

    An Apple GPU is for one process alone: several cannot exchange tensors on it, and "auto" is the CPU for them.

    Raises:
        ValueError: "mps" is asked for, and there is none, or several processes were started, or with --cpu.
    """
    only_cpu, several = inherited.is_set("ACCELERATE_USE_CPU"), distributed.launched() > 1
    if device == "mps":
        _require_mps(only_cpu, several)
        return torch.device("mps")
    if device == "cpu" or only_cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() and not several else "cpu")


def _require_mps(only_cpu: bool, several: bool) -> None:
    if not torch.backends.mps.is_available():
        raise ValueError("device is mps, and torch finds no Apple GPU here; leave --device out, or use --device cpu")
    if several:
        raise ValueError(
            "device is mps, on which several processes cannot exchange tensors; start one process, or use --device cpu"
        )
    if only_cpu:
        raise ValueError("device is mps, and accelerate was launched with --cpu; leave one of the two out")
