"""`selfsup import`: weights of another project become an encoder of ours, with its head and what it wants to be fed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfsup.convert.options import Options
from selfsup.convert.table import table
from selfsup.evaluation.encoder import Exported, load_encoder, save_encoder
from selfsup.evaluation.foreign import foreign_encoder, is_ours
from selfsup.evaluation.sized import resampled_encoder
from selfsup.models.heads import HeadConfig
from selfsup.output import message
from selfsup.stages.base import Command, examples_and
from selfsup.storage.untrusted import plain_name, require_own_folder

_TOLD = ("layout", "network", "source", "source_sha256", "left_out", "resampled")  # of what made it
EXAMPLES = """examples:
  selfsup import moco_v2_800ep_pretrain.pth.tar --out weights/moco_v2
  selfsup import r50_1x_sk1/model.ckpt-250228 --out weights/simclr_v2
  selfsup import dino/ --out weights/dino --size 224       (a folder with model.safetensors and config.json)
  selfsup import runs/vit --out weights/vit_96 --size 96   (a transformer of one size, trained here, for another size)
  selfsup knn weights/moco_v2 --data.root PATH             (and every other command that takes a RUN)
"""


@dataclass(frozen=True, kw_only=True)
class Import(Options):
    """What `selfsup import` is told of a file."""

    out: str = ""  # the folder that the encoder is written to


def run_import(path: Path, settings: Import) -> dict[str, Any]:
    """Read weights of another project and write encoder.safetensors, encoder.json and head.safetensors.

    Of a transformer that was trained here: one for images of another size, whose positions are resampled.

    Args:
        path: of the file, see `selfsup.convert.reading.read`.
        settings: with `out`, a folder; what is there already must be the same encoder.

    Returns:
        the figures: where it lies, the layout, the digest, and how many tensors were left out as what.

    Raises:
        ValueError: see `selfsup.convert.conversion.convert`; or the folder holds something else.
    """
    if not settings.out:
        raise ValueError("--out is missing; give the folder that the encoder is to be written to")
    exported = _resized(path, settings) if is_ours(path) else foreign_encoder(path, settings)
    folder = Path(settings.out)
    require_own_folder(folder)
    target = folder / "encoder.safetensors"
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give --out the name of a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not target.exists():
            raise ValueError(f"folder {folder} is not empty and holds no encoder; give another --out")
        if load_encoder(folder).made_by != exported.made_by:
            raise ValueError(f"folder {folder} holds another encoder; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    head = exported.head
    config = getattr(head, "config", None)
    beside = (config, head.state_dict()) if head is not None and isinstance(config, HeadConfig) else None
    digest = save_encoder(
        target, exported.encoder.state_dict(), exported.config, exported.feed, exported.made_by, beside
    )
    message(f"{target} is an encoder for every command: selfsup knn {folder} --data.root PATH")
    return {
        "out": str(folder),
        "encoder_sha256": digest,
        "head": beside is not None,
        "feature_dim": exported.encoder.feature_dim,
        **{name: exported.made_by[name] for name in _TOLD if name in exported.made_by},
    }


def _resized(path: Path, settings: Import) -> Exported:
    """An encoder that was trained here, for images of another size."""
    if settings.size is None or replace(settings, size=None, out="") != Import():
        raise ValueError(
            f"{plain_name(path)} is an encoder already: every command takes it\n"
            "a transformer that is built for one size becomes one for another by --size N, the only flag beside --out"
        )
    return resampled_encoder(load_encoder(path), settings.size, path)


COMMAND = Command(
    usage="selfsup import FILE --out DIR [--layout NAME] [--network NAME] [--size N] [--recipe FILE.py] [flags]",
    word="FILE",
    what="the file of weights",
    settings=Import,
    run=run_import,
    explained=lambda: examples_and(EXAMPLES, "layouts", table()),
)
