"""Merging along a stream: what trains and what answers are two sets of weights, around any strategy.

The methods are those that FoMo-in-Flux compares (Roth et al. 2024, "A Practitioner's Guide to Continual Multimodal
Pretraining", NeurIPS, Datasets and Benchmarks): where an experience's training begins, and what of it is merged with
what, after Stojanovski, Roth and Akata 2022 ("Momentum-based Weight Interpolation of Strong Zero-Shot Models for
Continual Learning") and Wortsman et al. 2022 ("Robust Fine-Tuning of Zero-Shot Models", CVPR). How two networks become
one, the operator, is an option of each: clbench/merging.py.

What differs here, and why. Only what trains is merged, so that around LoRA its factors are, and a share of weights is a
share of those. Running statistics of batch normalisation are averaged, whatever the operator. The paper's coefficient
of moving averages was not at hand; 0.5 for each experience is the even merge that their code falls back to.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from clbench import merging
from clbench.batch import Batch, after_each
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import swapped, tensors
from clbench.seeds import derive
from clbench.strategy import Around
from clbench.stream import Experience, Syllabus
from clbench.types import Fraction, Positive, Share

OVER_TIME = {
    "uniform": lambda i: torch.ones_like(i),
    "linear": lambda i: i,
    "sqrt": lambda i: i**0.5,
    "quadratic": lambda i: i**2,
    "cubic": lambda i: i**3,
    "fifth": lambda i: i**5,
    "tenth": lambda i: i**10,
    "exponential": lambda i: 2**i,
    "logarithmic": lambda i: (1 + i).log(),
}
"""weights of experiences, of their numbers from 1, float64"""


@dataclass
class Merging(Around):
    """The base learns; after each experience weights are merged, and the merged ones answer. Subclasses say which."""

    operator: Literal[
        "interpolation", "slerp", "task_arithmetic", "ties", "dare", "breadcrumbs", "magmax", "model_stock"
    ] = "interpolation"
    """how several networks become one"""
    share: Fraction = 0.5
    """interpolation, slerp and task arithmetic of two: how much of the newer one"""
    scale: Positive = 1.0
    """of the merged change from the first weights, in task arithmetic, TIES, DARE, breadcrumbs and MagMax"""
    trim: Share = 0.2
    """of each change, what TIES, DARE and breadcrumbs drop (breadcrumbs: at either end)"""
    lines: Literal["off", "linear", "quadratic", "sqrt"] = "off"
    """LiNeS: how the merged change grows with depth"""
    alpha: Fraction = 0.5
    """LiNeS: factor at the input"""
    beta: Fraction = 0.5
    """LiNeS: by how much it is more at the output"""

    holds: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.names = moving(learner.model)
        self.first = self.weights(learner.model)
        self.evaluated = self.first.clone()

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        with swapped(learner.model, self.named(learner.model, self.evaluated)):
            return self.base.predict(learner, x)

    def settle(self, learner: Learner) -> None:
        with swapped(learner.model, self.named(learner.model, self.evaluated)):
            self.base.settle(learner)

    def moved(self, model: nn.Module) -> dict[str, Tensor]:
        """What training moves, whatever trains at the moment."""
        there = tensors(model)
        return {name: there[name] for name in self.names}

    def weights(self, model: nn.Module) -> Tensor:
        """A copy of it in one row."""
        return torch.cat([tensor.detach().flatten() for tensor in self.moved(model).values()])

    def named(self, model: nn.Module, vector: Tensor) -> Mapping[str, Tensor]:
        """The tensors in a vector of weights, by name."""
        there = self.moved(model)
        parts = vector.split([tensor.numel() for tensor in there.values()])
        return {name: part.view_as(tensor) for (name, tensor), part in zip(there.items(), parts, strict=True)}

    @torch.no_grad()
    def go_on_from(self, learner: Learner, vector: Tensor) -> None:
        """Put these weights where training goes on."""
        there = self.moved(learner.model)
        for name, part in self.named(learner.model, vector).items():
            there[name].copy_(part)

    @torch.no_grad()
    def merged(self, learner: Learner, models: Sequence[Tensor], over: Tensor | None = None) -> Tensor:
        """Networks made into one.

        Args:
            over: the weight of each; None: `share` for the first of two
        """
        names = {name: tensor.numel() for name, tensor in self.moved(learner.model).items()}
        trained = {name: size for name, size in names.items() if name in dict(learner.model.named_parameters())}
        end, sizes = sum(trained.values()), list(trained.values())
        over = torch.tensor([self.share, 1 - self.share]) if over is None else over
        whole = torch.stack(list(models))
        zero, rows = self.first[:end], whole[:, :end]
        match self.operator:
            case "interpolation":
                one = merging.interpolation(rows, over)
            case "slerp":
                one = merging.slerp(rows[0], rows[1], self.share, sizes)
            case "task_arithmetic":
                one = merging.task_arithmetic(zero, rows, over, self.scale)
            case "ties":
                one = merging.ties(zero, rows, self.trim, self.scale)
            case "dare":
                rng = torch.Generator().manual_seed(derive(learner.seed, "dare", learner.step))
                one = merging.dare(zero, rows, self.trim, rng, self.scale)
            case "breadcrumbs":
                one = merging.breadcrumbs(zero, rows, self.trim, self.scale)
            case "magmax":
                one = merging.magmax(zero, rows, self.scale)
            case "model_stock":
                one = merging.model_stock(zero, rows, sizes)
        if self.lines != "off":
            depths = torch.tensor(merging.depth(list(trained))).repeat_interleave(torch.tensor(sizes))
            one = merging.scaled(zero, one, depths.to(one), self.lines, self.alpha, self.beta)
        return torch.cat([one, merging.interpolation(whole[:, end:], over)])


@dataclass
class EMAMerge(Merging):
    """Each experience trains from what was merged after the last one, and is merged with it: a moving average over
    experiences that training follows.
    """

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        self.evaluated = self.merged(learner, [self.weights(learner.model), self.evaluated])
        self.go_on_from(learner, self.evaluated)
        self.settle(learner)


@dataclass
class EMAOnline(Merging):
    """A moving average over steps: avg <- decay avg + (1 - decay) weights; it answers, and the next experience trains
    from it. `operator` is not asked.
    """

    decay: Share = 0.99
    """what is left of the average at each step"""

    def around_batches(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        average = list(self.named(learner.model, self.evaluated).values())
        there = list(self.moved(learner.model).values())

        def follow(batch: Batch, kept: Any) -> None:
            with torch.no_grad():
                torch._foreach_lerp_(average, there, 1 - self.decay)

        return after_each(batches, follow)

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        self.go_on_from(learner, self.evaluated)
        self.settle(learner)


@dataclass
class ZeroShotMerge(Merging):
    """Each experience trains from the first weights; what answers is merged, one experience after another."""

    remakes: ClassVar[bool] = True

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.go_on_from(learner, self.first)
        super().learn(learner, experience)
        self.evaluated = self.merged(learner, [self.weights(learner.model), self.evaluated])
        self.settle(learner)


@dataclass
class FineTuneMerge(Merging):
    """After each experience the weights are merged with the first ones; that answers, and the next trains from it."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        self.evaluated = self.merged(learner, [self.weights(learner.model), self.first])
        self.go_on_from(learner, self.evaluated)
        self.settle(learner)


