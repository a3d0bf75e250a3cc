"""An account of data in sentences, in lines for a terminal, and as figures."""

from collections import Counter
from typing import Any

import numpy as np

from selfsup.data.layout import Split
from selfsup.report.verdict import Sentence, Tone
from selfsup.storage.untrusted import plain_name
from selfsup.survey.account import Account, Part
from selfsup.survey.twins import Twins

NAMES: dict[Split, str] = {"train": "training", "test": "test"}
_LISTED = 1_000  # unreadable images and classes among the figures
_LINES = 40  # reasons on a terminal
_ENDS = 10  # classes on a terminal, the largest and the smallest ones
_IMBALANCED = 10.0  # times as many images of the largest class as of the smallest, from which on it is said to be so


def sentences(found: Account) -> list[Sentence]:
    """What was found, leaks and faults first."""
    said = [
        *_leaks(found, found.equal, "the content of a training image"),
        *_leaks(found, found.alike, "the looks of a training image, saved anew, resized or brightened"),
        *(sentence for split, part in found.parts.items() for sentence in _unreadable(part, NAMES[split])),
        *_twins(found, found.equal, "equal to the byte" if found.bytes is not None else "of equal pixels"),
        *_twins(found, found.alike, "look alike without being equal"),
        *(sentence for split, part in found.parts.items() for sentence in _classes(part, NAMES[split])),
        *(sentence for split, part in found.parts.items() for sentence in _files(part, NAMES[split])),
        *(Sentence("plain", line) for split, part in found.parts.items() for line in _pixels(part, NAMES[split])),
    ]
    if found.alike.uncompared:
        told = f"{found.alike.uncompared:,} pairs of images were not compared: too many are of a few simple shapes"
        said.append(Sentence("unsure", f"{told}, so some that look alike may be missing here."))
    return said


def _are(count: int, what: str = "image") -> str:
    return f"{count:,} {what} is" if count == 1 else f"{count:,} {what}s are"


def _leaks(found: Account, twins: Twins, shared: str) -> list[Sentence]:
    if not twins.leaked:
        return []
    image, twin = (plain_name(found.name(number)) for number in twins.leaks[0])
    count = len(found.parts["test"].source)
    return [
        Sentence(
            "bad",
            f"{twins.leaked:,} of {count:,} test images {'has' if twins.leaked == 1 else 'have'} {shared}. Figures on "
            f"them are too good: take them out of one part. The first: {image} is {twin}.",
        )
    ]


def _unreadable(part: Part, name: str) -> list[Sentence]:
    said = []
    if part.unreadable:
        count = len(part.unreadable)
        told = f"{count:,} of {len(part.source):,} {name} images cannot be read."
        who = "Training" if name == NAMES["train"] else "An evaluation"
        would = f"{who} would stop: {part.refusal}." if part.refusal else f"{who} passes over them, and says so."
        said.append(Sentence("bad" if part.refusal else "unsure", f"{told} {would}"))
    if part.cut_short:
        first = plain_name(part.cut_short[0])
        told = (
            f"{_are(len(part.cut_short), f'{name} image')} cut short and taken as far as they go; the first: {first}."
        )
        said.append(Sentence("unsure", told))
    if part.misnamed:
        first = plain_name(part.source.name(part.misnamed[0]))
        told = f"{_are(len(part.misnamed), f'{name} image')} of another format than the name says, which does no harm"
        said.append(Sentence("plain", f"{told}; the first: {first}."))
    return said


def _twins(found: Account, twins: Twins, kind: str) -> list[Sentence]:
    if not twins.groups:
        return []
    group = twins.first[0]
    first, second = (plain_name(found.name(number)) for number in group[:2])
    told = f"{twins.images:,} images in {twins.groups:,} group{'' if twins.groups == 1 else 's'} {kind}"
    said = [
        Sentence(
            "unsure", f"{told}; the largest has {len(group):,}: {first}, {second}{' and others' * (len(group) > 2)}."
        )
    ]
    if twins.mislabelled:
        groups = f"{twins.mislabelled:,} of these groups {'has' if twins.mislabelled == 1 else 'have'}"
        said.append(Sentence("bad", f"{groups} images of different classes: one of the labels is wrong, or none fits."))
    return said


def _classes(part: Part, name: str) -> list[Sentence]:
    classes = [(label, count) for label, count in part.classes if count]
    said = []
    if len(classes) > 1:
        (most, many), (least, few) = classes[0], classes[-1]
        told = f"{len(classes):,} classes among the {name} images: "
        if many == few:
            said.append(Sentence("good", f"{told}each has {many:,}."))
        else:
            tone: Tone = "unsure" if many > _IMBALANCED * few else "plain"
            ends = f"{plain_name(most, 60)} has {many:,}, {plain_name(least, 60)} has {few:,}"
            said.append(Sentence(tone, f"{told}{ends}, {many / few:.3g} to 1."))
    missing = [label for label, count in part.classes if not count]
    if missing and classes:
        shown = ", ".join(plain_name(label, 60) for label in missing[:5]) + ", ..." * (len(missing) > 5)
        said.append(Sentence("unsure", f"No {name} image is of {len(missing):,} of the classes: {shown}."))
    return said


