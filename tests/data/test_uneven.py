"""Data that suit neither batches nor processes in number: a clear refusal or a correct run, the same everywhere."""

from pathlib import Path

import pytest

from tests.support.processes import run_processes
from tests.support.uneven import BATCH, SAMPLINGS, Case, encoder, images, outcomes

SOME = [
    Case("shuffled", BATCH - 1),
    Case("shuffled", BATCH + 1, workers=2),
    Case("by class", 2 * BATCH - 1),
    Case("by cluster", BATCH + 1),
    Case("two domains", BATCH + 1),
    Case("knn", 1),
    Case("knn", 2, broken=True),  # a process none of whose images can be read
    Case("knn", 3, broken=True, canvas=16),
    Case("linear", 3, workers=2),
    Case("cluster", 3, broken=True),
]


def laid_out(folder: Path, cases: list[Case]) -> None:
    encoder(folder / "encoder")
    for case in cases:
        images(folder, case)


def test_two_processes_end_alike_and_as_one_does(tmp_path: Path) -> None:
    laid_out(tmp_path, SOME)
    alone = outcomes(SOME, str(tmp_path))
    first, second = run_processes(2, outcomes, SOME, str(tmp_path))
    assert first == second == alone
    assert [text.partition(":")[0] for text in alone].count("refused") == 3


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_size_of_the_data_is_trained_on_or_refused(tmp_path: Path, sampling: str) -> None:
    cases = [Case(sampling, size) for size in (0, 1, BATCH - 1, BATCH, BATCH + 1)]
    laid_out(tmp_path, cases)
    none, one, *others = outcomes(cases, str(tmp_path))
    assert none.startswith("refused: no image in ")
    assert one.startswith("refused: ")
    assert "1 image" in one or "no labels" in one
    steps = [2, 4, 4] if sampling == "two domains" else [0, 2, 2]  # there, the labelled images make half of a batch
    for text, wanted in zip(others, steps, strict=True):
        expected = f"{wanted} of {wanted} steps, finished" if wanted else f"refused: the batch size {BATCH} is larger"
        assert text.startswith(expected)
