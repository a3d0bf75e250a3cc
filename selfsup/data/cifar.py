"""CIFAR-10 and CIFAR-100 in the layouts they are handed out in, as arrays."""

import hashlib
import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfsup.storage.untrusted import read_bytes

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of the bytes of x_train, y_train, x_test, y_test in this order, (N, 32, 32, 3) and (N,) uint8, in the official order.
CIFAR10_SHA256 = "80387ddb9a0edf3fc4a964ee3770296169bb26a651050df20035579673099660"

Arrays = dict[str, np.ndarray]


def cifar_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of x_train, y_train, x_test, y_test, to compare with CIFAR10_SHA256."""
    digest = hashlib.sha256()
    for key in ("x_train", "y_train", "x_test", "y_test"):
        digest.update(np.ascontiguousarray(arrays[key]).data)
    return digest.hexdigest()


def read_cifar(folder: Path) -> Arrays | None:
    """CIFAR-10 or CIFAR-100 from `folder` or the usual folder inside it, pickled batches or binary.

    Returns:
        x_train, x_test (N, 32, 32, 3) uint8, y_train, y_test (N,) uint8 and `classes`; None where there is neither.

    Raises:
        ValueError: a file is damaged, or is more than arrays of numbers.
    """
    ten, hundred = [f"data_batch_{number}" for number in range(1, 6)], ["train"]
    for inner, train, test, names in (
        ("cifar-10-batches-py", ten, "test_batch", "batches.meta"),
        ("cifar-100-python", hundred, "test", "meta"),
        ("cifar-10-batches-bin", [f"{name}.bin" for name in ten], "test_batch.bin", "batches.meta.txt"),
        ("cifar-100-binary", ["train.bin"], "test.bin", "fine_label_names.txt"),
    ):
        for place in (folder, folder / inner):
            if (place / train[0]).is_file() and (place / names).is_file():
                return _read_layout(place, train, test, names)
    return None


def _read_layout(folder: Path, train: list[str], test: str, names: str) -> Arrays:
    arrays: Arrays = {}
    for split, files in (("train", train), ("test", [test])):
        parts = [_read_batch(folder / name) for name in files]
        arrays[f"x_{split}"] = np.concatenate([images for images, _ in parts])
        arrays[f"y_{split}"] = np.concatenate([labels for _, labels in parts])
    arrays["classes"] = np.array(_read_names(folder / names))
    return arrays


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = read_bytes(path)
        if path.suffix == ".bin":
            # CIFAR-100 has the coarse label before the fine one.
            lead = 2 if path.name in ("train.bin", "test.bin") else 1
            rows = np.frombuffer(content, np.uint8).reshape(-1, lead + 3072)
            labels, pixels = rows[:, lead - 1], rows[:, lead:]
        else:
            fields = _unpickle(content)
            pixels = fields["data"].array().reshape(-1, 3072)
            labels = np.array(fields["fine_labels" if "fine_labels" in fields else "labels"], dtype=np.uint8)
        if len(labels) != len(pixels) or not len(pixels):
            raise ValueError(f"{len(pixels)} images but {len(labels)} labels")
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"{path} is not a CIFAR batch: {error}\nfetch the data set again") from error
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _read_names(path: Path) -> list[str]:
    try:
        content = read_bytes(path)
        if path.suffix == ".txt":
            return content.decode().split()
        fields = _unpickle(content)
        names = fields["fine_label_names" if "fine_label_names" in fields else "label_names"]
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"{path} holds no names of CIFAR's classes: {error}\nfetch the data set again") from error


class _Array:
    """Stands in for a numpy array while a CIFAR batch is read, and only keeps what the file says of it."""

    def __init__(self, *arguments: object) -> None:
        self.state: Any = ()

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        _, shape, _, fortran, content = self.state
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    """Reads the pickles that CIFAR is published as, without running anything that they name.

    A pickle can call any function it can find by name. Here a name leads to an inert stand-in if it is one of the
    three that numpy writes for an array, and to an error if it is any other; dictionaries, lists, numbers and strings
    need no name. Not even numpy's own reconstruction runs: the array is made from the raw bytes afterwards.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            return _Array
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which a CIFAR batch does not need")


def _check_memo(content: bytes) -> None:
    """Refuse a pickle that numbers an object beyond its own length: room is made for all numbers up to the largest."""
    for opcode, number, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(number or 0) > len(content):
            raise ValueError(f"an object in it has the number {number}")


def _unpickle(content: bytes) -> dict[str, Any]:
    _check_memo(content)
    reader = _Unpickler(io.BytesIO(content), encoding="bytes")
    fields = reader.load()
    if not isinstance(fields, dict):
        raise ValueError("it holds no dictionary")
    return {key.decode() if isinstance(key, bytes) else key: value for key, value in fields.items()}
