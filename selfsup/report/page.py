"""The page itself: one file that asks for nothing, readable without scripts, in light and dark."""

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from selfsup.report.markup import text

LIMIT = 2_500_000  # bytes of a page
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
_POLICY_WITHOUT_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_HERE = files("selfsup.report")
_CURVES = "vendor/uplot/uPlot.iife.min.js"


class Section(NamedTuple):
    """A part of a page with a heading."""

    name: str  # in the address, #name
    title: str
    body: str  # markup
    short: str = ""  # of the title, for the contents; empty: all of it


def page(title: str, lead: str, sections: Sequence[Section], data: dict[str, Any]) -> str:
    """A page of sections.

    Args:
        title: as a word; it is escaped here.
        lead: markup below the title.
        sections: in their order; each is a line of the contents.
        data: for the scripts: "curves" and "map", see page.js. Curves bring uPlot with them.
    """
    contents = "".join(
        f"<li><a href='#{section.name}'>{text(section.short or section.title)}</a></li>" for section in sections
    )
    body = "".join(
        f"<section id='{section.name}' aria-labelledby='{section.name}-title'>"
        f"<h2 id='{section.name}-title'>{text(section.title)}</h2>{section.body}</section>"
        for section in sections
    )
    navigation = f"<nav aria-label='Contents'><ul class='wide'>{contents}</ul></nav>"
    return f"{opening(title, lead, navigation, _styles(data), _POLICY)}{body}</main>{_scripts(data)}</body></html>\n"


def without_scripts(title: str, lead: str, pieces: Iterable[str]) -> Iterator[str]:
    """A page that is written piece by piece, however many there are: it has no scripts and no contents.

    Args:
        title: as a word; it is escaped here.
        lead: markup below the title.
        pieces: markup, one after the other.
    """
    yield opening(title, lead, "", _read("style.css"), _POLICY_WITHOUT_SCRIPTS)
    yield from pieces
    yield "</main></body></html>\n"


def opening(title: str, lead: str, navigation: str, styles: str, policy: str) -> str:
    """A page up to its content."""
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<meta name='color-scheme' content='light dark'><title>{text(title)}</title>"
        f"<style>{styles}</style></head><body>"
        "<a class='skip' href='#content'>Skip to the content</a>"
        f"<header><div class='wide'><h1>{text(title)}</h1>{lead}</div>{navigation}</header>"
        "<main id='content' class='wide'>"
    )


def _read(name: str) -> str:
    return _HERE.joinpath(name).read_text(encoding="utf-8")


def _styles(data: dict[str, Any]) -> str:
    vendored = _read("vendor/uplot/uPlot.min.css") if data.get("curves") else ""
    return f"{vendored}\n{_read('style.css')}"


def _scripts(data: dict[str, Any]) -> str:
    """The data, which are no program, then the programs."""
    licence = _read("vendor/uplot/LICENSE") if data.get("curves") else ""
    vendored = f"/*\n{licence}*/\n{_read(_CURVES)}" if data.get("curves") else ""
    content = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
    return (
        f"<script type='application/json' id='page-data'>{content}</script>"
        + (f"<script>{vendored}</script>" if vendored else "")
        + f"<script>{_read('page.js')}</script>"
    )
