from dataclasses import dataclass

import pytest
from test_exams import look

from clbench.metric import Row
from clbench.metrics.retrieval import Retrieval
from clbench.metrics.summary import SUMMARIES
from clbench.strategies.prototypes import NCM
from clbench.strategy import Strategy
from clbench.testing import check_metric


@dataclass
class Routed(Strategy):
    """Says that an image is of the task of its greatest logit, two labels a task."""

    def retrieved(self, learner, x):
        return x.argmax(1) // 2


def rows(step, strategy, **options):
    return {row.subject: row for row in Retrieval(**options)(look(step, strategy=strategy))}


def test_the_share_of_samples_whose_task_is_found():
    """Greatest logits: a 3, 2, 0; b 0, 4; c 1, 3, 4, 5."""
    assert rows(0, Routed()) == {}
    assert {name: row.value for name, row in rows(1, Routed()).items()} == {"a": 1 / 3}
    found = rows(3, Routed())
    assert {name: (row.value, row.n) for name, row in found.items()} == {"a": (1 / 3, 3), "b": (0, 2), "c": (0.5, 4)}
    assert {row.n for row in rows(3, Routed(), samples=1).values()} == {1}


def test_a_strategy_within_another_may_be_the_one_that_decides():
    assert rows(3, NCM(base=Routed())).keys() == {"a", "b", "c"}


def test_a_strategy_that_decides_nothing_has_no_number():
    (row,) = rows(2, Strategy()).values()
    assert row.value is None
    assert row.note == "Strategy does not decide to which task an image belongs"
    assert rows(0, Strategy()) == {}


def test_the_summary_is_the_mean_over_exams_at_the_end():
    found = [row for step in (1, 3) for row in rows(step, Routed()).values()]
    since = [Row(0, 0, "exam/since", name, i, 1) for i, name in enumerate("abc")]
    assert SUMMARIES["retrieval/accuracy"].compute([*since, *found]).number == pytest.approx((1 / 3 + 0 + 1 / 2) / 3)
    assert SUMMARIES["retrieval/accuracy"].compute([*since, *rows(2, Strategy()).values()]).number is None


def test_the_contract():
    check_metric(Retrieval)
    check_metric(Retrieval, strategy=Routed(), stream="toy")
