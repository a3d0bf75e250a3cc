"""What stands in the documents: blocks of code, links and where they lead, and tables that a tool writes."""

import re
from pathlib import Path
from typing import NamedTuple

_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)  # within a line, or over its end
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_BARE = re.compile(r"<(https?://[^>\s]+)>")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_LIST_AFTER_TEXT = re.compile(r"^(?![-*#>|` ]|\d+\. |\s*$|<!--).*\n(?:[-*] |\d+\. )", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of code."""

    language: str  # "" where none is named
    code: str
    line: int  # of its first line of code, from 1


class Link(NamedTuple):
    """Where a page points to."""

    target: str
    line: int


def with_table(text: str, table: str) -> str:
    """The document with the table between its marks."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{table}{_END}{after}"


def blocks(text: str) -> list[Block]:
    """The fenced blocks of code, from top to bottom."""
    return [
        Block(found["language"], found["code"], text.count("\n", 0, found.start("code")) + 1)
        for found in _FENCE.finditer(text)
    ]


def prose(text: str) -> str:
    """The document with its code blanked out, line for line as long as before."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])

    return _CODE.sub(blank, _FENCE.sub(blank, text))


def links(text: str) -> list[Link]:
    """The links and pictures of a document, those in code left out."""
    plain = prose(text)
    found = sorted([*_LINK.finditer(plain), *_BARE.finditer(plain)], key=lambda match: match.start())
    return [Link(match[1], plain.count("\n", 0, match.start()) + 1) for match in found]


def anchors(text: str) -> set[str]:
    """The names by which links reach its headings, as GitHub and the site make them."""
    without_code = _FENCE.sub("", text)
    return {anchor(heading) for heading in _HEADING.findall(without_code)}


def anchor(heading: str) -> str:
    """The name of a heading: lower case, letters, digits, `_` and `-` alone, a `-` for each space."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain).strip().lower().replace(" ", "-")


def pages(root: Path) -> list[Path]:
    """The documents of a checkout."""
    return [root / "README.md", root / "CHANGELOG.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def faults(root: Path) -> list[str]:
    """What is wrong with the links and lists of the documents of a checkout, a sentence each.

    Links to files and headings must lead somewhere, and stay within the checkout. A list needs an empty line before it,
    or the site takes it for a part of the paragraph. Addresses elsewhere are not looked at.
    """
    found = []
    for page in pages(root):
        text, name = page.read_text(), page.relative_to(root)
        found += [f"{name}:{link.line}: {wrong}" for link in links(text) if (wrong := _fault(root, page, link.target))]
        found += [
            f"{name}:{text.count(chr(10), 0, match.start()) + 2}: a list without an empty line before it"
            for match in _LIST_AFTER_TEXT.finditer(prose(text))
        ]
    return found


def elsewhere(root: Path) -> dict[str, list[str]]:
    """Addresses outside of the checkout, each with the pages and lines that name it."""
    found: dict[str, list[str]] = {}
    for page in pages(root):
        for link in links(page.read_text()):
            if link.target.startswith(("http://", "https://")):
                found.setdefault(link.target, []).append(f"{page.relative_to(root)}:{link.line}")
    return found


def _fault(root: Path, page: Path, target: str) -> str:
    """Why a link leads nowhere; "" where it leads somewhere or is not looked at."""
    if re.match(r"[a-z]+:", target):
        return ""
    path, _, heading = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.is_relative_to(root.resolve()):
        return f"{target} leads out of the checkout"
    if not file.exists():
        return f"{target} is not there"
    if heading and file.suffix == ".md" and heading not in anchors(file.read_text()):
        return f"{target}: there is no such heading"
    return ""
