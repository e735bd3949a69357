"""Frequency replay: where classes return, those that return least are taught once more along with others.

Lesort et al. 2023 ("Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation", CoLLAs;
SCoLe), in the form of their code: a class that is replayed counts as taught once more, and the samples that give way to
new ones are random. Their variant that weighs counts by validation accuracy is not here. Their masking of the loss is
`learner.loss_mask=batch`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch

from clbench.data import Data
from clbench.learner import Learner
from clbench.memory import Exemplars
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction


@dataclass
class FrequencyReplay(Strategy):
    """Each experience is learned together with memory's samples of up to as many other classes as it has."""

    select: Literal["frequency", "random"] = "frequency"
    """frequency: the least frequent in range first; random: any of those seen"""
    per_class: Count = 200
    """samples kept of each class"""
    least: Count = 3
    """frequency: how often a class must have been taught before it is replayed"""
    low: Fraction = 0.01
    """frequency: the share of experiences with a class must be above this"""
    high: Fraction = 0.1
    """frequency: and not above this"""
    budget: Fraction = 1.0
    """random: probability with which a class is replayed for each class of the experience"""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders", "single labels", "unmixed lessons"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.memory = Exemplars(self.per_class * syllabus.classes)
        self.counts = np.zeros(syllabus.classes, int)
        self.lessons = 0

    def learn(self, learner: Learner, experience: Experience) -> None:
        replayed = self.chosen(experience.classes, learner.rng("replay"))
        super().learn(learner, replace(experience, train=self.joined(learner, experience.train, replayed)))
        self.refresh(learner, experience)
        self.counts[[*experience.classes, *replayed]] += 1
        self.lessons += 1

    def chosen(self, classes: Collection[int], rng: np.random.Generator) -> list[int]:
        """Which classes are replayed along with `classes`."""
        others = ~np.isin(np.arange(len(self.counts)), [*classes])
        if self.select == "random":
            slots = int((rng.random(len(classes)) < self.budget).sum())
            return rng.permutation(np.flatnonzero(others & (self.counts > 0)))[:slots].tolist()
        frequency = self.counts / max(self.lessons, 1)
        open_ = others & (self.counts >= self.least) & (frequency > self.low) & (frequency <= self.high)
        order = np.argsort(self.counts, kind="stable")
        return order[open_[order]][: len(classes)].tolist()

    def joined(self, learner: Learner, data: Data, classes: Collection[int]) -> Data:
        """A lesson's samples and memory's of some classes; the optimiser is told of the steps that they take."""
        if not classes:
            return data
        past = self.memory.data()
        places = torch.isin(past.labels, torch.tensor(sorted(classes))).nonzero()[:, 0]
        both = Data.copied([learner.near(data), past.subset(places.to(past.index.device))])
        assert learner.optim is not None
        learner.optim.begin(learner.steps(len(both)))
        return both

    def refresh(self, learner: Learner, experience: Experience) -> None:
        """New samples into memory: `per_class` of a class that is new, later ever fewer, a twentieth at least."""
        rng, data = learner.rng("memory"), learner.near(experience.train)
        labels, drawn = data.labels.numpy(), []
        for label in sorted(experience.classes):
            count = max(self.per_class // (int(self.counts[label]) + 1), self.per_class // 20, 1)
            drawn.append(rng.permutation(np.flatnonzero(labels == label))[:count])
        rows = torch.from_numpy(np.concatenate(drawn)).to(data.index.device)
        self.memory.take(*learner.gather(data, rows), self.per_class, rng)
