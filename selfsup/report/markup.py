"""Pieces of a page. All that comes from files, names and settings goes through `text`; the rest is written here."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selfsup.report.drawing import Drawing, svg
from selfsup.storage.untrusted import plain_name

_LONGEST = 200  # characters of a word from a file
_ROWS = 600  # of flattened settings


def text(word: object, longest: int = _LONGEST) -> str:
    """A word as a part of a page, whatever it is: no markup, no control characters, not endless."""
    return html.escape(plain_name(word, longest))


def details(summary: str, body: str) -> str:
    """Something that is folded away; `summary` is a word of ours."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def protocol(found: Mapping[str, Any]) -> str:
    """How figures came about, folded away."""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(shown(value))}</dd>" for name, value in found.items())
    return details("Protocol", f"<dl class='facts'>{rows}</dl>") if rows else ""


def shown(value: Any) -> str:
    """A value of settings or protocols as people read it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return json.dumps(value)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what they are, side by side."""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs)
    return f"<dl class='facts'>{rows}</dl>"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> str:
    """A table that scrolls by itself where it is too wide or too long; cells that are numbers stand on the right."""
    cells = [list(row) for row in rows]
    head = "".join(
        f"<th scope='col'{_kind(bool(cells) and all(_numeric(row[at]) for row in cells))}>{text(word)}</th>"
        for at, word in enumerate(heading)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in cells)
    return (
        f"<div class='scroll' tabindex='0' role='group' aria-label='{text(name)}'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(word: str) -> str:
    return f"<td{_kind(_numeric(word))}>{text(word)}</td>"


def _kind(numeric: bool) -> str:
    return " class='number'" if numeric else ""


def _numeric(word: str) -> bool:
    return word.replace(",", "").replace(".", "").replace("%", "").replace("-", "").replace("e", "").isdecimal()


def figure(
    drawing: Drawing, caption: str, how: Mapping[str, Any] | None = None, curve: str = "", wide: bool = False
) -> str:
    """A drawing with its caption and its protocol.

    Args:
        drawing: it.
        caption: a sentence or two below the title.
        how: the protocol.
        curve: the name of the data by which scripts draw it anew.
        wide: whether it scrolls by itself where the page is narrow, so that its letters stay readable.
    """
    shape = svg(drawing)
    if wide:
        shape = f"<div class='across' tabindex='0' role='group' aria-label='{text(drawing.title)}'>{shape}</div>"
    interactive = f" data-curve='{text(curve)}'" if curve else ""
    return (
        f"<figure{interactive}><figcaption>{text(drawing.title)}"
        + (f"<span class='note'>{text(caption, 600)}</span>" if caption else "")
        + f"</figcaption>{shape}{protocol(how or {})}</figure>"
    )


def picture(mark: str, alternative: str, kind: str = "") -> str:
    """An image of the album; its mark becomes its address."""
    told = text(alternative)
    return f"<img src='{mark}' alt='{told}' title='{told}'{f' class={kind!r}' if kind else ''}>"


def flattened(settings: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows: ("method.temperature", "0.2"); long lists of numbers stay in one."""
    rows: list[tuple[str, str]] = []
    if isinstance(settings, dict):
        for key, value in settings.items():
            rows += flattened(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, list) and any(isinstance(item, dict | list) for item in settings):
        for place, item in enumerate(settings):
            rows += flattened(item, f"{name}.{place}")
    else:
        rows.append((name, shown(settings)))
    return rows[:_ROWS]
