"""What figures mean, in words: whether a run learns, whether it collapsed, how good it is, and what to do next.

A pure function of figures; every threshold has a name.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from selfsup.monitor.health import CONSTANT, DIRECTIONS, REMEDY

Kind = Literal["pretraining", "stage", "weights"]
Tone = Literal["good", "bad", "unsure", "plain"]

SURE = 2.0  # standard errors by which two shares must differ to be told apart
FALLEN = 0.02  # share of its first value that a loss must fall to have fallen
RISING = 0.005  # by which kNN must have risen over the last quarter of a run that has not ended rising
NARROW = 0.1  # feature_std below which features are said to be narrow; healthy ones are at 0.1 to 1


class Share(NamedTuple):
    """Of `total` images so many were right."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The figures that are judged; None where there is none."""

    kind: Kind
    name: str  # of the run, as commands are given it
    step: int | None = None  # that the encoder is of
    total_steps: int | None = None
    epochs: int | None = None  # that it has seen
    loss: tuple[float, float] | None = None  # means at the beginning and at the end
    feature_std: float | None = None
    feature_rank: float | None = None  # directions in which features differ
    alarm: bool = False  # of the last report in the log
    labels: bool = False
    classes: int = 0
    pixels: Share | None = None  # kNN
    untrained: Share | None = None
    trained: Share | None = None
    rise: float | None = None  # of the logged kNN over the last quarter
    classifier: bool = False
    decided: Share | None = None  # by the classifier

    @property
    def finished(self) -> bool:
        return self.step is None or self.total_steps is None or self.step >= self.total_steps


class Sentence(NamedTuple):
    """One finding."""

    tone: Tone
    text: str


class Advice(NamedTuple):
    """What to do next, with the command for it where there is one."""

    text: str
    command: str = ""


class Verdict(NamedTuple):
    """The findings, the most important one first, and what follows."""

    sentences: list[Sentence]
    advice: list[Advice]


def judged(found: Evidence) -> Verdict:
    """The verdict on these figures."""
    if collapsed(found):
        return Verdict(
            [_collapse(found), *_progress(found), *_learning(found)],
            [Advice(REMEDY.replace("\n", "; ")), *_unfinished_advice(found)],
        )
    return Verdict(
        [*_quality(found), *_progress(found), *_learning(found), *_spread(found)],
        [*_unfinished_advice(found), *_advice(found)],
    )


def collapsed(found: Evidence) -> bool:
    """Whether features are constant, or differ in few directions, by the thresholds of `monitor.health`."""
    constant = found.feature_std is not None and found.feature_std < CONSTANT
    possible = DIRECTIONS if not found.labels else min(DIRECTIONS, 0.75 * max(1, found.classes - 1))
    few = found.feature_rank is not None and found.feature_rank < possible
    unknown = found.feature_std is None and found.feature_rank is None
    return constant or few or (found.alarm and unknown)


def difference(a: Share, b: Share) -> Literal["above", "below", "alike"]:
    """Whether a share is surely above or below another: by more than `SURE` standard errors of their difference."""
    error = math.sqrt(sum(share.value * (1 - share.value) / share.total for share in (a, b)))
    gap = a.value - b.value
    if abs(gap) <= SURE * error:
        return "alike"
    return "above" if gap > 0 else "below"


def _collapse(found: Evidence) -> Sentence:
    if found.feature_std is not None and found.feature_std < CONSTANT:
        why = f"all images get nearly the same feature (feature std {found.feature_std:.1g}, healthy is 0.1 to 1)"
    elif found.feature_rank is not None:
        why = f"features differ in {found.feature_rank:.1f} directions only"
    else:
        why = "the run's own alarm was on at its last report"
    return Sentence("bad", f"It has collapsed: {why}.")


def _quality(found: Evidence) -> list[Sentence]:
    """How good the encoder is, by the best figures there are."""
    if found.trained is None:
        return [_without_knn(found)]
    decided = []
    if found.decided is not None:
        decided = [Sentence("plain", f"Its classifier is right about {found.decided.value:.1%} of the images.")]
    return [*_by_knn(found, found.trained), *decided]


def _by_knn(found: Evidence, own: Share) -> list[Sentence]:
    chance = 1 / max(1, found.classes)
    rest = [(name, share) for name, share in (("raw pixels", found.pixels), ("the untrained encoder", found.untrained))]
    others = [(name, share) for name, share in rest if share is not None]
    told = [f"{_compared(own, share)} {name} ({share.value:.1%})" for name, share in others]
    text = f"kNN finds the class of {own.value:.1%} of the images"
    text += (": " + " and ".join(told)) if told else f" (chance: {chance:.1%})"
    ranks = [difference(own, share) for _, share in others]
    if ranks and all(rank == "above" for rank in ranks):
        return [Sentence("good", f"It has learnt. {text}.")]
    if found.untrained is not None and "below" in ranks and difference(own, found.untrained) == "above":
        return [Sentence("unsure", f"It learns, but is worse than raw pixels so far. {text}.")]
    if "below" in ranks:
        return [Sentence("bad", f"It is no use yet. {text}.")]
    return [Sentence("unsure", f"It is not clear that it has learnt anything of use. {text}." if told else f"{text}.")]


