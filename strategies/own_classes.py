"""Fine-tuning in which only the classes of the experience at hand compete."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clbench.learner import Batch, Learner
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus


@dataclass
class OwnClasses(Strategy):
    """Cross-entropy among the classes of the experience: logits of all others are left out, whatever
    `learner.loss_mask` leaves open.
    """

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.own = torch.zeros(syllabus.classes, dtype=torch.bool, device=learner.where)

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.own = torch.zeros_like(self.own)
        self.own[sorted(experience.classes)] = True
        super().learn(learner, experience)

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        return learner.criterion(learner(batch.x).masked_fill(~self.own, -torch.inf), batch.y)
