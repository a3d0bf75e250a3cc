"""The pages of docs/methods say what the code says: methods, options and defaults, recipes, figures, drawings."""

import re
from dataclasses import MISSING, fields, is_dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from selfsup.catalogue import Entry, catalogue
from selfsup.config.recipe_files import recipe_names
from selfsup.config.stored_names import descendants
from selfsup.methods.pair_loss import PairLoss
from selfsup.models.heads import Head, PlainHead
from tests.support.places import ROOT
from tools.draw_methods import drawing
from tools.method_flows import FLOWS

FOLDER = ROOT / "docs" / "methods"
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md"))}
TOGETHER = {"supmoco": "supcon"}  # a method that is on another one's page
# The classes of settings that the pages tell of, by the name in the heading of their table.
CONFIGS = {entry.method.__name__ for entry in catalogue()}
SHIPPED = [kind for kind in descendants(PairLoss.Config) if kind.__module__ == "selfsup.methods.pair_losses"]
PARTS: dict[str, Any] = {
    kind.__qualname__.partition(".")[0]: kind for kind in (*SHIPPED, Head.Config, PlainHead.Config)
}


def page_of(entry: Entry) -> str:
    name = str(entry.method.Config.stored_as)  # type: ignore[attr-defined]
    return TOGETHER.get(name, name)


def written(value: Any) -> str:
    """A default as the pages write it."""
    if is_dataclass(value):
        changed = [
            f"{field.name}={written(getattr(value, field.name))}"
            for field in fields(value)
            if getattr(value, field.name) != default(field)
        ]
        return f"{type(value).__qualname__.removesuffix('.Config')}({', '.join(changed)})"
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else repr(value)


def default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def options(text: str, name: str) -> dict[str, str]:
    """The options of a class, by the table below its heading: name -> default."""
    _, heading, rest = text.partition(f"### `{name}.Config`\n")
    assert heading, f"no heading for {name}.Config"
    table = re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \|$", table, flags=re.MULTILINE))


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.method.__name__)
def test_every_method_has_a_page_with_all_its_options(entry: Entry) -> None:
    page = page_of(entry)
    expected = {field.name: written(default(field)) for field in fields(entry.method.Config)}
    assert options(PAGES[page], entry.method.__name__) == expected
    assert f"({page}.md" in PAGES["index"], "the index has no link to it"
    assert all(word in PAGES[page] for word in (paper.split()[0] for paper in entry.about.papers))
    for recipe in entry.recipes:
        assert f"`{recipe}`" in PAGES[page], "a recipe is not on the page"


@pytest.mark.parametrize("name", PARTS)
def test_losses_and_heads_have_all_their_options_on_a_page(name: str) -> None:
    text = PAGES["index" if "Head" in name else "metric"]
    assert options(text, name) == {field.name: written(default(field)) for field in fields(PARTS[name])}


def test_no_table_is_of_a_class_that_is_gone() -> None:
    headings = {name for text in PAGES.values() for name in re.findall(r"^### `(\w+)\.Config`$", text, re.MULTILINE)}
    assert headings == CONFIGS | set(PARTS)
    assert len(headings) > 20


def test_every_page_shows_its_drawing_and_its_plain_file() -> None:
    names = {path.stem for path in (FOLDER / "plain").glob("*.py")}
    assert names == {path.stem for path in (FOLDER / "drawn").glob("*.svg")} == set(FLOWS)
    assert {TOGETHER.get(name, name) for name in names} == set(PAGES) - {"index"}
    for name in names:
        text = PAGES[TOGETHER.get(name, name)]
        assert f"](drawn/{name}.svg)" in text
        assert f"](plain/{name}.py)" in text
        assert f'```python\n--8<-- "docs/methods/plain/{name}.py"\n```' in text


def test_recipes_and_links_exist() -> None:
    recipes = set(recipe_names())
    for name, text in PAGES.items():
        for recipe in re.findall(r"selfsup (?:pretrain|semi) (\w+)", text):
            assert recipe in recipes, f"{name}: {recipe}"
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = target.partition("#")
            if file.startswith("https:"):
                continue
            path = FOLDER / file if file else FOLDER / f"{name}.md"
            assert path.exists(), f"{name}: {target}"
            assert path.resolve().is_relative_to(ROOT / "docs"), f"{name}: {target} is not in docs/"
            assert not anchor or anchor in anchors(path), f"{name}: {target}"


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, as a site and GitHub name them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_figures_that_were_measured_are_those_of_the_results() -> None:
    results = "".join(path.read_text() for path in (ROOT / "docs" / "results").glob("*.md"))
    found = [(name, figure) for name, text in PAGES.items() for figure in re.findall(r"\b0\.\d{4}\b", text)]
    assert len(found) > 80
    assert not [pair for pair in found if pair[1] not in results]


@pytest.mark.parametrize("name", FLOWS)
def test_a_drawing_is_that_of_its_description(name: str) -> None:
    """And nothing overlaps, no word is wider than its box, and all lie on the paper."""
    text = drawing(FLOWS[name])
    assert (FOLDER / "drawn" / f"{name}.svg").read_text() == text, "draw again: python -m tools.draw_methods"
    root = ElementTree.fromstring(text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    grounds = [shape for shape in root if shape.tag.endswith("rect")]
    places = [[float(shape.attrib[key]) for key in ("x", "y", "width", "height")] for shape in grounds]
    assert len(places) > len(FLOWS[name].boxes)
    for x, y, wide, high in places:
        assert x >= 0 <= y
        assert x + wide <= width
        assert y + high <= height
    boxes = [place for place in places if place[2] > 100 and place[3] > 40]
    assert len(boxes) == len(FLOWS[name].boxes)
    for (x, y, wide, high), (u, v, w, h) in combinations(boxes, 2):
        assert x + wide <= u or u + w <= x or y + high <= v or v + h <= y, "boxes overlap"
    for words in (shape for shape in root if shape.tag.endswith("text")):
        x, y, size = (float(words.attrib[key]) for key in ("x", "y", "font-size"))
        half = len(words.text or "") * size * 0.5 / 2
        assert any(u <= x - half and x + half <= u + w and v <= y <= v + h for u, v, w, h in places), words.text
