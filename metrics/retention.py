"""What an update is for and what it costs: knowledge accumulated, zero-shot ability kept.

Roth et al. 2024 ("A Practitioner's Guide to Continual Multimodal Pretraining", NeurIPS, Datasets and Benchmarks). The
exams of a stream are of two kinds: those on what it teaches at some time (exam/since) and those on what it never does.
Each mean is over all exams of its kind from the first look on, before anything is taught, an exam weighing the same
whatever it is made of; an exam of retrieval would be one among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clbench.metric import Row, Summary, Value, undefined, valued

ROTH = "Roth et al., A Practitioner's Guide to Continual Multimodal Pretraining, NeurIPS 2024, Datasets and Benchmarks"


class Place(NamedTuple):
    """Where a model stands after `step` experiences."""

    step: int
    accumulated: float
    """A_KA, mean accuracy on the exams that the stream teaches at some time"""
    retained: float
    """A_ZS, mean accuracy on those that it never teaches"""

    @property
    def mean(self) -> float:
        """The geometric mean of both."""
        return math.sqrt(self.accumulated * self.retained)


def path(rows: Sequence[Row]) -> list[Place]:
    """Where a run stood at each look, from before the first experience on.

    Raises:
        Undefined: it has not both kinds of exam, or an accuracy is missing.
    """
    taught = {row.subject: row.value is not None for row in rows if row.metric == "exam/since"}
    if len(set(taught.values())) < 2:
        undefined("the stream teaches all of its exams, or none" if taught else "no exam is known (exam/since)")
    looks: dict[int, dict[str, float]] = {}
    for row in sorted(rows, key=lambda row: -row.at):
        if row.metric == "task/accuracy":
            if row.value is None:
                undefined(row.note)
            looks.setdefault(row.step, {})[row.subject] = row.value
    if not looks:
        undefined("no task/accuracy was measured")
    found = []
    for step, values in sorted(looks.items()):
        if missing := taught.keys() - values:
            undefined(f"there is no task/accuracy of {min(missing)} after {step} experiences")
        kinds = [[values[exam] for exam in taught if taught[exam] is kind] for kind in (True, False)]
        found.append(Place(step, *(sum(kind) / len(kind) for kind in kinds)))
    return found


def last(measure: Callable[[Place], float]) -> Callable[[Sequence[Row]], Value]:
    """A measure of where a run stood at its last look; what is missing before that is not asked for."""

    def compute(rows: Sequence[Row]) -> Value:
        end = max((row.step for row in rows if row.metric == "task/accuracy"), default=0)
        late = [row for row in rows if row.metric != "task/accuracy" or row.step == end]
        return valued(lambda: measure(path(late)[-1]))

    return compute


RETENTION = tuple(
    Summary(
        id=f"retention/{name}",
        compute=last(measure),
        formula=formula,
        citation=ROTH,
        unit="%",
        title=title,
        example=example,
        remark=remark,
    )
    for name, title, measure, formula, example, remark in (
        (
            "a_ka",
            "accumulation, A_KA",
            lambda place: place.accumulated,
            "mean over the exams j that are taught at some time of a(T, j), untaught ones included; a: accuracy among "
            "the exam's own labels",
            "(.40 + .90) / 2",
            "Knowledge accumulation: 41 data sets in that paper, one of them of retrieval, which counts as much as "
            "each other. It is defined from T = 0 on, the zero-shot point.",
        ),
        (
            "a_zs",
            "retention, A_ZS",
            lambda place: place.retained,
            "mean over the exams j that are never taught of a(T, j); a: accuracy among the exam's own labels",
            "(.60 + .40) / 2",
            "Zero-shot retention: 22 data sets in that paper, two of them of retrieval. Undefined on a stream that "
            "teaches all that it asks for.",
        ),
        (
            "gm",
            "mean of A_KA and A_ZS",
            lambda place: place.mean,
            "the geometric mean of A_KA and A_ZS",
            "√(.65 * .50)",
            "One number for both.",
        ),
    )
)
