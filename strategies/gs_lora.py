"""Continual forgetting with group-sparse low-rank adaptation.

GS-LoRA is Zhao et al. 2024 ("Continual Forgetting for Pre-trained Vision Models", CVPR; arXiv 2403.11530), GS-LoRA++
its successor (arXiv 2501.09705). Experience 0, which teaches everything, trains the whole network ordinarily; a request
trains LoRA alone, on both linear layers of each block's feed-forward part.

What differs here, and why. The papers' networks end in a margin head, whose loss can reach 155, and are driven to a
bound of 105 or 110; with an ordinary head that is ascent without a bound, so the default is 3 log C. The rate falls by
the step and to 0, theirs by the epoch and to 1e-5. The papers give alpha and beta by request; here beta can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.adapters import FEED_FORWARD, LowRank, freeze, lora, merge, reset, transformer
from clbench.batch import Batch
from clbench.config import Preset
from clbench.data import Data
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import BLOCK, swapped
from clbench.optimizer import cosine
from clbench.seeds import derive
from clbench.strategies.unlearning import bound, divided, endless
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, Natural, NonNegative, Positive


@dataclass
class GSLoRA(Strategy):
    """A request minimises CE on what remains + beta * ReLU(bound - CE on what is to be forgotten) + alpha * the sum of
    the blocks' norms, each of its A and B together; then W <- W + B A / rank, and A and B begin anew.

    A step has a batch of each, an epoch is a pass over what remains. The norm as a whole, not its square, is what lets
    a block go to (nearly) nothing. Everything but A and B stands still, the head too.
    """

    rank: Count = 8
    """of A and B"""
    beta: NonNegative | list[NonNegative] = 0.2
    """weight of the forgetting loss; a list: of each request"""
    alpha: NonNegative = 1e-4
    """weight of the group lasso"""
    alpha_from: Natural = 0
    """the epoch from which on it weighs anything"""
    bound: Positive | None = None
    """CE of samples to forget up to which it is driven; null: 3 log C, three times that of a guess among C classes"""
    epochs: Count = 100
    """of a request"""
    lr: Positive = 0.01
    """of AdamW at the first step of a request; falls to 0 by half a cosine"""
    weight_decay: NonNegative = 0.05
    """of AdamW"""
    answers: Literal["raw", "averaged"] = "raw"
    """averaged: after a request the answers are of the average of A and B over epochs, while the next one goes on from
    the last"""
    average_from: Natural = 30
    """averaged: the first epoch in it"""
    decay: Fraction = 0.9
    """averaged: what is left of the average at each further epoch"""

    needs: ClassVar[frozenset[str]] = frozenset({"requests", "transformer"})
    budgeted: ClassVar[bool] = False
    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        learner.renews()
        model = learner.model
        transformer(model)
        if self.answers == "averaged" and self.average_from >= self.epochs:
            raise Mistake(f"strategy.average_from={self.average_from}: a request has {self.epochs} epochs, from 0.")
        self.names = lora(model, FEED_FORWARD, self.rank, alpha=1.0, slope=sqrt(50), seed=self.draw(learner))
        for name in self.names:
            model.get_parameter(name).requires_grad_(False)
        self.target = bound(self.bound, syllabus.classes)
        self.requests = 0
        self.weighs = 0.0
        self.norms = torch.zeros(0)
        self.average: dict[str, Tensor] = {}
        self.averaged: dict[str, Tensor] = {}

    def draw(self, learner: Learner) -> int:
        """The seed of A."""
        return derive(learner.seed, "lora", learner.step)

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.averaged, self.average = {}, {}
        if not experience.forget:
            super().learn(learner, experience)
            return
        self.requests += 1
        remaining, forget = divided(experience.train, experience.forget)
        reset(learner.model, self.draw(learner))
        self.prepare(learner, experience.train)
        with _training(learner.model, self.names):
            learner.optim = learner.new_optimizer(
                learner.steps(len(remaining), self.epochs),
                self.lr,
                factor=cosine,
                kind="adamw",
                weight_decay=self.weight_decay,
            )
            for epoch in learner.passes(self.epochs):
                self.weighs = self.alpha if epoch >= self.alpha_from else 0.0
                learner.fit(paired(learner, remaining, forget), self.request_loss)
                self.take(learner.model, epoch)
        self.finish(learner.model)

    def prepare(self, learner: Learner, data: Data) -> None:
        """Before a request, with what is at hand."""

    def request_loss(self, learner: Learner, batch: Batch) -> Tensor:
        """Of a batch that remains, beside one to forget."""
        (forget,) = batch.past
        beta = self.weight(self.beta)
        loss = learner.criterion(learner(batch.x), batch.y)
        if beta:
            loss = loss + beta * (self.target - learner.criterion(learner(forget.x), forget.y)).relu()
        return loss + self.weighs * sum(self.groups(learner.model)) if self.weighs else loss

    def weight(self, given: float | list[float]) -> float:
        """Of this request; where a list is too short, the last."""
        return given[min(self.requests, len(given)) - 1] if isinstance(given, list) else given

    def groups(self, model: nn.Module) -> list[Tensor]:
        """The norm of each block's A and B together."""
        members: dict[str, list[Tensor]] = {}
        for name in self.names:
            members.setdefault(BLOCK.match(name)[0], []).append(model.get_parameter(name).flatten())  # type: ignore[index]
        return [torch.linalg.vector_norm(torch.cat(parts)) for parts in members.values()]

    @torch.no_grad()
    def take(self, model: nn.Module, epoch: int) -> None:
        """Let the average have this epoch's A and B."""
        if self.answers == "raw" or epoch < self.average_from:
            return
        now = {name: model.get_parameter(name).detach().clone() for name in self.names}
        old = self.average or now
        self.average = {name: self.decay * old[name] + (1 - self.decay) * now[name] for name in self.names}

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        """Merge, and begin A and B anew."""
        if self.average:
            with swapped(model, self.average):
                self.averaged = {
                    f"{path}.weight": module.weight + module.difference()
                    for path, module in model.named_modules()
                    if isinstance(module, LowRank)
                }
        self.norms, self.average = torch.stack(self.groups(model)), {}
        merge(model)
        reset(model)

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        with swapped(learner.model, self.averaged):
            return learner(x)


