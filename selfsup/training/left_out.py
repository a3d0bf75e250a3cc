"""Steps that are left out: counted, recorded, and captured to be run again."""

import contextlib
import json
import shutil
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from selfsup import distributed
from selfsup.batch import Batch
from selfsup.data.base import Source
from selfsup.methods.base import Method
from selfsup.monitor.observer import Diverged, Taken
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import open_own, parse_json, plain_name, read_bytes
from selfsup.training.settings import Training
from selfsup.training.state import whole_state

CAPTURED = 3  # batches that a run keeps; the first ones tell most, and disks are not endless
LOOKED_AT = ("loss", "gradient", "memory or running statistics")
REMEDY = "try a lower --optimizer.learning-rate, a longer warm-up, or --clip-norm 1, with a new --folder"
_ROWS = 64  # images of each process that are brought together at a time


class _Bad(NamedTuple):
    """A step that is left out."""

    step: int  # as it is logged: the first one is 1
    wrong: list[list[str]]  # by process: which of LOOKED_AT are not finite
    indices: Tensor  # (N,) of the global batch, on the CPU
    finite: Tensor  # (N,) bool: whether all views of an image are finite

    @property
    def what(self) -> str:
        by_kind = {kind: [rank for rank, kinds in enumerate(self.wrong) if kind in kinds] for kind in LOOKED_AT}
        several = len(self.wrong) > 1
        words = [
            kind + (f" (process {', '.join(map(str, ranks))})" if several and len(ranks) < len(self.wrong) else "")
            for kind, ranks in by_kind.items()
            if ranks
        ]
        return ", ".join(words)


class LeftOut:
    """The steps of a run that were left out.

    Args:
        method: on its device.
        training: `max_bad_steps` are left out in a row at most; one more stops the run.
        folder: of the run; gets `skipped.jsonl` and `captured/`.
        source: names images, and has the facts that the method was built from.
        accelerator: whose device is used.
        step: that the run goes on from; what was left out up to there is counted on.
    """

    def __init__(
        self, method: Method, training: Training, folder: RunFolder, source: Source, accelerator: Accelerator, step: int
    ) -> None:
        self.method, self.training, self.source, self.device = method, training, source, accelerator.device
        self.record, self.captured = folder.path / "skipped.jsonl", folder.path / "captured"
        self.count, self.in_a_row = distributed.gather_json(self._counted(step), self.device)[0]

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

    def add(self, taken: Taken, wrong: list[list[str]]) -> None:
        """Count, capture and tell of a step after which all is as it was before it.

        Args:
            taken: the step.
            wrong: which of LOOKED_AT are not finite, by process.

        Raises:
            Diverged: so many in a row are not left out.
        """
        finite = torch.stack([view.flatten(1).isfinite().all(dim=1) for view in taken.views]).all(dim=0)
        indices = distributed.gather(taken.batch.indices.to(self.device)).cpu()
        bad = _Bad(taken.step + 1, wrong, indices, distributed.gather(finite).cpu())
        self.count += 1
        self.in_a_row += 1
        self._tell(bad, self._capture(bad, taken.views, taken.batch))

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
        if self.in_a_row > (self.training.max_bad_steps or 0):
            before = f", nor were the {self.in_a_row - 1} before it" if self.in_a_row > 1 else ""
            raise Diverged(
                f"the loss or the weights at step {bad.step} are not finite ({bad.what}){before}"
                f"{named if names else ''}; the last checkpoint is from before{again}\n{REMEDY}"
            )
        if distributed.rank() == 0:
            message(f"step {bad.step} is left out: not finite are {bad.what}{named if names else ''}{again}")

    def _capture(self, bad: _Bad, views: list[Tensor], batch: Batch) -> str:
        """Keep what is needed to run the step again in one process; returns the folder, empty where there is none."""
        earlier = [step for step in checkpoint.steps(self.captured) if step < bad.step]
        if not distributed.gather_json(len(earlier) < CAPTURED, self.device)[0]:
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
