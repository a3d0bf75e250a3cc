"""Encoders too large for one device: their weights are divided among the processes (FSDP2, torch's `fully_shard`).

Each block of a network is brought together where it is used, in forward and in backward, and given back after. Between
steps a process holds its part of every weight, of its gradient, of the optimiser's state and of the momentum encoder's
weight. Everything outside encoders and heads stays whole, and so do buffers: running statistics and memories. What is
computed is what whole weights give, to rounding; what is saved are whole weights, so that a run may go on with another
number of processes, or without dividing them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from selfsup import distributed
from selfsup.dtensor import is_part
from selfsup.memory.sharded import ShardedRows
from selfsup.methods.base import Method
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Classifier, Head
from selfsup.runtime.inherited import is_set
from selfsup.training.settings import Training

_ASKED = "ACCELERATE_USE_FSDP"
_UNKNOWN = ("fsdp_offload_params", "fsdp_activation_checkpointing")


def sharding_requested(training: Training) -> bool:
    """Whether the encoder is to be divided: by the settings, or because accelerate was launched with --use_fsdp.

    Raises:
        ValueError: in a way that is not known here, or together with settings that cannot work.
    """
    for name, word in (("DEEPSPEED", "deepspeed"), ("MEGATRON_LM", "megatron_lm")):
        if is_set(f"ACCELERATE_USE_{name}"):
            raise ValueError(
                f"accelerate is asked for {name}, which divides weights in a way that momentum encoders and "
                f"checkpoints here do not know\nlaunch without --use_{word}, or ACCELERATE_USE_{name}; "
                "where memory is short: --shard-encoder, --grad-cache-chunk 64, --precision bf16"
            )
    if is_set(_ASKED):
        _check_launcher()
    if distributed.launched() == 1 or not (training.shard_encoder or is_set(_ASKED)):
        return False
    if training.precision == "fp16":
        raise ValueError("a sharded encoder trains in fp32 or bf16: the loss scaler of fp16 looks at whole gradients")
    if training.compile:
        raise ValueError("compile does not know an encoder that is sharded; leave out one of the two")
    return True


def _check_launcher() -> None:
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(
            f"accelerate is asked for FSDP {version}, which makes one flat row of many weights, and optimizers and "
            "momentum encoders here need each by itself; launch with --fsdp_version 2"
        )
    for word in _UNKNOWN:
        if is_set(word.upper()):
            raise ValueError(
                f"accelerate is asked for {word}, which is not supported; launch without it\n"
                "where memory is short: --grad-cache-chunk 64, --precision bf16"
            )


# Dividing, and bringing together


def shard(method: Method, device: torch.device) -> bool:
    """Move everything to the device, and divide the encoder, what is a copy of it, and the heads.

    What is random in the first weights is that of the first process. An encoder that is not trained stays whole.

    Returns:
        whether there was anything to divide: in one process there is not.
    """
    trained = any(parameter.requires_grad for parameter in method.encoder.parameters())
    if not distributed.is_distributed() or not trained:
        return False
    method.to(device)
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    inside: set[nn.Module] = set()
    for network in _networks(method):
        blocks = list(network.blocks()) if isinstance(network, Encoder) else []
        inside |= set(network.modules())
        for unit in [*blocks, network]:
            _shard(unit, mesh)
    for module in method.modules():
        if module not in inside and not isinstance(module, ShardedRows):
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                tensor.data = distributed.from_first(tensor.data)
    return True


def _networks(method: Method) -> list[nn.Module]:
    """Encoders and heads, none inside another."""
    found: list[nn.Module] = []
    for module in method.modules():
        fitting = isinstance(module, (type(method.encoder), Head, Classifier))
        if fitting and list(module.parameters()) and not any(module in set(other.modules()) for other in found):
            found.append(module)
    return found


def _shard(unit: nn.Module, mesh: DeviceMesh) -> None:
    for tensor in [*unit.parameters(), *unit.buffers()]:
        if not is_part(tensor):
            tensor.data = distributed.from_first(tensor.data.contiguous())
    from torch.distributed.fsdp import fully_shard

    # Said, because torch would keep the outermost unit together after a forward pass without a backward pass.
    fully_shard(unit, mesh=mesh, reshard_after_forward=True)


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Within, every process has the whole weights of what is sharded in a module, and may use it as often as it likes.

    Collective, at its beginning; takes the memory of the whole weights.
    """
    units = _units(module)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def forget_forward_passes(method: Method) -> None:
    """To be called after each step.

    FSDP notes every forward pass until the backward pass of the same network. One that is not trained, such as a
    momentum encoder, has none, and the notes would pile up for as long as a run lasts.
    """
    for network in _networks(method):
        units = _units(network)
        if units[:1] == [network] and not any(p.requires_grad for p in network.parameters()):
            forget = getattr(network, "reset_iter_state", None)
            if forget is not None:
                forget()
                continue
            for unit in units:  # torch before that function
                group: Any = unit._get_fsdp_state()._fsdp_param_group
                group.comm_ctx.post_forward_order.clear()
                group._post_forward_indices.clear()


def _units(module: nn.Module) -> list[Any]:  # FSDPModule
    """The parts of a module that are sharded each by itself. torch's module for them takes a second to import."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [] if fsdp is None else [unit for unit in module.modules() if isinstance(unit, fsdp.FSDPModule)]
