"""SpCL (Ge et al. 2020, "Self-paced contrastive learning with hybrid memory")."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from selfsup.batch import Batch
from selfsup.cluster.backends import has_faiss
from selfsup.cluster.criterion import independence_threshold, reliable, renumber, set_apart
from selfsup.cluster.dbscan import dbscan
from selfsup.cluster.jaccard import DIGITS, jaccard_graph
from selfsup.config.checks import require
from selfsup.config.settings import changed_default, execution
from selfsup.devices.double import double_device, lacks_double
from selfsup.devices.moving import to_device
from selfsup.distributed import from_first, gather, rank, world_size
from selfsup.losses.contrastive import l2_normalize
from selfsup.losses.diagnostics import feature_health
from selfsup.memory.bank import most_repeated
from selfsup.memory.hybrid import HybridMemory, ShardedHybridMemory, memory_rows
from selfsup.memory.saved import Saved
from selfsup.memory.sharded import keep_apart
from selfsup.methods.base import About, Extract, Method, RunContext, Step, detached
from selfsup.models.domain_norm import target_state, to_domains
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig, Neck
from selfsup.models.norm import convert
from selfsup.output import message
from selfsup.search.each_other import nearest_of_each

_EXACT_PRODUCTS = 2**41  # of all pairs of features: 32,768 images of 2,048 dimensions
_COLLAPSED = 0.9  # share of all images in one cluster that is worth a message


class SpCL(Method):
    """Images against the clusters of a memory of all images, found anew before every epoch (Algorithm 1).

    A memory row is an image, or the centroid of a labelled class where there is a second, labelled domain. Images in
    no reliable cluster are classes of their own. The labels of the data are used for labelled images alone.
    """

    about = About("SpCL", "hybrid: classes, clusters, images", "InfoNCE over clusters", ("Ge 2020",), "optional")

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        stored_as: ClassVar[str] = "spcl"
        temperature: float = 0.05
        momentum: float = 0.2  # share of the old row when a memory row is updated
        eps: float = 0.6  # radius of DBSCAN, in Jaccard distance
        eps_gap: float = 0.02  # the tighter and the looser clustering have radius eps - eps_gap and eps + eps_gap
        k1: int = 30  # neighbours that Jaccard distances are made of
        k2: int = 6  # neighbours that they are averaged over
        min_samples: int = 4  # neighbours within eps that make an image the core of a cluster
        # How neighbours are found: auto compares all images up to 2^41 products on a CPU, and always on a GPU;
        # beyond, an index of faiss finds at least 99 % of the 10 nearest.
        neighbours: Literal["auto", "exact", "approximate"] = changed_default("auto", before="exact", in_number=2)
        self_paced: bool = True  # False: clusters are taken as they come
        recluster: bool = True  # False: clusters are found once, before the first epoch
        # two: labelled source images and unlabelled target images, each domain with batch norm of its own.
        domains: Literal["one", "two"] = "one"
        neck: Literal["batch_norm", "none"] = "batch_norm"  # between the encoder and the unit sphere, as published
        # sync: over all processes, of two domains for each of them.
        batch_norm: Literal["sync", "plain"] = changed_default("sync", before="plain", in_number=1)
        shard_memory: bool = execution(False)  # each process holds the rows of some clusters: for one too large

        def __post_init__(self) -> None:
            require(self.temperature > 0, f"temperature is {self.temperature}; give a number above 0, such as 0.05")
            require(0 <= self.momentum < 1, f"momentum is {self.momentum}; it must lie in [0, 1), such as 0.2")
            require(
                0 <= self.eps_gap < self.eps and self.eps + self.eps_gap < 1,
                f"eps is {self.eps} and eps_gap {self.eps_gap}; eps - eps_gap must be above 0 and eps + eps_gap "
                "below 1, the distance of images that have nothing in common, such as 0.6 and 0.02",
            )
            require(1 <= self.k2 <= self.k1, f"k1 is {self.k1} and k2 {self.k2}; give 1 <= k2 <= k1, such as 30 and 6")
            require(
                self.neighbours != "approximate" or has_faiss(),
                "neighbours is approximate, which needs faiss, and that is not installed; use exact",
            )
            require(self.min_samples >= 2, f"min_samples is {self.min_samples}; give 2 or more, such as 4")

        def build(self, encoder: Encoder, context: RunContext) -> "SpCL":
            return SpCL(self, encoder, context)

    row_of_image: Tensor
    threshold: Tensor
    forms_labels = True

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        super().__init__()
        if context.num_views != 1:
            raise ValueError(
                f"SpCL learns from 1 view of an image and the augmentation makes {context.num_views}; "
                "use one of 1 view, such as presets.reid()"
            )
        self.config = config
        dim = encoder.feature_dim
        neck: nn.Module = nn.Identity()
        if config.neck == "batch_norm":
            neck = Neck.Config().build(dim)
        two, sync = config.domains == "two", config.batch_norm == "sync"
        _check_domains(two, sync, context)
        self.encoder = to_domains(encoder, sync) if two else convert(encoder, config.batch_norm)
        self.neck = to_domains(neck, sync) if two else convert(neck, config.batch_norm)
        labels = context.labels if two else torch.full((context.num_images,), -1)
        if labels is None or (two and not 0 < int((labels < 0).sum()) < len(labels)):
            raise ValueError(
                'domains "two" needs labelled source images and unlabelled target images; '
                'give the source by --data.labelled-root, or use domains "one"'
            )
        row_of_image, self.num_classes = memory_rows(labels)
        # A constant of the data set, not of the run: (num_images,).
        self.register_buffer("row_of_image", row_of_image, persistent=False)
        self._row_on_host = row_of_image  # stays there
        self._repeats: int | None = None  # how often a row comes in the batch at most
        kind = ShardedHybridMemory if config.shard_memory else HybridMemory
        self.memory = kind(int(row_of_image.max()) + 1, dim)
        keep_apart(self)
        self.register_buffer("threshold", torch.tensor(torch.nan, dtype=torch.float64))  # of independence; nan: unset

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As nn.Module's; the threshold stays on the CPU where the device has no double precision."""
        threshold = self._buffers.pop("threshold")
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # nn.Module's
        finally:
            self._buffers["threshold"] = threshold
        if not lacks_double(self.row_of_image.device):
            self.threshold = fn(self.threshold)
        return self

    def embed(self, view: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return l2_normalize(self.neck(self.encoder(view)))

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        (x,) = embeddings
        rows = self.row_of_image[to_device(batch.indices, x.device)]  # (B,)
        memory = self.memory
        losses, accuracy = memory.loss(x, rows, self.config.temperature)
        shown = x.detach(), memory.fetch(rows)
        metrics = {"accuracy": accuracy, **feature_health(*shown)}
        loss = losses.mean()
        if self.config.domains == "two":
            source, target = losses[0::2].mean(), losses[1::2].mean()
            loss = source + target
            metrics |= {"loss_source": source, "loss_target": target}
        return Step(loss, detached(metrics), {"features": x.detach(), "rows": rows}, shown)

    def foresee(self, indices: Tensor) -> None:
        self._repeats = most_repeated(self._row_on_host[indices])

    def after_step(self, update: dict[str, Tensor], progress: float) -> None:
        rows = gather(update["rows"])  # (N,)
        repeats = most_repeated(rows) if self._repeats is None else self._repeats
        self._repeats = None
        self.memory.update(gather(update["features"]), rows, self.config.momentum, repeats)

    def before_epoch(self, epoch: int, extract: Extract) -> dict[str, float]:
        first = not self.memory.initialised
        if first:
            features = l2_normalize(extract(nn.Sequential(self.encoder, self.neck)))  # (num_images, D)
            self.memory.initialise(features, self.row_of_image)
        return self.cluster(epoch) if first or self.config.recluster else {}

    @torch.no_grad()
    def cluster(self, epoch: int) -> dict[str, float]:
        """Write the labels of the memory's images: the first process finds the clusters, for all."""
        memory, labels = self.memory, torch.zeros_like(self.memory.labels)
        # As below; whole numbers stay exact.
        figures = torch.zeros(4, dtype=torch.float64, device=double_device(labels.device))
        whole = memory.whole()
        if whole is not None and rank() == 0:
            found, images = self._clusters(whole[self.num_classes :])
            sizes = images.bincount()
            clusters, largest = int((sizes > 1).sum()), int(sizes.max())
            self._report(epoch, clusters, largest, len(images))
            clustered, alone = int(sizes[sizes > 1].sum()), int((sizes == 1).sum())
            figures.copy_(torch.tensor([clusters, int(found.max()) + 1, clustered, alone]))
            labels.copy_(torch.cat([torch.arange(self.num_classes), images + self.num_classes]))
        self.threshold.copy_(from_first(self.threshold))
        memory.relabel(from_first(labels))
        names = ("clusters", "clusters_found", "clustered_images", "singletons")
        told = dict(zip(names, from_first(figures).tolist(), strict=True))
        return told if self.threshold.isnan() else told | {"independence_threshold": float(self.threshold)}

    def _clusters(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, D) rows -> the cluster of each as it was found, -1 in none; and its label, (n,) numbers from 0 on."""
        config = self.config
        graph = jaccard_graph(images, config.eps + config.eps_gap, config.k1, config.k2, self._nearest(images))
        found = dbscan(graph, config.eps, config.min_samples)
        labels = set_apart(found)
        if config.self_paced:
            # As exact as the distances are: 0.5 - 0.02 is not the number that is written 0.48.
            radii = (round(config.eps - config.eps_gap, DIGITS), round(config.eps + config.eps_gap, DIGITS))
            tight, loose = (set_apart(dbscan(graph, radius, config.min_samples)) for radius in radii)
            if self.threshold.isnan() and (threshold := independence_threshold(labels, loose)) is not None:
                self.threshold.copy_(threshold)
            labels = reliable(labels, tight, loose, float(self.threshold))
        return found, renumber(labels).cpu()

    def _nearest(self, images: Tensor) -> Tensor | None:
        """The neighbours of each image, where they are not to be found by comparing all."""
        few = len(images) ** 2 * images.shape[1] <= _EXACT_PRODUCTS or images.is_cuda or not has_faiss()
        if self.config.neighbours == "exact" or (self.config.neighbours == "auto" and few):
            return None
        nearest = nearest_of_each(images, min(self.config.k1, len(images)))
        message(f"neighbours of {len(images):,} images by an index: {nearest.recall:.3f} of the 10 nearest are found")
        return nearest.numbers

    def _report(self, epoch: int, clusters: int, largest: int, images: int) -> None:
        """Say what training survives but is seldom meant."""
        collapsed = largest >= _COLLAPSED * images
        if collapsed or not clusters:
            what = f"{largest} are in one cluster" if collapsed else "none is in a cluster; each is a class of its own"
            remedy = "lower" if collapsed else "raise"
            message(f"epoch {epoch}: of {images} images {what}; training goes on, but {remedy} eps if that stays")

    def check_saved(self, saved: Saved) -> None:
        """See `selfsup.memory.saved.Checked`."""
        if not saved["threshold"].isnan():
            saved.require("threshold", 0, 1, "a share of companions, or nan for none yet")

    def encoder_state(self) -> dict[str, Tensor]:
        return target_state(self.encoder)

    def head_state(self) -> tuple[HeadConfig, dict[str, Tensor]] | None:
        return (self.neck.config, target_state(self.neck)) if isinstance(self.neck, Neck) else None

    def start_head(self, tensors: dict[str, Tensor]) -> None:
        if self.neck.state_dict().keys() != tensors.keys():
            raise ValueError("with two domains the neck has a batch norm for each; leave --start-head out")
        self.neck.load_state_dict(tensors)

    @property
    def pseudo_labels(self) -> Tensor:
        return self.memory.labels[self.row_of_image].cpu()


def _check_domains(two: bool, sync: bool, context: RunContext) -> None:
    if two != context.two_domains:
        ask = ("two", "sampling=TwoDomains()") if two else ("one", "sampling=ClassBalanced(), or domains two")
        raise ValueError(
            f'domains "{ask[0]}" and the sampling do not fit: rows of a batch alternate between two domains only with '
            f"TwoDomains; use {ask[1]}"
        )
    local = context.batch_size // world_size()
    if two and local % 2:
        raise ValueError(
            f"{local} images per process cannot hold as many of either domain; "
            f"use a batch_size divisible by {2 * world_size()}"
        )
    if two and (context.batch_size if sync else local) < 4:
        where = "in all" if sync else "per process"
        raise ValueError(
            f"{context.batch_size if sync else local} images {where} leave one of either domain, and batch norm needs "
            f"at least two; use a batch_size of at least {4 if sync else 4 * world_size()}"
        )
