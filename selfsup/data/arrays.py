"""Images in `.npz` and `.npy` files. Nothing is ever unpickled."""

import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfsup.data.base import ArraySource, NoTestPart
from selfsup.data.channels import Channels
from selfsup.data.deep_arrays import Ends, deep_array, told, with_eight_bits
from selfsup.data.found import Found, named
from selfsup.data.free_memory import free_memory
from selfsup.data.layout import Split
from selfsup.data.levels import FULL, Levels
from selfsup.storage.untrusted import create

_NAMES: dict[Split, tuple[tuple[str, str], ...]] = {  # of images and of labels; of several the first that there are
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("val_images", "val_labels")),
}


class Read(NamedTuple):
    """Images of an array, and how they were read."""

    images: Tensor  # (N, C, H, W) uint8
    ends: Ends | None = None  # of more than 8 bits a pixel
    told: tuple[str, ...] = ()


def read_images(
    array: np.ndarray, origin: str, levels: Levels, count: int | None = None, channels: Channels = "rgb"
) -> Read:
    """An array of images of any numbers: those that are not uint8 become it by `levels`.

    Raises:
        ValueError: as `images_from_array` and `with_eight_bits`.
    """
    deep = deep_array(array)
    if deep is None or array.ndim not in (3, 4) or 0 in array.shape:
        images = images_from_array(array, origin, count, channels)
        return Read(images, told=_told(images, channels))
    flat, ends = with_eight_bits(array, deep, levels, origin)
    images = images_from_array(flat, origin, count, channels)
    return Read(images, ends, (told(array, deep, levels), *_told(images, channels)))


def _told(images: Tensor, channels: Channels) -> tuple[str, ...]:
    """What became of the channels."""
    if channels != "rgb":
        return (f"{channels} channel{'' if channels == 1 else 's'} kept",)
    repeated = images.stride(1) == 0
    return ("one channel, repeated to three (--data.channels 1 keeps one)",) if repeated else ()


def images_from_array(array: np.ndarray, origin: str, count: int | None = None, channels: Channels = "rgb") -> Tensor:
    """An array of images as (N, C, H, W) uint8.

    Args:
        array: (N, H, W, 3), (N, 3, H, W), (N, H, W), (N, H, W, 1) or (N, 1, H, W) uint8. Gray is repeated to three
            channels, as a view that takes no memory.
        origin: for the message.
        count: number of the labels, where there are any.
        channels: "rgb" as above; or C, of (N, H, W, C), (N, C, H, W) or, for 1, (N, H, W): these are kept.

    Raises:
        ValueError: another type or shape, one that can be read in two ways, or no image.
    """
    if array.dtype != np.uint8:
        raise ValueError(
            f"{origin} is {array.dtype}; wanted numbers: uint8 in 0..255, or others with --data.range LOW:HIGH"
        )
    wanted = (1, 3) if channels == "rgb" else (channels,)
    if reading := _second_reading(array.shape, count, wanted):
        raise ValueError(f"{origin} has shape {array.shape}, which can be read in two ways: {reading}")
    shape = array.shape
    if array.ndim == 3 and 1 in wanted:
        array = array[..., None]
    if array.ndim == 4 and array.shape[-1] in wanted:
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in wanted or 0 in array.shape:
        raise ValueError(f"{origin} has shape {shape}; {_wanted(shape, channels)}")
    images = torch.from_numpy(np.ascontiguousarray(array))
    return images.expand(-1, 3, -1, -1) if channels == "rgb" else images


def _wanted(shape: tuple[int, ...], channels: Channels) -> str:
    """Which shapes would do, and which setting for this one."""
    if channels != "rgb":
        gray = " or (N, H, W)" if channels == 1 else ""
        shapes = f"(N, H, W, {channels}), (N, {channels}, H, W){gray}"
        return f"data.channels is {channels}, so wanted {shapes}, with at least one image"
    other = (
        f"; --data.channels {min(shape[1], shape[3])} keeps other channels" if len(shape) == 4 and all(shape) else ""
    )
    return f"wanted (N, H, W, 3), (N, 3, H, W) or (N, H, W), with at least one image{other}"


def _second_reading(shape: tuple[int, ...], count: int | None, wanted: tuple[int, ...]) -> str:
    """Two ways to read an array of this shape, and what to do; "" where there is one."""
    if len(shape) == 4 and shape[1] in wanted and shape[3] in wanted:
        images, rows, columns, last = shape
        sides = " or ".join(map(str, wanted))
        return (
            f"{images} images of {rows} x {columns} pixels and {last} channel(s), or of {columns} x {last} pixels with "
            f"{rows} channel(s) first; pad or resize the images, so that no side is {sides} pixels"
        )
    gray = 1 in wanted and len(shape) == 3 and count != shape[0]
    if gray and (shape[2] == 1 or (3 in wanted and 3 in (shape[0], shape[2]))):
        first, second, third = shape
        one = f"{second} x {third} pixels, channels first" if first == 3 else f"{first} x {second} pixels"
        return (
            f"{first} gray images of {second} x {third} pixels, or one image of {one}; save it as "
            f"({first}, {second}, {third}, 1), or as one image with a first dimension of 1"
        )
    return ""


