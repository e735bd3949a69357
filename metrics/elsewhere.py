"""The same names in other libraries: their definitions, so that a number from there can be compared.

`class/forgetting@mammoth` is what Mammoth computes from the matrix under the name of forgetting; each is a formula of
ours after what the library does. They speak of streams whose every experience first teaches one exam; where a stream is
not so, or a step was not looked at, they are undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from clbench.metric import Summary, undefined
from clbench.metrics.matrix import Matrix, measure
from clbench.metrics.summary import READOUTS, backward, forgetting

if TYPE_CHECKING:
    import numpy as np

MAMMOTH = "Mammoth, utils/metrics.py"
CONTINUUM = "continuum, continuum/metrics/metrics.py"
LIBCONTINUAL = "LibContinual, core/utils/utils.py"
PYCIL = "PyCIL and PILOT, trainer.py"
AVALANCHE = "Avalanche, evaluation/metrics/forgetting_bwt.py"


def lost(m: Matrix, steps: Any, exams: np.ndarray) -> np.ndarray:
    """a(j, j) - a(t, j) for steps t and exams j, counted from 1."""
    return m.cells(exams, exams - 1) - m.cells(steps, exams - 1)


def pairs(m: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Every step t with every exam j < t, counted from 1."""
    import numpy as np

    steps, exams = np.tril_indices(m.last, -1)
    return steps + 1, exams + 1


def below_best(m: Matrix) -> float:
    columns = range(m.last - 1)
    return float(sum(m.cells(range(j + 1, m.last + 1), j).max() - m.cells(m.last, j) for j in columns)) / len(columns)


def over_pairs(m: Matrix) -> float:
    return -lost(m, *pairs(m)).mean()


def over_older_pairs(m: Matrix) -> float:
    steps, exams = pairs(m)
    older = exams < steps - 1
    return -lost(m, steps[older], exams[older]).sum() / len(steps)


def but_the_newest(m: Matrix) -> float:
    import numpy as np

    return lost(m, m.last, np.arange(1, m.last - 1)).sum() / (m.last - 1)


def since_first(m: Matrix) -> float:
    return -backward(m)


def one_to_one(m: Matrix, formula: Callable[[Matrix], float]) -> float:
    """The formula, where experience t is the first to teach exam t, and no other, and the stream has more than one."""
    if m.learned.tolist() != list(range(1, m.last + 1)) or (m.until < m.last).any():
        undefined("this library's definition is of streams whose every experience first teaches one exam")
    return formula(m) if m.last > 1 else undefined("no exam is taught before the last experience")


BEST = "mean over j < T of (max over t = j..T of a(t, j)) - a(T, j)"
LINES: list[tuple[str, str, Callable[[Matrix], float], str, str]] = [
    ("bwt", "mammoth", backward, "mean over j < T of a(T, j) - a(j, j)", MAMMOTH),
    ("bwt", "continuum", over_pairs, "mean over t and j < t of a(t, j) - a(j, j)", CONTINUUM),
    (
        "bwt",
        "libcontinual",
        over_older_pairs,
        "sum over t and j < t - 1 of a(t, j) - a(j, j), divided by the number of pairs t, j < t",
        LIBCONTINUAL,
    ),
    ("bwt", "avalanche", backward, "mean over j < T of a(T, j) - a(j, j)", AVALANCHE),
    ("forgetting", "mammoth", below_best, BEST, MAMMOTH),
    (
        "forgetting",
        "continuum",
        forgetting,
        "mean over j < T of (max over j <= t < T of a(t, j)) - a(T, j)",
        CONTINUUM,
    ),
    (
        "forgetting",
        "libcontinual",
        but_the_newest,
        "sum over j < T - 1 of a(j, j) - a(T, j), divided by T - 1",
        LIBCONTINUAL,
    ),
    ("forgetting", "pycil", below_best, BEST, PYCIL),
    ("forgetting", "avalanche", since_first, "mean over j < T of a(j, j) - a(T, j)", AVALANCHE),
]


def _summaries() -> Iterator[Summary]:
    for readout, words in READOUTS.items():
        for name, library, formula, text, source in LINES:
            what, better = {"bwt": ("backward transfer", "higher"), "forgetting": ("forgetting", "lower")}[name]
            yield Summary(
                id=f"{readout}/{name}@{library}",
                compute=partial(measure, metric=f"{readout}/accuracy", formula=partial(one_to_one, formula=formula)),
                formula=f"{text}; a: {words} accuracy",
                citation=source,
                unit="%",
                better=better,
                title=f"{what} as in {library} ({readout})",
            )


ELSEWHERE: dict[str, Summary] = {summary.id: summary for summary in _summaries()}
