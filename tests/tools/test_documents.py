"""What the documents point to is there: files, headings, pages of the site, names and flags; their code is run."""

import re
from pathlib import Path

import pytest

import selfsup
from selfsup.config.flags import flag_names
from selfsup.config.recipe_files import load_recipe, recipe_names
from selfsup.config.recipe_record import published
from selfsup.usage import USAGE
from tests.support.places import ROOT
from tools.docs import FOLLOWED, faults_of_page, reproducing
from tools.documents import Block, Link, anchor, anchors, blocks, elsewhere, faults, links, pages, with_table

# Blocks of Python by a word in each, and the test that runs it; those of FOLLOWED pages are run by test_follow.py.
RUN_BY = {
    "README.md": {
        "recipe = Run(": "tests/whole/test_public.py::test_the_recipe_of_the_readme_is_one",
        "selfsup.load(": "tests/whole/test_public.py::test_the_readme_embeds_files",
    },
    "docs/adding_a_method.md": {
        "class DCL": "tests/whole/test_adding_a_method.py::test_the_example_keeps_every_contract",
        "recipe = Run(": "tests/whole/test_adding_a_method.py::test_the_example_is_found_and_trains",
        "Case(name=": "tests/whole/test_adding_a_method.py::test_the_example_keeps_every_contract",
        "def dcl_loss": "tests/whole/test_adding_a_method.py::test_the_example_keeps_every_contract",
    },
    "docs/encoders.md": {
        "Timm.Config": "tests/whole/test_public.py::test_the_encoders_of_the_documents_are_some",
        "class Plain": "tests/whole/test_public.py::test_the_encoders_of_the_documents_are_some",
    },
    "docs/export.md": {
        "InferenceSession": "tests/tools/test_journey.py::test_all_commands_lead_to_a_program_that_decides_alike",
        "FORMAT = Format": "tests/whole/test_public.py::test_layouts_and_formats_of_the_documents_can_be_made",
    },
    "docs/library.md": {
        "CIFAR10": "tests/whole/test_public.py::test_the_documents_train_on_a_torch_data_set",
        "teacher = copy.deepcopy": "tests/whole/test_public.py::test_the_loops_of_the_documents_learn",
        "accelerator.prepare": "tests/whole/test_public.py::test_the_loops_of_the_documents_learn",
    },
    "docs/search.md": {"Index.build": "tests/whole/test_public.py::test_the_documents_search"},
    "docs/weights.md": {
        "moco_v2_800ep": "tests/whole/test_public.py::test_the_documents_load_weights_of_another_project",
        "LAYOUT = Layout": "tests/whole/test_public.py::test_layouts_and_formats_of_the_documents_can_be_made",
    },
}


def test_links_lead_somewhere_and_lists_are_lists() -> None:
    assert faults(ROOT) == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        (tmp_path / name).write_text("# x\n")
    (tmp_path / "README.md").write_text("# A `b` c\n\n[x](docs/one.md#there) [y](#a-b-c) ![z](docs/none.svg)\n")
    (docs / "one.md").write_text(
        "# There\n\n[up](../README.md#no) [out](../../x) `[code](nowhere.md)`\n\ntext:\n- a\n\n"
        "```\n[x](nowhere.md)\n```\n"
        "[split\nlink](gone.md) <https://example.org/a> [far](https://example.org/b)\n"
    )
    assert faults(tmp_path) == [
        "README.md:3: docs/none.svg is not there",
        "docs/one.md:3: ../README.md#no: there is no such heading",
        "docs/one.md:3: ../../x leads out of the checkout",
        "docs/one.md:11: gone.md is not there",
        "docs/one.md:6: a list without an empty line before it",
    ]
    assert elsewhere(tmp_path) == {
        "https://example.org/a": ["docs/one.md:12"],
        "https://example.org/b": ["docs/one.md:12"],
    }


def test_blocks_links_and_headings() -> None:
    text = "# One, `two` & [three](x.md)\n\n```python\n# no heading\na\n```\n\n- b\n\n  ```sh\n  c\n  ```\n"
    assert blocks(text) == [Block("python", "# no heading\na\n", 4), Block("sh", "  c\n", 11)]
    assert links(text) == [Link("x.md", 1)]
    assert anchors(text) == {"one-two--three"}
    assert anchor("`selfsup search`: what looks like this?") == "selfsup-search-what-looks-like-this"


