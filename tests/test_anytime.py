from dataclasses import replace

import pytest
import torch
from small import Linear, opened
from test_exams import EXAMS, SEEN, exam

from clbench.data import Data, Source
from clbench.metric import Look
from clbench.metrics.anytime import Anytime, Anytime100
from clbench.metrics.calibration import PLACES, Calibration, Confusion
from clbench.metrics.exams import SHARED
from clbench.metrics.summary import SUMMARIES
from clbench.strategies.baselines import Joint
from clbench.strategy import Strategy
from clbench.stream import Exam, Syllabus
from clbench.testing import check_metric
from clbench.transform import Transform


def look(step, exams=EXAMS, strategy=None, shared=False, at=7):
    """A look within experience `step`, whose labels are open."""
    learner = opened(6, model=Linear(torch.eye(6)), transform=Transform())
    learner.model = Linear(torch.eye(6)).build((6,), 6).eval()
    syllabus = Syllabus(3, 6, (6,), (), shared)
    return Look(step, at, learner, strategy or Strategy(), syllabus, exams, SEEN[step + 1], when=10)


def values(where, probe=None):
    rows = list((probe or Anytime())(where))
    assert all((row.step, row.at) == (where.step, where.at) for row in rows)
    return {(row.metric, row.subject): row.value for row in rows}


def test_what_is_taught_and_being_taught_is_asked_for():
    assert values(look(0)) == {("anytime/class", "a"): 2 / 3, ("anytime/task", "a"): 2 / 3}
    found = values(look(1))
    assert found == {
        ("anytime/class", "a"): 0.0,
        ("anytime/class", "b"): 0.5,
        ("anytime/task", "a"): 2 / 3,
        ("anytime/task", "b"): 1.0,
    }
    assert {subject for _, subject in values(look(2))} == {"a", "b", "c"}


def test_an_exam_that_is_being_forgotten_is_not_asked_for():
    forgotten = Exam(EXAMS[0].name, EXAMS[0].data, EXAMS[0].classes, since=0, until=1)
    assert ("anytime/class", "a") in values(look(0, [forgotten, *EXAMS[1:]]))
    assert ("anytime/class", "a") not in values(look(1, [forgotten, *EXAMS[1:]]))
    assert values(look(0, [exam("never", [[1.0, 0, 0, 0, 0, 0]], [0], {0})])) == {}


def test_a_sequence_is_right_where_each_of_its_places_that_is_asked_for_is():
    labels = torch.tensor([[0, -100], [1, -100]])
    exam = Exam("a", Data(Source(torch.eye(2), labels), torch.arange(2)), frozenset({0, 1}), 0)
    logits = torch.eye(6)[:2, :, None].expand(2, 6, 2)

    class Said(Strategy):
        def predict(self, learner, x):
            return logits

    where = look(0, exams=[exam], strategy=Said())
    where.syllabus = replace(where.syllabus, places=(2,), shared=True)
    assert values(where)["anytime/class", "a"] == 1
    where.step = 1
    for probe, notes in ((Calibration(), 2), (Confusion(), 0)):
        assert [row.note for row in probe(where)] == [PLACES] * notes


def test_no_more_samples_than_asked_for():
    rows = list(Anytime(samples=2)(look(0)))
    assert {row.n for row in rows} == {2}
    assert {row.value for row in rows} == {0.5 + 0.5}


def test_where_there_is_nothing_to_ask():
    note = "Joint learns only at the last experience"
    rows = list(Anytime()(look(2, strategy=Joint())))
    assert [(row.metric, row.subject, row.value, row.note) for row in rows] == [
        ("anytime/class", "", None, note), ("anytime/task", "", None, note),
    ]  # fmt: skip
    rows = list(Anytime()(look(0, shared=True)))
    assert [row.note for row in rows if row.metric == "anytime/task"] == [SHARED]
    assert SUMMARIES["task/anytime_accuracy"].compute(rows) == (None, SHARED)


@pytest.mark.parametrize(("probe", "count"), [(Anytime, 10), (Anytime100, 100)])
def test_so_many_times_an_experience(probe, count):
    assert probe.when == (count,)
    check_metric(probe)
