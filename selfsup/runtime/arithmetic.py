"""How exact a device computes: the precision of a run, TF32, and kernels that give the same bits every time."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch

# auto: bf16 on a GPU that has it, fp32 elsewhere; resolved when a run begins. tf32: single precision whose products on
# a GPU are of inputs rounded to 10 bits; fp32 means products in full.
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Resolved = Literal["fp32", "tf32", "bf16", "fp16"]

_WITH_BF16 = (8, 0)  # the compute capability from which matrix units know it; earlier ones only emulate it


def capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a CUDA device, None for others."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def resolve(asked: Precision, capability: tuple[int, int] | None) -> Resolved:
    """The precision that "auto" means on a device of this capability; any other is as it was asked for."""
    if asked != "auto":
        return asked
    return "bf16" if capability is not None and capability >= _WITH_BF16 else "fp32"


@contextlib.contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Whether products and convolutions of float32 on a GPU may round their inputs to TF32; puts back what was set.

    torch's own default is no for products and yes for convolutions.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32, cudnn.allow_tf32 = tf32, tf32
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextlib.contextmanager
def kernels(deterministic: bool, device: torch.device) -> Iterator[None]:
    """On a GPU: only kernels that give the same bits every time, or the fastest; puts back what was set.

    torch warns of an operation that has no such kernel. cuBLAS needs `reserve_workspace` before its first use.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, filling = torch.backends.cudnn, cast(Any, torch.utils.deterministic)  # an attribute that mypy cannot see
    before = cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory
    mode = torch.get_deterministic_debug_mode()
    try:
        cudnn.deterministic, cudnn.benchmark = deterministic, not deterministic
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        # Memory that nobody has written yet is written before it is read here; to fill it would be a kernel each time.
        filling.fill_uninitialized_memory = False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before[:2]
        torch.set_deterministic_debug_mode(mode)
        filling.fill_uninitialized_memory = before[2]


@contextlib.contextmanager
def of_run(precision: Precision, deterministic: bool, device: torch.device) -> Iterator[None]:
    """What the settings of a run ask of the device, while it runs."""
    with products(tf32=precision == "tf32"), kernels(deterministic, device):
        yield


def full_precision() -> contextlib.AbstractContextManager[None]:
    """For what is measured: features, neighbours and classifiers are never of rounded inputs."""
    return products(tf32=False)


@contextlib.contextmanager
def forward_passes(precision: Resolved, device: torch.device) -> Iterator[None]:
    """For forward passes without gradient that are as exact as those of a training in this precision."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with products(tf32=True) if precision == "tf32" else full_precision():
        if half is None:
            yield
        else:
            with torch.autocast(device.type, half):
                yield


def reserve_workspace() -> None:
    """Have cuBLAS use the same workspace in every call, without which its sums may differ; before CUDA starts."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def in_force() -> dict[str, bool]:
    """What is set now, for the record."""
    return {
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
