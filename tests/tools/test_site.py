"""The site holds every page and every public name; mkdocs itself runs in tools/test, beside the tests."""

from pathlib import Path

import pytest

pytest.importorskip("mkdocs")

import griffe
import yaml

import selfsup
from tests.support.places import ROOT
from tools import site
from tools.field_comments import FieldComments, comment


def navigation() -> list[object]:
    """Of mkdocs.yml, without what only mkdocs can read."""
    text = (ROOT / "mkdocs.yml").read_text()
    found: list[object] = yaml.safe_load(text[text.index("nav:") : text.index("theme:")])["nav"]
    return found


def test_the_navigation_leads_to_every_page_once() -> None:
    docs = ROOT / "docs"
    there = [path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.md"))]
    there += list(site.generated())
    assert sorted(site.named_pages(site.expanded(navigation(), there))) == sorted(there)


def test_patterns_become_pages_and_empty_sections_nothing() -> None:
    pages = ["a.md", "m/z.md", "m/index.md", "m/b.md", "m/deep/c.md"]
    nav = [{"A": ["a.md"]}, {"M": ["m/*.md"]}, {"None": ["x/*.md"]}]
    assert site.expanded(nav, pages) == [{"A": ["a.md"]}, {"M": ["m/index.md", "m/b.md", "m/z.md"]}]


def test_the_reference_explains_every_public_name() -> None:
    page = site.generated()["reference/index.md"]
    for name in selfsup.__all__[1:]:
        assert f"| [`{name}`](" in page
    for name, (_, wanted) in site.REFERENCE.items():
        for part in wanted:
            for module in site.modules(part):
                path = ROOT / "selfsup" / f"{module.replace('.', '/')}.py"
                assert path.is_file() or (path.parent.with_suffix(".py")).is_file(), (name, module)


def test_a_public_name_without_a_place_stands_on_a_page_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.reference().items() >= site.REFERENCE.items()
    monkeypatch.setattr(site, "REFERENCE", {"losses": ("Losses", ("losses",))})
    assert "search.index.Index" in site.reference()["more"][1]
    assert not [name for name in site.reference()["more"][1] if name.startswith("losses.")]
    assert "(more.md#selfsup.search.index.Index)" in site.generated()["reference/index.md"]


def test_links_hold_within_the_site() -> None:
    at_root = (
        "[a](docs/data.md#x) [b](CHANGELOG.md) [c](recipes/) [d](https://e.org) [e](#own) [f](docs/benchmarks/cpu.md)"
    )
    assert site._for_site(at_root, at_root=True) == (
        "[a](data.md#x) [b](changelog.md) c [d](https://e.org) [e](#own) [f](benchmarks/cpu.md)"
    )
    assert site._for_site("[a](../README.md#images) [b](../recipes/x.py) [c](data.md)", at_root=False) == (
        "[a](readme.md#images) b [c](data.md)"
    )
    assert (
        site._for_site("[a](../../README.md) [c](../data.md)", at_root=False, up="../")
        == "[a](../readme.md) [c](../data.md)"
    )


def test_formulas_become_mathml() -> None:
    html = '<p>x <span class="arithmatex">\\(a_i &lt; b\\)</span></p><div class="arithmatex">\\[\\frac{a}{b}\\]</div>'
    found = site.on_page_content(html, page=None, config=None, files=None)  # type: ignore[arg-type]
    assert "arithmatex" not in found
    assert found.count("<math") == 2
    assert "<mfrac>" in found
    assert "&#x0003C;" in found  # <


def test_comments_on_fields_are_documentation() -> None:
    lines = ["# no", "", "# One", "# two.", "a: int = 1  # three # four", "b: str = ''", 'c: str = "#"  # five']
    assert comment(lines, 5, 5) == "One two. three # four"
    assert comment(lines, 6, 6) == ""
    assert comment(lines, 7, 7) == "five"
    package = griffe.load(
        "selfsup.methods.moco",
        search_paths=[ROOT],
        extensions=griffe.load_extensions(FieldComments),
        allow_inspection=False,
    )
    config = package["MoCo.Config"]
    assert config.docstring.value == "Settings of `MoCo`."
    assert config["queue_size"].docstring.value == "K, number of older keys; 0, with batch_negatives: none"
    assert config["batch_norm"].docstring.value.startswith("A key that shares batch norm with its query")


def test_a_notebook_is_a_page(tmp_path: Path) -> None:
    page = site.notebook_page(ROOT / "docs" / "first_look.ipynb")
    assert page.startswith("# A first look")
    assert page.count("```python\n") >= 5
