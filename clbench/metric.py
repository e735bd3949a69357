"""Every number has one shape, a row; a probe makes rows from a live run, a summary makes a number from rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from clbench.batch import Batch
    from clbench.learner import Learner
    from clbench.strategy import Strategy
    from clbench.stream import Exam, Experience, Syllabus


class Row(NamedTuple):
    """One number that a probe saw."""

    step: int
    """experiences learned so far"""
    at: int
    """optimiser steps taken so far"""
    metric: str
    """what was measured, as `group/name`"""
    subject: str
    """of what: the name of an exam or a module; empty where there is nothing to tell apart"""
    value: float | None
    """the number; None where it is undefined"""
    n: int = 0
    """over how many samples"""
    note: str = ""
    """why there is no value"""


class Value(NamedTuple):
    """A summary's answer: a number, or the reason why there is none."""

    number: float | None
    note: str = ""


def exact(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which samples are answered right; of sequences, those right at every place that has a label (bool, N)."""
    right = (answers == labels) | (labels < 0)
    return right.reshape(len(right), -1).all(1)


class Undefined(Exception):
    """There is no number; the text says why."""


def undefined(reason: str) -> NoReturn:
    """Ends a formula with the reason why it has no number."""
    raise Undefined(reason)


def valued(compute: Callable[[], float]) -> Value:
    """What a formula comes to, or why it has no number."""
    try:
        return Value(float(compute()))
    except Undefined as reason:
        return Value(None, str(reason))


@dataclass
class Look:
    """What a probe may look at. It changes nothing, and leaves the model in evaluation mode."""

    step: int
    at: int
    learner: Learner
    strategy: Strategy
    syllabus: Syllabus
    exams: Sequence[Exam]
    seen: frozenset[int]
    """labels taught so far"""
    exam_seconds: float = 0.0
    """spent on exams so far"""
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """what was answered in this look: read-out, then exam, then labels; written beside the rows"""
    when: str | int = "experience"
    """the entry of the probe's `when` that this look is for"""
    taught: Mapping[int, int] = field(default_factory=dict)
    """how many experiences taught each label so far"""


@dataclass
class Probe:
    """Looks at a live run and returns rows. Subclasses say at what."""

    when: ClassVar[tuple[str | int, ...]] = ("experience",)
    """`experience`: before the first and after each that the stream is looked at after (`Stream.looks`); `every`:
    before the first and after each, for what costs nothing; `epoch`: after each pass over an experience; a number: so
    many times an experience, evenly over its steps, the last time after the last one"""
    version: ClassVar[int] = 1
    """raised when a row of the same name means something else than before"""
    repeats: ClassVar[bool] = True
    """whether a second run gives the same rows; what does not (seconds) is kept apart"""

    def __call__(self, look: Look) -> Iterable[Row]:
        raise NotImplementedError

    def begin(self, experience: Experience) -> None:
        """Called before each experience is learned."""

    def watch(self, batch: Batch, logits: Tensor) -> None:
        """Called in `Learner.fit` at each step, before the weights move, where a probe overrides it: the batch, and the
        logits of the step's first forward pass in training; not at a step that never asks the whole model, as one on
        features alone. The stream's samples are the first `len(batch.raw)`; where `batch.index` is None and the batch
        is not joined to one of the stream, they are memory's. It must not wait for a device.
        """


@dataclass(frozen=True)
class Summary:
    """A pure function of rows, with all that a reader needs to trust it."""

    id: str
    compute: Callable[[Sequence[Row]], Value]
    formula: str
    citation: str
    version: int = 1
    unit: str = ""
    """`%`: a share, shown times 100; otherwise the unit itself"""
    better: str = "higher"
    """`higher`, `lower`, or empty where neither is better"""
    title: str = ""
    """the column's heading"""
    example: str = ""
    """the arithmetic that it comes to on the matrix R of docs/metrics.md; that page shows what it is computed to be"""
    remark: str = ""
    """what a reader must know beside the formula"""
