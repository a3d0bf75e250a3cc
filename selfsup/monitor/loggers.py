"""The loggers that a run may have, and several as one: one that fails costs only itself."""

import importlib.util
from collections.abc import Callable, Iterable

from torch import Tensor

from selfsup.monitor.groups import Group, grouped
from selfsup.monitor.in_thread import InThread
from selfsup.monitor.logger import Ending, Logger, LoggerName, Opening, Setting
from selfsup.monitor.mlflow import MLflow
from selfsup.monitor.tensorboard import TensorBoard
from selfsup.monitor.wandb import WandB
from selfsup.output import message
from selfsup.packages import EXTRAS, missing
from selfsup.storage.untrusted import plain_name


class Onward:
    """Hands on what no earlier launch of the run has logged; steps that are taken again give the same figures.

    For services that keep whatever they were given. See `selfsup.monitor.logger.Logger`.
    """

    def __init__(self, logger: Logger, logged: dict[str, int]) -> None:
        self._logger, self._logged = logger, logged
        self._last = max(logged.values(), default=0)

    def settings(self, values: dict[str, Setting]) -> None:
        self._logger.settings(values)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        # Logged by their names alone, which stand behind the group.
        new = {name: value for name, value in values.items() if step > self._logged.get(name.partition("/")[2], 0)}
        if new:
            self._logger.scalars(step, new)

    def image(self, name: str, step: int, picture: Tensor) -> None:
        if step > self._last:
            self._logger.image(name, step, picture)

    def histogram(self, name: str, step: int, values: Tensor, edges: Tensor) -> None:
        if step > self._last:
            self._logger.histogram(name, step, values, edges)

    def finish(self, ending: Ending) -> None:
        self._logger.finish(ending)


def _service(made: Callable[[Opening], Logger]) -> Callable[[Opening], Logger]:
    return lambda opening: InThread(lambda: Onward(made(opening), opening.logged))


LOGGERS: dict[LoggerName, Callable[[Opening], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": _service(WandB),
    "mlflow": _service(MLflow),
}


def require_loggers(names: Iterable[LoggerName]) -> None:
    """Raise ValueError where a logger's package is not installed and was not to be expected; imports nothing."""
    for name in names:
        if name in EXTRAS and importlib.util.find_spec(name) is None:
            raise ValueError(missing(ModuleNotFoundError(name=name), f"--log-to {name}"))


class Loggers:
    """Several loggers; whatever one of them raises is said once, and it is told nothing any more.

    Args:
        names: of `LOGGERS`.
        opening: of all of them.
    """

    def __init__(self, names: Iterable[LoggerName], opening: Opening) -> None:
        self._loggers: dict[str, Logger] = {}
        for name in names:
            try:
                self._loggers[name] = LOGGERS[name](opening)
            except Exception as error:  # as below
                _tell(name, error)

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:  # a picture of a run is no reason to end it, whatever a library raises
                _tell(name, error)
                del self._loggers[name]

    def settings(self, values: dict[str, Setting]) -> None:
        """What was run; long words are cut in their middle."""
        short = {name: plain_name(value) if isinstance(value, str) else value for name, value in values.items()}
        self._each(lambda logger: logger.settings(short))

    def scalars(self, step: int, values: dict[str, float], otherwise: Group) -> None:
        """Figures by their names alone; those that no table knows are in the group `otherwise`."""
        named = {grouped(name, otherwise): value for name, value in values.items()}
        self._each(lambda logger: logger.scalars(step, named))

    def image(self, name: str, step: int, picture: Tensor) -> None:
        self._each(lambda logger: logger.image(name, step, picture))

    def histogram(self, name: str, step: int, values: Tensor, edges: Tensor) -> None:
        """Of values that are finite, if any; see `Logger.histogram`."""
        values = values[values.isfinite()].clamp(edges[0], edges[-1])
        if len(values):
            self._each(lambda logger: logger.histogram(name, step, values, edges))

    def finish(self, ending: Ending) -> None:
        self._each(lambda logger: logger.finish(ending))


def _tell(name: str, error: Exception) -> None:
    sentence = missing(error, "a picture of the run in TensorBoard") if isinstance(error, ModuleNotFoundError) else None
    why = str(error).partition("\n")[0] or type(error).__name__
    told = sentence or f"nothing is logged to {name} any more: {why}"
    message(f"{told}\nthe figures are in metrics.jsonl all the same")
