"""Weights of other projects as encoders: a file of any layout of `selfsup.convert` stands where a run does."""

import hashlib
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selfsup import distributed
from selfsup.convert.conversion import Converted, convert
from selfsup.convert.layout import Refused
from selfsup.convert.options import Options
from selfsup.convert.reading import Contents, read, weights_in
from selfsup.convert.table import inert
from selfsup.evaluation.encoder import Exported, filled, load_encoder
from selfsup.evaluation.feed import Preprocessing
from selfsup.evaluation.single_file import described_encoder, described_in
from selfsup.output import message
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import plain_name

_OURS = "encoder.safetensors"


def is_ours(path: Path) -> bool:
    """Whether a path means an encoder that was exported: a folder with one, or its file."""
    described = path.suffix == ".safetensors" and path.with_suffix(".json").is_file()
    return (path / _OURS).exists() or path.name == _OURS or described


def is_foreign(path: Path) -> bool:
    """Whether a path means weights of another project, and neither a run folder nor an encoder of ours."""
    if is_ours(path):
        return False
    return not (path / "checkpoints").is_dir() and weights_in(path) is not None


def any_encoder(path: Path, told: bool = True) -> Exported:
    """The encoder of a run folder or an encoder.safetensors that was exported, or of another project's file.

    Args:
        path: of either.
        told: whether to say what was read of another project's file.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    return foreign_encoder(path, Options(), told) if is_foreign(path) else load_encoder(path)


def foreign_encoder(path: Path, options: Options, told: bool = True) -> Exported:
    """The encoder in a file of another project, in evaluation mode.

    Args:
        path: of the file, see `selfsup.convert.reading.read`.
        options: what is said of it.
        told: whether to say what was read, and what was left out.

    Raises:
        ValueError: see `selfsup.convert.conversion.convert`.
    """
    weights = weights_in(path)
    if weights is not None and (about := described_in(weights)) is not None:
        return _described(weights, about, options, told)
    contents = read(path, inert())
    found = convert(contents, options)
    if told and distributed.rank() == 0 and os.environ.get("RANK", "0") == "0":
        for line in account(found, contents):
            message(line)
    encoder = filled(found.config.build, found.config, found.tensors, contents.path)
    head: nn.Module | None = None
    if found.head is not None:
        config, tensors = found.head
        head = filled(lambda: config.build(encoder.feature_dim), config, tensors, contents.path).eval()
    return Exported(
        encoder=encoder.eval().to(memory_format=torch.channels_last),
        config=found.config,
        head=head,
        feed=Preprocessing(**asdict(found.preprocessing)),
        sha256=hashlib.sha256(checkpoint.serialize(found.tensors)).hexdigest(),
        made_by=made_by(found, contents),
    )


def _described(path: Path, about: dict[str, Any], options: Options, told: bool) -> Exported:
    """The encoder in a file that says what it is. Raises Refused where it is told otherwise."""
    given = [f.name for f in fields(Options) if f.name != "head" and getattr(options, f.name) != f.default]
    if given:
        raise Refused(f"{plain_name(path)} says itself what it holds; leave --{given[0]} out")
    exported = described_encoder(path, about, options.head == "keep")
    if told and distributed.rank() == 0 and os.environ.get("RANK", "0") == "0":
        head = "" if exported.head is None else ", with its head"
        message(f"{plain_name(path)} says itself what it holds: {exported.config.title}{head}")
    return exported


def made_by(found: Converted, contents: Contents) -> dict[str, Any]:
    """What is recorded of where imported weights are from."""
    return {
        "method": "import",
        "layout": found.layout.name,
        "network": found.which,
        "source": plain_name(contents.path.name),
        "source_sha256": contents.sha256,
        "left_out": found.left_out,
        "notes": found.notes,
    }


def account(found: Converted, contents: Contents) -> list[str]:
    """What a person should know of an import, line by line."""
    which = f", its {found.which} network" if found.which else ""
    head = f", with its head ({_head(found)})" if found.head is not None else ""
    lines = [
        f"{plain_name(contents.path)} is of the layout {found.layout.name}{which}: {found.config.title}{head}; "
        f"{len(contents.tensors)} tensors"
    ]
    if found.left_out:
        lines.append("left out: " + ", ".join(f"{what} ({count})" for what, count in found.left_out.items()))
    lines += found.notes
    fed = Preprocessing(**asdict(found.preprocessing))
    lines.append(f"images: mean {fed.mean}, std {fed.std}, {fed.transform}; so says {found.preprocessing_from}")
    return lines


def _head(found: Converted) -> str:
    assert found.head is not None
    shapes = [tensor.shape for tensor in found.head[1].values() if tensor.dim() == 2]
    return " - ".join(str(size) for size in [*(shape[1] for shape in shapes[:1]), *(shape[0] for shape in shapes)]) or (
        "batch norm"
    )
