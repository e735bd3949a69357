from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from small import Linear, images, lesson, opened, syllabus, teach
from torch import nn

from clbench.data import Data, Source
from clbench.metric import Look
from clbench.metrics.restoration import Restoration, _scattered
from clbench.models import ConvBN
from clbench.strategies.baselines import Joint
from clbench.strategy import Strategy
from clbench.stream import Exam, Syllabus
from clbench.transform import Transform

SEEN = [frozenset(), frozenset({0, 1}), frozenset(range(4))]


@dataclass
class Two:
    """Two linear maps, each of them the identity; the head has biases."""

    def build(self, shape, classes):
        body = nn.Sequential(OrderedDict(fc=nn.Linear(classes, classes, bias=False)))
        net = nn.Sequential(OrderedDict(body=body, head=nn.Linear(classes, classes)))
        with torch.no_grad():
            for layer in (net.body.fc, net.head):
                layer.weight.copy_(torch.eye(classes))
            net.head.bias.zero_()
        return net


def exam(labels, since, name="a", classes=(0, 1)):
    """Every sample is the unit vector of its label."""
    data = Data(Source(torch.eye(4)[labels], torch.tensor(labels)), torch.arange(len(labels)))
    return Exam(name, data, frozenset(classes), since=since)


EXAMS = [
    exam([0, 1, 1, 0], 0), exam([2, 3], 1, "b", (2, 3)), exam([0], None, "never"), exam([0, 2], 2, "later", (0, 2))
]  # fmt: skip


def restored(spoil, model=None, exams=EXAMS, strategy=None, shared=False, samples=1000, seen=SEEN):
    """The rows after two experiences, of which the second did nothing but to spoil the network."""
    learner = opened(model=model or Two(), transform=Transform(), eval_batch=3)
    learner.model = (model or Two()).build((4,), 4).eval()
    probe, plan, found = Restoration(samples=samples), Syllabus(3, 4, (4,), (), shared), {}
    for step in range(3):
        if step == 2:
            with torch.no_grad():
                spoil(learner.model)
        bits = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
        rows = list(probe(Look(step, 10 * step, learner, strategy or Strategy(), plan, exams, seen[step])))
        assert all(torch.equal(tensor, bits[name]) for name, tensor in learner.model.state_dict().items())
        assert step == 2 or not rows
        assert all((row.step, row.at) == (step, 10 * step) for row in rows)
        found |= {(row.metric.removeprefix("restoration/"), row.subject): row for row in rows}
    return found


def values(*args, **options):
    return {key: row.value for key, row in restored(*args, **options).items()}


def confuse(net):
    """Labels 0 and 1 take one another's place."""
    net.head.weight.copy_(torch.eye(4)[[1, 0, 2, 3]])


def test_a_head_that_is_given_back_gives_everything_back():
    found = values(confuse)
    for readout in ("class", "task"):
        assert found[f"{readout}_before", ""] == 1
        assert found[f"{readout}_after", ""] == 0
        assert found[f"{readout}_gain", "head"] == found[f"{readout}_loss", "head"] == 1
        assert found[f"{readout}_gain", "fc"] == found[f"{readout}_loss", "fc"] == 0
    names = {f"{readout}_{name}" for readout in ("class", "task") for name in ("gain", "random", "loss")}
    whole = {(f"{readout}_{name}", "") for readout in ("class", "task") for name in ("before", "after")}
    assert found.keys() == {(name, group) for name in names for group in ("fc", "head")} | whole


def test_what_only_works_together():
    def spoil(net):
        net.body.fc.weight.copy_(torch.eye(4)[[1, 0, 2, 3]])
        confuse(net)

    found = values(spoil)
    assert found["class_before", ""] == found["class_after", ""] == 1
    assert {found["class_gain", group] for group in ("fc", "head")} == {-1}
    assert {found["class_loss", group] for group in ("fc", "head")} == {1}


def test_labels_are_open_as_they_are_now():
    def spoil(net):
        net.head.bias[2] = 9.0

    found = values(spoil)
    assert found["class_gain", "head"] == found["class_before", ""] - found["class_after", ""] == 1
    assert found["task_gain", "head"] == 0
    assert found["task_after", ""] == 1

    class Louder(Two):
        def build(self, shape, classes):
            net = super().build(shape, classes)
            net.head.bias.data[3] = 9.0
            return net

    found = values(lambda net: None, model=Louder())
    assert found["class_before", ""] == 0
    assert found["task_before", ""] == 1
    assert values(lambda net: None, model=Louder(), seen=[SEEN[0], SEEN[1], SEEN[1]])["class_before", ""] == 1


