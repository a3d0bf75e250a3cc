"""How many bytes of tensors are there at once, while operations run."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Within, adds up the memory of the tensors that operations make, from when it is taken until it is let go.

    Also of those that autograd keeps for the backward pass, and of tensors that hold nothing, such as torch's fake
    ones, which have only a size. What an operation needs inside, and gives back before it ends, does not count.

    Args:
        known: tensors that were there before, and do not count.

    Attributes:
        now, peak: bytes at this moment, and at most so far.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.now: int = 0
        self.peak: int = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._known = [tensor.untyped_storage() for tensor in known]
        for storage in self._known:
            self._alive[id(storage)] = weakref.ref(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                self._note(made.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        met = self._alive.get(key)
        if met is not None and met() is storage:
            return

        def gone(_: object) -> None:
            self.now -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
