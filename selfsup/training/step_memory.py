"""How much memory a run takes, found out before it begins: what it holds, and what a step takes on top of that.

A step is counted on tensors that have a size and no content (torch's FakeTensorMode), so a batch of any size costs no
memory and hardly any time. What is counted are the tensors that are there at once while a batch is embedded and the
gradient goes back through it: that is what grows with the batch. Not counted is what an operation needs inside (layouts
of a convolution, workspaces), what a loss takes, which is small since losses go through scores in tiles, and what the
program takes itself. So it is rather too little than too much; docs/long_runs.md has both side by side.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from selfsup import distributed
from selfsup.data.free_memory import free_memory
from selfsup.data.sharing import processes_here
from selfsup.devices.moving import image_format
from selfsup.methods.base import Method
from selfsup.training.ahead import makes_ahead
from selfsup.training.gradient_cache import rows_together
from selfsup.training.live_bytes import LiveBytes
from selfsup.training.nonfinite import room_for_undo
from selfsup.training.settings import Training
from selfsup.training.sharding import sharding_requested

MARGIN = 0.3  # share of what is free that is spared, where it is asked how much fits
_FAR = 128  # multiples of the rows that batch norm needs, at which a line is laid through two counts
_NEAR = 2  # the same where a step has to be computed


class Line(NamedTuple):
    """Bytes for `rows` images of each view: fixed + per_row * rows."""

    fixed: float
    per_row: float

    def at(self, rows: int) -> int:
        return round(self.fixed + self.per_row * rows)

    def rows(self, room: float) -> int:
        """How many images fit into so many bytes; 0: none."""
        return max(0, math.floor((room - self.fixed) / max(self.per_row, 1.0)))


class StepMemory:
    """Of one process, in bytes.

    Args:
        method: as it was built, on the CPU; nothing of it changes.
        training: its precision is settled.
        shapes: (C, H, W) of each view.
        device: that the run is to be on.

    Attributes:
        held: weights and buffers of the method, memories among them.
        trained: weights that get a gradient.
        optimizer: its state.
    """

    def __init__(
        self, method: Method, training: Training, shapes: Sequence[tuple[int, ...]], device: torch.device
    ) -> None:
        self.method, self.training, self.shapes, self.device = method, training, shapes, device
        parameters = list(method.parameters())
        parts = distributed.world_size() if sharding_requested(training) else 1
        self.held = sum(_bytes(buffer) for buffer in method.buffers()) + sum(map(_bytes, parameters)) // parts
        self.trained = sum(_bytes(parameter) for parameter in parameters if parameter.requires_grad) // parts
        self.optimizer = round(_copies(training) * self.trained)
        self._counts: dict[int, int] = {}

    @property
    def state(self) -> int:
        """What a run goes on from, and a checkpoint holds."""
        return self.held + self.optimizer

    @property
    def saved_from(self) -> int:
        """A copy of the state on the host, of the first process."""
        return self.state if self.training.save_async else 0

    @property
    def beside(self) -> int:
        """Copies on the device: gradients on their way to other processes, and what a step is taken back from."""
        several = distributed.is_distributed() and not sharding_requested(self.training)
        on_their_way = self.trained if several else 0  # in DDP's messages
        return on_their_way + (self.state if self.taken_back else 0)

    @property
    def taken_back(self) -> bool:
        """Whether the device itself takes back a step that is not finite, for which the host keeps its views."""
        return self.training.max_bad_steps is not None and self.state <= room_for_undo(self.training, self.device)

    def room(self, free: int) -> int:
        """What is left for a step of so many bytes that are free in the memory it is computed in, less the margin."""
        on_host = self.device.type != "cuda"  # where the method is there already
        rest = self.optimizer + self.saved_from if on_host else self.state
        return round((1 - MARGIN) * free) - rest - self.beside

    def largest_batch(self, free: int) -> int:
        """Images of this process in a step, as many as fit; raises Uncountable."""
        chunk = self.training.grad_cache_chunk
        step = Line(self.embedding(chunk), 0.0) if isinstance(chunk, int) else self.line
        unit = chunk if isinstance(chunk, int) else rows_together(self.method)
        return Line(step.fixed, step.per_row + self.views_at_once(1)).rows(self.room(free)) // unit * unit

    def views(self, rows: int) -> int:
        """The views of so many images."""
        return rows * sum(4 * math.prod(shape) for shape in self.shapes)

    def views_at_once(self, rows: int) -> int:
        """The views of so many images that are there during a step.

        Where those of the next step are made meanwhile, these too, with two stages of the one that is being made; and
        those of the step before, where it may have to be taken back.
        """
        if not makes_ahead(self.device):
            return self.views(rows)
        made = rows * 2 * max(4 * math.prod(shape) for shape in self.shapes)
        return (2 + self.taken_back) * self.views(rows) + made

    @functools.cached_property
    def line(self) -> Line:
        """Of `embedding`.

        Where the network cannot be run on tensors without content, by computing with a few images.

        Raises:
            Uncountable: that cannot be done either.
        """
        unit = rows_together(self.method)
        try:
            near, far = _FAR * unit, 2 * _FAR * unit
            low, high = self.embedding(near), self.embedding(far)
        except Uncountable:
            near, far = _NEAR * unit, 2 * _NEAR * unit
            low, high = self._count(near, fake=False), self._count(far, fake=False)
        slope = max(0.0, (high - low) / (far - near))
        return Line(low - slope * near, slope)

    def embedding(self, rows: int) -> int:
        """What embedding so many images of each view takes, until the gradients are there; with the gradients.

        Raises:
            Uncountable: the network does what depends on numbers that only a computation would give.
        """
        if rows not in self._counts:
            self._counts[rows] = self._count(rows, fake=True)
        return self._counts[rows]

    def _count(self, rows: int, fake: bool) -> int:
        try:
            return _counted(self.method, self.shapes, rows, self.device, self.training.precision, fake)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise Uncountable(str(error).split("\n")[0] or type(error).__name__) from error


def free_for_steps(device: torch.device) -> int:
    """Bytes that one process may take for its steps now: of the device, or its share of the host's."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    share: int = free_memory() // processes_here()
    return share


