"""The tensors of what is trained, by names: gathered from all processes, checked, and put back."""

import math
import sys
from typing import Any

import torch
from torch import Tensor, nn

from selfsup.dtensor import full_state, shard_like
from selfsup.memory.saved import Limits, check_finite, check_layout, check_sense, outside
from selfsup.memory.sharded import sharded
from selfsup.storage.untrusted import plain_name


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dictionary, in the first process with whole weights and all rows of sharded memories.

    Collective where anything is sharded.
    """
    state = full_state(module.state_dict())
    for name, memory in sharded(module).items():
        whole = memory.whole()
        if whole is not None:
            state[f"{name}.features"] = whole
    return state


def check_state(module: nn.Module, tensors: dict[str, Tensor], limits: Limits, finite: bool = True) -> None:
    """Make sure that `load_whole_state` can take these tensors, and that a run can have written them.

    Args:
        module: in which nothing was trained yet.
        tensors: from a file that anyone may have written.
        limits: with the step of the checkpoint.
        finite: whether numbers that are not are refused.

    Raises:
        ValueError: they cannot be; the message begins with the file of a checkpoint and the tensor.
    """
    try:
        check_layout(module, tensors)
        if finite:
            check_finite(module, tensors)
        check_sense(module, tensors, limits)
    except ValueError as error:
        raise ValueError(f"method.safetensors: {error}") from error


_LARGEST = sys.float_info.max
_SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


def check_scaler(state: Any) -> None:
    """Raise ValueError for what no loss scaler of torch can have written to state.json."""
    known = isinstance(state, dict) and sorted(state) == sorted(_SCALER)
    values = [state[name] for name in _SCALER] if known else []
    if not known or not all(type(value) in (int, float) and 0 <= value <= _LARGEST for value in values):
        raise ValueError(f"state.json: scaler is {plain_name(state, 120)}; wanted numbers for {', '.join(_SCALER)}")
    for name, value in zip(_SCALER, values, strict=True):
        if (value == 0 and name != "_growth_tracker") or (type(value) is float and name in _SCALER[3:]):
            raise ValueError(f"state.json: scaler: {name} is {value}; wanted a number above 0, of steps a whole one")


def load_whole_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what `whole_state` gave in the first process, with any number of processes; each has read all of it."""
    state = dict(state)
    for name, memory in sharded(module).items():
        prefix = f"{name}."
        memory.restore({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
        state[f"{name}.features"] = memory.features
    held = module.state_dict()
    module.load_state_dict({key: shard_like(value, held.get(key, value)) for key, value in state.items()})


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's state under readable names: "encoder.conv1.weight/momentum_buffer".

    In the order of the names, which is that of every process: sharded parts are assembled one by one.
    """
    return {
        f"{name}/{key}": value
        for parameter, name in names.items()
        for key, value in sorted(optimizer.state.get(parameter, {}).items())
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: dict[Tensor, str], tensors: dict[str, Tensor], steps: int
) -> None:
    """Put back what `optimizer_tensors` gave, in the memory format of each parameter.

    Args:
        optimizer: of these parameters; one that names its `entries` has no others.
        names: of its parameters.
        tensors: from a file that anyone may have written.
        steps: of the checkpoint; none was counted more often.

    Raises:
        ValueError: the state belongs to other parameters or to another optimizer, or no optimizer can have written it.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parameters = {names[parameter]: parameter for parameter in trained}
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"optimizer.safetensors: state of {name!r}, which this method does not train")
        parameter = parameters[name]
        _check_entry(optimizer, key, value, parameter, steps)
        # AdamW's count of steps stays on the CPU, also where the parameter is a single number on the device.
        if value.shape == parameter.shape and entry != "step":
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(shard_like(value, parameter))
        optimizer.state[parameter][entry] = value
    for parameter, state in optimizer.state.items():
        for entry in getattr(optimizer, "entries", ()):
            if entry not in state:
                raise ValueError(f"optimizer.safetensors: {names[parameter]}/{entry} is missing")


def _check_entry(optimizer: torch.optim.Optimizer, key: str, value: Tensor, parameter: Tensor, steps: int) -> None:
    """Raise ValueError for one entry of an optimizer's state that this optimizer cannot have written."""
    entry, entries = key.rpartition("/")[2], getattr(optimizer, "entries", None)
    if entries is not None and entry not in entries:
        raise ValueError(
            f"optimizer.safetensors: {key}, which this optimizer does not keep; it keeps {', '.join(entries)}"
        )
    single = value.numel() == 1 and (entries is None or entry == "step")
    known = value.is_floating_point() and (entries is None or entry == "step" or value.dtype == parameter.dtype)
    if not (known and (single or (value.shape == parameter.shape and entry != "step")) and value.isfinite().all()):
        raise ValueError(
            f"optimizer.safetensors: {key} is {value.dtype} {tuple(value.shape)}, or holds numbers that are not "
            f"finite; wanted finite numbers of shape {tuple(parameter.shape)} and {parameter.dtype}"
            + (", or a count of steps" if entry == "step" else "")
        )
    most = steps if entry == "step" else math.inf
    wrong = outside(value, 0, most) if entry in ("step", "exp_avg_sq") else None
    if wrong is not None:
        wanted = f"0 to {steps}, the steps that were taken" if entry == "step" else "squares, at least 0"
        raise ValueError(f"optimizer.safetensors: {key} holds {wrong:g}; wanted {wanted}")
