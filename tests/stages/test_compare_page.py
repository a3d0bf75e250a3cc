"""The page of `selfsup compare`."""

import json
from pathlib import Path

import pytest

from selfsup.report.page import LIMIT
from selfsup.stages.compare_page import compare_page
from selfsup.stages.result_table import Table, compare
from tests.stages.test_compare import judged, made
from tests.support.reported import Read


def logged(run: Path, name: str, values: list[float]) -> Path:
    lines = [json.dumps({"step": 10 * step, name: value}) for step, value in enumerate(values)]
    with open(run / "metrics.jsonl", "a") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return run


def shown(table: Table) -> str:
    page = compare_page(table)
    assert len(page) <= LIMIT
    return page.decode()


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    one = judged(made(tmp_path / "one", epochs=1), {"knn_top1": 0.5, "knn_loss": 1.0})
    two = judged(made(tmp_path / "two", epochs=2), {"knn_top1": 0.625, "knn_loss": 3.0})
    judged(two, {"retrieval_map": 0.25}, "retrieval")
    for run, loss in ((one, [3.0, 2.0]), (two, [3.0, 1.0])):
        logged(logged(run, "loss", loss), "knn_top1", loss[:1])
    return [one, two]


def test_the_best_is_marked_and_what_one_run_has_alone_stands_apart(runs: list[Path]) -> None:
    page = shown(compare(runs))
    assert page.count("<strong>0.6250</strong><span class='screen-reader'> best</span>") == 1
    assert page.count("<strong>1.0000</strong>") == 1  # the lower loss
    assert page.count("screen-reader'> best") == 2
    before, _, alone = page.partition("<summary>Figures that one run alone has</summary>")
    assert "retrieval" not in before
    assert "0.2500" in alone


def test_curves_are_laid_over_each_other_unless_they_are_single_points(runs: list[Path]) -> None:
    page = shown(compare(runs))
    assert set(json.loads(Read(page).scripts[0])["curves"]) == {"loss"}
    curve = json.loads(Read(page).scripts[0])["curves"]["loss"]
    assert curve["x"] == [0, 10]
    assert {one["name"]: one["y"] for one in curve["series"]} == {"one": [3, 2], "two": [3, 1]}
    logged(runs[0], "feature_std", [0.5, 0.6])  # of one run
    assert set(json.loads(Read(shown(compare(runs))).scripts[0])["curves"]) == {"loss"}


def test_settings_that_differ_are_told_and_seeds_are_not(runs: list[Path], tmp_path: Path) -> None:
    page = shown(compare([*runs, judged(made(tmp_path / "again", epochs=2, seed=7), {"knn_top1": 0.75})]))
    assert "<th scope='row'>epochs</th><td>1</td><td>2</td>" in page
    assert "<th scope='row'>method.temperature" not in page
    assert "<th scope='row'>seed" not in page
    assert "0.6875 ± 0.0884" in page
    assert "mean ± standard deviation (n - 1) over" in page


def test_equal_figures_have_no_best_and_a_single_run_is_shown(tmp_path: Path) -> None:
    one = judged(made(tmp_path / "one", epochs=1), {"knn_top1": 0.5, "knn_clusters": 3.0})
    two = judged(made(tmp_path / "two", epochs=2), {"knn_top1": 0.5, "knn_clusters": 4.0})
    assert "> best<" not in shown(compare([one, two]))
    assert "0.5000" in shown(compare([one]))


def test_names_are_words(tmp_path: Path) -> None:
    evil = "<script>x</script>"
    runs = [judged(made(tmp_path / f"{n}{evil}".replace("/", "|"), epochs=n), {"knn_top1": n / 4}) for n in (1, 2)]
    for run in runs:
        logged(run, "loss", [2.0, 1.0])
    page = Read(shown(compare(runs)))
    assert not any("x</script>" in script or script == "x" for script in page.scripts)
    assert len(page.scripts) == 3  # the data, uPlot, the page's own
