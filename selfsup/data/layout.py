"""From names to a data set: which folders are parts, which are classes, and what fits neither. A function of names."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from selfsup.data.base import NoTestPart, NoTrainingPart
from selfsup.data.found import Found, by_suffix, named
from selfsup.data.listing import Listing
from selfsup.storage.untrusted import plain_name

Split = Literal["train", "test"]

_OWN = "a folder of its own"

TRAIN_WORDS = ("train", "training")
TEST_WORDS = ("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation")  # the first there is
_UNLABELLED = ("unlabeled", "unlabelled")
# In any case of letters, and with what is often added: train2017, test_set, val-images.
_PART = re.compile(
    rf"({'|'.join((*TRAIN_WORDS, *TEST_WORDS, *_UNLABELLED))})[-_ ]?(set|images?|imgs?|data|split)?[-_ ]?\d*"
)


def part_word(folder: str) -> str:
    """The part that a name names, `train`, `val`, `unlabeled`; "" where it names none."""
    match = _PART.fullmatch(folder.lower())
    return match[1] if match else ""


class Parts(NamedTuple):
    """Folders of one level that divide the data; "" where there is none."""

    train: str
    test: str
    unlabelled: str
    beside: tuple[str, ...]  # folders that belong to none

    @property
    def training(self) -> tuple[str, ...]:
        """The folders of the training part, with that of unlabelled images where there is one."""
        return tuple(name for name in (self.train, self.unlabelled) if name)


def find_parts(folders: Collection[str], filled: Collection[str], stray: bool, where: str) -> Parts | None:
    """The parts among the folders of one level; None where these are no parts (a class may well be called `train`).

    Parts are a training and a test folder, whatever lies beside them; or, where no other folder holds images, a
    training folder alone or with unlabelled images; or test folders alone, where no image lies beside them.

    Args:
        folders: names of all folders of this level.
        filled: those that hold images.
        stray: whether images lie beside the folders.
        where: the level, for messages.

    Raises:
        ValueError: two folders could be the same part.
    """
    train = _one([name for name in folders if part_word(name) in TRAIN_WORDS], where)
    tests = [name for name in folders if part_word(name) in TEST_WORDS]
    first = min((TEST_WORDS.index(part_word(name)) for name in tests), default=0)
    test = _one([name for name in tests if part_word(name) == TEST_WORDS[first]], where)
    unlabelled = _one([name for name in folders if part_word(name) in _UNLABELLED], where)
    own = {train, test, unlabelled}
    if not (train and test):
        alone = all(name in {*own, *tests} for name in filled)
        if not alone or not (train or (test and not stray)):
            return None
    return Parts(train, test, unlabelled, tuple(sorted(name for name in folders if name not in own)))


def _one(names: list[str], where: str) -> str:
    if len(names) > 1:
        raise ValueError(
            f"{where} holds {' and '.join(plain_name(name) for name in sorted(names))}, which could be the same part "
            "of the data; rename or move all but one"
        )
    return names[0] if names else ""


class Arranged(NamedTuple):
    """One part of the data, numbered and labelled."""

    prefix: str  # leading part of all names that is no part of `paths`
    paths: list[str]  # relative POSIX paths in the order of numbering
    labels: Tensor  # (N,) int64; -1 where there is none
    classes: tuple[str, ...]
    found: Found


def arrange(listing: Listing, split: Split, where: str, labelled: "Labelling | None" = None) -> Arranged:
    """Choose a part of what was listed, and label it by its folders or otherwise.

    A folder that holds all images is looked through, as an archive's outermost folder is. Below it, folders named as
    parts are parts (see `find_parts`), other folders are classes (see `class_labels`).

    Args:
        listing: all names.
        split: which part; data without a division are all training data.
        where: they lie, for messages.
        labelled: what gives labels by whole paths; None: the folders do.

    Raises:
        NoTestPart: there is no division.
        NoTrainingPart: there are test images alone.
        ValueError: two folders could be one part.
    """
    prefix = ""
    while True:
        folders = _below(prefix, listing.folders)
        filled = _below(prefix, _filled(listing.images))
        stray = any("/" not in path[len(prefix) :] for path in listing.images)
        parts = find_parts(folders, filled, stray, f"{where}/{prefix}".rstrip("/"))
        if parts is not None or stray or len(filled) != 1:
            break
        prefix += f"{next(iter(filled))}/"
    notes = [f"all lies in {plain_name(prefix[:-1])}"] if prefix else []
    if parts is not None:
        return _part(listing, split, where, prefix, parts, notes, labelled)
    if split == "test":
        raise NoTestPart(no_test_part(where))
    paths = _inside(listing.images, prefix)
    classes = labelled([prefix + path for path in paths], ()) if labelled else class_labels(paths, (), prefix[:-1])
    return _arranged(listing, prefix, [prefix], paths, classes, notes, [])


def folders_wanted(folders: Collection[str], split: Split, where: str) -> Collection[str]:
    """Of the outermost folders those whose images have to be listed for `arrange`: not the parts that are not asked."""
    parts = find_parts(folders, folders, False, where)
    if parts is None or not (parts.train and parts.test):
        return folders
    return parts.training if split == "train" else (parts.train, parts.test)


def no_test_part(where: str) -> str:
    return f"{where} has no test part; wanted a folder 'test' or 'val' beside 'train'"


def _below(prefix: str, paths: Iterable[str]) -> set[str]:
    """Names of the folders directly below `prefix`, of paths of folders."""
    start = len(prefix)
    return {path[start:].partition("/")[0] for path in paths if path.startswith(prefix) and len(path) > start}


def _filled(images: Iterable[str]) -> set[str]:
    """Paths of the folders that images lie in."""
    return {path.rpartition("/")[0] for path in images}


def _inside(paths: Iterable[str], prefix: str) -> list[str]:
    return [path[len(prefix) :] for path in paths if path.startswith(prefix)]


def _part(
    listing: Listing,
    split: Split,
    where: str,
    prefix: str,
    parts: Parts,
    notes: list[str],
    labelled: "Labelling | None",
) -> Arranged:
    if split == "test" and not parts.test:
        raise NoTestPart(no_test_part(where))
    if split == "train" and not parts.train:
        raise NoTrainingPart(
            f"{where} has a test part, {plain_name(parts.test)}, and no training part; wanted a folder 'train' beside "
            "it, or give that folder itself"
        )
    chosen = parts.training if split == "train" else (parts.test,)
    roots = [f"{prefix}{name}/" for name in chosen]
    inner = roots[0] if len(roots) == 1 else prefix
    paths = sorted(f"{root[len(inner) :]}{path}" for root in roots for path in _inside(listing.images, root))
    known: tuple[str, ...] = ()
    if split == "test" and parts.train:
        inside = f"{prefix}{parts.train}/"
        trained = _inside(listing.images, inside)
        known = (labelled([inside + path for path in trained], ()) if labelled else class_labels(trained)).names
    # Where unlabelled images lie beside the training folder, they are a folder of it.
    own = f"{parts.train}/"
    if labelled:
        classes = labelled([inner + path for path in paths], known)
    else:
        classes = class_labels([path.removeprefix(own) for path in paths] if len(roots) > 1 else paths, known)
    left_out = [f"{named(parts.beside, 'folder')} beside the parts"] if parts.beside else []
    if stray := [path for path in _inside(listing.images, prefix) if "/" not in path]:
        left_out.append(f"{named(stray, 'image')} beside the parts")
    notes = [*notes, f"the {'training' if split == 'train' else 'test'} part is {plain_name(' and '.join(chosen))}"]
    return _arranged(listing, inner, roots, paths, classes, notes, left_out)


def _arranged(
    listing: Listing,
    prefix: str,
    roots: list[str],
    paths: list[str],
    classes: "Classes",
    notes: list[str],
    left_out: list[str],
) -> Arranged:
    """With the account: `roots` are the folders that were taken, each ending in a slash (or "" for all)."""
    taken = tuple(roots)
    # Files above the folders that were taken count, too: a list of labels, say.
    others = [name for name in listing.others if name.startswith(taken) or _above(name, taken[0])]
    by_content = [name for name in listing.by_content if name.startswith(taken)]
    empty = _vanished(listing, taken, others) if classes.names else []
    if by_content:
        notes = [*notes, f"{named(by_content, 'file')} taken as images by their first bytes"]
    passed = [
        *([f"no image in class folder{'' if len(empty) == 1 else 's'} {'; '.join(empty[:8])}"] if empty else []),
        *left_out,
        *([f"no images: {by_suffix(others)}"] if others else []),
        *([f"{named(listing.hidden, 'hidden file or folder')}"] if listing.hidden else []),
    ]
    found = Found((*notes, *classes.notes), tuple(passed), classes.no_labels)
    return Arranged(prefix, paths, classes.labels, classes.names, found)


def _above(name: str, root: str) -> bool:
    folder = name.rpartition("/")[0]
    return not folder or root.startswith(f"{folder}/")


def _vanished(listing: Listing, roots: tuple[str, ...], others: list[str]) -> list[str]:
    """Folders beside the class folders that hold no image, each with what it holds instead."""
    told = []
    filled = _filled(listing.images)
    for root in roots:
        for name in sorted(_below(root, listing.folders) - _below(root, filled)):
            inside = [path for path in others if path.startswith(f"{root}{name}/")]
            told.append(f"{plain_name(name, 80)} ({by_suffix(inside) or 'empty'})")
    return told


class Classes(NamedTuple):
    """Labels by folder, and what is to be said of them."""

    labels: Tensor  # (N,) int64
    names: tuple[str, ...]
    notes: list[str]
    no_labels: str  # what would give labels, where there are none


Labelling = Callable[[Sequence[str], Sequence[str]], Classes]
"""(paths from the root, class names of the training part) -> their labels."""


def class_labels(paths: Sequence[str], known: Sequence[str] = (), within: str = "") -> Classes:
    """Labels by folder: the first folder of an image is its class, however deep it lies below, as in torchvision.

    There have to be two such folders at least. An image that lies in no folder, or in one called `unlabeled` or
    `unlabelled`, has no label.

    Args:
        paths: relative POSIX paths.
        known: class names of the training part. They keep their numbers here if any of them turns up, so that a test
            part that lacks a class is still labelled as the training part is.
        within: the folder that all of them lie in, for messages.
    """
    tops = [path.partition("/")[0] if "/" in path else "" for path in paths]
    apart = {name for name in set(tops) if part_word(name) in _UNLABELLED}
    found = sorted(set(tops) - apart - {""})
    same = bool(set(known) & set(found))
    if len(found) < 2 and not same:
        one = found[0] if found else within
        only = f"{plain_name(one, 80)} is the only folder with images" if one else "they lie in no folders"
        return Classes(torch.full((len(paths),), -1), (), [], f"{only}; put the images of each class in {_OWN}")
    names = (*known, *(name for name in found if name not in known)) if same else tuple(found)
    number = {name: label for label, name in enumerate(names)} | dict.fromkeys((*apart, ""), -1)
    notes = _remarks(paths, tops, found, apart)
    return Classes(torch.tensor([number[top] for top in tops]), names, notes, f"put the images of each class in {_OWN}")


def _remarks(paths: Sequence[str], tops: list[str], found: list[str], apart: set[str]) -> list[str]:
    """What could be meant otherwise in folders that are taken as classes."""
    notes = []
    if stray := [path for path, top in zip(paths, tops, strict=True) if not top]:
        notes.append(f"{named(stray, 'image')} beside the class folders without a label")
    if apart:
        notes.append(f"the images in {plain_name(', '.join(sorted(apart)))} without a label")
    folders = _filled(paths)
    if deep := sorted(folder for folder in folders if "/" in folder and folder.partition("/")[0] in found):
        notes.append(f"{named(deep, 'folder')} within class folders, of their class")
    inner = {folder.split("/")[1] for folder in deep}
    if dividing := sorted(name for name in {*found, *inner} if part_word(name) in (*TRAIN_WORDS, *TEST_WORDS)):
        notes.append(
            f"{plain_name(', '.join(dividing[:5]))} not taken as a part of the data: parts are a training and a test "
            "folder side by side"
        )
    return notes
