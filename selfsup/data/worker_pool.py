"""Worker processes that decode what several ask for, and that may stay from one epoch or evaluation to the next."""

import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from selfsup.augment.files import compiled
from selfsup.batch import Key
from selfsup.data.workers import Fork, cores, leave_signals_to_parent, say_where_too_many, signals_held_back

Job = Callable[[Key], Any]
"""What makes the item of a key, in whichever process; it is pickled where processes are spawned."""

_Asked = tuple[int, Key]  # the number of a job, and what it is to make


class _Jobs(Dataset[Any]):
    def __init__(self, jobs: tuple[Job, ...]) -> None:
        self.jobs = jobs

    def __getitem__(self, asked: _Asked) -> Any:
        number, key = asked
        return self.jobs[number](key)


class _Order:
    """What is asked for, in order: it is put here for workers that stay from one iteration to the next."""

    def __init__(self, asked: Sequence[_Asked]) -> None:
        self.asked = asked

    def __iter__(self) -> Iterator[_Asked]:
        return iter(self.asked)

    def __len__(self) -> int:
        return len(self.asked)


class WorkerPool:
    """Carries out jobs by `workers` processes (0: by this one), one iteration after another.

    Args:
        workers: number of processes.
        device: where the items are wanted afterwards: for a CUDA GPU they are put into pinned memory.
        lasting: the processes stay for the next iteration, of any job, until `close`. What they know of a job is what
            it was when they were started.
    """

    def __init__(self, workers: int, device: torch.device, lasting: bool = False) -> None:
        self.workers = workers
        self.device = device
        self.lasting = lasting and workers > 0
        self._jobs: tuple[Job, ...] = ()
        self._order = _Order(())
        self._kept: DataLoader[Any] | None = None  # the loader whose workers stay
        self._in_use = False  # by an iteration that waits for items

    def add(self, job: Job) -> int:
        """The number of one more job. Processes that do not know it are ended: jobs are best added before the first."""
        self.close()
        self._jobs = (*self._jobs, job)
        return len(self._jobs) - 1

    def items(self, job: int, keys: Sequence[Key]) -> Generator[Any, None, None]:
        """What the job of this number makes of each key, in order.

        The processes are free for another iteration as soon as this one has its last item. One that begins earlier
        gets processes of its own. One that is left earlier ends them, because what is on its way is of no use.
        """
        if not keys:
            return
        lasting = self.lasting and not self._in_use
        with signals_held_back():
            items = self._started([(job, key) for key in keys], lasting)
        self._in_use = self._in_use or lasting
        complete = False
        try:
            for left in reversed(range(len(keys))):
                item = next(items)
                if left == 0:
                    for _ in items:
                        raise AssertionError("workers made more than was asked for")
                    complete = True
                    self._in_use = self._in_use and not lasting
                yield item
        finally:
            if lasting and not complete:
                self._in_use = False
                self.close()

    def close(self) -> None:
        """End the processes that stay. `items` starts others."""
        kept, self._kept = self._kept, None
        iterator = None if kept is None else kept._iterator
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()

    def _started(self, asked: Sequence[_Asked], lasting: bool = False) -> Iterator[Any]:
        """What the workers make, which are started here, or have stayed."""
        if lasting and self._kept is not None:
            self._order.asked = asked
            return iter(self._kept)
        # Forked workers start at once and need nothing picklable. That is safe after CUDA has been initialised as long
        # as they do not touch it, and they decode on the CPU alone, with one thread each (the loader sees to that).
        fork = sys.platform == "linux" and self.workers > 0
        if fork:
            compiled()  # once, for all of them
        say_where_too_many(self.workers, cores())
        with warnings.catch_warnings():
            # Said above, in our words; torch warns where a loader is made, and again where its workers start.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            order = _Order(asked)
            loader: DataLoader[Any] = DataLoader(
                _Jobs(self._jobs),
                batch_size=None,
                sampler=order,
                num_workers=self.workers,
                persistent_workers=lasting,
                collate_fn=_as_it_is,
                worker_init_fn=leave_signals_to_parent,
                pin_memory=self.device.type == "cuda",
                multiprocessing_context=Fork() if fork else None,
                generator=torch.Generator(),  # of its own: it is drawn from, and the global state is not for that
            )
            items = iter(loader)
        if lasting:
            self._kept, self._order = loader, order
        return items


def _as_it_is(item: Any) -> Any:
    return item
