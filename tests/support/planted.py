"""Numbers that go wrong on purpose: in the loss, the gradient or the input of one process, and in embeddings."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor

import selfsup.pretraining
from selfsup import distributed
from selfsup.batch import Batch
from selfsup.losses.contrastive import l2_normalize
from selfsup.methods.base import Method, Step
from selfsup.monitor.observer import Diverged
from selfsup.pretraining import Run, build_method
from selfsup.storage.checkpoint import serialize
from selfsup.training.state import optimizer_tensors
from selfsup.training.trainer import Trainer
from tests.contracts.case import full

Place = Literal["loss", "gradient", "input", "mark"]
PLACES: tuple[Place, ...] = ("loss", "gradient", "input")
ROW = 1  # of the process's part of the batch, where an input is hit
MARK = 100.0  # of the first number of a marked image, which is unusual and finite


def held(run: Trainer) -> dict[str, Tensor]:
    """Everything that a step may write: weights, memory, running statistics, the optimizer's state."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in run.method.named_parameters()}
    optimizer = {f"optimizer/{name}": value for name, value in optimizer_tensors(run.optimizer, names).items()}
    return {name: full(value) for name, value in (dict(run.method.state_dict()) | optimizer).items()}


def fingerprint(state: dict[str, Tensor]) -> str:
    return hashlib.sha256(serialize(state)).hexdigest()


class Watched:
    """What was seen of the steps of a run in which something was planted."""

    def __init__(self) -> None:
        self.left_out: list[int] = []  # steps, from 0
        self.unchanged: list[bool] = []  # for each of them: whether the state after it is that before it, to the bit
        self.finite = True  # whether the state was finite after every step, but for what began otherwise
        self.after = ""  # fingerprint of the last state


@contextmanager
def planted(place: Place, steps: tuple[int, ...], rank: int = 0, value: float = torch.nan) -> Iterator[Watched]:
    """Within, each run has `value` in its loss, a gradient or a view at these steps, in one of its processes."""
    real, watched = Trainer.step, Watched()

    def step(run: Trainer, number: int, views: list[Tensor], batch: Batch) -> Step | None:
        due = number in steps and distributed.rank() == rank
        before = held(run)
        with _spoiled(run.method, place, value) if due else _whole():
            out = real(run, number, _views(views, place, value) if due else views, batch)
        after = held(run)
        if out is None:
            watched.left_out.append(number)
            watched.unchanged.append(fingerprint(before) == fingerprint(after))
        for name, tensor in after.items():
            begun = before.get(name, torch.zeros(()))
            watched.finite &= bool((tensor.isfinite() | begun.isnan()).all())
        watched.after = fingerprint(after)
        return out

    with mock.patch.object(Trainer, "step", step):
        yield watched


@contextmanager
def _whole() -> Iterator[None]:
    yield


@contextmanager
def _spoiled(method: Method, place: Place, value: float) -> Iterator[None]:
    if place == "gradient":
        parameter = next(p for p in method.parameters() if p.requires_grad and p.ndim > 1)
        handle = parameter.register_hook(lambda gradient: gradient + value)
        yield
        handle.remove()
    elif place == "loss":
        objective = method.objective

        def spoiled(embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
            out = objective(embeddings, views, batch)
            return out._replace(loss=out.loss + value)  # the gradient stays as it is

        method.objective = spoiled  # type: ignore[method-assign]
        yield
        del method.objective
    else:
        yield


def _views(views: list[Tensor], place: Place, value: float) -> list[Tensor]:
    if place not in ("input", "mark"):
        return views
    first = views[0].clone()
    first[ROW, 0, 0, 0] = value
    return [first, *views[1:]]


def outcome(run: Run, place: Place, steps: tuple[int, ...], rank: int = 0) -> dict[str, Any]:
    """What comes of a run with numbers that are not finite, as plain data."""
    from tests.training.test_resume import run_all  # it knows how to begin in a process group

    stopped = ""
    with planted(place, steps, rank) as watched:
        try:
            run_all([run]) if distributed.is_distributed() else selfsup.pretraining.pretrain(run)
        except Diverged as error:
            stopped = str(error)
    return {
        "left_out": watched.left_out,
        "unchanged": all(watched.unchanged),
        "finite": watched.finite,
        "after": watched.after,
        "stopped": stopped,
    }


Collapse = Literal["constant", "directions"]


@contextmanager
def collapsed(kind: Collapse) -> Iterator[None]:
    """Within, methods are built whose embeddings are nearly constant, or lie in two directions."""

    def build(*given: Any, **named: Any) -> Method:
        method = build_method(*given, **named)
        embed = method.embed

        def narrow(view: Tensor) -> Tensor:
            rows = embed(view)
            if kind == "constant":
                return l2_normalize(1 + 1e-3 * rows)
            return l2_normalize(torch.cat([rows[:, :2], torch.zeros_like(rows[:, 2:])], dim=1))

        method.embed = narrow  # type: ignore[method-assign]
        return method

    with mock.patch.object(selfsup.pretraining, "build_method", build):
        yield
