"""Prototypes: of the network only the body answers, by what it makes of each class on average.

NCM is the nearest mean of exemplars of Rebuffi, Kolesnikov, Sperl and Lampert 2017 ("iCaRL: Incremental Classifier and
Representation Learning", CVPR, section 3.1) around any training. Their exemplars are chosen by herding; here they are
whatever memory keeps.

SLDA is Hayes and Kanan 2020 ("Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis", CVPR
workshops): a linear classifier in closed form over a network that stands still after the first experience. Two things
differ. Their running covariance takes in a sample with the weight t / (t + 1) after t samples of any class, so it
depends on their order, and the first of a class is held against a mean of zero; here the scatter within classes is
exact, whatever the order (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", The American
Statistician). Their code starts from an OAS estimate; here the first experience counts like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor

from clbench.data import Data
from clbench.learner import Learner
from clbench.memory import Memory
from clbench.strategies.remembering import Remembering
from clbench.strategy import Strategy, memory_of
from clbench.stream import Experience, Syllabus

LOWEST = torch.finfo(torch.float32).min
"""logit of a class of which there is no mean: finite, so that a softmax is"""


@dataclass
class NCM(Remembering):
    """The base trains as it does; the answer is the class whose mean feature, over memory's samples, is nearest.

    The means are of the network after the last experience, and no step follows them: where something else trains after
    the base, ncm goes around that too. Means over all samples, of a network that stands still, are those of
    `simplecil strategy.distance=euclidean`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"single labels"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.means: Tensor | None = None
        self.known = torch.zeros(syllabus.classes, dtype=torch.bool, device=learner.where)

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        memory = memory_of(self)
        assert memory is not None
        if len(memory):
            self.average(learner, memory)

    def settle(self, learner: Learner) -> None:
        super().settle(learner)
        memory = memory_of(self)
        if memory is not None and len(memory):
            self.average(learner, memory)

    def average(self, learner: Learner, memory: Memory) -> None:
        """Mean features of the samples in memory, un-augmented."""
        self.means, self.known = class_means(directions(learner, memory.data()), memory.data().labels, len(self.known))

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Minus the squared distance to each class mean, B x classes; the base's logits while there are no means."""
        if self.means is None:
            return super().predict(learner, x)
        return nearest(learner.features(x), self.means, self.known)


@torch.no_grad()
def directions(learner: Learner, data: Data, mirrored: bool = False) -> Tensor:
    """Features of samples, N x features, un-augmented, each vector of length 1; `mirrored`: of their mirror images."""
    found = []
    for positions in torch.arange(len(data), device=data.index.device).split(learner.eval_batch):
        x = learner.encode(learner.gather(data, positions)[0])
        with learner.spending("means", x.shape):
            found.append(F.normalize(learner.features(x.flip(-1) if mirrored else x)))
    return torch.cat(found)


def class_means(features: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mean of the features (N x features) of each label (N): (classes x features, each of length 1; which have any)."""
    members = F.one_hot(y.to(features.device), classes)
    return F.normalize(members.T.float() @ features), members.any(0)


def nearest(features: Tensor, means: Tensor, known: Tensor) -> Tensor:
    """Minus the squared distance of features (B x features), scaled to length 1, to each mean of those known."""
    found = F.normalize(features)
    squares = found.square().sum(1, keepdim=True) + means.square().sum(1)
    return (2 * found @ means.T - squares).masked_fill(~known, LOWEST)


@dataclass
class SLDA(Strategy):
    """Linear discriminant analysis, in one pass over the features of a network that learns the first experience only.

    With class means mu and the covariance S within classes, the logit of class c is w z - w mu / 2 for features z,
    where w = [(1 - shrinkage) S + shrinkage I]^-1 mu; all classes count as equally likely. The pass is un-augmented.
    Statistics are in double precision.
    """

    shrinkage: Annotated[float, Gt(0), Le(1)] = 1e-4
    """share of the identity in the covariance; 1: the nearest mean"""

    needs: ClassVar[frozenset[str]] = frozenset({"single labels"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        with torch.no_grad():
            features = learner.features(learner.blank(1).x).shape[1]
        self.counts = torch.zeros(syllabus.classes, dtype=torch.float64, device=learner.where)
        self.means = self.counts.new_zeros(syllabus.classes, features)
        self.scatter = self.counts.new_zeros(features, features)
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def learn(self, learner: Learner, experience: Experience) -> None:
        if experience.index == 0:
            super().learn(learner, experience)
        self.read(learner, experience.train)
        self.solve()

    @torch.no_grad()
    def read(self, learner: Learner, data: Data) -> None:
        """One pass over samples, in the order in which they are stored."""
        data = learner.near(data)
        for positions in torch.arange(len(data), device=data.index.device).split(learner.eval_batch):
            raw, y = learner.gather(data, positions)
            x = learner.encode(raw)
            with learner.spending("slda", x.shape):
                self.take(learner.features(x).double(), y)

    def take(self, features: Tensor, y: Tensor) -> None:
        """Go on with a batch of features (B x features, float64) and labels (B), each class merged as Chan et al. do:
        the scatter around two means, and that between them.
        """
        members = F.one_hot(y, len(self.counts)).to(features.dtype)
        new = members.sum(0)
        means = members.T @ features / new.clamp(min=1)[:, None]
        within, between = features - means[y], means - self.means
        share = new / (self.counts + new).clamp(min=1)
        self.scatter += within.T @ within + between.T @ (between * (self.counts * share)[:, None])
        self.means += between * share[:, None]
        self.counts += new

    def solve(self) -> None:
        """The classifier for the statistics so far: `weight` (features x classes), `bias` (classes)."""
        identity = torch.eye(len(self.scatter), dtype=self.scatter.dtype, device=self.scatter.device)
        covariance = (1 - self.shrinkage) * self.scatter / self.counts.sum() + self.shrinkage * identity
        self.weight = torch.linalg.solve(covariance, self.means.T).contiguous()
        self.bias = (-(self.weight * self.means.T).sum(0) / 2).masked_fill(self.counts == 0, LOWEST)

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Discriminants, B x classes; the network's logits until the first experience is learned."""
        if self.weight is None or self.bias is None:
            return learner(x)
        return (learner.features(x).double() @ self.weight + self.bias).float()
