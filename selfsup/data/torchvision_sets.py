"""Data sets that torchvision knows by name and fetches."""

import fcntl
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfsup.config.stored_names import nearest
from selfsup.data.arrays import images_from_array
from selfsup.data.base import ArraySource, NoTestPart, Source
from selfsup.data.channels import Channels
from selfsup.data.datasets import DatasetSource
from selfsup.data.layout import Split
from selfsup.data.looked import list_folder
from selfsup.storage.untrusted import plain_name

# What torchvision's data sets call their parts, in this order.
_WORDS = {
    "train": ("train", "trainval", "train-standard"),
    "test": ("test", "val", "valid", "validation"),
}


def open_torchvision(root: str, split: Split, channels: Channels = "rgb") -> Source:
    """A part of `torchvision:NAME` or `torchvision:NAME:FOLDER`, a class of torchvision.datasets.

    It lies in FOLDER, or in `selfsup/torchvision` of `$XDG_CACHE_HOME` (by default `~/.cache`); what is not there is
    fetched by torchvision, by one of several processes.

    Raises:
        NoTestPart: it is not divided.
        ValueError: there is no such data set, it cannot be fetched, or it wants arguments that a name cannot give.
    """
    import torchvision.datasets

    name, _, given = root.removeprefix("torchvision:").partition(":")
    found = getattr(torchvision.datasets, name, None)
    if name not in torchvision.datasets.__all__ or not inspect.isclass(found):
        known = sorted(torchvision.datasets.__all__)
        raise ValueError(f"torchvision has no data set {plain_name(name, 80)!r}{nearest(name, known)}")
    folder = _place(root, given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "fetching.lock", "w") as lock:  # one process does it for all
            fcntl.flock(lock, fcntl.LOCK_EX)
            dataset = _made(found, root, folder, split)
    except NoTestPart:
        raise
    except Exception as error:  # no network, a site that is gone, an argument that is missing: nearly every class
        raise ValueError(
            f"{root} cannot be had in {folder}: {type(error).__name__}: {plain_name(str(error), 300)}\n"
            "torchvision's documentation says whether it can be fetched; else put its files there"
        ) from error
    labels = _labels(dataset)
    array = _as_array(dataset, labels, name, channels)
    return array or DatasetSource(dataset, labels, name=name, channels=channels)


def _place(root: str, given: str) -> Path:
    if given:
        return Path(given).expanduser().absolute()
    cache = list_folder()
    if cache is None:
        raise ValueError(f"{root}: there is no home folder to keep it in; give one, as {root}:FOLDER")
    return cache / "torchvision"


def _made(found: Callable[..., Any], root: str, folder: Path, split: Split) -> Any:
    """By the names that torchvision gives its arguments: `root`, `train` or `split`, `download`."""
    known = inspect.signature(found).parameters
    arguments: dict[str, Any] = {"root": str(folder)} if "root" in known else {}
    if "download" in known:
        arguments["download"] = True
    if "train" in known:
        return found(**arguments, train=split == "train")
    if "split" not in known:
        if split == "test":
            raise NoTestPart(f"{root} has no test part; name other data to evaluate on, or give --data.holdout 0.2")
        return found(**arguments)
    if known["split"].default is inspect.Parameter.empty:  # of EMNIST it is no part, but a selection
        raise ValueError("it wants a split that its name does not give; make it in a program and give it to pretrain")
    for word in _WORDS[split]:
        try:
            return found(**arguments, split=word)
        except ValueError as error:
            if "Unknown value" not in str(error):  # torchvision's words for a part that a data set does not have
                raise
    raise NoTestPart(f"{root} has none of the parts {', '.join(_WORDS[split])}")


def _labels(dataset: Any) -> Sequence[int] | torch.Tensor | np.ndarray | None:
    """Whole numbers, one for each image; None where there are none. torchvision has four names for them."""
    samples = getattr(dataset, "_samples", None)
    candidates = [getattr(dataset, name, None) for name in ("targets", "labels", "_labels")]
    if samples and isinstance(samples[0], tuple) and len(samples[0]) == 2:
        candidates.append([label for _, label in samples])
    for found in candidates:
        if found is not None and len(found) == len(dataset):
            numbers = np.asarray(found)
            if numbers.ndim == 1 and np.issubdtype(numbers.dtype, np.integer):
                return numbers
    return None


def _as_array(dataset: Any, labels: Any, name: str, channels: Channels) -> Source | None:
    """One that holds its images as an array, as MNIST and CIFAR do; None of others."""
    images = getattr(dataset, "data", None)
    if images is None or labels is None or len(images) != len(labels):
        return None
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        return None
    classes = getattr(dataset, "classes", ())
    names = tuple(str(word) for word in classes) if isinstance(classes, Sequence) else ()
    return ArraySource(images_from_array(pixels, name, channels=channels), torch.as_tensor(labels).long(), names, name)
