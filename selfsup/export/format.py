"""What a format is that encoders are exported to: who writes it, and how it is read again by its own library."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from selfsup.export.outgoing import Outgoing, Part

FOLDER = ""  # the ending of a folder's name
ANY_NETWORK = "--to onnx, torch.export and safetensors take any network"


class NotWritten(ValueError):
    """A format has no such network, or no such part; the message says what has."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One line of the table: what an encoder can be exported to."""

    name: str
    title: str  # what is written, and who reads it
    endings: tuple[str, ...]  # that the name of the file may have; FOLDER where it may be a folder
    write: Callable[[Outgoing, Path], None]  # to a path that is not there yet; raises NotWritten
    read: Callable[[Outgoing, Path], Callable[[Tensor], Tensor]]  # the written network, by its own library
    usage: Callable[[Outgoing, Path], str]  # the line of Python that loads it
    parts: tuple[Part, ...] = ("backbone", "classifier")
    takes_pixels: bool = False  # whether scaling and normalisation can be inside
    packages: tuple[str, ...] = ()  # that writing and reading need beside those of selfsup, as they are imported
    extra: str = ""  # of setup.cfg, that brings them


def no_such_network(format: str, outgoing: Outgoing, reason: str) -> NotWritten:
    """What to raise where a format has no network like this one.

    Args:
        format: its name.
        outgoing: what should have gone out.
        reason: which networks it has, as a clause.
    """
    return NotWritten(f"{format} has no network like {outgoing.exported.config.title}: {reason}\n{ANY_NETWORK}")
