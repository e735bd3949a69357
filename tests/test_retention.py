"""A_KA, A_ZS and GM, by hand; where a run stands from before the first experience on."""

import math

import pytest

from clbench.metric import Row, Undefined
from clbench.metrics.retention import RETENTION, Place, path

A_KA, A_ZS, GM = RETENTION


def rows(**taught):
    found = [Row(0, 0, "exam/since", exam, since) for exam, since in taught.items()]
    accuracies = {0: (0.1, 0.3, 0.8, 0.6), 1: (0.5, 0.3, 0.7, 0.5), 2: (0.4, 0.9, 0.6, 0.4)}
    for step, values in accuracies.items():
        found += [Row(step, step, "task/accuracy", exam, a) for exam, a in zip(taught, values, strict=True)]
    return found


def test_both_means_from_the_zero_shot_point_on():
    run = rows(birds=0, signs=1, photos=None, digits=None)
    steps = [Place(0, 0.2, 0.7), Place(1, 0.4, 0.6), Place(2, 0.65, 0.5)]
    assert [tuple(place) for place in path(run)] == [pytest.approx(tuple(place)) for place in steps]
    assert A_KA.compute(run).number == pytest.approx(0.65)
    assert A_ZS.compute(run).number == pytest.approx(0.5)
    assert GM.compute(run).number == pytest.approx(math.sqrt(0.65 * 0.5))


def test_what_learns_at_the_end_alone_has_its_end():
    """Joint training sits no exam between the first experience and the last."""
    run = [
        row._replace(value=None, note="late") if (row.metric, row.step) == ("task/accuracy", 1) else row
        for row in rows(birds=0, signs=1, photos=None, digits=None)
    ]
    assert A_KA.compute(run).number == pytest.approx(0.65)
    with pytest.raises(Undefined, match="late"):
        path(run)


def test_without_an_exam_that_is_never_taught_there_is_none():
    run = rows(birds=0, signs=1, photos=1, digits=1)
    with pytest.raises(Undefined, match="teaches all"):
        path(run)
    assert "teaches all" in GM.compute(run).note


def test_the_untaught_count_from_the_start_and_a_missing_answer_is_said():
    run = [row for row in rows(birds=0, signs=1, photos=None, digits=None) if (row.step, row.subject) != (2, "digits")]
    assert "digits after 2" in A_ZS.compute(run).note
