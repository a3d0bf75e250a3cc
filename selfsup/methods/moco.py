"""MoCo v1 and v2 (He et al. 2020; Chen et al. 2020, "Improved baselines with momentum contrastive learning")."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.config.settings import changed_default
from selfsup.devices.moving import to_device
from selfsup.distributed import gather, rank, world_size
from selfsup.losses.contrastive import info_nce, l2_normalize
from selfsup.losses.diagnostics import feature_health
from selfsup.losses.pairing import Same
from selfsup.memory.ema import ema_update
from selfsup.memory.queue import FeatureQueue
from selfsup.memory.saved import Saved
from selfsup.methods.base import About, Method, RunContext, Step, check_steps, detached, require_two_views
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Head
from selfsup.models.norm import convert
from selfsup.optim.schedules import momentum_at
from selfsup.randomness import Stream, permutation


class References(NamedTuple):
    """What queries are compared with besides their keys."""

    features: Tensor  # (M, D) unit rows
    indices: Tensor  # (M,) int64, whose they are; -1: nobody's
    labels: Tensor  # (M,) int64; -1 where there is none


class MoCo(Method):
    """Momentum contrast: a query against its key and a queue of older keys (He et al. 2020, Algorithm 1)."""

    about = About("MoCo v1, v2", "queue of keys, momentum encoder", "InfoNCE", ("He 2020", "Chen 2020b"))

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        stored_as: ClassVar[str] = "moco"
        queue_size: int = 65_536  # K, number of older keys; 0, with batch_negatives: none
        momentum: float = 0.999  # m, of the key encoder
        final_momentum: float | None = None  # m at the end of training, reached along half a cosine; None: constant
        temperature: float = 0.2  # 0.07 in v1
        head: Head.Config = field(default_factory=Head.Config)  # hidden_layers=0 in v1
        # A key that shares batch norm with its query can be told by the statistics alone. groups: batch norm is over
        # groups of consecutive rows of the global batch, and keys are shuffled over all of it before they are formed;
        # 8 groups are 8 on one process and 1 on each of 8. shuffle: over each process's images, keys shuffled over all.
        # split: over interleaved parts of each process's images, its keys permuted. auto: of runs from before there
        # were groups, "split" on one process and "shuffle" on several.
        batch_norm: Literal["groups", "sync", "plain", "shuffle", "split", "auto"] = changed_default(
            "groups", before="auto", in_number=1
        )
        batch_norm_splits: int = 8  # the number of groups, or of parts
        symmetric: bool = False  # each view is query and key once (the authors' CIFAR demo)
        batch_negatives: bool = False  # the keys of the batch's other images, too, are negatives

        def __post_init__(self) -> None:
            for name in ("momentum", "final_momentum"):
                value = getattr(self, name)
                require(value is None or 0 <= value <= 1, f"{name} is {value}; it must lie in [0, 1], such as 0.999")
            require(
                self.batch_norm_splits >= 1, f"batch_norm_splits is {self.batch_norm_splits}; give 1 or more, such as 8"
            )
            require(self.temperature > 0, f"temperature is {self.temperature}; give a number above 0, such as 0.2")

        def build(self, encoder: Encoder, context: RunContext) -> "MoCo":
            return MoCo(self, encoder, context)

    steps: Tensor

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        super().__init__()
        require_two_views(context)
        self.config = config
        self.seed = context.seed
        self.batch_norm = _batch_norm(config, context)
        # Shuffling leaves every batch norm as it is: it is the images that move.
        kind = "plain" if self.batch_norm == "shuffle" else self.batch_norm
        parts = config.batch_norm_splits // (world_size() if kind == "groups" else 1)  # of this process
        head = config.head.build(encoder.feature_dim)
        self.encoder = convert(encoder, kind, parts)
        self.head = convert(head, kind, parts)
        self.key_encoder = deepcopy(self.encoder).requires_grad_(False)
        self.key_head = deepcopy(self.head).requires_grad_(False)
        dim = config.head.output_dim
        self.queue = FeatureQueue(config.queue_size, dim, context.seed) if config.queue_size else None
        self.register_buffer("steps", torch.tensor(0))  # applied so far; numbers the permutations of keys

    @property
    def resolved(self) -> dict[str, Any]:
        return {"batch_norm": self.batch_norm} | super().resolved  # what "auto" came to

    def start_head(self, tensors: dict[str, Tensor]) -> None:
        super().start_head(tensors)
        self.key_head.load_state_dict(tensors)

    def queries(self, views: list[Tensor]) -> list[Tensor]:
        return views if self.config.symmetric else views[:1]

    def embed(self, view: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return l2_normalize(self.head(self.encoder(view)))

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        # Query from view 1, key from view 2; where symmetric, also the other way round.
        keys = self.all_keys([views[0], views[1]] if self.config.symmetric else [views[1]])  # (B, D) each
        indices, labels = (to_device(part, keys[0].device) for part in (batch.indices, batch.labels))
        batch = batch._replace(indices=indices, labels=labels)
        references = self.references(keys, batch)
        results = [
            self.contrast(queries, key, references, batch, number)
            for number, (queries, key) in enumerate(zip(embeddings, reversed(keys), strict=True))
        ]
        loss = torch.stack([loss for loss, _ in results]).sum()
        accuracy = torch.stack([accuracy for _, accuracy in results]).mean()
        shown = embeddings[0].detach(), keys[-1]
        metrics = {"accuracy": accuracy, **feature_health(*shown)}
        update = {"keys": torch.stack(keys, dim=1), "indices": indices, "labels": labels}
        return Step(loss, detached(metrics), update, shown)

    def references(self, keys: list[Tensor], batch: Batch) -> References:
        """The queue and, where they are asked for, all keys of the batch."""
        parts = [References(self.queue.features, self.queue.indices, self.queue.labels)] if self.queue else []
        if self.config.batch_negatives:
            indices, labels = gather(batch.indices), gather(batch.labels)
            parts += [References(gather(key), indices, labels) for key in keys]
        return parts[0] if len(parts) == 1 else References(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def contrast(
        self, queries: Tensor, keys: Tensor, references: References, batch: Batch, number: int
    ) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of (B, D) queries against their (B, D) keys and the references of other images.

        `number` is which queries of this step they are.
        """
        own = Same(batch.indices, references.indices)  # keys of the same image
        return info_nce(queries, keys, references.features, self.config.temperature, mask=own)

    def all_keys(self, views: list[Tensor]) -> list[Tensor]:
        """(B, D) keys of each view, unit rows without gradient."""
        if self.batch_norm in ("plain", "sync"):
            return self.without_gradient(self.embed_key, views)
        return [self.embed_keys(view, number) for number, view in enumerate(views)]

    def embed_key(self, view: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return l2_normalize(self.key_head(self.key_encoder(view)))

    @torch.no_grad()
    def embed_keys(self, view: Tensor, number: int) -> Tensor:
        """(B, C, S, S) -> (B, D), unit rows without gradient, of images in another order; `number`: which of the step.

        The order is over the batch of all processes, or of this one where its own batch is split.
        """
        everyone = self.batch_norm != "split"
        images = gather(view) if everyone else view  # (N, C, S, S)
        order = permutation(self.seed, Stream.SHUFFLE, len(images), epoch=2 * self.steps + number)  # (N,)
        first = rank() * len(view) if everyone else 0
        (keys,) = self.without_gradient(
            self.embed_key, [images[order[first : first + len(view)]]]
        )  # (B, D), somebody's
        keys = gather(keys) if everyone else keys  # (N, D), keys[i] is of image order[i]
        return torch.empty_like(keys).index_copy_(0, order, keys)[first : first + len(view)]

    def after_step(self, update: dict[str, Tensor], progress: float) -> None:
        # Equal to the paper's update at the start of the next forward.
        momentum = momentum_at(self.config.momentum, self.config.final_momentum, progress)
        ema_update(self.key_encoder, self.encoder, momentum)
        ema_update(self.key_head, self.head, momentum)
        if self.queue:
            keys = gather(update["keys"])  # (N, 1 or 2, D)
            # All keys of view 1, then all of view 2: the same order for any number of processes.
            indices, labels = (gather(update[name]).repeat(keys.shape[1]) for name in ("indices", "labels"))
            self.queue.push(keys.transpose(0, 1).flatten(0, 1), indices, labels)
        self.steps += 1

    def check_saved(self, saved: Saved) -> None:
        """See `selfsup.memory.saved.Checked`."""
        check_steps(saved)


Chosen = Literal["groups", "sync", "plain", "shuffle", "split"]


def _batch_norm(config: MoCo.Config, context: RunContext) -> Chosen:
    """What "auto" comes to; and a ValueError for sizes that cannot work."""
    pushed = context.batch_size * (2 if config.symmetric else 1)
    if config.queue_size == 0 and not config.batch_negatives:
        raise ValueError("queue_size 0 leaves no negatives; use a queue, such as 4096, or batch_negatives=True")
    if 0 != config.queue_size < pushed:
        raise ValueError(
            f"queue_size is {config.queue_size}, smaller than the {pushed} keys of one step "
            f"(batch_size {context.batch_size}); use a larger queue, such as {max(4096, 16 * pushed)}"
        )
    if config.batch_norm == "shuffle" and world_size() == 1:
        raise ValueError('batch_norm "shuffle" needs several processes and this run has one; use "groups"')
    fitting: Chosen = "shuffle" if world_size() > 1 else "split"
    kind = fitting if config.batch_norm == "auto" else config.batch_norm
    if kind == "groups":
        _check_groups(config.batch_norm_splits, context.batch_size)
    local = context.batch_size // world_size()
    if kind == "split" and local % config.batch_norm_splits:
        raise ValueError(
            f"{local} images per process cannot be split into {config.batch_norm_splits} equal parts for batch norm; "
            f"use a batch size divisible by {config.batch_norm_splits}, or another batch_norm_splits"
        )
    return kind


def _check_groups(groups: int, batch_size: int) -> None:
    """A ValueError where the batch or the processes cannot be divided into whole groups of at least two images."""
    if groups % world_size():
        fitting = ", ".join(str(world) for world in range(1, groups + 1) if groups % world == 0)
        raise ValueError(
            f"batch norm is over {groups} groups of the batch (batch_norm_splits), which {world_size()} processes "
            f"cannot share evenly; start {fitting} of them, or for another recipe give batch_norm_splits a multiple of "
            f'{world_size()}, or batch_norm "sync"'
        )
    if batch_size % groups or batch_size < 2 * groups:
        raise ValueError(
            f"a batch of {batch_size} images cannot be divided into {groups} equal groups of at least 2 for batch "
            f"norm; use a batch_size that is a multiple of {groups} and at least {2 * groups}, or another "
            "batch_norm_splits"
        )
