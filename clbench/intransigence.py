"""Intransigence: what a run fails to learn that a run without the constraint of order learns.

Chaudhry et al. 2018, Riemannian Walk for Incremental Learning: Understanding Forgetting and Intransigence, ECCV.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from clbench.metric import Row, Summary, Value, undefined, valued


def intransigence(reference: Sequence[Row]) -> dict[str, Summary]:
    """Intransigence against these rows of a reference, as summaries of a run's own rows: cumulative training, whose
    accuracy is that of the same step, as in the paper; or joint training, which has one at the end alone.
    """

    def compute(rows: Sequence[Row], metric: str) -> Value:
        return valued(lambda: _mean_gap(rows, reference, metric))

    return {
        f"{readout}/intransigence": Summary(
            id=f"{readout}/intransigence",
            compute=partial(compute, metric=f"{readout}/accuracy"),
            formula="mean over j of a*(j) - a(l(j), j); a*: the reference's accuracy at l(j), or at its end where it "
            f"learns only then; a: {words} accuracy",
            citation="Chaudhry et al., Riemannian Walk for Incremental Learning, ECCV 2018",
            unit="%",
            better="lower",
            title=f"intransigence ({readout})",
            remark="The example is against cumulative training with .90, .89, .94 and .95 on the exam just taught. "
            "Joint training answers among all labels, which is harder in the class-incremental read-out.",
            example="((.90 - .90) + (.89 - .88) + (.94 - .92) + (.95 - .90)) / 4",
        )
        for readout, words in (("class", "class-incremental"), ("task", "task-incremental"))
    }


def _mean_gap(rows: Sequence[Row], reference: Sequence[Row], metric: str) -> float:
    learned = {row.subject: int(row.value) + 1 for row in rows if row.metric == "exam/since" and row.value is not None}
    if not learned:
        undefined("no exam is taught (exam/since)")
    own, other = _cells(rows, metric), _cells(reference, metric)
    ends = {step for step, _ in other if step}
    gaps = []
    for exam, step in learned.items():
        there = max(ends) if len(ends) == 1 else step
        if (step, exam) not in own:
            undefined(_none(rows, metric) or f"there is no {metric} of {exam} after {step} experiences")
        if (there, exam) not in other:
            undefined(_none(reference, metric) or f"the reference has no {metric} of {exam} after {there} experiences")
        gaps.append(other[there, exam] - own[step, exam])
    return sum(gaps) / len(gaps)


def _cells(rows: Sequence[Row], metric: str) -> dict[tuple[int, str], float]:
    """Accuracy by step and exam; where a step was looked at more than once, the first look."""
    ordered = sorted((row for row in rows if row.metric == metric), key=lambda row: -row.at)
    return {(row.step, row.subject): row.value for row in ordered if row.value is not None}


def _none(rows: Sequence[Row], metric: str) -> str:
    """Why a run has none of a metric at all, where it says so."""
    return next((row.note for row in rows if row.metric == metric and not row.subject), "")
