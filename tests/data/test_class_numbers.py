"""Names of classes that could be meant otherwise are told."""

from pathlib import Path

import pytest

from selfsup.data.class_numbers import doubts
from selfsup.data.opening import told
from selfsup.data.sources import open_source
from tests.support.pictures import folder_of

TWINS = "differ by case or spaces alone"
FRACTIONS = "numbers with fractions"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("Ant", "ant", "bee"), f"the classes Ant and ant {TWINS}"),
        (("ant", "bee", "bee "), f"the classes bee and bee  {TWINS}"),
        (("0.1", "0.47", "1", "2.5"), f"{FRACTIONS} (0.1, 0.47, 1, ...)"),
        (("-1e-3", "1.5"), f"{FRACTIONS} (-1e-3, 1.5)"),
        (("0.0", "1.0"), ""),  # whole numbers, as pandas writes them
        (("1.5", "car"), ""),
        (("0.5",), ""),
        (("ant", "ants", "bee"), ""),
        ((), ""),
    ],
)
def test_doubtful_names(names: tuple[str, ...], words: str) -> None:
    said = doubts(names)
    assert len(said) == bool(words)
    assert words in "".join(said)


def test_doubts_are_said_of_the_classes_that_have_images(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", 4, ("Ant", "ant"))
    source = open_source(str(root))
    assert told(source, "train").endswith(f"2 classes; the classes Ant and ant {TWINS}")
    assert TWINS not in told(source.select((source.labels == 0).nonzero().flatten()), "train")
