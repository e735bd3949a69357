"""How far up the right answer stands among the candidates of its exam: what a completion list would show.

Hit@k and mean reciprocal rank, as recommender systems and code completion report them. Pass@k of Weyssow et al. 2023
(FSE) draws answers at random; a rank needs no draw.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from clbench.metric import Look, Probe, Row
from clbench.metrics.calibration import taught
from clbench.metrics.exams import papers

HITS = (1, 5, 10)


@dataclass
class Ranks(Probe):
    """`rank/hit1`, `rank/hit5`, `rank/hit10`: of each exam taught so far, the share of samples whose label is among the
    so many likeliest of the exam's own labels; `rank/mrr`: the mean of 1 / its rank. Ties count against it, and so does
    what is no number. The candidates are the same at every step, so hit1 is not the class-incremental accuracy.
    """

    def __call__(self, look: Look) -> Iterable[Row]:
        learner = look.learner
        if look.step and look.syllabus.places:
            note = "an answer is a sequence of labels, which has no rank among labels"
            yield Row(look.step, look.at, "rank/mrr", "", None, 0, note)
            return
        for exam in taught(look):
            closed = torch.ones(look.syllabus.classes, dtype=torch.bool, device=learner.where)
            closed[sorted(exam.classes)] = False
            labels = exam.data.labels.to(learner.where).split(learner.eval_batch)
            found: list[Tensor] = []
            with torch.inference_mode():
                for raw, y in zip(papers(learner, [exam], learner.eval_batch), labels, strict=True):
                    logits = look.strategy.predict(learner, learner.encode(raw)).masked_fill(closed, -torch.inf)
                    found.append((~(logits < logits.gather(1, y[:, None]))).sum(1))
            rank = torch.cat(found).double().cpu()
            scores = {f"hit{k}": float((rank <= k).double().mean()) for k in HITS} | {"mrr": float((1 / rank).mean())}
            for name, value in scores.items():
                yield Row(look.step, look.at, f"rank/{name}", exam.name, value, len(rank))
