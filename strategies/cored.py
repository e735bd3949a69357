"""CoReD: the old detector teaches; no image is kept, but how it represents what it is sure of, by how sure it is.

Kim, Tariq and Woo 2021 ("CoReD: Generalizing Fake Media Detection with Continual Representation using Distillation",
ACM Multimedia; arXiv 2107.02408).

What differs here, and why. The code stores the largest values of 4 x 4 fields of the last map; here the features that
the head is given, so that any network will do. It selects the epoch by accuracy on the targets and sources; no run here
selects on what is asked. The weight that distillation leaves to cross-entropy is our reading of the code.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.batch import Batch
from clbench.data import Data
from clbench.learner import Learner
from clbench.strategies.embedding import embedded
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Fraction, NonNegative, Positive

EDGES = (0.6, 0.7, 0.8, 0.9)
"""between the five ranges of confidence, from above .5; a range has its upper end"""


@dataclass
class CoReD(Strategy):
    """CE and, from the second experience on, + alpha T² KL(p_T ∥ q_T) + (1 - alpha) CE + represent · sum over classes
    and ranges of confidence b of ∥mean of h(x) of the batch in b - mean of h_old over the experience in b∥².

    Before an experience the old network answers to all of it: what it gets right is put into five ranges of its
    confidence, and of each range and class the mean feature is stored.
    """

    alpha: Fraction = 0.5
    """weight of the distillation of logits"""
    temperature: Positive = 20.0
    """T"""
    represent: NonNegative = 1.0
    """weight of the stored representations"""
    cutmix: Fraction = 0.2
    """share of batches in which a patch of each image is that of an image of another class; labels stay"""
    cutmix_alpha: Positive = 0.5
    """share of the image that is not the patch ~ Beta(alpha, alpha)"""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders", "unmixed lessons", "single labels"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.teacher = copy.deepcopy(learner.model).requires_grad_(False).eval()
        self.classes, self.images = syllabus.classes, len(syllabus.shape) == 3
        self.means: Tensor | None = None
        self.bins: Tensor | None = None

    def learn(self, learner: Learner, experience: Experience) -> None:
        if experience.index:
            self.teacher.load_state_dict(learner.model.state_dict())
            self.represented(learner, learner.near(experience.train))
        super().learn(learner, experience)
        self.means = self.bins = None

    @torch.no_grad()
    def represented(self, learner: Learner, data: Data) -> None:
        """Which range each sample is in (-1: none), and the mean feature of each."""
        features, labels = embedded(learner, data, self.old_features)
        self.bins = ranges(self.teacher.head(features), labels)  # type: ignore[operator]
        self.means = means(features, self.bins, 5 * self.classes)[0]

    def old_features(self, learner: Learner, x: Tensor) -> Tensor:
        """What the head of the old network is given, B x features."""
        return self.teacher.body(x)  # type: ignore[operator]

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, None, None]:
        rng = learner.rng("cutmix")
        for batch in learner.batches(experience.train):
            if self.images and rng.random() < self.cutmix:
                batch.x = self.mixed(batch, rng)
            if self.bins is not None:
                with torch.no_grad(), learner.spending("teacher", batch.x.shape):
                    old = learner(batch.x, self.teacher)
                assert batch.index is not None
                batch.kept = {"logits": old, "bins": self.bins[batch.index]}
            yield batch

    def mixed(self, batch: Batch, rng: np.random.Generator) -> Tensor:
        """A patch of each image replaced by that of one of another class; where there is none, by its own."""
        height, width = batch.x.shape[-2:]
        side = np.sqrt(1 - rng.beta(self.cutmix_alpha, self.cutmix_alpha))
        high, wide = int(side * height), int(side * width)
        top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
        keys = torch.from_numpy(rng.random((len(batch.y),) * 2)).to(batch.x.device, non_blocking=True)
        others = keys.masked_fill(batch.y[:, None] == batch.y, -1.0)
        others = others + torch.eye(len(batch.y), device=batch.x.device, dtype=others.dtype) * 0.5
        other = others.argmax(1)
        x = batch.x.clone()
        x[..., top : top + high, left : left + wide] = batch.x[other][..., top : top + high, left : left + wide]
        return x

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        features = learner.features(batch.x)
        logits = learner.model.head(features)  # type: ignore[operator]
        ce = learner.criterion(logits, batch.y)
        if not batch.kept:
            return ce
        old, t = batch.kept, self.temperature
        kl = F.kl_div((logits / t).log_softmax(1), (old["logits"] / t).softmax(1), reduction="batchmean")
        assert self.means is not None
        now, there = means(features, old["bins"], len(self.means))
        apart = ((now - self.means).square().sum(1) * there).sum()
        return ce + self.alpha * t**2 * kl + (1 - self.alpha) * ce + self.represent * apart


def ranges(logits: Tensor, y: Tensor) -> Tensor:
    """The class and range of each answer that is right with a confidence above .5, as 5 y + range; else -1."""
    confidence, given = logits.softmax(1).max(1)
    inside = torch.bucketize(confidence, confidence.new_tensor(EDGES))
    return torch.where((given == y) & (confidence > 0.5), 5 * y + inside, -1)


def means(features: Tensor, bins: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean feature of each bin (count x features; 0 where it is empty), and whether it has any (1 or 0)."""
    members = F.one_hot(bins + 1, count + 1)[:, 1:].to(features.dtype)
    n = members.sum(0)
    return members.T @ features / n.clamp_min(1)[:, None], (n > 0).to(features.dtype)
