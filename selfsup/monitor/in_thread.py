"""Loggers that talk to a network, so that training never waits for it."""

import queue
import threading
from collections.abc import Callable

from torch import Tensor

from selfsup.monitor.logger import Ending, Logger, Setting

WAITING = 1_000  # calls that may wait for the network
PATIENCE = 60.0  # seconds that the end of a run waits for what is still to be sent


class InThread:
    """A logger that lives in a thread of its own, which carries out the calls in their order.

    What goes wrong there is raised by the next call. See `selfsup.monitor.logger.Logger`.

    Args:
        made: makes the logger, in the thread.
    """

    def __init__(self, made: Callable[[], Logger]) -> None:
        self._calls: queue.Queue[Callable[[Logger], None] | None] = queue.Queue(WAITING)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, args=(made,), daemon=True, name="logging")
        self._thread.start()

    def _work(self, made: Callable[[], Logger]) -> None:
        try:
            logger = made()
            while (call := self._calls.get()) is not None:
                call(logger)
        except Exception as error:  # services raise what they like
            self._error = error

    def _later(self, call: Callable[[Logger], None] | None) -> None:
        if self._error is not None:
            raise self._error
        try:
            self._calls.put_nowait(call)
        except queue.Full as error:
            raise TimeoutError(f"it is too slow: {WAITING:,} calls are waiting") from error

    def settings(self, values: dict[str, Setting]) -> None:
        self._later(lambda logger: logger.settings(values))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._later(lambda logger: logger.scalars(step, values))

    def image(self, name: str, step: int, picture: Tensor) -> None:
        self._later(lambda logger: logger.image(name, step, picture))

    def histogram(self, name: str, step: int, values: Tensor, edges: Tensor) -> None:
        self._later(lambda logger: logger.histogram(name, step, values, edges))

    def finish(self, ending: Ending) -> None:
        self._later(lambda logger: logger.finish(ending))
        self._later(None)
        self._thread.join(PATIENCE)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise TimeoutError(f"not all was sent within {PATIENCE:.0f} seconds")
