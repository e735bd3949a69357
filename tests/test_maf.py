"""A memory-adjusted budget decides how many steps an experience takes, and schedules fit them."""

import pytest
from small import images, lesson, opened, teach

from clbench.budget import Budget, Budgeted
from clbench.errors import Mistake
from clbench.maf import MemoryAdjusted, held, saved
from clbench.strategies.coact import CoACT
from clbench.strategies.fpf import FPF, KFPF
from clbench.strategies.gs_lora import GSLoRA
from clbench.strategies.mos import MOS
from clbench.strategies.projected import GaLore
from clbench.strategies.replay import ER, GDumb
from clbench.strategies.slca import SLCA
from clbench.strategies.tuners import BitFit
from clbench.strategies.unlearning import SCRUB
from clbench.strategy import Strategy

FOUR = 4
"""bytes of a number"""


def lessons(count=2, samples=16):
    return [lesson(images([2 * index, 2 * index + 1] * (samples // 2)), index) for index in range(count)]


def test_the_memory_of_a_step_by_hand():
    learner = opened(batch=4, optimizer="adamw")  # 16 pixels, 8 hidden, 4 classes
    numbers = 16 * 8 + 8 + 8 * 4 + 4
    loss, blank = Strategy().loss, learner.blank(4)
    # Kept for the way back: the pixels, the hidden units after ReLU, log-softmax; labels; the mean's count of them.
    kept = saved(learner, loss, blank)
    assert kept >= FOUR * 4 * (16 + 8 + 4) + 8 * 4
    assert held(learner, loss, blank) == FOUR * numbers * (1 + 1 + 2) + kept
    biases = BitFit()
    biases.start(learner, None)
    tuned = held(learner, loss, blank)
    trains = 8 + 8 * 4 + 4  # biases, and the head
    assert tuned - saved(learner, loss, blank) == FOUR * (numbers + trains * (1 + 2))
    assert saved(learner, loss, blank) <= kept


def test_what_a_rule_of_its_own_remembers():
    learner = opened(batch=4, optimizer="adamw")
    # Vectors: two moments of 8 and 4. Matrices 8 x 16 and 4 x 8 at rank 2: moments 2 x long, a basis 2 x short.
    assert GaLore(rank=2).remembers(learner) == 2 * 12 + 2 * (2 * 16 + 8) + 2 * (2 * 8 + 4)


def test_steps_are_what_the_share_buys():
    learner = opened(batch=4, optimizer="adamw", epochs=1, schedule="cosine")
    price = learner.price(learner.blank(4), Strategy().loss)
    rates = []

    class Noted(Strategy):
        def adjust(self, learner):
            rates.append(learner.optim.torch.param_groups[0]["lr"])

    strategy = MemoryAdjusted(base=Noted(), maf=2 * 10.5 * price)
    teach(learner, strategy, lessons())
    assert learner.step == 10 + 11  # what the first left over goes to the second
    assert len(rates) == 21
    assert 0 < rates[9] < 0.1 * rates[0]
    assert strategy.spent <= strategy.maf
    assert learner.epochs == 1


def test_what_follows_the_last_step_is_not_cut_off():
    learner = opened(batch=4)
    base = ER(memory_size=64)
    teach(learner, MemoryAdjusted(base=base, maf=2 * 6.5 * learner.price(learner.blank(4), Strategy().loss)), lessons())
    assert base.memory.seen == 4 * learner.step


def test_less_memory_buys_more_steps_and_replay_fewer():
    steps = {}
    for name, base in (("naive", Strategy()), ("bitfit", BitFit()), ("er", ER(memory_size=8))):
        learner = opened(batch=4, optimizer="adamw")
        teach(learner, MemoryAdjusted(base=base, maf=2e5), lessons())
        steps[name] = learner.step
    assert steps["er"] < steps["naive"] < steps["bitfit"]


@pytest.mark.parametrize(
    "strategy", [KFPF(), FPF(), GDumb(), MOS(), SLCA(), CoACT(), GSLoRA(), SCRUB()], ids=lambda s: type(s).__name__
)
def test_who_counts_steps_alone_is_refused(strategy):
    with pytest.raises(
        Mistake, match=f"^{type(strategy).__name__} has phases or epochs of its own, which budget.maf would"
    ):
        teach(opened(), MemoryAdjusted(base=strategy, maf=1e9), lessons())


def test_too_little_is_said_and_one_budget_is_enough():
    with pytest.raises(Mistake, match="leaves no step for experience 0"):
        teach(opened(batch=4), MemoryAdjusted(base=Strategy(), maf=10), lessons())
    with pytest.raises(Mistake, match=r"budget.naive=1 budget.maf=5: give one budget"):
        Budget(naive=1.0, maf=5.0).around(Strategy())
    assert isinstance(Budget(maf=5.0).around(Strategy()), MemoryAdjusted)
    assert isinstance(Budget(flops=5.0).around(Strategy()), Budgeted)
    assert str(Budget(maf=5.0)) == "5 memory-adjusted operations"
