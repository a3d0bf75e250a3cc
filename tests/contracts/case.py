"""One method under contract: what it is, and the small world in which it is watched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from selfsup.batch import Batch
from selfsup.distributed import is_distributed, rank, world_size
from selfsup.methods.base import Method, RunContext, Step
from selfsup.models.encoder import Encoder
from selfsup.models.norm import average_running_statistics
from selfsup.training.gradient_cache import average_gradients
from selfsup.training.sharding import shard, unsharded

BATCH = 16  # images of a global batch
EPOCH = 6  # steps; before_epoch is called at steps 0, 6, 12, ...
IMAGES = 96  # many more than fit into the memories of the cases, so that few keys are the batch's own
FEW = 32  # fewer than fit into them
CLASS = 8  # images of a class
SIZE = 8  # pixels of a side

# The loss of the global batch by plain loops: (method, embeddings, batch, what forward gave for memory) -> ().
Naive = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class Learner:
    """How a method shows that it learns; see learning.py.

    Without labels the least over 8 first weights is a fall of 0.395 (mochi) and a rise of 0.045 (moco).
    """

    config: Method.Config | None = None  # None: that of the case, whose memory may be too small for batches of 32
    learning_rate: float = 0.003
    steps: int = 100
    late: int = 10  # as many last losses are averaged; more where few pairs are active and each loss is noisy
    full: int = 10  # the step from which memory is full: until then losses rise with the number of negatives
    fall: float = 0.1  # by how much the loss must fall
    rise: float = 0.02  # by how much the accuracy of kNN must rise


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method in one configuration; no memory is filled by whole batches of 16."""

    name: str
    config: Method.Config
    naive: Naive
    views: int = 2
    per_class: int = 0  # images of each class in a batch; 0: there are no labels
    domains: Literal[1, 2] = 1  # 2: even rows are labelled images, odd rows are of others without labels
    batch_norm: bool = True  # in the encoder
    # Batch norm over each process's own images: two processes then differ from one, by design.
    local_batch_norm: bool = False
    learner: Learner | None = field(default_factory=Learner)  # None: another case shows that the method learns

    def __str__(self) -> str:
        return self.name


class Toy(Encoder):
    """A convolution and a pool, with or without batch norm: (B, 3, S, S) -> (B, 16)."""

    feature_dim = 16

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 2, padding=1, bias=not batch_norm)
        self.norm = nn.BatchNorm2d(16) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.conv(x))
        return maps.relu().mean(dim=(2, 3))


