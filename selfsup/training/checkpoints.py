"""The checkpoints of a run: when they are made, what they hold, and how a run goes on from the newest one."""

import time
from types import TracebackType
from typing import Self

import torch
from accelerate import Accelerator
from torch import Tensor

from selfsup import distributed
from selfsup.dtensor import full_state
from selfsup.memory.saved import Limits
from selfsup.methods.base import Method
from selfsup.monitor.observer import Observer
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint
from selfsup.storage.saver import Saver
from selfsup.storage.untrusted import plain_name
from selfsup.training.settings import Training
from selfsup.training.state import (
    check_scaler,
    check_state,
    load_whole_state,
    optimizer_tensors,
    restore_optimizer,
    whole_state,
)


class Checkpoints(Observer):
    """Saves and loads all that a run goes on from: the method's tensors, the optimiser's, the scaler's, the step.

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
        self._since = time.monotonic()  # the last one was begun
        self._begun = -1  # the step of the newest checkpoint, which may still be on its way to the disk

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def due(self, step: int) -> bool:
        """Whether it is time to save; or something could not be written, which `save` then raises everywhere."""
        failed = self._saver is not None and self._saver.failed
        return failed or self.due_after(step, time.monotonic() - self._since)

    def at_checkpoint(self, step: int, loss: Tensor | None, last: bool) -> None:
        self.save(step)
        if last:
            self.settle()

    def due_after(self, step: int, seconds: float) -> bool:
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
            StorageError: as `settle`; with `save_async` one before this could not be written.
        """
        if step == self._begun:
            return
        self._raise_failure(waits=False)
        self._begun = step
        self._since = time.monotonic()
        tensors = {  # with every process's part
            "method": whole_state(self.method),
            "optimizer": full_state(optimizer_tensors(self.optimizer, self.names)),
        }
        if self._saver is not None:
            state = {"scaler": self.scaler.state_dict() if self.scaler else None}
            self._saver.begin(step, tensors, state, self._to_be_kept(step), self._since)
        if not self.training.save_async:
            self.settle()

    def settle(self) -> None:
        """Wait until what was saved is on the disk. Every process must call it.

        Raises:
            StorageError: it could not be written; the same in all processes. The checkpoint before is untouched.
        """
        self._raise_failure(waits=True)

    def _raise_failure(self, waits: bool) -> None:
        problem = ""
        if self._saver is not None and (waits or self._saver.failed):
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
        check_state(self.method, tensors, limits._replace(steps=found.step))
        if self.scaler and scaler:
            check_scaler(scaler)
        restore_optimizer(self.optimizer, self.names, found.tensors["optimizer"], found.step)
        load_whole_state(self.method, tensors)
        if self.scaler and scaler:
            self.scaler.load_state_dict(scaler)
