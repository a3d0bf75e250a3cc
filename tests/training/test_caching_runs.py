"""Gradient caching in several processes and in whole runs, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfsup.batch import Batch
from selfsup.distributed import mean_over_processes
from selfsup.methods.base import RunContext, Step
from selfsup.methods.metric import Metric
from selfsup.methods.moco import MoCo
from selfsup.methods.simclr import SimCLR
from selfsup.pretraining import pretrain
from selfsup.storage import checkpoint
from selfsup.training import gradient_cache
from selfsup.training.gradient_cache import average_gradients, check_chunks
from tests.contracts.case import Case, Run, Toy
from tests.contracts.cases import CASES
from tests.contracts.contracts import assert_close, equal
from tests.support.chunked import CHUNKS, cached, gradients
from tests.support.exact import ROUNDING, double_precision
from tests.support.processes import run_processes
from tests.support.tiny import METHODS, tiny_run
from tests.training.test_resume import assert_same, final_state
from tests.training.test_training import logged

CONTEXT = RunContext(num_images=1000, batch_size=16, seed=0)

# Several processes

# One with each way of embedding and of remembering; that the objectives themselves are equal is in the contracts.
SHARED = [
    # Groups of batch norm, of which a chunk must hold whole ones, are fewer in a chunk of two processes than of one.
    replace(case, config=replace(case.config, batch_norm="sync")) if isinstance(case.config, MoCo.Config) else case
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


@pytest.mark.parametrize("mode", ["chunk", "frozen"])
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
    size, gradient_cache._BUCKET = gradient_cache._BUCKET, 16
    average_gradients(module)
    gradient_cache._BUCKET = size
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
    with double_precision():
        pretrain(whole)
        pretrain(replace(whole, folder=str(tmp_path / "chunks"), grad_cache_chunk=4))
    losses = [logged(tmp_path / name, "loss") for name in ("whole", "chunks")]
    assert len(losses[0]) == 16
    assert losses[1] == pytest.approx(losses[0], rel=2 * ROUNDING)  # they are logged in single precision
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
        check_chunks(split.build(Toy(True), CONTEXT._replace(batch_size=18)), training)
    with pytest.raises(ValueError, match="Joined overrides `forward`"):
        check_chunks(Joined(SimCLR.Config(), Toy(False), CONTEXT), replace(training, grad_cache_chunk=2))
