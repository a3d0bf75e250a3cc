"""How every command opens its data: with a line that says what was found, and with labels where labels are needed."""

from dataclasses import replace

from selfsup import distributed
from selfsup.data.base import NoTestPart, Source
from selfsup.data.channels import Channels
from selfsup.data.class_numbers import doubts
from selfsup.data.joined import two_domains
from selfsup.data.layout import Split
from selfsup.data.levels import FULL, Levels, parse_levels
from selfsup.data.packed import check_canvas
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.output import message
from selfsup.storage.untrusted import plain_name

_LOOKED_AT = 16  # files whose pixels are looked at, spread evenly
_NAMES = {"train": "training", "test": "test"}


def open_part(data: Data, split: Split) -> Source:
    """A part of the data that a command names, after a line that says what was found there.

    Args:
        data: where, and how it is read; `limit` is of the training part.
        split: which part.

    Raises:
        ValueError: as `open_data`.
    """
    source = open_data(data, split)
    if distributed.rank() == 0:
        message(f"{data.test_root if split == 'test' and data.test_root else data.place}: {told(source, split)}")
        for remark in [*_of_depth(source, parse_levels(data.range)), *_of_channels(source, data.channels)]:
            message(remark)
    return source


def open_test_part(data: Data) -> Source | None:
    """The test part, or None where the data have none."""
    try:
        return open_part(data, "test")
    except NoTestPart:
        return None


def open_training(data: Data) -> Source:
    """The training images of a run; labelled ones of another domain, where `data.labelled_root` names some, come first.

    Raises:
        ValueError: as `open_data`; the labelled images have no labels.
    """
    if not data.labelled_root:
        return open_part(data, "train")
    other = replace(data, root=data.labelled_root, labels="auto", holdout=None, test_root="")
    first = labelled_part(open_part(other, "train"), "train")
    if int(first.labels.min()) < 0:
        raise ValueError(f"data.labelled_root {data.labelled_root} has no labels: {first.found.no_labels}")
    both = two_domains(first, open_part(replace(data, labels="none"), "train"))
    check_canvas(both, data.canvas)
    return both


def labelled_part(source: Source, split: Split) -> Source:
    """The images that have a label, which is said where they are not all. Of data without labels, all."""
    part = with_labels(source)
    if len(part) < len(source) and distributed.rank() == 0:
        message(f"{len(part):,} of {len(source):,} {_NAMES[split]} images have a label; the others are left out here")
    return part


def with_labels(source: Source) -> Source:
    """`labelled_part` without a word."""
    rows = (source.labels >= 0).nonzero().flatten()
    return source if len(rows) in (0, len(source)) else source.select(rows)


def tell_cut_short(names: list[str]) -> None:
    """Say how many images were read in part."""
    if names:
        told = f"{len(names):,} image{' is' if len(names) == 1 else 's are'} cut short and taken as far as they go"
        message(f"{told}; the first: {plain_name(names[0])}")


def told(source: Source, split: Split) -> str:
    """One line: how many images and classes, how they were read, and what was left out."""
    labelled = source.labels[source.labels >= 0]
    classes = len(labelled.unique())
    line = f"{len(source):,} {_NAMES[split]} images"
    if not len(labelled):
        line += f" without labels ({source.found.no_labels})"
    else:
        line += f", {classes:,} class{'' if classes == 1 else 'es'}"
        if len(labelled) < len(source):
            line += f", {len(source) - len(labelled):,} without a label"
    doubtful = doubts([source.class_name(label) for label in labelled.unique().tolist()])
    if read_as := (*source.found.read_as, *doubtful):
        line += f"; {'; '.join(read_as)}"
    if source.found.left_out:
        line += f"; left out: {'; '.join(source.found.left_out)}"
    return line


def _looked_at(source: Source) -> list[int]:
    """The places of a few images, spread evenly."""
    count = min(_LOOKED_AT, len(source))
    return [number * len(source) // count for number in range(count)]


def _of_channels(source: Source, channels: Channels) -> list[str]:
    """What becomes of channels where all files that are looked at have other than three."""
    if channels != "rgb":
        return []
    places = _looked_at(source)
    headers = [source.header(place) for place in places]
    found = {header.channels if header else None for header in headers}
    count = next(iter(found), None)
    if len(found) != 1 or count in (None, 3):
        return []
    become = "which is repeated to three" if count == 1 else "which become red, green and blue"
    some = f"{len(places)} image{' looked at has' if len(places) == 1 else 's looked at have'}"
    return [f"{some} {count} channel{'' if count == 1 else 's'}, {become}; --data.channels {count} keeps what is there"]


def _of_depth(source: Source, levels: Levels) -> list[str]:
    """What is to be said of pixels of more than 8 bits, by looking at a few of the files."""
    places = _looked_at(source)
    found = [depth for place in places if (depth := source.depth(place)) is not None]
    if not found:
        if levels == FULL:
            return []
        return [f"data.range plays no part: of {len(places)} images looked at none has more than 8 bits a pixel"]
    kinds = ", ".join(sorted({depth.kind for depth in found}))
    lowest, highest = min(depth.lowest for depth in found), max(depth.highest for depth in found)
    seen = f"{kinds} pixels, which are from {lowest:g} to {highest:g} in {len(found)} images looked at"
    proposal = f"give --data.range {lowest:g}:{highest:g}, file or p1"
    if levels.kind == "fixed" and (lowest < levels.low or highest > levels.high):
        return [f"{seen}: what lies outside {levels.low:g} to {levels.high:g} becomes black or white"]
    if levels != FULL:
        return []
    can = found[0].can
    if can is None:
        return [f"{seen}; they have no agreed range: {proposal}"]
    grays = 1 + round(255 * (highest - lowest) / (can[1] - can[0]))
    if grays > 64:
        return []
    if "colour" in kinds:
        return [f"{seen} of {can[0]:g} to {can[1]:g}: about {grays} of 256 levels are left; save them with 8 bits"]
    return [f"{seen} of {can[0]:g} to {can[1]:g}: about {grays} of 256 gray levels are left; {proposal}"]
