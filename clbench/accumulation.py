"""Knowledge accumulation: what a long stream comes to, measured against learning the same without order.

SCoLe (Lesort et al. 2023, Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation,
CoLLAs) asks whether a network that is taught a few classes at a time, over and over, comes to know all of them. Its
curves are read here as numbers of ours:

A(t) is the share of all exam samples that are answered rightly after t experiences; what was not taught yet counts as
wrong. R(t) is the same of a reference, a run of the same network on the same data in i.i.d. order, at its first look at
which it had seen at least as many samples; where it learns at the end alone, that. KA(t) = A(t) / R(t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clbench.metric import Row, Summary, Value, undefined, valued

SHORT = 0.05
"""the last look of a reference stands for so large a share of samples more than it saw"""
BIN = 0.25
"""width of a bin of frequencies, in powers of ten"""
SCOLE = "ours, after Lesort et al., Challenging Common Assumptions about Catastrophic Forgetting, CoLLAs 2023"


@dataclass(frozen=True)
class Curve:
    """A and R, at every look at a run after the first."""

    steps: list[int]
    """t, experiences learned; the last one is T"""
    accuracy: list[float]
    """A(t)"""
    reference: list[float]
    """R(t)"""

    @property
    def ka(self) -> list[float]:
        return [a / r for a, r in zip(self.accuracy, self.reference, strict=True)]


class Bin(NamedTuple):
    """Exams whose classes were taught about as often."""

    low: float
    """least frequency, the share of experiences that taught a class"""
    high: float
    """above the largest"""
    accuracy: float
    """their mean accuracy at the end"""
    exams: int
    """how many"""


def known(rows: Sequence[Row]) -> dict[int, float]:
    """A(t) by t, at every look after the first.

    Raises:
        Undefined: an accuracy has no value, or there is none.
    """
    since = {row.subject: row.value for row in rows if row.metric == "exam/since" and row.value is not None}
    ordered = sorted((row for row in rows if row.metric == "class/accuracy" and row.step), key=lambda row: -row.at)
    right: dict[int, float] = {}
    samples: dict[int, int] = {}
    for row in {(row.step, row.subject): row for row in ordered}.values():
        value = undefined(row.note) if row.value is None else row.value
        taught = since.get(row.subject, math.inf) < row.step
        right[row.step] = right.get(row.step, 0.0) + taught * value * row.n
        samples[row.step] = samples.get(row.step, 0) + row.n
    if not right:
        undefined("no class/accuracy was measured after the first experience")
    return {step: right[step] / samples[step] for step in sorted(right)}


def seen(rows: Sequence[Row]) -> dict[int, float]:
    """How many samples the stream gave, by t."""
    found = {row.step: row.value for row in rows if row.metric == "cost/samples" and row.value is not None}
    return found or undefined("no cost/samples was measured")


def curve(rows: Sequence[Row], reference: Sequence[Row]) -> Curve:
    """A and R of a run and its reference.

    Raises:
        Undefined: one of them has no accuracy or no count of samples, or the reference saw fewer samples than the run.
    """
    accuracy, given = known(rows), seen(rows)
    iid, taken = known([row for row in reference if row.value is not None]), seen(reference)
    found = []
    for step in accuracy:
        if step not in given:
            undefined(f"there is no cost/samples after {step} experiences")
        looks = [look for look in iid if taken.get(look, 0) >= given[step]] or [max(iid)]
        if taken.get(looks[0], 0) * (1 + SHORT) < given[step]:
            undefined(f"the reference saw {taken.get(looks[0], 0):.0f} samples, the run {given[step]:.0f}")
        if not iid[looks[0]]:
            undefined(f"the reference knows nothing after {taken[looks[0]]:.0f} samples")
        found.append(iid[looks[0]])
    return Curve(list(accuracy), list(accuracy.values()), found)


def final(c: Curve) -> float:
    return c.ka[-1]


def area(c: Curve) -> float:
    spans = [step - before for before, step in zip([0, *c.steps], c.steps, strict=False)]
    return sum(span * ka for span, ka in zip(spans, c.ka, strict=True)) / c.steps[-1]


def slope(c: Curve) -> float:
    late = [(math.log(step), ka) for step, ka in zip(c.steps, c.ka, strict=True) if 2 * step > c.steps[-1]]
    if len(late) < 2:
        undefined("the last half of the stream was looked at fewer than two times")
    middle, level = (sum(values) / len(late) for values in zip(*late, strict=True))
    return sum((x - middle) * (y - level) for x, y in late) / sum((x - middle) ** 2 for x, _ in late)


def half_time(c: Curve) -> float:
    reached = [step for step, ka in zip(c.steps, c.ka, strict=True) if ka >= 0.5]
    return reached[0] if reached else undefined(f"half of what the reference knows is not reached in {c.steps[-1]}")


def accumulation(reference: Sequence[Row]) -> dict[str, Summary]:
    """The measures of knowledge accumulation against these rows of an i.i.d. run: summaries of a run's own rows."""

    def against(formula: Callable[[Curve], float]) -> Callable[[Sequence[Row]], Value]:
        return lambda rows: valued(lambda: formula(curve(rows, reference)))

    measures = (
        Summary(
            id="accumulation/final",
            compute=against(final),
            formula="KA(T)",
            citation=SCOLE,
            unit="%",
            title="knowledge accumulated",
            example=".70 / .80",
        ),
        Summary(
            id="accumulation/auc",
            compute=against(area),
            formula="(1/T) sum over t = 1..T of KA(t); a step that was not looked at counts as the next one that was",
            citation=SCOLE,
            unit="%",
            title="knowledge accumulated, over the stream",
            example="(2 * .20 / .50 + 2 * .45 / .60 + 2 * .60 / .75 + 2 * .70 / .80) / 8",
        ),
        Summary(
            id="accumulation/slope",
            compute=against(slope),
            formula="least squares slope of KA(t) on ln t over t > T/2",
            citation=SCOLE,
            title="slope of KA on log t",
            example="(.875 - .80) / (ln(8) - ln(6))",
            remark="Whether knowledge still accumulates; over the steps that were looked at.",
        ),
        Summary(
            id="accumulation/half_time",
            compute=against(half_time),
            formula="the first t, of those that were looked at, with KA(t) >= .5",
            citation=SCOLE,
            better="lower",
            title="half-time",
            remark="4 in the example, where KA is .75.",
        ),
    )
    return {summary.id: summary for summary in measures}


