from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from small import images, opened, syllabus
from torch import nn

from clbench.metric import Look
from clbench.metrics.plasticity import (
    INFINITE,
    NONE,
    ZERO,
    Activations,
    Plasticity,
    effective_rank,
    magnitudes,
    stable_rank,
)
from clbench.models import ResNet18
from clbench.strategy import Strategy
from clbench.stream import Exam


def test_ranks_by_hand():
    assert effective_rank(torch.tensor([1.0, 1, 1, 0])) == pytest.approx(3)
    assert stable_rank(torch.tensor([1.0, 1, 1, 0])) == 3
    assert effective_rank(torch.tensor([2.0, 1])) == pytest.approx(3 / 2 ** (2 / 3))
    assert stable_rank(torch.tensor([2.0, 1])) == 1.25
    assert effective_rank(torch.tensor([5.0, 0])) == stable_rank(torch.tensor([5.0, 0])) == 1


def test_units_are_channels_or_the_last_dimension():
    maps = torch.arange(24.0).view(2, 3, 2, 2) - 12
    assert magnitudes(maps).tolist() == [maps[:, c].abs().mean((1, 2)).sum() for c in range(3)]
    tokens = torch.arange(12.0).view(2, 3, 2)
    assert magnitudes(tokens).tolist() == [(0 + 2 + 4) / 3 + (6 + 8 + 10) / 3, (1 + 3 + 5) / 3 + (7 + 9 + 11) / 3]
    assert magnitudes(torch.tensor([[1.0, -2], [3, 4]])).tolist() == [4, 6]


def test_activations_are_seen_whoever_calls_them():
    x = torch.tensor([-1.0, 2])
    with Activations() as seen:
        F.relu(x), nn.ReLU()(x), x.relu(), nn.GELU()(x), nn.ReLU(inplace=True)(x.clone()), F.gelu(x), torch.tanh(x)
    assert len(seen.outputs) == 6
    assert seen.outputs[0].tolist() == [0, 2]
    net = ResNet18(4).build((1, 8, 8), 4).eval()
    with Activations() as seen:
        net(torch.zeros(1, 1, 8, 8))
    assert len(seen.outputs) == 1 + 2 * 8


@dataclass
class Units:
    """Four units whose activations on an image of ones are 1, 1, .04 and 0; features are as many."""

    relu: bool = True

    def build(self, shape, classes):
        fc = nn.Linear(16, 4)
        with torch.no_grad():
            fc.weight.copy_(torch.tensor([1.0, 1, 0.04, -1])[:, None] / 16)
            fc.bias.zero_()
        body = nn.Sequential(OrderedDict(flat=nn.Flatten(), fc=fc, **({"relu": nn.ReLU()} if self.relu else {})))
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(4, classes)))


def measured(model, change=lambda net: None, **options):
    data = images([0] * 9)
    data.source.x.fill_(255)
    learner = opened(model=model, eval_batch=4)
    learner.model = model.build((1, 4, 4), 4).eval()
    with torch.no_grad():
        change(learner.model)
    exams = [Exam("a", data, frozenset({0}), since=0), Exam("b", data, frozenset({1}), since=None)]
    look = Look(2, 30, learner, Strategy(), syllabus(), exams, frozenset())
    rows = list(Plasticity(**options)(look))
    assert all((row.step, row.at) == (2, 30) for row in rows)
    return {(row.metric.removeprefix("plasticity/"), row.subject): row for row in rows}


def test_one_unit_of_four_is_dormant():
    found = {key: row.value for key, row in measured(Units()).items()}
    assert found["dormant", ""] == found["dormant", "1"] == found["zero", ""] == found["zero", "1"] == 0.25
    assert found["effective_rank", ""] == pytest.approx(1, abs=1e-5)
    assert found["stable_rank", ""] == pytest.approx(1)
    assert found["weight_norm", "fc"] == pytest.approx((16 * (1 + 1 + 0.04**2 + 1) / 256) ** 0.5)
    low = {key: row.value for key, row in measured(Units(), lambda net: net.body.fc.weight[2].div_(10)).items()}
    assert (low["dormant", ""], low["zero", ""]) == (0.5, 0.25)


def test_a_silent_layer_is_wholly_dormant():
    found = measured(Units(), lambda net: net.body.fc.weight.zero_())
    assert found["dormant", ""].value == found["zero", ""].value == 1
    assert {found[name, ""].note for name in ("effective_rank", "stable_rank")} == {ZERO}


def test_what_is_not_there_or_not_finite():
    found = measured(Units(relu=False))
    assert found["dormant", ""].note == found["zero", ""].note == NONE
    broken = measured(Units(), lambda net: net.body.fc.weight[0].fill_(float("nan")))
    assert all(row.note for key, row in broken.items() if key[0] in ("effective_rank", "stable_rank"))
    assert broken["weight_norm", "fc"].value is None
    assert broken["dormant", ""].note == broken["dormant", "1"].note == INFINITE


def test_samples_are_those_of_all_exams():
    assert measured(Units())["dormant", ""].n == 18
    assert measured(Units(), samples=6)["dormant", ""].n == 6
