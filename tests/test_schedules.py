"""Schedules and meta-schedules: the values that their formulas have by hand, and that steps are taken at them."""

import math

import pytest
from small import images, lesson, opened, teach

from clbench.errors import Mistake
from clbench.schedules import Schedule
from clbench.strategies.schedules import MetaSchedule
from clbench.strategy import Strategy


@pytest.mark.parametrize(
    ("form", "meta", "step", "task", "value"),
    [
        ("rsqrt", "none", 0, 0, 1 / 10),
        ("rsqrt", "none", 9, 5, 1.0),
        ("rsqrt", "none", 50, 0, math.sqrt(10 / 50)),
        ("rsqrt", "none", 80, 0, math.sqrt(10 / 80) * 19 / 20),
        ("rsqrt", "none", 99, 0, 0.0),
        ("rsqrt", "autoregressive", 9, 1, 0.42640),
        ("rsqrt", "continued", 9, 1, 0.35355),
        ("rsqrt", "recovered", 9, 1, math.sqrt(10 / 70)),
        ("rsqrt", "recovered", 30, 1, math.sqrt(10 / 100)),
        ("cosine", "none", 10, 0, 0.5 * (1 + math.cos(math.pi * 1 / 90))),
        ("cosine", "none", 99, 3, 0.0),
        ("cosine", "autoregressive", 9, 1, 0.49127),
        ("cosine", "dynamic", 20, 1, 0.5 * (1 + math.cos(math.pi * 111 / 190))),
    ],
)
def test_golden_values(form, meta, step, task, value):
    assert Schedule(form, meta, 0.1, 0.2)(step, 100, task) == pytest.approx(value, abs=1e-5)


def test_the_floor_is_where_it_falls_to():
    schedule = Schedule("cosine", "autoregressive", 0.1, floor=0.1)
    assert schedule(99, 100, 0) == pytest.approx(0.1)
    assert schedule.peak(100, 1) == pytest.approx(0.1 + 0.49127 * 0.9, abs=1e-5)


def test_without_a_warmup_nothing_is_divided_by_zero():
    assert Schedule("rsqrt", warmup=0.0, cooldown=0.0)(0, 4, 0) == 1.0
    assert Schedule("rsqrt", "recovered", warmup=0.5, cooldown=0.5)(0, 4, 1) == pytest.approx(0.5)
    assert Schedule("rsqrt", "continued", warmup=2, cooldown=50).peak(30, 1) == 1.0
    assert Schedule("cosine", "autoregressive", warmup=1.0)(3, 4, 1) == 1.0  # all of it is warm-up: nothing fell


def test_each_step_is_at_the_rate_of_its_task():
    rates = []

    class Noted(Strategy):
        def adjust(self, learner):
            rates.append(learner.optim.torch.param_groups[0]["lr"])

    learner = opened(batch=4, lr=2.0, epochs=2)
    strategy = MetaSchedule(form="rsqrt", meta="continued", warmup=2, cooldown=0.25, base=Noted())
    teach(learner, strategy, [lesson(images([0, 1] * 8), 0), lesson(images([2, 3] * 8), 1)])
    schedule = Schedule("rsqrt", "continued", 2, 0.25)
    assert rates == pytest.approx([2.0 * schedule(step, 8, task) for task in (0, 1) for step in range(8)])


def test_what_does_not_go_together_is_said():
    with pytest.raises(Mistake, match="is not of form=cosine"):
        MetaSchedule(form="cosine", meta="continued").start(opened(), None)
