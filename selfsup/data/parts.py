"""The training part and the test part of the data that settings name, without a word."""

import hashlib
import math
from dataclasses import replace

import torch
from torch import Tensor

from selfsup.data.base import NoTestPart, Source
from selfsup.data.class_numbers import renumbered
from selfsup.data.joined import joined, noted
from selfsup.data.labelled import content_names
from selfsup.data.layout import Split
from selfsup.data.packed import check_canvas
from selfsup.data.settings import Data
from selfsup.data.sources import open_source, subset, unlabelled


def open_data(data: Data, split: Split) -> Source:
    """A part of the data: of one root or several, of a folder of its own, or held out from training.

    Args:
        data: where, and how it is read; `limit` is of the training part.
        split: which part.

    Raises:
        NoTestPart: there are no test images.
        ValueError: as `open_source`; or a part is to be held out where there is a test part, or a pack has another
            canvas.
    """
    if data.holdout is not None:
        source = _divided(data, data.holdout, split)
    elif split == "test" and data.test_root:
        source = renumbered(_whole(data), _training(data).classes)
    elif split == "test" and len(data.roots) > 1:
        source = _of_several(data)
    else:
        source = _training(data) if split == "train" else _open(data, data.roots[0], "test")
    check_canvas(source, data.canvas)
    if data.labels == "none":
        source = unlabelled(source)
    return subset(source, data.limit) if split == "train" and data.limit is not None else source


def _open(data: Data, root: str, split: Split) -> Source:
    labels, cut_short = data.table or "auto", data.truncated == "allow"
    return open_source(
        root,
        split,
        labels,
        range=data.range,
        columns=data.columns,
        truncated=cut_short,
        channels=data.channels,
    )


def _training(data: Data) -> Source:
    return joined([_open(data, root, "train") for root in data.roots], data.roots)


def _whole(data: Data) -> Source:
    """What lies at test_root: its test part, or all of it where it has none."""
    data = replace(data, labels="auto")  # a table is of the images of root
    try:
        return _open(data, data.test_root, "test")
    except NoTestPart:
        return _open(data, data.test_root, "train")


def _of_several(data: Data) -> Source:
    """The test parts of those roots that have one, with the classes of all training parts."""
    found = {}
    for number, root in enumerate(data.roots):
        try:
            found[number] = _open(data, root, "test")
        except NoTestPart as error:
            none = error
    if not found:
        raise none
    roots = [data.roots[number] for number in found]
    return renumbered(joined(list(found.values()), roots), _training(data).classes)


# A part that is held out


def _divided(data: Data, share: float, split: Split) -> Source:
    for root in data.roots:
        try:
            count = len(_open(data, root, "test"))
        except NoTestPart:
            continue
        raise ValueError(
            f"data.holdout {share} draws test images, and {root} has a test part of {count:,}; leave data.holdout out "
            "(--data.holdout None), or name by data.root the folder of the training images alone"
        )
    whole = _training(data)
    apart = held_out(whole, share, data.holdout_seed)
    source = whole.select((apart if split == "test" else ~apart).nonzero().flatten())
    of = "each class" if int(whole.labels.max()) >= 0 else "all"
    return noted(source, f"{share:g} of {of} held out to test, seed {data.holdout_seed}")


def held_out(source: Source, share: float, seed: int) -> Tensor:
    """Which images are kept from training, (N,) bool: of each class round(share n) of its n, but never all.

    Where some images have a label, those without one are not drawn: they could not be judged. Where none has, all are
    one class. Drawn are those with the lowest SHA-256 of seed and name, as `labelled.content_names` gives it: a
    function of names and labels, wherever the data lie, so that images which are added later leave the others, but for
    few, where they were.

    Raises:
        ValueError: no class is so large that an image of it would be held out.
    """
    named = [f"{seed}\0{name}".encode("utf-8", "surrogateescape") for name in content_names(source)]
    keys = [hashlib.sha256(name).digest() for name in named]
    order = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
    apart = torch.zeros(len(source), dtype=torch.bool)
    for label in source.labels.unique().tolist():
        if label >= 0 or int(source.labels.max()) < 0:
            own = order[source.labels[order] == label]
            apart[own[: min(int(share * len(own) + 0.5), len(own) - 1)]] = True
    if not apart.any():
        labels = source.labels[source.labels >= 0] if int(source.labels.max()) >= 0 else torch.zeros(len(source)).long()
        largest = int(labels.bincount().max())
        raise ValueError(
            f"data.holdout {share} of {len(source)} images leaves none to test on; "
            + (
                f"the largest class has {largest}: give {math.ceil(5000 / largest) / 10_000:g} or more"
                if largest > 1
                else "no class has two images: name test images by --data.test-root PATH"
            )
        )
    return apart
