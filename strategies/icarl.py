"""iCaRL: sigmoids, held to what they said of old classes, train the features; the nearest mean of exemplars answers.

Rebuffi, Kolesnikov, Sperl and Lampert 2017 ("iCaRL: Incremental Classifier and Representation Learning", CVPR). The
binary cross-entropy is the mean over the batch and all labels, those to come included. Mammoth's first version takes it
over the labels taught so far, which is `outputs=seen`: its published rates belong to that. Herding follows the mean of
features of length 1, which is not scaled to length 1 itself; the class means that answer are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.batch import Batch
from clbench.config import Preset
from clbench.data import Data
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.strategies.exemplars import ExemplarReplay
from clbench.strategies.prototypes import class_means, directions, nearest
from clbench.stream import Syllabus
from clbench.types import NonNegative


@dataclass
class ICaRL(ExemplarReplay):
    """BCE(f(x), t): t is the old network's sigmoid for old classes, 1 for the label and 0 for the others elsewhere."""

    outputs: Literal["all", "seen"] = "all"
    """labels over which the loss is a mean: all, or those taught so far"""
    weight_decay: NonNegative = 1e-5
    """weight of the sum of squares of all that trains, in the loss"""
    mirror: bool = True
    """class means are over each exemplar and its mirror image, where samples are images"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        if learner.loss_mask != "all":
            raise Mistake(
                f"In icarl's loss labels do not compete: learner.loss_mask={learner.loss_mask} would change nothing."
            )
        self.mirrored = self.mirror and len(syllabus.shape) == 3
        self.means: Tensor | None = None
        self.known = self.seen

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        targets = F.one_hot(batch.y, len(self.seen)).float()
        if batch.kept:
            targets = torch.where(self.old, batch.kept["old"].sigmoid(), targets)
        each = F.binary_cross_entropy_with_logits(learner(batch.x), targets, reduction="none").mean(0)
        loss = each.mean() if self.outputs == "all" else (each * self.seen).sum() / self.taught
        if self.weight_decay:
            squares = [p.square().sum() for p in learner.model.parameters() if p.requires_grad]
            loss = loss + self.weight_decay * torch.stack(squares).sum()
        return loss

    def remember(self, learner: Learner, data: Data) -> None:
        super().remember(learner, data)
        self.settle(learner)

    def settle(self, learner: Learner) -> None:
        super().settle(learner)
        kept = self.memory.data()
        found = directions(learner, kept)
        if self.mirrored:
            found = found + directions(learner, kept, mirrored=True)
        self.means, self.known = class_means(found, kept.labels, len(self.seen))

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Minus the squared distance to each class mean, B x classes; logits until the first experience is learned."""
        if self.means is None:
            return learner(x)
        return nearest(learner.features(x), self.means, self.known)


_DER = "Buzzega et al. 2020 (DER); Mammoth, utils/best_args.py, method icarl"
_XDER = "Boschini et al. 2022 (X-DER); Mammoth, utils/best_args.py, method icarl"
_FORM = {"strategy.outputs": "seen", "strategy.weight_decay": 1e-5}

PRESETS = [
    Preset("icarl", "digits", {"strategy.memory_size": 100}, "untuned: a memory of 100, an experience has about 250"),
    Preset("icarl", "mnist", {"learner.lr": 0.1, "strategy.outputs": "seen"}, _DER, recipe="der2020"),
    *(
        Preset("icarl", "cifar10", {"learner.lr": rate, **_FORM}, _DER, recipe="der2020", when={"memory_size": size})
        for size, rate in {200: 0.1, 500: 0.1, 5120: 0.03}.items()
    ),
    *(
        Preset("icarl", "cifar100", {"learner.lr": 0.3, **_FORM}, _XDER, recipe="xder2022", when={"memory_size": size})
        for size in (500, 2000)
    ),
]
