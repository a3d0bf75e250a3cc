"""Runs side by side: what is not comparable is never in one column, repetitions are one row."""

import csv
import io
import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfsup import cli
from selfsup.config.settings import result_relevant
from selfsup.data.labelled import Labelled
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Result, keep
from selfsup.stages.compare import _FORMS, run_compare
from selfsup.stages.result_table import Column, compare, identity
from selfsup.stages.settings import COMPARISONS, Compare
from selfsup.stages.table_cells import best, cell, comparable
from selfsup.stages.terminal_table import terminal_tables

KNN = {"k": 200, "temperature": 0.1, "layer": "backbone"}


def made(folder: Path, seed: int = 0, facts: dict[str, Any] | None = None, **config: Any) -> Path:
    """A run folder with a configuration, and an encoder by its hash alone."""
    result = {"class": "Run", "seed": seed, "method": {"temperature": 0.2}, "facts": facts or {}, **config}
    RunFolder(folder).write_json("config.json", {"result": result, "run": {"start": ""}})
    RunFolder(folder).write_json("encoder.json", {"sha256": f"of {folder}", "head": {"sha256": f"head of {folder}"}})
    return folder


def judged(folder: Path, figures: dict[str, float], stage: str = "knn", **protocol: Any) -> Path:
    about = {"encoder_sha256": f"of {folder}"}
    keep(RunFolder(folder), [Result(stage=stage, figures=figures, protocol=KNN | protocol, about=about)])
    return folder


def values(runs: list[Path]) -> dict[str, list[list[float]]]:
    """Heading -> values of each row."""
    table = compare(runs)
    return {column.heading: [row.cells[n] for row in table.rows] for n, column in enumerate(table.columns)}


def test_equal_protocols_share_a_column_and_other_ones_do_not(tmp_path: Path) -> None:
    one = judged(made(tmp_path / "one"), {"knn_top1": 0.5})
    two = judged(made(tmp_path / "two", epochs=9), {"knn_top1": 0.6})
    assert values([one, two]) == {"knn top1": [[0.5], [0.6]]}
    judged(two, {"knn_top1": 0.7}, k=20)
    assert values([one, two]) == {"knn top1 (k=200)": [[0.5], [0.6]], "knn top1 (k=20)": [[], [0.7]]}
    judged(one, {"knn_top1": 0.8}, k=20, layer="embedding", temperature=0.1)
    found = values([one, two])
    assert found["knn top1 (k=20, layer=embedding)"] == [[0.8], []]
    assert found["knn top1 (k=20, layer=backbone)"] == [[], [0.7]]


def test_what_a_protocol_lacks_tells_it_from_others(tmp_path: Path) -> None:
    one = judged(made(tmp_path / "one"), {"knn_top1": 0.5}, camera=None)
    two = judged(made(tmp_path / "two", epochs=9), {"knn_top1": 0.6})
    assert values([one, two]) == {"knn top1 (camera=null)": [[0.5], []], "knn top1 (camera=absent)": [[], [0.6]]}


def test_seeds_are_one_row_with_mean_and_deviation(tmp_path: Path) -> None:
    found = [0.5, 0.53, 0.59]
    runs = [judged(made(tmp_path / f"s{seed}", seed), {"knn_top1": value}) for seed, value in enumerate(found)]
    other = judged(made(tmp_path / "other", epochs=9), {"knn_top1": 0.4})
    line = compare([*runs, other]).line()
    repeated, single = line["rows"]
    assert repeated["name"] == f"{runs[0]} (n = 3)"
    assert repeated["seeds"] == [[0], [1], [2]]
    assert repeated["cells"] == [
        {"mean": pytest.approx(statistics.mean(found)), "sd": pytest.approx(statistics.stdev(found)), "values": found}
    ]
    assert single["cells"] == [{"mean": 0.4, "sd": None, "values": [0.4]}]
    assert json.loads(json.dumps(line)) == line


def test_a_copy_of_a_run_is_no_repetition(tmp_path: Path) -> None:
    one = judged(made(tmp_path / "one"), {"knn_top1": 0.5})
    copy = Path(shutil.copytree(one, tmp_path / "copy"))
    two = judged(made(tmp_path / "two", seed=1), {"knn_top1": 0.7})
    assert [row.runs for row in compare([one, copy, two]).rows] == [[one, two], [copy]]
    with pytest.raises(ValueError, match="named twice"):
        compare([one, tmp_path / "two" / ".." / "one"])


