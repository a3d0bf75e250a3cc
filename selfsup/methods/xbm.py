"""Cross-batch memory (Wang et al. 2020, "Cross-batch memory for embedding learning")."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.devices.double import back
from selfsup.devices.moving import to_device
from selfsup.distributed import gather
from selfsup.losses.pairs import Gather
from selfsup.memory.queue import FeatureQueue
from selfsup.memory.saved import Saved
from selfsup.methods.base import About, RunContext, Step, detached
from selfsup.methods.metric import Metric
from selfsup.methods.pair_loss import AnchorLoss, PairLoss, Pairs
from selfsup.methods.pair_losses import SimilarityContrastive
from selfsup.models.encoder import Encoder

_PAIRS = 2**21  # most pairs of the batch and the memory that are compared at once


class XBM(Metric):
    """A pair loss over the batch, and the same loss against the embeddings of many batches (Wang et al. 2020, 3.3).

    As published, the memory that a step sees holds the step's own batch too, as constants; and older embeddings of an
    anchor's own image are positives like any others of its class.

    The memory starts to fill after a warm-up. (The paper then fills it with random training images; the published code
    does not, and neither does this.) Until then it is written and counted as empty.

    Drift, the paper's evidence for the memory (section 3.1): a few images are kept, and embedded every `drift_every`
    steps in evaluation mode; "feature_drift" is the mean squared distance to their embeddings of the time before.
    """

    about = About("XBM", "queue of embeddings", "any pair loss, over batch and memory", ("Wang 2020",), "needed")

    @dataclass(frozen=True, kw_only=True)
    class Config(Metric.Config):
        stored_as: ClassVar[str] = "xbm"
        loss: PairLoss.Config = field(default_factory=SimilarityContrastive.Config)
        memory_size: int = 8192  # K, embeddings
        memory_start: int = 1000  # steps of warm-up, while embeddings still drift fast
        memory_weight: float = 1.0  # of the loss against the memory
        drift_every: int = 100  # steps; 0: drift is not measured
        drift_images: int = 32  # of the first batch

        def __post_init__(self) -> None:
            for name in ("memory_size", "memory_weight"):
                require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be above 0, or use Metric")
            for name, least in (("memory_start", 0), ("drift_every", 0), ("drift_images", 1)):
                require(getattr(self, name) >= least, f"{name} is {getattr(self, name)}; it must be at least {least}")

        def build(self, encoder: Encoder, context: RunContext) -> "XBM":
            return XBM(self, encoder, context)

    config: Config
    drift_views: Tensor
    drift_features: Tensor
    feature_drift: Tensor

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        super().__init__(config, encoder, context)
        pushed = context.batch_size * context.num_views
        if not self.loss.needs_pairs:
            raise ValueError(
                f"{type(self.loss).__name__} compares images with learnt proxies and not with each other, so a memory "
                "of images has no part in it; use Metric, or a pair loss such as SimilarityContrastive"
            )
        if config.memory_size < pushed:
            raise ValueError(
                f"memory_size is {config.memory_size}, smaller than the {pushed} embeddings of one step (batch_size "
                f"{context.batch_size}); use a larger memory, such as {max(8192, 16 * pushed)}, or use Metric"
            )
        self.queue = FeatureQueue(config.memory_size, config.output_dim, context.seed)
        if config.drift_every:
            count = min(config.drift_images, context.batch_size)
            self.register_buffer("drift_views", torch.zeros(count, context.channels, *context.view_size))
            self.register_buffer("drift_features", torch.zeros(count, config.output_dim))
            self.register_buffer("feature_drift", torch.tensor(0.0))
        # `steps` as a number, to decide by without asking the device: read from the buffer once, then counted along.
        self._step: int | None = None
        self.register_load_state_dict_post_hook(_forget_step)  # type: ignore[no-untyped-call]  # nn.Module's

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        pairs = self.pairs(embeddings, batch)
        device = embeddings[0].device
        # Distances come in double precision.
        loss = back(self.loss(pairs), like=embeddings[0])
        against_memory = back(self.against_memory(pairs), like=embeddings[0])
        remembered = torch.where(self.steps >= self.config.memory_start, against_memory, 0)
        shown = self.shown(pairs)
        metrics = {"loss_batch": loss, "loss_memory": remembered, **self.figures(pairs, shown)}
        if self.config.drift_every:
            metrics["feature_drift"] = self.feature_drift
        update = {
            "features": torch.stack(embeddings, dim=1).detach(),  # (B, V, D)
            "indices": to_device(batch.indices, device),
            "labels": pairs.labels[: len(batch.labels)].to(device),
            "views": views[0].detach(),
        }
        return Step(loss + self.config.memory_weight * remembered, detached(metrics), update, shown)

    def against_memory(self, pairs: Pairs) -> Tensor:
        """The loss of the batch's anchors against the memory, of some anchors at a time where there are many pairs."""
        rows = max(1, _PAIRS // (len(self.queue.features) + len(pairs.references)))
        if rows >= len(pairs.anchors) or not isinstance(self.loss, AnchorLoss):
            whole: Tensor = self.loss(self.remembered(pairs))
            return whole
        # What a part of the anchors is compared by is formed again in the backward pass.
        contributed = [
            checkpoint(self._part, pairs, slice(first, first + rows), use_reentrant=False, preserve_rng_state=False)
            for first in range(0, len(pairs.anchors), rows)
        ]
        return self.loss.of_anchors(torch.cat(contributed), cast(Gather, pairs.gather))

    def _part(self, pairs: Pairs, place: slice) -> Tensor:
        """What the anchors at `place` contribute to the loss against the memory, (b, k)."""
        anchors, labels, rows = pairs.anchors[place], pairs.labels[place], pairs.rows[place]
        positive, negative = pairs.positive[place], pairs.negative[place]
        part = pairs._replace(anchors=anchors, labels=labels, rows=rows, positive=positive, negative=negative)
        contributed: Tensor = self.loss(self.remembered(part)._replace(gather=None))
        return contributed

    def remembered(self, pairs: Pairs) -> Pairs:
        """The anchors against the memory as it will be after this step: what stays of it, and the batch, constant."""
        device, pushed = pairs.rows.device, len(pairs.references)
        features, labels, pointer, filled = (
            part.to(device) for part in (self.queue.features, self.queue.labels, self.queue.pointer, self.queue.filled)
        )
        places = torch.arange(len(features), device=device)
        overwritten = (places - pointer) % len(places) < pushed
        stays = (places < filled) & ~overwritten
        references = torch.cat([features, pairs.references.detach()])  # (K + V N, D)
        same = pairs.labels[:, None] == labels
        return pairs._replace(
            references=references,
            similarity=self.similarity(pairs.anchors, references),
            positive=torch.cat([same & stays, pairs.positive], dim=1),
            negative=torch.cat([~same & stays, pairs.negative], dim=1),
            reference_labels=torch.cat([labels, pairs.reference_labels]),
            mutual=False,
        )

    def after_step(self, update: dict[str, Tensor], progress: float) -> None:
        self._measure_drift(update["views"])
        features, indices, labels = (gather(update[name]) for name in ("features", "indices", "labels"))
        views = features.shape[1]
        self.queue.push(features.transpose(0, 1).flatten(0, 1), indices.repeat(views), labels.repeat(views))
        started = self.steps >= self.config.memory_start
        self.queue.pointer.mul_(started)
        self.queue.filled.mul_(started)
        super().after_step(update, progress)

    def taken_back(self) -> None:
        self._step = None

    @torch.no_grad()
    def _measure_drift(self, view: Tensor) -> None:
        every = self.config.drift_every
        if not every:
            return
        step = int(self.steps) if self._step is None else self._step
        self._step = step + 1
        if step % every:
            return
        if step == 0:
            self.drift_views.copy_(gather(view)[: len(self.drift_views)])
        training = self.training
        self.eval()
        features = self.embed(self.drift_views)
        self.train(training)
        if step > 0:
            self.feature_drift.copy_((features - self.drift_features).square().sum(dim=1).mean())
        self.drift_features.copy_(features)

    def check_saved(self, saved: Saved) -> None:
        """See `selfsup.memory.saved.Checked`."""
        super().check_saved(saved)
        if self.config.drift_every:
            saved.require("feature_drift", 0, math.inf, "a mean of squares")


def _forget_step(module: nn.Module, keys: Any) -> None:
    assert isinstance(module, XBM)
    module._step = None