def open_npz(path: Path, split: Split, levels: Levels = FULL, channels: Channels = "rgb") -> ArraySource:
    """The images `x_train` or `x_test` with labels `y_train`, `y_test`; or `images` with `labels`, for training.

    Or, as MedMNIST names them, `train_images` with `train_labels`, and so `test` or, where that is missing, `val`.

    Labels are integers, (N,) or (N, 1), -1 where an image has none, and may be absent. An array `classes` of strings
    names the classes.

    Raises:
        ValueError: not an npz file, no such arrays, a wrong shape or type.
    """
    with _reading(path), open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
        images, labels = _names(path, file, split)
        _check_room(path, file.zip, [images, labels, "classes"])
        names = tuple(str(name) for name in file["classes"]) if "classes" in file else ()
        numbers = file.get(labels)
        count = None if numbers is None else next(iter(numbers.shape), 0)
        read = read_images(file[images], f"{path}[{images}]", levels, count, channels)
        given = None if numbers is None else _labels(numbers, f"{path}[{labels}]")
        source = ArraySource(read.images, given, names if given is not None else (), str(path))
        source.ends = read.ends
        usual = {name for pairs in _NAMES.values() for pair in pairs for name in pair if not name.startswith("val_")}
        others = sorted(set(file) - (usual - {"images", "labels"}) - {"classes", images, labels})
        source.found = Found(
            read_as=(*([f"the test part is {images}"] if images == "val_images" else []), *read.told),
            left_out=(f"{named(others, 'array')} of another name",) if others else (),
            no_labels=f"add the array {labels} to {path}, with a number from 0 for each image",
        )
        return source


def _names(path: Path, file: Mapping[str, np.ndarray], split: Split) -> tuple[str, str]:
    """Of the arrays of images and of labels."""
    for pair in _NAMES[split]:
        if pair[0] in file:
            return pair
    if split == "test" and any(images in file for images, _ in _NAMES["train"]):
        raise NoTestPart(f"{path} has no test part; add x_test and y_test to it")
    raise ValueError(
        f"{path} holds {', '.join(sorted(file)) or 'nothing'}; "
        "wanted x_train, y_train, x_test, y_test, or train_images, train_labels, ..., or images and labels"
    )


def open_npy(path: Path, split: Split, levels: Levels = FULL, channels: Channels = "rgb") -> ArraySource:
    """The images of one array, without labels; it has no test part."""
    if split == "test":
        raise NoTestPart(f"{path} has no test part; save an npz with x_train and x_test")
    with _reading(path):
        # Mapped, because numpy then compares the file's length with its header before anything is allocated.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        read = read_images(np.array(mapped), str(path), levels, channels=channels)
        source = ArraySource(read.images, origin=str(path))
        source.ends = read.ends
        source.found = Found(read_as=read.told, no_labels="a .npy file has none; save an npz with images and labels")
        return source


def _check_room(path: Path, archive: zipfile.ZipFile, names: list[str]) -> None:
    """Raise ValueError where arrays would not fit into memory; no more is read than the archive says of them."""
    needed = sum(entry.file_size for entry in archive.infolist() if entry.filename.removesuffix(".npy") in names)
    if needed > (free := free_memory()):
        raise ValueError(f"{path} unpacks to {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free")


def holds_images(path: Path) -> bool:
    """Whether `path` is an npz file that `open_npz` would take."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return bool({f"{images}.npy" for images, _ in _NAMES["train"]} & set(archive.namelist()))


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """Write an npz file that is either whole or not there."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with create(part) as file:
            (np.savez_compressed if compress else np.savez)(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _labels(array: np.ndarray, origin: str) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{origin} is {array.dtype} of shape {array.shape}; wanted integers of shape (N,)")
    if array.size and array.min() < -1:
        raise ValueError(f"{origin} holds {array.min()}; wanted numbers from 0, or -1 where an image has no label")
    return torch.from_numpy(array.astype(np.int64))


class _reading:
    """Turns what numpy raises on a damaged or hostile file into one ValueError with the file's name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and str(self.path) not in str(error):
            no_numpy = "pickled" in str(error)  # which numpy says of any bytes it does not know
            told = "no file of numpy's, or one of Python objects, which are never loaded" if no_numpy else error
            raise ValueError(f"{self.path} is not a readable array file: {told}") from error
