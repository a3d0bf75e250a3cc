"""Logistic regression on features: scikit-learn's minimum, its accuracy at its best l2, a choice without the test."""

import pytest
import torch
import torch.nn.functional as F

from selfsup.evaluation import logistic
from selfsup.evaluation.features import Features
from selfsup.evaluation.logistic import (
    FeatureProbe,
    Logistic,
    choose_l2,
    fit_logistic,
    folds,
    hold_out,
    judge,
    probe_features,
    zeros,
)


def features(count: int, seed: int, classes: int = 4, dim: int = 10, noise: float = 1.5) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(9))
    rows = centres[labels] + noise * torch.randn(count, dim, generator=generator)
    return Features(rows, labels, torch.arange(count))


def standardised(known: Features, asked: Features) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = known.features.mean(dim=0), known.features.std(dim=0)
    return (known.features - mean) / std, (asked.features - mean) / std


def plain(classes: int) -> Logistic:
    """Zeros for 10 features that are taken as they are."""
    return Logistic(torch.zeros(classes, 10), torch.zeros(classes), torch.zeros(10), torch.ones(10))


@pytest.mark.parametrize("l2", [0.01, 0.3])
def test_it_reaches_scikit_learns_minimum(l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    known = features(300, 0)
    ours, _ = fit_logistic(known.features, known.labels, plain(4), l2, iterations=500)
    theirs = linear_model.LogisticRegression(C=1 / (l2 * 300), tol=1e-8, max_iter=5000).fit(
        known.features, known.labels
    )

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> float:
        logits = known.features.double() @ weight.double().T + bias.double()
        return float(F.cross_entropy(logits, known.labels) + 0.5 * l2 * weight.double().square().sum())

    best = loss(torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_))
    assert loss(ours.weight, ours.bias) == pytest.approx(best, abs=5e-6)


@pytest.mark.parametrize(("l2", "noise"), [(1e-6, 4.0), (1e-5, 2.0)])
def test_small_weights_are_fitted_to_the_end(l2: float, noise: float) -> None:
    """2,000 x 256, where the objective is as small as 1e-5: no less than a thousandth above scikit-learn's."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    known = features(2000, 0, classes=10, dim=256, noise=noise)
    ours, converged = fit_logistic(known.features, known.labels, zeros(known.features, 10), l2, 1000)
    x = ((known.features - ours.mean) * ours.factor).double()
    model = linear_model.LogisticRegression(C=1 / (l2 * 2000), tol=1e-8, max_iter=5000)
    theirs = model.fit(x.numpy(), known.labels.numpy())

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> float:
        return float(F.cross_entropy(x @ weight.T + bias, known.labels) + 0.5 * l2 * weight.square().sum())

    best = loss(torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_))
    assert loss(ours.weight.double(), ours.bias.double()) <= best * 1.002
    assert converged
    assert not fit_logistic(known.features, known.labels, zeros(known.features, 10), l2 * 1e-3, 5)[1]


def rectified(part: Features) -> Features:
    """Features as a network makes them: none is negative, many are 0."""
    return part._replace(features=part.features.relu().square())


SETS = {
    "few_dimensions": (features(1000, 10), features(5000, 11)),
    "many_classes": (features(1200, 0, 30, 24), features(4000, 1, 30, 24)),
    "fewer_images_than_dimensions": (features(120, 10, 3, 150, 3.0), features(4000, 11, 3, 150, 3.0)),
    "rectified": (rectified(features(700, 0, 6, 24, 2.0)), rectified(features(4000, 1, 6, 24, 2.0))),
}


@pytest.mark.parametrize("name", SETS)
def test_as_good_as_scikit_learn_at_its_best_l2(name: str) -> None:
    """scikit-learn's l2 is chosen on the test images themselves, which ours never sees."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    known, asked = SETS[name]
    x, judged = standardised(known, asked)
    model = linear_model.LogisticRegression(max_iter=1000, tol=1e-3, warm_start=True)
    best = 0.0
    for weight in torch.logspace(1, -4, 16).tolist():  # three a decade
        model.set_params(C=1 / (weight * len(x)))
        best = max(best, model.fit(x, known.labels).score(judged, asked.labels))
    assert probe_features(known, asked, FeatureProbe().l2).figures["top1"] >= best - 0.003


def test_the_l2_is_chosen_without_the_test_images_and_gives_the_same_alone() -> None:
    known, asked = features(300, 0), features(500, 1)
    l2 = (1e-4, 1e-2, 10.0)
    probed = probe_features(known, asked, l2)
    assert probe_features(known, asked._replace(labels=(asked.labels + 1) % 4), l2).l2 == probed.l2
    assert probe_features(known, asked, (probed.l2,)).figures == probed.figures


