"""BiC: two numbers, fitted on samples held out of training, correct the logits of new classes.

Wu, Chen, Wang, Ye, Liu, Guo and Fu 2019 ("Large Scale Incremental Learning", CVPR), in the form of the authors' code:
cross-entropy among the classes taught; distillation at temperature 2 from the old network as it was corrected, of
weight n / (n + m) for n old and m new classes; a tenth of what memory keeps of each old class held out, and as many of
each new class; only the newest classes corrected, with beta^2 / 20 beside the cross-entropy.

What differs here, and why. The two numbers minimise a convex function: it is solved, not stepped towards. Exemplars are
chosen once, by herding on features of length 1, and cut short later; the authors choose all anew. No published
preset: rates of the comparisons were not found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.batch import Batch
from clbench.config import Preset
from clbench.data import Data
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.memory import Exemplars
from clbench.strategies.exemplars import ExemplarReplay
from clbench.strategies.prototypes import LOWEST
from clbench.stream import Experience, Syllabus
from clbench.types import Fraction, Positive


@dataclass
class BiC(ExemplarReplay):
    """(1 - w) CE(f(x), y) + w CE(softmax(f(x) / T), softmax(f'(x) / T)) on old classes, f' the old network; then
    alpha f + beta for new classes.
    """

    validation: Fraction = 0.1
    """share of memory, of each class, that is held out: one sample at least"""
    temperature: Positive = 2.0
    """of distillation"""

    at_least: ClassVar[int] = 2

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.held = Exemplars(self.memory_size)
        self.new = self.seen
        self.alpha, self.beta = torch.ones((), device=learner.where), torch.zeros((), device=learner.where)

    def learn(self, learner: Learner, experience: Experience) -> None:
        apart = self.apart(experience.train, self.apiece(self.taught or len(experience.classes)), learner)
        if not len(apart):
            raise Mistake(f"bic holds samples out; no class of experience {experience.index} has two to choose from.")
        rest = np.setdiff1d(np.arange(len(experience.train)), apart)
        kept, held = (experience.train.subset(torch.from_numpy(rows)) for rows in (rest, apart))
        super().learn(learner, replace(experience, train=kept))
        self.new = self.seen & ~self.old
        held = learner.near(held)
        if self.before:
            self.correct(learner, Data.copied([self.held.data(), held]))
        self.held.take(
            *learner.gather(held, torch.arange(len(held), device=held.index.device)), self.apiece(self.taught)
        )

    def settle(self, learner: Learner) -> None:
        super().settle(learner)
        if self.before:
            self.correct(learner, self.held.data())

    def apiece(self, classes: int) -> int:
        """Samples of a class that are held out when so many have been taught."""
        return max(int(self.validation * (self.memory_size // classes)), 1)

    def share(self) -> int:
        return super().share() - self.apiece(self.taught)

    def apart(self, data: Data, count: int, learner: Learner) -> np.ndarray:
        """Positions of `count` samples of each class, at random; half of a class at most."""
        labels, rng = data.labels.numpy(), learner.rng("validation")
        drawn = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        return np.concatenate([rows[: min(count, len(rows) // 2)] for rows in drawn])

    def old_logits(self, learner: Learner, x: Tensor) -> Tensor:
        return self.corrected(super().old_logits(learner, x))

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        logits = learner(batch.x)
        loss = learner.criterion(logits.masked_fill(~self.seen, -torch.inf), batch.y)
        if not batch.kept:
            return loss
        said, says = ((f / self.temperature).masked_fill(~self.old, LOWEST) for f in (batch.kept["old"], logits))
        weight = self.before / self.taught
        return (1 - weight) * loss + weight * F.cross_entropy(says, said.softmax(1))

    @torch.no_grad()
    def correct(self, learner: Learner, data: Data) -> None:
        """Fit alpha and beta to samples that were not trained on."""
        found = []
        for positions in torch.arange(len(data), device=data.index.device).split(learner.eval_batch):
            x = learner.encode(learner.gather(data, positions)[0])
            with learner.spending("correction", x.shape):
                found.append(learner(x))
        logits = torch.cat(found).masked_fill(~self.seen, LOWEST)
        self.alpha, self.beta = (
            value.to(learner.where) for value in correction(logits.cpu(), data.labels, self.new.cpu())
        )

    def corrected(self, logits: Tensor) -> Tensor:
        """Logits, with those of the newest classes corrected."""
        return torch.where(self.new, self.alpha * logits + self.beta, logits)

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Corrected logits, B x classes. While an experience is learned, they are corrected as after the last one."""
        return self.corrected(learner(x))


@torch.enable_grad()
def correction(logits: Tensor, y: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and beta that minimise CE(alpha o + beta for labels `new`, o for others) + beta^2 / 20; L-BFGS, in double
    precision.
    """
    logits, both = logits.double(), torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([both], max_iter=100, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        alpha, beta = both
        loss = F.cross_entropy(torch.where(new, alpha * logits + beta, logits), y) + beta.square() / 20
        loss.backward()
        return loss

    solver.step(objective)
    alpha, beta = both.detach().float()
    return alpha, beta


PRESETS = [
    Preset("bic", "digits", {"strategy.memory_size": 100}, "untuned: a memory of 100, an experience has about 250")
]