class Uncountable(RuntimeError):
    """The memory of a step cannot be found out without taking one."""


class _Embedding(nn.Module):
    """What a step embeds with gradient, as a module, in which other tensors take the place of its own."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: list[Tensor]) -> list[Tensor]:
        return self.method.embedded(self.method.embed, self.method.queries(views))


def _counted(
    method: Method, shapes: Sequence[tuple[int, ...]], rows: int, device: torch.device, precision: str, fake: bool
) -> int:
    if not (fake and device.type == "cuda"):
        device = torch.device("cpu")  # on which the others take as much
    module = _Embedding(method.train())
    with distributed.alone(), _without_content() if fake else contextlib.nullcontext():
        tensors = {name: _stand_in(tensor, device, fake) for name, tensor in _state(module)}
        views = [torch.zeros(rows, *shape, device=device).to(memory_format=image_format(device)) for shape in shapes]
        live = LiveBytes([*tensors.values(), *views])
        with live:
            embed_and_back(lambda: functional_call(module, tensors, (views,)), has_keys(method), precision, device)
    return live.peak


def embed_and_back(embed: Callable[[], list[Tensor]], with_keys: bool, precision: str, device: torch.device) -> None:
    """Embed in this precision, with keys once more without gradient, and back-propagate the sum of the embeddings."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        sums = [part.float().sum() for part in embed() if part.requires_grad]
        if with_keys:
            with torch.no_grad():
                embed()
    if sums:  # none of a frozen encoder
        torch.stack(sums).sum().backward()


def has_keys(method: Method) -> bool:
    """Whether a second encoder embeds, without gradient, while a step holds what the gradient of the first needs."""
    return sum(isinstance(module, type(method.encoder)) for module in method.modules()) > 1


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _stand_in(tensor: Tensor, device: torch.device, fake: bool) -> Tensor:
    """Of the same size, type and layout; without content, or with the same."""
    if fake:
        made = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
    else:
        made = tensor.detach().clone()
    return made.requires_grad_(tensor.requires_grad)


def _without_content() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a while to import

    return FakeTensorMode(allow_non_fake_inputs=True)


def _copies(training: Training) -> float:
    """Numbers that the optimizer keeps for each one that it trains."""
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = training.optimizer.build([("weight", weight)], training.batch_size)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
    return sum(value.numel() for value in kept if value.shape == weight.shape) / weight.numel()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
