"""Views of the next batch: on a CUDA device they are made on a second stream, while this batch trains."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Self

import torch
from torch import Tensor

from selfsup.batch import Batch

_LEAD = 2  # steps that the device may have before it; more would each hold a batch of views


class SideStream:
    """A stream of a CUDA device beside the one that trains.

    Its work waits for what the training stream was given before `begin`, and for nothing after that, so it overlaps
    with the steps. It must read nothing that a step writes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._steps: deque[torch.cuda.Event] = deque()  # ends of the newest ones

    def begin(self) -> None:
        """Wait, on the device, for all that the training stream was given so far."""
        self._stream.wait_stream(self._training())

    def work(self) -> AbstractContextManager[None]:
        """What is asked of the device in this context goes to this stream."""
        return torch.cuda.stream(self._stream)

    def made(self) -> torch.cuda.Event:
        """When all that this stream was given is done."""
        event = torch.cuda.Event()
        event.record(self._stream)
        return event

    def hand_over(self, made: torch.cuda.Event, tensors: Iterable[Tensor]) -> None:
        """Have the training stream wait for tensors of this one; their memory is kept until it has used them."""
        training = self._training()
        training.wait_event(made)
        for tensor in tensors:
            tensor.record_stream(training)

    def after_step(self) -> None:
        """Wait on the host where it is more than `_LEAD` steps ahead of the device.

        The memory of views is not given back before the device has used them, so a host that runs away fills it.
        """
        end = torch.cuda.Event()
        end.record(self._training())
        self._steps.append(end)
        if len(self._steps) > _LEAD:
            end = self._steps.popleft()
            if not end.query():
                end.synchronize()

    def _training(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device)


def makes_ahead(device: torch.device) -> bool:
    """Whether the views of the next batch are made during a step; in line on a CPU and on an Apple GPU."""
    return device.type == "cuda"


def side_stream(device: torch.device) -> SideStream | None:
    """What they are made on, where that is so."""
    return SideStream(device) if makes_ahead(device) else None


class _Ready(NamedTuple):
    batch: Batch
    views: list[Tensor]
    made: torch.cuda.Event


class Ahead:
    """The batches of an epoch, in their order, and the views of each.

        for batch in coming:
            views = coming.views()
            ...  # a step
            coming.prepare()

    Without a side stream each batch is fetched when it is asked for, and so are its views, and `prepare` does nothing.
    With one, `prepare` does both for the next batch on it. Batches and views are the same either way, and an error is
    raised where the batch is asked for that it belongs to.

    Args:
        batches: images and labels on the device. What they are made from must be there already.
        make: the views of a batch, on the device.
        side: see `side_stream`.
    """

    def __init__(
        self, batches: Iterator[Batch], make: Callable[[Batch], list[Tensor]], side: SideStream | None
    ) -> None:
        self._batches, self._make, self.side = batches, make, side
        self._batch: Batch | None = None  # whose views were not asked for
        self._now: _Ready | None = None  # the same, on a side stream
        self._next: _Ready | Exception | None = None
        if side:
            side.begin()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self.side is None:
            self._batch = next(self._batches)
            return self._batch
        if self._next is None:
            self._next = self._brought(self.side)
        ready, self._next = self._next, None
        if isinstance(ready, Exception):
            raise ready
        self._now = ready
        return ready.batch

    def views(self) -> list[Tensor]:
        """Of the batch that was asked for last; once for each."""
        if self.side is None:
            batch, self._batch = self._batch, None
            assert batch is not None
            return self._make(batch)
        ready, self._now = self._now, None
        assert ready is not None
        images = ready.batch.images
        held = [*ready.views, *(images if isinstance(images, tuple) else [images]), ready.batch.labels]
        self.side.hand_over(ready.made, held)
        return ready.views

    def prepare(self) -> None:
        """Begin with the next batch and its views, where there is a side stream: after a step was asked for."""
        if self.side and self._next is None:
            self.side.after_step()
            self._next = self._brought(self.side)

    def close(self) -> None:
        """Let go of all batches that were not asked for."""
        self._batches, self._next = iter(()), None

    def _brought(self, side: SideStream) -> _Ready | Exception:
        with side.work():
            try:
                batch = next(self._batches)
                return _Ready(batch, self._make(batch), side.made())
            except Exception as error:  # StopIteration, too; the step before it is reported and saved first
                return error
