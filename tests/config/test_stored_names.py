"""Names on disk: classes are stored by names that do not depend on where the code lies, whoever wrote the file."""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from selfsup.config.recipe_files import load_recipe, recipe_names
from selfsup.config.schema import PLACES
from selfsup.config.settings import dump, restore
from selfsup.config.stored_names import class_named, name_of, place_of, stored_name
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.pretraining import Run
from tests.support.stored import Mine, in_places, storable
from tests.support.tiny import tiny_run


class OwnNet:
    @dataclass(frozen=True)
    class Config(ResNet.Config):
        pass


def test_every_class_that_is_stored_declares_its_own_name() -> None:
    classes = storable()
    assert len(classes) > 50
    assert [place_of(kind) for kind in classes if "stored_as" not in vars(kind)] == []
    names = [stored_name(kind) for kind in classes]
    assert sorted(set(names)) == sorted(names)


def test_the_table_of_schema_1_is_closed_and_complete() -> None:
    known = {name_of(kind): kind for kind in storable()}
    assert len(set(PLACES.values())) == len(PLACES) == 52  # as many classes as there were; later ones have names alone
    for place, name in PLACES.items():
        assert place.endswith(f".{known[name].__qualname__}")
        assert class_named(place, [known[name]]) is known[name]


@contextlib.contextmanager
def moved() -> Iterator[None]:
    """Every class of settings elsewhere, and called otherwise."""
    places = {kind: (kind.__module__, kind.__qualname__) for kind in storable()}
    try:
        for number, kind in enumerate(places):
            kind.__module__, kind.__qualname__ = "elsewhere.deep", f"Other{number}.Settings"
        yield
    finally:
        for kind, place in places.items():
            kind.__module__, kind.__qualname__ = place


@pytest.mark.parametrize("name", recipe_names())
def test_code_that_is_moved_and_renamed_stores_the_same(name: str) -> None:
    recipe = load_recipe(name)
    before = json.dumps(dump(recipe))
    with moved():
        assert json.dumps(dump(recipe)) == before
        assert restore(json.loads(before), Run) == recipe
        assert restore(in_places(json.loads(before)), Run) == recipe  # as schema 1 has them, by where they lay then


def test_a_name_is_made_of_the_class_where_none_is_declared() -> None:
    @dataclass(frozen=True)
    class TwoXBMHeads(SGD.Config):
        pass

    @dataclass(frozen=True)
    class Config(SGD.Config):
        pass

    made = {name_of(kind) for kind in (Mine, OwnNet.Config, TwoXBMHeads, Config)}
    assert made == {"mine", "own_net", "two_xbm_heads", "config"}  # none has what it is made from
    run = tiny_run(Path("x"), method="simclr", optimizer=TwoXBMHeads(), encoder=OwnNet.Config(depth="small"))
    assert restore(json.loads(json.dumps(dump(run))), Run) == run


@dataclass(frozen=True)
class Lamp:
    """What a field may hold, of a family of its own: classes of a test outlive it."""


@dataclass(frozen=True)
class Room:
    lamp: Lamp


@pytest.mark.parametrize("name", ["", "My.Name", "sgd ", "SGD", 7])
def test_what_is_no_name_is_refused(name: object) -> None:
    @dataclass(frozen=True)
    class Wrong:
        stored_as: ClassVar[Any] = name

    with pytest.raises(ValueError, match=r"Wrong has stored_as = .*; wanted a word of small letters"):
        dump(Wrong())


def test_two_classes_of_one_name_are_refused_where_they_are_written_and_where_they_are_read() -> None:
    @dataclass(frozen=True)
    class Candle(Lamp):
        pass

    alone = dump(Room(Candle()))
    assert restore(alone, Room) == Room(Candle())

    @dataclass(frozen=True)
    class Torch(Candle):
        stored_as: ClassVar[str] = "candle"

    here = re.escape(__name__)
    told = rf"two classes are stored as 'candle': {here}\.\S+Candle and {here}\.\S+Torch\n"
    for attempt in (lambda: dump(Room(Candle())), lambda: dump(Room(Torch())), lambda: restore(alone, Room)):
        with pytest.raises(ValueError, match=told + "give yours another name, in its body: stored_as: ClassVar"):
            attempt()


def test_a_recipe_that_is_loaded_twice_is_not_two(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from dataclasses import dataclass, replace\nfrom selfsup.methods.moco import MoCo\n"
        "from selfsup.config.recipe_files import load_recipe\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Slower(MoCo.Config):\n    pace: float = 0.5\n"
        "recipe = replace(load_recipe('moco_v2_cifar10'), method=Slower(pace=0.25))\n"
    )
    first, again = load_recipe(str(path)), load_recipe(str(path))
    assert dump(first) == dump(again)
    assert dump(first)["method"]["class"] == "slower"
    assert restore(dump(first), Run) == again  # the class that was made last


def test_unknown_names_are_answered_with_the_nearest() -> None:
    saved = dump(tiny_run(Path("x")))
    saved["optimizer"]["class"] = "sdg"
    with pytest.raises(ValueError, match=r"class 'sdg'; did you mean sgd\?; allowed here: .*lars, .*sgd"):
        restore(saved, Run)
