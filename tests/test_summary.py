import numpy as np
import pytest
from fake import FORGETS, IMPROVES, matrix_rows
from hypothesis import given
from hypothesis import strategies as st

from clbench.metric import Row
from clbench.metrics.elsewhere import ELSEWHERE
from clbench.metrics.summary import SUMMARIES as OURS

SUMMARIES = OURS | ELSEWHERE


def number(rows, id):
    value = SUMMARIES[id].compute(rows)
    assert (value.number is None) == bool(value.note)
    return value.number


def why(rows, id):
    value = SUMMARIES[id].compute(rows)
    assert value.number is None
    return value.note


def test_more_rows_make_another_number():
    rows = matrix_rows(FORGETS)
    whole = number(rows, "class/final_accuracy")
    last = [rows.pop() for _ in range(len(FORGETS))][::-1]
    assert number(rows, "class/final_accuracy") != whole
    rows += last
    assert number(rows, "class/final_accuracy") == whole


@pytest.mark.parametrize(
    ("matrix", "id", "known"),
    [
        (FORGETS, "final_accuracy", (0.62 + 0.55 + 0.70 + 0.90) / 4),
        (FORGETS, "average_incremental_accuracy", (0.90 + 0.74 + 2.02 / 3 + 0.6925) / 4),
        (FORGETS, "learning_accuracy", 0.90),
        (FORGETS, "forgetting", (0.28 + 0.33 + 0.22) / 3),
        (FORGETS, "bwt", -(0.28 + 0.33 + 0.22) / 3),
        (IMPROVES, "final_accuracy", 0.75),
        (IMPROVES, "average_incremental_accuracy", (0.60 + 0.60 + 0.75) / 3),
        (IMPROVES, "learning_accuracy", 2 / 3),
        (IMPROVES, "forgetting", (-0.05 - 0.10) / 2),
        (IMPROVES, "bwt", (0.15 + 0.10) / 2),
    ],
)
@pytest.mark.parametrize("readout", ["class", "task"])
def test_known_answers(matrix, id, known, readout):
    assert number(matrix_rows(matrix, f"{readout}/accuracy"), f"{readout}/{id}") == pytest.approx(known)


def test_samples_weigh_by_the_size_of_the_exam():
    rows = matrix_rows([[0.5], [0.2, 0.8]], n=[100, 300])
    assert number(rows, "class/final_accuracy") == pytest.approx(0.5)
    assert number(rows, "class/final_accuracy_samples") == pytest.approx((20 + 240) / 400)
    assert number(rows, "class/average_incremental_accuracy_samples") == pytest.approx((0.5 + 0.65) / 2)
    assert "how many samples" in why(matrix_rows([[0.5], [0.2, 0.8]], n=0), "class/final_accuracy_samples")


def test_forward_transfer_is_against_the_untrained_network():
    square = [[0.9, 0.5, 0.3], [0.8, 0.9, 0.6], [0.7, 0.8, 0.9]]
    rows = matrix_rows(square, "task/accuracy", untrained=[0.10, 0.20, 0.35])
    assert number(rows, "task/fwt") == pytest.approx(((0.5 - 0.20) + (0.6 - 0.35)) / 2)
    assert why(matrix_rows([[0.9]], "task/accuracy", untrained=[0.1]), "task/fwt") == (
        "every exam is taught by the first experience"
    )
    assert "no task/accuracy of e1 after 0 experiences" in why(matrix_rows(square, "task/accuracy"), "task/fwt")


def test_class_forward_transfer_needs_shared_classes():
    square = [[0.9, 0.5], [0.8, 0.9]]
    shared = matrix_rows(square, untrained=[0.1, 0.2])
    assert number(shared, "class/fwt") == pytest.approx(0.3)
    disjoint = [*shared, *matrix_rows(square, "task/accuracy", untrained=[0.1, 0.2])]
    assert "masked" in why(disjoint, "class/fwt")
    assert number(disjoint, "task/fwt") == pytest.approx(0.3)
    assert "masked" in why([*shared, Row(1, 10, "class/predicted_share", "e0", 1.0, 100)], "class/fwt")
    assert why([*shared, Row(0, 0, "class/fwt", "", None, 0, "more are open")], "class/fwt") == "more are open"


def test_recency_adds_the_exams_of_the_last_experience():
    rows = [Row(0, 0, "exam/since", name, since) for name, since in (("a", 0), ("b", 1), ("c", 1))]
    rows += [Row(1, 5, "class/predicted_share", "a", 1.0, 10)]
    rows += [
        Row(2, 9, "class/predicted_share", name, share, 30) for name, share in (("a", 0.1), ("b", 0.4), ("c", 0.5))
    ]
    assert number(rows, "class/recency") == pytest.approx(0.9)
    later = [*rows, *(row._replace(step=3) for row in rows if row.step == 2)]
    assert why(later, "class/recency") == "the last experience teaches no exam first"


