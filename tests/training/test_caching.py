"""The gradients of a batch in chunks are those of the batch at once: of every method and stage."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.batch import Batch
from selfsup.data.settings import Data
from selfsup.methods.base import Method, RunContext, Step
from selfsup.methods.moco import MoCo
from selfsup.methods.simclr import SimCLR
from selfsup.models.domain_norm import DomainBatchNorm
from selfsup.models.heads import Classifier, Head
from selfsup.models.norm import GroupBatchNorm
from selfsup.models.resnet import ResNet
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.finetuned import FineTuned
from selfsup.stages.probes import LinearProbe
from selfsup.stages.students import Distilled, FeatureDistilled
from selfsup.training.gradient_cache import chunk_seed
from tests.contracts.case import Case, Run, Toy
from tests.contracts.cases import CASES
from tests.contracts.contracts import assert_close
from tests.support.chunked import CHUNKS, Engine, cached, gradients
from tests.support.figures import assert_agree

WARM = 4  # steps after which memories are in use and mixtures are made


def in_chunks(case: Case) -> Case:
    """With few enough groups of batch norm for chunks of 4."""
    few = isinstance(case.config, MoCo.Config)
    return replace(case, config=replace(case.config, batch_norm_splits=2)) if few else case


every_case = pytest.mark.parametrize("case", [in_chunks(case) for case in CASES], ids=str)
every_mode = pytest.mark.parametrize("mode", ["chunk", "frozen"])


def without_statistics(module: nn.Module) -> None:
    """Batch norm as in evaluation, so that every image is embedded for itself."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.eval()


class Loops:
    """Batch norm of a whole batch that does what its chunks would do, group of rows by group of rows.

    `fixed`: by constants of all chunks together, those of the inputs that came before in the same order.
    """

    def __init__(self, method: nn.Module) -> None:
        self.inputs: list[Tensor] = []
        self.fixed = False
        for norm in method.modules():
            if isinstance(norm, _BatchNorm) and norm.training:
                norm.forward = partial(self.normalise, norm)  # type: ignore[method-assign]

    def normalise(self, norm: Any, x: Tensor) -> Tensor:
        if self.fixed:
            shown = self.inputs.pop(0)
        else:
            self.inputs.append(x.detach())
            shown = x
        places = [place(norm, row, len(x)) for row in range(len(x))]
        output, shape = torch.zeros_like(x), (1, -1, *[1] * (x.ndim - 2))
        seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for chunk, part in sorted(set(places)):
            rows = [row for row, where in enumerate(places) if where == (chunk, part)]
            known = [row for row, where in enumerate(places) if where[1] == part] if self.fixed else rows
            values = shown[known].transpose(0, 1).flatten(1)  # (C, n)
            mean = values.mean(dim=1, keepdim=True)
            variance = (values - mean).square().mean(dim=1)
            prefix = "source_" if isinstance(norm, DomainBatchNorm) and part == 0 else ""
            scale = getattr(norm, f"{prefix}weight") / (variance + norm.eps).sqrt()
            shift = getattr(norm, f"{prefix}bias").view(shape)
            output[rows] = (x[rows] - mean.view(shape)) * scale.view(shape) + shift
            unbiased = variance * values.shape[1] / (values.shape[1] - 1)
            seen.setdefault(prefix, []).append((mean.flatten().detach(), unbiased.detach()))
        if not self.fixed:
            norm.num_batches_tracked += 1
            for prefix, moments in seen.items():
                for name, each in zip(("running_mean", "running_var"), zip(*moments, strict=True), strict=True):
                    getattr(norm, prefix + name).lerp_(torch.stack(each).mean(dim=0), norm.momentum)
        return output


