"""The account of what was found where data were looked for: nothing is left out without a word."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from selfsup.data.formats import LACKING, suffix
from selfsup.storage.untrusted import plain_name

_SHOWN = 8  # kinds of files, and of names, that a message lists


@dataclass(frozen=True)
class Found:
    """What a source says of itself beside its images: each part a phrase for the person who named the data."""

    read_as: tuple[str, ...] = ()  # how what is there was taken, where it could be taken otherwise
    left_out: tuple[str, ...] = ()  # what was passed over, and why
    no_labels: str = "put the images of each class in a folder of its own"  # what would give labels, where are none


def named(names: Sequence[str], what: str) -> str:
    """`3 images (a.png, b.png, c.png)`: how many, and the first of them by name."""
    shown = ", ".join(plain_name(name, 80) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names):,} {what}{'' if len(names) == 1 else 's'} ({shown})"


def by_suffix(names: Sequence[str]) -> str:
    """`12 .heic, 3 .txt, 1 without suffix (README)`: the commonest first."""
    counts = Counter(suffix(name) for name in names)
    bare = next((name for name in names if not suffix(name)), "")
    told = [
        f"{count:,} {end}{' (which this Pillow cannot read)' if end in LACKING else ''}"
        if end
        else f"{count:,} without suffix ({plain_name(bare, 80)})"
        for end, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} other kinds" if len(told) > _SHOWN else "")
