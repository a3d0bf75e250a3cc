"""A finished run goes on for more epochs, at the rate that is stated; its folder tells what it is then."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from selfsup.optim.schedules import Constant, Cosine, Horizon, Steps
from selfsup.pretraining import pretrain
from selfsup.run_folder.extending import Extend, Extended, Rate, Segment
from selfsup.stages.result_table import identity
from tests.support.launching import same_weights
from tests.support.tiny import tiny_run

RESTART = Extend(to_epoch=3, schedule="restart", peak=0.5, warmup_epochs=0.25)


def segment(begin: int, end: int, schedule: Rate = "restart", peak: float = 1.0, warmup_epochs: float = 0) -> Segment:
    return Segment(from_epoch=begin, to_epoch=end, schedule=schedule, peak=peak, warmup_epochs=warmup_epochs)


def test_each_extension_has_its_own_rate() -> None:
    """With 4 steps in an epoch: the run's cosine, a cosine from a half after a warm-up, and a constant tenth."""
    horizon = Horizon(num_examples=40, batch_size=10, epochs=8)
    own = Cosine(warmup_epochs=1)
    segments = (segment(2, 4, peak=0.5, warmup_epochs=0.5), segment(4, 8, schedule="constant", peak=0.1))
    extended = Extended(own=own, own_epochs=2, segments=segments)
    alone = horizon._replace(epochs=2)
    assert [extended(step, horizon) for step in range(8)] == [own(step, alone) for step in range(8)]
    assert [extended(step, horizon) for step in (8, 9, 10, 13)] == [0.0, 0.25, 0.5, 0.25]
    assert {extended(step, horizon) for step in range(16, 32)} == {0.1}
    assert [extended.progress(step, horizon) for step in (4, 8, 31)] == [0.5, 1.0, 1.0]
    drops = Extended(own=Steps(milestones=(3,)), own_epochs=2, segments=(segment(2, 4, schedule="continue"),))
    assert [drops(step, horizon) for step in (8, 11, 12)] == [1.0, 1.0, 0.1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 epochs, 4 steps each, whose encoder's momentum ends with the run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    pretrain(tiny_run(folder, "moco_symmetric", "shapes:64"))
    return folder


def test_it_goes_on_from_the_end_and_to_the_same_bits_after_an_interruption(finished: Path, tmp_path: Path) -> None:
    whole, cut = (shutil.copytree(finished, tmp_path / name) for name in ("whole", "cut"))
    run = replace(tiny_run(whole, "moco_symmetric", "shapes:64"), extend=RESTART)
    result = pretrain(run)
    assert (result["reason"], result["step"], result["total_steps"]) == ("finished", 12, 12)
    assert json.loads((whole / "encoder.json").read_text())["made_by"]["epochs"] == 3
    again = replace(run, folder=str(cut))
    assert pretrain(replace(again, max_steps=10))["reason"] == "max-steps"
    # The folder knows that it is extended: the command without the flag goes on too.
    assert pretrain(tiny_run(cut, "moco_symmetric", "shapes:64"))["step"] == 12
    assert same_weights(whole, cut)
    assert pretrain(again)["seconds"] >= 0  # once more: nothing is left to do
    (history,) = json.loads((cut / "config.json").read_text())["result"]["facts"]["extensions"]
    assert (history["from_epoch"], history["to_epoch"], history["schedule"], history["peak"]) == (2, 3, "restart", 0.5)
    assert identity(whole).apart != identity(finished).apart


def test_a_second_extension_is_added_to_the_first(finished: Path, tmp_path: Path) -> None:
    run = tiny_run(shutil.copytree(finished, tmp_path / "run"), "moco_symmetric", "shapes:64")
    pretrain(replace(run, extend=RESTART))
    assert pretrain(replace(run, extend=Extend(to_epoch=4, schedule="constant", peak=0.1)))["step"] == 16
    listed = json.loads((tmp_path / "run" / "config.json").read_text())["result"]["facts"]["extensions"]
    assert [(part["from_epoch"], part["to_epoch"]) for part in listed] == [(2, 3), (3, 4)]
    with pytest.raises(ValueError, match="not in the way"):
        pretrain(replace(run, extend=replace(RESTART, peak=0.7)))


@pytest.mark.parametrize(
    ("extend", "reason"),
    [
        (Extend(to_epoch=3), "extend.schedule is missing"),
        (Extend(to_epoch=3, schedule="continue"), "has come to its end"),
        (Extend(to_epoch=2, schedule="restart"), "goes to epoch 2 already"),
        (Extend(to_epoch=3, schedule="restart", warmup_epochs=1), "must be shorter"),
    ],
)
def test_what_makes_no_sense_is_refused(finished: Path, extend: Extend, reason: str) -> None:
    before = (finished / "config.json").read_bytes()
    with pytest.raises(ValueError, match=reason):
        pretrain(replace(tiny_run(finished, "moco_symmetric", "shapes:64"), extend=extend))
    assert (finished / "config.json").read_bytes() == before


def test_only_a_finished_run_is_extended(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", root="shapes:64", max_steps=3)
    with pytest.raises(ValueError, match="not begun"):
        pretrain(replace(run, extend=RESTART))
    pretrain(run)
    with pytest.raises(ValueError, match="is at step 3, and its end is step 8"):
        pretrain(replace(run, extend=RESTART))
    with pytest.raises(ValueError, match=r"--extend.to-epoch"):
        pretrain(replace(run, epochs=9))
    assert Constant()(3, Horizon(64, 16, 2)) == 1
