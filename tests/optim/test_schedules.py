import math

import pytest

from selfsup.optim.schedules import Constant, Cosine, Horizon, SimCLRCosine, Steps, SupConCosine, scaled_rate
from tests.support.figures import golden

TEN = Horizon(num_examples=1030, batch_size=100, epochs=10)  # 10 steps per epoch


def test_simclr_golden():
    g = golden("simclr_schedule")
    for row in range(len(g["base_lr"])):
        horizon = Horizon(*(int(g[name][row]) for name in ("num_examples", "batch_size", "epochs")))
        peak = scaled_rate(float(g["base_lr"][row]), horizon.batch_size, "sqrt" if g["sqrt_scaling"][row] else "linear")
        schedule = SimCLRCosine(warmup_epochs=float(g["warmup_epochs"][row]))
        for step, expected in zip(g["step"][row].tolist(), g["lr"][row].tolist(), strict=True):
            assert peak * schedule(step, horizon) == pytest.approx(expected, abs=1e-6 * peak)
        assert schedule(int(g["total_steps"][row]), horizon) == pytest.approx(0, abs=1e-12)


def test_horizon_drops_the_incomplete_batch():
    assert (TEN.steps_per_epoch, TEN.total_steps) == (10, 100)


def test_moco_steps_fall_at_the_start_of_each_milestone():
    schedule = Steps(milestones=(3, 5), gamma=0.1)
    assert [schedule(step, TEN) for step in (0, 29, 30, 49, 50, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("first", [0, 1])
def test_moco_cosine_is_constant_within_an_epoch(first):
    schedule = Cosine(per="epoch", first_epoch=first)
    for step in range(TEN.total_steps):
        expected = 0.5 * (1 + math.cos(math.pi * (step // 10 + first) / 10))
        assert schedule(step, TEN) == pytest.approx(expected, abs=1e-12)


def test_cosine_by_step_with_warmup():
    schedule = Cosine(warmup_epochs=2, final=0.1)
    assert [schedule(step, TEN) for step in (0, 5, 20)] == pytest.approx([0, 0.25, 1])
    assert schedule(60, TEN) == pytest.approx(0.55)  # half way between 20 and 100
    assert schedule(100, TEN) == pytest.approx(0.1)
    rates = [schedule(step, TEN) for step in range(20, 100)]
    assert rates == sorted(rates, reverse=True)


def test_cosine_by_epoch_whose_warmup_ends_inside_one():
    schedule = Cosine(warmup_epochs=1.5, per="epoch")
    assert schedule(14, TEN) == pytest.approx(14 / 15)
    assert schedule(15, TEN) == schedule(19, TEN) == 1
    assert schedule(20, TEN) < 1


def test_supcon_cosine_joins_its_warmup():
    schedule = SupConCosine(warmup_epochs=2, warmup_from=0.02)
    joint = 0.001 + 0.999 * (1 + math.cos(math.pi * 0.2)) / 2
    assert schedule(0, TEN) == pytest.approx(0.02)
    assert schedule(10, TEN) == pytest.approx((0.02 + joint) / 2)
    assert schedule(25, TEN) == pytest.approx(0.001 + 0.999 * (1 + math.cos(math.pi * 0.3)) / 2)
    assert schedule(99, TEN) == pytest.approx(0.001)


def test_scaled_rate():
    assert [scaled_rate(0.1, 4096, scaling) for scaling in ("none", "linear", "sqrt")] == pytest.approx([0.1, 1.6, 6.4])
    assert Constant()(7, TEN) == 1


@pytest.mark.parametrize("schedule", [Cosine, SimCLRCosine])
def test_negative_warmup_is_refused(schedule):
    with pytest.raises(ValueError, match="warmup_epochs is -1"):
        schedule(warmup_epochs=-1)