def test_results_of_runs_inside_a_run_are_found(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        run = judged(made(tmp_path / name, epochs=number), {"knn_top1": 0.5 + number})
        for seed, inner in enumerate(("finetune_1pct", "finetune_1pct_seed1")):
            tuned = judged(made(run / inner, seed), {"finetune_top1": 0.5 + seed / 4 + number}, "finetune")
        judged(tuned, {"knn_top1": 0.9})
    assert values([tmp_path / "a", tmp_path / "b"]) == {
        "knn top1": [[0.5], [1.5]],
        "finetune_1pct: finetune top1": [[0.5, 0.75], [1.5, 1.75]],
        "finetune_1pct: knn top1": [[0.9], [0.9]],
    }


def test_draws_of_labels_are_repetitions_of_a_probe(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    for seed, name in enumerate(("linear_features_1pct", "linear_features_1pct_seed1", "linear_features_1pct_seed12")):
        judged(run, {"linear_top1": 0.5 + seed}, name)
    judged(run, {"linear_top1": 0.1}, "linear_features_10pct")
    assert values([run]) == {
        "linear_features_1pct top1": [[0.5, 1.5, 2.5]],
        "linear_features_10pct top1": [[0.1]],
    }


def tuned(run: Path, seed: int, labelled: Labelled | None = None, folder: str = "finetune") -> Path:
    """A run that was trained in `run` on labels drawn from the seed, or on those given."""
    facts = {
        "encoder": f"of {run}",
        "classifier": f"head of {run}",
        "labelled": f"drawn {seed}",
        "images": {"count": 10, "names": [f"{seed}.jpg"]},
    }
    return made(run / folder, seed, facts, labelled=result_relevant(labelled or Labelled(per_class=1, seed=seed)))


def test_what_follows_from_a_seed_makes_no_difference(tmp_path: Path) -> None:
    started = [tuned(made(tmp_path / f"s{seed}", seed), 5 + seed) for seed in range(2)]
    other = tuned(made(tmp_path / "other", epochs=9), 5)
    first, second, third = (identity(run) for run in (*started, other))
    assert first.apart == second.apart
    assert first.seeds != second.seeds
    assert third.apart != first.apart  # the run that it started from is another one
    lost = made(tmp_path / "lost", facts={"start": "of nothing here"})
    assert identity(lost).apart["facts"] == {"start": "of nothing here"}


@pytest.mark.parametrize(
    ("labelled", "equal"),
    [(Labelled(fraction=0.1), True), (Labelled(per_class=1), True), (Labelled(file="a.txt"), False)],
)
def test_other_lists_of_labels_are_no_seeds(tmp_path: Path, labelled: Labelled, equal: bool) -> None:
    run = made(tmp_path / "run")
    first, second = (identity(tuned(run, seed, labelled, f"finetune{seed}")) for seed in range(2))
    assert (first.apart == second.apart) == equal


def test_a_frozen_backbone_is_the_one_of_the_run_it_came_from(tmp_path: Path) -> None:
    def frozen(folder: Path, seed: int, start: Path) -> Path:
        made(folder, seed, {"encoder": f"of {start}"})
        RunFolder(folder).write_json("encoder.json", {"sha256": f"of {start}"})
        return folder

    pretrained = [made(tmp_path / f"pretrained{seed}", seed) for seed in range(2)]
    siblings = [frozen(tmp_path / f"a{seed}{n}", n, pretrained[seed]) for seed in range(2) for n in range(2)]
    found = [identity(run) for run in siblings]
    assert all(run.apart == found[0].apart for run in found)
    assert [run.seeds for run in found] == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert found[0].apart["facts"]["encoder"] == identity(pretrained[0]).apart
    inner = made(siblings[3] / "inner", 5, {"encoder": f"of {pretrained[1]}"})
    assert identity(inner).seeds == [5, 1, 1]  # the folder that a run lies in is where it started


def test_a_run_of_several_parts_is_told_by_them(tmp_path: Path) -> None:
    for seed in range(2):
        whole = tmp_path / f"semi{seed}"
        made(whole / "pretrain", seed)
        made(whole / "finetune", seed, {"encoder": f"of {whole / 'pretrain'}"})
        judged(whole, {"semi_top1": 0.5 + seed}, "semi")
    assert values([tmp_path / "semi0", tmp_path / "semi1"]) == {"semi top1": [[0.5, 1.5]]}
    made(tmp_path / "semi1" / "finetune", 1, {"encoder": f"of {tmp_path / 'semi1' / 'pretrain'}"}, epochs=3)
    assert values([tmp_path / "semi0", tmp_path / "semi1"]) == {"semi top1": [[0.5], [1.5]]}


def test_cells_as_text() -> None:
    assert cell([]) == ""
    assert cell([0.12345]) == "0.1235"
    assert cell([0.1, 0.2], runs=2) == "0.1500 ± 0.0707"
    assert cell([0.1], runs=2) == "0.1000 (n = 1)"
    assert cell([12.0]) == "12"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    found = []
    for number in range(4):
        run = made(tmp_path / f"run|{number}<", seed=number % 2, epochs=number // 2)
        found.append(judged(run, {"knn_top1": 0.5 + number / 10}))
    judged(found[0], {"knn_top1": 0.9}, k=20)
    judged(found[0], {"retrieval_map": 0.3}, "retrieval")
    return found


def test_the_table_as_csv(runs: list[Path], tmp_path: Path) -> None:
    run_compare(runs, Compare(out=str(tmp_path / "t.csv")))
    with open(tmp_path / "t.csv", newline="") as file:
        first, second = csv.DictReader(file)
    column = "knn top1 [k=200, layer=backbone, temperature=0.1]"
    assert float(first[column]) == pytest.approx(0.55)
    assert float(first[f"{column} sd"]) == pytest.approx(0.1 / 2**0.5)
    assert first[f"{column} n"] == "2"
    lacking = "retrieval map [k=200, layer=backbone, temperature=0.1]"
    assert (second[lacking], second[f"{lacking} n"]) == ("", "0")


def test_the_table_as_text(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_compare(runs, Compare(out=str(tmp_path / "t.md")))
    text = (tmp_path / "t.md").read_text()
    lines = [line.replace("\\|", "").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {4}
    assert "knn top1 (k=200)" in text
    assert "0.5500 ± 0.0707" in text
    assert "top1 of knn: k=20, layer=backbone, temperature=0.1" in text
    shown = capsys.readouterr().err
    assert "0.5500 ± 0.0707" in shown
    assert "top1 of knn: k=20, layer=backbone, temperature=0.1" in shown


def test_panels_of_the_plot_have_one_protocol_each(runs: list[Path], tmp_path: Path) -> None:
    for name in ("p.svg", "again.svg", "p.png", "p.html"):
        run_compare(runs, Compare(out=str(tmp_path / name)))
    drawing = (tmp_path / "p.svg").read_text()
    assert drawing == (tmp_path / "again.svg").read_text()
    assert drawing.count('id="axes_') == 1  # k=20 and retrieval have one row only
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    one = judged(made(tmp_path / "one"), {"knn_top1": 0.5}, k=1)
    with pytest.raises(ValueError, match="nothing to plot"):
        run_compare([one, runs[2]], Compare(out=str(tmp_path / "no.png")))
    assert not (tmp_path / "no.png").exists()


def test_a_panel_keeps_its_width_beside_long_names(tmp_path: Path) -> None:
    runs = [judged(made(tmp_path / ("a_long_name_of_a_run_" * 6) / name), {"knn_top1": 0.5}) for name in "ab"]
    run_compare(runs, Compare(out=str(tmp_path / "p.svg")))
    drawing = (tmp_path / "p.svg").read_text()
    frame = re.search(r'id="patch_2">\s*<path d="M ([\d.]+) [\d.]+ \s*L ([\d.]+) ', drawing)
    assert frame
    assert float(frame[2]) - float(frame[1]) > 100  # points


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run folder"):
        compare([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is not a run folder"):
        compare([tmp_path / "empty"])
    with pytest.raises(ValueError, match="has no results yet; make some, for example with: selfsup knn"):
        compare([made(tmp_path / "run")])
    with pytest.raises(ValueError, match=r"ends in \.md"):
        Compare(out="t.txt")


def test_what_has_nothing_to_compare_is_skipped_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`runs/*` holds runs that have no results yet, damaged ones, folders of other programs, and files."""
    good = judged(made(tmp_path / "good", facts={"start": "of nobody"}), {"knn_top1": 0.5})
    unjudged = made(tmp_path / "unjudged")
    damaged = judged(made(tmp_path / "damaged"), {"knn_top1": 0.6})
    (damaged / "results" / "knn.json").write_text("{")
    (damaged / "encoder.json").write_text("{")  # looked at for `good` too, as that of its neighbour
    foreign = tmp_path / "foreign"
    (foreign / "results").mkdir(parents=True)
    (foreign / "results" / "all.json").write_text('{"loss": 1}')
    file = tmp_path / "table.html"
    file.write_text("")
    line = run_compare([unjudged, good, damaged, foreign, file], Compare())
    assert [row["runs"] for row in line["rows"]] == [[str(good)]]
    assert line["rows"][0]["cells"][0]["values"] == [0.5]
    assert sorted(line["skipped"]) == sorted(map(str, (unjudged, damaged, foreign, file)))
    said = capsys.readouterr().err
    assert said.count("skipped: ") == 4
    assert f"{unjudged} has no results yet" in said
    with pytest.raises(ValueError, match="there is no run folder"):
        compare([good, tmp_path / "mistyped"])


def test_the_command(runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["selfsup", "compare", *map(str, runs), "--out", str(runs[0].parent / "t.md")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    line = json.loads(capsys.readouterr().out)
    assert [row["runs"] for row in line["rows"]] == [[str(run) for run in part] for part in (runs[:2], runs[2:])]


def test_every_form_that_the_settings_allow_is_written() -> None:
    assert set(_FORMS) == set(COMPARISONS)


# On a terminal


def test_columns_are_of_figures_that_two_runs_have(tmp_path: Path) -> None:
    one = judged(judged(made(tmp_path / "one"), {"knn_top1": 0.5}), {"retrieval_map": 0.3}, "retrieval")
    two = judged(judged(made(tmp_path / "two", epochs=9), {"knn_top1": 0.6}), {"knn_top1": 0.7}, k=20)
    shown = comparable(compare([one, two]))
    assert [(column.heading, [row.cells[0] for row in shown.rows]) for column in shown.columns] == [
        ("knn top1 (k=200)", [[0.5], [0.6]])
    ]
    assert len(comparable(compare([one])).columns) == 2  # nothing to compare with, so all
    seeds = [judged(made(tmp_path / f"s{seed}", seed, epochs=5), {"knn_top1": 0.1}, k=7) for seed in range(2)]
    assert len(comparable(compare([*seeds, one])).columns) == 1  # two runs in one row


@pytest.mark.parametrize(
    ("figure", "values", "marked"),
    [
        ("knn_top1", [[0.5], [0.75, 0.25], [0.6]], {2}),  # by the mean
        ("knn_top1", [[0.5], [0.1], [0.25, 0.75]], {0, 2}),
        ("knn_top1", [[0.5], [], [0.5]], set()),
        ("recall_at_10", [[0.1], [0.2], [0.3]], {2}),
        ("evaluate_ece", [[0.1], [0.2], []], {0}),  # an error
        ("knn_top1", [[], [0.5], []], set()),  # nothing to be better than
        ("clusters", [[5], [9], [2]], set()),  # more are not better
        ("teacher_top1", [[0.5], [0.6], [0.7]], set()),  # not what was trained
    ],
)
def test_the_best_is_marked(figure: str, values: list[list[float]], marked: set[int]) -> None:
    assert best(Column("", figure.partition("_")[0], figure, {}, ""), values) == marked


@pytest.mark.parametrize("width", [80, 160])
def test_a_table_is_as_wide_as_the_terminal(width: int, tmp_path: Path) -> None:
    """Many figures under long protocols and long names; every value is there once."""
    figures = {f"recall_at_{k}": k / 100 for k in range(1, 13)}
    runs = [made(tmp_path / ("a_long_name_of_a_run_" * 4) / str(number), epochs=number) for number in range(2)]
    for run in runs:
        judged(run, figures, "retrieval", data="content 0123456789abcdef0123456789abcdef", layer="embedding")
        judged(run, {name: value + 0.5 for name, value in figures.items()}, "retrieval", same_camera="excluded")
    console = Console(width=width, file=io.StringIO())
    table = compare(runs)
    for piece in terminal_tables(table, width):
        console.print(piece)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    shown = re.findall(r"\b0\.\d{4}", text)
    assert sorted(shown) == sorted(f"{value:.4f}" for row in table.rows for values in row.cells for value in values)
    pieces = text.count("retrieval (")
    assert f"retrieval (1 of {pieces})" in text
    assert pieces == {80: 12, 160: 6}[width]  # of 24 figures 2 or 4 beside each other
