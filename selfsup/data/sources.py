"""From what a user names to a data set: `open_source`."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from selfsup import randomness
from selfsup.data.arrays import holds_images, images_from_array, open_npy, open_npz
from selfsup.data.base import ArraySource, NoTestPart, NoTrainingPart, Source, TooManyUnreadable, UnreadableImage
from selfsup.data.channels import Channels, channel_count
from selfsup.data.cifar import read_cifar
from selfsup.data.class_numbers import renumbered
from selfsup.data.columns import NO_COLUMNS, Columns
from selfsup.data.encoded import Decoded
from selfsup.data.files import FileSource, ZipSource
from selfsup.data.formats import FORMATS
from selfsup.data.found import by_suffix, named
from selfsup.data.hub import hub_shards
from selfsup.data.label_file import LabelFile
from selfsup.data.layout import Arranged, Split, arrange, folders_wanted
from selfsup.data.levels import Levels, parse_levels
from selfsup.data.listing import Listing, list_archive, list_folder
from selfsup.data.pack_manifest import holds_pack
from selfsup.data.packed import open_pack
from selfsup.data.remote import fetched, is_remote
from selfsup.data.shapes import shapes
from selfsup.data.shards import SHARDS, Shards, alone, expand, is_pattern, part_of, shards_among
from selfsup.data.tables import TableSource, open_tables
from selfsup.data.tar import TarSource, open_tars
from selfsup.data.torchvision_sets import open_torchvision
from selfsup.data.truncated import CutShort
from selfsup.randomness import Stream
from selfsup.storage.untrusted import plain_name, require_file

__all__ = ["ArraySource", "FileSource", "Source", "TooManyUnreadable", "UnreadableImage", "ZipSource", "open_source"]


class _Reading(NamedTuple):
    """How files are read."""

    levels: Levels
    table: Path | None = None  # of labels
    channels: Channels = "rgb"
    columns: Columns = NO_COLUMNS

    def arranged(self, listing: Listing, split: Split, where: Path) -> Arranged:
        """The images of a part, labelled by their folders or by the table."""
        if self.table is None:
            return arrange(listing, split, str(where))
        own = os.path.relpath(os.path.abspath(self.table), os.path.abspath(where)).replace(os.sep, "/")
        listing.others = [name for name in listing.others if name != own]  # it is not left out
        labels = LabelFile(self.table, self.columns, listing.images, where)
        if labels.divides:
            return labels.arranged(listing, split)
        return arrange(listing, split, str(where), labels.classes)


def open_source(
    root: str,
    split: Split = "train",
    labels: str = "auto",
    limit: int | None = None,
    range: str = "type",
    columns: Columns = NO_COLUMNS,
    truncated: bool = False,
    channels: Channels = "rgb",
) -> Source:
    """Find the data that `root` names.

    In this order: an address (`s3://bucket/a.tar`), whose file is fetched once; the word `shapes` or `shapes:COUNT`, a
    generated data set (write `./shapes` for a folder of that name); `hf:NAME`, a data set of Hugging Face's hub;
    `torchvision:NAME`, one that torchvision fetches; a `.npz`, `.npy`, `.zip`, `.tar`, `.parquet` or `.arrow` file, or
    a pattern of shards (`train-{000..146}.tar`); a folder that `selfsup pack` made, or one with `cifar10.npz`, or with
    exactly one npz file of images; with CIFAR-10 or CIFAR-100 as published; a folder of exactly one zip archive and no
    folder; a folder without images of their own and with `.tar`, `.parquet` or `.arrow` files; else the folder itself.
    What parts and classes a folder or an archive has is told by `layout.arrange`, those of shards by `shards.part_of`.
    What was left out is in `Source.found`.

    Args:
        root: word, file or folder.
        split: which part. Data without a division is all training data.
        labels: "auto" takes an array's labels, and a folder's by its folders; "none" takes none, so that all are -1.
            Any other word names a table of a folder's or an archive's images; see `label_file.LabelFile`.
        limit: at most so many images: the first of a fixed random order, put back in the order of numbering, so that
            classes stay balanced on average. (The first files by name would be one class.)
        range: what becomes black and white, of files of more than 8 bits a pixel; see `levels.parse_levels`.
        columns: which hold the image and the label, of samples, of tables and of a table of labels.
        truncated: whether image files that are cut short are read as far as they go, instead of as unreadable.
        channels: "rgb", or the number of channels that images have and keep.

    Raises:
        ValueError: nothing there, no image, no such part, a file of the wrong kind, or a table that does not fit.
    """
    table = None if labels in ("auto", "none") else Path(labels).expanduser()
    reading = _Reading(parse_levels(range), table, channels, columns)
    if limit is not None and limit < 1:
        raise ValueError(f"the limit is {limit}; wanted at least 1, or none for all images")
    if not root:
        raise ValueError(
            "no images are named: give --data.root a folder, a file of images (.zip, .tar, .npz, .npy, .parquet), or "
            "the word shapes"
        )
    source = _open_named(root, split, reading)
    if not len(source):
        raise ValueError(f"{plain_name(root)} holds no image")
    _check_columns(source, root, reading)
    _keep_channels(source, root, channels)
    if truncated and isinstance(source, Decoded):
        source.cut_short = CutShort(len(source))
    if labels == "none":
        source = unlabelled(source)
    return source if limit is None else subset(source, limit)


def _open_named(root: str, split: Split, reading: _Reading) -> Source:
    if is_remote(root):
        return _open_path(fetched(root), split, reading)
    word, _, count = root.partition(":")
    if word == "shapes":
        return _open_shapes(root, count, split)
    if word == "torchvision":
        return open_torchvision(root, split, reading.channels)
    if word == "hf":
        return _numbered_as_trained(
            split, lambda part: open_tables(hub_shards(root, part), part, reading.columns, reading.levels)
        )
    return _open_path(Path(root).expanduser(), split, reading)


def _keep_channels(source: Source, root: str, channels: Channels) -> None:
    """Have files read with these channels. Raises ValueError for what has others."""
    if isinstance(source, Decoded):
        source.kept = channels
    elif source.channels != channel_count(channels):
        raise ValueError(f"{root} has {source.channels} channels and data.channels is {channels}; leave it out")


def _check_columns(source: Source, root: str, reading: _Reading) -> None:
    """Raise ValueError where a table of labels, or names of columns, do not go with this kind of data."""
    if reading.table and not isinstance(source, FileSource | ZipSource):
        raise ValueError(
            f"data.labels is {plain_name(reading.table)}, a table of image files, and {plain_name(root)} holds none; "
            "put the labels of arrays, samples and rows beside them, or give --data.labels auto"
        )
    samples = isinstance(source, TarSource | TableSource)
    if not samples and (reading.columns.image or (reading.columns.label and not reading.table)):
        raise ValueError(
            f"data.image_column and data.label_column are for samples in tar archives and for tables, and {root} is "
            "neither; leave them out"
        )


def open_test(root: str, labels: str = "auto", range: str = "type") -> Source | None:
    """The test part, or None where the data have none."""
    try:
        return open_source(root, "test", labels, range=range)
    except NoTestPart:
        return None


def unlabelled(source: Source) -> Source:
    """The same images without labels, because the settings say so."""
    part = source.without_labels()
    part.found = replace(source.found, no_labels="data.labels is none; give --data.labels auto")
    return part


def subset(source: Source, limit: int) -> Source:
    """At most `limit` images: the first of a fixed random order, put back in the order of numbering."""
    if limit >= len(source):
        return source
    return source.select(randomness.permutation(0, Stream.SUBSET, len(source))[:limit].sort().values)


def _open_shapes(root: str, count: str, split: Split) -> Source:
    if root == "shapes":
        return shapes(10_000 if split == "train" else 2_000, split=split)
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(
            f"{root!r} names no data; wanted 'shapes' or 'shapes:COUNT' with a whole number, as shapes:500"
        )
    return shapes(int(count), split=split)


def _open_path(path: Path, split: Split, reading: _Reading) -> Source:
    if not path.exists():
        if is_pattern(path):
            return _open_shards(path.parent, expand(path), split, reading)
        raise ValueError(f"no file or folder {path}; wanted images, or the word 'shapes' for generated ones")
    if path.is_dir():
        return _open_folder(path, split, reading)
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy", ".zip", *SHARDS):
        unpack = ", unpacked to .tar" if ".tar" in path.suffixes or suffix == ".tgz" else ""
        wanted = f"wanted a folder, or a file that ends in .npz, .npy, .zip, {', '.join(SHARDS)}{unpack}"
        raise ValueError(f"{path} is no data set; {wanted}")
    require_file(path)
    if suffix in SHARDS:
        return _opened(alone(path), split, reading)
    if suffix == ".zip":
        return _open_zip(path, split, reading)
    return (open_npz if suffix == ".npz" else open_npy)(path, split, reading.levels, reading.channels)


def _open_shards(root: Path, names: list[str], split: Split, reading: _Reading) -> Source:
    """Shards of one kind."""
    return _numbered_as_trained(split, lambda part: _opened(part_of(root, names, part), part, reading))


def _numbered_as_trained(split: Split, opened: Callable[[Split], Source]) -> Source:
    """A part of the data; the test part has the class numbers of the training part, where there is one."""
    source = opened(split)
    if split == "train" or not source.classes:
        return source
    try:
        return renumbered(source, opened("train").classes)
    except NoTrainingPart:
        return source


def _opened(shards: Shards, split: Split, reading: _Reading) -> Source:
    kinds = sorted({path.suffix.lower() for path in shards.files})
    if len(kinds) > 1 or kinds[0] not in SHARDS:
        raise ValueError(f"{shards.root}: shards are {' and '.join(kinds)}; wanted one kind of {', '.join(SHARDS)}")
    read = open_tars if kinds == [".tar"] else open_tables
    return read(shards, split, reading.columns, reading.levels)


def _open_folder(folder: Path, split: Split, reading: _Reading) -> Source:
    if not os.access(folder, os.R_OK | os.X_OK):  # before a file is looked for in it that may not be there
        raise ValueError(f"the folder {folder} may not be read; change its permissions, or name other data")
    if holds_pack(folder):
        return open_pack(folder, split, reading.columns, reading.levels)
    if (folder / "cifar10.npz").is_file():
        return _alone(open_npz(folder / "cifar10.npz", split, reading.levels, reading.channels), folder, "cifar10.npz")
    archives = sorted(path for path in folder.glob("*.npz") if path.is_file())
    if len(archives) == 1 and holds_images(archives[0]):
        return _alone(open_npz(archives[0], split, reading.levels, reading.channels), folder, archives[0].name)
    if (arrays := read_cifar(folder)) is not None:
        images = images_from_array(arrays[f"x_{split}"], str(folder), channels=reading.channels)
        names = tuple(str(name) for name in arrays["classes"])
        return ArraySource(images, torch.from_numpy(arrays[f"y_{split}"]), names, str(folder))
    visible = {child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")}
    archives = sorted(path for path in folder.glob("*.zip") if path.is_file())
    if not visible and len(archives) == 1:
        return _alone(_open_zip(archives[0], split, reading), folder, archives[0].name)
    return _open_files(folder, split, reading)


def _alone(source: Source, folder: Path, taken: str) -> Source:
    """Of a folder one file is the data: say what lies beside it."""
    beside = sorted(child.name for child in folder.iterdir() if child.name != taken)
    if beside:
        told = f"{named(beside, 'name')} beside {plain_name(taken)}"
        source.found = replace(source.found, left_out=(*source.found.left_out, told))
    return source


def _open_files(folder: Path, split: Split, reading: _Reading) -> Source:
    if reading.table is None:
        listing = list_folder(folder, lambda folders: folders_wanted(folders, split, str(folder)))
    else:  # it names images of every part
        listing = list_folder(folder)
    if not listing.images and (names := shards_among(folder, listing.others)):
        return _open_shards(folder, names, split, reading)
    part = reading.arranged(listing, split, folder)
    root = folder / os.fsdecode(part.prefix.encode("utf-8", "surrogateescape"))
    _require_images(part.paths, listing, root)
    source = FileSource(root, part.paths, part.labels, part.classes, reading.levels)
    source.found = part.found
    return source


def _open_zip(path: Path, split: Split, reading: _Reading) -> ZipSource:
    listing = list_archive(path)
    if not listing.images:
        raise ValueError(f"{path} holds no image; wanted {', '.join(FORMATS)} files{_instead(listing)}")
    part = reading.arranged(listing, split, path)
    _require_images(part.paths, listing, path / part.prefix)
    source = ZipSource(path, part.prefix, part.paths, part.labels, part.classes, reading.levels)
    source.found = part.found
    return source


def _require_images(paths: list[str], listing: Listing, where: Path) -> None:
    if not paths:
        hint = "; for the packs in it run python -m tools.prepare_data first" if any(where.glob("*.zip")) else ""
        raise ValueError(f"no image in {where}; wanted {', '.join(FORMATS)} files{_instead(listing)}{hint}")


def _instead(listing: Listing) -> str:
    return f"; found {by_suffix(listing.others)}" if listing.others else ""
