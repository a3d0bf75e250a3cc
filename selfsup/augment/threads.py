"""Work on parts of a batch, each by one of the CPU's threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def in_threads(work: Callable[[T], None], parts: Sequence[T], device: torch.device) -> None:
    """Do the work on every part; on a CPU, on as many threads as torch may use.

    There each part is worked on by one thread alone, so that no sum is divided among threads: what a part becomes does
    not depend on their number.
    """
    threads = torch.get_num_threads()
    if threads == 1 or device.type != "cpu":
        for part in parts:
            work(part)
        return
    inference = torch.is_inference_mode_enabled()

    def alone(part: T) -> None:
        with torch.no_grad(), torch.inference_mode(inference):  # modes belong to a thread
            work(part)

    # A thread's own number of threads is also what later ones begin with, until it is set again.
    with ThreadPoolExecutor(min(threads, len(parts)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for _ in pool.map(alone, parts):
                pass
        finally:
            torch.set_num_threads(threads)