def _files(part: Part, name: str) -> list[Sentence]:
    if not part.readable:
        return []
    sides = part.sizes[part.sizes[:, 0] > 0]
    (height, width), count = most_frequent_sizes(part)[0]
    if count == len(sides):
        told = f"All {name} images have {width:,} x {height:,} pixels (width x height)."
    else:
        low, middle, high = (_size(sides, place) for place in (0, len(sides) // 2, -1))
        told = f"Sizes of {name} images are from {low} to {high} pixels (width x height, by area), half of them up to "
        told += f"{middle}; {count:,} have {width:,} x {height:,}."
    forms = "; ".join(f"{count:,} {form}" for form, count in part.forms.most_common(6))
    more = f" and {len(part.forms) - 6} other kinds" if len(part.forms) > 6 else ""
    return [Sentence("plain", f"{told}{f' Files: {forms}{more}.' if forms else ''}")]


def _size(sides: np.ndarray, place: int) -> str:
    """The size at a place in the order of areas."""
    row = sides[np.argsort(sides.prod(axis=1, dtype=np.int64), kind="stable")[place]]
    return f"{row[1]:,} x {row[0]:,}"


def most_frequent_sizes(part: Part, most: int = 1) -> list[tuple[tuple[int, int], int]]:
    """(height, width) and how many readable images have it."""
    sides = part.sizes[part.sizes[:, 0] > 0]
    return Counter(map(tuple, sides.tolist())).most_common(most)


def _pixels(part: Part, name: str) -> list[str]:
    if not part.readable:
        return []
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in zip(*part.of_pixels, strict=True))
    told = f"Channels of {name} images, in 0 to 1 over all pixels: mean {mean}; standard deviation {std}"
    if len(most_frequent_sizes(part, 2)) < 2:
        return [f"{told}."]
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in zip(*part.of_images, strict=True))
    return [f"{told}. Where each image counts alike, whatever its size: mean {mean}; standard deviation {std}."]


# For a terminal


def lines(found: Account) -> list[str]:
    """All of it, with short lists of classes and of what cannot be read."""
    said = [sentence.text for sentence in sentences(found)]
    for split, part in found.parts.items():
        classes = part.classes
        if len({count for _, count in classes}) > 1:
            width = max(len(plain_name(label, 40)) for label, _ in classes)
            rows = [f"  {plain_name(label, 40):{width}} {count:9,}" for label, count in classes]
            if len(rows) > 2 * _ENDS:
                rows[_ENDS:-_ENDS] = [f"  ... {len(rows) - 2 * _ENDS:,} classes between these ..."]
            said += [f"Images of each class, {NAMES[split]}:", *rows]
    return [*said, *_reasons(found.unreadable)]


def _reasons(unreadable: dict[str, str]) -> list[str]:
    """What cannot be read, those for one reason together; the commonest reason first."""
    names: dict[str, list[str]] = {}
    for name, reason in unreadable.items():
        names.setdefault(reason, []).append(name)
    rows = []
    for reason, own in sorted(names.items(), key=lambda pair: -len(pair[1])):
        first = plain_name(own[0])
        rows.append(f"  {first}{f' and {len(own) - 1:,} more' if own[1:] else ''}: {plain_name(reason)}")
    if len(rows) > _LINES:
        rows[_LINES:] = [f"  and others, for {len(rows) - _LINES:,} other reasons"]
    return ["What cannot be read, and why:", *rows] if rows else []


# For a program


def figures(found: Account) -> dict[str, Any]:
    """What was found, for the JSON line; lists of names are cut at 1,000."""
    told: dict[str, Any] = {"images": sum(len(part.source) for part in found.parts.values()), "bytes": found.bytes}
    unreadable = found.unreadable
    told |= {"unreadable_images": len(unreadable), "unreadable": dict(list(unreadable.items())[:_LISTED])}
    for name, twins in (("equal", found.equal), ("alike", found.alike)):
        told |= {f"{name}_images": twins.images, f"{name}_groups": twins.groups}
        told |= {
            f"{name}_test_images_in_training": twins.leaked,
            f"{name}_groups_of_several_classes": twins.mislabelled,
        }
    if found.alike.uncompared:
        told["uncompared_pairs"] = found.alike.uncompared
    for split, part in found.parts.items():
        told[split] = _figures(part)
    return told | {"seconds": round(found.seconds, 1)}


def _figures(part: Part) -> dict[str, Any]:
    sides = part.sizes[part.sizes[:, 0] > 0]
    told: dict[str, Any] = {
        "images": len(part.source),
        "unreadable_images": len(part.unreadable),
        "training_would_stop": part.refusal,
        "cut_short_images": len(part.cut_short),
        "images_of_another_format_than_named": len(part.misnamed),
        "formats": dict(part.forms.most_common()),
        "classes": {label: count for label, count in part.classes[:_LISTED]},
    }
    if len(sides):
        for place, side in enumerate(("height", "width")):
            told[side] = {"min": int(sides[:, place].min()), "median": float(np.median(sides[:, place]))}
            told[side]["max"] = int(sides[:, place].max())
        for name, pairs in (("over_pixels", part.of_pixels), ("over_images", part.of_images)):
            told[f"mean_{name}"], told[f"std_{name}"] = ([round(v, 6) for v in row] for row in zip(*pairs, strict=True))
    return told
