"""Streams and events of a CUDA device that is not there: what each may rely on when its turn comes."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from selfsup.training import ahead

CPU = torch.device("cpu")


class Stream:
    """Knows what is done before whatever it is given next."""

    def __init__(self) -> None:
        self.done: set[str] = set()

    def wait_event(self, event: "Event") -> None:
        self.done |= event.done

    def wait_stream(self, other: "Stream") -> None:
        self.done |= other.done


class Event:
    def __init__(self, device: "Streams") -> None:
        self.device = device
        self.done: set[str] = set()

    def record(self, stream: Stream) -> None:
        self.done = set(stream.done)

    def query(self) -> bool:
        return not self.device.slow

    def synchronize(self) -> None:
        self.device.waited.append(self.done)


class Streams:
    """The two streams of a trainer.

    Attributes:
        training: that of the steps.
        side: that of the views.
        slow: whether events have not happened yet when they are asked.
        waited: what was done at each event that the host has waited for.
        kept: tensors whose memory the training stream keeps until it has used them.
    """

    def __init__(self) -> None:
        self.training, self.side, self.slow = Stream(), Stream(), False
        self.waited: list[set[str]] = []
        self.kept: list[Tensor] = []
        self._current = self.training

    def do(self, what: str) -> None:
        """Give it to the stream whose turn it is."""
        self._current.done.add(what)

    def keeps(self, tensor: Tensor) -> bool:
        return any(tensor is kept for kept in self.kept)

    @contextmanager
    def turn(self, stream: Stream) -> Iterator[None]:
        """What is done in this context is given to that stream."""
        self._current, before = stream, self._current
        yield
        self._current = before

    def as_cuda(self) -> SimpleNamespace:
        """With torch's names."""
        return SimpleNamespace(
            Stream=lambda device: self.side,
            Event=lambda: Event(self),
            current_stream=lambda device: self._current,
            stream=self.turn,
        )


def pretended_streams(patch: pytest.MonkeyPatch) -> Streams:
    """From here on a trainer on a CPU makes views ahead, as on a CUDA device."""
    streams = Streams()

    def record_stream(tensor: Tensor, stream: object) -> None:
        assert stream is streams.training
        streams.kept.append(tensor)

    patch.setattr(ahead, "torch", SimpleNamespace(cuda=streams.as_cuda()))
    patch.setattr(ahead, "makes_ahead", lambda device: True)
    patch.setattr(Tensor, "record_stream", record_stream)
    return streams
