"""Asymmetric cross-entropy: new classes compete with old ones on memory only, so that they do not push them aside.

Caccia, Aljundi, Asadi, Tuytelaars, Pineau and Belilovsky 2022 ("New Insights on Reducing Abrupt Representation Change
in Online Continual Learning", ICLR), known here as others describe it. Mammoth's form differs: within the first
experience it neither masks nor replays, the stream's batch also competes with the highest label seen and those above
it, and memory's with all labels.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from clbench.batch import Batch
from clbench.config import Preset
from clbench.learner import Learner
from clbench.memory import Reservoir
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count


@dataclass
class ERACE(Strategy):
    """CE over the stream's batch, among the classes in it, + CE over as much of memory, among all classes seen."""

    memory_size: Count = 500
    """samples kept"""

    needs: ClassVar[frozenset[str]] = frozenset({"single labels"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.memory = Reservoir(self.memory_size)
        self.seen = torch.zeros(syllabus.classes, dtype=torch.bool, device=learner.where)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        rng = learner.rng("memory")
        for batch in learner.batches(experience.train):
            self.seen.index_fill_(0, batch.y, True)
            past = learner.recall(self.memory, rng)
            yield replace(batch, past=(past,) if past else ())
            self.memory.add(batch.raw, batch.y, rng)

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        present = torch.zeros_like(self.seen).index_fill_(0, batch.y, True)
        loss = learner.criterion(learner(batch.x).masked_fill(~present, -torch.inf), batch.y)
        for past in batch.past:
            loss = loss + learner.criterion(learner(past.x).masked_fill(~self.seen, -torch.inf), past.y)
        return loss


PRESETS = [
    Preset("er_ace", "digits", {"strategy.memory_size": 100}, "untuned: a memory of 100, an experience has about 250"),
    Preset(
        "er_ace",
        "cifar100",
        {"learner.lr": 0.03},
        "tuned here on validation (protocol first=3, seed 100, 2 candidates of learner.lr)",
        model="convbn",
        when={"memory_size": 2000},
    ),
]