def test_exams_taught_together_and_never():
    rows = [Row(0, 0, "exam/since", name, since) for name, since in (("a", 0), ("b", 0), ("c", 1))]
    rows += [Row(0, 0, "exam/since", "zero-shot", None, 0, "never")]
    accuracies = {
        1: {"a": 0.8, "b": 0.6, "c": 0.0, "zero-shot": 0.9},
        2: {"a": 0.5, "b": 0.7, "c": 1.0, "zero-shot": 0.1},
    }
    rows += [Row(t, t, "class/accuracy", exam, a, 50) for t, exams in accuracies.items() for exam, a in exams.items()]
    assert number(rows, "class/final_accuracy") == pytest.approx(2.2 / 3)
    assert number(rows, "class/average_incremental_accuracy") == pytest.approx((0.7 + 2.2 / 3) / 2)
    assert number(rows, "class/learning_accuracy") == pytest.approx((0.8 + 0.6 + 1.0) / 3)
    assert number(rows, "class/forgetting") == pytest.approx((0.3 - 0.1) / 2)
    assert number(rows, "class/bwt") == pytest.approx((-0.3 + 0.1) / 2)


def test_an_exam_counts_until_it_is_to_be_forgotten():
    rows = [row for row in matrix_rows(FORGETS) if row.metric != "exam/until"]
    rows += [Row(0, 0, "exam/until", "e0", 2), Row(0, 0, "exam/until", "e1", None, 0, "never")]
    assert number(rows, "class/final_accuracy") == pytest.approx((0.55 + 0.70 + 0.90) / 3)
    assert number(rows, "class/forgetting") == pytest.approx((0.33 + 0.22) / 2)
    assert number(rows, "class/average_incremental_accuracy") == pytest.approx((0.90 + 0.74 + 0.66 + 2.15 / 3) / 4)


def test_a_recurring_stream_goes_on_after_all_is_taught():
    rows = matrix_rows([[0.9, 0.0], [0.4, 0.8]])
    rows += [Row(3, 30, "class/accuracy", "e0", 0.7, 100), Row(3, 30, "class/accuracy", "e1", 0.6, 100)]
    assert number(rows, "class/final_accuracy") == pytest.approx(0.65)
    assert number(rows, "class/forgetting") == pytest.approx(((0.9 - 0.7) + (0.8 - 0.6)) / 2)


def test_the_first_look_at_a_step_counts():
    rows = matrix_rows(FORGETS)
    epoch = [row._replace(at=row.at + 3, value=0.0) for row in rows if row.metric == "class/accuracy"]
    for mixed in ([*rows, *epoch], [*epoch, *rows]):
        assert number(mixed, "class/final_accuracy") == pytest.approx(0.6925)


def test_one_experience_forgets_nothing_that_could_be_measured():
    rows = matrix_rows([[0.8]])
    assert number(rows, "class/final_accuracy") == pytest.approx(0.8)
    for id in ("class/forgetting", "class/bwt"):
        assert why(rows, id) == "no exam is taught before the last experience"


def test_a_stopped_run_has_no_final_number():
    rows = [row for row in matrix_rows(FORGETS) if row.step < 3]
    for id in ("final_accuracy", "average_incremental_accuracy", "forgetting", "bwt", "learning_accuracy"):
        assert why(rows, f"class/{id}").startswith("there is no class/accuracy of e")
    assert why(rows, "class/final_accuracy") == "there is no class/accuracy of e0 after 4 experiences"


def test_a_strategy_that_learns_at_the_end_has_only_final_numbers():
    note = "Joint learns only at the last experience"
    rows = matrix_rows([[None] * 3, [None] * 3, [0.7, 0.8, 0.9]], note=note, untrained=[0.1] * 3)
    assert number(rows, "class/final_accuracy") == pytest.approx(0.8)
    for id in ("average_incremental_accuracy", "learning_accuracy", "forgetting", "bwt", "fwt"):
        assert why(rows, f"class/{id}") == note


def test_no_task_read_out_where_experiences_share_classes():
    note = "experiences share classes"
    rows = matrix_rows(FORGETS) + [Row(step, step, "task/accuracy", "", None, 0, note) for step in range(5)]
    rows += [Row(0, 5, "anytime/task", "", None, 0, note)]
    for id in SUMMARIES:
        if id.startswith("task/"):
            assert why(rows, id) == note


