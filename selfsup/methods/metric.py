"""Deep metric learning: a pair or proxy loss on labelled batches."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.batch import Batch
from selfsup.config.settings import changed_default
from selfsup.devices.double import back, double_device
from selfsup.devices.moving import to_device
from selfsup.distributed import gather, rank, world_size
from selfsup.losses.contrastive import at_least_float32, l2_normalize, similarity
from selfsup.losses.diagnostics import feature_health
from selfsup.losses.pairs import distance_similarity
from selfsup.memory.saved import Saved
from selfsup.methods.base import About, Method, RunContext, Step, check_steps, detached, require_labels
from selfsup.methods.pair_loss import PairLoss, Pairs
from selfsup.methods.pair_losses import MultiSimilarity
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Head
from selfsup.models.norm import convert


class Metric(Method):
    """Images of a class are to be near each other: any pair loss over the batches of all processes.

    Every row of every view is an anchor, and all rows are references; an anchor's positives are the other rows of its
    class, its negatives those of other classes.
    """

    about: ClassVar[About] = About(
        "Metric learning",
        "none; proxies where the loss has them",
        "contrastive, triplet, N-pair, lifted, circle, margin, multi-similarity, proxy",
        ("Hadsell 2006", "Schroff 2015", "Song 2016", "Sohn 2016", "Wu 2017", "Wang 2019", "Sun 2020", "Kim 2020"),
        "needed",
    )
    accuracy_is = "Recall@1 in the batch"
    views_share_batch_norm = True

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        stored_as: ClassVar[str] = "metric"
        loss: PairLoss.Config = field(default_factory=MultiSimilarity.Config)
        output_dim: int = 128
        # batch_norm: after the linear layer, without shift. Features of a ReLU net lie in a cone, where almost all
        # negatives are within any margin; this centres them.
        neck: Literal["none", "batch_norm"] = "none"
        normalise: bool | None = None  # embeddings of unit norm; None: as the loss was published, so all but N-pair's
        # frozen: statistics stay as they are, as when weights of another training are refined; needs `start`.
        # A neck is then over all processes.
        batch_norm: Literal["sync", "plain", "frozen"] = changed_default("sync", before="plain", in_number=1)

        def build(self, encoder: Encoder, context: RunContext) -> "Metric":
            return Metric(self, encoder, context)

    steps: Tensor

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        super().__init__()
        require_labels(context, "metric learning")
        if config.batch_norm == "frozen":
            _require_statistics(encoder)
        self.config = config
        self.encoder = convert(encoder, "sync" if config.batch_norm == "sync" else "plain")
        normed: Literal["none", "all"] = "all" if config.neck == "batch_norm" else "none"
        head = Head.Config(hidden_layers=0, output_dim=config.output_dim, batch_norm=normed)
        kind: Literal["sync", "plain"] = "plain" if config.batch_norm == "plain" else "sync"
        self.head = convert(head.build(encoder.feature_dim), kind)
        self.loss = config.loss.build(context, config.output_dim)
        self.normalise = self.loss.norm != "free" if config.normalise is None else config.normalise
        if self.loss.norm == "unit" and not self.normalise:
            raise ValueError(
                f"{type(self.loss).__name__} is defined for embeddings of unit norm; leave normalise as it is, or take "
                "a loss of distances, such as Triplet"
            )
        if self.loss.needs_pairs:
            require_pairs(context, type(self.loss).__name__)
        self.register_buffer("steps", torch.tensor(0))  # applied so far; numbers the draws of negatives
        self.train()  # what is frozen shows it from the start

    def rates(self) -> dict[str, float]:
        return {f"loss.{name}": factor for name, factor in self.loss.rates().items()}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.batch_norm == "frozen":
            for module in self.encoder.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def embed(self, view: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows where normalised
        embedding: Tensor = self.head(self.encoder(view))
        return l2_normalize(embedding) if self.normalise else at_least_float32(embedding)

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        pairs = self.pairs(embeddings, batch)
        loss = back(self.loss(pairs), like=embeddings[0])  # distances come in double precision
        shown = self.shown(pairs)
        return Step(loss, detached(self.figures(pairs, shown)), {}, shown)

    def pairs(self, embeddings: list[Tensor], batch: Batch) -> Pairs:
        """The rows of all views of this process's images against those of all processes, view after view.

        All is on the device of the embeddings; on the CPU where that has no double precision for a loss of distances.
        """
        count, device = len(embeddings[0]), embeddings[0].device
        if self.loss.by_distance:
            device = double_device(device)

        def everyone(rows: Tensor) -> Tensor:
            return torch.cat([gather(part) for part in rows.chunk(len(embeddings))])

        anchors = torch.cat(embeddings).to(device)  # (V B, D)
        labels = to_device(batch.labels, device).repeat(len(embeddings))
        first = torch.arange(len(embeddings), device=device) * count * world_size() + rank() * count  # of each view
        rows = (first[:, None] + torch.arange(count, device=device)).flatten()
        references, reference_labels = everyone(anchors), everyone(labels)  # (V N, D), (V N,)
        same = labels[:, None] == reference_labels
        itself = rows[:, None] == torch.arange(len(references), device=device)
        return Pairs(
            anchors=anchors,
            references=references,
            similarity=self.similarity(anchors, references),
            positive=same & ~itself,
            negative=~same,
            labels=labels,
            reference_labels=reference_labels,
            rows=rows,
            mutual=True,
            step=self.steps.to(device),
            gather=everyone,
        )

    def similarity(self, anchors: Tensor, references: Tensor) -> Tensor:
        """(B, D) and (M, D) -> (B, M): inner products, or what a loss of distances finds them by."""
        return (distance_similarity if self.loss.by_distance else similarity)(anchors, references)

    @torch.no_grad()
    def shown(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Anchors and the first positive of each, itself where it has none: (n, D) unit rows each."""
        partners = pairs.references[pairs.positive.int().argmax(dim=1)]
        partners = torch.where(pairs.positive.any(dim=1, keepdim=True), partners, pairs.anchors)
        return l2_normalize(pairs.anchors), l2_normalize(partners)

    @torch.no_grad()
    def figures(self, pairs: Pairs, shown: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Recall@1 within the batch, the shares of anchors without a positive or a negative, the features' health."""
        alone = ~pairs.positive.any(dim=1)
        nearest = torch.where(pairs.positive, pairs.similarity, -torch.inf).amax(dim=1)
        unopposed = ~pairs.negative.any(dim=1)  # random batches of unequal classes may hold a single one
        hits = nearest > torch.where(pairs.negative, pairs.similarity, -torch.inf).amax(dim=1)
        figures = {
            "accuracy": hits.float().mean(),
            "anchors_alone": alone.float().mean(),
            "anchors_without_negatives": unopposed.float().mean(),
            **feature_health(*shown),
        }
        return {name: figure.to(self.steps.device) for name, figure in figures.items()}

    def after_step(self, update: dict[str, Tensor], progress: float) -> None:
        self.steps += 1

    def check_saved(self, saved: Saved) -> None:
        """See `selfsup.memory.saved.Checked`."""
        check_steps(saved)


def _require_statistics(encoder: nn.Module) -> None:
    """Batch norm that is to stay as it is must have seen images."""
    for module in encoder.modules():
        if not isinstance(module, _BatchNorm) or module.running_mean is None or module.running_var is None:
            continue
        # Not by num_batches_tracked, which weights of other programs may lack.
        if not module.running_mean.any() and bool((module.running_var == 1).all()):
            raise ValueError(
                'batch_norm "frozen" keeps the running statistics of the encoder, and they are 0 and 1 as in an '
                "untrained one; give start= a run folder or an encoder.safetensors, or take another batch_norm"
            )


def require_pairs(context: RunContext, loss: str) -> None:
    """Every batch must hold at least two classes, and some class twice."""
    remedy = "put sampling=ClassBalanced(per_class=4) into the recipe, or take the loss Proxy, which needs no pairs"
    if context.per_class and context.batch_size // context.per_class < 2:
        raise ValueError(
            f"batches of {context.batch_size} with {context.per_class} images per class hold fewer than 2 classes, "
            f"so that {loss} has no negatives; use a batch_size of {2 * context.per_class} or more"
        )
    if context.num_views > 1:
        return
    if context.per_class == 1:
        raise ValueError(f"{loss} needs positives, and batches hold 1 image per class and 1 view of it; {remedy}")
    if not context.per_class and context.batch_size < 2 * context.num_classes:
        raise ValueError(
            f"{loss} needs positives, and a random batch of {context.batch_size} images of {context.num_classes} "
            f"classes holds few; {remedy}"
        )
