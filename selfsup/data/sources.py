"""From what a user names to a data set: `open_source`."""

from pathlib import Path
from typing import Literal

import torch

from selfsup import randomness
from selfsup.data.arrays import Split, holds_images, images_from_array, open_npy, open_npz
from selfsup.data.base import ArraySource, NoTestPart, Source, TooManyUnreadable, UnreadableImage
from selfsup.data.cifar import read_cifar
from selfsup.data.files import SUFFIXES, FileSource, ZipSource, folder_labels, list_archive, list_images, split_archive
from selfsup.data.shapes import shapes
from selfsup.randomness import Stream
from selfsup.untrusted import require_file

__all__ = [
    "ArraySource",
    "FileSource",
    "Source",
    "TooManyUnreadable",
    "UnreadableImage",
    "ZipSource",
    "open_source",
]

Labels = Literal["auto", "none"]


def open_source(root: str, split: Split = "train", labels: Labels = "auto", limit: int | None = None) -> Source:
    """Find the data that `root` names.

    In this order: the word `shapes` or `shapes:COUNT`, a generated data set (write `./shapes` for a folder of that
    name); a `.npz`, `.npy` or `.zip` file; a folder with `cifar10.npz`, or with exactly one npz file of images; with
    CIFAR-10 or CIFAR-100 as published; with `train` and `test` or `val` folders; with exactly one zip archive; else
    the folder itself. An archive may hold `train` and `test` or `val` folders, too.

    Args:
        root: word, file or folder.
        split: which part. Data without a division is all training data.
        labels: "auto" takes an array's labels, and a folder's where every image lies exactly one folder deep and there
            are two folders or more; "none" takes none, so that all labels are -1.
        limit: at most so many images: the first of a fixed random order, put back in the order of numbering, so that
            classes stay balanced on average. (The first files by name would be one class.)

    Raises:
        ValueError: nothing there, no image, no such part, a file of the wrong kind.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"the limit is {limit}; wanted at least 1, or none for all images")
    if not root:
        raise ValueError(
            "no images are named: give --data.root a folder, a .zip, .npz or .npy file, or the word shapes"
        )
    word, _, count = root.partition(":")
    source = _open_shapes(root, count, split) if word == "shapes" else _open_path(Path(root).expanduser(), split)
    if labels == "none":
        source.labels, source.classes = torch.full((len(source),), -1), ()
    return source if limit is None else subset(source, limit)


def open_test(root: str, labels: Labels = "auto") -> Source | None:
    """The test part, or None where the data have none."""
    try:
        return open_source(root, "test", labels)
    except NoTestPart:
        return None


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


def _open_path(path: Path, split: Split) -> Source:
    if path.is_dir():
        return _open_folder(path, split)
    if not path.exists():
        raise ValueError(f"no file or folder {path}; wanted images, or the word 'shapes' for generated ones")
    openers = {".npz": open_npz, ".npy": open_npy, ".zip": _open_zip}
    if path.suffix.lower() not in openers:
        raise ValueError(f"{path} is no data set; wanted a folder, or a file that ends in {', '.join(openers)}")
    require_file(path)
    return openers[path.suffix.lower()](path, split)


def _open_folder(folder: Path, split: Split) -> Source:
    if (folder / "cifar10.npz").is_file():
        return open_npz(folder / "cifar10.npz", split)
    archives = sorted(path for path in folder.glob("*.npz") if path.is_file())
    if len(archives) == 1 and holds_images(archives[0]):
        return open_npz(archives[0], split)
    if (arrays := read_cifar(folder)) is not None:
        return ArraySource(
            images_from_array(arrays[f"x_{split}"], str(folder)),
            torch.from_numpy(arrays[f"y_{split}"]),
            tuple(str(name) for name in arrays["classes"]),
            str(folder),
        )
    visible = {child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")}
    if (part := _part(visible, split, folder)) is not None:
        known = folder_labels(list_images(folder / "train"))[1] if split == "test" else ()
        return _open_files(folder / part, known)
    archives = sorted(path for path in folder.glob("*.zip") if path.is_file())
    if not visible and len(archives) == 1:
        return _open_zip(archives[0], split)
    if split == "test":
        raise NoTestPart(_no_test_part(folder))
    return _open_files(folder)


def _part(folders: set[str], split: Split, where: Path) -> str | None:
    """The folder of the wanted part; None where `folders` are no parts (a class may well be called `train`)."""
    tests = [name for name in ("test", "val") if name in folders]
    if "train" not in folders or not (tests or folders == {"train"}):
        return None
    if split == "train":
        return "train"
    if not tests:
        raise NoTestPart(_no_test_part(where))
    return tests[0]


def _open_files(folder: Path, known: tuple[str, ...] = ()) -> Source:
    paths = list_images(folder)
    if not paths:
        hint = "; for the packs in it run tools/prepare_data.py first" if any(folder.glob("*.zip")) else ""
        raise ValueError(f"no image in {folder}; wanted files named {', '.join(sorted(SUFFIXES))}{hint}")
    return FileSource(folder, paths, *folder_labels(paths, known))


def _open_zip(path: Path, split: Split) -> Source:
    prefix, rest = split_archive(list_archive(path))
    part = _part({name.partition("/")[0] for name in rest if "/" in name}, split, path)
    if part is None and split == "test" and prefix.rstrip("/").rpartition("/")[2] not in ("test", "val"):
        raise NoTestPart(_no_test_part(path))
    known: tuple[str, ...] = ()
    if part is not None:
        known = folder_labels(_below("train/", rest))[1] if split == "test" else ()
        prefix, rest = f"{prefix}{part}/", _below(f"{part}/", rest)
    return ZipSource(path, prefix, rest, *folder_labels(rest, known))


def _below(folder: str, names: list[str]) -> list[str]:
    return [name.removeprefix(folder) for name in names if name.startswith(folder)]


def _no_test_part(path: Path) -> str:
    return f"{path} has no test part; wanted a folder 'test' or 'val' beside 'train', or name other data to evaluate on"
