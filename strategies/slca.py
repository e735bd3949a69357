"""SLCA: a slow network, and heads that are aligned on what is remembered of each class as a Gaussian.

Zhang, Wang, Kang, Chen and Wei 2023 ("SLCA: Slow Learner with Classifier Alignment for Continual Learning on a
Pre-trained Model", ICCV), in the form of PILOT: the body trains at a hundredth of the head's rate; of the head only the
rows of the experience at hand learn, among themselves; mean and covariance of its classes are taken in the features as
they then are; from the second experience on the whole head is trained on draws from all classes. Exams are answered by
the aligned head. The next experience goes on from the head as it was before.

What differs here, and why. The rate of the alignment falls with each step instead of each epoch, as all rates here do.
A class that comes again has a further Gaussian, and counts as of the experience that taught it last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.batch import Batch
from clbench.config import Preset
from clbench.gaussians import Gaussians, Storage
from clbench.learner import Learner
from clbench.modules import linear_head, of_head
from clbench.optimizer import cosine
from clbench.strategies.embedding import embedded
from clbench.strategies.own_classes import OwnClasses
from clbench.strategies.simplecil import features_of
from clbench.strategies.values import copied, put
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, Natural, Positive


@dataclass
class SLCA(OwnClasses):
    """Fine-tuning with a slow body; then the head learns all classes from their Gaussians.

    A class taught in experience t, counted from 1, is drawn around (1 - decay + decay * t / b) times its mean in
    experience b. Logits are divided by `temperature` times the mean, over experiences, of the length of the part that
    belongs to each.
    """

    slow: Positive = 0.01
    """rate of the body, as a share of the head's"""
    storage: Storage = "covariance"
    """what is kept of a class: its covariance; its variances; variances around several centres"""
    epochs: Natural = 3
    """of alignment; 0: none"""
    samples: Count = 256
    """drawn of each class in each of them, and in a step"""
    lr: Positive = 0.01
    """of alignment: it falls to 0 by half a cosine"""
    decay: Fraction = 0.1
    """how much of a mean is taken off as its class ages"""
    temperature: Positive | None = 0.1
    """of alignment; null: logits are as they are"""

    budgeted: ClassVar[bool] = False

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        linear_head(learner.model)
        learner.renews()
        self.names = of_head(learner.model)
        self.raw = copied(learner.model, self.names)
        self.gaussians = Gaussians(self.storage)
        self.taught = torch.full((syllabus.classes,), -1, device=learner.where)
        self.done = 0

    def learn(self, learner: Learner, experience: Experience) -> None:
        put(learner.model, self.raw)
        learner.optim = learner.new_optimizer(learner.steps(len(experience.train)), rates={"body.": self.slow})
        super().learn(learner, experience)
        self.raw = {
            name: torch.where(self.own.view(-1, *[1] * (now.ndim - 1)), now, self.raw[name])
            for name, now in copied(learner.model, self.names).items()
        }
        put(learner.model, self.raw)
        self.gaussians.add(*embedded(learner, experience.train, features_of))
        self.taught = torch.where(self.own, self.done, self.taught)
        self.done += 1
        if self.epochs and self.done > 1:
            self.align(learner)

    def align(self, learner: Learner) -> None:
        """The head alone is trained on draws from the Gaussians of all classes."""
        steps = self.epochs * len(self.gaussians.parts)
        with learner.only(self.names):
            self.phase = learner.new_optimizer(steps, self.lr, factor=cosine, kind="sgd", momentum=0.9)
            for _ in learner.passes(self.epochs):
                learner.fit(self.drawn(learner), self.alignment_loss, optimizer=self.phase)
        del self.phase

    def drawn(self, learner: Learner) -> Iterator[Batch]:
        """Features of all classes in a random order, as many batches as there are classes."""
        rng = learner.rng("alignment")
        when = self.taught.tolist()
        scale = {c: 1 - self.decay + self.decay * (when[c] + 1) / self.done for c in sorted(self.gaussians.parts)}
        features, labels = self.gaussians.draw(self.samples, list(scale), rng, scale)
        order = torch.from_numpy(rng.permutation(len(labels))).to(labels.device)
        for rows in order.split(self.samples):
            yield Batch(features[rows], labels[rows], features[rows])

    def alignment_loss(self, learner: Learner, batch: Batch) -> Tensor:
        """Cross-entropy among all classes taught."""
        logits = learner.model.get_submodule("head")(batch.x)
        if self.temperature is not None:
            logits = logits / (self.temperature * mean_length(logits, self.taught, self.done))
        return F.cross_entropy(logits.masked_fill(self.taught < 0, -torch.inf), batch.y)


def mean_length(logits: Tensor, taught: Tensor, experiences: int) -> Tensor:
    """The mean, over experiences that were the last to teach a class, of the length of their logits: B x 1.

    Args:
        logits: B x classes.
        taught: in which experience each class was last; -1: in none.
    """
    members = (taught[:, None] == torch.arange(experiences, device=taught.device)).float()
    lengths = (logits.square() @ members).clamp(min=1e-12).sqrt()
    return (lengths @ members.any(0).float() / members.any(0).sum())[:, None]


PRESETS = [
    Preset(
        "slca",
        "cifar100",
        {
            "learner.epochs": 20,
            "learner.batch": 64,
            "learner.lr": 0.01,
            "learner.weight_decay": 5e-4,
            "learner.schedule": "multistep",
            "learner.milestones": (18.0,),
        },
        "PILOT, exps: ViT-B/16, CIFAR-100 in 10 tasks",
        recipe="pilot",
    ),
]
