"""Features of every image of a data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from selfsup import distributed
from selfsup.augment.bands import Held
from selfsup.augment.views import Center
from selfsup.data.loader import evaluation_batches
from selfsup.data.opening import tell_cut_short
from selfsup.data.sources import ArraySource, Source
from selfsup.data.streaming import Streaming
from selfsup.data.worker_pool import WorkerPool
from selfsup.evaluation.reading import Reading
from selfsup.output import message
from selfsup.runtime import arithmetic, heap
from selfsup.storage.untrusted import plain_name
from selfsup.training.channels import require_fed
from selfsup.training.sharding import unsharded

_ROWS = 16_384  # of features looked through at a time


class Features(NamedTuple):
    """Features in the order of the data set, the same in every process."""

    features: Tensor  # (N, D) float32, on the CPU
    labels: Tensor  # (N,) int64; -1 where there is none
    indices: Tensor  # (N,) int64, position in the data set

    def require_finite(self) -> None:
        """Raise ValueError where a feature is NaN or infinite. Takes little memory beside the features."""
        if not all(bool(rows.isfinite().all()) for rows in self.features.split(_ROWS)):
            raise ValueError("the features hold NaN or infinity; the encoder has diverged")


def features_of(
    settings: Reading, encoder: nn.Module, source: Source, center: Center, device: torch.device
) -> "Features":
    """`extract` as an evaluation's settings say."""
    return extract(
        encoder,
        source,
        center,
        device,
        batch_size=settings.batch_size,
        canvas=settings.data.canvas,
        workers=settings.workers,
    )


@dataclass(frozen=True)
class _OneView:
    """The central crop in the form that a loader's worker calls."""

    center: Center

    def __call__(self, images: Sequence[Held], indices: Tensor, epoch: int) -> tuple[Tensor, ...]:
        return (self.center.crop(images),)


def streamed_by(pool: WorkerPool | None, source: Source, center: Center) -> Streaming | None:
    """What reads the images of `source` by processes that stay, for `extract`; None where there is no pool of them.

    To be made once, before the processes are started: they know what there was then.
    """
    if pool is None or isinstance(source, ArraySource):
        return None
    return Streaming(source, _OneView(center), pool, substitute=False)


@torch.no_grad()
def encoded(
    encoder: nn.Module,
    source: Source,
    center: Center,
    device: torch.device,
    share: tuple[int, int],
    unreadable: dict[str, str],
    batch_size: int,
    canvas: int | None,
    workers: int,
    streamed: Streaming | None = None,
    precision: arithmetic.Resolved = "fp32",
) -> Iterator[Features]:
    """Batch after batch of share s of S of the images, [s N / S, (s + 1) N / S), in the encoder's present mode.

    Features are on `device`. Images that cannot be read are left out and added to `unreadable`.
    """
    require_fed(source, center.mean)
    with heap.reused(device):
        for batch in evaluation_batches(
            source,
            batch_size=batch_size,
            device=device,
            canvas=canvas,
            crop=None if canvas is not None else _OneView(center),
            rank=share[0],
            world=share[1],
            workers=workers,
            unreadable=unreadable,
            streamed=streamed,
        ):
            with arithmetic.forward_passes(precision, device):
                features = encoder(center(batch.images, batch.sizes, device)).float()
            yield Features(features, batch.labels, batch.indices)


@torch.no_grad()
def extract(
    encoder: nn.Module,
    source: Source,
    center: Center,
    device: torch.device,
    *,
    batch_size: int = 512,
    canvas: int | None = None,
    workers: int = 0,
    streamed: Streaming | None = None,
    precision: arithmetic.Resolved = "fp32",
) -> Features:
    """Encode every readable image of `source` once, in evaluation mode, shared among processes.

    Args:
        encoder: (B, C, S, S) -> (B, D); its training mode is put back afterwards.
        source: N images.
        center: the test-time transform.
        device: where to compute.
        batch_size: images per process at a time.
        canvas, workers: as in the loader.
        streamed: reads the images in place of `workers`, see `streamed_by`.
        precision: of the encoder's forward passes.
    """
    if len(source) < distributed.world_size():
        raise ValueError(f"{len(source)} images cannot be shared among {distributed.world_size()} processes; use fewer")
    was_training = encoder.training
    unreadable: dict[str, str] = {}
    encoder.eval()
    share = (distributed.rank(), distributed.world_size())
    with unsharded(encoder):
        how = (batch_size, canvas, workers, streamed, precision)
        read = list(encoded(encoder, source, center, device, share, unreadable, *how))
    encoder.train(was_training)
    width = max(distributed.gather_json(read[0].features.shape[1] if read else 0, device))
    if not width:
        raise ValueError(f"none of the {len(source)} images can be read, such as {plain_name(source.name(0))}")
    if not read:  # none of this process's share, a small one
        none = torch.zeros(0, dtype=torch.int64)
        read = [Features(torch.zeros(0, width, device=device), none, none)]
    rows, labels, indices = (torch.cat(column) for column in zip(*read, strict=True))
    if unreadable:
        message(f"{len(unreadable)} unreadable images are left out, such as {next(iter(unreadable))}")
    tell_cut_short(source.names_cut_short())
    joined = (rows, labels.to(device), indices.to(device))
    return Features(*(distributed.gather_ragged(part).cpu() for part in joined))
