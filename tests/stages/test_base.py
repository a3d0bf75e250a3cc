"""Results on disk: what stands beside what, what is replaced, and what the command says."""

import json
from pathlib import Path
from typing import Any

import pytest

from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Evaluated, Result, data_of, keep, read


def result(top1: float, encoder: str = "aa", stage: str = "knn", **protocol: Any) -> Result:
    return Result(stage=stage, figures={"top1": top1}, protocol=protocol, about={"encoder_sha256": encoder})


def kept(folder: RunFolder, stage: str = "knn") -> list[float]:
    return [found.figures["top1"] for found in read(folder, stage)]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_results_come_back_as_they_were(folder: RunFolder) -> None:
    assert read(folder, "knn") == []
    new = result(0.5, k=200, layer="backbone")
    keep(folder, [new])
    assert read(folder, "knn") == [new]
    assert [path.name for path in (folder.path / "results").iterdir()] == ["knn.json"]


def test_other_protocols_accumulate_newest_first(folder: RunFolder) -> None:
    keep(folder, [result(0.1, k=1), result(0.2, k=2)])
    keep(folder, [result(0.3, k=3)])
    assert kept(folder) == [0.3, 0.1, 0.2]
    keep(folder, [result(0.4, k=3, layer="embedding"), result(0.5, k=4)])
    assert kept(folder) == [0.4, 0.5, 0.3, 0.1, 0.2]


def test_an_equal_protocol_is_replaced(folder: RunFolder) -> None:
    keep(folder, [result(0.1, k=1), result(0.2, k=2, T=0.1), result(0.3, k=3)])
    keep(folder, [result(0.4, T=0.1, k=2)])  # the order of its entries says nothing
    assert kept(folder) == [0.4, 0.1, 0.3]


def test_tuples_equal_the_lists_that_they_become_on_disk(folder: RunFolder) -> None:
    keep(folder, [result(0.1, l2=(0.5, 1.0), nested={"size": (3, 4)})])
    keep(folder, [result(0.2, l2=(0.5, 1.0), nested={"size": (3, 4)})])
    assert kept(folder) == [0.2]
    keep(folder, [result(0.3, l2=(1.0, 0.5), nested={"size": (3, 4)})])
    assert kept(folder) == [0.3, 0.2]


def test_another_encoder_replaces_all_of_the_stage(folder: RunFolder) -> None:
    keep(folder, [result(0.1, k=1), result(0.2, k=2), result(0.9, stage="linear")])
    keep(folder, [result(0.3, encoder="bb", k=3)])
    assert kept(folder) == [0.3]
    assert kept(folder, "linear") == [0.9]


def test_stages_have_files_of_their_own(folder: RunFolder) -> None:
    keep(folder, [result(0.1, k=1), result(0.2, stage="linear", k=1), result(0.3, k=2)])
    assert kept(folder) == [0.1, 0.3]
    assert kept(folder, "linear") == [0.2]


@pytest.mark.parametrize(
    "content", ["{", '{"top1": 0.5}', '{"results": [3]}', '{"results": [{"stage": "knn"}]}', "[1]", '{"results": 3}']
)
def test_a_damaged_file_is_named(folder: RunFolder, content: str) -> None:
    keep(folder, [result(0.1, k=1)])
    (folder.path / "results" / "knn.json").write_text(content)
    for act in (lambda: read(folder, "knn"), lambda: keep(folder, [result(0.2, k=2)])):
        with pytest.raises(ValueError, match=r"results/knn\.json"):
            act()
    assert (folder.path / "results" / "knn.json").read_text() == content


def test_the_line_of_the_command(tmp_path: Path) -> None:
    first, second = result(0.1, k=1), result(0.2, k=2)
    line = Evaluated([first, second], folder=tmp_path).line()
    assert line == {
        **{"top1": 0.1, "k": 1, "encoder_sha256": "aa"},
        "others": [{"top1": 0.2, "k": 2, "encoder_sha256": "aa"}],
        **{"reason": "finished", "signal": 0, "run": str(tmp_path)},
    }
    assert json.loads(json.dumps(line)) == line
    assert "others" not in Evaluated([first]).line()
    assert Evaluated([], "interrupted", 15, tmp_path).line() == {
        "reason": "interrupted",
        "signal": 15,
        "run": str(tmp_path),
    }


def test_an_encoder_file_has_no_data(tmp_path: Path) -> None:
    assert data_of(tmp_path / "encoder.safetensors").root == ""