def place(norm: nn.Module, row: int, count: int) -> tuple[int, int]:
    """Chunk and part of one of `count` rows of the batch."""
    if isinstance(norm, DomainBatchNorm):
        return row // 2 % CHUNKS, row % 2
    if isinstance(norm, GroupBatchNorm):
        return row % CHUNKS, row * norm.groups // count
    return row % CHUNKS, row // CHUNKS % getattr(norm, "splits", 1)


def two_alike(case: Case) -> tuple[Run, Run]:
    """Two runs in the same state, with memories in use; double precision."""
    first, second = Run(case, dtype=torch.float64), Run(case, dtype=torch.float64)
    first.losses(range(WARM))
    second.method.load_state_dict(first.state())
    first.optimizer.zero_grad()
    return first, second


def assert_same_step(ours: Step, theirs: Step, first: Run, second: Run) -> None:
    """Loss, figures, what is remembered, gradients and running statistics."""
    pairs = [({"loss": ours.loss}, {"loss": theirs.loss}), (ours.metrics, theirs.metrics), (ours.update, theirs.update)]
    pairs += [(gradients(first.method), gradients(second.method)), (first.state(), second.state())]
    for one, other in pairs:
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert_close(one[name].detach(), value.detach(), name)


@every_case
def test_without_statistics_chunks_change_nothing(case: Case) -> None:
    first, second = two_alike(case)
    without_statistics(first.method)
    without_statistics(second.method)
    ours = cached(first.method).step(*first.batch(WARM), number=0)
    assert_same_step(ours, second.backward(WARM), first, second)


@every_mode
@every_case
def test_batch_norm_is_that_of_loops_over_the_chunks(case: Case, mode: str) -> None:
    first, second = two_alike(case)
    ours = cached(first.method, mode).step(*first.batch(WARM), number=0)
    loops = Loops(second.method)
    if mode == "frozen":
        with torch.no_grad():
            second.method(*second.batch(WARM))
        loops.fixed = True
    theirs = second.backward(WARM)
    assert not (loops.fixed and loops.inputs), "a norm was passed less often than before"
    assert_same_step(ours, theirs, first, second)


CONTEXT = RunContext(num_images=1000, batch_size=16, seed=0)


def views_of_16(count: int) -> tuple[list[Tensor], Batch]:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(16, 3, 16, 16, generator=generator) for _ in range(count)]
    return views, Batch((), torch.arange(16) % 4, torch.arange(16))


def assert_same_gradients(one: nn.Module, other: nn.Module, tolerance: float, scale: float = 1.0) -> None:
    """Within the tolerance of the largest of all."""
    ours, theirs = gradients(one), gradients(other)
    assert ours.keys() == theirs.keys()
    largest = max(float(value.abs().max()) for value in theirs.values())
    assert largest > 0
    for name, value in theirs.items():
        assert (ours[name] / scale - value).abs().max() <= tolerance * largest, name


def twins(build: Callable[[], Method]) -> list[Method]:
    """Two of the same weights, whose batch norm is as in evaluation."""
    methods = []
    for _ in range(2):
        torch.manual_seed(0)
        methods.append(build())
        without_statistics(methods[-1])
    return methods


def resnet() -> ResNet:
    return ResNet.Config(depth="small", stem="small").build()


def classifier(layer: int) -> Classifier:
    return Classifier.Config(num_classes=4, hidden=Head.Config(), layer=layer).build(128)


METHODS_AND_STAGES: dict[str, tuple[int, Callable[[], Method]]] = {
    "simclr": (2, lambda: SimCLR.Config(temperature=0.5).build(resnet(), CONTEXT)),
    "moco": (2, lambda: MoCo.Config(queue_size=64, symmetric=True, batch_norm_splits=2).build(resnet(), CONTEXT)),
    "linear": (1, lambda: LinearProbe(resnet(), 4, "normal", (1.0, 0.1))),
    "finetune": (1, lambda: FineTuned(resnet(), classifier(1), replace(TUNING, train_after=0))),
    "distill": (1, lambda: taught(Distilled, temperature=2.0, alpha=0.5, tau_squared=True)),
    "distill_features": (1, lambda: taught(FeatureDistilled)),
}
TUNING = finetune_settings("sgd", Data())