def test_every_block_of_python_is_run_by_a_test() -> None:
    for page in pages(ROOT):
        name = str(page.relative_to(ROOT))
        found = [block for block in blocks(page.read_text()) if block.language == "python"]
        if page.name in FOLLOWED or name.startswith("docs/methods/"):
            continue
        words = RUN_BY.get(name, {})
        assert len(found) == len(words), f"{name} has {len(found)} blocks of Python, and {len(words)} are run"
        for word, test in words.items():
            assert sum(word in block.code for block in found) == 1, (name, word)
            file, function = test.split("::")
            assert re.search(rf"\b{function}\b", (ROOT / file).read_text()), test


def test_names_of_the_library_that_documents_mention_are_there() -> None:
    modules = {path.stem for path in (ROOT / "selfsup").iterdir()} | {"recipes"}
    for page in pages(ROOT):
        for name in set(re.findall(r"\bselfsup\.([A-Za-z_]\w*)(?!\w*[/-])", page.read_text())):
            assert name in selfsup.__all__ or name in modules, f"{page.name}: selfsup.{name}"


def known_flags() -> set[str]:
    """Of all recipes, and those that stand in the documents below of other commands."""
    known = {flag for name in recipe_names() for flag in flag_names(load_recipe(name))}
    return {f"--{flag.lstrip('-').replace('_', '-')}" for flag in known} | {
        *("--size", "--layer", "--protocol", "--out", "--lr", "--data", "--help", "--for"),
        *("--k", "--similarity", "--keep", "--to", "--preprocessing"),
        *("--labelled.per-class", "--labelled.fraction", "--labelled.shares", "--temperature", "--write"),
    }


def test_flags_in_the_place_of_those_of_others_are_there() -> None:
    """docs/coming_from.md: what stands in the column of selfsup."""
    told = set()
    for line in (ROOT / "docs" / "coming_from.md").read_text().splitlines():
        if line.startswith("| "):
            told |= set(re.findall(r"(--[a-z][\w.-]*)", line.split(" | ")[1]))
    assert len(told) > 30
    assert not told - known_flags()


@pytest.mark.parametrize("page", ["collapse.md", "tutorial.md", "reproducing.md", "index.md"])
def test_flags_of_a_page_are_there(page: str) -> None:
    text = re.sub(r"accelerate launch --\w+", "", (ROOT / "docs" / page).read_text())
    assert not set(re.findall(r"(?<![\w-])(--[a-z][\w.-]*\w)", text)) - known_flags()


def test_commands_and_recipes_that_documents_name_are_there() -> None:
    commands = set(re.findall(r"^  selfsup (\w+)", USAGE, flags=re.MULTILINE))
    recipes = {*recipe_names(), "RECIPE", "my_recipe", "recipe", "dcl_cifar10_cpu"}
    for page in pages(ROOT):
        text = page.read_text()
        named = set(re.findall(r"(?:`|^    |^)selfsup ([a-z]+)\b", text, flags=re.MULTILINE))
        assert not named - commands, page.name
        assert not set(re.findall(r"selfsup pretrain (\w+)", text)) - recipes, page.name


def test_layouts_that_are_named_are_there() -> None:
    from selfsup.convert.table import table

    text = (ROOT / "docs" / "coming_from.md").read_text()
    told = {
        name
        for sentence in re.findall(r"of the layouts? [^.;]*[.;]", text)
        for name in re.findall(r"`(\w+)`", sentence)
    }
    assert len(told) >= 9
    assert told <= set(table())


def test_published_recipes_are_told_as_their_files_tell_them() -> None:
    text = (ROOT / "docs" / "reproducing.md").read_text()
    assert with_table(text, reproducing()) == text, "write it anew: python -m tools.docs --write"
    assert {"moco_v2_imagenet", "simclr_cifar10", "supcon_cifar10", "spcl_wildlife"} <= set(published())
    assert not [name for name in published() if name.endswith(("_cpu", "_folder"))]


@pytest.mark.parametrize(
    ("html", "wrong"),
    [
        ('<script src="https://cdn.example.org/x.js"></script>', 1),
        ('<link rel="stylesheet" href="//fonts.example.org/css">', 1),
        ('<img src="a.svg"><a href="https://example.org">x</a><script src="b.js"></script>', 0),
        (f"<p>{ROOT}/docs</p>", 1),
    ],
)
def test_a_built_page_asks_for_nothing_from_elsewhere(html: str, wrong: int, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text(html)
    assert len(faults_of_page(tmp_path / "x.html", tmp_path)) == wrong
