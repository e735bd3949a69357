"""Networks made into one, by hand; which weights train and which answer, in each method."""

import math

import pytest
import torch
from small import Linear, images, lesson, opened, teach, weights

from clbench import merging
from clbench.errors import Mistake
from clbench.modules import swapped
from clbench.strategies.fpf import KFPF
from clbench.strategies.icarl import ICaRL
from clbench.strategies.lwf import LwF
from clbench.strategies.merging import EMAMerge, EMAOnline, FineTuneMerge, OfflineMerge, ZeroShotMerge
from clbench.strategies.tuners import LoRA
from clbench.strategy import Strategy

ZERO = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])
MODELS = torch.tensor([[2.0, 0.0, 1.1, 4.0, 1.0], [3.0, 5.0, 0.0, 2.0, 1.0]])  # changes 1 -1 .1 3 0 and 2 4 -1 1 0


def near(found, wanted):
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-5, rtol=0)


def test_interpolation_and_task_arithmetic():
    near(merging.interpolation(MODELS), [2.5, 2.5, 0.55, 3.0, 1.0])
    near(merging.interpolation(MODELS, torch.tensor([3.0, 1.0])), [2.25, 1.25, 0.825, 3.5, 1.0])
    near(merging.task_arithmetic(ZERO, MODELS, scale=2.0), [4.0, 4.0, 0.1, 5.0, 1.0])


def test_slerp_goes_along_the_arc_of_each_tensor_and_straight_where_they_are_parallel():
    one, other = torch.tensor([1.0, 0.0, 2.0, 2.0]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    half = 1 / math.sqrt(2)
    near(merging.slerp(one, other, 0.5, [2, 2]), [half, half, 1.5, 1.5])
    near(merging.slerp(one, other, 1.0, [2, 2]), [1.0, 0.0, 2.0, 2.0])


def test_ties_drops_the_least_elects_signs_and_averages_those_that_agree():
    # A fifth of 5: k = 1, the least is 0, so nothing is dropped. Signs of the sums: + + - +.
    near(merging.ties(ZERO, MODELS, trim=0.2), [2.5, 5.0, 0.0, 3.0, 1.0])
    # k = 3: entries of 1 and more are left of the first change, and of 1 and more of the second.
    near(merging.ties(ZERO, MODELS, trim=0.6, scale=0.5), [1.75, 3.0, 0.5, 2.0, 1.0])


def test_breadcrumbs_drops_the_greatest_too():
    # k = 4 from below: at most 1 of the first change and 2 of the second are left.
    near(merging.breadcrumbs(ZERO, MODELS, trim=0.2), [2.5, 0.0, 0.0, 2.0, 1.0])


def test_dare_drops_at_random_and_makes_up_for_it():
    zero, models = torch.zeros(20000), torch.ones(1, 20000)
    found = merging.dare(zero, models, 0.2, torch.Generator().manual_seed(0))
    assert sorted(found.unique().tolist()) == [0.0, 1.25]
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)


def test_magmax_takes_the_greatest_change():
    near(merging.magmax(ZERO, MODELS), [3.0, 5.0, 0.0, 4.0, 1.0])


def test_model_stock_goes_as_far_as_the_changes_agree():
    zero, right = torch.zeros(4), torch.tensor([[1.0, 0.0, 3.0, 0.0], [0.0, 1.0, 3.0, 0.0]])
    # First tensor: cosine 0, nothing is taken; second: cosine 1, t = 2 / 2.
    near(merging.model_stock(zero, right, [2, 2]), [0.0, 0.0, 3.0, 0.0])
    bent = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])  # cosine .5: t = 1 / 1.5
    near(merging.model_stock(torch.zeros(2), bent, [2]), [0.5, math.sqrt(0.75) / 3])


def test_lines_scales_by_depth():
    names = ["body.patch.weight", "body.blocks.0.fc", "body.blocks.0.norm", "body.blocks.1.fc", "head.weight"]
    assert merging.depth(names) == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert merging.depth(["a.weight", "a.bias", "b.weight", "head.weight"]) == [0.0, 0.0, 0.5, 1.0]
    depths = torch.tensor([0.0, 0.5, 1.0])
    near(merging.scaled(torch.zeros(3), torch.ones(3), depths, "linear", 0.5, 0.5), [0.5, 0.75, 1.0])
    near(merging.scaled(torch.zeros(3), torch.ones(3), depths, "quadratic", 0.5, 0.5), [0.5, 0.625, 1.0])


# The methods. Each experience adds its number to the only weights, whatever they are.

