import numpy as np
import pytest
import torch
from test_exams import EXAMS, exam, look

from clbench.metrics.calibration import ALONE, Calibration, Confusion, calibration_error
from clbench.metrics.exams import SHARED
from clbench.strategies.baselines import Joint


def test_twenty_answers_by_hand():
    confidence = torch.tensor([0.95] * 10 + [0.65] * 10)
    right = torch.tensor([True] * 8 + [False] * 2 + [True] * 7 + [False] * 3)
    assert calibration_error(confidence, right) == pytest.approx((0.15 + 0.05) / 2)
    assert calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([True, True])) == 0
    assert calibration_error(torch.tensor([0.5, 0.5]), torch.tensor([True, False])) == 0
    assert calibration_error(torch.tensor([0.55, 0.65]), torch.tensor([True, False])) == pytest.approx(0.55)


def test_bins_as_the_paper_has_them():
    rng = np.random.default_rng(0)
    confidence, right = rng.uniform(0.01, 1, 500), rng.integers(0, 2, 500).astype(bool)
    total = 0.0
    for m in range(15):
        here = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if here.any():
            total += here.sum() / 500 * abs(right[here].mean() - confidence[here].mean())
    assert calibration_error(torch.from_numpy(confidence), torch.from_numpy(right)) == pytest.approx(total)


def calibrated(step, **how):
    return {row.metric: row for row in Calibration()(look(step, **how))}


def test_confidence_is_among_the_labels_taught_so_far():
    assert calibrated(0) == {}
    found = calibrated(1)
    logits = torch.tensor([[3.0, 1], [1, 3], [3, 1]])
    confidence = float(logits.softmax(1).max())
    assert found["calibration/ece"].value == pytest.approx(abs(2 / 3 - confidence))
    assert found["calibration/overconfidence"].value == pytest.approx(confidence - 2 / 3)
    assert {row.n for row in found.values()} == {3}
    assert {row.n for row in calibrated(2).values()} == {5}
    assert {row.n for row in Calibration(samples=1)(look(2))} == {2}


def test_what_is_not_finite_is_no_number():
    broken = exam("a", [[float("nan")] * 6], [0], {0, 1}, 0)
    assert {row.note for row in Calibration()(look(1, exams=[broken]))} == {"what the network says is not finite"}


def test_which_experience_is_taken_for_which():
    rows = list(Confusion()(look(3)))
    shares = {row.subject: row.value for row in rows}
    assert {row.metric for row in rows} == {"confusion/share"}
    assert shares == {
        "1>1": 1 / 3, "1>2": 2 / 3, "1>3": 0,
        "2>1": 1 / 2, "2>2": 0, "2>3": 1 / 2,
        "3>1": 1 / 4, "3>2": 1 / 4, "3>3": 1 / 2,
    }  # fmt: skip
    assert [row.n for row in rows] == [3] * 3 + [2] * 3 + [4] * 3


def test_two_exams_of_one_experience_are_one_row():
    together = [EXAMS[0], exam("b", EXAMS[1].data.source.x.tolist(), [3, 2], {2, 3}, 0), EXAMS[2]]
    shares = {row.subject: (row.value, row.n) for row in Confusion()(look(3, exams=together))}
    assert shares["1>1"] == ((3 + 1) / 5, 5)
    assert shares.keys() == {"1>1", "1>3", "3>1", "3>3"}


def test_one_experience_is_not_taken_for_another():
    (row,) = Confusion()(look(3, exams=EXAMS[:1]))
    assert (row.value, row.note) == (None, ALONE)


def test_confusion_is_of_the_end():
    assert list(Confusion()(look(2))) == []
    (row,) = Confusion()(look(3, shared=True))
    assert (row.value, row.note) == (None, SHARED)
    assert list(Calibration()(look(2, strategy=Joint()))) == []
    assert list(Calibration()(look(3, strategy=Joint())))
