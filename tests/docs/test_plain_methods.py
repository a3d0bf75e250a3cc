"""Each method once more in plain PyTorch (docs/methods/plain) is the method of the library, step by step.

Same first weights, same views, same optimizer, in double precision. What a method draws at random, it is given: the
numbers that the library has drawn.
"""

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsup.batch import Batch
from selfsup.methods import pair_losses
from selfsup.methods.base import Method
from selfsup.methods.instdisc import InstDisc
from selfsup.methods.metric import Metric
from selfsup.methods.mochi import MoCHi
from selfsup.methods.moco import MoCo
from selfsup.methods.moco_v3 import MoCoV3
from selfsup.methods.pair_loss import PairLoss
from selfsup.methods.simclr import SimCLR
from selfsup.methods.simclr_v2 import SimCLRv2
from selfsup.methods.spcl import SpCL
from selfsup.methods.supcon import SupCon
from selfsup.methods.supmoco import SupMoCo
from selfsup.methods.xbm import XBM
from selfsup.models.heads import Head, PlainHead
from selfsup.randomness import Stream, permutation, uniform
from tests.contracts.case import BATCH, EPOCH, IMAGES, Case, Run, Toy, default_dtype, images
from tests.support.places import ROOT

STEPS = 20  # every memory is filled more than twice, and a fourth epoch has begun
EXACT = 1e-10
DIM = 8  # of the embeddings
HEAD = Head.Config(output_dim=DIM)
NORMED = Head.Config(hidden_layers=2, output_dim=DIM, batch_norm="all")
WHOLE = {"encoder": "encoder", "head": "head"}
MOMENTUM = {"encoder": "network.0", "head": "network.1", "key_encoder": "key_network.0", "key_head": "key_network.1"}
QUEUE = {"queue.features": "queue", "queue.indices": "owners", "queue.pointer": "pointer"}


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A method of the library and its plain file."""

    name: str  # of the plain file
    config: Method.Config
    build: Callable[[SimpleNamespace, Toy], nn.Module]
    step: Callable[..., float]  # of (file, model, optimizer, run, views, batch, step)
    parts: dict[str, str]  # what is the same: the library's name, the plain name
    views: int = 2
    per_class: int = 0
    statistics: bool = True  # running statistics of batch norm are the same, too
    told: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.told}"


def plain_file(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "methods" / "plain" / f"{name}.py")))


def tensors(module: nn.Module, place: str, statistics: bool = True) -> list[Tensor]:
    """A tensor of a module, or all of a part of it; without batch norm's statistics only its parameters."""
    part = attrgetter(place)(module)
    if isinstance(part, Tensor):
        return [part.detach()]
    return list(part.state_dict().values()) if statistics else [weight.detach() for weight in part.parameters()]


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=1e-4)


def moco_step(
    file: SimpleNamespace, model: Any, plain: Any, run: Run, views: list[Tensor], batch: Batch, step: int
) -> float:
    method: Any = run.method
    order = permutation(method.seed, Stream.SHUFFLE, BATCH, epoch=2 * method.steps)
    loss: float = file.train_step(model, plain, *views, batch.indices, order)
    return loss


def mochi_step(
    file: SimpleNamespace, model: Any, plain: Any, run: Run, views: list[Tensor], batch: Batch, step: int
) -> float:
    method: Any = run.method
    count = 3 * model.pairs + 2 * model.with_query
    draws = uniform(method.seed, Stream.MIXING, batch.indices, count, epoch=2 * method.steps)
    loss: float = file.train_step(model, plain, tuple(views), batch.indices, draws if step >= 3 else None)
    return loss


def spcl_step(
    file: SimpleNamespace, model: Any, plain: Any, run: Run, views: list[Tensor], batch: Batch, step: int
) -> float:
    if step == 0:
        with torch.no_grad():
            model.memory.copy_(model.eval().embed(images(IMAGES)))
        model.train()
    if step % EPOCH == 0:
        model.begin_epoch()
    memory: Any = run.method.memory
    same, theirs = (labels[:, None] == labels for labels in (model.clusters, memory.labels))
    assert torch.equal(same, theirs), "the clusters differ"
    assert 1 < len(model.clusters.unique()) < IMAGES, "there are clusters, and single images"
    loss: float = file.train_step(model, plain, *views, batch.indices)
    return loss


