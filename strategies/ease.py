"""EASE: adapters for each experience, and prototypes of old classes in new subspaces, guessed from the new classes.

Zhou, Sun, Ye and Zhan 2024 ("Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning",
CVPR), in the form of the authors' code. What differs here: the adapters of every experience begin from the same draw,
and a stream whose experiences share classes is refused, since a class has one subspace of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clbench.adapters import bottleneck, freeze
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import swapped
from clbench.seeds import derive
from clbench.strategies.cosine import cosine_head, cosines
from clbench.strategies.embedding import embedded
from clbench.strategies.own_classes import OwnClasses
from clbench.strategies.prototypes import LOWEST
from clbench.strategies.simplecil import Prototypes, features_of
from clbench.strategies.values import copied, put
from clbench.stream import Experience, Syllabus
from clbench.types import Count, NonNegative


@dataclass
class EASE(OwnClasses):
    """Each experience trains adapters of its own under a cosine head of its own classes, which is then left aside.

    With T experiences taught, class c of experience i has the logit cos(f_i, w_ci) + alpha / (T - 1) * the sum over
    j != i of cos(f_j, w_cj): f_j are the features under the adapters of experience j, w_cj the class's mean in them.
    """

    rank: Count = 64
    """inner width of an adapter"""
    alpha: NonNegative = 0.1
    """weight of the subspaces of other experiences, together"""
    beta: NonNegative = 0.0
    """weight of the features without adapters; 0: they are not asked"""

    needs: ClassVar[frozenset[str]] = OwnClasses.needs | {"transformer"}
    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        if syllabus.shared:
            raise Mistake("ease gives each class to one experience; this stream teaches some in several.")
        cosine_head(learner.model)
        self.names = bottleneck(learner.model, self.rank, seed=derive(learner.seed, "adapters"))
        freeze(learner.model, [*self.names, "head."])
        self.fresh = copied(learner.model, [*self.names, "head.weight", "head.scale"])
        with torch.no_grad():
            width = learner.features(learner.blank(1).x).shape[1]
        self.plain = Prototypes.empty(learner, syllabus.classes, width)
        self.adapters: list[dict[str, Tensor]] = []
        self.means: list[Tensor] = []
        self.weights = torch.zeros(0, syllabus.classes, width, device=learner.where)
        self.taught = torch.full((syllabus.classes,), -1, device=learner.where)

    def learn(self, learner: Learner, experience: Experience) -> None:
        put(learner.model, self.fresh)
        super().learn(learner, experience)
        self.adapters.append(copied(learner.model, self.names))
        self.taught = torch.where(self.own, len(self.adapters) - 1, self.taught)
        self.take(learner, experience)
        self.weights = completed(torch.stack(self.means), self.taught)

    def take(self, learner: Learner, experience: Experience) -> None:
        """The means of new classes in each subspace that there is."""
        self.means.append(torch.zeros_like(self.plain.sums))
        for number, adapters in enumerate(self.adapters):
            with swapped(learner.model, adapters):
                found = Prototypes.empty(learner, *self.plain.sums.shape)
                found.add(*embedded(learner, experience.train, features_of))
            self.means[number] = torch.where(self.own[:, None], found.means(), self.means[number])
        if self.beta:
            with swapped(learner.model, self.untouched()):
                self.plain.add(*embedded(learner, experience.train, features_of))

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Sums of cosines, B x classes; of a class never seen the lowest finite number. The head's logits at first."""
        if not self.adapters:
            return learner(x)
        features = torch.stack([self.within(learner, x, adapters) for adapters in self.adapters])
        found = reweighted(features, self.weights, self.taught, self.alpha)
        if self.beta:
            found += self.beta * cosines(self.within(learner, x, self.untouched()), self.plain.means())
        return found.masked_fill(self.taught < 0, LOWEST)

    def untouched(self) -> dict[str, Tensor]:
        """Adapters that change nothing, as they are before training."""
        return {name: self.fresh[name] for name in self.names}

    def within(self, learner: Learner, x: Tensor, adapters: dict[str, Tensor]) -> Tensor:
        """Features under these adapters."""
        with swapped(learner.model, adapters):
            return learner.features(x)


def completed(means: Tensor, taught: Tensor) -> Tensor:
    """The means of classes in all subspaces, those of old classes in newer subspaces guessed.

    Class o of experience i is likened to each class n of experience j > i or later by the cosine of their means in the
    subspace of i; its mean in that of j is the mean of theirs there, weighted by a softmax over these cosines.

    Args:
        means: subspaces x classes x features; what stands for a class in subspaces newer than its own is not read.
        taught: the experience of each class; -1: none yet.
    """
    found = means.clone()
    for new in range(1, len(means)):
        later = taught >= new
        for old in range(new):
            rows = taught == old
            likeness = cosines(means[old][rows], means[old][later])
            found[new, rows] = likeness.softmax(1) @ means[new][later]
    return found


def reweighted(features: Tensor, weights: Tensor, taught: Tensor, alpha: float) -> Tensor:
    """Each class's cosine in its own subspace + alpha times the mean of those in the others: B x classes.

    Args:
        features: subspaces x B x features.
        weights: subspaces x classes x features.
        taught: the subspace of each class.
    """
    own = (torch.arange(len(weights), device=taught.device)[:, None] == taught).float()
    share = own + (1 - own) * alpha / max(len(weights) - 1, 1)
    return (cosines(features, weights) * share[:, None]).sum(0)


PRESETS = [
    Preset(
        "ease",
        "cifar100",
        {"learner.epochs": 20, "learner.batch": 48, "learner.lr": 0.025, "learner.weight_decay": 5e-4},
        "PILOT, exps: ViT-B/16, CIFAR-100 in 20 tasks",
        recipe="pilot",
    ),
]
