from dataclasses import replace

import numpy as np
import pytest
import torch
from small import Linear, opened
from torch import nn

from clbench.data import Data, Source
from clbench.metric import Look
from clbench.metrics.exams import MOVING, SHARED, Exams
from clbench.strategies.baselines import Joint
from clbench.strategy import Strategy
from clbench.stream import Exam, Syllabus
from clbench.transform import Transform


def exam(name, logits, labels, classes, since=None):
    """An exam whose samples are the logits that the network will give."""
    data = Data(Source(torch.tensor(logits), torch.tensor(labels)), torch.arange(len(labels)))
    return Exam(name, data, frozenset(classes), since=since)


EXAMS = [
    exam("a", [[3.0, 1, 0, 9, 5, 2], [1, 3, 9, 0, 2, 5], [3, 1, 0, 2, 0, 0]], [0, 1, 1], {0, 1}, 0),
    exam("b", [[9.0, 0, 1, 2, 5, 0], [0, 0, 2, 1, 5, 0]], [3, 2], {2, 3}, 1),
    exam("c", [[0.0, 5, 0, 0, 1, 2], [0, 0, 0, 7, 1, 0], [0, 0, 0, 0, 4, 3], [0, 0, 0, 0, 3, 4]], [5, 4, 5, 5], {4, 5},
         2),
]  # fmt: skip
"""3 exams of 2 labels of 6"""

TASK = {"a": [0, 1, 0], "b": [3, 2], "c": [5, 4, 4, 5]}
"""the best of each exam's own labels"""
CLASS = {
    0: TASK,
    1: {"a": [0, 1, 0], "b": [3, 2], "c": [5, 4, 4, 5]},
    2: {"a": [3, 2, 0], "b": [0, 2], "c": [5, 4, 4, 5]},
    3: {"a": [3, 2, 0], "b": [0, 4], "c": [1, 3, 4, 5]},
}
"""the best of the labels taught so far, by how many experiences were"""
SEEN = [frozenset(), frozenset({0, 1}), frozenset({0, 1, 2, 3}), frozenset(range(6))]


def look(step, exams=EXAMS, strategy=None, classes=6, shared=False, seen=None, lessons=3, **options):
    learner = opened(classes, model=Linear(torch.eye(classes)), transform=Transform(), **options)
    syllabus = Syllabus(lessons, classes, (classes,), (), shared)
    learner.model = Linear(torch.eye(classes)).build((classes,), classes).eval()
    return Look(step, 10 * step, learner, strategy or Strategy(), syllabus, exams, SEEN[step] if seen is None else seen)


def sat(where):
    """The rows of a look: metric, then subject, to row."""
    rows = list(Exams()(where))
    assert all((row.step, row.at) == (where.step, where.at) for row in rows)
    found = {}
    for row in rows:
        found.setdefault(row.metric, {})[row.subject] = row
    assert sum(map(len, found.values())) == len(rows)
    return found


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_answers_and_marks(step, size):
    where = look(step, eval_batch=size)
    rows = sat(where)
    for readout, expected in (("class", CLASS[step]), ("task", TASK)):
        assert {name: given.tolist() for name, given in where.predictions[readout].items()} == expected
        for paper in EXAMS:
            row = rows[f"{readout}/accuracy"][paper.name]
            right = [a == b for a, b in zip(expected[paper.name], paper.data.labels.tolist(), strict=True)]
            assert row.value == pytest.approx(sum(right) / len(right))
            assert (row.n, row.note) == (len(right), "")


def test_marks_by_hand():
    rows = sat(look(3))
    assert [rows["class/accuracy"][name].value for name in "abc"] == [0.0, 0.0, 0.25]
    assert [rows["task/accuracy"][name].value for name in "abc"] == pytest.approx([2 / 3, 1.0, 0.75])


def test_how_much_is_predicted():
    assert "class/predicted_share" not in sat(look(0))
    shares = {step: sat(look(step))["class/predicted_share"] for step in (1, 2, 3)}
    assert [shares[1][name].value for name in "abc"] == [1, 0, 0]
    assert [shares[2][name].value for name in "abc"] == pytest.approx([2 / 5, 3 / 5, 0])
    assert [shares[3][name].value for name in "abc"] == pytest.approx([3 / 9, 3 / 9, 3 / 9])
    assert [shares[step]["a"].n for step in (1, 2, 3)] == [3, 5, 9]


def test_the_calendar_is_told_once():
    rows = sat(look(0))
    assert [rows["exam/since"][name].value for name in "abc"] == [0, 1, 2]
    assert all((row.value, row.note) == (None, "never") for row in rows["exam/until"].values())
    assert not any(metric.startswith("exam/") for metric in sat(look(1)))