@dataclass
class GSLoRAPP(GSLoRA):
    """GS-LoRA++: GS-LoRA + repel * ReLU(far - KL on what is to be forgotten) + attract * KL on what remains.

    KL is the batch's mean of KL(softmax(prototype of the label), softmax(features)); prototypes are class means, over
    what is at hand, of the features of the network before the request.
    """

    repel: NonNegative | list[NonNegative] = 0.01
    """weight of the distance to be gained by what is to be forgotten; a list: of each request"""
    attract: NonNegative = 0.0
    """weight of the distance of what remains; 0 in most of the papers' scripts"""
    far: Positive = 18.0
    """KL up to which what is to be forgotten is driven"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.prototypes = torch.zeros(0)

    @torch.no_grad()
    def prepare(self, learner: Learner, data: Data) -> None:
        """Class means of features, un-augmented."""
        data, classes = learner.near(data), len(learner.model.head.weight)  # type: ignore[union-attr,arg-type]
        total = count = torch.zeros(())
        for positions in torch.arange(len(data), device=data.index.device).split(learner.eval_batch):
            raw, y = learner.gather(data, positions)
            x = learner.encode(raw)
            with learner.spending("prototypes", x.shape):
                members = F.one_hot(y, classes).float()
                total, count = total + members.T @ learner.features(x), count + members.sum(0)
        self.prototypes = total / count.clamp(min=1)[:, None]

    def request_loss(self, learner: Learner, batch: Batch) -> Tensor:
        (forget,) = batch.past
        beta, repel = self.weight(self.beta), self.weight(self.repel)
        z = learner.features(torch.cat([batch.x, forget.x])).split([len(batch.y), len(forget.y)])
        remaining, asked = (learner.model.head(part) for part in z)  # type: ignore[operator]
        loss = learner.criterion(remaining, batch.y)
        if beta:
            loss = loss + beta * (self.target - learner.criterion(asked, forget.y)).relu()
        if repel:
            loss = loss + repel * (self.far - self.distance(z[1], forget.y)).relu()
        if self.attract:
            loss = loss + self.attract * self.distance(z[0], batch.y)
        return loss + self.weighs * sum(self.groups(learner.model)) if self.weighs else loss

    def distance(self, features: Tensor, y: Tensor) -> Tensor:
        """The mean over a batch of KL(softmax(prototype), softmax(features))."""
        p, q = self.prototypes[y].log_softmax(1), features.log_softmax(1)
        return F.kl_div(q, p, log_target=True, reduction="batchmean")


def paired(learner: Learner, remaining: Data, forget: Data) -> Iterator[Batch]:
    """One pass over what remains; each batch has one of what is to be forgotten in `past`."""
    others = endless(learner, forget)
    for batch in learner.batches(remaining):
        yield replace(batch, past=(next(others),))


@contextmanager
def _training(model: nn.Module, names: list[str]) -> Iterator[None]:
    """In here these parameters train and no others; afterwards those that did before."""
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    freeze(model, but=names)
    try:
        yield
    finally:
        freeze(model, but=before)


_SCRIPT = "untuned: values of the authors' script for faces (bjzhb666/GS-LoRA); the bound is clbench's"
_IMAGENET = "the authors' script for ImageNet100, GS-LoRA++ (bjzhb666/GS-LoRA)"
_FACES = {"strategy.beta": [0.2, 0.25, 0.25, 0.2]}
_IMAGES = {"strategy.beta": [0.2, 0.25, 0.25, 0.25], "strategy.bound": 105.0}

PRESETS = [
    Preset("gs_lora", "forget_cifar100", _FACES, _SCRIPT, recipe="pretrained"),
    Preset("gs_lora_pp", "forget_cifar100", _FACES, _SCRIPT, recipe="pretrained"),
    Preset("gs_lora", "forget_orl", _FACES, _SCRIPT),
    Preset("gs_lora_pp", "forget_orl", _FACES, _SCRIPT),
    *(
        preset
        for stream in ("forget_cifar100", "forget_folder")
        for preset in (
            Preset("gs_lora", stream, _IMAGES, f"{_IMAGENET}: its own beta is not in it", recipe="zhao2024"),
            Preset(
                "gs_lora_pp",
                stream,
                {**_IMAGES, "strategy.repel": 0.05, "strategy.answers": "averaged"},
                _IMAGENET,
                recipe="zhao2024",
            ),
        )
    ),
]
