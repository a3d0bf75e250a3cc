"""`selfsup pack`: images are decoded once, and written so that training reads them at the speed of the disk."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL

import selfsup
from selfsup.data.base import ArraySource, Source
from selfsup.data.identity import content_of
from selfsup.data.layout import Split
from selfsup.data.opening import open_part, open_test_part, tell_cut_short
from selfsup.data.pack_manifest import MANIFEST, Pack, PackPart, holds_pack, read_pack
from selfsup.data.pack_shards import bytes_of_shards, write_shards
from selfsup.data.pack_squares import bytes_of_squares, write_squares
from selfsup.data.packed import check_pack
from selfsup.output import image_progress, message
from selfsup.stages.settings import Packing
from selfsup.storage.sealed import seal
from selfsup.storage.untrusted import create, plain_name
from selfsup.storage.whole_folder import require_disk, require_new, whole_folder

Parts = dict[Split, Source]


def run_pack(out: Path, settings: Packing) -> dict[str, Any]:
    """Write a pack of the training images and, where there are any, of the test images; or check one.

    Args:
        out: the folder; nothing may be there yet, but for a check.
        settings: with `data.root`, or `check`.

    Returns:
        the figures: how many images of which part, and bytes.

    Raises:
        ValueError: several processes, something lies at `out`, or the data are in memory as they are; of a check, what
            is damaged.
        StorageError: the disk has no room, which is looked at before anything is decoded, or refuses.
        TooManyUnreadable: more than one image and more than 1 % cannot be read.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("pack writes from one process, and several were started; call it without accelerate launch")
    if settings.check:
        return _checked(out)
    require_new(out)
    parts = _parts(settings)
    needed = sum(_needed(source, settings) for source in parts.values())
    require_disk(out, needed)
    message(f"{sum(map(len, parts.values())):,} images will take about {needed / 2**30:.2f} GiB in {plain_name(out)}")
    with whole_folder(out) as folder:
        pack = _written(folder, parts, settings)
        with create(folder / MANIFEST) as file:
            file.write(seal(pack.as_json()))
    for source in parts.values():
        tell_cut_short(source.names_cut_short())
    _tell(pack, parts)
    return _figures(out, pack)


def _parts(settings: Packing) -> Parts:
    data = settings.data
    parts: Parts = {"train": open_part(data, "train")}
    if (test := open_test_part(data)) is not None:
        parts["test"] = test
    for source in parts.values():
        if isinstance(source, ArraySource):
            raise ValueError(
                f"{data.place} holds images of one size as they are, which need no pack; name image files, archives or "
                "tables by --data.root"
            )
    place = Path(data.roots[0]).expanduser()
    if len(data.roots) == 1 and any((folder / "index.csv").is_file() for folder in (place, place.parent)):
        message("the index.csv beside the data is not packed: retrieval by it needs the files themselves")
    return parts


def _needed(source: Source, settings: Packing) -> int:
    if settings.jpeg is None:
        return bytes_of_squares(source, settings.side)
    return bytes_of_shards(source, settings.jpeg, settings.quality)


def _written(folder: Path, parts: Parts, settings: Packing) -> Pack:
    done: dict[Split, PackPart] = {}
    with image_progress("pack") as progress:
        task = progress.add_task("pack", total=sum(map(len, parts.values())))

        def advance(images: int) -> None:
            progress.advance(task, images)

        for split, source in parts.items():
            content = str(content_of(source, settings.data.verify, {}).fact["content"])
            if settings.jpeg is None:
                done[split] = write_squares(folder, split, source, content, settings.side, advance)
            else:
                how = settings.jpeg, settings.quality
                done[split] = write_shards(folder, split, source, content, how, advance)
    data = asdict(settings.data)
    kept = ("range", "channels", "truncated", "limit", "holdout", "holdout_seed")
    return Pack(
        form="canvas" if settings.jpeg is None else "jpeg",
        size=settings.side,
        channels=parts["train"].channels,
        made={
            **{name: data[name] for name in kept},
            **({} if settings.jpeg is None else {"quality": settings.quality}),
            "selfsup": selfsup.__version__,
            "pillow": PIL.__version__,
        },
        parts=done,
    )


def _tell(pack: Pack, parts: Parts) -> None:
    """Which images could not be read, the first by name."""
    for split, part in pack.parts.items():
        names = [parts[split].name(row) for row in part.unreadable] or list(part.left_out)
        if names:
            became = "black squares, which are passed over" if part.unreadable else "left out"
            message(
                f"{len(names):,} images of the {split} part cannot be read: {became}; the first: {plain_name(names[0])}"
            )


def _checked(folder: Path) -> dict[str, Any]:
    if not holds_pack(folder):
        raise ValueError(f"{plain_name(folder)} is no pack: it holds no {MANIFEST}; name a folder that pack has made")
    with image_progress("check") as progress:
        task = progress.add_task("check", total=sum(part.images for part in read_pack(folder).parts.values()))
        pack = check_pack(folder, lambda images: progress.advance(task, images))
    message(f"{plain_name(folder)} is as it was written")
    return _figures(folder, pack)


def _figures(out: Path, pack: Pack) -> dict[str, Any]:
    listed = [file.size for part in pack.parts.values() for file in part.files.values()]
    return {
        "out": str(out),
        "form": pack.form,
        "size": pack.size,
        **{f"{split}_images": part.images for split, part in pack.parts.items()},
        "unreadable_images": sum(len(part.unreadable) + len(part.left_out) for part in pack.parts.values()),
        "bytes": sum(listed),
    }
