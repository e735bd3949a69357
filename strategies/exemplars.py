"""What methods share that learn class after class with exemplars: the memory, the joint lesson, the teacher.

The way of Rebuffi, Kolesnikov, Sperl and Lampert 2017 ("iCaRL", CVPR): equally many exemplars a class, chosen by
herding and cut short as classes come; each experience is learned together with them, and the network is held to what it
said before.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from clbench.batch import Batch
from clbench.data import Data
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.memory import Exemplars, herding
from clbench.strategies.prototypes import directions
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count


@dataclass
class ExemplarReplay(Strategy):
    """Learns an experience together with the exemplars of earlier classes; a batch's `kept["old"]` are the logits that
    the network of the last experience gives, B x classes, from the second experience on.
    """

    memory_size: Count = 500
    """samples kept, equally many of each class"""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders", "unmixed lessons"})
    at_least: ClassVar[int] = 1
    """samples of a class that the method can't do without"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        name = type(self).__name__.lower()
        if syllabus.shared:
            raise Mistake(
                f"{name} tells old classes from new, and experiences of this stream share classes: take er or derpp."
            )
        if self.memory_size < self.at_least * syllabus.classes:
            raise Mistake(
                f"{name} keeps {self.at_least} or more samples of each class, and strategy.memory_size="
                f"{self.memory_size} is too small for {syllabus.classes} classes."
            )
        self.memory = Exemplars(self.memory_size)
        self.teacher = copy.deepcopy(learner.model).requires_grad_(False).eval()
        self.seen = torch.zeros(syllabus.classes, dtype=torch.bool, device=learner.where)
        self.old, self.taught, self.before = self.seen, 0, 0

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.old, self.before = self.seen, self.taught
        self.seen = self.old.clone()
        self.seen[sorted(experience.classes)] = True
        self.taught += len(experience.classes)
        lesson = self.memory.beside(learner.near(experience.train))
        assert learner.optim is not None
        learner.optim.begin(learner.steps(len(lesson)))
        super().learn(learner, replace(experience, train=lesson))
        self.teacher.load_state_dict(learner.model.state_dict())
        self.remember(learner, learner.near(experience.train))

    def settle(self, learner: Learner) -> None:
        self.teacher.load_state_dict(learner.model.state_dict())

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        for batch in learner.batches(experience.train):
            if self.before:
                with torch.no_grad(), learner.spending("teacher", batch.x.shape):
                    batch.kept = {"old": self.old_logits(learner, batch.x)}
            yield batch

    def old_logits(self, learner: Learner, x: Tensor) -> Tensor:
        """What the network of the last experience gives, B x classes."""
        return learner(x, self.teacher)

    def share(self) -> int:
        """Exemplars of a class."""
        return self.memory_size // self.taught

    def remember(self, learner: Learner, data: Data) -> None:
        """Exemplars of new classes into memory, by herding on features of length 1."""
        features, labels, chosen = directions(learner, data), data.labels, []
        for label in labels.unique():
            rows = (labels == label).nonzero()[:, 0].to(features.device)
            chosen.append(rows[herding(features[rows], self.share())])
        self.memory.take(*learner.gather(data, torch.cat(chosen).to(data.index.device)), self.share())
