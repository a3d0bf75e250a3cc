"""Gradient caching: the gradients of a large batch in the memory of a small one (Gao et al. 2021).

A contrastive loss sees all embeddings of a batch at once, but the encoder sees each image for itself. So the batch is
embedded in chunks without gradient, the loss is back-propagated to the embeddings alone, and each chunk is then
embedded again, this time with gradient, and back-propagated from the cached gradient of its embeddings (section 3.2,
"Scaling deep contrastive learning batch size under memory limited setup").

Batch norm is what is not each image's own. With "chunk" it is over each chunk, as if the batch were split into so many
parts: the gradient is exactly that of a step with `SplitBatchNorm`. With "frozen" a pass ahead, normed chunk by chunk,
finds the statistics; what they come to over the whole batch is a constant in both other passes: the gradient is exactly
that of the loss with these constants, through which none flows. Either way running statistics are updated as often as
in a plain step, by the mean of the chunks' updates.

Chunk k of K holds the rows k, k + K, k + 2 K, ... of the batch. That makes synchronised batch norm over the k-th chunks
of all processes that over the k-th chunk of one process with as many chunks.
"""

import math
from typing import Literal, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import convert_to_fp32
from torch import Tensor

from selfsup import distributed
from selfsup.batch import Batch
from selfsup.dtensor import is_part
from selfsup.methods.base import Embed, Method, Step
from selfsup.models.chunked_norm import Fixed, OneUpdate, collecting, norms_in_training, pooled, with_fixed
from selfsup.models.domain_norm import DomainBatchNorm
from selfsup.models.norm import GroupBatchNorm, SplitBatchNorm
from selfsup.randomness import philox
from selfsup.training.settings import Training

_BUCKET = 2**25  # bytes of gradients in one message


class _Pass(NamedTuple):
    """Views that went through batch norm as one batch, in chunks."""

    views: list[Tensor]  # (B, C, S, S) each
    first: int  # number of its first chunk among those of the step, which random numbers depend on
    fixed: Fixed  # the statistics of batch norm; empty where each chunk has its own


