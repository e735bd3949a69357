"""Whether the network knows what it does not know, and what it takes one experience's classes for.

Calibration: Guo et al. 2017, On Calibration of Modern Neural Networks (ICML), of class-incremental answers; confidence
is the largest softmax of what the strategy predicts, over the labels taught so far. Confusion of tasks is described
as a matrix by Masana et al. 2023 (TPAMI); the form here is ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clbench.metric import Look, Probe, Row
from clbench.metrics.exams import SHARED, answers, labels_open, papers, short
from clbench.strategy import whole_stream
from clbench.stream import Exam
from clbench.types import Count

BINS = 15
"""of equal width, as in the paper"""
PLACES = "an answer is a sequence"
ALONE = "all exams are of what one experience was the first to teach"


def taught(look: Look, samples: int | None = None) -> list[Exam]:
    """The exams of what was taught so far and is not to be forgotten; none where the strategy has learned nothing."""
    if whole_stream(look.strategy) and look.step < (look.syllabus.lessons or 0):
        return []
    exams = [exam for exam in look.exams if exam.since is not None and exam.since < look.step]
    exams = [exam for exam in exams if exam.until is None or look.step <= exam.until]
    return exams if samples is None else [short(exam, samples) for exam in exams]


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Sum over equal bins of |accuracy - mean confidence|, weighted by the share of the answers that are in the bin.

    Args:
        confidence: of each answer, above 0 and up to 1; a bin has its upper end.
        right: whether the answer is right, as 0 or 1.
    """
    place = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gap.index_add_(0, place, right.double() - confidence.double())
    return float(gap.abs().sum()) / len(confidence)


@dataclass
class Calibration(Probe):
    """`calibration/ece`: expected calibration error over the exams of what was taught so far, together.
    `calibration/overconfidence`: mean confidence less accuracy; below 0, the network knows more than it says.
    """

    samples: Count = 1000
    """of each exam that are answered, evenly spread over it"""

    def __call__(self, look: Look) -> Iterable[Row]:
        exams = taught(look, self.samples)
        if not exams:
            return
        if look.syllabus.places:
            for name in ("ece", "overconfidence"):
                yield Row(look.step, look.at, f"calibration/{name}", "", None, 0, PLACES)
            return
        learner = look.learner
        (closed,) = (~labels_open(look, exams)["class"][:1]).to(learner.where)
        truth = torch.cat([exam.data.labels for exam in exams]).to(learner.where)
        found = []
        with torch.inference_mode():
            for raw in papers(learner, exams, learner.eval_batch):
                logits = look.strategy.predict(learner, learner.encode(raw)).float()
                found.append(logits.masked_fill(closed, -torch.inf).softmax(1).max(1))
        confidence, given = (torch.cat(parts) for parts in zip(*found, strict=True))
        right = given == truth
        values = {
            "ece": calibration_error(confidence, right),
            "overconfidence": float(confidence.double().mean() - right.double().mean()),
        }
        for name, value in values.items():
            finite = np.isfinite(value)
            note = "" if finite else "what the network says is not finite"
            yield Row(look.step, look.at, f"calibration/{name}", "", value if finite else None, len(truth), note)


@dataclass
class Confusion(Probe):
    """At the end: of the class-incremental answers to what experience i was the first to teach, the share that are
    labels that experience j was the first to teach; a row `confusion/share` for each i and j, subject `i>j`, counted
    from 1. The diagonal are answers within the right experience, right or wrong.

    Undefined where experiences share classes, or one was the first to teach all that is asked.
    """

    def __call__(self, look: Look) -> Iterable[Row]:
        if look.step != look.syllabus.lessons or not (exams := taught(look)):
            return
        alone = len({exam.since for exam in exams}) == 1
        why = SHARED if look.syllabus.shared else PLACES if look.syllabus.places else ALONE if alone else ""
        if why:
            yield Row(look.step, look.at, "confusion/share", "", None, 0, why)
            return
        experience = np.full(look.syllabus.classes, -1)
        for exam in exams:
            experience[sorted(exam.classes)] = exam.since
        counts = np.zeros((look.step, look.step), dtype=int)
        for exam, given in zip(exams, answers(look, exams)["class"], strict=True):
            hit = experience[given]
            counts[exam.since] += np.bincount(hit[hit >= 0], minlength=look.step)
        rows = np.flatnonzero(counts.sum(1))
        for i in rows:
            for j in rows:
                share = counts[i, j] / counts[i].sum()
                yield Row(look.step, look.at, "confusion/share", f"{i + 1}>{j + 1}", float(share), int(counts[i].sum()))
