"""Features of a data set that are made once: kept beside the encoder, and made anew when it or the data change."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfsup.config.settings import placed
from selfsup.data.collected import Collected
from selfsup.data.identity import identity
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.newest import newest_encoder
from selfsup.output import message
from selfsup.stages.base import as_read
from selfsup.stages.embed import Part, open_parts, write_features
from selfsup.stages.resumable_file import Done, Partial
from selfsup.stages.search_settings import Kept as Settings
from selfsup.stages.settings import Embed
from selfsup.storage.checkpoint import StorageError
from selfsup.storage.untrusted import require_own_folder
from selfsup.training.accelerator import stage_device

_FEATURES = "features"
_SAVE_EVERY = 8192  # images after which an interrupted command can go on; the same in every call


class Kept(NamedTuple):
    """Features, and what they are of."""

    features: Tensor  # (N, D) float32: mapped from the file, or on the GPU where they fit there
    images: Collected  # all images of the parts; also those that cannot be read
    parts: tuple[str, ...]  # what the parts are called: train, test
    numbers: Tensor  # (N,) int64: which image a row is of
    content: dict[str, Any]  # encoder, data and how they were read: what else is found is not of these
    protocol: dict[str, Any]  # of figures
    folder: Path
    exported: Exported
    device: torch.device

    def name(self, row: int) -> str:
        """Of the image of a row."""
        return self.images.name(int(self.numbers[row]))


def kept_features(path: Path, settings: Settings) -> Kept:
    """Features of all readable images of the data, found or made. An interrupted call is gone on with.

    Args:
        path: a run folder, an encoder.safetensors, or a file of another project's weights.
        settings: with `data.root` set.

    Raises:
        ValueError: no images, several processes, features that are not finite.
        StorageError: they cannot be written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "this command works in one process, and several were started; call it without accelerate launch"
        )
    exported = newest_encoder(path, size=settings.size)
    device = stage_device(settings.device)
    shared = {name: getattr(settings, name) for name in ("data", "batch_size", "workers", "size", "layer", "part")}
    how = Embed(save_every=_SAVE_EVERY, **shared)
    parts = open_parts(how)
    said = {"layer": settings.layer, **exported.protocol, "part": settings.part, **as_read(settings.data)}
    protocol = said | {"data": identity(settings.data.verify, *(part.source for part in parts))}
    folder = _folder(path, settings) / _place(settings, said)
    _make(folder)
    content = protocol | exported.about
    partial = Partial(folder / _FEATURES, content)
    chunks = sum(-(-len(part.source) // _SAVE_EVERY) for part in parts)
    if partial.done.chunks >= chunks and not _fits(partial, parts):
        message(f"{partial.beside} is damaged (it counts other images): starting afresh")
        partial.done = Done()
    if partial.done.chunks < chunks:
        write_features(exported.network(settings.layer).to(device), parts, exported.feed.center(), device, how, partial)
    else:
        message(f"features of {partial.done.rows:,} images are found in {folder}")
    images = Collected([part.source for part in parts])
    readable = torch.ones(len(images), dtype=torch.bool)
    for begin, part in zip([0, *images.ends], parts, strict=False):
        readable[[begin + number for number in partial.done.unreadable.get(part.name, {})]] = False
    left_out = (~readable).nonzero()[:, 0].tolist()
    if left_out:
        message(f"{len(left_out)} unreadable images are left out, such as {images.name(left_out[0])}")
    protocol |= {"images": partial.done.rows, "unreadable_images": len(left_out)}
    features = _on_device(torch.from_numpy(partial.features()), device)
    names = tuple(part.name for part in parts)
    return Kept(features, images, names, readable.nonzero()[:, 0], content, protocol, folder, exported, device)


def _fits(partial: Partial, parts: list[Part]) -> bool:
    """Whether finished features have a row for each image that is not said to be unreadable."""
    unreadable = partial.done.unreadable
    known = all(number in range(len(part.source)) for part in parts for number in unreadable.get(part.name, {}))
    left_out = sum(len(unreadable.get(part.name, {})) for part in parts)
    return known and partial.done.rows == sum(len(part.source) for part in parts) - left_out


def _folder(path: Path, settings: Settings) -> Path:
    if settings.folder:
        return Path(settings.folder)
    beside = path / "index" if path.is_dir() else path.with_name(f"{path.name}.index")
    require_own_folder(beside)
    return beside


def _place(settings: Settings, said: dict[str, Any]) -> str:
    """The folder's name: by where the data lie, and by all that other features of them could differ in."""
    data = placed(settings.data)
    of = [data.roots, data.test_root, data.labels, data.limit, said]
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"features cannot be kept in {folder}: {error.strerror}; name a folder that can be written by --folder"
        ) from error
    require_own_folder(folder)


def _on_device(features: Tensor, device: torch.device) -> Tensor:
    """On the GPU where they fill less than half of what is free there."""
    if device.type == "cuda" and features.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
        return features.to(device)
    return features
