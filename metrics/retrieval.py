"""Whether a strategy that keeps something of each task finds the task of an image again.

Adapters of each task (MOS), prompts chosen by a query: such a strategy decides which of them answer, and says so by
`retrieved(learner, x)`. Ours: no paper that was at hand measures it in this form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from clbench.metric import Look, Probe, Row
from clbench.metrics.calibration import taught
from clbench.metrics.exams import papers
from clbench.strategy import having
from clbench.types import Count


@dataclass
class Retrieval(Probe):
    """`retrieval/accuracy`: of each exam taught so far, the share of samples for which the strategy's `retrieved` names
    the experience that was the first to teach it. Undefined for a strategy that decides no such thing.
    """

    samples: Count = 1000
    """of each exam that are asked, evenly spread over it"""

    def __call__(self, look: Look) -> Iterable[Row]:
        exams, learner = taught(look, self.samples), look.learner
        if not exams:
            return
        decides = having(look.strategy, "retrieved")
        if decides is None:
            note = f"{type(look.strategy).__name__} does not decide to which task an image belongs"
            yield Row(look.step, look.at, "retrieval/accuracy", "", None, 0, note)
            return
        with torch.inference_mode():
            found = [
                decides.retrieved(learner, learner.encode(raw)) for raw in papers(learner, exams, learner.eval_batch)
            ]
        parts = torch.cat(found).cpu().split([len(exam.data) for exam in exams])
        for exam, part in zip(exams, parts, strict=True):
            right = float((part == exam.since).double().mean())
            yield Row(look.step, look.at, "retrieval/accuracy", exam.name, right, len(part))