@cache
def images(count: int) -> Tensor:
    """(count, 3, S, S) float64: image i is its class's mean, of class i // 8, and something of its own."""
    generator = torch.Generator().manual_seed(count)
    means = normal((count // CLASS, 3, SIZE, SIZE), generator)
    return means.repeat_interleave(CLASS, dim=0) + normal((count, 3, SIZE, SIZE), generator)


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """In double precision: what is drawn in single precision differs between instruction sets in its last bits."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def labels(case: Case, count: int) -> Tensor:
    """(count,) int64, -1 where the case has no labels and, of two domains, in the second half of the classes."""
    classes = torch.arange(count) // CLASS
    if not case.per_class:
        return torch.full((count,), -1)
    return classes if case.domains == 1 else torch.where(classes < _sources(count), classes, -1)


def _sources(count: int) -> int:
    """Classes of the labelled domain, where there are two."""
    return -(-count // CLASS // 2)


def context(case: Case, count: int, batch_size: int = BATCH) -> RunContext:
    known = labels(case, count)
    return RunContext(
        num_images=count,
        batch_size=batch_size,
        seed=0,
        num_classes=int(known.max()) + 1,
        num_views=case.views,
        view_size=(SIZE, SIZE),
        steps_per_epoch=EPOCH,
        per_class=case.per_class,
        two_domains=case.domains == 2,
        labels=known if case.per_class else None,
    )


def global_batch(case: Case, step: int, count: int, batch_size: int = BATCH) -> tuple[list[Tensor], Batch]:
    """The float64 views of `batch_size` different images and their batch: a pure function of the step.

    With labels, rows of one class lie anywhere in the batch, so that two processes share most classes.
    """
    generator = torch.Generator().manual_seed(1000 * count + step)

    def some(classes: Tensor, wanted: int) -> Tensor:
        """`wanted` images in random order, `per_class` from each of some of the classes."""
        chosen = classes[torch.randperm(len(classes), generator=generator)][: wanted // case.per_class]
        members = torch.stack([torch.randperm(CLASS, generator=generator)[: case.per_class] for _ in chosen])
        rows = (chosen[:, None] * CLASS + members).flatten()
        return rows[torch.randperm(len(rows), generator=generator)]

    if case.domains == 2:
        both = torch.arange(count // CLASS).split(_sources(count))
        rows = torch.stack([some(classes, batch_size // 2) for classes in both], dim=1).flatten()
    elif case.per_class:
        rows = some(torch.arange(count // CLASS), batch_size)
    else:
        rows = torch.randperm(count, generator=generator)[:batch_size]
    shown = images(count)[rows]
    views = [shown + 0.3 * normal(shown.shape, generator) for _ in range(case.views)]
    blank = torch.zeros(batch_size, 3, SIZE, SIZE, dtype=torch.uint8)
    return views, Batch(blank, labels(case, count)[rows], rows)


def local(rows: Tensor) -> Tensor:
    """This process's part of the rows of a global batch."""
    size = len(rows) // world_size()
    return rows[rank() * size : (rank() + 1) * size]


class Run:
    """A method that is trained on the batches of its case, one step at a time, as the trainer would do it."""

    def __init__(
        self,
        case: Case,
        count: int = IMAGES,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        batch_size: int = BATCH,
        sharded: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        self.case = case
        self.count = count
        self.dtype = dtype
        self.batch_size = batch_size
        with default_dtype(dtype):  # the first weights, too, are drawn in the precision of the run
            method = case.config.build(Toy(case.batch_norm), context(case, count, batch_size))
        # Memory that is stored in half precision stays so.
        widened = method._apply(  # type: ignore[no-untyped-call]  # nn.Module's
            lambda part: part.to(dtype) if part.dtype == torch.float32 else part
        )
        self.method: Method = widened
        self.sharded = sharded and shard(self.method, torch.device("cpu"))
        parameters = [p for p in self.method.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=0.05)
        self.model: nn.Module = self.method
        if is_distributed() and not self.sharded:
            self.model = DistributedDataParallel(self.method, broadcast_buffers=False)

    def batch(self, step: int) -> tuple[list[Tensor], Batch]:
        """This process's views and batch."""
        views, batch = global_batch(self.case, step, self.count, self.batch_size)
        assert isinstance(batch.images, Tensor)
        parts = Batch(local(batch.images), local(batch.labels), local(batch.indices))
        return [local(view).to(self.dtype) for view in views], parts

    def extract(self, module: nn.Module) -> Tensor:
        """What `before_epoch` gets to see the data set with; in the precision of the run."""
        training = module.training
        with torch.no_grad(), unsharded(module):
            device = next(module.parameters()).device
            features = cast(Tensor, module.eval()(images(self.count).to(device, self.dtype)))
        module.train(training)
        return features.cpu()

    def begin_epoch(self, step: int) -> None:
        """Must come before every step, and does something at the first one of an epoch."""
        if step % EPOCH == 0:
            self.method.before_epoch(step // EPOCH, self.extract)

    def foresee(self, step: int) -> None:
        """What the trainer tells a method of the global batch before each step."""
        self.method.foresee(global_batch(self.case, step, self.count, self.batch_size)[1].indices)

    def backward(self, step: int) -> Step:
        """Forward and backward, with nothing written yet."""
        out: Step = self.model(*self.batch(step))
        self.optimizer.zero_grad()
        out.loss.backward()
        if self.sharded:
            average_gradients(self.method)
        return out

    def finish(self, step: int, out: Step) -> None:
        """The optimizer's step, and all that is written once per step."""
        self.optimizer.step()
        average_running_statistics(self.method)
        self.method.after_step(out.update, step / (4 * EPOCH))

    def step(self, step: int) -> Step:
        self.begin_epoch(step)
        self.foresee(step)
        out = self.backward(step)
        self.finish(step, out)
        return out

    def losses(self, steps: range) -> Tensor:
        """(len(steps),) losses of this process."""
        return torch.stack([self.step(step).loss.detach() for step in steps])

    def gradients(self) -> dict[str, Tensor]:
        return {name: full(p.grad) for name, p in self.method.named_parameters() if p.grad is not None}

    def state(self) -> dict[str, Tensor]:
        return {name: full(value) for name, value in self.method.state_dict().items()}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def full(tensor: Tensor) -> Tensor:
    """A copy of a tensor, with the parts of all processes."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.clone()
