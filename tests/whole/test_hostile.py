"""Files that mean harm: nothing in them is run, and a clear message is all that they cause."""

import json
from pathlib import Path

import pytest

from selfsup.config.settings import dump, restore
from selfsup.output import message
from selfsup.pretraining import Run
from selfsup.stages.embed import _as_csv, _as_unicode
from selfsup.storage import untrusted
from tests.support.corpus import HOSTILE, attempt
from tests.support.hostile_encoders import deep
from tests.support.hostile_place import Hostile, good_runs
from tests.support.sealed_files import put, rewrite
from tests.support.tiny import tiny_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_runs(tmp_path_factory.mktemp("runs"))


# A part of each kind; tests/reliability/hostile.py tries them all.
@pytest.mark.parametrize("hostile", HOSTILE[::5], ids=lambda hostile: hostile.name)
def test_a_hostile_file_is_refused_or_does_no_harm(hostile: Hostile, runs: Path, tmp_path: Path) -> None:
    assert attempt(hostile, tmp_path, runs) == []


def test_no_two_hostile_files_are_one() -> None:
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE) > 100


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ä 猫 and\nmore", "plain Ä 猫 and\nmore"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),  # the same command in one character
        ("a\rb\x08", "a\\rb\\x08"),
        ("photo\u202egnp.exe", "photo\\u202egnp.exe"),  # reads from the right
        ("\udcff", "\\udcff"),
    ],
)
def test_nothing_in_a_message_drives_a_terminal(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert untrusted.plain(text) == shown
    message(text)
    assert capsys.readouterr().err == shown + "\n"


def test_a_name_is_one_line_and_no_line_is_long() -> None:
    assert untrusted.plain_name("a\nselfsup: all is well") == "a\\nselfsup: all is well"
    assert len(untrusted.plain("x" * 10**6)) < 2100
    assert len(untrusted.plain_name("x" * 10**6)) < 500


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("epochs",), "10", r"epochs = '10'; wanted int"),
        (("epochs",), True, r"epochs = True; wanted int"),
        (("epochs",), 10.0, r"epochs = 10\.0; wanted int"),
        (("compile",), 1, r"compile = 1; wanted bool"),
        (("precision",), "fp64", r"precision = 'fp64'; wanted .*'fp32'"),
        (("data",), "shapes", r"data = 'shapes'; wanted Data"),
        (("data", "root"), None, r"data\.root = None; wanted str"),
        (("data", "limit"), [1], r"data\.limit = \[1\]; wanted int | None"),
        (("augment", "views"), {"class": "os.system"}, r"names class 'os\.system'; allowed here: none"),
        (("augment", "views"), [1], r"augment\.views\.0 = 1; wanted View"),
        (("method", "class"), ["os.system"], r"names class \['os\.system'\]; allowed here: .*instdisc, "),
        (
            ("method",),
            {"class": "simclr", "head": deep(3)},
            r"method\.head = \[\[\[0\]\]\]",
        ),
        (("epochs",), 0, r"epochs is 0; it must be at least 1"),
    ],
)
def test_a_restored_configuration_holds_the_declared_types(keys: tuple[str, ...], value: object, told: str) -> None:
    saved = json.loads(json.dumps(dump(tiny_run(Path("x")))))
    put(value, keys, saved)
    with pytest.raises(ValueError, match=told):
        restore(saved, Run)


def test_a_missing_field_is_named_and_whole_numbers_pass_for_others() -> None:
    saved = dump(tiny_run(Path("x")))
    saved["save_minutes"] = 10
    assert restore(json.loads(json.dumps(saved)), Run).save_minutes == 10
    del saved["augment"]
    with pytest.raises(ValueError, match="configuration of pretrain lacks the field augment"):
        restore(saved, Run)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 100_000, "nested"),
        (json.dumps({"a": deep(60)}), "nested more than 50 deep"),
        ("[1]", "holds a list; wanted a JSON object"),
        ("{", "is not valid JSON"),
        ("9" * 5000, "is not valid JSON"),
    ],
)
def test_json_that_is_not_what_it_should_be_is_refused_by_name(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=told) as error:
        untrusted.read_json(path)
    assert str(path) in str(error.value)
    path.write_text(json.dumps({"a": deep(40)}))
    assert untrusted.read_json(path) == {"a": deep(40)}


def test_the_corpus_would_notice_a_file_that_is_run(runs: Path, tmp_path: Path) -> None:
    """A recipe is code on purpose: as a hostile file it is caught in the act, and so is one that is accepted."""
    code = "from pathlib import Path\nPath({!r}).touch()\n"

    def write(place):
        recipe = place.recipe
        recipe.write_text(code.format(str(place.marker)) + recipe.read_text())
        return ["pretrain", str(recipe)]

    problems = attempt(Hostile("a recipe", write), tmp_path, runs)
    assert [problem.partition(":")[0] for problem in problems] == [
        "something in it was run, or written outside",
        "ended with 0",
    ]


def test_a_changed_file_with_a_right_checksum_is_what_the_corpus_makes(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes((runs / "run" / "config.json").read_bytes())
    rewrite(path, lambda content: put("elsewhere", ("run", "data", "root"), content))
    assert untrusted.read_json(path)["run"]["data"]["root"] == "elsewhere"


def test_names_that_are_no_text_reach_the_tables() -> None:
    """A CSV has their bytes, as they are on the disk; Parquet can only say that there was something."""
    assert _as_csv({"path": ["\udcff.png"], "label": [1]}) == b"path,label\n\xff.png,1\n"
    assert _as_unicode("ä\udcff.png") == "ä\ufffd.png"
