"""What requests to forget come to: worked examples, published rows, and what is undefined."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from test_page import measured

from clbench.metric import Row
from clbench.metrics import page
from clbench.metrics.requests import LINES, REQUESTS, each
from clbench.metrics.sparsity import Sparsity
from clbench.metrics.summary import SUMMARIES
from clbench.strategy import Around, Strategy

TABLE_3 = [  # H, Acc_r, Acc_f, and Acc_f of the network that was taught everything, in percent
    (66.91, 62.13, 2.16, 74.65),  # L2, 100-20
    (66.66, 61.74, 1.37, 73.80),  # L2, 80-20
    (68.02, 62.14, 0.00, 75.11),  # EWC, 40-20
    (69.43, 65.04, 0.21, 74.65),  # LwF, 100-20
    (72.41, 70.34, 0.05, 74.65),  # SCRUB-S, 100-20
    (74.40, 74.16, 0.00, 74.65),  # GS-LoRA, 100-20
    (74.36, 74.88, 0.06, 73.91),  # GS-LoRA, 60-20
    (73.76, 72.45, 0.00, 75.11),  # GS-LoRA, 40-20
    (75.23, 75.36, 0.00, 75.11),  # GS-LoRA++, 40-20
]
"""of the continual experiments on faces in the successor of Zhao et al. 2024 (arXiv 2501.09705), table 3, as the
authors' repository shows it"""


def run(exams, steps):
    """Rows of a run: name to (until, accuracies from step 1 on, samples)."""
    rows = []
    for name, (until, cells, n) in exams.items():
        rows += [Row(0, 0, "exam/since", name, 0, n), Row(0, 0, "exam/until", name, until, n)]
        rows += [Row(step, step, "class/accuracy", name, cells[step - 1], n) for step in range(1, steps + 1)]
    return rows


@pytest.mark.parametrize(("h", "acc_r", "acc_f", "before"), TABLE_3)
def test_h_is_that_of_published_rows(h, acc_r, acc_f, before):
    exams = {"f": (1, (before / 100, acc_f / 100), 100), "r": (None, (0.7, acc_r / 100), 100)}
    (one,) = each(run(exams, 2))
    assert 100 * one["h"].number == pytest.approx(h, abs=0.011)


@pytest.mark.parametrize("summary", [one for one in REQUESTS if one.example], ids=lambda one: one.id)
def test_worked_examples_come_to_what_is_computed(summary):
    assert measured(summary.example) == pytest.approx(summary.compute(page.request_rows()).number)


def test_each_request_and_the_last():
    first, last = each(page.request_rows())
    assert [first[name].number for name in ("acc_r", "acc_f", "drop")] == pytest.approx([0.81, 0.10, 0.70])
    assert first["acc_o"].note == "nothing was to be forgotten before this request"
    assert last["acc_o"].number == pytest.approx(0.20)
    assert SUMMARIES["request/h_last"].compute(page.request_rows()) == last["h"]


def test_classes_without_samples_are_among_those_that_remain_and_stand_apart():
    exams = {
        "f": (1, (0.9, 0.0), 100),
        "remaining": (None, (0.8, 0.8), 300),
        "missing": (None, (0.8, 0.4), 100),
    }
    (one,) = each(run(exams, 2))
    assert one["acc_r"].number == pytest.approx((300 * 0.8 + 100 * 0.4) / 400)
    assert one["acc_m"].number == pytest.approx(0.4)


def test_nothing_that_drops_has_no_h_to_show():
    (one,) = each(run({"f": (1, (0.5, 0.6), 10), "r": (None, (0.5, 0.9), 10)}, 2))
    assert one["drop"].number == pytest.approx(-0.1)
    assert one["h"].number == 0.0


def test_without_requests_there_is_none_and_the_reason_is_said():
    rows = run({"a": (None, (0.5, 0.6), 10), "b": (None, (0.5, 0.6), 10)}, 2)
    assert each(rows) == []
    notes = {summary.id: summary.compute(rows).note for summary in REQUESTS}
    assert notes["request/h"] == notes["request/h_last"] == "no exam is asked to be forgotten (exam/until)"
    assert notes["request/linear"] == "no recovery/linear was measured"


def test_a_run_that_did_not_come_to_its_last_request_has_none():
    rows = run({"f": (2, (0.9, 0.9), 10), "r": (None, (0.9, 0.9), 10)}, 2)
    assert SUMMARIES["request/h"].compute(rows).note == "the run did not come to its last request"
    assert each(rows) == []
    assert len(each(page.request_rows()[:-1])) == 2


@dataclass
class Grouped(Strategy):
    def start(self, learner, syllabus):
        self.norms = torch.tensor([2.0, 0.02, 0.021, 0.0])


def test_blocks_that_a_request_let_go():
    grouped = Grouped()
    grouped.start(None, None)
    exams = [SimpleNamespace(until=until) for until in (None, 1, 3)]

    def rows(step, strategy):
        return list(Sparsity()(SimpleNamespace(step=step, at=7, strategy=strategy, exams=exams)))

    assert [rows(step, grouped) for step in (0, 1, 3)] == [[], [], []]
    *norms, count = rows(2, Around(grouped))
    assert [(row.subject, row.value) for row in norms] == [
        (f"block {number}", pytest.approx(norm)) for number, norm in enumerate((2.0, 0.02, 0.021, 0.0))
    ]
    assert count == Row(2, 7, "sparsity/let_go", "", 2, 4)
    (nothing,) = rows(4, Around())
    assert (nothing.value, nothing.note) == (None, "Around has no norms of blocks")


def test_every_measure_has_a_summary():
    assert {f"request/{line.name}" for line in LINES} < {summary.id for summary in REQUESTS}