def _compared(own: Share, other: Share) -> str:
    gap = own.value - other.value
    rank = difference(own, other)
    if rank == "alike":
        return "no more than chance apart from"
    return f"{abs(gap) * 100:.1f} points {'better' if rank == 'above' else 'worse'} than"


def _without_knn(found: Evidence) -> Sentence:
    why = "The images have no labels" if not found.labels else "kNN was not computed"
    if found.kind == "weights":
        return Sentence(
            "plain", f"{why}, so how good these weights are is for you to see: in the map and the neighbours."
        )
    fell = found.loss is not None and _fell(found.loss)
    if fell and found.feature_rank is not None:
        return Sentence(
            "good",
            f"It seems to learn: the loss falls and features differ in {found.feature_rank:.0f} directions. {why}; "
            "look at the nearest neighbours to see what it takes for alike.",
        )
    if fell:
        return Sentence("plain", f"The loss falls. {why}, and features were not looked at, so that says little yet.")
    return Sentence("unsure", f"{why}, and nothing shows yet that it learns.")


def _progress(found: Evidence) -> list[Sentence]:
    if found.finished or found.step is None or found.total_steps is None:
        return []
    return [
        Sentence(
            "unsure",
            f"The run is not finished: the encoder is of step {found.step:,} of {found.total_steps:,} "
            f"({found.step / found.total_steps:.0%}).",
        )
    ]


def _fell(loss: tuple[float, float]) -> bool:
    return loss[0] - loss[1] > FALLEN * abs(loss[0])


def _learning(found: Evidence) -> list[Sentence]:
    if found.loss is None:
        return []
    first, last = found.loss
    if _fell(found.loss):
        return [Sentence("plain", f"The loss fell from {first:.3g} to {last:.3g}.")]
    return [Sentence("bad", f"The loss has not fallen: it was {first:.3g} at the beginning and is {last:.3g}.")]


def _spread(found: Evidence) -> list[Sentence]:
    if found.feature_rank is None:
        return []
    narrow = found.feature_std is not None and found.feature_std < NARROW
    if narrow:
        return [
            Sentence(
                "unsure",
                f"Nothing has collapsed, but features are close together (feature std {found.feature_std:.2f}, usual "
                f"is 0.1 to 1); they differ in {found.feature_rank:.0f} directions.",
            )
        ]
    return [Sentence("plain", f"Nothing has collapsed: features differ in {found.feature_rank:.0f} directions.")]


def _unfinished_advice(found: Evidence) -> list[Advice]:
    if found.finished or found.kind == "weights":
        return []
    return [Advice("Run the same command again: it goes on where it stopped.")]


def _advice(found: Evidence) -> list[Advice]:
    run = found.name
    advice = []
    worse = found.trained is not None and any(
        other is not None and difference(found.trained, other) != "above" for other in (found.pixels, found.untrained)
    )
    if worse and found.kind == "pretraining":
        advice.append(
            Advice(
                "Look at the augmented views: where they hide what tells your classes apart, weaken them. Else train "
                "longer, or with a larger batch."
            )
        )
    if found.rise is not None and found.rise > RISING and found.finished and found.kind == "pretraining":
        text = (
            f"kNN still rose by {found.rise * 100:.1f} points over the last quarter: more epochs should help. Give the "
            "command of the run again, with this at its end."
        )
        epochs = 2 * found.epochs if found.epochs else "N"
        advice.append(Advice(text, f"--extend.to-epoch {epochs} --extend.schedule restart"))
    if found.classifier:
        return [*advice, Advice("Judge the classifier, class by class.", f"selfsup evaluate {run}")]
    if worse:
        return advice
    if found.trained is not None:
        advice.append(Advice("Train a linear probe, the figure that papers report.", f"selfsup linear {run}"))
        advice.append(Advice("Train a classifier on few labels.", f"selfsup finetune {run} --labelled.fraction 0.1"))
    elif not found.labels:
        advice.append(
            Advice(
                "Name a labelled folder, and the page says how good the features are for its classes.",
                f"selfsup report {run} --data.root LABELLED",
            )
        )
        advice.append(Advice("Take the features along.", f"selfsup embed {run} --out features.npy"))
    return advice
