"""Saving beside the training: the state is copied to the host, and a thread writes the copy."""

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsup.storage import checkpoint

Groups = dict[str, dict[str, Tensor]]


class Saver:
    """Writes checkpoints in a thread, one at a time.

    The copies on the host stay from save to save, page-locked where the tensors are on a GPU: one more state in memory.

    Args:
        folder: of the checkpoints.
        keep_last: how many of them stay, see `checkpoint.save`.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._writing: Future[None] | None = None
        self._copies: Groups = {}
        self.seconds = 0.0  # from the state that was saved last to its files on the disk

    def begin(self, step: int, tensors: Groups, state: dict[str, Any], kept: bool, since: float | None = None) -> None:
        """Copy a state, and have it written; waits for the one before it. After a failure nothing is written.

        `since`: when this was begun, by `time.monotonic`; now if it is not given.
        """
        since = time.monotonic() if since is None else since
        if self._writing is not None:
            wait([self._writing])
        if self.failed:
            return
        self._copies = {group: _copied(named, self._copies.get(group, {})) for group, named in tensors.items()}
        # The copies are made in the order of the device's work: behind the last step and before the next one.
        copied = torch.cuda.current_stream().record_event() if _on_gpu(tensors) else None
        self._writing = self._thread.submit(self._write, step, state, kept, copied, since)

    def _write(
        self, step: int, state: dict[str, Any], kept: bool, copied: torch.cuda.Event | None, since: float
    ) -> None:
        if copied is not None:
            copied.synchronize()
        checkpoint.save(self.folder, step, self._copies, state, self.keep_last, kept)
        self.seconds = time.monotonic() - since

    @property
    def failed(self) -> bool:
        """Whether something was not written, as `wait` will tell."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def wait(self) -> None:
        """Until what was begun is on the disk.

        Raises:
            StorageError: it could not be written.
        """
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """Finish what was begun, and end the thread."""
        self._thread.shutdown()


def _on_gpu(tensors: Groups) -> bool:
    return any(tensor.is_cuda for named in tensors.values() for tensor in named.values())


def _copied(tensors: dict[str, Tensor], buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, in `buffers` where they fit. Those of tensors on a GPU are whole once it has come so far."""
    copies = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        buffer = buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype, buffer.stride()) != (
            tensor.shape,
            tensor.dtype,
            tensor.stride(),
        ):
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        copies[name] = buffer.copy_(tensor, non_blocking=tensor.is_cuda)
    return copies
