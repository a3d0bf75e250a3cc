"""How many bytes of tensors live at once, counted operation by operation: the same on every machine."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Counts tensors that operations make while it is entered, in both passes; those from before it are not counted.

    `peak` is the most bytes that lived at the end of an operation, and `largest` the most of one tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.peak = self.largest = 0
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}
        self._before: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [*args, *(kwargs or {}).values()]
        self._before |= {_place(item) for item in _tensors(given)} - set(self._known)
        result = func(*args, **(kwargs or {}))
        self._known = {place: entry for place, entry in self._known.items() if not entry[0].expired()}
        for tensor in _tensors([result]):
            if _place(tensor) not in self._before:
                size = tensor.untyped_storage().nbytes()
                self._known[_place(tensor)] = StorageWeakRef(tensor.untyped_storage()), size
                self.largest = max(self.largest, size)
        self.peak = max(self.peak, sum(size for _, size in self._known.values()))
        return result


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(items: Any) -> list[Tensor]:
    found = []
    for item in items:
        found += [item] if isinstance(item, torch.Tensor) else _tensors(item) if isinstance(item, list | tuple) else []
    return found
