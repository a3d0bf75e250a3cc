"""The contract every method keeps; see docs/architecture.md."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from selfsup.batch import Batch
from selfsup.distributed import world_size
from selfsup.memory.saved import Saved
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Head, HeadConfig
from selfsup.models.norm import depends_on_processes


class Step(NamedTuple):
    """What one forward pass of a method returns."""

    loss: Tensor  # () with gradient
    metrics: dict[str, Tensor]  # detached scalars, logged as they are named
    update: dict[str, Tensor]  # detached (B, ...) tensors of this process, handed to after_step
    # Detached unit rows of this process, (n, D), and what each is pulled to, (n, D): for figures that cost too much for
    # every step, such as ranks and histograms of similarities. None: there are none of these figures.
    shown: tuple[Tensor, Tensor] | None = None


class RunContext(NamedTuple):
    """What a method must know of the run to build its memory and to refuse what cannot work."""

    num_images: int
    batch_size: int  # global
    seed: int
    num_classes: int = 0  # 0 where there are no labels
    num_views: int = 2
    view_size: tuple[int, int] = (32, 32)  # height and width of the first view, pixels
    steps_per_epoch: int = 1
    two_domains: bool = False  # rows of a batch are of a labelled and of an unlabelled domain in turn
    per_class: int = 0  # images of each class in every batch; 0: batches are drawn without regard to classes
    channels: int = 3  # of the images
    labels: Tensor | None = None  # (num_images,) int64 of the whole data set, -1 where an image has none


class About(NamedTuple):
    """A method's line in the table of methods."""

    title: str
    memory: str  # what is remembered between steps
    loss: str
    papers: tuple[str, ...]  # "Authors year", the first is the method's own
    labels: Literal["unused", "needed", "optional"] = "unused"


Embed = Callable[[Tensor], Tensor]  # (B, C, S, S) -> (B, D), each row from its image and, in batch norm, the others
# Features of every image of the data set by an encoder, with the test-time view: module -> (num_images, D) float32.
Extract = Callable[[nn.Module], Tensor]


