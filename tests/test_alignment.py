from collections import OrderedDict
from functools import partial

import pytest
import torch
from small import images, lesson, opened, syllabus, teach
from test_prototypes import final_accuracy
from torch import nn

from clbench.errors import Mistake
from clbench.strategies.alignment import WA, align
from clbench.strategies.baselines import Naive
from clbench.strategies.replay import ER
from clbench.testing import check_resume

LABELS = [[0, 1] * 20, [2, 3] * 20]


def taught(strategy, labels=LABELS):
    learner = opened(batch=8, epochs=3)
    teach(learner, strategy, [lesson(images(part), n) for n, part in enumerate(labels)])
    return learner.model.head


def lengths(head):
    return head.weight.detach().norm(dim=1)


def test_lengths_by_hand():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 6.0], [6.0, 8.0], [0.0, -1.0], [8.0, 15.0]]))
    align(weight, old={0, 3}, new={4, 1, 2})
    # The old are 5 and 1 long, the new 17, 6 and 10: the factor is 3 / 11.
    expected = [[3, 4], [0, 18 / 11], [18 / 11, 24 / 11], [0, -1], [24 / 11, 45 / 11]]
    assert weight.flatten().tolist() == pytest.approx([number for row in expected for number in row])
    assert weight.requires_grad


@pytest.mark.parametrize("base", [Naive, partial(ER, memory_size=20)])
def test_new_classes_are_as_long_as_old_ones_and_nothing_else_moves(base):
    alone, aligned = taught(base()), taught(WA(base=base()))
    old, new = lengths(alone)[:2].mean(), lengths(alone)[2:].mean()
    assert abs(old / new - 1) > 0.05
    assert torch.equal(aligned.weight[:2], alone.weight[:2])
    assert torch.equal(aligned.bias, alone.bias)
    assert torch.allclose(aligned.weight[2:], alone.weight[2:] * old / new)
    assert lengths(aligned)[2:].mean().item() == pytest.approx(old.item())


@pytest.mark.parametrize("labels", [[[0, 1] * 20], [[0, 1] * 20, [1, 0] * 20], [[0, 1] * 20, [0, 1, 2, 3] * 10]])
def test_nothing_is_scaled_where_nothing_is_old_or_nothing_new(labels):
    assert torch.equal(taught(WA(), labels).weight, taught(Naive(), labels).weight)


def test_a_class_that_comes_again_is_neither_old_nor_new():
    labels = [[0, 1] * 20, [1, 2] * 20]
    alone, aligned = taught(Naive(), labels), taught(WA(), labels)
    assert torch.equal(aligned.weight[[0, 1, 3]], alone.weight[[0, 1, 3]])
    assert lengths(aligned)[2].item() == pytest.approx(lengths(alone)[0].item())
    assert not torch.equal(aligned.weight[2], alone.weight[2])


def test_old_is_all_that_came_before():
    labels = [[0] * 40, [1, 2] * 20, [3] * 40]
    aligned = taught(WA(), labels)
    assert lengths(aligned)[3].item() == pytest.approx(lengths(aligned)[:3].mean().item())


def test_a_head_that_is_not_linear_is_refused():
    class Convolved:
        def build(self, shape, classes):
            return nn.Sequential(OrderedDict(body=nn.Identity(), head=nn.Conv2d(1, classes, 4)))

    with pytest.raises(Mistake, match="linear layer named head, a row for each class; here it is a Conv2d"):
        WA().start(opened(model=Convolved()), syllabus())


@pytest.mark.parametrize("seed", range(3))
def test_it_forgets_less_than_naive(seed):
    assert final_accuracy(WA(base=ER(memory_size=60)), seed) > final_accuracy(Naive(), seed) + 0.1


def test_it_goes_on_around_replay():
    check_resume(WA(base=ER(memory_size=60)))