class GradientCache:
    """Forward and backward of `method` in chunks; holds nothing between steps.

    Args:
        method: from here on what its objective embeds without gradient goes in chunks too.
        chunks: parts of this process's batch.
        batch_norm: see the module.
        accelerator: of the run, for its precision.
    """

    def __init__(
        self, method: Method, chunks: int, batch_norm: Literal["chunk", "frozen"], accelerator: Accelerator
    ) -> None:
        self.method, self.chunks, self.batch_norm, self.accelerator = method, chunks, batch_norm, accelerator
        # Rows that stay together: batch norm of two domains tells them by their places.
        self.unit = 2 if any(isinstance(module, DomainBatchNorm) for module in method.modules()) else 1
        method.in_chunks = self.embed_in_chunks

    def step(self, views: list[Tensor], batch: Batch, number: int) -> Step:
        """Loss and update of the whole batch; gradients are in the parameters, as their means over processes.

        Args:
            views: (B, C, S, S) each, of this process.
            batch: their labels and indices.
            number: in [0, 2**64), another one for every step and process: what is random inside an encoder, such as
                dropout, is a function of it and the chunk, and so the same in every pass.
        """
        method = self.method
        passes: list[_Pass] = []
        leaves: list[Tensor] = []
        for group in self._groups(method.queries(views)):
            embeddings, done = self._embed(method.embed, group, len(passes) * self.chunks, number)
            passes.append(done)
            leaves += [embedding.requires_grad_() for embedding in embeddings]
        torch.manual_seed(chunk_seed(number, len(passes) * self.chunks))
        with self.accelerator.autocast():
            out: Step = convert_to_fp32(method.objective(leaves, views, batch))
        self.accelerator.backward(out.loss)  # scaled where precision asks for it, and so are the cached gradients
        gradients = iter([leaf.grad for leaf in leaves])
        for done in passes:
            self._backward(done, [next(gradients) for _ in done.views], number)
        average_gradients(method)
        return out

    @torch.no_grad()
    def embed_in_chunks(self, embed: Embed, views: list[Tensor]) -> list[Tensor]:
        """`Method.embedded` in chunks, without gradient: what the method's `in_chunks` is set to."""
        return [part for group in self._groups(views) for part in self._embed(embed, group)[0]]

    def _groups(self, views: list[Tensor]) -> list[list[Tensor]]:
        """The views by what shares one batch norm."""
        return [views] if self.method.views_share_batch_norm else [[view] for view in views]

    @torch.no_grad()
    def _embed(
        self, embed: Embed, views: list[Tensor], first: int = 0, number: int | None = None
    ) -> tuple[list[Tensor], _Pass]:
        """The embeddings (B, D) of views that share one batch norm."""
        norms = norms_in_training(self.method)
        done, update = _Pass(views, first, {}), OneUpdate(norms)
        frozen = self.batch_norm == "frozen" and bool(norms)
        if frozen:
            with collecting(norms) as found:
                for chunk in range(self.chunks):
                    self._chunk(embed, done, chunk, number)
                    update.chunk_done()
            done = done._replace(fixed=pooled(found))
        parts: list[list[Tensor]] = []
        for chunk in range(self.chunks):
            parts.append(self._chunk(embed, done, chunk, number))
            if not frozen:
                update.chunk_done()
        update.finish()
        return [self._joined(of_view) for of_view in zip(*parts, strict=True)], done

    def _chunk(self, embed: Embed, done: _Pass, chunk: int, number: int | None) -> list[Tensor]:
        """The embeddings (B / chunks, D) of one chunk of each view."""
        if number is not None:
            torch.manual_seed(chunk_seed(number, done.first + chunk))
        # A context of its own: autocast keeps converted weights for reuse, and those made without gradient have none.
        with self.accelerator.autocast(), with_fixed(done.fixed):
            return self.method.embedded(embed, [self._rows(view, chunk) for view in done.views])

    def _backward(self, done: _Pass, gradients: list[Tensor | None], number: int) -> None:
        """Embed again, with gradient, and back-propagate the cached gradients (B, D), one chunk after the other."""
        update = OneUpdate(norms_in_training(self.method))
        for chunk in range(self.chunks):
            embeddings = self._chunk(self.method.embed, done, chunk, number)
            pairs = zip(embeddings, gradients, strict=True)
            known = [(part, self._rows(gradient, chunk)) for part, gradient in pairs if gradient is not None]
            known = [(part, gradient) for part, gradient in known if part.requires_grad]
            if not known:  # a frozen encoder
                break
            torch.autograd.backward([part for part, _ in known], [gradient for _, gradient in known])
        update.put_back()  # each pass of a step's images counts once

    def _rows(self, rows: Tensor, chunk: int) -> Tensor:
        """Rows chunk, chunk + chunks, ... of (B, ...), in units."""
        parts = rows.unflatten(0, (-1, self.chunks, self.unit))
        part: Tensor = parts[:, chunk]
        return part.flatten(0, 1).contiguous(memory_format=_layout(rows))

    def _joined(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The opposite of `_rows`: (B / chunks, ...) each -> (B, ...)."""
        return torch.stack([part.unflatten(0, (-1, self.unit)) for part in parts], dim=1).flatten(0, 2)


def gradient_cache(method: Method, training: Training, accelerator: Accelerator) -> GradientCache | None:
    """The cache that these settings ask for, if any; "auto" has been replaced by what was chosen."""
    chunk = training.grad_cache_chunk
    if chunk is None:
        return None
    assert chunk != "auto"
    local = training.batch_size // distributed.world_size()
    return GradientCache(method, local // chunk, training.grad_cache_batch_norm, accelerator)


def check_chunks(method: Method, training: Training) -> None:
    """Refuse chunks that the batch, the method or its batch norm cannot be divided into; of "auto" the method.

    Raises:
        ValueError: says which, and what would fit.
    """
    chunk = training.grad_cache_chunk
    if chunk is None:
        return
    local = training.batch_size // distributed.world_size()
    if chunk != "auto" and local % chunk:
        fitting = [size for size in range(1, local + 1) if local % size == 0]
        raise ValueError(
            f"grad_cache_chunk is {chunk} and each process has {local} images of the batch of {training.batch_size}, "
            f"which cannot be divided into chunks of {chunk}; use {min(fitting, key=lambda size: abs(size - chunk))}"
        )
    if type(method).forward is not Method.forward:
        raise ValueError(
            f"grad_cache_chunk needs a method of which `embed` and `objective` are all, and {type(method).__name__} "
            "overrides `forward`; leave grad_cache_chunk out, or declare `together` in place of the override"
        )
    if chunk == "auto":
        return
    if norms_in_training(method.train()) and chunk == 1:
        raise ValueError("grad_cache_chunk is 1, and batch norm needs more than one image in a chunk; give 2 or more")
    for number in _parts_of_batch_norm(method):
        if chunk % number:
            raise ValueError(
                f"grad_cache_chunk is {chunk}, and batch norm divides what it gets into {number} equal parts; "
                f"use a multiple of {number}, or another batch_norm of the method"
            )


def rows_together(method: Method) -> int:
    """The fewest images that can be embedded at a time, so that each part of a batch norm has two."""
    return math.lcm(*_parts_of_batch_norm(method)) * (2 if norms_in_training(method.train()) else 1)


def possible_chunks(method: Method, local: int) -> list[int]:
    """The chunks that so many images of a process can be divided into, the largest first; all at once is none."""
    unit, least = math.lcm(*_parts_of_batch_norm(method)), rows_together(method)
    return [size for size in range(local - 1, least - 1, -1) if local % size == 0 and size % unit == 0]


def _parts_of_batch_norm(method: Method) -> set[int]:
    """What a batch norm divides its rows into, which a chunk must be a multiple of."""
    norms = norms_in_training(method.train())
    parts = {2 for norm in norms if isinstance(norm, DomainBatchNorm)}
    parts |= {norm.splits for norm in norms if isinstance(norm, SplitBatchNorm)}
    return parts | {norm.groups for norm in norms if isinstance(norm, GroupBatchNorm)}


@torch.no_grad()
def average_gradients(module: torch.nn.Module) -> None:
    """Make all gradients their means over processes, in place; in few messages.

    Those of sharded weights are left as they are: FSDP has averaged them.
    """
    if not distributed.is_distributed():
        return
    bucket: list[Tensor] = []
    for parameter in module.parameters():
        if parameter.grad is None or is_part(parameter.grad):
            continue
        if bucket and (bucket[0].dtype != parameter.grad.dtype or sum(map(_bytes, bucket)) >= _BUCKET):
            _average(bucket)
            bucket = []
        bucket.append(parameter.grad)
    if bucket:
        _average(bucket)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _average(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    parts = distributed.mean_over_processes(flat).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _layout(rows: Tensor) -> torch.memory_format:
    last = rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def chunk_seed(number: int, chunk: int) -> int:
    """63 random bits for one chunk of one step."""
    zero = torch.tensor(0)
    first, second, *_ = philox((torch.tensor(chunk), zero, zero, zero), (number & 0xFFFFFFFF, number >> 32))
    return (int(first) << 31) ^ int(second)
