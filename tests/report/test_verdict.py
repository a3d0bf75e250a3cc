"""What figures are taken for, in words."""

from dataclasses import replace

import pytest

from selfsup.report.verdict import Evidence, Share, collapsed, difference, judged

WELL = Evidence(
    kind="pretraining",
    name="runs/birds",
    step=100,
    total_steps=100,
    loss=(5.0, 4.0),
    feature_std=0.5,
    feature_rank=40.0,
    labels=True,
    classes=10,
    pixels=Share(350, 1000),
    untrained=Share(300, 1000),
    trained=Share(500, 1000),
)


def said(evidence: Evidence) -> tuple[str, str, str]:
    """The tone and the words of the first finding, and all of the advice."""
    found = judged(evidence)
    return found.sentences[0].tone, found.sentences[0].text, " ".join(map(" ".join, found.advice))


def test_a_run_that_learns() -> None:
    tone, text, advice = said(WELL)
    assert tone == "good"
    assert text == (
        "It has learnt. kNN finds the class of 50.0% of the images: 15.0 points better than raw pixels (35.0%) and "
        "20.0 points better than the untrained encoder (30.0%)."
    )
    assert "selfsup linear runs/birds" in advice
    assert "selfsup finetune runs/birds" in advice
    assert "epochs" not in advice
    assert "--extend.to-epoch N --extend.schedule restart" in said(replace(WELL, rise=0.02))[2]
    assert "--extend.to-epoch 40 --extend.schedule restart" in said(replace(WELL, rise=0.02, epochs=20))[2]


def test_a_run_that_has_collapsed_is_told_so_first() -> None:
    for change, why in (({"feature_std": 0.003}, "the same feature"), ({"feature_rank": 1.4}, "1.4 directions")):
        tone, text, advice = said(replace(WELL, **change))
        assert tone == "bad"
        assert text.startswith("It has collapsed")
        assert why in text
        assert "learning-rate" in advice
        assert "finetune" not in advice
    by_the_log = replace(WELL, feature_std=None, feature_rank=None, alarm=True)
    assert "alarm" in said(by_the_log)[1]
    assert not collapsed(replace(WELL, alarm=True)), "features that were looked at say more than the log"


def test_few_classes_need_few_directions() -> None:
    """The best that a method with labels can do with two classes is one direction."""
    assert not collapsed(replace(WELL, classes=2, feature_rank=1.0))
    assert collapsed(replace(WELL, classes=2, labels=False, feature_rank=1.0))


def test_a_run_that_is_worse_than_pixels() -> None:
    tone, text, advice = said(replace(WELL, trained=Share(320, 1000), pixels=Share(400, 1000)))
    assert tone == "bad"
    assert "8.0 points worse than raw pixels (40.0%)" in text
    assert "no more than chance apart from the untrained encoder" in text
    assert "augmented views" in advice
    assert "finetune" not in advice


def test_better_than_untrained_and_worse_than_pixels_is_a_beginning() -> None:
    tone, text, advice = said(replace(WELL, trained=Share(400, 1000), pixels=Share(480, 1000)))
    assert tone == "unsure"
    assert text.startswith("It learns, but is worse than raw pixels so far.")
    assert "10.0 points better than the untrained encoder" in text
    assert "augmented views" in advice


def test_what_may_be_chance_is_no_finding() -> None:
    tone, text, _ = said(replace(WELL, trained=Share(38, 100), pixels=Share(35, 100), untrained=Share(30, 100)))
    assert tone == "unsure"
    assert "not clear" in text


@pytest.mark.parametrize(("right", "rank"), [(560, "above"), (430, "below"), (544, "alike"), (456, "alike")])
def test_shares_differ_by_two_standard_errors(right: int, rank: str) -> None:
    """Of 1,000 each at a half: the standard error of the difference is 0.0224, twice of it 0.0447."""
    assert difference(Share(right, 1000), Share(500, 1000)) == rank


def test_without_labels_it_says_what_it_can() -> None:
    bare = replace(WELL, labels=False, classes=0, pixels=None, untrained=None, trained=None)
    tone, text, advice = said(bare)
    assert tone == "good"
    assert "The images have no labels" in text
    assert "selfsup report runs/birds --data.root LABELLED" in advice
    tone, text, _ = said(replace(bare, loss=(5.0, 4.99)))
    assert tone == "unsure"
    assert "has not fallen" in judged(replace(bare, loss=(5.0, 4.99))).sentences[1].text


def test_an_unfinished_run_goes_on() -> None:
    found = judged(replace(WELL, step=25))
    assert "step 25 of 100 (25%)" in found.sentences[1].text
    assert "Run the same command again" in found.advice[0].text


def test_weights_alone_are_not_told_to_train() -> None:
    bare = Evidence(kind="weights", name="w.pth", feature_std=0.4, feature_rank=30.0)
    tone, text, advice = said(bare)
    assert (tone, "no labels" in text) == ("plain", True)
    assert "same command" not in advice
    assert said(replace(WELL, kind="weights", step=None, total_steps=None))[0] == "good"
    assert "selfsup evaluate" in said(replace(WELL, kind="stage", classifier=True))[2]
