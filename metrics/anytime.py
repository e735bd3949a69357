"""The anytime probe: exams of what was taught so far, sat while the next is being taught.

Between two experiences accuracy on old exams may fall and recover: the stability gap (De Lange et al. 2023, Continual
Evaluation for Lifelong Learning, ICLR). They look after each step; here a probe looks a fixed number of times an
experience, so that it costs as much on long experiences as on short ones. `clbench.metrics.trace` has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clbench.metric import Look, Probe, Row, exact
from clbench.metrics.exams import SHARED, answers, short
from clbench.strategy import whole_stream
from clbench.types import Count


@dataclass
class Anytime(Probe):
    """Accuracy on each exam of what was taught so far and of what is being taught, ten times an experience, the last
    time after its last step. Read-outs are those of the exams; the labels of the experience being learned are open.

    Under a budget of operations that ends an experience before its steps are done, the looks that would have come after
    that are not taken. For another number of looks, derive from it and set `when`.
    """

    samples: Count = 1000
    """of each exam that are answered, evenly spread over it"""

    when: ClassVar[tuple[str | int, ...]] = (10,)

    def __call__(self, look: Look) -> Iterable[Row]:
        if whole_stream(look.strategy):
            note = f"{type(look.strategy).__name__} learns only at the last experience"
            yield from (
                Row(look.step, look.at, f"anytime/{readout}", "", None, 0, note) for readout in ("class", "task")
            )
            return
        exams = [
            short(exam, self.samples)
            for exam in look.exams
            if exam.since is not None and exam.since <= look.step and (exam.until is None or look.step < exam.until)
        ]
        if not exams:
            return
        for readout, sat in answers(look, exams).items():
            for exam, given in zip(exams, sat, strict=True):
                right = float(np.mean(exact(given, exam.data.labels.numpy())))
                yield Row(look.step, look.at, f"anytime/{readout}", exam.name, right, len(given))
        if look.syllabus.shared:
            yield Row(look.step, look.at, "anytime/task", "", None, 0, SHARED)


@dataclass
class Anytime100(Anytime):
    """The same, a hundred times an experience: for the depth of the stability gap, which lasts a few steps."""

    when: ClassVar[tuple[str | int, ...]] = (100,)
