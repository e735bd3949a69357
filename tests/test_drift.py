import json

import pytest
import torch
from small import Net, opened, syllabus

from clbench.cli import main
from clbench.metric import Look
from clbench.metrics.drift import FIRST, INFINITE, NOT_WITHIN, ONCE, STILL, ZERO, Drift
from clbench.results import find
from clbench.state import pack, unpack
from clbench.strategy import Strategy


class Hand:
    """Moves the weights of a model by hand, and asks the probe what it saw."""

    def __init__(self):
        self.learner, self.probe, self.at = opened(model=Net(8)), Drift(), 0
        with torch.no_grad():
            for tensor in self.learner.model.parameters():
                tensor.fill_(1.0)
            self.learner.model.head.bias.fill_(0.0)
        self.look("experience", 0)

    def move(self, head=0.0, body=0.0):
        with torch.no_grad():
            self.learner.model.head.weight.add_(head)
            self.learner.model.body[1].weight.add_(body)

    def look(self, when, step):
        self.at += 1
        look = Look(step, self.at, self.learner, Strategy(), syllabus(), [], frozenset(), when=when)
        rows = list(self.probe(look))
        assert all((row.step, row.at) == (step, self.at) for row in rows)
        assert all((row.value is None) == bool(row.note) for row in rows)
        found = {(row.metric.removeprefix("drift/"), row.subject): row for row in rows}
        assert len(found) == len(rows)
        return found

    def values(self, when, step):
        return {key: row.value for key, row in self.look(when, step).items()}


HEAD = 32 / 36
"""of the head's scalars, the share that is weights: those that the hand moves"""
BODY = 128 / 136


def test_within_an_experience_drift_is_since_the_last_look():
    hand = Hand()
    hand.move(head=2.0)
    assert hand.values(10, 0) == {
        ("within", "1"): 0,
        ("within_relative", "1"): 0,
        ("within", "head"): pytest.approx(2 * HEAD),
        ("within_relative", "head"): pytest.approx(2),
    }
    hand.move(head=-1.5, body=0.5)
    assert hand.values(10, 0) == {
        ("within", "1"): pytest.approx(0.5 * BODY),
        ("within_relative", "1"): pytest.approx(0.5 * BODY),
        ("within", "head"): pytest.approx(1.5 * HEAD),
        ("within_relative", "head"): pytest.approx(0.5),
    }


def test_the_first_within_is_since_the_end_of_the_experience_before():
    hand = Hand()
    hand.look(10, 0)
    hand.move(head=1.0)
    assert hand.values("experience", 1)["across", "head"] == pytest.approx(HEAD)
    hand.move(head=0.25)
    assert hand.values(10, 1)["within", "head"] == pytest.approx(0.25 * HEAD)


def test_across_experiences_drift_is_from_end_to_end():
    hand = Hand()
    for move in (3.0, -2.0, 1.0):
        hand.move(head=move)
        hand.look(10, 0)
    found = hand.values("experience", 1)
    assert found["across", "head"] == found["across_relative", "head"] * HEAD == pytest.approx(2 * HEAD)
    assert found["across", "1"] == found["across_relative", "1"] == 0
    assert found["spike", "head"] == pytest.approx(3.0 / ((2 + 1) / 2))
    hand.move(body=4.0)
    found = hand.values("experience", 2)
    assert found["across", "head"] == 0
    assert found["across", "1"] == pytest.approx(4 * BODY)


def test_rows_say_over_how_many_scalars():
    hand = Hand()
    for when, step in ((10, 0), ("experience", 1), (10, 1), ("experience", 2)):
        assert {(subject, row.n) for (_, subject), row in hand.look(when, step).items()} == {("1", 136), ("head", 36)}


def test_before_the_first_experience_there_are_no_rows():
    hand = Hand()
    assert hand.look("experience", 0) == {}