def test_the_chosen_l2_is_the_best_of_a_plain_cross_validation() -> None:
    known = features(200, 3, noise=3.0)
    x, y = known.features, known.labels
    l2, hits = (1e-3, 0.1, 10.0), []
    for weight in l2:
        right = 0
        for held in folds(200):
            kept = torch.ones(200, dtype=torch.bool).index_fill(0, held, False)
            fitted, _ = fit_logistic(x[kept], y[kept], zeros(x, 4), weight, 200)
            right += int((fitted(x[held]).argmax(dim=1) == y[held]).sum())
        hits.append(right)
    assert sorted(hits)[-1] > sorted(hits)[-2]
    assert choose_l2(x, y, zeros(x, 4), l2, 200) == l2[hits.index(max(hits))]


def test_weights_far_below_the_best_are_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    known, fitted = features(100, 3, noise=3.0), []
    fit = fit_logistic

    def counted(x: torch.Tensor, y: torch.Tensor, start: Logistic, l2: float, iterations: int) -> tuple[Logistic, bool]:
        fitted.append(l2)
        return fit(x, y, start, l2, iterations)

    monkeypatch.setattr(logistic, "fit_logistic", counted)
    l2 = tuple(10.0**power for power in range(-9, 4))
    chosen = choose_l2(known.features, known.labels, zeros(known.features, 4), l2, 20)
    tried = sorted(set(fitted), reverse=True)
    assert tried == sorted(l2, reverse=True)[: len(tried)]
    assert len(tried) - tried.index(chosen) == 5


def test_tenths_are_held_out_in_turn_until_enough_are_judged() -> None:
    assert torch.cat(folds(1003)).sort().values.tolist() == list(range(1003))
    assert [len(part) for part in folds(60_000)] == [6_000]
    assert [len(part) for part in folds(10_000)] == [1_000] * 5
    assert sorted(int(part) for part in folds(3)) == [0, 1, 2]


def test_without_test_images_a_tenth_is_kept_apart() -> None:
    everything = features(205, 0)
    known, asked = hold_out(everything)
    assert sorted([*known.indices.tolist(), *asked.indices.tolist()]) == list(range(205))
    assert len(asked.labels) == 21
    assert torch.equal(everything.features[asked.indices], asked.features)
    assert torch.equal(everything.labels[known.indices], known.labels)


def test_rows_that_are_left_out_have_no_part_in_the_fit() -> None:
    known = features(300, 0)
    start = zeros(known.features, 4)
    targets = known.labels.clone()
    targets[::3] = -100
    kept = targets >= 0
    one, _ = fit_logistic(known.features, targets, start, 0.01, 50)
    other, _ = fit_logistic(known.features[kept], known.labels[kept], start, 0.01, 50)
    torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=3e-3)


def test_neither_scale_nor_offset_nor_a_constant_feature_matters() -> None:
    known, asked = features(300, 0), features(500, 1)
    expected = probe_features(known, asked, (0.01,)).figures

    def changed(part: Features) -> Features:
        rows = torch.cat([part.features * torch.logspace(-3, 3, 10) + 3, torch.full((len(part.labels), 2), 7.0)], dim=1)
        return part._replace(features=rows)

    assert probe_features(changed(known), changed(asked), (0.01,)).figures == pytest.approx(expected, abs=0.005)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = features(300, 0), features(500, 1)
    whole, _ = fit_logistic(known.features, known.labels, zeros(known.features, 4), 0.01, 50)
    figures = judge(whole, asked.features, asked.labels).figures
    monkeypatch.setattr(logistic, "_TILE", 10 * 7)
    tiled, _ = fit_logistic(known.features, known.labels, zeros(known.features, 4), 0.01, 50)
    torch.testing.assert_close(tiled.weight, whole.weight, rtol=0, atol=3e-3)
    assert judge(whole, asked.features, asked.labels).figures == figures


def test_a_best_l2_at_the_edge_is_told() -> None:
    known, asked = features(400, 0, noise=3.0), features(100, 1)
    assert probe_features(known, asked, (3.0, 30.0, 300.0)).at_edge
    assert not probe_features(known, asked, (1e-5, 3e-2, 30.0)).at_edge
    assert not probe_features(known, asked, (3.0,)).at_edge


def test_bad_features_are_named() -> None:
    known, asked = features(30, 0), features(20, 1)
    with pytest.raises(ValueError, match="needs labels"):
        probe_features(known._replace(labels=known.labels - 1), asked, (0.1,))
    with pytest.raises(ValueError, match="NaN"):
        probe_features(
            known, asked._replace(features=asked.features.where(asked.labels[:, None] > 0, torch.nan)), (1.0,)
        )
    with pytest.raises(ValueError, match="l2 is"):
        FeatureProbe(l2=(-1.0,))
    with pytest.raises(ValueError, match="iterations is 0"):
        FeatureProbe(iterations=0)
