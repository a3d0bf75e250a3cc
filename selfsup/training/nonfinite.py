"""Numbers that are not finite: such steps are skipped on all ranks, counted, and captured to be run again;
and where the loss or the weights are not finite all the same, the run ends before they are saved.
"""

import contextlib
import json
import math
import shutil
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm

from selfsup import distributed
from selfsup.batch import Batch
from selfsup.data.base import Source
from selfsup.dtensor import local_tensors
from selfsup.methods.base import Method
from selfsup.monitor.observer import Diverged, Observer, Report, Taken
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import open_own, parse_json, plain_name, read_bytes
from selfsup.training.settings import Training
from selfsup.training.state import whole_state

CAPTURED = 3  # batches that a run keeps; the first ones tell most, and disks are not endless
_LOOKED_AT = ("loss", "gradient", "memory or running statistics")
_REMEDY = "try a lower --optimizer.learning-rate, a longer warm-up, or --clip-norm 1, with a new --folder"
_ROWS = 64  # images of each process that are brought together at a time


class _Bad(NamedTuple):
    """A step that is left out."""

    step: int  # as it is logged: the first one is 1
    wrong: list[list[str]]  # by process: which of _LOOKED_AT are not finite
    indices: Tensor  # (N,) of the global batch, on the CPU
    finite: Tensor  # (N,) bool: whether all views of an image are finite

    @property
    def what(self) -> str:
        by_kind = {kind: [rank for rank, kinds in enumerate(self.wrong) if kind in kinds] for kind in _LOOKED_AT}
        several = len(self.wrong) > 1
        words = [
            kind + (f" (process {', '.join(map(str, ranks))})" if several and len(ranks) < len(self.wrong) else "")
            for kind, ranks in by_kind.items()
            if ranks
        ]
        return ", ".join(words)


