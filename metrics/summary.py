"""What a whole run comes to: accuracy, forgetting, transfer and cost, each a pure function of rows.

a(t, j) is the accuracy on exam j after t experiences; l(j) = exam/since + 1 is the first t at which j has been taught;
T is the last step. An exam counts from l(j) on, until its exam/until asks to forget it; an exam that is never taught
does not count. Where a cell that a formula needs has no value there is no number, and the reason is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from clbench.metric import Row, Summary, Value

if TYPE_CHECKING:
    import numpy as np

GEM = "Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017"
ICARL = "Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017"
RWALK = "Chaudhry et al., Riemannian Walk for Incremental Learning, ECCV 2018"
MER = (
    "Riemer et al., Learning to Learn without Forgetting by Maximizing Transfer and Minimizing Interference, ICLR 2019"
)
SURVEY = "Masana et al., Class-Incremental Learning: Survey and Performance Evaluation, TPAMI 2023 (the bias); ours"
UNTAUGHT = (
    "an exam that is not taught yet can't be answered while untaught classes are masked; its cell was scored with its "
    "task mask: see task/fwt"
)


class Undefined(Exception):
    """There is no number; the text says why."""


def undefined(reason: str) -> NoReturn:
    """Ends a measure with the reason why it has no number."""
    raise Undefined(reason)


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
    disjoint: bool
    """whether no two exams share a class"""

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
            undefined(
                self.notes.get((step, exam))
                or f"there is no {self.metric} of {self.exams[exam]} after {step} experiences"
            )
        return cells

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

    Where a step was looked at more than once the first look counts, the one right after the experience.

    Raises:
        Undefined: there is nothing to make it of, or the rows say that the metric does not apply.
    """
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
    last = max(learned.max(), max(row.step for row in measured))
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
        any(row.metric in ("class/predicted_share", "task/accuracy") and row.value is not None for row in rows),
    )


def final(m: Matrix, by: str = "tasks") -> float:
    return m.mean(m.last, by) if len(m.counting(m.last)) else undefined("no exam counts at the end")


def incremental(m: Matrix, by: str = "tasks") -> float:
    means = [m.mean(step, by) for step in range(1, m.last + 1) if len(m.counting(step))]
    return sum(means) / len(means)


def learning(m: Matrix) -> float:
    return m.cells(m.learned, range(len(m.exams))).mean()


def forgetting(m: Matrix) -> float:
    best = [m.cells(range(m.learned[exam], m.last), exam).max() for exam in m.old()]
    return (best - m.cells(m.last, m.old())).mean()


def backward(m: Matrix) -> float:
    return (m.cells(m.last, m.old()) - m.cells(m.learned[m.old()], m.old())).mean()


def forward(m: Matrix) -> float:
    if m.disjoint and m.metric == "class/accuracy":
        undefined(UNTAUGHT)
    later = (m.learned > 1).nonzero()[0]
    if not len(later):
        undefined("every exam is taught by the first experience")
    return (m.cells(m.learned[later] - 1, later) - m.cells(0, later)).mean()


def recency(m: Matrix) -> float:
    newest = (m.learned == m.last).nonzero()[0]
    return m.cells(m.last, newest).sum() if len(newest) else undefined("the last experience teaches no exam first")


def measure(rows: Sequence[Row], metric: str, formula: Callable[[Matrix], float]) -> Value:
    """What `formula` makes of the rows of `metric`."""
    try:
        return Value(float(formula(matrix(rows, metric))))
    except Undefined as reason:
        return Value(None, str(reason))


def latest(rows: Sequence[Row], metric: str) -> Value:
    """The last value of `metric`."""
    found = max((row for row in rows if row.metric == metric), key=lambda row: (row.step, row.at), default=None)
    return Value(found.value, found.note) if found else Value(None, f"no {metric} was measured")


def _exams(readout: str, words: str) -> list[Summary]:
    """The summaries of one read-out: `class`, untaught labels masked, or `task`, only the exam's labels open."""
    lines: list[tuple[str, str, Callable[[Matrix], float], str, str, str]] = [
        ("final_accuracy", "final accuracy", final, "mean over j of a(T, j)", GEM, "higher"),
        (
            "final_accuracy_samples",
            "final accuracy over samples",
            partial(final, by="samples"),
            "mean over j of a(T, j), weighted by the samples of j",
            ICARL,
            "higher",
        ),
        (
            "average_incremental_accuracy",
            "average incremental accuracy",
            incremental,
            "mean over t = 1..T of the mean over j with l(j) <= t of a(t, j)",
            f"{ICARL}; {RWALK} (means over tasks)",
            "higher",
        ),
        (
            "average_incremental_accuracy_samples",
            "average incremental accuracy over samples",
            partial(incremental, by="samples"),
            "mean over t = 1..T of the mean over j with l(j) <= t of a(t, j), weighted by the samples of j",
            ICARL,
            "higher",
        ),
        ("learning_accuracy", "learning accuracy", learning, "mean over j of a(l(j), j)", MER, "higher"),
        (
            "forgetting",
            "forgetting",
            forgetting,
            "mean over j with l(j) < T of (max over l(j) <= t < T of a(t, j)) - a(T, j)",
            RWALK,
            "lower",
        ),
        ("bwt", "backward transfer", backward, "mean over j with l(j) < T of a(T, j) - a(l(j), j)", GEM, "higher"),
        ("fwt", "forward transfer", forward, "mean over j with l(j) > 1 of a(l(j) - 1, j) - a(0, j)", GEM, "higher"),
    ]
    return [
        Summary(
            id=f"{readout}/{name}",
            compute=partial(measure, metric=f"{readout}/accuracy", formula=formula),
            formula=f"{text}; a: {words} accuracy",
            citation=citation,
            unit="%",
            better=better,
            title=f"{title} ({readout})",
        )
        for name, title, formula, text, citation, better in lines
    ]


def _cost(name: str, title: str, unit: str, text: str) -> Summary:
    return Summary(
        id=f"cost/{name}",
        compute=partial(latest, metric=f"cost/{name}"),
        formula=f"the last value of the rows cost/{name}: {text}",
        citation="ours",
        unit=unit,
        better="lower",
        title=title,
    )


SUMMARIES: dict[str, Summary] = {
    summary.id: summary
    for summary in (
        *_exams("class", "class-incremental"),
        Summary(
            id="class/recency",
            compute=partial(measure, metric="class/predicted_share", formula=recency),
            formula="the share of all class-incremental answers at T, on the exams taught so far, that are labels of "
            "the exams with l(j) = T; without bias it is the share that those exams have of the samples",
            citation=SURVEY,
            unit="%",
            better="",
            title="recency (class)",
        ),
        *_exams("task", "task-incremental"),
        _cost(
            "train_flops",
            "training compute",
            "FLOP",
            "matrix products and convolutions of all training, replay and extra phases included",
        ),
        _cost("inference_flops", "inference compute per sample", "FLOP", "one prediction"),
        _cost("parameters_trainable", "trainable parameters", "", "parameters that the last experience trains"),
        _cost(
            "parameters_stored",
            "stored parameters",
            "",
            "parameters of the model and of what the strategy keeps beside it",
        ),
        _cost(
            "bytes_kept",
            "bytes kept",
            "B",
            "what the strategy keeps from one experience to the next: samples, and state",
        ),
        _cost("train_seconds", "training time", "s", "wall time of learning"),
        _cost("exam_seconds", "exam time", "s", "wall time of all exams"),
        _cost(
            "peak_memory",
            "peak memory",
            "B",
            "the most memory in use so far: of the GPU where the run is on one, else of the process",
        ),
    )
}