def test_rivals_that_come_later_leave_no_forward_transfer():
    assert sat(look(0, shared=True))["class/fwt"][""].note == MOVING
    whole = [exam(name, [[1.0, 0]], [0], {0, 1}, since) for since, name in enumerate("ab")]
    assert "class/fwt" not in sat(look(0, exams=whole, classes=2, shared=True))
    assert "class/fwt" not in sat(look(0))


def test_an_exam_that_is_never_taught_is_asked_and_shares_nothing():
    extra = exam("zero", [[0.0, 0, 0, 0, 0, 1]], [5], {4, 5})
    rows = sat(look(2, exams=[*EXAMS[:2], extra]))
    assert rows["class/accuracy"]["zero"].value == 1
    assert rows["class/predicted_share"]["a"].n == 5
    assert sat(look(0, exams=[extra]))["exam/since"]["zero"].note == "never"


def test_an_exam_partly_taught_is_asked_among_what_was_taught():
    paper = exam("half", [[0.0, 1, 9, 0], [5, 1, 9, 0]], [2, 1], {1, 2}, 1)
    where = look(1, exams=[paper], classes=4, seen=frozenset({0, 1}))
    sat(where)
    assert where.predictions["class"]["half"].tolist() == [1, 0]


def test_a_stream_may_have_its_exams_answered_among_all_labels():
    where = look(1, shared=True)
    where.syllabus = replace(where.syllabus, answers="all")
    sat(where)
    assert {name: given.tolist() for name, given in where.predictions["class"].items()} == CLASS[3]


def test_where_experiences_share_classes_there_is_no_task_readout():
    papers = [exam(name, [[0.0, 1], [1, 0]], [1, 1], {0, 1}, since) for since, name in enumerate("ab")]
    where = look(1, exams=papers, classes=2, shared=True, seen=frozenset({0, 1}))
    rows = sat(where)
    assert [row.value for row in rows["class/accuracy"].values()] == [0.5, 0.5]
    only = rows["task/accuracy"][""]
    assert (only.value, only.n, only.note) == (None, 0, SHARED)
    assert rows.keys() == {"class/accuracy", "task/accuracy"}
    assert where.predictions.keys() == {"class"}


@pytest.mark.parametrize("shared", [False, True])
def test_until_the_last_experience_joint_training_has_no_marks(shared):
    for step in (1, 2):
        where = look(step, strategy=Joint(), shared=shared)
        rows = sat(where)
        assert not where.predictions
        assert rows.keys() == {"class/accuracy", "task/accuracy"}
        asked = [*rows["class/accuracy"].values(), *([] if shared else rows["task/accuracy"].values())]
        assert [row.subject for row in asked] == list("abc") * (1 if shared else 2)
        assert {(row.value, row.note) for row in asked} == {(None, "Joint learns only at the last experience")}
        if shared:
            assert rows["task/accuracy"][""].note == SHARED
    for step in (0, 3):
        assert sat(look(step, strategy=Joint()))["class/accuracy"]["c"].value is not None


@pytest.mark.parametrize(("classes", "kind"), [(2, "uint8"), (256, "uint8"), (257, "uint16")])
def test_answers_are_kept_in_the_smallest_type(classes, kind):
    best = torch.zeros(1, classes)
    best[0, -1] = 1
    where = look(1, exams=[exam("a", best.tolist(), [classes - 1], range(classes), 0)], classes=classes, lessons=1,
                 seen=frozenset(range(classes)))  # fmt: skip
    sat(where)
    for readout in ("class", "task"):
        given = where.predictions[readout]["a"]
        assert given.dtype == np.dtype(kind)
        assert given.tolist() == [classes - 1]


def test_every_sample_is_predicted_once_in_full_batches():
    sizes = []

    class Watched(Strategy):
        def predict(self, learner, x):
            assert torch.is_inference_mode_enabled()
            assert not learner.model.training
            sizes.append(len(x))
            return learner(x)

    sat(look(2, strategy=Watched(), eval_batch=4))
    assert sizes == [4, 4, 1]


def test_views_and_subsets_are_seen_in_exams():
    source = Source(torch.tensor([[[[9], [0]]], [[[0], [9]]]], dtype=torch.uint8), torch.tensor([0, 1]))
    turned = Source(source.x, source.y, torch.tensor([[1, 0]]))
    papers = [
        Exam("plain", Data(source, torch.tensor([1, 0])), frozenset({0, 1}), since=0),
        Exam("turned", Data(turned, torch.tensor([1, 0]), view=0), frozenset({0, 1}), since=0),
    ]
    where = look(1, exams=papers, classes=2, seen=frozenset({0, 1}), eval_batch=3)
    where.learner.model = nn.Flatten()
    rows = sat(where)
    assert [rows["class/accuracy"][name].value for name in ("plain", "turned")] == [1, 0]
