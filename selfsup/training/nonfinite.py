"""Numbers that are not finite: such steps are left out on all ranks; and where the loss or the weights are not finite
all the same, the run ends before they are saved.
"""

import math
from collections import deque
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm

from selfsup import distributed
from selfsup.data.base import Source
from selfsup.dtensor import local_tensors
from selfsup.methods.base import Method
from selfsup.monitor.observer import Diverged, Observer, Report, Taken
from selfsup.run_folder.folder import RunFolder
from selfsup.training.left_out import LOOKED_AT, REMEDY, LeftOut
from selfsup.training.settings import Training
from selfsup.training.sharding import sharding_requested
from selfsup.training.undo import ToHost, Undo


class _Open(NamedTuple):
    """A step of which the device knows whether it was finite, and the host not yet."""

    taken: Taken
    looked: ToHost  # (processes, 3), as `_looked_at`
    elsewhere: list[Tensor]  # as `Undo.keep` has returned it


class Guard(Observer):
    """Decides, when the gradients are there, whether a step may change anything; the same in all processes.

    A step may where its loss, the gradient, what is handed to memory and the running statistics of batch norm are
    finite in every process. One that may not leaves everything as it was: the running statistics, the only thing that
    a forward pass writes, are put back, and nothing else has been written yet. So training goes on as if the batch had
    not been, except that position and learning rate move on.

    On a GPU nothing waits for this: the device itself takes back what the step has written, and what follows it until
    the host has read of it, one step later; those steps are then taken again, and the batch is captured, exactly as if
    the host had waited. That takes a copy of all that a step may write. Where there is little room for one, with a
    sharded encoder, and with fp16, the host waits for the device once in a step. With fp16 the gradient is left to the
    loss scaler, which skips what overflows and tries a smaller scale.

    Args:
        method: on its device, in the state that the run goes on from, and wrapped by a `Trainer` already: to wrap it
            for several processes may put other buffers in the place of those that are put back here.
        training: `max_bad_steps` are left out in a row at most; one more stops the run.
        folder: of the run; gets `skipped.jsonl` and `captured/`.
        source: names images, and has the facts that the method was built from.
        accelerator: whose scaler and device are used.
        step: that the run goes on from; what was left out up to there is counted on.
        optimizer: of the method's parameters; None has the host wait.
    """

    def __init__(
        self,
        method: Method,
        training: Training,
        folder: RunFolder,
        source: Source,
        accelerator: Accelerator,
        step: int,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.method, self.training, self.accelerator = method, training, accelerator
        self.steps = LeftOut(method, training, folder, source, accelerator, step)
        norms = [module for module in method.modules() if isinstance(module, _BatchNorm)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._floats = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._counts = [buffer for buffer in buffers if not buffer.is_floating_point()]  # copied apart: that is faster
        self._kept = [[buffer.clone() for buffer in part] for part in (self._floats, self._counts)]
        self._parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self._undo = None if optimizer is None else _undo(method, optimizer, training, accelerator.device)
        self.behind = 1 if self._undo else 0
        self._good = torch.ones((), dtype=torch.bool, device=accelerator.device)  # no step is left out that is open
        self._elsewhere: list[Tensor] = []
        self._open: deque[_Open] = deque()

    def before_epoch(self, step: int, figures: dict[str, float]) -> None:
        if self._undo:
            self._undo.refresh()  # clusters may lie in other tensors than those of the last epoch

    def before_step(self, step: int, views: list[Tensor]) -> None:
        if self._undo:
            self._elsewhere = self._undo.keep()
        else:
            self._copy(self._kept, [self._floats, self._counts])

    @staticmethod
    @torch.no_grad()
    def _copy(targets: list[list[Tensor]], sources: list[list[Tensor]]) -> None:
        for target, source in zip(targets, sources, strict=True):
            if target:
                torch._foreach_copy_(target, source)

    def report(self, report: Report) -> None:
        report.figures["skipped_steps"] = self.steps.count

    def allows(self, taken: Taken) -> bool:
        """Whether all is finite; if not, the running statistics are again as they were before the step.

        Raises:
            Diverged: it is not, at more than `max_bad_steps` steps in a row.
        """
        looked = distributed.gather(self._looked_at(taken)).view(-1, len(LOOKED_AT))
        if self._undo:
            self._good = self._good & looked.isfinite().all()
            self._open.append(_Open(taken, ToHost(looked), self._elsewhere))
            return True
        wrong = _wrong(looked.tolist())
        if wrong is None:
            self.steps.in_a_row = 0
            return True
        self._copy([self._floats, self._counts], self._kept)
        if self.accelerator.scaler is not None:  # forgets that the gradients of this step may be unscaled already
            self.accelerator.scaler.update(self.accelerator.scaler.get_scale())
        self.steps.add(taken, wrong)
        return False

    def written(self, taken: Taken) -> None:
        if self._undo:
            self._undo.where_bad(self._good)

    def left_out(self, everything: bool) -> int | None:
        """The first open step that was not finite; all is as it was before it.

        Raises:
            Diverged: as `allows`.
        """
        while self._undo and len(self._open) > (0 if everything else self.behind):
            oldest = self._open.popleft()
            wrong = _wrong(oldest.looked.read())
            if wrong is None:
                self.steps.in_a_row = 0
                continue
            self._open.clear()
            self._good = torch.ones_like(self._good)
            self._undo.put_back(oldest.elsewhere)  # the device has taken back the rest
            self.method.taken_back()
            self.steps.add(oldest.taken, wrong)
            return oldest.taken.step
        return None

    def _looked_at(self, taken: Taken) -> Tensor:
        """(3,) what must be finite: loss, norm of the gradient, largest number of what is handed on."""
        loss, norm = taken.loss.detach().float(), taken.norm
        if self.training.precision == "fp16":
            norm = torch.zeros_like(loss)
        elif norm is None:
            norm = get_total_norm(local_tensors(p.grad for p in self._parameters if p.grad is not None))
        kept = [value for value in taken.update.values() if value.is_floating_point()] + self._floats
        largest = get_total_norm(kept, torch.inf) if kept else torch.zeros_like(loss)
        return torch.stack([loss, norm.to(loss), largest.to(loss)])


def _wrong(rows: list[list[float]]) -> list[list[str]] | None:
    """By process, which of LOOKED_AT are not finite; None where all are."""
    wrong = [[kind for kind, x in zip(LOOKED_AT, row, strict=True) if not math.isfinite(x)] for row in rows]
    return wrong if any(wrong) else None


def _undo(method: Method, optimizer: torch.optim.Optimizer, training: Training, device: torch.device) -> Undo | None:
    """What takes steps back on the device; None where the host decides, which is the same in all processes."""
    room = room_for_undo(training, device)
    if not room:
        return None
    undo = Undo(method, optimizer)
    fits = distributed.gather_json(undo.nbytes <= room, device)
    return undo if all(fits) else None


def room_for_undo(training: Training, device: torch.device) -> float:
    """Bytes that a copy of what a step writes may take on the device; 0 where the host decides about steps."""
    if not may_fall_behind(device) or training.precision == "fp16" or sharding_requested(training):
        return 0
    return _share(device)


def may_fall_behind(device: torch.device) -> bool:
    """Whether to wait for this device costs time."""
    return device.type == "cuda"


def _share(device: torch.device) -> float:
    """Bytes of the device that copies of what a step writes may take."""
    return torch.cuda.get_device_properties(device).total_memory / 8 if device.type == "cuda" else math.inf


class FiniteRun(Observer):
    """Ends a run by `Diverged`, in all processes alike, where the loss that it reports is not finite, or what it saves.

    Args:
        method: whose weights are looked at when they are to be saved.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    def after_step(self, step: int, figures: dict[str, float] | None) -> None:
        self._require(step, (figures or {}).get("loss", 0.0))

    def at_checkpoint(self, step: int, loss: Tensor | None, last: bool) -> None:
        held = [p.detach() for p in local_tensors(self.method.parameters()) if p.numel()]
        largest = torch.stack(torch._foreach_norm(held, torch.inf)).max().float()
        shown = torch.zeros_like(largest) if loss is None else loss.detach().float()
        mean, weight = distributed.mean_over_processes(torch.stack([shown, largest])).tolist()
        self._require(step, mean if math.isfinite(weight) else weight)

    @staticmethod
    def _require(step: int, number: float) -> None:
        if not math.isfinite(number):
            raise Diverged(
                f"the loss or the weights at step {step} are not finite ({number}); the last checkpoint is from before"
                f"\n{REMEDY}"
            )
