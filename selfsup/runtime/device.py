"""Which device a process computes on."""

from typing import Literal

import torch

from selfsup.runtime import inherited


def device_for(device: Literal["auto", "cpu"]) -> torch.device:
    """The device of what runs in one process; the CPU too where accelerate was launched with --cpu."""
    gpu = device == "auto" and torch.cuda.is_available() and not inherited.is_set("ACCELERATE_USE_CPU")
    return torch.device("cuda" if gpu else "cpu")
