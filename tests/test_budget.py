"""A budget ends training on an experience when the compute for it is spent."""

import pytest
import torch
from small import images, lesson, opened, syllabus

from clbench.budget import Budget, Budgeted
from clbench.config import resolve
from clbench.errors import Mistake
from clbench.strategies.baselines import Naive
from clbench.strategies.replay import ER
from clbench.strategy import Strategy, memory_of
from clbench.testing import check_strategy

LESSONS = [lesson(images([0, 1] * 32), 0), lesson(images([2, 3] * 16), 1)]


def taught(strategy, **options):
    """Floating-point operations and steps after each of two lessons, the second half as long."""
    learner = opened(batch=8, epochs=2, **options)
    strategy.start(learner, syllabus(sizes=[len(e.train) for e in LESSONS]))
    spent, steps = [], []
    for experience in LESSONS:
        learner.begin(experience)
        strategy.learn(learner, experience)
        learner.end()
        spent.append(learner.flops.total)
        steps.append(learner.step)
    return learner, spent, steps


def test_a_large_budget_changes_nothing():
    plain, spent, steps = taught(Naive())
    under, also, as_many = taught(Budgeted(Naive(), naive=1.0))
    assert (spent, steps) == (also, as_many) == (spent, [16, 24])
    for a, b in zip(plain.model.parameters(), under.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("naive", "steps"), [(0.5, [8, 12]), (0.25, [4, 6]), (0.01, [0, 0])])
def test_each_experience_stops_when_its_share_is_spent(naive, steps):
    _, whole, _ = taught(Naive())
    _, spent, done = taught(Budgeted(Naive(), naive=naive))
    assert done == steps
    assert all(now <= naive * full for now, full in zip(spent, whole, strict=True))


def test_replay_counts_and_takes_steps_from_the_stream():
    _, whole, _ = taught(Naive())
    _, spent, steps = taught(Budgeted(ER(memory_size=16), naive=1.0))
    assert steps[-1] < 24
    step = spent[0] / steps[0]
    assert all(full - 2 * step < now <= full for now, full in zip(spent, whole, strict=True))


def test_operations_are_a_budget_too():
    _, whole, _ = taught(Naive())
    assert taught(Budgeted(Naive(), flops=whole[-1] / 2))[2] == [8, 12]


def test_what_an_experience_leaves_the_next_may_use():
    class Lazy(Naive):
        def learn(self, learner, experience):
            if experience.index:
                for _ in range(3):
                    super().learn(learner, experience)

    _, whole, _ = taught(Naive())
    _, spent, steps = taught(Budgeted(Lazy(), naive=1.0))
    assert steps == [0, 24]
    assert spent == [0, whole[-1]]


def test_after_the_last_step_memory_is_still_offered_its_batch():
    strategy = Budgeted(ER(memory_size=1000), naive=0.25)
    taught(strategy)
    memory = memory_of(strategy)
    assert memory is not None
    assert memory.seen == 8 * taught(Budgeted(ER(memory_size=1000), naive=0.25))[2][-1]


def test_no_budget_is_no_wrapper():
    strategy = Strategy()
    assert Budget().around(strategy) is strategy
    assert str(Budget()) == "none"
    with pytest.raises(Mistake, match=r"budget.flops=1e\+09 budget.naive=2: give one budget, not two."):
        Budget(1e9, 2.0).around(strategy)


def test_a_budget_is_part_of_the_protocol():
    plan = resolve({"stream": "toy", "budget.naive": 1.1})
    assert plan.protocol()["compute budget"] == "1.1 x naive"
    assert "compute budget" not in resolve({"stream": "toy"}).protocol()
    with pytest.raises(Mistake, match=r"There is no option of budget named 'naiv'\. Did you mean 'naive'\?"):
        resolve({"stream": "toy", "budget.naiv": 1.1})


@pytest.mark.parametrize("base", [Naive, ER])
def test_a_strategy_under_a_budget_keeps_the_contract(base):
    check_strategy(lambda: Budgeted(base(), naive=0.9))