class Method(nn.Module):
    """A pretraining method: an encoder, what is trained with it, and its memory.

    `forward` reads memory and never writes it (the running statistics of batch norm apart); all writing happens in
    `after_step`, once per applied optimiser step, from gathered tensors. All state is parameters and buffers.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        def build(self, encoder: Encoder, context: RunContext) -> "Method":
            raise NotImplementedError(f"{type(self).__qualname__} does not say how to build its method")

    about: ClassVar[About] = About("", "none", "", ())  # of a probe and the like, which the table does not name
    # What people read in place of "accuracy" among its figures, which says how often a positive is found.
    accuracy_is: ClassVar[str] = "contrastive accuracy"
    forms_labels: ClassVar[bool] = False  # gives `pseudo_labels` before every epoch
    # All views are embedded as one batch, so that batch norm is over all of them.
    views_share_batch_norm: ClassVar[bool] = False
    # With gradient caching, what embeds views without gradient, in chunks; see selfsup.training.gradient_cache.
    in_chunks: Callable[[Embed, list[Tensor]], list[Tensor]] | None = None
    encoder: Encoder  # the only part that is exported

    @property
    def resolved(self) -> dict[str, Any]:
        """Facts that the configuration left to the circumstances; a run can only go on where they are the same.

        Here "processes", their number, where a batch norm is over each process's own images.
        """
        return {"processes": world_size()} if depends_on_processes(self) else {}

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate of parameters that learn faster or slower: beginning of their names -> factor.

        Those of one dimension are not decayed, whatever the optimizer does with others; LARS adapts none of them.
        """
        return {}

    def foresee(self, indices: Tensor) -> None:
        """Called before every step with the images of the global batch: (N,) int64 positions, on the CPU.

        For what a method has to know of them in Python, which could be had from the device only by waiting for it.
        What is kept of them is not state: it must be of no use after `after_step`.
        """

    def queries(self, views: list[Tensor]) -> list[Tensor]:
        """Which of the views `embed` is to see; the others are used without gradient, or not at all."""
        return views

    def passes(self, num_views: int) -> int:
        """The forward passes of the encoder that a step takes as long as, of an image in so many views, at least.

        A view that `embed` sees counts three, because a backward pass takes as long as two; any other counts one.
        """
        embedded = len(self.queries([torch.empty(0)] * num_views))
        return 3 * embedded + num_views - embedded

    def embed(self, view: Tensor) -> Tensor:
        """All the gradient-carrying work of the encoder: (B, C, S, S) -> (B, D)."""
        raise NotImplementedError

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        """Everything after the encoder."""
        raise NotImplementedError

    def forward(self, views: list[Tensor], batch: Batch) -> Step:
        """The step as a whole. Not to be overridden: gradient caching takes its parts one by one."""
        return self.objective(self.embedded(self.embed, self.queries(views)), views, batch)

    def embedded(self, embed: Embed, views: list[Tensor]) -> list[Tensor]:
        """(B, D) embeddings of each view by `embed`, as one batch where the method takes views together."""
        return embed_together(embed, views) if self.views_share_batch_norm else [embed(view) for view in views]

    @torch.no_grad()
    def without_gradient(self, embed: Embed, views: list[Tensor]) -> list[Tensor]:
        """`embedded` for what an objective embeds without gradient, such as keys: in chunks where gradients are cached.

        Whatever an objective embeds must go through this, or a large batch would take the memory of a large batch.
        """
        return (self.in_chunks or self.embedded)(embed, views)

    def after_step(self, update: dict[str, Tensor], progress: float) -> None:
        """Write memory: called once after every optimiser step that was applied, with this process's `update`."""

    def taken_back(self) -> None:
        """The last steps were taken back, and all parameters and buffers are as they were before them.

        A method that counts along on the host, so as not to ask the device, forgets what it knows.
        """

    def encoder_state(self) -> dict[str, Tensor]:
        """The tensors that are exported, under the names of a plain encoder."""
        return self.encoder.state_dict()

    def head_state(self) -> tuple[HeadConfig, dict[str, Tensor]] | None:
        """What makes embeddings of the encoder's features, to be exported beside it: settings and tensors."""
        head = getattr(self, "head", None)
        return (head.config, head.state_dict()) if isinstance(head, Head) else None

    def start_head(self, tensors: dict[str, Tensor]) -> None:
        """Begin with a head that was trained before: tensors by the names and of the shapes that `head_state` gives."""
        head: nn.Module = self.head  # type: ignore[assignment]
        head.load_state_dict(tensors)

    def before_epoch(self, epoch: int, extract: Extract) -> dict[str, float]:
        """Write what is computed once per epoch, such as clusters; returns figures to be logged.

        Called in every process before the first step of an epoch, and not again when a run goes on in its middle: all
        that it finds out must be in buffers.
        """
        return {}

    @property
    def pseudo_labels(self) -> Tensor | None:
        """(num_images,) int64 labels that batches are to be formed from in this epoch; None: those of the data."""
        return None


def embed_together(embed: Embed, views: list[Tensor]) -> list[Tensor]:
    """Embed the concatenation of all views, so that batch norm is over all of them; views must have one size."""
    if len({view.shape for view in views}) > 1:
        shapes = sorted({tuple(view.shape[-2:]) for view in views})
        raise ValueError(f"views of several sizes {shapes} cannot share one batch norm; use views of one size")
    return list(embed(torch.cat(views)).chunk(len(views)))


def require_two_views(context: RunContext) -> None:
    if context.num_views != 2:
        raise ValueError(f"this method compares 2 views of an image and the augmentation makes {context.num_views}")


def require_labels(context: RunContext, method: str) -> None:
    # A class may have no image in the data.
    present = None if context.labels is None else context.labels.unique()  # ascending
    if context.num_classes < 2 or (present is not None and (len(present) < 2 or int(present[0]) < 0)):
        raise ValueError(
            f"{method} needs a label for every image, of at least 2 classes; put the images of each class in a folder "
            "of its own, or take a method without labels (selfsup methods lists them)"
        )


def check_steps(saved: Saved) -> None:
    """Raise ValueError for a count of applied steps, "steps", that the saved state of a method cannot have."""
    saved.require("steps", 0, saved.limits.steps, "no more than the steps that were taken")


def detached(metrics: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value).detach() for name, value in metrics.items()}
