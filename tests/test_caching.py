"""The gradients of a batch in chunks are those of the batch at once: of every method, stage and number of processes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from case import Case, Run, Toy
from cases import CASES
from contracts import assert_close, equal
from figures import assert_agree
from processes import run_processes
from test_resume import assert_same, final_state
from test_training import logged
from tiny import METHODS, tiny_run
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from selfsup import caching, checkpoint
from selfsup.caching import GradientCache, average_gradients, check_chunks, chunk_seed
from selfsup.config import Data
from selfsup.data.batch import Batch
from selfsup.distributed import mean_over_processes
from selfsup.methods.base import Method, Problem, Step
from selfsup.methods.metric import Metric
from selfsup.methods.moco import MoCo
from selfsup.methods.simclr import SimCLR
from selfsup.models.domain_norm import DomainBatchNorm
from selfsup.models.heads import Classifier, Head
from selfsup.models.resnet import ResNet
from selfsup.pretrain import pretrain
from selfsup.stages.finetune import FineTuned, finetune_settings
from selfsup.stages.probes import LinearProbe
from selfsup.stages.taught import Distilled, FeatureDistilled

CHUNKS = 4
WARM = 4  # steps after which memories are in use and mixtures are made

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_mode = pytest.mark.parametrize("mode", ["chunk", "frozen"])


class Engine:
    """What caching asks of accelerate."""

    def __init__(self, dtype: torch.dtype | None = None, scale: float = 1.0) -> None:
        self.dtype, self.scale = dtype, scale

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        (loss * self.scale).backward()


def cached(method: Method, mode: str = "chunk", chunks: int = CHUNKS, engine: Engine | None = None) -> GradientCache:
    return GradientCache(method, chunks, mode, engine or Engine())  # type: ignore[arg-type]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


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
        places = [place(norm, row) for row in range(len(x))]
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


def place(norm: nn.Module, row: int) -> tuple[int, int]:
    """Chunk and part of a row of the batch."""
    if isinstance(norm, DomainBatchNorm):
        return row // 2 % CHUNKS, row % 2
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


PROBLEM = Problem(num_images=1000, batch_size=16, seed=0)


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
    "simclr": (2, lambda: SimCLR.Config(temperature=0.5).build(resnet(), PROBLEM)),
    "moco": (2, lambda: MoCo.Config(queue_size=64, symmetric=True, batch_norm="sync").build(resnet(), PROBLEM)),
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
        lambda: MoCo.Config(queue_size=64, batch_norm="plain", symmetric=True).build(resnet(), PROBLEM)
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
    first, second = twins(lambda: config.build(Dropping(batch_norm=False), PROBLEM))
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
    half, single = config.build(resnet(), PROBLEM), config.build(resnet(), PROBLEM)
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


# Several processes

# One with each way of embedding and of remembering; that the objectives themselves are equal is in the contracts.
SHARED = [
    case
    for case in CASES
    if case.name
    in (
        "simclr",
        "moco_symmetric",
        "simclr_v2",
        "instdisc_nce",
        "supcon_three_views",
        "metric_proxy_anchor",
        "xbm_similarity",
        "spcl",
        "spcl_domains",
    )
]


def trained(cases: list[Case], mode: str) -> dict[str, dict[str, Any]]:
    """By case, after some steps in chunks: losses as means over processes, the last gradients, the state."""
    results = {}
    for case in cases:
        run, losses = Run(case, dtype=torch.float64), []
        cache = cached(run.method, mode)
        for step in range(3):
            run.begin_epoch(step)
            run.optimizer.zero_grad()
            out = cache.step(*run.batch(step), number=step)
            held = {name: value.clone() for name, value in gradients(run.method).items()}
            run.finish(step, out)
            losses.append(mean_over_processes(out.loss.detach()))
        results[case.name] = {"losses": torch.stack(losses), "gradients": held, "state": run.state()}
    return results


def counted(case: Case) -> list[Tensor]:
    """Numbers that went through all-reduces of gradients in a step: ours, and DDP's own, which must be none."""
    run = Run(case)
    whole = sum(p.numel() for p in run.method.parameters() if p.requires_grad)
    sizes: list[int] = []
    others: list[int] = []

    def hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        others.append(bucket.buffer().numel())
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    assert isinstance(run.model, DistributedDataParallel)
    run.model.register_comm_hook(None, hook)
    reduce = dist.all_reduce
    dist.all_reduce = lambda tensor, *rest: (sizes.append(tensor.numel()), reduce(tensor, *rest))[1]
    try:
        for step in range(2):
            cached(run.method).step(*run.batch(step), number=step)
    finally:
        dist.all_reduce = reduce
    return [torch.tensor([size for size in sizes if size == whole]), torch.tensor(others), torch.tensor(whole)]


def together() -> Any:
    """Everything that takes two processes, so that they start once."""
    case = next(case for case in CASES if case.name == "metric_proxy_anchor")
    results = {mode: trained(SHARED, mode) for mode in ("chunk", "frozen")}
    return results | {"counted": counted(case), "averaged": averaged()}


@pytest.fixture(scope="module")
def both() -> Any:
    return run_processes(2, together)


@every_mode
def test_two_processes_are_one(mode: str, both: Any) -> None:
    """With as many chunks in each, batch norm over all processes included."""
    one = trained(SHARED, mode)
    for case in SHARED:
        first, second = (replica[mode][case.name] for replica in both)
        for name, value in first["state"].items():
            assert equal(value, second["state"][name]), f"{case}: the processes hold different {name}"
        assert_close(first["losses"], one[case.name]["losses"], f"{case}: losses")
        for kind in ("gradients", "state"):
            assert first[kind].keys() == one[case.name][kind].keys()
            for name, value in one[case.name][kind].items():
                assert_close(first[kind][name], value, f"{case}, {kind}: {name}")


