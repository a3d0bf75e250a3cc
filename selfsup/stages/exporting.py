"""`selfsup export`: an encoder goes out in a format of others, and is compared with what was written."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsup.data.base import ArraySource
from selfsup.data.decode import decode
from selfsup.data.levels import parse_levels
from selfsup.data.shapes import shapes
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.newest import newest_encoder
from selfsup.export.check import TOLERANCE, Compared, compared
from selfsup.export.format import Format
from selfsup.export.outgoing import Outgoing, Part, outgoing
from selfsup.export.table import format_for, table
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Command, examples_and, read
from selfsup.storage.checkpoint import StorageError
from selfsup.storage.untrusted import plain_name
from selfsup.storage.whole_file import make_folder

EXAMPLES = """examples:
  selfsup export runs/my_photos --to torchvision --out my_photos.pth
  selfsup export runs/my_photos --to huggingface --out my_photos_hf      (a folder, for transformers)
  selfsup export runs/my_photos/finetune_1pct --to onnx --part classifier --preprocessing --out classifier.onnx
  selfsup export runs/my_photos --to safetensors --part head --out my_photos.safetensors
"""
_SHAPES = 8  # generated images that a written file is compared on


@dataclass(frozen=True, kw_only=True)
class Export:
    """What `selfsup export` is told."""

    to: str = ""  # the format: torchvision, timm, huggingface, torch.export, onnx, safetensors
    out: str = ""  # the file or folder that is written; nothing may be there yet
    part: Part = "backbone"  # head: backbone and projection head; classifier: a fine-tuned backbone and its classifier
    # Scaling to [0, 1] and normalisation go into the network, which then takes uint8 pixels; the resize stays outside.
    preprocessing: bool = False
    images: tuple[str, ...] = ()  # files that the written network is compared on; none: generated ones


def run_export(path: Path, settings: Export) -> dict[str, Any]:
    """Write a part of an encoder in a format of others, read it again and compare.

    Args:
        path: a run folder, also of a run that is not finished, an encoder.safetensors, or another project's file.
        settings: with `to` and `out`.

    Returns:
        the figures: where it lies, the greatest difference and the greatest value, over how many images.

    Raises:
        ValueError: there is no such format or part, the format has no such network, a package is missing, something
            lies at `out`, or what was written computes something else; then nothing is left of it.
    """
    if not settings.out:
        raise ValueError("--out is missing; give the name of the file or folder that is to be written")
    out = Path(settings.out)
    format = format_for(settings.to, out, settings.part, settings.preprocessing)
    if os.path.lexists(out):
        raise ValueError(f"there is something at {plain_name(out)} already; give another --out, or remove it")
    exported = newest_encoder(path)
    leaving = outgoing(exported, settings.part, settings.preprocessing, _results(path, exported))
    found = _written(format, leaving, out, _pixels(exported, settings.images))
    message(f"{out} computes what the encoder does: {_said(found)}")
    message(format.usage(leaving, out))
    return {
        "out": str(out),
        "format": format.name,
        "part": settings.part,
        "preprocessing": settings.preprocessing,
        "difference": found.difference,
        "greatest": found.greatest,
        "images": found.images,
        **exported.about,
    }


def _written(format: Format, leaving: Outgoing, out: Path, pixels: Tensor) -> Compared:
    """Write beside `out`, compare, and only then give it its name."""
    make_folder(out)
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}; give another --out") from error
    try:
        target = aside / out.name
        format.write(leaving, target)
        try:
            found = compared(leaving, format.read(leaving, target), pixels)
        except RuntimeError as error:
            raise ValueError(
                f"what was written in the format {format.name} cannot be read again, and was removed: "
                f"{plain_name(error, 300)}"
            ) from error
        if not found.equal:
            raise ValueError(
                f"what was written in the format {format.name} computes something else than the encoder, and was "
                f"removed: {_said(found)}; at most {TOLERANCE:g} is allowed, of the greatest value where that is above "
                "1\ngive another --to"
            )
        _sync(target)
        os.rename(target, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return found


def _said(found: Compared) -> str:
    return (
        f"greatest difference {found.difference:.1e}, greatest value {found.greatest:.3g}, over {found.images} images"
    )


def _sync(path: Path) -> None:
    """Have the disk hold the files before they get their name."""
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())


def _pixels(exported: Exported, images: tuple[str, ...]) -> Tensor:
    """(N, C, S, T) uint8 images as the encoder is fed with, but not normalised."""
    if images:
        levels, channels = parse_levels(exported.feed.range), exported.feed.channels
        pictures = [decode(Path(name), name, levels=levels, channels=channels)[0] for name in images]
    else:
        drawn = shapes(_SHAPES, 64).images
        source = ArraySource(drawn[:, torch.arange(len(exported.feed.mean)) % drawn.shape[1]])
        pictures = [source.load(number) for number in range(len(source))]
    return exported.feed.center().crop(pictures).cpu().to(torch.uint8)


def _results(path: Path, exported: Exported) -> tuple[dict[str, Any], ...]:
    """The evaluations of this encoder that its run folder holds."""
    folder = RunFolder(path)
    if not (path.is_dir() and (path / "results").is_dir()):
        return ()
    found = [result for file in sorted((path / "results").glob("*.json")) for result in read(folder, file.stem)]
    return tuple(
        {"stage": result.stage, "figures": result.figures, "protocol": result.protocol}
        for result in found
        if result.about.get("encoder_sha256") == exported.sha256
    )


COMMAND = Command(
    usage="selfsup export RUN --to FORMAT --out PATH [--part backbone|head|classifier] [--recipe FILE.py] [flags]",
    word="RUN",
    what="the run folder or encoder file",
    settings=Export,
    run=run_export,
    explained=lambda: examples_and(EXAMPLES, "formats", table()),
)