def taught(kind: Callable[..., Method], **settings: Any) -> Method:
    return kind(resnet(), classifier(0), nn.Sequential(resnet(), classifier(0)), **settings)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["", "channels_last"])
@pytest.mark.parametrize("name", METHODS_AND_STAGES)
def test_single_precision_of_a_real_network_in_methods_and_stages(name: str, layout: torch.memory_format) -> None:
    count, build = METHODS_AND_STAGES[name]
    first, second = (method.to(memory_format=layout) for method in twins(build))
    views, batch = views_of_16(count)
    views = [view.contiguous(memory_format=layout) for view in views]
    ours, theirs = cached(first).step(views, batch, 0), second(views, batch)
    theirs.loss.backward()
    assert_agree(ours.loss, theirs.loss, 1e-5)
    assert ours.metrics.keys() == theirs.metrics.keys()
    assert_same_gradients(first, second, 1e-5)


def test_views_of_several_sizes() -> None:
    """Multi-crop: each size has chunks of its own."""
    first, second = twins(
        lambda: MoCo.Config(queue_size=64, batch_norm="plain", symmetric=True).build(resnet(), CONTEXT)
    )
    (large, other), batch = views_of_16(2)
    views = [large, other[..., :8, :8].contiguous()]
    cached(first).step(views, batch, 0)
    second(views, batch).loss.backward()
    assert_same_gradients(first, second, 1e-5)


class Dropping(Toy):
    """With dropout, which is all that is random inside an encoder."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


def composed(method: Method, views: list[Tensor], batch: Batch, engine: Engine, number: int) -> Step:
    """The step with one graph through all chunks, each with its random numbers and its own autocast."""
    parts = []
    for chunk in range(CHUNKS):
        torch.manual_seed(chunk_seed(number, chunk))
        with engine.autocast():
            parts.append(method.embedded(method.embed, [view[chunk::CHUNKS] for view in views]))
    embeddings = [torch.stack(part, dim=1).flatten(0, 1) for part in zip(*parts, strict=True)]
    with engine.autocast():
        out = method.objective(embeddings, views, batch)
    out.loss.backward()
    return out


@pytest.mark.parametrize("engine", [Engine(), Engine(torch.bfloat16), Engine(scale=1024.0)], ids=["", "bf16", "scaled"])
def test_every_pass_sees_the_same_dropout_and_precision(engine: Engine) -> None:
    config = SimCLR.Config(temperature=0.5, head=Head.Config(output_dim=8))
    first, second = twins(lambda: config.build(Dropping(batch_norm=False), CONTEXT))
    views, batch = views_of_16(2)
    ours = cached(first, engine=engine).step(views, batch, 7)
    theirs = composed(second, views, batch, engine, 7)
    assert_agree(ours.loss, theirs.loss, 1e-6)
    assert ours.loss.dtype == torch.float32
    assert_same_gradients(first, second, 1e-5, engine.scale)
    assert cached(first, engine=engine).step(views, batch, 7).loss == ours.loss
    assert cached(first, engine=engine).step(views, batch, 8).loss != ours.loss


def test_statistics_are_in_single_precision_under_autocast() -> None:
    config = SimCLR.Config(temperature=0.5, head=Head.Config(output_dim=8, batch_norm="all"))
    torch.manual_seed(0)
    half, single = config.build(resnet(), CONTEXT), config.build(resnet(), CONTEXT)
    single.load_state_dict(half.state_dict())
    views, batch = views_of_16(2)
    losses = [
        cached(method, "frozen", engine=Engine(dtype)).step(views, batch, 0).loss.item()
        for method, dtype in ((half, torch.bfloat16), (single, None))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    assert losses[0] != losses[1]
    for name, value in half.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64), name
