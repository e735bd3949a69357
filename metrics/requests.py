"""What each request to forget came to: how much is kept, how much is forgotten, and the mean that weighs both.

The measures are those of Zhao et al. 2024 ("Continual Forgetting for Pre-trained Vision Models", CVPR; arXiv
2403.11530), over the rows class/accuracy. Exams are told apart by their fate: `exam/until` is the experience that asks
to forget one, and the exam `missing` is of classes that stay, without samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from clbench.metric import Row, Summary, Value, undefined
from clbench.metrics.matrix import Matrix, matrix, measure

if TYPE_CHECKING:
    import numpy as np

GSLORA = "Zhao et al., Continual Forgetting for Pre-trained Vision Models, CVPR 2024"
MISSING = "missing"
"""the name of the exam on classes that remain, of which no sample is at hand"""


def _steps(m: Matrix) -> list[int]:
    """Those right after each request."""
    return sorted({int(until) + 1 for until in m.until if until < float("inf")})


def requested(m: Matrix) -> list[int]:
    """The steps right after each request; at least one."""
    steps = _steps(m)
    if not steps:
        undefined("no exam is asked to be forgotten (exam/until)")
    return steps if steps[-1] <= m.last else undefined("the run did not come to its last request")


def _over(m: Matrix, step: int | np.ndarray, exams: np.ndarray) -> float:
    """Accuracy on all samples of some exams."""
    cells, n = m.cells(step, exams), m.n[exams]
    return (cells * n).sum() / n.sum() if n.all() else undefined("the rows do not say over how many samples they are")


def _asked(m: Matrix, step: int) -> np.ndarray:
    """The exams that the request before `step` asks to forget."""
    return (m.until == step - 1).nonzero()[0]


def kept(m: Matrix, step: int) -> float:
    exams = m.counting(step)
    return _over(m, step, exams) if len(exams) else undefined("no class remains")


def forgotten(m: Matrix, step: int) -> float:
    return _over(m, step, _asked(m, step))


def earlier(m: Matrix, step: int) -> float:
    exams = (m.until < step - 1).nonzero()[0]
    return _over(m, step, exams) if len(exams) else undefined("nothing was to be forgotten before this request")


def missing(m: Matrix, step: int) -> float:
    exams = [index for index, name in enumerate(m.exams) if name == MISSING]
    return m.cells(step, exams).mean() if exams else undefined("samples of all classes that remain are at hand")


def drop(m: Matrix, step: int) -> float:
    exams = _asked(m, step)
    return _over(m, m.learned[exams], exams) - forgotten(m, step)


def h(m: Matrix, step: int) -> float:
    stays, falls = kept(m, step), drop(m, step)
    return 2 * stays * falls / (stays + falls) if falls > 0 else 0.0


@dataclass(frozen=True)
class _Line:
    """A measure of one request."""

    name: str
    title: str
    formula: Callable[[Matrix, int], float]
    """of the matrix and the step right after a request"""
    text: str
    better: str = "higher"
    example: str = ""
    remark: str = ""
    first: int = 0
    """the first request, from 0, that has one"""
    metric: str = "class/accuracy"
    """the rows that it is of"""


LINES = [
    _Line(
        "acc_r",
        "accuracy on what remains",
        kept,
        "Acc_r(t), a over the samples of all exams that no request up to t asks to forget",
        example="((.80 + .82) / 2 + .75) / 2",
        remark="An exam on classes without samples is among them.",
    ),
    _Line(
        "acc_f",
        "accuracy on what is to be forgotten",
        forgotten,
        "Acc_f(t), a over the samples of the exams that request t asks to forget",
        "lower",
        "(.10 + 0) / 2",
        "It says how the network answers, not what it still knows: for that see the probe `recovery`.",
    ),
    _Line(
        "acc_o",
        "accuracy on what was forgotten before",
        earlier,
        "Acc_o(t), a over the samples of the exams that requests before t asked to forget; the first request has none",
        "lower",
        ".20",
        "Whether what was forgotten comes back while more is being forgotten.",
        first=1,
    ),
    _Line(
        "acc_m",
        "accuracy on what remains without samples",
        missing,
        "Acc_m(t), a of the exam on classes that remain, of which no sample is at hand",
        remark="On streams with such classes (`stream.missing`). None in the example.",
    ),
    _Line(
        "drop",
        "drop on what is to be forgotten",
        drop,
        "Drop(t), a right after the exams of request t were taught, less Acc_f(t)",
        example="((.80 - .10) + (.90 - 0)) / 2",
        remark="Against the network that had been taught everything, as in the tables of that paper and of its "
        "successor, and not against the step before the request.",
    ),
    _Line(
        "h",
        "H-mean",
        h,
        "H(t) = 2 Acc_r(t) Drop(t) / (Acc_r(t) + Drop(t)); 0 where nothing dropped",
        example="(2 * .81 * .70 / (.81 + .70) + 2 * .75 * .90 / (.75 + .90)) / 2",
        remark="High only where what remains is kept and what was to be forgotten is. 100 % can't be reached where the "
        "network did not know everything before.",
    ),
    _Line(
        "linear",
        "what a linear probe finds",
        forgotten,
        "the rows recovery/linear right after request t, of the exams that it asks to forget",
        "",
        remark="Where it is near what it was before the request, the classes left the head and not the features. What "
        "a network comes to that was taught nothing stands in the rows at step 0.",
        metric="recovery/linear",
    ),
    _Line(
        "relearned",
        "accuracy after relearning",
        forgotten,
        "the rows recovery/relearned right after request t, of the exams that it asks to forget",
        "lower",
        remark="Likewise; what a network that never knew the classes comes to stands at step 0.",
        metric="recovery/relearned",
    ),
]


def _at(line: _Line, step: int, m: Matrix) -> float:
    return line.formula(m, step)


def _mean(line: _Line, m: Matrix) -> float:
    """Over the requests that have one."""
    steps = requested(m)
    steps = steps[line.first :] or steps
    return sum(line.formula(m, step) for step in steps) / len(steps)


def _last(line: _Line, m: Matrix) -> float:
    return line.formula(m, requested(m)[-1])


def each(rows: Sequence[Row]) -> list[dict[str, Value]]:
    """The measures after each request so far, in order and by name: a line of the paper's tables each.

    Raises:
        Undefined: there are no rows class/accuracy, or no exam is taught.
    """
    m = matrix(rows, "class/accuracy")
    steps = [step for step in _steps(m) if step <= m.last]
    return [{line.name: measure(rows, line.metric, partial(_at, line, step)) for line in LINES} for step in steps]


def _summary(line: _Line, over: Callable[[_Line, Matrix], float], suffix: str, words: str) -> Summary:
    return Summary(
        id=f"request/{line.name}{suffix}",
        compute=partial(measure, metric=line.metric, formula=partial(over, line)),
        formula=f"{words} of {line.text}"
        + ("; a: class-incremental accuracy" if line.metric == "class/accuracy" else ""),
        citation=GSLORA if line.metric == "class/accuracy" else "ours",
        unit="%",
        better=line.better,
        title=f"{line.title} ({words.removeprefix('the ')})",
    )


REQUESTS: list[Summary] = [
    *(
        replace(_summary(line, _mean, "", "the mean over requests t"), example=line.example, remark=line.remark)
        for line in LINES
    ),
    *(_summary(line, _last, "_last", "the value at the last request t") for line in LINES if line.name == "h"),
]
