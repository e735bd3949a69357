"""SimpleCIL: a pretrained network that stands still, and the mean of each class.

Zhou, Cai, Ye, Zhan and Liu 2024 ("Revisiting Class-Incremental Learning with Pre-Trained Models: Generalizability and
Adaptivity are All You Need", IJCV). Nothing trains. With `distance=euclidean` it is the nearest class mean (Mensink,
Verbeek, Perronnin and Csurka 2013, "Distance-Based Image Classification", IEEE TPAMI) without a memory: a network that
does not move needs none.

A class that comes again goes on with its mean, over all samples so far; the paper's streams have no such class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.adapters import freeze
from clbench.learner import Learner
from clbench.strategies.cosine import cosines
from clbench.strategies.embedding import embedded
from clbench.strategies.prototypes import LOWEST
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus


@dataclass
class SimpleCIL(Strategy):
    """The answer is the class whose mean feature is nearest; training samples are seen once, un-augmented."""

    distance: Literal["cosine", "euclidean"] = "cosine"
    """cosine: logits are the cosines to the means; euclidean: minus the squared distances, of features as they are"""

    needs: ClassVar[frozenset[str]] = frozenset({"single labels"})
    fits: ClassVar[bool] = False

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        freeze(learner.model, ())
        self.prototypes = Prototypes.empty(learner, syllabus.classes, features_of(learner, learner.blank(1).x).shape[1])

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.prototypes.add(*embedded(learner, experience.train, features_of))

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Cosines, or minus squared distances, B x classes; of a class never seen the lowest finite number."""
        features, means = features_of(learner, x), self.prototypes.means()
        if self.distance == "cosine":
            return cosines(features, means).masked_fill(~self.prototypes.known, LOWEST)
        squares = features.square().sum(1, keepdim=True) + means.square().sum(1)
        return (2 * features @ means.T - squares).masked_fill(~self.prototypes.known, LOWEST)


def features_of(learner: Learner, x: Tensor) -> Tensor:
    """What the body makes of network input."""
    return learner.features(x)


@dataclass
class Prototypes:
    """The mean feature of each class over all samples so far."""

    sums: Tensor
    """of features, classes x features"""
    counts: Tensor
    """of samples, by class"""

    @classmethod
    def empty(cls, learner: Learner, classes: int, features: int) -> Prototypes:
        return cls(*(torch.zeros(classes, size, device=learner.where) for size in (features, 1)))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Go on with samples: features (N x features), labels (N)."""
        members = F.one_hot(labels, len(self.sums)).to(features.dtype)
        self.sums += members.T @ features
        self.counts += members.sum(0)[:, None]

    def means(self) -> Tensor:
        """classes x features; zeros where there is no sample."""
        return self.sums / self.counts.clamp(min=1)

    @property
    def known(self) -> Tensor:
        """Which classes have samples."""
        return self.counts[:, 0] > 0
