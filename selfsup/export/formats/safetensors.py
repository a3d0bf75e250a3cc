"""The tensors alone, by the names they have here, in one file that says what they are; every command reads it."""

from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from selfsup.evaluation.single_file import described_encoder, metadata, require_described
from selfsup.export.format import Format
from selfsup.export.outgoing import OUTPUTS, Outgoing, plain


def _write(outgoing: Outgoing, path: Path) -> None:
    tensors = plain(outgoing.encoder.state_dict())
    if outgoing.head is not None:
        tensors = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
        tensors |= {f"head.{name}": tensor for name, tensor in plain(outgoing.head.state_dict()).items()}
    safetensors.torch.save_file(tensors, path, metadata(outgoing.exported, outgoing.head is not None, outgoing.about))


def _read(outgoing: Outgoing, path: Path) -> Callable[[Tensor], Tensor]:
    found = described_encoder(path, require_described(path))
    return found.encoder if found.head is None else torch.nn.Sequential(found.encoder, found.head)


def _usage(outgoing: Outgoing, path: Path) -> str:
    return f'tensors = safetensors.torch.load_file("{path}"); or: encoder = selfsup.load("{path}")'


FORMAT = Format(
    name="safetensors",
    title="the tensors in one file with what is to be known of them; any program reads it, and every command here",
    endings=(".safetensors",),
    write=_write,
    read=_read,
    usage=_usage,
    parts=tuple(OUTPUTS),
)
