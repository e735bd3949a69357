"""Importance from the path: a weight matters by how much its own steps lowered the loss.

SI is Zenke, Poole and Ganguli 2017 ("Continual Learning Through Synaptic Intelligence", ICML). RWalk is Chaudhry,
Dokania, Ajanthan and Torr 2018 ("Riemannian Walk for Incremental Learning: Understanding Forgetting and Intransigence",
ECCV; arXiv 1801.10112), which measures the path by a running Fisher information (EWC++) and holds weights by both.

What differs here, and why. A weight whose steps raised the loss in sum has importance 0, not less: a negative one would
drive it away from its anchor. Mammoth, where the published values of SI come from, had rate * gradient^2 for long, with
the penalty's gradient in it; here, as in the paper, it is the loss' own gradient times the step that was taken. RWalk's
text was not at hand: its formulas are recalled, and order, defaults and scaling are those of its authors' later code
(facebookresearch/agem), which has no factor of one half in the distance. Its sampling of memory is left to the base
(`strategy=rwalk strategy.base=er`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clbench.batch import Batch, after_each
from clbench.config import Preset
from clbench.learner import Learner
from clbench.strategies.consolidation import pull, weights
from clbench.strategy import Adjust, Around
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, NonNegative, Positive


@dataclass
class Path(Around):
    """What SI and RWalk share: the base's steps, each with the loss' own gradient, then a pull towards the anchor."""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders"})
    holds: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.anchor = weights(learner.model)
        self.omega = zeros(learner.model)
        self.importance: list[Tensor] = []
        self.step_from: list[tuple[int, Tensor, Tensor]] = []

    def around_adjust(self, learner: Learner, adjust: Adjust | None) -> Adjust | None:
        def held(learner: Learner) -> None:
            self.step_from = [
                (at, p.grad.clone(), p.detach().clone())
                for at, p in enumerate(learner.model.parameters())
                if p.requires_grad and p.grad is not None
            ]
            self.hold(learner.model)
            if adjust is not None:
                adjust(learner)

        return held

    def around_batches(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        return after_each(batches, lambda batch, kept: self.walk(learner.model))

    @torch.no_grad()
    def walk(self, model: nn.Module) -> None:
        """After a step: omega grows by the gradient times the way down, weight by weight."""
        if not self.step_from:
            return
        places, gradients, before = map(list, zip(*self.step_from, strict=True))
        self.step_from = []
        now = list(model.parameters())
        down = torch._foreach_sub(before, [now[at] for at in places])
        torch._foreach_addcmul_([self.omega[at] for at in places], gradients, down)

    def hold(self, model: nn.Module) -> None:
        """Add the penalty's gradient, once there is one."""
        raise NotImplementedError


@dataclass
class SI(Path):
    """The base learns under a penalty c * sum Omega (theta - theta*)^2, from the second experience on.

    omega is the sum over steps of the loss' gradient times the step taken, downwards. At the end of an experience
    Omega <- max(0, Omega + omega / ((theta - theta*)^2 + xi)), theta* <- theta, and omega starts anew.
    """

    c: NonNegative = 0.5
    """weight of the penalty; no factor of one half, as in the paper"""
    xi: Positive = 1.0
    """bounds what a weight that hardly moved can count"""
    clip: Positive | None = 1.0
    """largest absolute entry of the gradient that is stepped with, the penalty's included, as in Mammoth; null: any"""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        old, now = self.importance or zeros(learner.model), weights(learner.model)
        self.importance = [
            (big + small / ((at - anchor).square() + self.xi)).clamp_(min=0)
            for big, small, at, anchor in zip(old, self.omega, now, self.anchor, strict=True)
        ]
        self.anchor, self.omega = now, zeros(learner.model)

    def hold(self, model: nn.Module) -> None:
        if self.importance:
            pull(model, self.anchor, self.c, self.importance)
        if self.clip is not None:
            nn.utils.clip_grad_value_(model.parameters(), self.clip)