START = torch.arange(8.0).view(2, 4)


class Adds(Strategy):
    def start(self, learner, syllabus):
        self.begun = []

    def learn(self, learner, experience):
        self.begun.append(float(learner.model.head.weight.detach()[0, 0]))
        with torch.no_grad():
            learner.model.head.weight += experience.index + 1


def taught(strategy, tasks=2):
    learner = opened(classes=2, side=2, model=Linear(START))
    teach(learner, strategy, [lesson(images([0, 1], side=2), index) for index in range(tasks)], classes=2)
    answers = strategy.predict(learner, torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]))[0, 0]
    return strategy.base.begun, float(learner.model.head.weight.detach()[0, 0]), float(answers.detach())


def test_ema_merge_trains_from_what_is_merged():
    # 0 + 1 -> .5; .5 + 2 = 2.5 -> 1.5
    assert taught(EMAMerge(base=Adds())) == ([0.0, 0.5], 1.5, 1.5)
    assert taught(EMAMerge(base=Adds(), share=1.0)) == ([0.0, 1.0], 3.0, 3.0)


def test_zeroshot_merge_trains_from_the_first_weights():
    # 1 -> .5; 2 and .5 -> 1.25
    assert taught(ZeroShotMerge(base=Adds())) == ([0.0, 0.0], 2.0, 1.25)


def test_finetune_merge_goes_back_half_of_the_way():
    # 1 -> .5; 2.5 -> 1.25
    assert taught(FineTuneMerge(base=Adds())) == ([0.0, 0.5], 1.25, 1.25)


def test_offline_merge_trains_on_and_weighs_experiences_by_their_number():
    assert taught(OfflineMerge(base=Adds())) == ([0.0, 1.0], 3.0, 2.0)
    assert taught(OfflineMerge(base=Adds(), over_time="linear"))[2] == pytest.approx((1 + 2 * 3) / 3)
    assert taught(OfflineMerge(base=Adds(), over_time="linear", backwards=True))[2] == pytest.approx((2 + 3) / 3)
    assert taught(OfflineMerge(base=Adds(), with_first=True))[2] == pytest.approx((0 + 1 + 3) / 3)
    with pytest.raises(Mistake, match="has many"):
        OfflineMerge(base=Adds(), operator="slerp").start(opened(classes=2, side=2), None)


def test_ema_online_averages_every_step():
    seen = []

    class Noted(Strategy):
        def batches(self, learner, experience):
            for batch in learner.batches(experience.train):
                yield batch
                seen.append(weights(learner))

    learner = opened(batch=4)
    average = weights(learner)
    strategy = teach(learner, EMAOnline(base=Noted(), decay=0.75), [lesson(images([0, 1] * 8))])
    for step in seen:
        average = 0.75 * average + 0.25 * step
    torch.testing.assert_close(strategy.evaluated, average)
    assert torch.equal(weights(learner), strategy.evaluated)


def test_of_a_tuned_network_only_what_trains_is_merged():
    learner = opened()
    strategy = teach(learner, ZeroShotMerge(base=LoRA(rank=2)), [lesson(images([0, 1] * 8))])
    trains = sum(p.numel() for p in learner.model.parameters() if p.requires_grad)
    assert len(strategy.evaluated) == trains < weights(learner).numel()
    before = weights(learner)
    strategy.predict(learner, torch.zeros(2, 1, 4, 4))
    assert torch.equal(weights(learner), before)


@pytest.mark.parametrize("base", [KFPF(memory_size=16), LwF()], ids=lambda base: type(base).__name__)
@pytest.mark.parametrize("kind", [EMAOnline, EMAMerge])
def test_what_is_merged_is_the_same_in_phases_of_the_base(kind, base):
    learner = opened(batch=8)
    strategy = teach(learner, kind(base=base), [lesson(images([2 * i, 2 * i + 1] * 8), i) for i in range(2)])
    assert len(strategy.evaluated) == weights(learner).numel()


@pytest.mark.parametrize("kind", [EMAMerge, EMAOnline, FineTuneMerge, OfflineMerge, ZeroShotMerge])
def test_what_answers_need_is_of_the_weights_that_answer(kind):
    learner, base = opened(batch=8), ICaRL(memory_size=8)
    data = [lesson(images([2 * i, 2 * i + 1] * 8), i) for i in range(2)]
    strategy = teach(learner, kind(base=base), data)
    means = base.means.clone()
    with swapped(learner.model, strategy.named(learner.model, strategy.evaluated)):
        base.settle(learner)
    assert torch.equal(base.means, means)
