"""Coarse to fine tuning: the feed-forward layers of a few blocks train, each unit the less the more it matters already.

Zhang et al. 2024 ("Balancing Speciality and Versatility: A Coarse to Fine Framework for Supervised Fine-tuning Large
Language Model", Findings of ACL; CoFiTune), in the form of the authors' code, whose example trains the feed-forward
projections of the second quarter of the layers, with masks on both.

What differs here, and why. They tune once, and what matters already is what the pretrained model can; here that is
asked before each experience, with its samples, and a unit keeps the largest importance that it ever had, as their code
has it for several files of importances. The passes that are compared need dropout, which vision transformers do
without: it is turned on for them. The factor of their divergence cancels in the standardisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.adapters import transformer
from clbench.learner import Learner
from clbench.modules import of_head, resting
from clbench.strategy import Adjust, Around
from clbench.stream import Experience, Syllabus
from clbench.subspace import hooked
from clbench.types import Count, Share

OWN = ("weight", "bias")


@dataclass
class CoFiTune(Around):
    """The base learns with `fc1` and `fc2` of the blocks from a quarter to a half of the depth, and the head; gradients
    of a unit, an output of one of these layers, are multiplied by 1 - I.

    I = |tanh(z)|, z the unit's importance standardised over its layer: the sum over batches of the size of the gradient
    of KL(p || q) by a factor of 1 on what the unit gives, p and q the answers of two passes with dropout.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})

    soft: bool = True
    """false: the blocks alone, gradients as they are"""
    dropout: Share = 0.1
    """of the two passes"""
    probe_batches: Count = 16
    """of an experience, on which importance is measured"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        depth = len(transformer(learner.model).blocks)
        self.layers = [f"body.blocks.{n}.mlp.fc{i}" for n in range(depth // 4, max(depth // 2, 1)) for i in (1, 2)]
        super().start(learner, syllabus)
        self.importance: dict[str, Tensor] = {}

    def learn(self, learner: Learner, experience: Experience) -> None:
        if self.soft:
            for layer, found in self.measure(learner, experience).items():
                self.importance[layer] = torch.maximum(self.importance.get(layer, found), found)
        with learner.only({*of_head(learner.model), *(f"{layer}.{own}" for layer in self.layers for own in OWN)}):
            super().learn(learner, experience)

    def around_adjust(self, learner: Learner, adjust: Adjust | None) -> Adjust | None:
        def softened(learner: Learner) -> None:
            if adjust is not None:
                adjust(learner)
            for layer, importance in self.importance.items():
                for own in OWN:
                    gradient = learner.model.get_parameter(f"{layer}.{own}").grad
                    if gradient is not None:
                        gradient *= (1 - importance).view(-1, *[1] * (gradient.ndim - 1))

        return softened if self.importance else adjust

    def measure(self, learner: Learner, experience: Experience) -> dict[str, Tensor]:
        """I of each unit, by layer, on the network as it is."""
        model = learner.model
        sizes = {layer: len(model.get_parameter(f"{layer}.bias")) for layer in self.layers}
        gates = {layer: torch.ones(size, device=learner.where, requires_grad=True) for layer, size in sizes.items()}
        total = [torch.zeros_like(gate) for gate in gates.values()]
        learner.seed_globals("importance")
        with resting(model), dropping(model, self.dropout), hooked(model, {at: by(gate) for at, gate in gates.items()}):
            for batch in islice(learner.batches(experience.train), self.probe_batches):
                with learner.spending("importance", batch.x.shape):
                    p, q = (learner(batch.x).log_softmax(1) for _ in range(2))
                    divergence = F.kl_div(q, p, reduction="batchmean", log_target=True)
                    found = torch.autograd.grad(divergence, list(gates.values()))
                for one, gradient in zip(total, found, strict=True):
                    one += gradient.abs()
        return {layer: size_of(one.detach()) for layer, one in zip(gates, total, strict=True)}


def by(gate: Tensor) -> Callable[..., Tensor]:
    """A hook that multiplies what a module gives by a factor for each unit."""
    return lambda module, given, out: out * gate


def size_of(importance: Tensor) -> Tensor:
    """I of the units of one layer: |tanh| of their standardised importance."""
    return ((importance - importance.mean()) / importance.std().clamp(min=1e-12)).tanh().abs()


@contextmanager
def dropping(model: nn.Module, rate: float) -> Iterator[None]:
    """Within it the model's dropout modules drop at this rate, whatever else is in evaluation mode."""
    before = [(module, module.p, module.training) for module in model.modules() if isinstance(module, nn.Dropout)]
    try:
        for module, _, _ in before:
            module.p = rate
            module.train()
        yield
    finally:
        for module, p, training in before:
            module.p = p
            module.train(training)
