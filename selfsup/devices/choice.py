"""What may be asked for as a device, without torch, so that help answers at once."""

from typing import Literal

Device = Literal["auto", "mps", "cpu"]  # auto: a CUDA GPU, else an Apple GPU (MPS), else the CPU
