"""Accuracy within experiences: what the probes `anytime` and `anytime100` saw, and the formulas over it.

p is a look within an experience, in order; a(p, j) is the accuracy then on exam j, the exam that is being taught
included; l(j) and T are those of the accuracy matrix, so p comes after exam j has been taught where at least l(j)
experiences were learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clbench.metric import Row, Value, undefined, valued


@dataclass(frozen=True)
class Trace:
    """One measure of the exams taught so far at every look within an experience."""

    looks: list[tuple[int, dict[str, float]]]
    """experiences learned, and accuracy by exam; in order"""
    learned: dict[str, int]
    """l(j), by exam"""

    def newest(self) -> list[str]:
        """The exams that the last experience is the first to teach."""
        return [exam for exam in self.looks[-1][1] if self.learned[exam] == self.looks[-1][0] + 1]

    def lowest(self) -> dict[str, float]:
        """Of each exam that was taught before the last experience, the lowest accuracy since."""
        old = [exam for exam in self.looks[-1][1] if exam not in self.newest()]
        if not old:
            undefined("no exam is taught before the last experience")
        return {
            exam: min(found[exam] for step, found in self.looks if step >= self.learned[exam] and exam in found)
            for exam in old
        }


def trace(rows: Sequence[Row], metric: str) -> Trace:
    """The rows of one metric within experiences.

    Raises:
        Undefined: there are none, one has no value, or the run stopped before the last exam was taught.
    """
    learned = {row.subject: int(row.value) + 1 for row in rows if row.metric == "exam/since" and row.value is not None}
    looks: dict[tuple[int, int], dict[str, float]] = {}
    for row in rows:
        if row.metric == metric:
            value = undefined(row.note) if row.value is None else row.value
            looks.setdefault((row.step, row.at), {})[row.subject] = value
    if not looks:
        undefined(f"no {metric} was measured: probes=[…,anytime] measures it")
    if not learned:
        undefined("no exam is taught (exam/since)")
    ordered = [(step, looks[step, at]) for step, at in sorted(looks)]
    if max(learned.values()) > ordered[-1][0] + 1:
        undefined(f"there is no {metric} after {ordered[-1][0] + 1} experiences")
    return Trace(ordered, learned)


def anytime(t: Trace) -> float:
    return sum(sum(found.values()) / len(found) for _, found in t.looks) / len(t.looks)


def minimum(t: Trace) -> float:
    lowest = t.lowest()
    return sum(lowest.values()) / len(lowest)


def worst_case(t: Trace) -> float:
    final, lowest = t.looks[-1][1], t.lowest()
    return sum(lowest.get(exam, value) for exam, value in final.items()) / len(final)


def follow(rows: Sequence[Row], metric: str, formula: Callable[[Trace], float]) -> Value:
    """What `formula` makes of the rows of `metric`."""
    return valued(lambda: formula(trace(rows, metric)))
