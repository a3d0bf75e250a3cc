"""Labelled subsets: drawn from the seed, nested, of every class; lists of names; choices that cannot be made."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from selfsup.config.settings import result_relevant
from selfsup.data.base import ArraySource
from selfsup.data.labelled import Labelled, image_names, names_digest
from selfsup.data.sources import open_source
from tests.support.pictures import folder_of


def source(*sizes: int, unlabelled: int = 0) -> ArraySource:
    """Classes of these sizes, interleaved by chance, and images without a label among them."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)] + [-1] * unlabelled
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    return ArraySource(images, torch.tensor(labels)[order], ("ant", "bee", "cat")[: len(sizes)], "dir/few.npz")


def counts(data: ArraySource, rows: torch.Tensor) -> list[int]:
    assert torch.equal(rows, rows.unique())  # ascending, each once
    return data.labels[rows].bincount(minlength=len(data.classes)).tolist()  # fails on a label of -1


def test_so_many_of_each_class() -> None:
    data = source(40, 100, 61, unlabelled=30)
    assert counts(data, Labelled(per_class=7).choose(data)) == [7, 7, 7]
    assert counts(data, Labelled(fraction=0.1).choose(data)) == [4, 10, 6]  # rounded
    assert counts(data, Labelled(fraction=0.025).choose(data)) == [1, 3, 2]  # halves go up
    assert counts(data, Labelled(fraction=1.0).choose(data)) == [40, 100, 61]
    assert counts(data, Labelled().choose(data)) == [40, 100, 61]
    at_random = counts(data, Labelled(fraction=0.2, balanced=False).choose(data))
    assert sum(at_random) == 40
    assert at_random != [8, 20, 12]


def test_equal_shares_hold_as_many_of_every_class_as_the_published_lists() -> None:
    data = source(40, 100, 61, unlabelled=30)
    assert sorted(counts(data, Labelled(fraction=0.1, shares="equal").choose(data))) == [6, 7, 7]  # of 20.1
    assert counts(data, Labelled(fraction=0.15, shares="equal").choose(data)) == [10, 10, 10]
    firsts = [counts(data, Labelled(fraction=0.1, shares="equal", seed=seed).choose(data)) for seed in range(30)]
    assert {tuple(first) for first in firsts} == {(6, 7, 7), (7, 6, 7), (7, 7, 6)}  # the seed says who has one more
    assert Labelled(fraction=0.1, shares="equal").name == "10pct_equal"
    with pytest.raises(ValueError, match="wants 50 images of every class, but of class ant there are only 40"):
        Labelled(fraction=0.75, shares="equal").choose(data)
    with pytest.raises(ValueError, match=r"gives 2 images for 3 classes; the smallest that would do is 0\.01244"):
        Labelled(fraction=0.01, shares="equal").choose(data)
    assert counts(data, Labelled(fraction=0.01244, shares="equal").choose(data)) == [1, 1, 1]
    with pytest.raises(ValueError, match="shares is equal"):
        Labelled(per_class=3, shares="equal")
    with pytest.raises(ValueError, match="shares is equal"):
        Labelled(fraction=0.5, shares="equal", balanced=False)


