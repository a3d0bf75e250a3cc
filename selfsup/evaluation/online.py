"""What is read out of an encoder while it is pretrained: figures on a part of the images, features of all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from selfsup import distributed
from selfsup.augment.views import Center
from selfsup.data.opening import labelled_part
from selfsup.data.overlap import tell_shared
from selfsup.data.resident import kept_whole
from selfsup.data.settings import Data
from selfsup.data.sources import ArraySource, Source, subset
from selfsup.data.streaming import Streaming
from selfsup.data.worker_pool import WorkerPool
from selfsup.evaluation.features import Features, extract, streamed_by
from selfsup.evaluation.knn import knn_accuracy, neighbours_of
from selfsup.evaluation.logistic import online_linear
from selfsup.methods.base import Extract
from selfsup.output import message
from selfsup.runtime.arithmetic import Resolved

_PERCENT = 3  # of the time, for evaluations whose number nobody has given


@dataclass(frozen=True, kw_only=True)
class Online:
    """What of a run's settings its evaluations between epochs are told."""

    every: int | Literal["auto"]  # epochs between them, see `interval`; 0: never
    bank: int  # training images of kNN, at most
    queries: int  # test images
    k: int | None  # neighbours; None: 200, or fewer where the data are few
    temperature: float
    probe_l2: float | None  # of the linear probe; None: none
    center: Center  # the test-time view
    data: Data
    workers: int

    precision: Resolved  # of the encoder

    def judges(self, source: Source) -> bool:
        """Whether there are evaluations: for whose sake some images must have labels, of two classes at least."""
        return self.every != 0 and len(source.labels[source.labels >= 0].unique()) >= 2

    def interval(self, source: Source, judged: int, trained: int, passes: int) -> int:
        """Epochs between evaluations, 0 for never; for "auto" as few as keep them at 3 % of what training takes.

        That is counted, not measured, so that it is the same in every process and on every machine: by forward passes
        of the encoder, and where files are read in every epoch by files, too.

        Args:
            source: the training images.
            judged: images of an evaluation.
            trained: images of an epoch.
            passes: of an image that is trained on, see `Method.passes`.
        """
        if self.every != "auto":
            return self.every
        work = trained * (passes if isinstance(source, ArraySource) else 1)  # a file is read once in an epoch
        epochs = max(1, -(-100 * judged // (_PERCENT * work)))
        if epochs > 1 and distributed.rank() == 0:
            message(f"the encoder is judged every {epochs} epochs, which takes at most {_PERCENT} % of the time")
        return epochs


class OnlineEvaluation:
    """Judges an encoder on a part of the data, whenever it is called.

    By kNN, and by logistic regression where there is a `probe_l2`, as the commands knn and linear do on these images.

    Args:
        online: what is asked for.
        parts: the bank, and the images that are asked about; without these the others of the bank judge each.
        encoder: on `device`.
        device: where it is judged.
        pool: the processes of training, which read files; without it each evaluation starts its own.
    """

    def __init__(
        self, online: Online, parts: list[Source], encoder: nn.Module, device: torch.device, pool: WorkerPool | None
    ) -> None:
        self.online, self.parts, self.encoder, self.device = online, parts, encoder, device
        self.images = sum(len(part) for part in parts)
        self.figures: dict[str, float] = {}  # those found last
        self._streamed = [streamed_by(pool, part, online.center) for part in parts]

    def __call__(self) -> dict[str, float]:
        online, device = self.online, self.device
        bank, *rest = (self._features(*part) for part in zip(self.parts, self._streamed, strict=True))
        queries = rest[0] if rest else None
        k = neighbours_of((online.k,) if online.k else (), bank.labels, leave_one_out=not rest, told=False)[0]
        accuracy = knn_accuracy(bank, queries, k, online.temperature, device=device)
        self.figures = {"knn_top1": accuracy["top1"]} | online_linear(online.probe_l2, bank, queries, device)
        return dict(self.figures)

    def _features(self, part: Source, streamed: Streaming | None) -> Features:
        return extract(
            self.encoder,
            part,
            self.online.center,
            self.device,
            canvas=self.online.data.canvas,
            workers=self.online.workers,
            streamed=streamed,
            precision=self.online.precision,
        )


def online_evaluation(
    online: Online,
    source: Source,
    tested: Callable[[], Source | None],
    encoder: nn.Module,
    device: torch.device,
    pool: WorkerPool | None = None,
) -> OnlineEvaluation | None:
    """What judges the encoder on a part of the training images and of those `tested`; None where there are no labels.

    Files are read by the processes of `pool`, those of training, where one is given.
    """
    if not online.judges(source):
        return None
    parts = [subset(labelled_part(source, "train"), online.bank)]
    test = tested()
    if test is not None and int(test.labels.max()) < 0:
        message("the test images have no labels: training images are left out for the online evaluation instead")
    elif test is not None:
        test = subset(labelled_part(test, "test"), online.queries)
        tell_shared(parts[0], test, online.data.verify)
        parts.append(kept_whole(test, online.data.canvas))  # decoded once, not in every evaluation
    return OnlineEvaluation(online, parts, encoder, device, pool)


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
