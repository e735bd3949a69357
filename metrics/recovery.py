"""The recovery probe: whether what was asked to be forgotten is gone, or only no longer said.

A network that never answers with a label may know the class as well as before: a changed bias of the head is enough.
Two attempts to get it back, as they are usual against unlearning; their exact form is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.data import Data
from clbench.learner import Learner
from clbench.metric import Look, Probe, Row
from clbench.metrics.exams import papers
from clbench.stream import Exam
from clbench.types import Count, Positive

FEW = "the exam has but one sample of each class, and none is left to judge by"


@dataclass
class Recovery(Probe):
    """Whether a linear probe, or a few steps of training, bring back what is asked to be forgotten. For each exam that
    some experience asks to forget (`exam/until`), at every look: before it is taught (what a network comes to that
    never knew it), while it counts, and after the request.

    `linear`: accuracy of ridge regression on the features (standardised), trained on all exams' classes. `relearned`:
    accuracy of a copy of the network after `steps` steps of Adam on `shots` samples of each class of the exam, all
    parameters trained, dropout and running statistics at rest; answered among all labels.

    Nothing is taken from lessons: of each class every other sample of its exam, from the first, is what the attempts
    are trained on, and accuracy is over the others. It is the network's own (`learner.model`), whatever a strategy
    keeps beside it.
    """

    ridge: Positive = 0.01
    """weight of the penalty, against the mean over samples"""
    shots: Count = 5
    """of each class, to relearn from; all that are there, where they are fewer"""
    steps: Count = 10
    """of relearning, each on all shots"""
    rate: Positive = 0.001
    """of Adam"""

    def __call__(self, look: Look) -> Iterable[Row]:
        asked = [number for number, exam in enumerate(look.exams) if exam.until is not None]
        if not asked:
            return
        turns = [_turn(exam.data.labels) for exam in look.exams]
        answers = self._linear(look, turns)
        for number in asked:
            exam, turn = look.exams[number], turns[number]
            judged = (turn % 2 == 1).nonzero()[:, 0]
            if not len(judged):
                for name in ("linear", "relearned"):
                    yield Row(look.step, look.at, f"recovery/{name}", exam.name, None, 0, FEW)
                continue
            truth = exam.data.labels[judged]
            shots = ((turn % 2 == 0) & (turn < 2 * self.shots)).nonzero()[:, 0]
            relearned = self._relearned(look.learner, exam.data.subset(shots), exam.data.subset(judged))
            for name, given in (("linear", answers[number][judged]), ("relearned", relearned)):
                right = float((given == truth).double().mean())
                yield Row(look.step, look.at, f"recovery/{name}", exam.name, right, len(judged))

    def _linear(self, look: Look, turns: Sequence[Tensor]) -> list[Tensor]:
        """Answers to all exams of ridge regression from features to labels."""
        learner = look.learner
        with torch.inference_mode():
            batches = papers(learner, look.exams, learner.eval_batch)
            z = torch.cat([learner.features(learner.encode(raw)) for raw in batches]).cpu().double()
        train = torch.cat(list(turns)) % 2 == 0
        y = F.one_hot(torch.cat([exam.data.labels for exam in look.exams]), look.syllabus.classes).double()[train]
        z = (z - z[train].mean(0)) / z[train].std(0).clamp(min=1e-6)
        x, centre = z[train], y.mean(0)
        square = x.T @ x / len(x) + self.ridge * torch.eye(x.shape[1], dtype=x.dtype)
        weight = torch.linalg.solve(square, x.T @ (y - centre) / len(x))
        return list((z @ weight + centre).argmax(1).split([len(exam.data) for exam in look.exams]))

    def _relearned(self, learner: Learner, shots: Data, judged: Data) -> Tensor:
        """Answers of a copy of the network that was trained on `shots`, on the CPU."""
        model = copy.deepcopy(learner.model).requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), self.rate)
        raw, y = learner.gather(shots.to(learner.where), torch.arange(len(shots), device=learner.where))
        x = learner.encode(raw)
        with torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad()
                F.cross_entropy(learner(x, model), y).backward()
                optimizer.step()
        exam = Exam("", judged, frozenset())
        with torch.inference_mode():
            parts = papers(learner, [exam], learner.eval_batch)
            return torch.cat([learner(learner.encode(raw), model).argmax(1) for raw in parts]).cpu()


def _turn(labels: Tensor) -> Tensor:
    """The number of each sample among those of its class, from 0."""
    order = labels.argsort(stable=True)
    _, counts = labels[order].unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.empty_like(order).index_copy_(0, order, torch.arange(len(labels)) - starts)