def test_gradients_are_sent_once(both: Any) -> None:
    for replica in both:
        ours, others, whole = replica["counted"]
        assert ours.tolist() == [int(whole)] * 2  # of two steps
        assert others.tolist() == []


def averaged() -> list[Tensor]:
    """Gradients of one message, of one in between of another type, of more than a message holds; and none."""
    types = [torch.float32, torch.float64, torch.float32, torch.float32]
    module = nn.ParameterList([torch.zeros(size, dtype=dtype) for size, dtype in zip((3, 2, 5, 4), types, strict=True)])
    for number, parameter in enumerate(module):
        parameter.grad = torch.full_like(parameter, float(number + dist.get_rank()))
    module.append(torch.zeros(1))
    size, caching._BUCKET = caching._BUCKET, 16
    average_gradients(module)
    caching._BUCKET = size
    assert module[-1].grad is None
    return [parameter.grad for parameter in module[:-1]]


def test_gradients_are_averaged_whatever_their_types_and_the_size_of_messages(both: Any) -> None:
    for replica in both:
        assert [value.tolist() for value in replica["averaged"]] == [[0.5] * 3, [1.5] * 2, [2.5] * 5, [3.5] * 4]


# Runs


def test_a_run_in_chunks_is_the_run_at_once_where_batch_norm_is_frozen(tmp_path: Path) -> None:
    pretrain(tiny_run(tmp_path / "start", "metric_proxy", max_steps=16))
    config = replace(METHODS["metric_proxy"], batch_norm="frozen")
    assert isinstance(config, Metric.Config)
    whole = replace(
        tiny_run(tmp_path / "whole", "metric_proxy", start=str(tmp_path / "start"), log_every=1, clip_norm=0.5),
        method=config,
    )
    pretrain(whole)
    pretrain(replace(whole, folder=str(tmp_path / "chunks"), grad_cache_chunk=4))
    losses = [logged(tmp_path / name, "loss") for name in ("whole", "chunks")]
    assert len(losses[0]) == 16
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_interrupted_within_a_step_and_between_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a queue and a momentum encoder; what a killed step had done is done anew."""
    settings = {"epochs": 1, "grad_cache_chunk": 4, "grad_cache_batch_norm": "frozen"}
    pretrain(tiny_run(tmp_path / "whole", "moco", **settings))
    cut = tiny_run(tmp_path / "cut", "moco", **settings)
    pretrain(replace(cut, max_steps=2))
    embed, calls = MoCo.embed, 0

    def failing(self: MoCo, view: Tensor) -> Tensor:
        nonlocal calls
        calls += view.requires_grad or torch.is_grad_enabled()
        if calls == 2 * CHUNKS + 2:  # two steps are done, and of the third one chunk has its gradient
            raise KeyboardInterrupt
        return embed(self, view)

    monkeypatch.setattr(MoCo, "embed", failing)
    with pytest.raises(KeyboardInterrupt):
        pretrain(cut)
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path / "cut" / "checkpoints") == [2]
    pretrain(replace(cut, max_steps=5))
    pretrain(cut)
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("method", ["simclr", "moco", "spcl"])
def test_running_statistics_count_a_step_once(method: str, tmp_path: Path) -> None:
    chunks = tiny_run(tmp_path / "chunks", method, max_steps=3, grad_cache_chunk=4)
    pretrain(chunks)
    pretrain(tiny_run(tmp_path / "whole", method, max_steps=3))
    counts = [
        {name: int(value) for name, value in final_state(tmp_path / folder)["method"].items() if "batches_tr" in name}
        for folder in ("chunks", "whole")
    ]
    assert counts[0]
    assert counts[0] == counts[1]
    with pytest.raises(ValueError, match="grad_cache_chunk: 4 -> 8"):
        pretrain(replace(chunks, grad_cache_chunk=8))


# What is refused


class Joined(SimCLR):
    def forward(self, views: list[Tensor], batch: Batch) -> Step:
        return super().forward(views, batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grad_cache_chunk": 0}, "grad_cache_chunk is 0"),
        ({"grad_cache_batch_norm": "frozen"}, "give grad_cache_chunk too"),
        ({"grad_cache_chunk": 4, "grad_cache_batch_norm": "frozen", "compile": True}, "no compile"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_run(tmp_path, **settings)


@pytest.mark.parametrize(
    ("method", "chunk", "message"),
    [
        ("simclr", 5, "16 images of the batch of 16, which cannot be divided into chunks of 5; use 4"),
        ("simclr", 32, "cannot be divided into chunks of 32; use 16"),
        ("simclr", 1, "batch norm needs more than one image"),
        ("spcl_domains", 1, "more than one image"),
        ("moco", 1, "more than one image"),
    ],
)
def test_chunks_that_do_not_fit_are_refused_before_there_is_a_folder(
    method: str, chunk: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain(tiny_run(tmp_path / "run", method, grad_cache_chunk=chunk))
    assert not (tmp_path / "run").exists()


def test_batch_norm_and_methods_that_cannot_be_divided() -> None:
    training = tiny_run(Path(), batch_size=18, grad_cache_chunk=3)
    split = MoCo.Config(queue_size=64, batch_norm="split", batch_norm_splits=2)
    with pytest.raises(ValueError, match="into 2 equal parts"):
        check_chunks(split.build(Toy(True), PROBLEM._replace(batch_size=18)), training)
    with pytest.raises(ValueError, match="Joined overrides `forward`"):
        check_chunks(Joined(SimCLR.Config(), Toy(False), PROBLEM), replace(training, grad_cache_chunk=2))