def frequencies(rows: Sequence[Row]) -> dict[str, float]:
    """The share of all experiences that taught the class of an exam, by exam; those of several classes have none.

    Raises:
        Undefined: no exam is of one class, or classes do not come again.
    """
    last = max((row.step for row in rows), default=0)
    times = [row for row in rows if row.metric == "stream/occurrences"]
    found = {row.subject: row.value / last for row in times if row.step == last and row.value is not None}
    return found or undefined("no stream/occurrences was measured: exams are not of one class, or no class comes again")


def by_frequency(rows: Sequence[Row], width: float = BIN) -> list[Bin]:
    """Final accuracy of exams by how often their class was taught, in bins of `width` powers of ten; classes that were
    never taught are left out.

    Raises:
        Undefined: as `frequencies`, or an exam has no final accuracy.
    """
    last = max((row.step for row in rows), default=0)
    values = {row.subject: row for row in rows if row.metric == "class/accuracy" and row.step == last}
    bins: dict[int, list[float]] = {}
    for exam, frequency in frequencies(rows).items():
        if exam not in values:
            undefined(f"there is no class/accuracy of {exam} after {last} experiences")
        row = values[exam]
        if frequency:
            value = undefined(row.note) if row.value is None else row.value
            bins.setdefault(math.floor(math.log10(frequency) / width + 1e-9), []).append(value)
    return [
        Bin(10 ** (place * width), 10 ** ((place + 1) * width), sum(found) / len(found), len(found))
        for place, found in sorted(bins.items())
    ]
