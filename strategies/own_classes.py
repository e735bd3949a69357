"""Fine-tuning in which only the classes of the experience at hand compete, as PILOT fine-tunes (Sun et al.,
LAMDA-PILOT); methods on pretrained networks build on it.

What `naive learner.loss_mask=experience` learns, but as the method's own affair: both stand on one board.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clbench.batch import Batch
from clbench.config import Preset
from clbench.learner import Learner
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus


@dataclass
class OwnClasses(Strategy):
    """Cross-entropy among the classes of the experience: logits of all others are left out, whatever
    `learner.loss_mask` leaves open.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"unmixed lessons", "single labels"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.own = torch.zeros(syllabus.classes, dtype=torch.bool, device=learner.where)

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.own = torch.zeros_like(self.own)
        self.own[sorted(experience.classes)] = True
        super().learn(learner, experience)

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        return self.among(learner, learner(batch.x), batch.y)

    def among(self, learner: Learner, logits: Tensor, y: Tensor) -> Tensor:
        """The stream's loss among the experience's own classes."""
        return learner.criterion(logits.masked_fill(~self.own, -torch.inf), y)


PRESETS = [
    Preset(
        "finetune",
        "cifar100",
        {
            "learner.epochs": 20,
            "learner.batch": 128,
            "learner.lr": 0.001,
            "learner.schedule": "constant",
            "learner.weight_decay": 2e-4,
        },
        "PILOT, exps: ViT-B/16, CIFAR-100 in 10 tasks; its first task has a weight decay of 5e-4",
        recipe="pilot",
    ),
]
