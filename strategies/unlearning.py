"""Baselines for requests to forget: what a stream asks for by `Experience.forget`, done by plain means.

An experience that asks for nothing is learned ordinarily. In a request the samples at hand are divided by label: those
of classes to forget, and those of classes that remain. An ordinary strategy makes no such difference and would go on
training on both; `remain` around it does.

The bounded ascent is the forgetting loss of Zhao et al. 2024 ("Continual Forgetting for Pre-trained Vision Models",
CVPR). SCRUB is Kurmanji, Triantafillou, Hayes and Triantafillou 2023 ("Towards Unbounded Machine Unlearning", NeurIPS):
written from memory, unverified, hyper-parameters included; neither its rewinding nor its smoothing is here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from itertools import chain, count
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.batch import Batch, following
from clbench.data import Data
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.strategies.baselines import Cumulative
from clbench.strategies.consolidation import pull, weights
from clbench.strategy import Adjust, Around, Loss, Strategy, layers, memory_of
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Natural, NonNegative, Positive


def divided(data: Data, forget: Collection[int]) -> tuple[Data, Data]:
    """The samples at hand of a request: (those of classes that remain, those of classes to forget)."""
    asked = torch.isin(data.labels, torch.tensor(sorted(forget)))
    return data.subset((~asked).nonzero()[:, 0]), data.subset(asked.nonzero()[:, 0])


def endless(learner: Learner, data: Data) -> Iterator[Batch]:
    """Batches of one pass after another.

    Raises:
        Mistake: there is nothing to pass over.
    """
    if not len(data):
        raise Mistake("A request names classes of which no sample is at hand.")
    return chain.from_iterable(learner.batches(data) for _ in count())


def bound(given: float | None, classes: int) -> float:
    """The loss of samples to forget from which on they are left alone; where none is given 3 log(classes), three times
    that of a guess."""
    return 3 * math.log(classes) if given is None else given


@contextmanager
def paced(learner: Learner, epochs: int | None, lr: float | None) -> Iterator[None]:
    """In here an experience takes so many epochs at such a rate; null: as the learner says."""
    before = learner.epochs, learner.lr
    learner.epochs, learner.lr = epochs or learner.epochs, lr or learner.lr
    try:
        yield
    finally:
        learner.epochs, learner.lr = before


@dataclass
class Remain(Around):
    """In a request the base learns on the samples that remain, and sees no other: fine-tuning, around `naive`.

    With beta each of its steps also sees a batch of samples to forget: its loss + beta * ReLU(bound - CE), so that
    their loss is driven up until it reaches the bound. What the base's memory holds of classes to forget is deleted.
    """

    beta: NonNegative = 0.0
    """weight of the bounded ascent; 0: what is to be forgotten is only left out"""
    bound: Positive | None = None
    """CE of samples to forget up to which it is driven; null: 3 log C, three times that of a guess among C classes"""
    epochs: Count | None = None
    """over what remains, in a request; null: as many as the learner says"""
    lr: Positive | None = None
    """of a request; null: as the learner says"""

    needs: ClassVar[frozenset[str]] = frozenset({"requests"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        if isinstance(inner := [*layers(self)][-1], Cumulative):
            raise Mistake(
                f"remain leaves classes out, and {type(inner).__name__.lower()} trains on all that was ever taught: "
                "choose another base."
            )
        super().start(learner, syllabus)
        self.target = bound(self.bound, syllabus.classes)
        self.at_hand: Data | None = None
        self.forget: list[int] = []

    def learn(self, learner: Learner, experience: Experience) -> None:
        if not experience.forget:
            super().learn(learner, experience)
            return
        remaining, _ = divided(experience.train, experience.forget)
        memory = memory_of(self.base)
        if memory is not None:
            memory.delete(experience.forget)
        self.at_hand, self.forget = experience.train, sorted(experience.forget)
        with paced(learner, self.epochs, self.lr):
            learner.optim = learner.new_optimizer(learner.steps(len(remaining)))
            kept = experience.classes - experience.forget
            super().learn(learner, replace(experience, train=remaining, classes=kept, forget=frozenset()))
        self.at_hand, self.forget = None, []

    def around_batches(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        if self.at_hand is None or not self.beta:
            return batches
        return self._beside(batches, endless(learner, divided(self.at_hand, self.forget)[1]))

    def _beside(self, batches: Generator[Batch, Any, None], others: Iterator[Batch]) -> Generator[Batch, Any, None]:
        """Each batch with one of samples to forget, the last of its `past`."""
        kept = None
        while (batch := following(batches, kept)) is not None:
            kept = yield replace(batch, past=(*batch.past, next(others)))

    def around_loss(self, learner: Learner, loss: Loss) -> Loss:
        if self.at_hand is None or not self.beta:
            return loss

        @wraps(loss)
        def ascending(learner: Learner, batch: Batch) -> Any:
            *past, forget = batch.past
            found = loss(learner, replace(batch, past=tuple(past)))
            value, kept = found if isinstance(found, tuple) else (found, None)
            return value + self.beta * ascent(learner, forget, self.target), kept

        return ascending


def ascent(learner: Learner, batch: Batch, target: float) -> Tensor:
    """ReLU(target - CE) of a batch to forget: its gradient drives CE up, and is 0 once that has reached the target."""
    return (target - learner.criterion(learner(batch.x), batch.y)).relu()


@dataclass
class L2(Around):
    """The base learns under a penalty l2_lambda * ||theta - theta*||^2, from the second experience on; theta* are the
    weights that the last one left."""

    l2_lambda: NonNegative = 0.05
    """weight of the penalty"""

    holds: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.anchor: list[Tensor] = []

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        self.anchor = weights(learner.model)

    def around_adjust(self, learner: Learner, adjust: Adjust | None) -> Adjust | None:
        if not self.anchor or not self.l2_lambda:
            return adjust

        def held(learner: Learner) -> None:
            pull(learner.model, self.anchor, self.l2_lambda)
            if adjust is not None:
                adjust(learner)

        return held


@dataclass
class Retrain(Strategy):
    """At each request training begins anew, from the initial weights, on samples of classes that remain: nothing of
    what is to be forgotten can be left."""

    whole: bool = False
    """false: on the samples at hand; true: on all that were taught, which are kept: what forgetting well would look
    like, at a price that a request should not have"""
    epochs: Count | None = None
    """of a request; null: as many as the learner says"""
    lr: Positive | None = None
    """of a request; null: as the learner says"""

    needs: ClassVar[frozenset[str]] = frozenset({"requests"})
    remakes: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.initial = copy.deepcopy(learner.model)
        self.taught: Data | None = None
        self.forgotten: set[int] = set()

    def learn(self, learner: Learner, experience: Experience) -> None:
        if not experience.forget:
            self.taught = experience.train if self.whole else None
            super().learn(learner, experience)
            return
        self.forgotten |= experience.forget
        remaining, _ = divided(self.taught or experience.train, self.forgotten)
        learner.model.load_state_dict(self.initial.state_dict())
        with paced(learner, self.epochs, self.lr):
            learner.optim = learner.new_optimizer(learner.steps(len(remaining)))
            super().learn(learner, replace(experience, train=remaining))


@dataclass
class SCRUB(Strategy):
    """Towards the network before the request on what remains, away from it on what is to be forgotten.

    A request's first `away` epochs each begin with a pass over the samples to forget, in which KL(p, q) grows; every
    epoch has a pass over those that remain: gamma * CE + alpha * KL(p, q). p are the probabilities of the network
    before the request, q those of the one that learns, both at temperature T, and KL is times T^2. Where p = q, as at
    the first step, KL has no gradient: the way away begins with what else moves the network.
    """

    alpha: NonNegative = 0.5
    """weight of the distillation on what remains"""
    gamma: NonNegative = 1.0
    """weight of the cross-entropy on what remains"""
    temperature: Positive = 2.0
    """T"""
    away: Natural = 3
    """epochs that begin with a pass over what is to be forgotten"""
    epochs: Count | None = None
    """of a request; null: as many as the learner says"""
    lr: Positive | None = None
    """of a request; null: as the learner says"""

    needs: ClassVar[frozenset[str]] = frozenset({"requests"})
    budgeted: ClassVar[bool] = False

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        learner.renews()
        self.teacher = copy.deepcopy(learner.model)

    def learn(self, learner: Learner, experience: Experience) -> None:
        if not experience.forget:
            super().learn(learner, experience)
            return
        remaining, forget = divided(experience.train, experience.forget)
        self.teacher.load_state_dict(learner.model.state_dict())
        with paced(learner, self.epochs, self.lr):
            away = min(self.away, learner.epochs)
            learner.optim = learner.new_optimizer(learner.steps(len(remaining)) + learner.steps(len(forget), away))
            for epoch in learner.passes():
                if epoch < away:
                    learner.fit(self.taught(learner, forget), self.away_loss)
                learner.fit(self.taught(learner, remaining), self.stay_loss)

    def taught(self, learner: Learner, data: Data) -> Iterator[Batch]:
        """One pass, with the teacher's logits."""
        for batch in learner.batches(data):
            with torch.no_grad(), learner.spending("teacher", batch.x.shape):
                logits = learner(batch.x, self.teacher.eval())
            yield replace(batch, kept={"teacher": logits})

    def away_loss(self, learner: Learner, batch: Batch) -> Tensor:
        """- KL(p, q)."""
        return -self.divergence(batch, learner(batch.x))

    def stay_loss(self, learner: Learner, batch: Batch) -> Tensor:
        """gamma * CE + alpha * KL(p, q)."""
        logits = learner(batch.x)
        return self.gamma * learner.criterion(logits, batch.y) + self.alpha * self.divergence(batch, logits)

    def divergence(self, batch: Batch, logits: Tensor) -> Tensor:
        """T^2 * the mean over the batch of KL(p, q)."""
        p, q = (F.log_softmax(z / self.temperature, 1) for z in (batch.kept["teacher"], logits))
        return self.temperature**2 * F.kl_div(q, p, log_target=True, reduction="batchmean")
