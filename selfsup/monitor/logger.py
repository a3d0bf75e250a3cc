"""What everything that figures can be logged to has in common."""

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from selfsup.storage.untrusted import read_json

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
Ending = Literal["finished", "stopped", "failed"]  # stopped: the same command goes on
Setting = int | float | str | bool


class Opening(NamedTuple):
    """What a logger is opened for."""

    folder: Path  # the run folder
    step: int  # that the run goes on from
    logged: dict[str, int]  # the last step of each figure, by its name, that earlier launches have logged


class Logger(Protocol):
    """Takes what comes up in a run, in the main process; made of an `Opening`.

    It may raise whatever it likes: then it is told nothing any more, and training goes on. It keeps training waiting
    for no network, changes no random number, and gets tensors of the CPU alone, which it must not change.
    """

    def settings(self, values: dict[str, Setting]) -> None:
        """What was run, by names such as "method.temperature": once, before all else."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Figures by their grouped names; a step may come several times, with other names."""

    def image(self, name: str, step: int, picture: Tensor) -> None:
        """A picture: (3, H, W) in [0, 1]."""

    def histogram(self, name: str, step: int, values: Tensor, edges: Tensor) -> None:
        """How (n,) finite values are spread over the bins between (bins + 1,) ascending edges, which hold them all."""

    def finish(self, ending: Ending) -> None:
        """The last call."""


def pixels(picture: Tensor) -> Any:
    """(3, H, W) in [0, 1] as an array (H, W, 3) of bytes."""
    return picture.mul(255).round().byte().permute(1, 2, 0).numpy()


def kept_id(file: Path) -> str | None:
    """The name under which a service knows this run, as kept in the run folder; None where there is none yet.

    Raises:
        ValueError: the file holds something else.
    """
    if not file.is_file():
        return None
    found = read_json(file).get("id")
    if not isinstance(found, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found):
        raise ValueError(f"{file} holds no id of a run; remove it for a new one")
    return found
