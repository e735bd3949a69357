"""Weight aligning: what is new does not speak louder than what is old.

Zhao, Xiao, Gan, Zhang and Xia 2020 ("Maintaining Discrimination and Fairness in Class Incremental Learning", CVPR). The
head's weight vectors of new classes come out of training longer than those of old ones, and win for that alone; they
are scaled back. Their method also distils and replays, which is left to the base here (`strategy=wa
strategy.base=er`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clbench.learner import Learner
from clbench.modules import linear_head
from clbench.strategy import Around
from clbench.stream import Experience, Syllabus


@dataclass
class WA(Around):
    """The base learns; then the head's weight vectors of new classes are scaled to the mean length of old ones.

    It does so after each experience, by one factor for all new classes.

    A class that was taught before and again now is neither old nor new, so nothing happens where experiences share all
    classes. Biases stay as they are.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"task borders"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        linear_head(learner.model)
        self.seen: frozenset[int] = frozenset()

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        old, new = self.seen - experience.classes, experience.classes - self.seen
        self.seen |= experience.classes
        if old and new:
            align(learner.model.head.weight, old, new)  # type: ignore[union-attr, arg-type]
            self.base.settle(learner)


@torch.no_grad()
def align(weight: Tensor, old: Collection[int], new: Collection[int]) -> None:
    """Scale the rows `new` of a weight (classes x features), in place: their mean length becomes that of `old`."""
    lengths, rows = weight.norm(dim=1), sorted(new)
    weight[rows] *= lengths[sorted(old)].mean() / lengths[rows].mean()
