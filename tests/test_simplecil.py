import math

import pytest
import torch
from small import Net, Transformer, images, lesson, opened, syllabus, teach, weights

from clbench.data import Data, Source
from clbench.strategies.baselines import Joint, Naive
from clbench.strategies.linear_probe import LinearProbe
from clbench.strategies.prototypes import LOWEST
from clbench.strategies.replay import ER
from clbench.strategies.simplecil import SimpleCIL
from clbench.strategy import Strategy
from clbench.testing import check_resume
from clbench.transform import ImageTransform

PIXELS = Net(hidden=0)
"""features are the pixels, of 0 to 1"""
AUGMENTED = ImageTransform(crop=1, flip=True)


def by_hand(pixels, labels):
    """Samples of 2 x 2 pixels."""
    x = torch.tensor(pixels, dtype=torch.uint8).view(-1, 2, 2, 1)
    return Data(Source(x, torch.tensor(labels)), torch.arange(len(labels)))


def two_lessons():
    return [lesson(images([0, 1] * 20)), lesson(images([2, 3] * 20 + [2] * 7), 1)]


def test_prototypes_by_hand():
    learner = opened(side=2, model=PIXELS, eval_batch=2)
    strategy = SimpleCIL()
    strategy.start(learner, syllabus(side=2))
    data = by_hand([(255, 0, 0, 0), (0, 51, 0, 0), (51, 0, 0, 0), (102, 0, 0, 0)], [0, 2, 2, 0])
    strategy.learn(learner, lesson(data))
    means = strategy.prototypes.means()
    assert means[[0, 2]].flatten().tolist() == pytest.approx([0.7, 0, 0, 0, 0.1, 0.1, 0, 0])
    asked = torch.tensor([[0.3, 0.4], [0, 0]]).view(1, 1, 2, 2)
    found = strategy.predict(learner, asked)
    assert found.tolist()[0] == pytest.approx([0.6, LOWEST, 0.7 / math.sqrt(0.5), LOWEST], rel=1e-4)
    far = SimpleCIL(distance="euclidean")
    far.start(learner, syllabus(side=2))
    far.learn(learner, lesson(data))
    assert far.predict(learner, asked).tolist()[0] == pytest.approx([-0.32, LOWEST, -0.13, LOWEST], rel=1e-4)


def test_a_class_that_comes_again_goes_on_with_its_mean():
    learner, whole = (opened(side=2, model=PIXELS) for _ in range(2))
    pixels = [(255, 0, 0, 0), (0, 51, 0, 0), (51, 0, 0, 0)]
    parts = [lesson(by_hand(pixels[:1], [0])), lesson(by_hand(pixels[1:], [0, 0]), 1)]
    twice = teach(learner, SimpleCIL(), parts)
    once = teach(whole, SimpleCIL(), [lesson(by_hand(pixels, [0, 0, 0]))])
    assert torch.allclose(twice.prototypes.means(), once.prototypes.means())


def test_nothing_trains_and_the_order_of_experiences_does_not_matter():
    learner = opened(model=Transformer(), transform=AUGMENTED)
    before = weights(learner)
    forward = teach(learner, SimpleCIL(), two_lessons())
    assert torch.equal(weights(learner), before)
    assert learner.step == 0
    assert not any(p.requires_grad for p in learner.model.parameters())
    backward = teach(opened(model=Transformer(), transform=AUGMENTED), SimpleCIL(), two_lessons()[::-1])
    assert torch.equal(forward.prototypes.sums, backward.prototypes.sums)


def test_a_pass_over_the_samples_is_counted():
    learner = opened(model=Net(8), eval_batch=16)
    teach(learner, SimpleCIL(), two_lessons())
    assert learner.flops.total == 2 * 87 * 16 * 8


def test_a_probe_moves_the_head_alone():
    learner = opened(model=Transformer(), epochs=2)
    before = {name: p.clone() for name, p in learner.model.named_parameters()}
    teach(learner, LinearProbe(), two_lessons())
    moved = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"head.weight", "head.bias"}


def test_a_probe_on_features_is_fine_tuning_of_a_linear_model():
    probed, plain = (opened(model=PIXELS, epochs=2, transform=AUGMENTED) for _ in range(2))
    teach(probed, LinearProbe(), two_lessons())
    teach(plain, Naive(), two_lessons())
    assert torch.equal(weights(probed), weights(plain))


def test_a_step_of_a_probe_costs_no_backward_pass_through_the_body():
    learner = opened(model=Net(8), epochs=1, batch=8)
    teach(learner, LinearProbe(), two_lessons()[:1])
    assert learner.flops.total == 40 * (2 * 16 * 8 + 2 * 2 * 8 * 4)


@pytest.mark.parametrize("base", [Joint(), ER(memory_size=30), Strategy()])
def test_a_probe_goes_on_around_others(base):
    check_resume(LinearProbe(base=base))