def test_nothing_measured_is_said():
    assert why([], "class/final_accuracy") == "no class/accuracy was measured"
    assert why([], "cost/train_flops") == "no cost/train_flops was measured"
    untaught = [Row(0, 0, "exam/since", "a", None, 0, "never"), Row(1, 1, "class/accuracy", "a", 0.5, 10)]
    assert "no exam is taught" in why(untaught, "class/final_accuracy")


def test_cost_is_the_last_value():
    rows = [Row(step, 10 * step, "cost/train_flops", "", 1e9 * step) for step in (0, 1, 3, 2)]
    assert number(rows, "cost/train_flops") == 3e9
    rows += [Row(4, 40, "cost/train_flops", "", None, 0, "not counted")]
    assert why(rows, "cost/train_flops") == "not counted"


matrices = st.integers(1, 6).flatmap(
    lambda t: st.lists(st.lists(st.floats(0, 1), min_size=t, max_size=t), min_size=t, max_size=t)
)


@given(matrices)
def test_formulas_as_the_papers_write_them(square):
    rows, a, T = matrix_rows(square), np.array(square), len(square)
    assert number(rows, "class/final_accuracy") == pytest.approx(a[-1].mean())
    assert number(rows, "class/learning_accuracy") == pytest.approx(np.diag(a).mean())
    assert number(rows, "class/average_incremental_accuracy") == pytest.approx(
        sum(a[t, : t + 1].mean() for t in range(T)) / T
    )
    if T > 1:
        forgetting, bwt = number(rows, "class/forgetting"), number(rows, "class/bwt")
        assert bwt == pytest.approx(sum(a[-1, j] - a[j, j] for j in range(T - 1)) / (T - 1))
        assert forgetting == pytest.approx(sum(a[j:-1, j].max() - a[-1, j] for j in range(T - 1)) / (T - 1))
        assert forgetting >= -bwt - 1e-12
    for name in ("final_accuracy", "average_incremental_accuracy"):
        assert number(rows, f"class/{name}_samples") == pytest.approx(number(rows, f"class/{name}"))


