"""The accuracy matrix of a run, from its rows: what every metric of exams is a formula over.

a(t, j) is the accuracy on exam j after t experiences; l(j) = exam/since + 1 is the first t at which j has been taught;
T is the last step. An exam counts from l(j) on, until its exam/until asks to forget it; an exam that is never taught
does not count. Where a cell that a formula needs has no value there is no number, and the reason is said. A long stream
is not looked at after each experience: a mean or a best over steps is over those that were looked at, and a single step
that was not has no number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from clbench.metric import Row, Undefined, Value, undefined, valued

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Matrix:
    """One measure of every taught exam at every step."""

    metric: str
    """the row metric that it holds"""
    exams: list[str]
    """names of the columns"""
    a: np.ndarray
    """float64, T + 1 x exams; NaN where there is no value"""
    n: np.ndarray
    """samples in each exam"""
    learned: np.ndarray
    """l(j), the first step at which each exam has been taught"""
    until: np.ndarray
    """the last step at which each exam counts"""
    notes: dict[tuple[int, int], str]
    """why a cell has no value, where its row says so"""
    looked: np.ndarray
    """whether each step was looked at; a step that the run did not come to should have been"""
    disjoint: bool
    """whether no two exams share a class"""
    moving: str
    """why answers before an exam is taught are not to be compared, where its row says so; else empty"""

    @property
    def last(self) -> int:
        """T."""
        return len(self.a) - 1

    def counting(self, step: int) -> np.ndarray:
        """The columns of the exams that count at `step`."""
        return ((self.learned <= step) & (step <= self.until)).nonzero()[0]

    def old(self) -> np.ndarray:
        """The columns of the exams that count at the end and were taught before the last experience; at least one."""
        exams = self.counting(self.last)
        exams = exams[self.learned[exams] < self.last]
        return exams if len(exams) else undefined("no exam is taught before the last experience")

    def cells(self, steps: Any, exams: Any) -> np.ndarray:
        """The cells at `steps` and `exams`, indexed as numpy does; all have a value."""
        import numpy as np

        steps, exams = np.broadcast_arrays(steps, exams)
        cells = self.a[steps, exams]
        if np.isnan(cells).any():
            step, exam = (int(index[np.isnan(cells)][0]) for index in (steps, exams))
            why = "" if self.looked[step] else ", for the run was not looked at then"
            undefined(
                self.notes.get((step, exam))
                or f"there is no {self.metric} of {self.exams[exam]} after {step} experiences{why}"
            )
        return cells

    def before_last(self, exam: int) -> np.ndarray:
        """The steps looked at at which an exam counts, but the last; at least one."""
        steps = self.looked[: self.last].nonzero()[0]
        steps = steps[steps >= self.learned[exam]]
        return steps if len(steps) else undefined(f"between {self.exams[exam]} and the end the run was not looked at")

    def mean(self, step: int, by: str) -> float:
        """Over the exams that count at `step`, each exam (`tasks`) or each sample (`samples`) weighing the same."""
        exams = self.counting(step)
        cells, n = self.cells(step, exams), self.n[exams]
        if by == "tasks":
            return cells.mean()
        return (
            (cells * n).sum() / n.sum() if n.all() else undefined("the rows do not say over how many samples they are")
        )


def matrix(rows: Sequence[Row], metric: str) -> Matrix:
    """The rows of one metric as a matrix over steps and taught exams.

    Where a step was looked at more than once the first look counts, the one right after the experience. The matrix is
    kept for the next who asks, so rows may be added, but not replaced in place.

    Raises:
        Undefined: there is nothing to make it of, or the rows say that the metric does not apply.
    """
    found = _kept(_Same(rows, len(rows)), metric)
    return found if isinstance(found, Matrix) else undefined(found)


@dataclass(frozen=True, eq=False)
class _Same:
    """Rows by identity: equal to themselves alone, while there are as many."""

    rows: Sequence[Row]
    count: int

    def __hash__(self) -> int:
        return id(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.rows is other.rows and self.count == other.count


@lru_cache(maxsize=16)
def _kept(rows: _Same, metric: str) -> Matrix | str:
    """The matrix, or why there is none: all summaries of a run ask for a few."""
    try:
        return _made(rows.rows, metric)
    except Undefined as reason:
        return str(reason)


def _made(rows: Sequence[Row], metric: str) -> Matrix:
    import numpy as np

    measured = sorted((row for row in rows if row.metric == metric), key=lambda row: -row.at)
    since = {row.subject: int(row.value) for row in rows if row.metric == "exam/since" and row.value is not None}
    until = {row.subject: row.value for row in rows if row.metric == "exam/until" and row.value is not None}
    if not measured:
        undefined(f"no {metric} was measured")
    for row in measured:
        if not row.subject:
            undefined(row.note)
    if not since:
        undefined("no exam is taught (exam/since)")
    exams = sorted(since, key=lambda exam: since[exam])
    column = {exam: index for index, exam in enumerate(exams)}
    learned = np.array([since[exam] + 1 for exam in exams])
    reached = max(row.step for row in measured)
    last = max(learned.max(), reached)
    looked = np.arange(last + 1) > reached
    looked[[row.step for row in measured]] = True
    a = np.full((last + 1, len(exams)), np.nan)
    n, notes = np.zeros(len(exams)), {}
    for row in measured:
        if row.subject in since:
            cell = row.step, column[row.subject]
            a[cell] = np.nan if row.value is None else row.value
            n[cell[1]] = row.n or n[cell[1]]
            notes[cell] = row.note
    return Matrix(
        metric,
        exams,
        a,
        n,
        learned,
        np.array([until.get(exam, np.inf) for exam in exams]),
        notes,
        looked,
        any(row.metric in ("class/predicted_share", "task/accuracy") and row.value is not None for row in rows),
        next((row.note for row in rows if row.metric == "class/fwt"), ""),
    )


def measure(rows: Sequence[Row], metric: str, formula: Callable[[Matrix], float]) -> Value:
    """What `formula` makes of the rows of `metric`."""
    return valued(lambda: formula(matrix(rows, metric)))


def latest(rows: Sequence[Row], metric: str) -> Value:
    """The last value of `metric`, of a row without a subject."""
    there = (row for row in rows if row.metric == metric and not row.subject)
    found = max(there, key=lambda row: (row.step, row.at), default=None)
    return Value(found.value, found.note) if found else Value(None, f"no {metric} was measured")