class Guard(Observer):
    """Decides, when the gradients are there, whether a step may change anything; the same in all processes.

    A step may where its loss, the gradient, what is handed to memory and the running statistics of batch norm are
    finite in every process. One that may not leaves everything as it was: the running statistics, the only thing that
    a forward pass writes, are put back, and nothing else has been written yet. So training goes on as if the batch had
    not been, except that position and learning rate move on.

    To decide is to wait for the device once in a step. With fp16 the gradient is left to the loss scaler, which skips
    what overflows and tries a smaller scale.

    Args:
        method: on its device, in the state that the run goes on from, and wrapped by a `Trainer` already: to wrap it
            for several processes may put other buffers in the place of those that are put back here.
        training: `max_bad_steps` are left out in a row at most; one more stops the run.
        folder: of the run; gets `skipped.jsonl` and `captured/`.
        source: names images, and has the facts that the method was built from.
        accelerator: whose scaler and device are used.
        step: that the run goes on from; what was left out up to there is counted on.
    """

    def __init__(
        self, method: Method, training: Training, folder: RunFolder, source: Source, accelerator: Accelerator, step: int
    ) -> None:
        self.method, self.training, self.source, self.accelerator = method, training, source, accelerator
        self.record, self.captured = folder.path / "skipped.jsonl", folder.path / "captured"
        norms = [module for module in method.modules() if isinstance(module, _BatchNorm)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._floats = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._counts = [buffer for buffer in buffers if not buffer.is_floating_point()]  # copied apart: that is faster
        self._kept = [[buffer.clone() for buffer in part] for part in (self._floats, self._counts)]
        self._parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self.skipped, self._in_a_row = distributed.gather_json(self._counted(step), accelerator.device)[0]

    def _counted(self, step: int) -> list[int]:
        """How many steps up to this one were left out, and how many of them just before it; forgets later ones."""
        if distributed.rank() > 0 or not self.record.is_file():
            return [0, 0]
        *lines, _ = read_bytes(self.record).split(b"\n")  # what follows the last one was cut off
        known = {self._noted(line, number): line for number, line in enumerate(lines, start=1)}
        steps = {noted: line for noted, line in known.items() if noted <= step}
        checkpoint.write_atomically(self.record, b"".join(line + b"\n" for line in steps.values()))
        in_a_row = 0
        while step - in_a_row in steps:
            in_a_row += 1
        return [len(steps), in_a_row]

    def _noted(self, line: bytes, number: int) -> int:
        """The step that a line of the record is about. Raises ValueError for what `_tell` has not written."""
        step = None
        with contextlib.suppress(ValueError):
            step = parse_json(line, self.record).get("step")
        if type(step) is not int or step < 1:
            shown = plain_name(line.decode(errors="replace"), 80)
            raise ValueError(
                f"{self.record} does not say in line {number} which step was left out: {shown}\n"
                "remove that line; only the count of skipped steps follows from it"
            )
        return step

    def before_step(self, step: int, views: list[Tensor]) -> None:
        self._copy(self._kept, [self._floats, self._counts])

    @staticmethod
    @torch.no_grad()
    def _copy(targets: list[list[Tensor]], sources: list[list[Tensor]]) -> None:
        for target, source in zip(targets, sources, strict=True):
            if target:
                torch._foreach_copy_(target, source)

    def report(self, report: Report) -> None:
        report.figures["skipped_steps"] = self.skipped

    def allows(self, taken: Taken) -> bool:
        """Whether all is finite; if not, the running statistics are again as they were before the step.

        Raises:
            Diverged: it is not, at more than `max_bad_steps` steps in a row.
        """
        rows = distributed.gather(self._looked_at(taken)).view(-1, len(_LOOKED_AT)).tolist()
        wrong = [[kind for kind, x in zip(_LOOKED_AT, row, strict=True) if not math.isfinite(x)] for row in rows]
        if not any(wrong):
            self._in_a_row = 0
            return True
        self._copy([self._floats, self._counts], self._kept)
        if self.accelerator.scaler is not None:  # forgets that the gradients of this step may be unscaled already
            self.accelerator.scaler.update(self.accelerator.scaler.get_scale())
        finite = torch.stack([view.flatten(1).isfinite().all(dim=1) for view in taken.views]).all(dim=0)
        indices = distributed.gather(taken.batch.indices.to(self.accelerator.device)).cpu()
        bad = _Bad(taken.step + 1, wrong, indices, distributed.gather(finite).cpu())
        self.skipped += 1
        self._in_a_row += 1
        self._tell(bad, self._capture(bad, taken.views, taken.batch))
        return False

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

    def _tell(self, bad: _Bad, captured: str) -> None:
        """Record and say what happened; every process raises where it was once too often."""
        names = [plain_name(self.source.name(int(index))) for index in bad.indices[~bad.finite].tolist()]
        named = f"; views that are not finite: {', '.join(names[:3])}" + (", ..." if len(names) > 3 else "")
        again = f"\nsee where: selfsup replay {captured}" if captured else ""
        if distributed.rank() == 0:
            line = {"step": bad.step, "wrong": bad.wrong, "images": names}
            try:
                with open_own(self.record, "a") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                message(f"step {bad.step} could not be noted in {self.record}: {error.strerror}")
        if self._in_a_row > (self.training.max_bad_steps or 0):
            before = f", nor were the {self._in_a_row - 1} before it" if self._in_a_row > 1 else ""
            raise Diverged(
                f"the loss or the weights at step {bad.step} are not finite ({bad.what}){before}"
                f"{named if names else ''}; the last checkpoint is from before{again}\n{_REMEDY}"
            )
        if distributed.rank() == 0:
            message(f"step {bad.step} is left out: not finite are {bad.what}{named if names else ''}{again}")

    def _capture(self, bad: _Bad, views: list[Tensor], batch: Batch) -> str:
        """Keep what is needed to run the step again in one process; returns the folder, empty where there is none."""
        earlier = [step for step in checkpoint.steps(self.captured) if step < bad.step]
        if not distributed.gather_json(len(earlier) < CAPTURED, self.accelerator.device)[0]:
            return ""
        # The first process writes; the others have their parts in it.
        tensors = {"labels": gather_to_cpu(batch.labels), "indices": bad.indices, "all_labels": self.source.labels}
        tensors |= {f"view_{number}": gather_to_cpu(view) for number, view in enumerate(views)}
        groups = {"method": whole_state(self.method), "batch": tensors}
        folder = self.captured / f"step_{bad.step:08d}"
        if distributed.rank() == 0:
            try:
                self._require_room(groups)
                checkpoint.clean(self.captured)
                checkpoint.save(self.captured, bad.step, groups, self._facts(bad), CAPTURED)
            except (OSError, RuntimeError) as error:  # training goes on all the same
                message(f"the batch of step {bad.step} could not be kept: {error}")
        return str(folder) if folder.is_dir() else ""

    def _facts(self, bad: _Bad) -> dict[str, Any]:
        return {
            "wrong": bad.wrong,
            "seed": self.training.seed,
            "precision": self.training.precision,
            "processes": distributed.world_size(),
            "resolved": self.method.resolved,
            "classes": list(self.source.classes),
            "images": [self.source.name(int(index)) for index in bad.indices.tolist()],
        }

    def _require_room(self, groups: dict[str, dict[str, Tensor]]) -> None:
        """Checkpoints come first: the room of two of them must stay free, of weights and two numbers for each."""
        needed, state = (sum(value.nbytes for value in part.values()) for part in (groups["batch"], groups["method"]))
        free = shutil.disk_usage(self.record.parent).free
        if free < needed + 7 * state:
            raise checkpoint.StorageError(
                f"{needed + state} bytes needed in {self.captured}, beside the room of two checkpoints; {free} free"
            )


def gather_to_cpu(rows: Tensor) -> Tensor:
    """(B, ...) -> (N, ...) on the CPU, in the order of processes, with few of them on the device at a time."""
    world = distributed.world_size()
    parts = [distributed.gather(part.detach()).cpu().unflatten(0, (world, -1)) for part in rows.split(_ROWS)]
    return torch.cat(parts, dim=1).flatten(0, 1)


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
                f"\n{_REMEDY}"
            )
