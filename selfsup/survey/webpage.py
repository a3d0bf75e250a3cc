"""An account of data as one page: findings, a contact sheet, twins side by side, classes, sizes, what is broken."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from selfsup.report import markup
from selfsup.report.charts import Bar, Series, bars, lines
from selfsup.report.drawing import SERIES
from selfsup.report.markup import figure, picture, table, text
from selfsup.report.page import LIMIT, Section, page
from selfsup.report.pictures import Album, Examples
from selfsup.survey.account import Account, Part
from selfsup.survey.told import NAMES, most_frequent_sizes, sentences
from selfsup.survey.twins import Twins

_SHEET = 96  # images of each part on the contact sheet
_GROUPS, _OF_A_GROUP = 18, 6  # groups of twins that are shown, and images of each
_LEAKS = 24  # pairs
_ROWS = 1_000  # of a table
_BARS = 30  # classes that are drawn
_CHANNELS = {1: ("gray",), 3: ("red", "green", "blue")}
_COLOURS = {"red": SERIES[7], "green": SERIES[2], "blue": SERIES[0], "gray": SERIES[8]}


def survey_page(found: Account) -> bytes:
    """The page, of at most `LIMIT` bytes.

    Raises:
        ValueError: it does not fit.
    """
    album = Album()
    shown = _page(found, album)
    room = LIMIT - len(shown.encode(errors="backslashreplace"))
    if room <= 0:
        raise ValueError(f"the page takes more than {LIMIT:,} bytes without a picture: names of files are very long")
    return album.placed(shown, room).encode(errors="backslashreplace")


def _page(found: Account, album: Album) -> str:
    examples = {id(part.source): Examples(part.source) for part in found.parts.values()}

    def shown(image: int) -> str:
        source, row = found.located(image)
        return _shown(examples[id(source)], row, album)

    parts: list[tuple[str, str, str, Callable[[], str]]] = [
        ("found", "What was found", "Findings", lambda: _findings(found)),
        ("leaks", "Test images that are training images", "Leaks", lambda: _leaks(found, shown)),
        ("sheet", "Contact sheet", "", lambda: _each(found, lambda part: _sheet(part, examples, album))),
        ("twins", "Images that are there more than once", "Twins", lambda: _twins(found, shown)),
        ("classes", "Classes", "", lambda: _each(found, _classes)),
        ("sizes", "Sizes and files", "Sizes", lambda: _each(found, _sizes)),
        ("levels", "Brightness of the channels", "Brightness", lambda: _each(found, _levels)),
        ("broken", "What cannot be read", "Broken", lambda: _broken(found)),
    ]
    made = [Section(name, title, body, short) for name, title, short, section in parts if (body := section())]
    count = sum(len(part.source) for part in found.parts.values())
    lead = f"<p class='lead'>{text(found.place, 300)} · {count:,} images, each decoded in full</p>"
    return page(f"Data: {Path(found.place).name or found.place}", lead, made, {})


def _each(found: Account, made: Callable[[Part], str]) -> str:
    """The same of every part, under its name where there are two."""
    bodies = [(NAMES[split], made(part)) for split, part in found.parts.items()]
    if len(bodies) == 1:
        return bodies[0][1]
    return "".join(f"<h3>{name.capitalize()} images</h3>{body}" for name, body in bodies if body)


def _findings(found: Account) -> str:
    tones = {"good": "Good: ", "bad": "Bad: ", "unsure": "Look at this: ", "plain": ""}
    said = "".join(
        f"<li class='{tone}'><span class='screen-reader'>{tones[tone]}</span>"
        f"{text(_below(found, sentence), 1_000)}</li>"
        for tone, sentence in sentences(found)
    )
    return f"{_tiles(found)}<ul class='verdict'>{said}</ul>{_accounts(found)}"


def _below(found: Account, sentence: str) -> str:
    """Without the place of the data in its paths: it stands at the head of the page."""
    return sentence.replace(f"{found.place.rstrip('/')}/", "")


def _tiles(found: Account) -> str:
    figures = {f"{NAMES[split]} images": len(part.source) for split, part in found.parts.items()}
    figures["classes"] = max(sum(count > 0 for _, count in part.classes) for part in found.parts.values())
    figures["images that cannot be read"] = len(found.unreadable)
    figures["images equal to another"] = found.equal.images
    figures["images that look like another"] = found.alike.images
    if "test" in found.parts and "train" in found.parts:
        figures["test images that are training images, equal or alike"] = len(
            {image for twins in (found.equal, found.alike) for image, _ in twins.leaks}
        )
    tiles = "".join(f"<li><b>{value:,}</b><span>{text(name)}</span></li>" for name, value in figures.items())
    return f"<ul class='tiles'>{tiles}</ul>"


def _accounts(found: Account) -> str:
    """How the data were read, and what was left out, as every command says it."""
    pairs = []
    for split, part in found.parts.items():
        for name, told in (("read as", part.source.found.read_as), ("left out", part.source.found.left_out)):
            pairs += [(f"{NAMES[split]}, {name}", word) for word in told]
    return f"<h3>How the data were read</h3>{markup.facts(pairs)}" if pairs else ""


def _shown(examples: Examples, row: int, album: Album) -> str:
    example = examples(row)
    told = ", ".join(word for word in (example.label, example.name) if word)
    return picture(album.mark(example.picture), told)


def _sheet(part: Part, examples: dict[int, Examples], album: Album) -> str:
    readable = np.flatnonzero(part.sizes[:, 0] > 0)
    if not len(readable):
        return ""
    count = min(_SHEET, len(readable))
    chosen = [int(readable[place * len(readable) // count]) for place in range(count)]
    shown = "".join(_shown(examples[id(part.source)], row, album) for row in chosen)
    note = "All images." if count == len(readable) else f"{count:,} of {len(readable):,} images, spread evenly."
    return f"<p class='note'>{note} Point at one to read its class and its name.</p><div class='row'>{shown}</div>"


def _leaks(found: Account, shown: Callable[[int], str]) -> str:
    body = ""
    for twins, what in ((found.equal, "Equal"), (found.alike, "Alike")):
        if not twins.leaks:
            continue
        pairs = "".join(
            f"<div class='sheet'><span>{text(_file(found, image))} and {text(_file(found, twin))}</span>"
            f"<div class='row'>{shown(image)}{shown(twin)}</div></div>"
            for image, twin in twins.leaks[:_LEAKS]
        )
        more = f" The first {_LEAKS} are shown." if twins.leaked > _LEAKS else ""
        note = f"{what}: {twins.leaked:,}. Each test image, and a training image.{more}"
        body += f"<p class='note'>{note}</p><div class='sheets'>{pairs}</div>"
    return body


def _file(found: Account, image: int) -> str:
    name = found.name(image)
    return Path(name).name or name


def _twins(found: Account, shown: Callable[[int], str]) -> str:
    return _groups(found, found.equal, "Equal", shown) + _groups(found, found.alike, "Alike", shown)


def _groups(found: Account, twins: Twins, what: str, shown: Callable[[int], str]) -> str:
    if not twins.groups:
        return ""
    sheets = ""
    for group in twins.first[:_GROUPS]:
        named = f"{len(group):,} images, from {_file(found, group[0])} on"
        images = "".join(map(shown, group[:_OF_A_GROUP]))
        sheets += f"<div class='sheet'><span>{text(named)}</span><div class='row'>{images}</div></div>"
    groups = "1 group" if twins.groups == 1 else f"{twins.groups:,} groups, the largest first"
    note = f"{what}: {twins.images:,} images in {groups}."
    return f"<p class='note'>{note}</p><div class='sheets'>{sheets}</div>"


def _classes(part: Part) -> str:
    classes = part.classes
    total = sum(count for _, count in classes)
    if not total:
        return ""
    found = [Bar(name[:40], count / total, SERIES[0]) for name, count in classes[:_BARS]]
    few = f" The largest {_BARS} are drawn." if len(classes) > _BARS else ""
    drawn = figure(bars(found, "Share of the labelled images"), f"{len(classes):,} classes.{few}")
    rows = [[name, f"{count:,}", f"{count / total:.2%}"] for name, count in classes[:_ROWS]]
    cut = f"<p class='note'>The {_ROWS:,} largest of {len(classes):,}.</p>" if len(classes) > _ROWS else ""
    return f"<div class='pair'>{drawn}<div>{table(('class', 'images', 'share'), rows, 'Classes')}{cut}</div></div>"


def _sizes(part: Part) -> str:
    if not part.readable:
        return ""
    common = most_frequent_sizes(part, 20)
    rows = [
        [f"{width:,} x {height:,}", f"{count:,}", f"{count / part.readable:.1%}"] for (height, width), count in common
    ]
    sizes = table(("width x height", "images", "share"), rows, "Sizes")
    forms = [[form, f"{count:,}"] for form, count in part.forms.most_common()]
    files = table(("stored as", "images"), forms, "Files") if forms else ""
    return f"<div class='pair'><div>{sizes}</div><div>{files}</div></div>"


def _levels(part: Part) -> str:
    if not part.readable:
        return ""
    channels = len(part.levels)
    names: Sequence[str] = _CHANNELS.get(channels, tuple(f"channel {number + 1}" for number in range(channels)))
    shares = part.levels / part.levels.sum(axis=1, keepdims=True)
    binned = shares.reshape(channels, 32, 8).sum(axis=2)
    centres = (np.arange(32) * 8 + 3.5).tolist()
    series = [
        Series(name, centres, binned[place].tolist(), _COLOURS.get(name, SERIES[place % len(SERIES)]))
        for place, name in enumerate(names)
    ]
    drawn = figure(lines(series[:10], "Share of the pixels", "value", from_zero=True), "In 32 steps from 0 to 255.")
    rows = [
        [name, *(f"{value:.4f}" for value in (*pixels, *images))]
        for name, pixels, images in zip(names, part.of_pixels, part.of_images, strict=True)
    ]
    heading = ("channel", "mean", "std", "mean, images alike", "std, images alike")
    note = "In 0 to 1, over all pixels; then where each image counts alike, whatever its size."
    return f"<div class='pair'>{drawn}<div>{table(heading, rows, 'Channels')}<p class='note'>{note}</p></div></div>"


def _broken(found: Account) -> str:
    rows = [(_below(found, name), reason) for name, reason in found.unreadable.items()]
    if not rows:
        return ""
    more = f"<p class='note'>The first {_ROWS:,} of {len(rows):,}.</p>" if len(rows) > _ROWS else ""
    return table(("image", "why"), rows[:_ROWS], "What cannot be read") + more
