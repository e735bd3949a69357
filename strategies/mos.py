"""MOS: small adapters of each task on a network that stands still, merged as they train and found again by the answer.

Sun, Zhou, Zhao, Gan, Zhan and Ye 2025 ("MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning",
AAAI; arXiv 2412.09441), after their code where the paper was not at hand.

What differs here, and why. Their code merges adapters within every forward pass as well, once for each block, in
evaluation too: what it answers depends on how many batches it answered before. Here merging follows a step of training
and nothing else (`merge=per_step`, as the method is described); `merge=released` takes what their passes of training do
to the weights, ahead of each; evaluation never changes a weight. They compute the features of every image under all
adapters; here only under those that an image is sent to, which answers the same. Both rates fall at each step, not at
each epoch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.adapters import bottleneck, freeze, transformer
from clbench.batch import Batch
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.gaussians import Gaussians, Storage
from clbench.learner import Learner
from clbench.modules import linear_head, swapped
from clbench.optimizer import cosine
from clbench.seeds import derive
from clbench.strategies.cosine import cosines
from clbench.strategies.embedding import embedded
from clbench.strategies.own_classes import OwnClasses
from clbench.strategies.prototypes import LOWEST
from clbench.strategies.simplecil import Prototypes, features_of
from clbench.strategies.values import copied
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, Natural, NonNegative, Positive

TURNS = 4
"""times that an image may be sent to an adapter"""


@dataclass
class MOS(OwnClasses):
    """CE among the classes of the experience + reg * (each feature unlike the others and unlike old class means).

    After each step adapters move by a share towards the mean of those of earlier tasks. After the experience the head
    is aligned on features drawn from a Gaussian for each class. To answer, an image goes to the adapters of the task
    that the nearest class mean under the first adapters names, then of the task that the head names, and so on.
    """

    rank: Count = 16
    """width of the adapters"""
    merge: Literal["per_step", "released"] = "per_step"
    """per_step: after each step; released: as often again before each step as the network has blocks"""
    adapter_momentum: Fraction = 0.1
    """share by which one merge moves adapters to the mean of earlier tasks'; 0: none"""
    reg: NonNegative = 0.1
    """weight of the term that drives features apart"""
    temperature: Positive = 0.8
    """of that term"""
    head_rate: Positive = 0.1
    """rate of the head, as a share of the adapters'"""
    storage: Storage = "covariance"
    """what a class's Gaussian has: its covariance; variances alone; centroids: several centres with variances"""
    align_epochs: Natural = 30
    """passes over drawn features, as many steps each as there are classes; 0: the head is not aligned"""
    align_rate: Positive = 0.005
    """rate of alignment, by SGD with momentum 0.9; it falls to 0 by half a cosine"""
    ensemble: bool = True
    """whether the nearest class mean under the first adapters has a say in the answer"""

    needs: ClassVar[frozenset[str]] = OwnClasses.needs | {"transformer", "pretrained weights", "task borders"}
    budgeted: ClassVar[bool] = False
    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        linear_head(learner.model)
        learner.renews()
        if syllabus.shared:
            raise Mistake("mos finds the task of an image by its class, and experiences of this stream share classes.")
        self.names = bottleneck(learner.model, self.rank, seed=derive(learner.seed, "adapters"))
        freeze(learner.model, but=[*self.names, "head."])
        with torch.no_grad():
            width = learner.features(learner.blank(1).x).shape[1]
        self.adapters: list[dict[str, Tensor]] = []
        self.mean: dict[str, Tensor] = {}
        self.gaussians = Gaussians(self.storage)
        self.old = torch.zeros(0, width, device=learner.where)
        self.prototypes = Prototypes.empty(learner, syllabus.classes, width)
        self.task = torch.full((syllabus.classes,), -1, device=learner.where)

    def learn(self, learner: Learner, experience: Experience) -> None:
        if self.adapters:
            self.mean = {name: torch.stack([task[name] for task in self.adapters]).mean(0) for name in self.names}
            self.old = self.gaussians.means()[0]
        learner.optim = learner.new_optimizer(learner.steps(len(experience.train)), rates={"head.": self.head_rate})
        super().learn(learner, experience)
        self.mean, self.old = {}, self.old[:0]
        self.keep(learner, experience)
        if self.align_epochs and len(self.adapters) > 1:
            self.align(learner)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        blocks = len(transformer(learner.model).blocks)
        for batch in learner.batches(experience.train):
            if self.merge == "released":
                self.merged(learner, blocks)
            yield batch
            self.merged(learner, 1)

    @torch.no_grad()
    def merged(self, learner: Learner, times: int) -> None:
        """theta <- (1 - m) theta + m mean of earlier tasks' theta, so many times."""
        for name, mean in self.mean.items():
            learner.model.get_parameter(name).lerp_(mean, 1 - (1 - self.adapter_momentum) ** times)

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        features = learner.features(batch.x)
        loss = self.among(learner, self.head(learner, features), batch.y)
        return loss + self.reg * apart(torch.cat([self.old, features]), self.temperature) if self.reg else loss

    def head(self, learner: Learner, features: Tensor) -> Tensor:
        return learner.model.get_submodule("head")(features)

    def keep(self, learner: Learner, experience: Experience) -> None:
        """Of a task: its adapters; the Gaussians of its classes under them; class means under the first adapters."""
        self.task[self.own] = len(self.adapters)
        self.adapters.append(copied(learner.model, self.names))
        found = embedded(learner, experience.train, features_of)
        self.gaussians.add(*found)
        if len(self.adapters) > 1:
            with swapped(learner.model, self.adapters[0]):
                found = embedded(learner, experience.train, features_of)
        self.prototypes.add(*found)

    def align(self, learner: Learner) -> None:
        """The head alone learns from drawn features of all classes alike."""
        with learner.only(["head.weight", "head.bias"]):
            steps = self.align_epochs * len(self.gaussians.parts)
            optimizer = learner.new_optimizer(steps, self.align_rate, factor=cosine, kind="sgd", momentum=0.9)
            learner.fit(self.drawn(learner), self.align_loss, optimizer=optimizer)

    def drawn(self, learner: Learner) -> Iterator[Batch]:
        """For each pass five batches' worth of features of every class, shuffled, in batches of that size."""
        rng, size, classes = learner.rng("alignment"), 5 * learner.batch, sorted(self.gaussians.parts)
        for _ in range(self.align_epochs):
            features, labels = self.gaussians.draw(size, classes, rng)
            for rows in torch.from_numpy(rng.permutation(len(labels))).to(labels.device).split(size):
                yield Batch(features[rows], labels[rows], features[rows])

    def align_loss(self, learner: Learner, batch: Batch) -> Tensor:
        return F.cross_entropy(self.head(learner, batch.x).masked_fill(self.task < 0, -torch.inf), batch.y)

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """The head's logits z under the adapters found, B x classes; with `ensemble` the logarithm of the mean of
        softmax(z) and softmax(tasks * z0), z0 as `nearest` has it. The network's logits until a task is learned; while
        one is learned, answers are among the classes before it.
        """
        if not self.adapters:
            return learner(x)
        _, logits, first = self.refined(learner, x)
        if not self.ensemble:
            return logits
        both = logits.softmax(1) + (len(self.adapters) * first).softmax(1)
        return (both / 2).log().clamp(min=LOWEST)

    def retrieved(self, learner: Learner, x: Tensor) -> Tensor:
        """The task, from 0, whose adapters answer for each image, B. Not before one is learned."""
        return self.refined(learner, x)[0]

    def nearest(self, features: Tensor) -> Tensor:
        """Cosines of features under the first adapters with class means under these, B x classes."""
        return cosines(features, self.prototypes.means()).masked_fill(self.task < 0, LOWEST)

    def refined(self, learner: Learner, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Self-refined retrieval: (the task found, B; the head's logits under its adapters; cosines to class means)."""
        features = self.under(learner, x, 0)
        first = self.nearest(features)
        task, logits = self.task[first.argmax(1)], torch.empty_like(first)
        asked = torch.arange(len(x), device=x.device)
        for left in reversed(range(TURNS)):
            for number in task[asked].unique().tolist():
                rows = asked[task[asked] == number]
                logits[rows] = self.head(learner, self.under(learner, x[rows], number) if number else features[rows])
            logits.masked_fill_(self.task < 0, LOWEST)
            found = self.task[logits[asked].argmax(1)]
            moved = found != task[asked]
            if not left or not moved.any():
                break
            asked, found = asked[moved], found[moved]
            task[asked] = found
        return task, logits, first

    def under(self, learner: Learner, x: Tensor, task: int) -> Tensor:
        """Features under the adapters of a task."""
        with swapped(learner.model, self.adapters[task]):
            return learner.features(x)


def apart(rows: Tensor, temperature: float) -> Tensor:
    """CE of the products of each row (N x features) with all rows by `temperature`; the answer is the row itself."""
    return F.cross_entropy(rows @ rows.T / temperature, torch.arange(len(rows), device=rows.device))


PRESETS = [
    Preset(
        "mos",
        "cifar100",
        {
            "learner.epochs": 20,
            "learner.batch": 48,
            "learner.lr": 0.03,
            "learner.weight_decay": 5e-4,
            "strategy.rank": 16,
        },
        "their values for ViT-B/16 and 20 tasks of 5 classes; Sun et al. 2025 (MOS), exps, CIFAR-100",
        recipe="pilot",
    ),
]