@dataclass
class RWalk(Path):
    """The base learns under a penalty lambda * sum (F + s) (theta - theta*)^2, from the second experience on.

    F, a running mean of the squared gradient of the batch, goes on over the whole stream (EWC++). At every `interval`
    steps each weight scores how much its steps lowered the loss, by how far it went in the metric of F:
    max(0, omega / (F (change)^2 / 2 + xi)). The scores of an experience add up; s is the mean of these and the s
    before, those of the first alone after the first. F and s are scaled to 0 .. 1 over the whole network, each by
    itself.
    """

    rwalk_lambda: NonNegative = 1.0
    """weight of the penalty; no factor of one half"""
    alpha: Fraction = 0.9
    """share of the newest squared gradients in the running Fisher information"""
    interval: Count = 10
    """steps from one score to the next"""
    xi: Positive = 1e-3
    """bounds the score of a weight that hardly moved"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.fisher = zeros(learner.model)
        self.squares = zeros(learner.model)
        self.scores = zeros(learner.model)
        self.past: list[Tensor] = []
        self.corner = self.anchor
        self.steps, self.scored = 0, False

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.corner = weights(learner.model)
        super().learn(learner, experience)
        if self.steps:
            self.score(learner.model)
        mean = [(old + new) / 2 for old, new in zip(self.past, self.scores, strict=True)] if self.past else self.scores
        self.past, self.scores = mean, zeros(learner.model)
        self.importance = [f + s for f, s in zip(scaled(self.fisher), scaled(self.past), strict=True)]
        self.anchor = weights(learner.model)

    @torch.no_grad()
    def walk(self, model: nn.Module) -> None:
        for at, gradient, _ in self.step_from:
            self.squares[at].addcmul_(gradient, gradient)
        super().walk(model)
        self.steps += 1
        if self.steps == self.interval:
            self.score(model)

    @torch.no_grad()
    def score(self, model: nn.Module) -> None:
        """At the end of an interval: scores by the Fisher information at its start, which then takes in its squares."""
        now = weights(model)
        for at, (fisher, squares) in enumerate(zip(self.fisher, self.squares, strict=True)):
            squares.div_(self.steps)
            if not self.scored:
                fisher.copy_(squares)
            length = fisher * (now[at] - self.corner[at]).square() / 2 + self.xi
            self.scores[at] += (self.omega[at] / length).clamp_(min=0)
            fisher.lerp_(squares, self.alpha)
        self.omega, self.squares = zeros(model), zeros(model)
        self.corner, self.steps, self.scored = now, 0, True

    def hold(self, model: nn.Module) -> None:
        if self.importance:
            pull(model, self.anchor, self.rwalk_lambda, self.importance)


def zeros(model: nn.Module) -> list[Tensor]:
    """One tensor a parameter."""
    return [torch.zeros_like(p, requires_grad=False) for p in model.parameters()]


def scaled(parts: list[Tensor]) -> list[Tensor]:
    """The same numbers from 0 to 1, over all tensors together."""
    low, high = torch.stack([p.min() for p in parts]).min(), torch.stack([p.max() for p in parts]).max()
    return [(p - low) / (high - low).clamp(min=1e-30) for p in parts]


_DER = "Buzzega et al. 2020 (DER); Mammoth, utils/best_args.py, method si"
_BEST = {  # stream: (rate, c, xi)
    "mnist": (0.1, 1.0, 0.9),
    "cifar10": (0.03, 0.5, 1.0),
    "permuted_mnist": (0.1, 0.5, 1.0),
    "rotated_mnist": (0.1, 1.0, 1.0),
}

PRESETS = [
    *(
        Preset(
            "si",
            stream,
            {"learner.lr": rate, "strategy.c": c, "strategy.xi": xi},
            _DER,
            recipe="der2020",
            when={"base": "naive"},
        )
        for stream, (rate, c, xi) in _BEST.items()
    ),
    Preset(
        "si",
        "cifar100",
        {"learner.lr": 0.03, "strategy.c": 0.1},
        "tuned here on validation (protocol first=3, seed 100, 4 candidates of learner.lr and c)",
        model="convbn",
        when={"base": "naive"},
    ),
]
