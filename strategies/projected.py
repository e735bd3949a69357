"""Optimisers that remember less: Adam in a small subspace of each matrix, around any strategy.

FRUGAL is Zmushko et al. 2024 ("FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training"): all weights move, a share of them by AdamW, the others by the sign of their gradient. GaLore is Zhao et al.
2024 ("GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", ICML): Adam on the gradient's projection
to its own leading directions.

What differs here, and why. Which subspace FRUGAL takes, how much GaLore's steps are scaled and how often it projects
anew is ours: random columns of each matrix, a factor of 1 and FRUGAL's interval. Vectors have AdamW in both. Rate,
decay and schedule are the learner's; its optimiser's own rule and momentum are not used. Both begin anew at each
experience, unless `learner.keep_optimizer` is set, and have moments apart in a phase that has an optimiser of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.optimizer import Moved, Optimizer
from clbench.strategies.subspace import GPM
from clbench.strategy import Around, layers
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, NonNegative, Positive

BETAS = 0.9, 0.999
EPSILON = 1e-8


@dataclass
class Moments:
    """What Adam remembers of one parameter, and the subspace that it is of."""

    basis: Tensor
    """FRUGAL: the numbers of the columns; GaLore: orthonormal columns; empty: there is none"""
    first: Tensor
    second: Tensor
    steps: int = 0

    def direction(self, gradient: Tensor) -> Tensor:
        """Adam's, for a gradient: first moment by the root of the second, both corrected for their start at 0."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.lerp_(gradient.square(), 1 - BETAS[1])
        first, second = (m / (1 - b**self.steps) for m, b in zip((self.first, self.second), BETAS, strict=True))
        return first / (second.sqrt() + EPSILON)


@dataclass
class Stepping(Around):
    """The base learns by another rule of moving weights: `direction`."""

    gap: Count = 200
    """steps after which a parameter has a new subspace"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        if any(isinstance(layer, GPM) for layer in layers(self.base)):
            raise Mistake(
                "gpm takes directions out of gradients, and another rule of moving weights brings them back. "
                "strategy.base=fot strategy.base.round=1 takes them out of each step instead."
            )
        super().start(learner, syllabus)
        self.moments: dict[str, Moments] = {}
        self.of_phase: dict[str, Moments] = {}

    def learn(self, learner: Learner, experience: Experience) -> None:
        if not learner.keep_optimizer:
            self.moments.clear()
        super().learn(learner, experience)

    def around_optimizer(self, learner: Learner, optimizer: Optimizer) -> Optimizer:
        names = {parameter: name for name, parameter in learner.model.named_parameters()}
        own = learner.optim is not None and optimizer.torch is learner.optim.torch
        if not own and optimizer.done == optimizer.first:
            self.of_phase.clear()
        moments = self.moments if own else self.of_phase

        @torch.no_grad()
        def move() -> None:
            for group in optimizer.torch.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        direction = self.direction(learner, moments, names[parameter], parameter.grad)
                        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])

        return Moved(optimizer, move)

    def direction(self, learner: Learner, moments: dict[str, Moments], name: str, gradient: Tensor) -> Tensor:
        """What is taken from a parameter at a rate of 1."""
        if gradient.ndim < 2:
            return remembered(moments, name, gradient).direction(gradient)
        return self.within(learner, moments, name, gradient.flatten(1)).view_as(gradient)

    def within(self, learner: Learner, moments: dict[str, Moments], name: str, gradient: Tensor) -> Tensor:
        """The same for a matrix, whose moments are of a subspace."""
        raise NotImplementedError

    def remembers(self, learner: Learner) -> int:
        """How many numbers are kept from step to step: two moments of each vector, and what a matrix has."""
        trains = [p for p in learner.model.parameters() if p.requires_grad]
        return sum(2 * p.numel() if p.ndim < 2 else self.of_matrix(*p.flatten(1).shape) for p in trains)

    def of_matrix(self, rows: int, columns: int) -> int:
        """How many numbers are kept of a matrix: moments and basis."""
        raise NotImplementedError


def remembered(moments: dict[str, Moments], name: str, like: Tensor) -> Moments:
    """The moments of a parameter; new ones of this shape where there are none."""
    if name not in moments:
        moments[name] = Moments(like.new_empty(0), torch.zeros_like(like), torch.zeros_like(like))
    return moments[name]


@dataclass
class Frugal(Stepping):
    """Of each matrix random columns move by AdamW, the others by the sign of their gradient, times `inactive`.

    New columns begin with moments of 0.
    """

    density: Fraction = 0.25
    """share of the columns that move by AdamW"""
    inactive: NonNegative = 0.1
    """factor of the rate of what moves by sign; the authors take 1 for training from scratch"""

    def within(self, learner: Learner, moments: dict[str, Moments], name: str, gradient: Tensor) -> Tensor:
        held = moments.get(name)
        if held is None or held.steps == self.gap:
            size = gradient.shape[1]
            drawn = learner.rng(f"columns of {name}").permutation(size)[: round(self.density * size)]
            basis = torch.from_numpy(drawn).to(gradient.device)
            zeros = torch.zeros_like(gradient[:, basis])
            held = moments[name] = Moments(basis, zeros, zeros.clone())
        moved = held.direction(gradient[:, held.basis])
        return (gradient.sign() * self.inactive).index_copy_(1, held.basis, moved)

    def of_matrix(self, rows: int, columns: int) -> int:
        active = round(self.density * columns)
        return (2 * rows + 1) * active


@dataclass
class GaLore(Stepping):
    """Each matrix moves within the `rank` leading directions of its gradient, its shorter side's, by AdamW in them.

    A new projection leaves the moments as they are.
    """

    rank: Count = 8
    """of what a matrix moves by, between two projections"""
    scale: Positive = 1.0
    """factor of the rate of matrices"""

    def within(self, learner: Learner, moments: dict[str, Moments], name: str, gradient: Tensor) -> Tensor:
        tall = gradient.shape[0] > gradient.shape[1]
        wide = gradient.T if tall else gradient
        rank = min(self.rank, len(wide))
        held = remembered(moments, name, wide[:rank])
        if held.steps % self.gap == 0:
            held.basis = torch.linalg.svd(wide, full_matrices=False)[0][:, :rank].contiguous()
        with learner.spending("projection", wide.shape):
            moved = self.scale * held.basis @ held.direction(held.basis.T @ wide)
        return moved.T if tall else moved

    def of_matrix(self, rows: int, columns: int) -> int:
        short, long = sorted((rows, columns))
        return min(self.rank, short) * (2 * long + short)
