"""The whole network as a graph of torch's operators: a .pt2 of `torch.export`, of any batch size."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from selfsup.export.format import Format, NotWritten
from selfsup.export.outgoing import OUTPUTS, Outgoing
from selfsup.storage.untrusted import plain_name

ABOUT = "about.json"  # inside the file


def traced(outgoing: Outgoing) -> torch.export.ExportedProgram:
    """The graph of the network, whose batch may have any size. Raises NotWritten where torch cannot follow it."""
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch's own code will have to change; the result is compared
            return torch.export.export(outgoing.network, (outgoing.example(2),), dynamic_shapes=({0: batch},))
    except RuntimeError as error:
        raise NotWritten(
            f"torch.export cannot follow {outgoing.about['network']}: {plain_name(error, 300)}\n"
            "its weights go out by --to safetensors"
        ) from error


def _write(outgoing: Outgoing, path: Path) -> None:
    torch.export.save(traced(outgoing), path, extra_files={ABOUT: json.dumps(outgoing.about)})


def _read(outgoing: Outgoing, path: Path) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a buffer of torch's own that cannot be written to
        return torch.export.load(path).module()


def _usage(outgoing: Outgoing, path: Path) -> str:
    return f'model = torch.export.load("{path}").module()'


FORMAT = Format(
    name="torch.export",
    title="the network as a program, for torch.export.load; needs nothing but torch",
    endings=(".pt2",),
    write=_write,
    read=_read,
    usage=_usage,
    parts=tuple(OUTPUTS),
    takes_pixels=True,
)
