"""A step that was left out, run again: where the numbers go wrong, and with which images.

What a run captured is all that is needed: the views of the whole batch, the method's state before the step, and the
facts of the data that the method was built from. The step is run in one process and changes nothing.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup import distributed
from selfsup.batch import Batch
from selfsup.catalogue import import_encoders, import_methods
from selfsup.config.settings import dump, restore
from selfsup.config.stored_names import answers_to, descendants
from selfsup.data.base import Source
from selfsup.devices.moving import image_format
from selfsup.evaluation.built import built
from selfsup.methods.base import Method, Step
from selfsup.pretraining import Run, build_method
from selfsup.run_folder.environment import device_name
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime import arithmetic
from selfsup.runtime.device import device_for
from selfsup.stages.captured import check_captured, limits_of
from selfsup.stages.settings import Replay
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import plain_name
from selfsup.training.state import check_state, load_whole_state

_LARGEST = 5  # that are listed


class _Facts(Source):
    """The data as a method knows them: how many images, their labels and classes."""

    def __init__(self, labels: Tensor, classes: tuple[str, ...]) -> None:
        self.labels, self.classes = labels, classes

    def name(self, index: int) -> str:
        return f"image {index}"

    def load(self, index: int) -> Image.Image:
        raise AssertionError("the views of a captured batch are made already")


def run_replay(path: Path, settings: Replay) -> dict[str, Any]:
    """Run a captured step again.

    Args:
        path: of what was captured, as runs/NAME/captured/step_00000042.
        settings: the precision and the device.

    Returns:
        "reproduced": whether something is not finite this time too; "loss"; "images": those of the batch, by name,
        whose views, or whose rows in the first module that went wrong, are not finite; "first_module" in the order of
        the forward pass, "first_parameter" in that of the backward pass; the largest activations and gradients.

    Raises:
        ValueError: nothing was captured there, or by something else than a pretraining run, or it is damaged.
    """
    if distributed.launched() > 1:
        raise ValueError("replay runs a step in one process; start it without a launcher")
    if not (path / "manifest.json").is_file():
        there = ", ".join(f"step_{step:08d}" for step in checkpoint.steps(path / "captured"))
        hint = f"it captured {there}; name one of them" if there else "name one in the captured/ of a run"
        raise ValueError(f"{path} is no captured step; {hint}, as runs/NAME/captured/step_00000042")
    found = checkpoint.load(path)
    check_captured(found)
    run = _saved_run(path.parent.parent)
    precision = found.state["precision"] if settings.precision == "as-captured" else settings.precision
    device = device_for(settings.device)
    if precision == "fp16" and device.type != "cuda":
        raise ValueError("precision fp16 needs a CUDA device; use bf16 or fp32 here")
    method = _method(run, found, device)
    seen = _Seen(method, len(found.tensors["batch"]["indices"]))
    views, batch = _batch(found.tensors["batch"], device)
    torch.manual_seed(_number(found))
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    autocast: AbstractContextManager[Any] = nullcontext() if half is None else torch.autocast(device.type, half)
    with arithmetic.products(tf32=precision == "tf32"), seen.watching():
        with autocast:
            out = method(views, batch)
        out.loss.float().backward()
    about = {"step": found.step, "precision": precision, "device": device_name(device), "wrong": found.state["wrong"]}
    return about | _report(out, views, seen, batch.indices.tolist(), found.state["images"])


def _saved_run(folder: Path) -> Run:
    saved = RunFolder(folder).saved_run()
    import_methods()
    import_encoders()
    try:
        run: Run = restore(saved, Run)
    except ValueError as error:
        kind = saved.get("class", "")
        if not any(answers_to(allowed, kind) for allowed in descendants(Run)):
            kind = plain_name(kind, longest=80)
            raise ValueError(f"{folder} is of {kind}; only what pretraining captured can be run again") from error
        raise
    return run


def _method(run: Run, found: checkpoint.Checkpoint, device: torch.device) -> Method:
    """The method in its state before the step."""
    resolved = found.state["resolved"]
    if resolved.get("batch_norm") == "shuffle":
        # What several processes with a batch norm each do, in one: groups of the batch, each with one of its own.
        splits = {"batch_norm": "groups", "batch_norm_splits": found.state["processes"]}
        run = replace(run, method=replace(run.method, **splits))
    if run.start and not Path(run.start).exists():
        run = replace(run, start="")  # its weights have long become those of the state
    facts = _Facts(found.tensors["batch"]["all_labels"], tuple(found.state["classes"]))
    sizes = {"method": dump(run.method), "encoder": dump(run.encoder), "batch_size": run.batch_size}
    method = built(
        lambda: build_method(run, facts, pretrained=False), sizes, f"in {found.path.parents[1] / 'config.json'}"
    )
    method.to(device).to(memory_format=image_format(device))
    tensors = found.tensors["method"]
    check_state(method, tensors, limits_of(found), finite=False)  # what is not is looked for
    load_whole_state(method, tensors)
    return method.train()


def _batch(tensors: dict[str, Tensor], device: torch.device) -> tuple[list[Tensor], Batch]:
    count = sum(name.startswith("view_") for name in tensors)
    views = [tensors[f"view_{number}"].to(device) for number in range(count)]
    return views, Batch((), tensors["labels"].to(device), tensors["indices"].to(device))


def _number(found: checkpoint.Checkpoint) -> int:
    """The seed of what is random inside an encoder, as of the first process in the step."""
    step = (found.step - 1) * int(found.state["processes"])
    return ((int(found.state["seed"]) << 40) + step) & (2**63 - 1)


class _Seen:
    """What passes through the modules and parameters of a method in one step.

    Args:
        method: any.
        count: images of the batch.
    """

    def __init__(self, method: Method, count: int) -> None:
        self.method, self.count = method, count
        self.first_module: dict[str, Any] | None = None
        self.rows: list[int] = []  # of the first module, as places in the batch
        self.parameters: list[str] = []  # whose gradients are not finite, in the order in which they came
        self.activations: dict[str, float] = {}
        self.embeddings: list[int] = []
        self._embedding = False  # whether rows are images, in the order of the batch

    @contextmanager
    def watching(self) -> Iterator[None]:
        embed = self.method.embed
        handles = [
            module.register_forward_hook(self._output(name))
            for name, module in self.method.named_modules()
            if module is not self.method
        ]
        handles += [
            parameter.register_post_accumulate_grad_hook(self._gradient(name))
            for name, parameter in self.method.named_parameters()
            if parameter.requires_grad
        ]

        def embedded(view: Tensor) -> Tensor:
            self._embedding = True
            rows = embed(view)
            self._embedding = False
            self.embeddings += self._places(rows)
            return rows

        self.method.embed = embedded  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.method.embed
            for handle in handles:
                handle.remove()

    def _output(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            output = output.detach()
            finite = output.isfinite()
            largest = float(torch.where(finite, output, 0).abs().max())
            self.activations[name] = max(largest, self.activations.get(name, 0.0))
            if self.first_module is None and not bool(finite.all()):
                self.first_module = {"name": name, "class": type(module).__name__}
                self.rows = self._places(output) if self._embedding else []

        return hook

    def _gradient(self, name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                self.parameters.append(name)

        return hook

    def _places(self, rows: Tensor) -> list[int]:
        """Images whose rows are not finite, as places in the batch; of views that are embedded together, of any."""
        bad = ~rows.detach().reshape(len(rows), -1).isfinite().all(dim=1)
        return sorted({place % self.count for place in bad.nonzero().flatten().tolist()})


def _report(out: Step, views: list[Tensor], seen: _Seen, indices: list[int], images: list[str]) -> dict[str, Any]:
    loss = float(out.loss.detach())
    by_view = [seen._places(view) for view in views]
    updates = {name: seen._places(value) for name, value in out.update.items() if value.is_floating_point()}
    norms = {
        name: float(parameter.grad.norm())
        for name, parameter in seen.method.named_parameters()
        if parameter.grad is not None
    }
    embeddings = sorted(set(seen.embeddings))
    statistics = [
        f"{name}.{buffer}"
        for name, norm in seen.method.named_modules()
        if isinstance(norm, _BatchNorm)
        for buffer, value in norm.named_buffers(recurse=False)
        if not bool(value.isfinite().all())
    ]
    handed = sorted({place for places in updates.values() for place in places})
    finite = math.isfinite(loss) and not (seen.parameters or embeddings or handed or statistics)
    # Batch norm spreads what is wrong with one image over all: the earliest place tells most.
    earliest = sorted({place for places in by_view for place in places}) or seen.rows or embeddings or handed
    return {
        "reproduced": not finite,
        "loss": _number_or_word(loss),
        "first_module": seen.first_module,
        "first_parameter": seen.parameters[0] if seen.parameters else None,
        "images": [{"row": place, "index": indices[place], "name": images[place]} for place in earliest],
        "views_not_finite": by_view,
        "embeddings_not_finite": embeddings,
        "statistics_not_finite": statistics,
        "update_not_finite": {name: places for name, places in updates.items() if places},
        "largest_activations": _top(seen.activations),
        "largest_gradients": _top(norms),
    }


def _top(values: dict[str, float]) -> dict[str, float | str]:
    """The largest ones, those that are no numbers first."""
    order = sorted(values, key=lambda name: -values[name] if math.isfinite(values[name]) else -math.inf)
    return {name: _number_or_word(values[name]) for name in order[:_LARGEST]}


def _number_or_word(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
