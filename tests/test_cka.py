from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small import Net, images, opened, syllabus
from torch import nn

from clbench.metric import Look
from clbench.metrics.cka import CKA, FEW, STILL, cka, hsic, layers
from clbench.models import ConvBN, ResNet18
from clbench.strategies.baselines import Joint
from clbench.strategy import Strategy
from clbench.stream import Exam


def features(seed, n=20, width=7):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, width)))


def grams(x, parts=1):
    return [part @ part.T for part in x.chunk(parts)]


def test_hsic_is_the_mean_over_four_samples_that_differ():
    """The estimator of Song et al. is a U-statistic: h(i, j, q, r) averaged over all four different indices."""
    x, y = features(0, 6, 3), features(1, 6, 2)
    k, h = x @ x.T, y @ y.T
    n, total, count = 6, 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += float(k[i, j] * h[i, j] + k[i, j] * h[q, r] - 2 * k[i, j] * h[i, q])
                        count += 1
    assert float(hsic(k, h)) == pytest.approx(total / count)


def test_hsic_is_unbiased():
    """Zero on average for independent features, where the usual estimator is far from it."""
    pairs = [(features(2 * seed, 8, 5), features(2 * seed + 1, 8, 5)) for seed in range(400)]
    found = np.array([float(hsic(x @ x.T, y @ y.T)) for x, y in pairs])
    assert abs(found.mean()) < 3 * found.std() / 20
    centred = [((x - x.mean(0)).T @ (y - y.mean(0))).square().sum() / 49 for x, y in pairs]
    assert np.mean(centred) > 20 * abs(found.mean())


def test_linear_cka_of_many_samples_is_the_biased_one_of_kornblith():
    x = features(3, 3000, 4)
    y = x @ features(4, 4, 4) + 0.5 * features(5, 3000, 4)
    a, b = x - x.mean(0), y - y.mean(0)
    biased = float((b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()))
    assert cka(grams(x), grams(y)) == pytest.approx(biased, abs=2e-3)
    assert cka(grams(x, 20), grams(y, 20)) == pytest.approx(biased, abs=2e-2)


def test_invariances():
    x = features(6)
    y = x[:, :5] + 0.3 * features(7, width=5)
    turn = torch.linalg.qr(features(8, 7, 7)).Q
    known = cka(grams(x), grams(y))
    assert known is not None
    assert 0 < known < 1
    for same in (x @ turn, 3 * x, x + 5, x[:, torch.randperm(7)]):
        assert cka(grams(same), grams(y)) == pytest.approx(known)
    assert cka(grams(x), grams(x @ turn * 2 + 1)) == pytest.approx(1)
    assert cka(grams(x @ torch.diag(torch.arange(1.0, 8).double())), grams(y)) != pytest.approx(known)
    assert cka(grams(x), grams(torch.ones(20, 2))) is None


def test_four_samples_by_hand():
    then, now = (torch.tensor(x)[:, None].double() for x in ([-1.0, 0, 0, 1], [-1.0, 0, 1, 0]))
    assert float(hsic(then @ then.T, now @ now.T)) == pytest.approx(-1 / 12)
    assert float(hsic(then @ then.T, then @ then.T)) == pytest.approx(1 / 6)
    assert cka(grams(then), grams(now)) == pytest.approx(-0.5)
    assert cka(grams(then), grams(2 * then)) == pytest.approx(1)


def names(spec, shape=(3, 16, 16)):
    return [path for path, _ in layers(spec.build(shape, 4).body)]


def test_layers_are_whole():
    assert names(ConvBN(8)) == ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3"]
    stages = [f"stage{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert names(ResNet18(4)) == ["stem.conv1", "stem.bn1", *stages]
    assert names(Net(8)) == ["1"]


EXAMS = [
    Exam("a", images([0, 1] * 12), frozenset({0, 1}), since=0),
    Exam("b", images([2] * 9), frozenset({2}), since=1),
]


@dataclass
class Two:
    def build(self, shape, classes):
        body = nn.Sequential(OrderedDict(flat=nn.Flatten(), fc1=nn.Linear(16, 6), relu=nn.ReLU(), fc2=nn.Linear(6, 5)))
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(5, classes)))


class Hand:
    """Moves weights by hand, and asks the probe what it saw."""

    def __init__(self, exams=EXAMS, strategy=None, **options):
        self.learner, self.probe, self.step = opened(model=Two(), eval_batch=7), CKA(**options), 0
        self.exams, self.strategy = exams, strategy or Strategy()

    def look(self):
        net = self.learner.model
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        look = Look(self.step, self.step, self.learner, self.strategy, syllabus(sizes=[8] * 4), self.exams, frozenset())
        rows = list(self.probe(look))
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
        assert not any(module._forward_hooks for module in net.modules())
        self.step += 1
        return {(row.metric.removeprefix("cka/"), row.subject): row for row in rows}

    def after(self, change):
        with torch.no_grad():
            change(self.learner.model.body)
        return {key: row.value for key, row in self.look().items()}


def test_layers_against_the_look_before_and_the_first():
    hand, net = Hand(), None
    assert hand.look() == {}
    assert hand.after(lambda body: body.fc1.weight.add_(1)) == {}
    still = hand.after(lambda body: body.fc1.weight.mul_(1))
    assert still == {(name, layer): pytest.approx(1) for name in ("before", "first") for layer in ("fc1", "fc2")}
    net = hand.learner.model.body
    x = hand.learner.encode(EXAMS[0].data.between(0, 24))
    first = net.fc1(x.flatten(1)).detach().double(), net(x).detach().double()
    found = hand.after(lambda body: body.fc2.weight.copy_(torch.randn(5, 6, generator=torch.manual_seed(0))))
    now = net(x).detach().double()
    assert found["before", "fc1"] == found["first", "fc1"] == pytest.approx(1)
    assert found["before", "fc2"] == found["first", "fc2"] == pytest.approx(cka(grams(first[1]), grams(now)))
    last = hand.after(lambda body: body.fc1.weight.copy_(torch.randn(6, 16, generator=torch.manual_seed(1))))
    assert (
        last["before", "fc1"]
        == last["first", "fc1"]
        == pytest.approx(cka(grams(first[0]), grams(net.fc1(x.flatten(1)).detach().double())))
    )
    assert last["before", "fc2"] == pytest.approx(cka(grams(now), grams(net(x).detach().double())))
    assert last["first", "fc2"] != pytest.approx(last["before", "fc2"])


def test_samples_are_of_what_was_taught_first():
    hand = Hand(samples=10)
    rows = [hand.look() for _ in range(3)][2]
    assert {row.n for row in rows.values()} == {10}
    few = Hand(samples=3)
    assert {row.note for row in [few.look() for _ in range(3)][2].values()} == {FEW}
    none = Hand(exams=EXAMS[1:])
    assert {row.note for row in [none.look() for _ in range(3)][2].values()} == {FEW}


def test_a_layer_that_says_nothing():
    hand = Hand()
    hand.look()
    hand.look()
    rows = hand.after(lambda body: body.fc2.weight.zero_())
    assert rows["before", "fc2"] is None
    assert rows["before", "fc1"] == pytest.approx(1)
    assert {row.note for row in hand.look().values() if row.subject == "fc2"} == {STILL}


def test_what_learns_at_the_end_has_none():
    hand = Hand(strategy=Joint())
    assert [hand.look() for _ in range(4)] == [{}] * 4
