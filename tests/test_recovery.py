"""The recovery probe: what it finds where only the head forgot, and where there is nothing to find."""

from dataclasses import replace

import pytest
import torch
from small import Net, Requests, opened

from clbench.metric import Look
from clbench.metrics.recovery import FEW, Recovery, _turn
from clbench.strategy import Strategy
from clbench.streams.toy import Toy
from clbench.testing import check_metric


def taught(epochs=20):
    """A stream, and a learner that was taught all of it."""
    stream = Requests()
    stream.open(0)
    learner = opened(classes=6, side=6, model=Net(32), transform=stream.transform(), epochs=epochs, lr=0.1)
    first = stream[0]
    learner.begin(first)
    Strategy().learn(learner, first)
    learner.model.eval()
    return stream, learner


def rows(stream, learner, **options):
    exams, syllabus = stream.exams(), stream.syllabus()
    look = Look(2, learner.step, learner, Strategy(), syllabus, exams, frozenset(range(6)))
    return {(row.metric.partition("/")[2], row.subject): row for row in Recovery(**options)(look)}


def test_it_keeps_the_contract():
    check_metric(Recovery, stream=Requests)


def test_where_only_the_head_forgot_all_comes_back():
    stream, learner = taught()
    before = rows(stream, learner)
    with torch.no_grad():
        for label in (4, 5):
            learner.model.head.weight[label] = 0
            learner.model.head.bias[label] = -1e3
    after = rows(stream, learner, rate=1.0)
    assert before["linear", "forget 1"].value > 0.9
    assert after["linear", "forget 1"] == before["linear", "forget 1"]
    assert set(after) == {(name, exam) for name in ("linear", "relearned") for exam in ("forget 1", "forget 2")}


def test_relearning_finds_what_is_near_and_not_what_is_not_there():
    stream, learner = taught()
    with torch.no_grad():
        learner.model.head.bias[[4, 5]] -= 8
    near = rows(stream, learner, steps=10, rate=0.03)["relearned", "forget 1"].value
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.normal_(0, 1e-4, generator=torch.Generator().manual_seed(0))
    nothing = rows(stream, learner, steps=2, rate=1e-5)["relearned", "forget 1"].value
    assert near > 0.9 > nothing


def test_a_body_that_was_drawn_anew_gives_less_to_a_linear_probe():
    stream, learner = taught()
    knows = rows(stream, learner)["linear", "forget 1"].value
    body = learner.model.body[1]
    with torch.no_grad():
        body.weight.zero_()
        body.bias.zero_()
    assert rows(stream, learner)["linear", "forget 1"].value < 0.6 < knows


def test_of_each_class_every_other_sample_is_trained_on():
    assert _turn(torch.tensor([5, 5, 3, 5, 3, 3, 5])).tolist() == [0, 1, 0, 2, 1, 2, 3]


def test_an_exam_of_one_sample_a_class_leaves_nothing_to_judge_by():
    stream, learner = taught(epochs=1)
    exam = stream.exams()[0]
    few = [replace(exam, data=exam.data.subset(torch.tensor([0, 20]))), *stream.exams()[1:]]
    stream.exams = lambda: few
    found = rows(stream, learner)
    assert (found["linear", "forget 1"].value, found["linear", "forget 1"].note) == (None, FEW)
    assert found["linear", "forget 2"].value is not None


def test_a_stream_without_requests_has_no_rows():
    stream = Toy()
    stream.open(0)
    learner = opened(classes=6, side=6, transform=stream.transform())
    assert rows(stream, learner) == {}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_attack_leaves_the_network_alone(precision):
    stream, learner = taught(epochs=1)
    learner.precision = precision
    before = {name: t.clone() for name, t in learner.model.state_dict().items()}
    rows(stream, learner)
    assert all(torch.equal(t, before[name]) for name, t in learner.model.state_dict().items())
    assert all(p.requires_grad for p in learner.model.parameters())
