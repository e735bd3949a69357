"""Learning without forgetting: the network before an experience teaches the one that learns it.

Li and Hoiem 2018 ("Learning without Forgetting", IEEE TPAMI 40(12)), in the form in which Buzzega et al. 2020 (DER)
compare with it: one head, and no temperature factor before the distillation. It is distillation on the new samples
only; a base is not asked for, and memory is not used.

What differs here, and why. Mammoth records the old network's answers once, to the samples as they are stored; that is
the default, and costs one pass. `old=teacher` asks a copy of the old network at each step, of the very samples that are
trained on, augmented.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.batch import Batch
from clbench.config import Preset
from clbench.data import Data
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import of_head
from clbench.optimizer import constant
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Natural, NonNegative, Positive


@dataclass
class LwF(Strategy):
    """CE(f(x), y) over the classes seen so far + alpha * CE(p(x; T), q(x; T)) over those seen before the experience.

    p are the old network's probabilities, q those of the one that learns, both a softmax of the logits of the old
    classes divided by T. Before an experience with new classes the head alone is trained on these, by CE over their
    logits, on features that stand still; the old answers do not change by that.
    """

    alpha: NonNegative = 0.5
    """weight of the distillation"""
    temperature: Positive = 2.0
    """T; more: the old network's lesser answers count for more"""
    warm_up: Natural | None = None
    """epochs for which the head alone is trained on new classes, by SGD at the learner's rate; null: as many as an
    experience takes"""
    old: Literal["recorded", "teacher"] = "recorded"
    """recorded: the old network answers once, before the experience, without augmentation; teacher: at each step"""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders", "unmixed lessons", "single labels"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        if not hasattr(learner.model, "head"):
            raise Mistake("lwf warms a layer named head up, which this model has not.")
        self.seen = torch.zeros(syllabus.classes, dtype=torch.bool, device=learner.where)
        self.new, self.before = self.seen, self.seen.nonzero()[:, 0]
        self.answers: Tensor | None = None
        self.teacher: nn.Module | None = copy.deepcopy(learner.model) if self.old == "teacher" else None

    def learn(self, learner: Learner, experience: Experience) -> None:
        taught = torch.zeros_like(self.seen)
        taught[sorted(experience.classes)] = True
        self.before, self.new, self.seen = self.seen.nonzero()[:, 0], taught & ~self.seen, taught | self.seen
        if len(self.before):
            epochs = learner.epochs if self.warm_up is None else self.warm_up
            if epochs and self.new.any():
                fresh = self.new.cpu()[experience.train.labels].nonzero()[:, 0]
                self.meet(learner, experience.train.subset(fresh.to(experience.train.index.device)), epochs)
            if self.teacher is None:
                self.answers = self.asked(learner, experience.train)
            else:
                self.teacher.load_state_dict(learner.model.state_dict())
        super().learn(learner, experience)
        self.answers = None

    def meet(self, learner: Learner, data: Data, epochs: int) -> None:
        """The warm-up: the head learns the new classes."""
        with learner.only(of_head(learner.model)):
            self.phase = learner.new_optimizer(
                learner.steps(len(data), epochs), factor=constant, kind="sgd", momentum=0.0, weight_decay=0.0
            )
            for _ in learner.passes(epochs):
                learner.fit(learner.batches(data), self.warm_up_loss, optimizer=self.phase)
        del self.phase

    def warm_up_loss(self, learner: Learner, batch: Batch) -> Tensor:
        """CE over the logits of new classes, of the features in evaluation mode."""
        learner.model.body.eval()  # type: ignore[union-attr]
        with torch.no_grad():
            features = learner.features(batch.x)
        return learner.criterion(learner.model.head(features).masked_fill(~self.new, -torch.inf), batch.y)  # type: ignore[operator]

    @torch.no_grad()
    def asked(self, learner: Learner, data: Data) -> Tensor:
        """The network's logits for all samples, un-augmented: samples x classes."""
        data, found = learner.near(data), []
        for positions in torch.arange(len(data), device=data.index.device).split(learner.eval_batch):
            x = learner.encode(learner.gather(data, positions)[0])
            with learner.spending("answers", x.shape):
                found.append(learner(x))
        return torch.cat(found)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        for batch in learner.batches(experience.train):
            yield replace(batch, kept={"old": self.old_logits(learner, batch)}) if len(self.before) else batch

    @torch.no_grad()
    def old_logits(self, learner: Learner, batch: Batch) -> Tensor:
        """The old network's answers to a batch of the experience, B x classes."""
        if self.teacher is None:
            assert self.answers is not None
            assert batch.index is not None
            return self.answers[batch.index]
        with learner.spending("teacher", batch.x.shape):
            return learner(batch.x, self.teacher.eval())

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        logits = learner(batch.x)
        loss = learner.criterion(logits.masked_fill(~self.seen, -torch.inf), batch.y)
        if not batch.kept:
            return loss
        old, new = (z[:, self.before] / self.temperature for z in (batch.kept["old"], logits))
        return loss + self.alpha * F.cross_entropy(new, old.softmax(1))


_DER = "Buzzega et al. 2020 (DER); Mammoth, utils/best_args.py, method lwf"
_XDER = "Boschini et al. 2022 (X-DER); Mammoth, utils/best_args.py, method lwf"

PRESETS = [
    Preset("lwf", "mnist", {"learner.lr": 0.03, "strategy.alpha": 1.0}, _DER, recipe="der2020"),
    Preset(
        "lwf",
        "cifar10",
        {"learner.lr": 0.01, "learner.weight_decay": 5e-4, "strategy.alpha": 3.0, "strategy.temperature": 2.0},
        _DER,
        recipe="der2020",
    ),
    Preset("lwf", "cifar100", {"learner.lr": 0.03, "learner.weight_decay": 5e-4}, _XDER, recipe="xder2022"),
    Preset(
        "lwf",
        "cifar100",
        {"learner.lr": 0.1, "strategy.alpha": 3.0},
        "tuned here on validation (protocol first=3, seed 100, 4 candidates of learner.lr and alpha)",
        model="convbn",
    ),
]