@given(matrices, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(square, random):
    rows = matrix_rows(square, untrained=[0.5] * len(square))
    shuffled = rows.copy()
    random.shuffle(shuffled)
    for summary in SUMMARIES.values():
        before, after = summary.compute(rows), summary.compute(shuffled)
        assert (after.number, after.note) == (pytest.approx(before.number, abs=1e-12), before.note)


@given(st.data())
def test_a_hole_never_becomes_a_number(data):
    square = [[*cells, *[0.0] * (4 - len(cells))] for cells in FORGETS]
    rows = matrix_rows(square)
    cells = [index for index, row in enumerate(rows) if row.metric == "class/accuracy"]
    hole = data.draw(st.sampled_from(cells))
    step, exam = rows[hole].step, int(rows[hole].subject[1])
    del rows[hole]
    taught = step > exam
    needs = {
        "final_accuracy": step == 4,
        "worst_exam": step == 4,
        "average_incremental_accuracy": taught,
        "learning_accuracy": step == exam + 1,
        "forgetting": exam < 3 and taught,
        "forgetting@mammoth": exam < 3 and taught,
        "bwt": exam < 3 and step in (exam + 1, 4),
    }
    for id, needed in needs.items():
        assert (number(rows, f"class/{id}") is None) == needed


def test_a_step_that_was_not_looked_at():
    square = [[0.9, 0.0, 0.0], [0.7, 0.8, 0.0], [0.5, 0.6, 0.7], [0.6, 0.5, 0.7], [0.4, 0.7, 0.9]]
    rows = [row for row in matrix_rows(square) if row.step in (0, 1, 3, 5) and row.subject in ("e0", "e1", "e2")]
    assert number(rows, "class/final_accuracy") == pytest.approx(2.0 / 3)
    assert number(rows, "class/average_incremental_accuracy") == pytest.approx((0.9 + 0.6 + 2.0 / 3) / 3)
    assert number(rows, "class/forgetting") == pytest.approx(((0.9 - 0.4) + (0.6 - 0.7) + (0.7 - 0.9)) / 3)
    for id in ("learning_accuracy", "bwt"):
        reason = "there is no class/accuracy of e1 after 2 experiences, for the run was not looked at then"
        assert why(rows, f"class/{id}") == reason
    assert "not looked at" in why(rows, "class/fwt") or "after 0 experiences" in why(rows, "class/fwt")
    sparse = [row for row in rows if row.step in (0, 1, 5)]
    assert why(sparse, "class/forgetting") == "between e1 and the end the run was not looked at"


@pytest.mark.parametrize(
    ("id", "forgets", "improves"),
    [
        ("bwt@mammoth", -0.83 / 3, 0.25 / 2),
        ("bwt@continuum", -1.81 / 6, 0.35 / 3),
        ("bwt@libcontinual", -0.81 / 6, 0.15 / 3),
        ("bwt@avalanche", -0.83 / 3, 0.25 / 2),
        ("forgetting@mammoth", 0.83 / 3, 0.0),
        ("forgetting@continuum", 0.83 / 3, -0.15 / 2),
        ("forgetting@libcontinual", 0.61 / 3, -0.15 / 2),
        ("forgetting@pycil", 0.83 / 3, 0.0),
        ("forgetting@avalanche", 0.83 / 3, -0.25 / 2),
    ],
)
def test_other_libraries_give_other_numbers(id, forgets, improves):
    for readout in ("class", "task"):
        for matrix, known in ((FORGETS, forgets), (IMPROVES, improves)):
            rows = matrix_rows(matrix, f"{readout}/accuracy")
            assert number(rows, f"{readout}/{id}") == pytest.approx(known, abs=1e-12)


def test_other_libraries_speak_of_one_exam_an_experience():
    together = [Row(0, 0, "exam/since", name, 0) for name in "ab"]
    together += [Row(1, 1, "class/accuracy", name, 0.5, 10) for name in "ab"]
    recurring = [*matrix_rows([[0.9, 0.0], [0.4, 0.8]]), *(Row(3, 30, "class/accuracy", e, 0.7) for e in ("e0", "e1"))]
    for id in ELSEWHERE:
        if id.startswith("class/"):
            assert "first teaches one exam" in why(together, id)
            assert "first teaches one exam" in why(recurring, id)
            assert why(matrix_rows([[0.8]]), id) == "no exam is taught before the last experience"


def test_the_worst_exam():
    assert number(matrix_rows(FORGETS), "class/worst_exam") == 0.55


def looks(cells, metric="anytime/class", since=(0, 1, 2)):
    """Looks within experiences: (experiences learned, accuracies of the exams so far)."""
    rows = [Row(0, 0, "exam/since", f"e{exam}", first) for exam, first in enumerate(since)]
    for at, (step, values) in enumerate(cells):
        rows += [Row(step, at, metric, f"e{exam}", value, 50) for exam, value in enumerate(values)]
    return rows


def test_accuracy_within_experiences():
    cells = [(0, [0.9]), (1, [0.4, 0.86]), (1, [0.6, 0.88]), (2, [0.5, 0.3, 0.9]), (2, [0.7, 0.4, 0.92])]
    rows = looks(cells)
    assert number(rows, "class/anytime_accuracy") == pytest.approx((0.9 + 0.63 + 0.74 + 1.7 / 3 + 2.02 / 3) / 5)
    assert number(rows, "class/min_accuracy") == pytest.approx((0.4 + 0.3) / 2)
    k = 3
    worst_case = 0.92 / k + (1 - 1 / k) * (0.4 + 0.3) / 2
    assert number(rows, "class/worst_case_accuracy") == pytest.approx(worst_case)
    assert "no anytime/task was measured" in why(rows, "task/anytime_accuracy")


def test_accuracy_within_experiences_that_is_not_there():
    stopped = looks([(0, [0.9]), (1, [0.4, 0.8])])
    assert why(stopped, "class/anytime_accuracy") == "there is no anytime/class after 2 experiences"
    alone = looks([(0, [0.5]), (0, [0.7])], since=(0,))
    assert number(alone, "class/anytime_accuracy") == pytest.approx(0.6)
    assert why(alone, "class/min_accuracy") == "no exam is taught before the last experience"


def test_online_accuracy_is_over_samples():
    rows = [Row(1, 5, "online/accuracy", "", 0.5, 100), Row(2, 9, "online/accuracy", "", 0.7, 300)]
    assert number(rows, "online/accuracy") == pytest.approx(0.65)
    assert why([*rows, Row(3, 9, "online/accuracy", "", None, 0, "none")], "online/accuracy") == "none"


def test_every_summary_can_be_read():
    for id, summary in SUMMARIES.items():
        assert summary.id == id
        assert summary.formula
        assert summary.citation
        assert summary.title
        assert summary.version == 1
        assert summary.better in ("higher", "lower", "")
    assert len({summary.title for summary in SUMMARIES.values()}) == len(SUMMARIES)
