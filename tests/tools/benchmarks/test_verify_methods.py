"""The tool that verifies methods on real images, on generated ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfsup.config.settings import dump
from selfsup.data.settings import Data
from selfsup.stages.knn import run_knn
from selfsup.stages.settings import KNN
from tests.support.tiny import tiny_run
from tools.benchmarks import verified
from tools.benchmarks import verify_methods as tool


def test_every_row_has_a_folder_of_its_own_and_a_seed(tmp_path: Path) -> None:
    rows = [tool.placed(row, tmp_path) for make in tool.SUITES.values() for row in make(tmp_path)]
    assert len({row.run.folder for row in rows}) == len(rows)
    names = {(row.suite, row.name) for row in rows}
    for row in rows:
        assert not row.after or (row.suite, row.after) in names
        assert row.run.evaluate_every == 0  # nothing sees a test image before the end
    suites = {suite for suite, _ in names}
    assert suites == set(verified.HEADS)
    for suite in suites:
        assert {(suite, "raw pixels"), (suite, "untrained encoder")} <= names
    cifar = [row for row in rows if row.suite == "cifar10" and row.trained]
    views = {row.run.epochs * row.run.data.limit * len(row.run.augment.views) for row in cifar}
    assert len(views) == 1  # equal budgets
    cars = [row for row in rows if row.suite == "cars" and row.after]
    assert len({(row.run.epochs, row.run.batch_size, row.run.seed) for row in cars}) == 1


def test_a_row_is_what_the_commands_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "unused", "moco", epochs=1, data=Data(root="shapes:256"))
    monkeypatch.setitem(
        tool.SUITES,
        "cifar10",
        lambda data: [tool.Row("cifar10", "untrained encoder", run, trained=False), tool.Row("cifar10", "MoCo", run)],
    )
    rows = [tool.placed(row, tmp_path) for row in tool.SUITES["cifar10"](tmp_path)]
    for row in rows:
        tool.verify(row)
    found = tool.results(rows)
    knn = run_knn(tmp_path / "cifar10" / "moco", KNN(data=run.data, k=(200,))).results[0].flat()
    assert found[1]["figures"]["knn_top1"] == knn["knn_top1"]
    assert found[1]["figures"]["encoder_sha256"] == knn["encoder_sha256"]
    assert found[1]["seed"] == run.seed
    assert found[1]["budget"] == {"steps": 16, "batch_size": 16, "images_seen": 256, "views": 2, "epochs": 1}
    assert found[1]["method"] == json.loads(json.dumps(dump(run.method)))
    table = tool.table(found)
    gain = knn["knn_top1"] - found[0]["figures"]["knn_top1"]
    assert f"| MoCo | {knn['knn_top1']:.4f} | {gain:+.4f} | 256 |" in table


def test_clusters_are_read_from_the_log(tmp_path: Path) -> None:
    row = tool.placed(tool.Row("wildlife", "SpCL", tiny_run(tmp_path / "unused", "spcl")), tmp_path)
    row = replace(row, run=replace(row.run, precision="fp32"))
    tool.verify(row)
    figures = tool.results([row])[0]["figures"]
    assert len(figures["clusters"]) == row.run.epochs
    assert figures["layer"] == "embedding"
    assert 0 < figures["map"] <= 1