def test_a_spike_needs_a_look_after_the_first_and_a_move():
    hand = Hand()
    assert hand.look("experience", 1)["spike", "head"].note == ONCE
    hand.move(head=1.0)
    hand.look(10, 1)
    assert hand.look("experience", 2)["spike", "head"].note == ONCE
    hand.move(head=1.0)
    hand.look(10, 2)
    hand.look(10, 2)
    assert hand.look("experience", 3)["spike", "head"].note == STILL


def test_sensitivity_is_of_all_experiences_but_the_first():
    hand = Hand()
    hand.move(head=50.0)
    hand.look(10, 0)
    assert hand.look("experience", 1)["sensitivity", "head"].note == FIRST
    for move in (1.0, 2.0, -1.0):
        hand.move(head=move)
        hand.look(10, 1)
    found = hand.look("experience", 2)
    assert found["sensitivity", "head"].value == pytest.approx(2 / ((1 + 2 + 1) / 3))
    assert found["sensitivity", "1"].value == 0
    hand.move(head=6.0)
    hand.look(10, 2)
    hand.move(body=1.0)
    found = hand.look("experience", 3)
    assert found["sensitivity", "head"].value == pytest.approx(((2 + 6) / 2) / ((1 + 2 + 1 + 6) / 4))
    assert found["sensitivity", "1"].note == NOT_WITHIN


def test_what_was_all_zero_has_no_relative_drift():
    hand = Hand()
    with torch.no_grad():
        hand.learner.model.head.weight.fill_(0.0)
    hand.look("experience", 1)
    hand.move(head=1.0)
    found = hand.look(10, 1)
    assert found["within_relative", "head"].note == ZERO
    assert found["within", "head"].value == pytest.approx(HEAD)


def test_what_is_not_finite_is_no_number():
    hand = Hand()
    hand.move(head=float("nan"))
    found = hand.look(10, 0)
    assert found["within", "head"].note == found["within_relative", "head"].note == INFINITE
    assert found["within", "1"].value == 0


def test_state_can_be_saved_within_an_experience():
    def whole(hand, saved):
        hand.move(head=1.0)
        hand.look("experience", 1)
        hand.move(head=2.0)
        hand.look(10, 1)
        if saved:
            tree, tensors = pack(hand.probe)
            hand.probe = Drift()
            unpack(hand.probe, json.loads(json.dumps(tree)), tensors, lambda index: None, torch.device("cpu"))
        hand.move(head=0.5)
        hand.look(10, 1)
        return hand.values("experience", 2)

    assert whole(Hand(), saved=True) == whole(Hand(), saved=False)


def test_state_does_not_grow_with_the_run():
    hand, sizes = Hand(), []
    for step in range(1, 5):
        for _ in range(3):
            hand.move(head=0.25)
            hand.look(10, step - 1)
        hand.look("experience", step)
        tree, tensors = pack(hand.probe)
        sizes.append((len(str(tree)) // 100, sum(t.numel() for t in tensors.values())))
    assert sizes[1] == sizes[2] == sizes[3]


def test_a_probe_that_is_used_again_begins_anew():
    hand = Hand()
    hand.move(head=5.0)
    hand.look("experience", 1)
    hand.move(head=5.0)
    hand.look(10, 1)
    hand.look("experience", 2)
    hand.look("experience", 0)
    hand.look("experience", 1)
    hand.move(head=1.0)
    hand.look(10, 1)
    assert hand.values("experience", 2)["sensitivity", "head"] == pytest.approx(1.0)


def test_a_stream_that_is_seldom_looked_at_drifts_no_further(tmp_path):
    line = "stream=permuted_mnist stream.data=digits stream.tasks=4 stream.exam_every=2 learner.threads=1 mlflow=off"
    drifts = []
    for every in (1, 2):
        words = [
            *line.split(),
            f"stream.look_every={every}",
            "probes=[exams,drift]",
            f"results={tmp_path / str(every)}",
        ]
        assert main(["run", *words]) == 0
        (run,) = find(tmp_path / str(every))
        drifts.append([row for row in run.rows() if row.metric.startswith("drift/")])
    assert drifts[0] == drifts[1]
    assert {row.step for row in drifts[1] if row.metric == "drift/across"} == {1, 2, 3, 4}