@dataclass
class OfflineMerge(Merging):
    """Experiences train one from another; the weights after each are kept, and all of them merged answer."""

    over_time: Literal[
        "uniform", "linear", "sqrt", "quadratic", "cubic", "fifth", "tenth", "exponential", "logarithmic"
    ] = "uniform"
    """interpolation and task arithmetic: how the weight of experiences grows with their number"""
    backwards: bool = False
    """true: the early ones weigh more"""
    with_first: bool = False
    """true: the first weights are merged too, as experience 1"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        if self.operator == "slerp":
            raise Mistake("slerp is between two networks, and offline_merge has many; choose another operator.")
        self.kept = [self.first] if self.with_first else []

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        self.kept.append(self.weights(learner.model))
        over = OVER_TIME[self.over_time](torch.arange(1, len(self.kept) + 1, dtype=torch.float64))
        over = (over / over.max()).flip(0) if self.backwards else over / over.max()
        self.evaluated = self.merged(learner, self.kept, over)
        self.settle(learner)


def moving(model: nn.Module) -> list[str]:
    """The names of what training moves: the parameters that train, then the floating-point statistics that the model
    keeps.
    """
    kept = model.state_dict(keep_vars=True)
    statistics = [name for name, t in model.named_buffers() if name in kept and t.is_floating_point()]
    return [name for name, p in model.named_parameters() if p.requires_grad] + statistics