def test_exams_are_those_of_the_experience_before_the_last():
    found = restored(confuse)
    assert {row.n for row in found.values()} == {4}
    more = [*EXAMS, exam([2, 2, 3, 0, 1, 2], 0, "c", (2, 3, 0, 1))]
    found = restored(confuse, exams=more)
    assert {row.n for row in found.values()} == {10}
    assert found["class_after", ""].value == found["task_after", ""].value == pytest.approx(4 / 10)
    assert restored(confuse, exams=EXAMS[1:]) == {}


def test_each_exam_has_its_own_labels_open():
    def spoil(net):
        net.head.bias[2] = 9.0

    found = values(spoil, exams=[EXAMS[0], exam([2, 3, 3, 3], 0, "c", (2, 3))])
    assert found["class_after", ""] == pytest.approx(1 / 8)
    assert found["task_after", ""] == pytest.approx(5 / 8)


def test_a_long_exam_is_answered_in_part():
    labels = [0] * 6 + [1] * 3
    found = restored(lambda net: net.head.bias.add_(torch.tensor([9.0, 0, 0, 0])), exams=[exam(labels, 0)], samples=3)
    assert {row.n for row in found.values()} == {3}
    assert found["class_after", ""].value == pytest.approx(2 / 3)


def test_where_experiences_share_classes_there_is_no_task():
    assert {name.partition("_")[0] for name, _ in restored(confuse, shared=True)} == {"class"}


def test_who_learns_only_at_the_end_has_nothing_to_restore():
    assert restored(confuse, strategy=Joint()) == {}


def test_as_many_scalars_at_random_are_everything_where_there_is_one_group():
    def spoil(net):
        net.head.weight.copy_(torch.eye(4)[[1, 0, 2, 3]])

    found = values(spoil, model=Linear(torch.eye(4)))
    assert found["class_random", "head"] == found["class_gain", "head"] == 1


@pytest.mark.parametrize("count", [0, 1, 5, 13, 16])
def test_scattered_scalars_are_so_many_of_all(count):
    now = {"a": torch.zeros(3, 2), "b": torch.zeros(()), "c": torch.zeros(9)}
    then = {name: torch.arange(1.0, tensor.numel() + 1).view_as(tensor) for name, tensor in now.items()}
    found = _scattered(now, then, count, np.random.default_rng(0))
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in now.items()}
    assert sum(int((tensor > 0).sum()) for tensor in found.values()) == count
    assert all(torch.equal(tensor, then[name] * (tensor > 0)) for name, tensor in found.items())
    assert all(not tensor.any() for tensor in now.values())


def test_scattered_scalars_are_drawn_uniformly():
    now, then = {"a": torch.zeros(3), "b": torch.zeros(7)}, {"a": torch.ones(3), "b": torch.ones(7)}
    rng, times = np.random.default_rng(0), 2000
    found = sum(torch.cat([*_scattered(now, then, 4, rng).values()]) for _ in range(times))
    assert ((found / times - 0.4).abs() < 5 * (0.4 * 0.6 / times) ** 0.5).all()


def test_everything_that_is_restored_answers_as_it_did_then():
    learner = opened(model=ConvBN(width=4), side=8, batch=8, lr=0.1, eval_batch=16)
    first, second = (images([a, b] * 40, side=8) for a, b in ((0, 1), (2, 3)))
    first.source.x[1::2] //= 4
    exams = [Exam("a", first, frozenset({0, 1}), since=0), Exam("b", second, frozenset({2, 3}), since=1)]
    probe, seen, rows = Restoration(), frozenset(range(4)), {}
    look = partial(Look, learner=learner, syllabus=syllabus(side=8), exams=exams, seen=seen)

    def right():
        with torch.inference_mode():
            x, y = first.gather(torch.arange(len(first)))
            return float((learner(learner.encode(x)).argmax(1) == y).double().mean())

    accuracy = []
    for step, data in enumerate((first, second), start=1):
        strategy = teach(learner, Strategy(), [lesson(data)])
        accuracy.append(right())
        rows = {(row.metric, row.subject): row.value for row in probe(look(step=step, at=step, strategy=strategy))}
        assert right() == accuracy[-1]
    assert accuracy[0] > 0.5 > accuracy[1]
    assert rows["restoration/class_before", ""] == accuracy[0]
    assert rows["restoration/class_after", ""] == accuracy[1]
    assert rows["restoration/class_gain", "bn.mean"] is not None