def test_choices_of_one_seed_are_nested_and_those_of_another_differ() -> None:
    data = source(40, 100, 61, unlabelled=30)
    chains = [
        [Labelled(per_class=n, seed=3) for n in (1, 4, 10, 40)],
        [Labelled(fraction=f, seed=3) for f in (0.02, 0.1, 0.11, 0.5, 1.0)],
        [Labelled(fraction=f, seed=3, balanced=False) for f in (0.05, 0.1, 0.5, 1.0)],
        [Labelled(fraction=f, seed=3, shares="equal") for f in (0.015, 0.1, 0.11, 0.3, 0.5)],
        [Labelled(per_class=4, seed=3), Labelled(fraction=0.1, seed=3)],
    ]
    for chain in chains:
        chosen = [set(labelled.choose(data).tolist()) for labelled in chain]
        assert all(small < large for small, large in pairwise(chosen)), chain
    first, again, other = (Labelled(per_class=4, seed=seed).choose(data) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_drawn_is_uniform() -> None:
    data = source(4, 4)
    drawn = torch.cat([Labelled(per_class=1, seed=seed).choose(data) for seed in range(400)]).bincount(minlength=8)
    assert int(drawn.min()) > 65  # 100 expected of each
    assert int(drawn.max()) < 135


def test_names_of_folders() -> None:
    named = [Labelled(), Labelled(fraction=0.01), Labelled(fraction=0.1, seed=1), Labelled(fraction=0.005)]
    assert [labelled.name for labelled in named] == ["all", "1pct", "10pct_seed1", "0.5pct"]
    assert Labelled(per_class=10).name == "10_per_class"
    assert Labelled(file="some/list.txt").name == "listed"
    assert Labelled(fraction=0.07, balanced=False).name == "7pct_unbalanced"


def test_a_list_names_images_by_path_or_base_name(tmp_path: Path) -> None:
    data = open_source(str(folder_of(tmp_path / "data", 12, ("x", "y"))))
    names = image_names(data)
    assert names[0] == "x/0000.png"
    listed = tmp_path / "some.txt"
    listed.write_text(f"{names[7]}\n\n0002.png\r\n{names[2]}\n{names[0]}\n")
    assert Labelled(file=str(listed)).choose(data).tolist() == [0, 2, 7]
    chosen = Labelled(per_class=2).choose(data).tolist()
    listed.write_text("\n".join(names[row] for row in chosen))  # what fine-tuning writes
    assert Labelled(file=str(listed)).choose(data).tolist() == chosen
    listed.write_text("0000.png\n0010.png\nx/0010.png\nz.png\n")
    with pytest.raises(ValueError, match=r"holds 2 name\(s\) that are not in the data, the first is x/0010\.png"):
        Labelled(file=str(listed)).choose(data)
    (tmp_path / "data" / "y" / "0000.png").write_bytes((tmp_path / "data" / "x" / "0000.png").read_bytes())
    listed.write_text("0000.png\n")
    with pytest.raises(ValueError, match=r"1 name\(s\) that several images have, the first is 0000\.png"):
        Labelled(file=str(listed)).choose(open_source(str(tmp_path / "data")))
    listed.write_text("x/0000.png\n")
    with pytest.raises(ValueError, match="leaves class y without a labelled image; add images"):
        Labelled(file=str(listed)).choose(open_source(str(tmp_path / "data")))
    with pytest.raises(ValueError, match=r"cannot read labelled\.file .*none\.txt"):
        Labelled(file=str(tmp_path / "none.txt")).choose(data)


def test_images_of_an_array_are_named_by_their_row(tmp_path: Path) -> None:
    data = source(5, 5, unlabelled=3).select(torch.arange(1, 13))
    names = image_names(data)
    assert names[0] == "few.npz[1]"
    listed = tmp_path / "some.txt"
    listed.write_text("\n".join(names))
    with pytest.raises(ValueError, match=r"holds [23] name\(s\) of images without a label"):
        Labelled(file=str(listed)).choose(data)
    assert names_digest(names) != names_digest(names[1:])
    # Where the list lies is not part of what a run computes.
    assert result_relevant(Labelled(file="a")) == result_relevant(Labelled(file="b"))


def test_choices_that_cannot_be_made() -> None:
    data = source(200, 80, 30)
    with pytest.raises(
        ValueError, match=r"fraction 0\.005 leaves classes bee, cat .* smallest that would do is 0\.01667"
    ):
        Labelled(fraction=0.005).choose(data)
    assert min(counts(data, Labelled(fraction=0.01667).choose(data))) == 1
    with pytest.raises(ValueError, match=r"leaves class.* without") as error:
        Labelled(fraction=1 / len(data), balanced=False).choose(data)
    least = float(str(error.value).rpartition(" ")[2])
    assert min(counts(data, Labelled(fraction=least, balanced=False).choose(data))) == 1
    with pytest.raises(ValueError, match=r"leaves class.* without"):
        Labelled(fraction=least - 1.1 / len(data), balanced=False).choose(data)
    with pytest.raises(ValueError, match="per_class is 31, but of class cat there are only 30 images"):
        Labelled(per_class=31).choose(data)
    with pytest.raises(ValueError, match="have no labels"):
        Labelled(fraction=0.5).choose(source(unlabelled=5))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"fraction": 0.0}, r"fraction is 0\.0; it must be above 0"),
        ({"fraction": 1.5}, r"fraction is 1\.5"),
        ({"per_class": 0}, "per_class is 0"),
        ({"fraction": 0.1, "file": "a"}, "given by fraction and by file; give one"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_without_meaning(fields: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Labelled(**fields)  # type: ignore[arg-type]
