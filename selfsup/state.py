"""What a run would lose if it ended now: gathered into checkpoints, and put back."""

import torch
from accelerate import Accelerator
from torch import Tensor

from selfsup import checkpoint, distributed
from selfsup.folder import RunFolder
from selfsup.methods.base import Method
from selfsup.monitor.log import message


class TrainingState:
    """Everything that a checkpoint holds: the method's tensors, the optimiser's, the scaler's, the step."""

    def __init__(
        self, method: Method, optimizer: torch.optim.Optimizer, accelerator: Accelerator, folder: RunFolder, keep: int
    ):
        self.method, self.optimizer, self.folder, self.keep = method, optimizer, folder, keep
        self.scaler, self.device = accelerator.scaler, accelerator.device
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in method.named_parameters()}
        self.saved_step = -1

    def save(self, step: int) -> None:
        if step == self.saved_step:
            return
        problem = ""
        if distributed.rank() == 0:
            try:
                self._write(step)
            except checkpoint.StorageError as error:
                problem = str(error)
        problem = distributed.gather_json(problem, self.device)[0]  # all processes wait here, and all stop
        if problem:
            raise checkpoint.StorageError(problem)
        self.saved_step = step

    def _write(self, step: int) -> None:
        tensors = {
            "method": self.method.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer, self.names),
        }
        state = {"scaler": self.scaler.state_dict() if self.scaler else None}
        checkpoint.save(self.folder.checkpoints, step, tensors, state, self.keep)

    def load(self) -> int:
        """Restore the newest checkpoint, if there is one; returns its step, else 0."""
        found, damage = checkpoint.load_newest(self.folder.checkpoints)
        for line in damage:
            message(f"damaged checkpoint passed over: {line}")
        # A process that could not read the newest one takes the others along to the one that all can read.
        step = min(distributed.gather_json(found.step if found else 0, self.device))
        if found is None or step == 0:
            return 0
        if found.step != step:
            found = checkpoint.load(self.folder.checkpoints / f"step_{step:08d}")
        self.method.load_state_dict(found.tensors["method"])
        checkpoint.restore_optimizer(self.optimizer, self.names, found.tensors["optimizer"])
        if self.scaler and found.state["scaler"]:
            self.scaler.load_state_dict(found.state["scaler"])
        self.saved_step = found.step
        return found.step
