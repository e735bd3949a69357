"""DFIL: the old detector teaches on logits and features, and memory keeps the hardest and the most typical samples.

Pan et al. 2023 ("DFIL: Deepfake Incremental Learning by Exploiting Domain-invariant Forgery Clues", ACM Multimedia;
arXiv 2309.09526), with the weights of the released code.

What differs here, and why. The code loads the old weights into the student, so that its teacher stays at the weights of
ImageNet; and it gives log-probabilities where its KL asks for probabilities. Here the teacher is the network before the
experience, and KL is KL. The paper keeps 500 samples of every task; here all experiences share `memory_size`, so that
methods are compared at equal memory (500 a task of four: `strategy.memory_size=2000`).
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.batch import Batch
from clbench.data import Data
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.memory import Memory
from clbench.strategies.contrast import supcon
from clbench.strategies.embedding import embedded
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, NonNegative, Positive


@dataclass
class DFIL(Strategy):
    """CE + contrast · SupCon(h(x)) and, from the second experience on, + 2 alpha T² KL(p_T ∥ q_T) + (1 - alpha) CE +
    feature · MSE of h and h_old, each of length 1.

    h are the features, p the old network's probabilities and q the new one's, of logits by T. New samples and memory
    are one lesson.
    """

    memory_size: Count = 500
    """samples kept, an equal share for each class of each experience: one half has the highest entropy, the other is
    nearest to the class mean"""
    contrast: NonNegative = 0.1
    """weight of the supervised contrast"""
    contrast_temperature: Positive = 0.07
    """of the contrast"""
    alpha: Fraction = 0.3
    """weight of the distillation of logits"""
    temperature: Positive = 20.0
    """T"""
    feature: NonNegative = 0.01
    """weight of the distillation of features"""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders", "unmixed lessons", "known length", "single labels"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        assert syllabus.lessons is not None
        self.share = self.memory_size // syllabus.lessons
        least = max(2, classes_of_a_lesson(syllabus))
        if self.share < least:
            raise Mistake(
                f"strategy.memory_size={self.memory_size} is less than {least} for each of {syllabus.lessons} lessons."
            )
        self.memory = Memory(self.memory_size)
        self.teacher = copy.deepcopy(learner.model).requires_grad_(False).eval()
        self.taught = False

    def learn(self, learner: Learner, experience: Experience) -> None:
        lesson = self.memory.beside(learner.near(experience.train))
        assert learner.optim is not None
        learner.optim.begin(learner.steps(len(lesson)))
        super().learn(learner, replace(experience, train=lesson))
        self.teacher.load_state_dict(learner.model.state_dict())
        self.taught = True
        self.remember(learner, learner.near(experience.train), len(experience.classes))

    def settle(self, learner: Learner) -> None:
        self.teacher.load_state_dict(learner.model.state_dict())

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, None, None]:
        for batch in learner.batches(experience.train):
            if self.taught:
                with torch.no_grad(), learner.spending("teacher", batch.x.shape):
                    old = self.teacher.body(batch.x)  # type: ignore[operator]
                    batch.kept = {"features": old, "logits": self.teacher.head(old)}  # type: ignore[operator]
            yield batch

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        features = learner.features(batch.x)
        logits = learner.model.head(features)  # type: ignore[operator]
        ce = learner.criterion(logits, batch.y)
        loss = ce + self.contrast * supcon(features, batch.y, self.contrast_temperature)
        if not batch.kept:
            return loss
        old, t = batch.kept, self.temperature
        kl = F.kl_div((logits / t).log_softmax(1), (old["logits"] / t).softmax(1), reduction="batchmean")
        nearness = F.mse_loss(F.normalize(features), F.normalize(old["features"]))
        return loss + 2 * self.alpha * t**2 * kl + (1 - self.alpha) * ce + self.feature * nearness

    def remember(self, learner: Learner, data: Data, classes: int) -> None:
        """The hardest and the most typical samples of each class into memory."""
        features, labels = embedded(learner, data, Learner.features)
        logits = learner.model.head(features).detach()  # type: ignore[operator]
        for label in labels.unique():
            rows = (labels == label).nonzero()[:, 0]
            chosen = rows[hard_and_typical(features[rows], logits[rows], self.share // classes)]
            x, y = learner.gather(data, chosen.to(data.index.device))
            self.memory.add(x, y, learner.rng("memory"))


def hard_and_typical(features: Tensor, logits: Tensor, count: int) -> Tensor:
    """Positions of up to `count` samples of one class: half of them the most uncertain (entropy of the prediction), the
    others, of those that are left, the nearest to the mean feature.
    """
    entropy = torch.special.entr(logits.softmax(1)).sum(1)
    hard = entropy.argsort(descending=True, stable=True)[: count // 2]
    distance = (features - features.mean(0)).norm(dim=1).index_fill(0, hard, torch.inf)
    typical = distance.argsort(stable=True)[: min(count, len(features)) - len(hard)]
    return torch.cat([hard, typical])


def classes_of_a_lesson(syllabus: Syllabus) -> int:
    """How many classes a lesson may have, as far as is known beforehand."""
    assert syllabus.lessons is not None
    return syllabus.classes if syllabus.shared else -(-syllabus.classes // syllabus.lessons)