def metric(name: str, loss: PairLoss.Config) -> Twin:
    proxy = isinstance(loss, pair_losses.Proxy.Config)

    def build(file: SimpleNamespace, toy: Toy) -> nn.Module:
        built = file.ProxyAnchor(IMAGES // 8, DIM) if proxy else getattr(file, name)
        model: nn.Module = file.Metric(toy, 16, built, output_dim=DIM)
        return model

    return Twin(
        name="metric",
        told=f" {name}",
        config=Metric.Config(output_dim=DIM, loss=loss),
        build=build,
        step=lambda file, model, plain, run, views, batch, step: file.train_step(model, plain, *views, batch.labels),
        parts=WHOLE | ({"loss.proxies": "loss.proxies"} if proxy else {}),
        views=1,
        per_class=4,
    )


TWINS = [
    Twin(
        name="simclr",
        config=SimCLR.Config(temperature=0.2, head=NORMED),
        build=lambda file, toy: file.SimCLR(toy, 16, DIM, temperature=0.2),
        step=lambda file, model, plain, run, views, batch, step: file.train_step(model, plain, *views),
        parts=WHOLE,
    ),
    # A group of batch norm has one update of running statistics here, and one for each group there.
    Twin(
        name="moco",
        config=MoCo.Config(queue_size=40, momentum=0.9, head=HEAD, batch_norm_splits=4),
        build=lambda file, toy: file.MoCo(toy, 16, DIM, queue_size=40, momentum=0.9, groups=4),
        step=moco_step,
        parts=MOMENTUM | QUEUE,
        statistics=False,
    ),
    Twin(
        name="moco_v3",
        config=MoCoV3.Config(
            momentum=0.9,
            head=PlainHead.Config(hidden_layers=2, hidden_dim=16, output_dim=DIM),
            predictor=PlainHead.Config(hidden_dim=16, output_dim=DIM),
        ),
        build=lambda file, toy: file.MoCoV3(toy, 16, hidden_dim=16, output_dim=DIM, momentum=0.9),
        step=lambda file, model, plain, run, views, batch, step: file.train_step(
            model, plain, *views, progress=step / (4 * EPOCH)
        ),
        parts=MOMENTUM | {"predictor": "predictor"},
    ),
    Twin(
        name="simclr_v2",
        config=SimCLRv2.Config(queue_size=40, momentum=0.9, head=NORMED, temperature=0.2),
        build=lambda file, toy: file.SimCLRv2(toy, 16, DIM, queue_size=40, momentum=0.9, temperature=0.2),
        step=lambda file, model, plain, run, views, batch, step: file.train_step(model, plain, *views, batch.indices),
        parts=MOMENTUM | QUEUE,
    ),
    Twin(
        name="mochi",
        config=MoCHi.Config(
            queue_size=40,
            momentum=0.9,
            head=HEAD,
            batch_norm="plain",
            hardest=8,
            pairs=6,
            with_query=3,
            warmup_epochs=0.5,
        ),
        build=lambda file, toy: file.MoCHi(toy, 16, DIM, queue_size=40, momentum=0.9, hardest=8, pairs=6, with_query=3),
        step=mochi_step,
        parts=MOMENTUM | QUEUE,
    ),
    Twin(
        name="supcon",
        config=SupCon.Config(head=HEAD, temperature=0.2),
        build=lambda file, toy: file.SupCon(toy, 16, DIM, temperature=0.2),
        step=lambda file, model, plain, run, views, batch, step: file.train_step(model, plain, views, batch.labels),
        parts=WHOLE,
        views=3,
        per_class=4,
    ),
    Twin(
        name="supmoco",
        config=SupMoCo.Config(queue_size=40, momentum=0.9, head=HEAD, temperature=0.2, batch_norm="plain"),
        build=lambda file, toy: file.SupMoCo(toy, 16, DIM, queue_size=40, momentum=0.9, temperature=0.2),
        step=lambda file, model, plain, run, views, batch, step: file.train_step(
            model, plain, tuple(views), batch.indices, batch.labels
        ),
        parts=MOMENTUM | QUEUE | {"queue.labels": "classes"},
        per_class=4,
    ),
    Twin(
        name="instdisc",
        config=InstDisc.Config(num_negatives=10, output_dim=DIM, temperature=0.2),
        build=lambda file, toy: file.InstDisc(toy, 16, IMAGES, DIM, temperature=0.2),
        step=lambda file, model, plain, run, views, batch, step: file.train_step(
            model, plain, *views, batch.indices, run.method.noise(batch.indices)
        ),
        parts=WHOLE | {"bank.features": "bank"},
        views=1,
    ),
    Twin(
        name="spcl",
        # With these neighbourhoods images are set apart by independence, and others by compactness.
        config=SpCL.Config(k1=8, k2=2, min_samples=3),
        build=lambda file, toy: file.SpCL(toy, 16, IMAGES, k1=8, k2=2, min_samples=3),
        step=spcl_step,
        parts={"encoder": "encoder", "neck": "neck", "memory.features": "memory", "threshold": "threshold"},
        views=1,
    ),
    metric("contrastive", pair_losses.Contrastive.Config()),
    metric("triplet", pair_losses.Triplet.Config(mining="hard")),
    metric("circle", pair_losses.Circle.Config()),
    metric("multi_similarity", pair_losses.MultiSimilarity.Config()),
    metric("proxy_anchor", pair_losses.Proxy.Config()),
    Twin(
        name="xbm",
        config=XBM.Config(output_dim=DIM, memory_size=40, memory_start=2, drift_every=0),
        build=lambda file, toy: file.XBM(toy, 16, DIM, memory_size=40, memory_start=2),
        step=lambda file, model, plain, run, views, batch, step: file.train_step(model, plain, *views, batch.labels),
        parts=WHOLE | {"queue.features": "memory", "queue.labels": "classes", "queue.filled": "filled"},
        views=1,
        per_class=4,
    ),
]


def no_loops(*anything: object) -> Tensor:
    raise AssertionError("the plain file takes the place of the loops")


@pytest.mark.parametrize("twin", TWINS, ids=str)
def test_a_plain_method_is_that_of_the_library(twin: Twin) -> None:
    case = Case(name=twin.name, config=twin.config, naive=no_loops, views=twin.views, per_class=twin.per_class)
    run, file = Run(case, dtype=torch.float64), plain_file(twin.name)
    run.optimizer = optimizer(run.method)
    with default_dtype(torch.float64):
        model = twin.build(file, Toy(batch_norm=True))
    for ours, theirs in twin.parts.items():
        for tensor, first in zip(tensors(model, theirs), tensors(run.method, ours), strict=True):
            tensor.copy_(first)
    plain = optimizer(model)
    for step in range(STEPS):
        run.begin_epoch(step)
        views, batch = run.batch(step)
        loss = twin.step(file, model, plain, run, views, batch, step)
        assert_same(torch.tensor(loss, dtype=torch.float64), run.step(step).loss.detach(), f"loss of step {step}")
    for ours, theirs in twin.parts.items():
        pairs = zip(*(tensors(*place, twin.statistics) for place in ((run.method, ours), (model, theirs))), strict=True)
        for ours_now, theirs_now in pairs:
            assert_same(theirs_now, ours_now, ours)
    trained = [name for name, weight in run.method.named_parameters() if weight.requires_grad]
    untold = [name for name in trained if not any(f"{name}.".startswith(f"{part}.") for part in twin.parts)]
    assert not untold, "parameters that are not compared"


def assert_same(plain: Tensor, ours: Tensor, name: str) -> None:
    """Within 1e-10 of the largest value, or of 1 where all are small; whole numbers are equal."""
    assert plain.shape == ours.shape, name
    if not ours.is_floating_point():
        assert torch.equal(plain, ours), name
        return
    error = (plain - ours).abs().max()
    assert error <= EXACT * ours.abs().max().clamp(min=1), f"{name}: error {error:.3e}"


def test_every_plain_file_is_compared() -> None:
    files = sorted(path.stem for path in (ROOT / "docs" / "methods" / "plain").glob("*.py"))
    assert files == sorted({twin.name for twin in TWINS})


def test_a_plain_file_is_short_and_stands_alone() -> None:
    for path in sorted((ROOT / "docs" / "methods" / "plain").glob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 100, f"{path.name} is longer than 100 lines"
        assert "selfsup" not in text, f"{path.name} leans on the library"
