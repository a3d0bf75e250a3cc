"""How tensors come to a device: without waiting where that is safe, and in the layout it computes rightly with."""

import torch
from torch import Tensor

APPLE = frozenset({"mps"})  # types of devices


def is_apple(device: torch.device) -> bool:
    """Whether it is an Apple GPU, whose faults are avoided here."""
    return device.type in APPLE


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """To a device, without waiting for what it is doing.

    To an Apple GPU with waiting: a copy that nobody waits for reads memory which may be given away by then (pytorch
    issue #189690).
    """
    return values.to(device, non_blocking=not is_apple(device))


def send(values: Tensor, device: torch.device) -> Tensor:
    """The same for a small tensor from the CPU, by pinned memory, from which a CUDA device copies on its own."""
    return to_device(values.pin_memory() if device.type == "cuda" else values, device)


def image_format(device: torch.device) -> torch.memory_format:
    """The layout of images and weights on a device: channels last, in which convolutions are fastest.

    Not on Apple GPUs, where the backward passes of batch norm and of average pooling are wrong in it, without a word
    (pytorch issues #175189 and #175190).
    """
    return torch.contiguous_format if is_apple(device) else torch.channels_last


def laid_out(images: Tensor) -> Tensor:
    """(B, S, T, C), contiguous -> (B, C, S, T) in the `image_format` of their device."""
    return images.permute(0, 3, 1, 2).contiguous(memory_format=image_format(images.device))
