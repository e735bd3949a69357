"""CorDA: LoRA in those directions of a layer that matter least to what it has been given so far.

Yang et al. 2024 ("CorDA: Context-Oriented Decomposition Adaptation of Large Language Models", NeurIPS), in its
knowledge-preserved mode and the form of the authors' code: with C = X X^T of a layer's inputs X, U S V^T = W C, the
directions of smallest singular value become B = U sqrt(S) and A = sqrt(S) V^T C^-1; W - B A stands still.

What differs here, and why. They take X from general data, once. Here a layer's C is summed up over the experiences that
have been learned, and the decomposition is made anew before each: B A goes back into W first, which changes no answer.
Before the first experience nothing is known to be worth keeping, and C is the identity; later ones are scaled as it is,
so that A and B are of one size whatever the number of samples. Their damping is doubled until the inverse is good to
5 %; in double precision it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clbench.adapters import lora, merge
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.strategies.tuners import Tuner, linear
from clbench.stream import Experience
from clbench.subspace import hooked
from clbench.types import Count, NonNegative


@dataclass
class CorDA(Tuner):
    """The base learns with A and B of LoRA, which begin in the directions that the layer's inputs so far need least.

    The weights of the network are parted anew at each experience: what holds them where they were (`ewc`, `si`,
    `ema_merge`) would hold what is no longer there, and is refused.
    """

    remakes: ClassVar[bool] = True

    rank: Count = 8
    """of B A"""
    where: str = "all"
    """which linear layers, as in `lora`"""
    samples: Count = 256
    """of an experience, un-augmented, whose inputs are summed up after it"""
    damping: NonNegative = 0.01
    """what is added to the diagonal of C, whose mean is 1"""

    def attach(self, learner: Learner) -> list[str]:
        names = lora(learner.model, linear(learner.model, self.where), self.rank)
        self.layers = [name.removesuffix(".lora_a") for name in names if name.endswith("lora_a")]
        self.inputs: dict[str, Tensor] = {}
        sizes = [min(learner.model.get_parameter(f"{layer}.weight").shape) for layer in self.layers]
        if min(sizes) < self.rank:
            raise Mistake(f"strategy.rank={self.rank}: the smallest of these layers has {min(sizes)} directions.")
        return names

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.part(learner.model)
        super().learn(learner, experience)
        self.look(learner, experience)

    @torch.no_grad()
    def part(self, model: nn.Module) -> None:
        """W <- W + B A, then its least directions are A and B, and W <- W - B A."""
        merge(model)
        for layer in self.layers:
            module: Any = model.get_submodule(layer)
            a, b = least(module.weight, self.rank, self.inputs.get(layer), self.damping)
            module.lora_a.copy_(a)
            module.lora_b.copy_(b)
            module.weight -= module.difference()

    @torch.no_grad()
    def look(self, learner: Learner, experience: Experience) -> None:
        """Add up X X^T of each layer over some samples of an experience."""
        data = learner.near(experience.train)
        drawn = torch.from_numpy(learner.rng("corda").permutation(len(data))[: self.samples])
        with hooked(learner.model, {layer: partial(self.take, layer) for layer in self.layers}):
            for positions in drawn.to(data.index.device).split(learner.eval_batch):
                x = learner.encode(learner.gather(data, positions)[0])
                with learner.spending("inputs", x.shape):
                    learner(x)

    def take(self, layer: str, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        """Go on with what a layer was given."""
        x = given[0].flatten(0, -2).double()
        self.inputs[layer] = self.inputs.get(layer, torch.zeros_like(x.T @ x)) + x.T @ x


def least(weight: Tensor, rank: int, inputs: Tensor | None = None, damping: float = 0.0) -> tuple[Tensor, Tensor]:
    """A (rank x inputs) and B (outputs x rank) of the directions of W C with the smallest singular values, in double
    precision.

    Args:
        inputs: X X^T, inputs x inputs, which is scaled to a mean diagonal of 1; None: the identity.
        damping: what is added to the diagonal.
    """
    w = weight.detach().double()
    c = identity = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
    if inputs is not None:
        c = inputs / inputs.diagonal().mean() + damping * identity
    u, s, v = torch.linalg.svd(w @ c, full_matrices=False)
    root = s[-rank:].sqrt()
    a = torch.linalg.solve(c, root[:, None] * v[-rank:], left=False)
    return a, u[:, -rank:] * root
