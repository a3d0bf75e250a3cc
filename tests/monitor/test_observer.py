"""Several observers as one: each is told of everything, in order, and left whatever happens."""

import inspect
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import torch

from selfsup.batch import Batch
from selfsup.monitor.observer import Observer, Observers, Report, Taken
from selfsup.training import trainer
from tests.whole.test_imports import imported

MOMENTS = [name for name, value in vars(Observer).items() if inspect.isfunction(value) and not name.startswith("_")]
TAKEN = Taken(
    step=0, views=[], batch=Batch((), torch.zeros(1), torch.zeros(1)), loss=torch.zeros(()), update={}, norm=None
)
GIVEN: dict[str, tuple[Any, ...]] = {
    "at": ("loading", 0),
    "before_epoch": (0, {}),
    "before_step": (0, []),
    "allows": (TAKEN,),
    "written": (TAKEN,),
    "left_out": (True,),
    "report": (Report(step=1, labels=torch.zeros(1), figures={}),),
    "after_step": (1, None),
    "due": (1,),
    "after_epoch": (1, {}),
    "at_checkpoint": (1, None, True),
}


class Noting(Observer):
    """Notes what it is told, and answers as it was made to."""

    def __init__(self, name: str, told: list[str], answer: bool = True, enters: bool = True) -> None:
        self.name, self.told, self.answer, self.enters = name, told, answer, enters
        for moment in MOMENTS:
            setattr(self, moment, self._noting(moment))

    def _noting(self, moment: str) -> Any:
        def note(*given: Any) -> bool:
            self.told.append(f"{moment} {self.name}")
            return self.answer

        return note

    def __enter__(self) -> Self:
        if not self.enters:
            raise LookupError(self.name)
        self.told.append(f"enter {self.name}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.told.append(f"leave {self.name} {'' if kind is None else kind.__name__}".strip())


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("answers", [(True, True), (True, False), (False, True), (False, False)])
def test_each_is_told_in_order_and_all_answers_count(moment: str, answers: tuple[bool, bool]) -> None:
    told: list[str] = []
    several = Observers(Noting(name, told, answer) for name, answer in zip("ab", answers, strict=True))
    answer = getattr(several, moment)(*GIVEN[moment])
    assert told == [f"{moment} a", f"{moment} b"]
    assert answer == {"allows": all(answers), "due": any(answers), "left_out": min(answers)}.get(moment)


def test_one_that_looks_at_nothing_lets_everything_pass() -> None:
    plain = Observer()
    answers = {moment: getattr(plain, moment)(*GIVEN[moment]) for moment in MOMENTS}
    assert {moment for moment, answer in answers.items() if answer} == {"allows"}


def test_left_in_the_opposite_order_with_the_error() -> None:
    told: list[str] = []
    with pytest.raises(KeyError), Observers(Noting(name, told) for name in "abc"):
        raise KeyError
    assert told == ["enter a", "enter b", "enter c", "leave c KeyError", "leave b KeyError", "leave a KeyError"]


def test_those_that_were_entered_are_left_where_one_cannot_be() -> None:
    told: list[str] = []
    with pytest.raises(LookupError, match="b"), Observers([Noting("a", told), Noting("b", told, enters=False)]):
        raise AssertionError("it was entered")
    assert told == ["enter a", "leave a LookupError"]


def test_the_trainer_knows_observers_by_one_class() -> None:
    """It imports no guard, watch, log or checkpoint: `fit` puts them together."""
    found = imported(Path(trainer.__file__))
    assert {name for name in found if name.startswith(("monitor", "storage", "run_folder"))} == {"monitor.observer"}
    assert not found & {"training.nonfinite", "training.checkpoints"}
