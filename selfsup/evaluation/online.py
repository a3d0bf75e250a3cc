"""What is read out of an encoder while it is pretrained: figures on a part of the images, features of all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from selfsup.augment.views import Center
from selfsup.data.opening import labelled_part
from selfsup.data.overlap import tell_shared
from selfsup.data.resident import kept_whole
from selfsup.data.settings import Data
from selfsup.data.sources import Source, subset
from selfsup.data.worker_pool import WorkerPool
from selfsup.evaluation.features import extract, streamed_by
from selfsup.evaluation.knn import knn_accuracy, neighbours_of
from selfsup.evaluation.logistic import online_linear
from selfsup.methods.base import Extract
from selfsup.output import message


@dataclass(frozen=True, kw_only=True)
class Online:
    """What of a run's settings its evaluations between epochs are told."""

    every: int  # epochs between them; 0: never
    bank: int  # training images of kNN, at most
    queries: int  # test images
    k: int | None  # neighbours; None: 200, or fewer where the data are few
    temperature: float
    probe_l2: float | None  # of the linear probe; None: none
    center: Center  # the test-time view
    data: Data
    workers: int

    def judges(self, source: Source) -> bool:
        """Whether there are evaluations: for whose sake some images must have labels, of two classes at least."""
        return self.every > 0 and len(source.labels[source.labels >= 0].unique()) >= 2


def online_evaluation(
    online: Online,
    source: Source,
    tested: Callable[[], Source | None],
    encoder: nn.Module,
    device: torch.device,
    pool: WorkerPool | None = None,
) -> Callable[[], dict[str, float]] | None:
    """A function that judges the encoder on a part of the data, or None where there are no labels.

    By kNN, and by logistic regression where there is a `probe_l2`, as the commands knn and linear do on these images.
    Files are read by the processes of `pool`, those of training, where one is given.
    """
    if not online.judges(source):
        return None
    data = online.data
    parts = [subset(labelled_part(source, "train"), online.bank)]
    test = tested()
    if test is not None and int(test.labels.max()) < 0:
        message("the test images have no labels: training images are left out for the online evaluation instead")
    elif test is not None:
        test = subset(labelled_part(test, "test"), online.queries)
        tell_shared(parts[0], test, data.verify)
        parts.append(kept_whole(test, data.canvas))  # decoded once, not in every evaluation
    streamed = [streamed_by(pool, part, online.center) for part in parts]

    def evaluate() -> dict[str, float]:
        bank, *rest = (
            extract(
                encoder,
                part,
                online.center,
                device,
                canvas=data.canvas,
                workers=online.workers,
                streamed=reader,
            )
            for part, reader in zip(parts, streamed, strict=True)
        )
        k = neighbours_of((online.k,) if online.k else (), bank.labels, leave_one_out=not rest, told=False)[0]
        accuracy = knn_accuracy(bank, rest[0] if rest else None, k, online.temperature, device=device)
        return {"knn_top1": accuracy["top1"]} | online_linear(online.probe_l2, bank, rest[0] if rest else None, device)

    return evaluate


def extractor(online: Online, source: Source, device: torch.device, pool: WorkerPool | None = None) -> Extract:
    """A function that reads out the features of every training image, with the test-time view.

    Files are read by the processes of `pool`, those of training, where one is given.
    """
    center, canvas, workers = online.center, online.data.canvas, online.workers
    streamed = streamed_by(pool, source, center)

    def extract_all(module: nn.Module) -> torch.Tensor:
        read = extract(module, source, center, device, canvas=canvas, workers=workers, streamed=streamed)
        # An image that cannot be read is trained on as the next readable one, the first after the last.
        place = torch.searchsorted(read.indices, torch.arange(len(source))) % len(read.indices)
        return read.features[place]

    return extract_all
