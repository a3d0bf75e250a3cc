"""What a stage takes from a run's data where it is given other ones; and a run whose labels stand in a table."""

import json
from pathlib import Path
from typing import Any

import pytest

from selfsup.data.settings import Data
from selfsup.pretraining import pretrain
from selfsup.stages import commands
from selfsup.stages.run_data import beside_named_data
from selfsup.stages.semi_settings import parse_semi
from tests.support.pictures import folder_of
from tests.support.tiny import tiny_run

CLASSES = ("ant", "bee")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on 16 photographs, its classifier of the 8 that a table labels, and data to judge it on."""
    folder = tmp_path_factory.mktemp("tuned")
    photos = folder_of(folder / "photos", 16)
    labelled = "".join(f"{number:04d}.png,{CLASSES[number % 2]}\n" for number in range(8))
    (folder / "labels.csv").write_text(f"path,label\n{labelled}")
    folder_of(folder / "test", 4, CLASSES)
    folder_of(folder / "judge", 6, CLASSES)
    pretrain(tiny_run(folder / "run", root=str(photos), epochs=1, batch_size=16))
    labels = ("--data.labels", folder / "labels.csv", "--data.test-root", folder / "test")
    stage("finetune", folder / "run", *labels, "--epochs", 1, "--folder", folder / "birds")
    return folder


def stage(name: str, run: Path, *words: object) -> None:
    assert commands.run_stage(name, [str(run), *map(str, words), "--workers", "0", "--device", "cpu"]) == 0


def line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_classifier_is_judged_on_the_data_that_are_named(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not on test images that its run had elsewhere, nor by labels of the run's own images."""
    stage("evaluate", tuned / "birds", "--data.root", tuned / "judge")
    said = capsys.readouterr()
    assert "not taken along to those that --data.root names: --data.labels " in said.err
    assert "--data.test-root" in said.err
    assert json.loads(said.out)["images"] == 6
    stage("evaluate", tuned / "birds", "--data.root", tuned / "judge", "--data.test-root", tuned / "test")
    assert line(capsys)["images"] == 4
    stage("evaluate", tuned / "birds", "--data.root", tuned / "photos", "--data.labels", tuned / "labels.csv")
    assert line(capsys)["images"] == 4  # of its own data, whose test images come along


def test_what_a_table_labelled_in_part_is_known_again(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage("evaluate", tuned / "birds")
    assert line(capsys)["part"] == "test"
    stage("evaluate", tuned / "birds", "--part", "train")
    assert line(capsys)["images"] == 8
    table = tuned / "labels.csv"
    before = table.read_text()
    table.write_text(before.replace("0000.png,ant", "0000.png,bee"))
    with pytest.raises(ValueError, match=r"is not what .* was trained on; images: 1 labels changed"):
        stage("evaluate", tuned / "birds")
    table.write_text(before)


def test_only_what_is_of_the_own_images_stays_behind(capsys: pytest.CaptureFixture[str]) -> None:
    own = Data(root="/own", labels="/own/t.csv", label_column="kind", canvas=48, holdout=0.2, range="p1")
    assert beside_named_data(own, [], set()) == beside_named_data(own, ["/own/"], {"--data.root"}) == own
    assert not capsys.readouterr().err
    assert beside_named_data(own, ["/new"], {"--data.root"}) == Data(root="/own", canvas=48, holdout=0.2, range="p1")
    said = capsys.readouterr().err
    assert "not taken along to those that --data.root names: --data.labels /own/t.csv" in said
    assert "0.2 are held out to test; of none: --data.holdout None" in said
    assert beside_named_data(own, ["/new"], {"--data.root", "--data.labels", "--data.holdout"}) == own
    assert not capsys.readouterr().err
    tested = Data(root=("/a", "/b"), test_root="/t", labelled_root="/l", labels="none")
    assert beside_named_data(tested, ["/b", "/a"], {"--data.root"}) == Data(root=("/a", "/b"), labels="none")
    assert beside_named_data(own, ["/new"], {"--data.root", "--data.test-root"}).holdout is None


def test_semi_of_a_run_does_the_same(tuned: Path) -> None:
    flags = ["--label-fraction", "0.5", "--data.root", str(tuned / "judge")]
    assert parse_semi(str(tuned / "birds"), flags).data.labels == "auto"
    settings = parse_semi(str(tuned / "birds"), [*flags, "--data.labels", str(tuned / "labels.csv")])
    assert settings.data == settings.finetune.data == settings.distill.data
    assert settings.data.labels == str(tuned / "labels.csv")
    assert not settings.data.test_root


def test_data_without_a_test_part_say_where_one_may_come_from(tuned: Path) -> None:
    with pytest.raises(
        ValueError, match=r"or name test images by --data\.test-root PATH, or keep some by --data\.hold"
    ):
        stage("finetune", tuned / "run", "--data.root", tuned / "judge")


def test_a_folder_that_is_not_there_is_told_with_the_one_beside_it(tuned: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no encoder at .*bird; .*, did you mean birds"):
        stage("evaluate", tuned / "bird")
