"""What a run would lose if it ended now: gathered into checkpoints, and put back."""

import math
import sys
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from selfsup import distributed
from selfsup.dtensor import as_parts, assembled
from selfsup.memory.saved import Limits, check_finite, check_layout, check_sense, outside
from selfsup.memory.sharded import sharded
from selfsup.methods.base import Method
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint
from selfsup.storage.saver import Saver
from selfsup.storage.untrusted import plain_name
from selfsup.training.settings import Training


class TrainingState:
    """Everything that a checkpoint holds: the method's tensors, the optimiser's, the scaler's, the step.

    Args:
        method: on its device.
        optimizer: of the method's parameters.
        accelerator: whose scaler belongs to the state.
        folder: of the run.
        training: when to save, and what to keep.
        steps_per_epoch: of the run.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        folder: RunFolder,
        training: Training,
        steps_per_epoch: int,
    ):
        self.method, self.optimizer, self.folder, self.training = method, optimizer, folder, training
        self.scaler, self.device = accelerator.scaler, accelerator.device
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in method.named_parameters()}
        self._kept_steps = training.keep_every * steps_per_epoch
        self._saver = Saver(folder.checkpoints, training.keep_last) if distributed.rank() == 0 else None
        self._begun = -1  # the step of the newest checkpoint, which may still be on its way to the disk

    def due(self, step: int, seconds: float) -> bool:
        """Whether to save after this step, so long after it was done last."""
        every, limit = self.training.save_steps, 60 * self.training.save_minutes
        if self._saver is not None and self.training.save_async:
            # As much earlier as it takes until the files are there, but never while those before are being written.
            limit = max(limit - self._saver.seconds, min(self._saver.seconds, limit))
        return seconds > limit or (every is not None and step % every == 0) or self._to_be_kept(step)

    def _to_be_kept(self, step: int) -> bool:
        return self._kept_steps > 0 and step % self._kept_steps == 0

    def save(self, step: int) -> None:
        """Save, by the main process; with `save_async` the files are written while training goes on.

        Raises:
            StorageError: without `save_async`, as `settle`.
        """
        if step == self._begun:
            return
        self._begun = step
        begin = time.monotonic()
        tensors = {  # with every process's part
            "method": whole_state(self.method),
            "optimizer": assembled(optimizer_tensors(self.optimizer, self.names)),
        }
        if self._saver is not None:
            state = {"scaler": self.scaler.state_dict() if self.scaler else None}
            self._saver.begin(step, tensors, state, self._to_be_kept(step), begin)
        if not self.training.save_async:
            self.settle()

    @property
    def failed(self) -> bool:
        """Whether this process knows of a checkpoint that was not written: then all should `settle`, which raises."""
        return self._saver is not None and self._saver.failed

    def settle(self) -> None:
        """Wait until what was saved is on the disk. Every process must call it.

        Raises:
            StorageError: it could not be written; the same in all processes. The checkpoint before is untouched.
        """
        problem = ""
        if self._saver is not None:
            try:
                self._saver.wait()
            except checkpoint.StorageError as error:
                problem = str(error)
        problem = distributed.gather_json(problem, self.device)[0]  # all processes wait here, and all stop
        if problem:
            raise checkpoint.StorageError(problem)

    def close(self) -> None:
        """Let what is being written be finished, whatever else went wrong."""
        if self._saver is not None:
            self._saver.close()

    def load(self, limits: Limits) -> int:
        """Restore the newest checkpoint, if there is one; returns its step, else 0.

        Args:
            limits: of the run.

        Raises:
            ValueError: it is of another method, or holds what no run can have written: the file and the field are
                named, the same in all processes, and nothing was changed.
        """
        found, damage = checkpoint.load_newest(self.folder.checkpoints)
        for line in damage:
            message(f"damaged checkpoint passed over: {line}")
        # A process that could not read the newest one takes the others along to the one that all can read.
        step = min(distributed.gather_json(found.step if found else 0, self.device))
        if found is None or step == 0:
            return 0
        if found.step != step:
            found = checkpoint.load(self.folder.checkpoints / f"step_{step:08d}")
        try:
            self._restore(found, limits)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            # load_state_dict lists what does not fit below a first line; a KeyError is the name of a missing part.
            lines = str(error).split("\n") if isinstance(error, RuntimeError) else [f"{error!s} is missing"]
            told = str(error) if isinstance(error, ValueError) else " ".join(lines[1:2] or lines).strip()
            raise ValueError(
                f"{found.path} is of another method, of another version of it, or senseless: "
                f"{plain_name(told, longest=300)}\ngive this run another --folder"
            ) from error
        self._begun = found.step
        return found.step

    def _restore(self, found: checkpoint.Checkpoint, limits: Limits) -> None:
        tensors, scaler = found.tensors["method"], found.state["scaler"]
        if found.step > limits.steps:
            raise ValueError(f"state.json: step is {found.step}; wanted 0 to {limits.steps}, the steps of this run")
        check_state(self.method, tensors, limits._replace(steps=found.step), "method.safetensors")
        if self.scaler and scaler:
            check_scaler(scaler)
        restore_optimizer(self.optimizer, self.names, found.tensors["optimizer"], found.step)
        load_whole_state(self.method, tensors)
        if self.scaler and scaler:
            self.scaler.load_state_dict(scaler)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dictionary, in the first process with whole weights and all rows of sharded memories.

    Collective where anything is sharded.
    """
    state = assembled(module.state_dict())
    for name, memory in sharded(module).items():
        whole = memory.whole()
        if whole is not None:
            state[f"{name}.features"] = whole
    return state


def check_state(module: nn.Module, tensors: dict[str, Tensor], limits: Limits, file: str, finite: bool = True) -> None:
    """Make sure that `load_whole_state` can take these tensors, and that a run can have written them.

    Args:
        module: in which nothing was trained yet.
        tensors: from a file that anyone may have written.
        limits: with the step of the checkpoint.
        file: its name, for messages.
        finite: whether numbers that are not are refused.

    Raises:
        ValueError: they cannot be; the message begins with the file and the tensor.
    """
    try:
        check_layout(module, tensors)
        if finite:
            check_finite(module, tensors)
        check_sense(module, tensors, limits)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


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
    module.load_state_dict({key: as_parts(value, held.get(key, value)) for key, value in state.items()})


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
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(as_parts(value, parameter))
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
