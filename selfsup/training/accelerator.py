"""The engine that trains: launch, device, precision and several processes, by accelerate; and the device of a stage."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from selfsup import distributed
from selfsup.devices.choice import Device
from selfsup.runtime import arithmetic, inherited
from selfsup.runtime.device import device_for
from selfsup.runtime.parent_death import follow_launcher
from selfsup.runtime.watchdog import collective_timeout
from selfsup.training import sharding
from selfsup.training.settings import Training


def make_accelerator(training: Training) -> Accelerator:
    """The engine for this precision and device.

    Raises:
        ValueError: the batch cannot be divided among the processes, the device lacks the precision or cannot compile,
            or the encoder is to be sharded in a way that is not known.
    """
    follow_launcher()  # of a program that only imports selfsup; the commands have done so long ago
    device = device_for(training.device)
    if training.compile and device.type == "mps":
        raise ValueError(
            "compile is not for Apple GPUs (MPS), for which torch has only begun with it; leave it out, or use "
            "--device cpu"
        )
    precision = arithmetic.resolve(training.precision, arithmetic.capability(device))
    inherited.check(precision)
    sharding.sharding_requested(training)
    if not distributed.is_distributed():
        PartialState._reset_state()
    # accelerate keeps the first run's precision and device for the whole process; a second run may want others.
    AcceleratorState._reset_state()
    timeout = collective_timeout(training.hang_minutes)
    if training.deterministic and device.type == "cuda":
        arithmetic.reserve_workspace()
    distributed.rejoin(device, timeout)
    with inherited.hidden():
        accelerator = Accelerator(
            mixed_precision=precision if precision in ("bf16", "fp16") else "no",
            gradient_accumulation_steps=1,
            cpu=device.type == "cpu",
            # Banks and queues are buffers: broadcasting them on every forward would cost more than the step.
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timeout),
            ],
        )
    if training.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size {training.batch_size} is the global batch and must be divisible by the number of processes, "
            f"{accelerator.num_processes}"
        )
    if training.precision == "fp16" and accelerator.device.type != "cuda":
        raise ValueError("precision fp16 needs a CUDA device; use bf16 or fp32 here")
    return accelerator


def stage_device(device: Device) -> torch.device:
    """The device of a stage that trains nothing; of several processes, which join here and share the encoding, each."""
    inherited.check("fp32")
    if distributed.launched() == 1:
        return device_for(device)
    distributed.rejoin(device_for(device), collective_timeout(Training.hang_minutes))
    with inherited.hidden():
        joined: torch.device = PartialState(cpu=device_for(device).type == "cpu").device
    return joined
