"""Sensitivity-aware tuning: what an experience's gradients ask for trains, low-rank where a matrix asks for much.

He, Cai, Zhang, Tao and Zhuang 2023 ("Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning", ICCV), in the form of
the authors' code: squared gradients of 16 batches say which weights; a matrix of which many are among them is given
LoRA, another trains at these entries, a vector as a whole or not at all.

What differs here, and why. They tune once; here each experience chooses anew, from its own samples, before it is
learned. Names of weights may not change, so every matrix of a linear layer has its A and B from the start, with B zero:
what is not chosen in an experience stands still with what it learned in those before. A transformer's query, key and
value are matrices of their own, and so are their biases vectors, though they lie in one. Sensitivities are of the
weights themselves, in evaluation mode. Convolutions have no LoRA, only entries.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor, nn

from clbench.adapters import lora
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import resting
from clbench.seeds import derive
from clbench.strategies.sparse import Sparse
from clbench.strategies.tuners import is_transformer
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, Positive

EMBEDDINGS = ("body.cls_token", "body.pos_embed", "body.patch_embed.", "body.reg_token")
"""what a transformer's sensitivities leave out, beside the head"""


@dataclass
class SPT(Sparse):
    """The base learns with the most sensitive weights, and the head.

    Sensitivity is the sum of squared gradients over some batches. Of the weights most sensitive, as many that what
    trains is within `share`: a matrix of a linear layer with rank * (inputs + outputs) / alpha of them or more trains A
    and B of LoRA, any other matrix these entries, a vector of length d with d / beta of them or more all of it.
    """

    share: Fraction = 0.005
    """what trains at most, of the weights that may, by number, without the head"""
    rank: Count = 8
    """of LoRA"""
    alpha: Positive = 10.0
    """how early a matrix is given LoRA"""
    beta: Positive = 5.0
    """how early a vector trains"""
    probe_batches: Count = 16
    """of an experience, whose gradients are looked at"""

    version: ClassVar[int] = 2

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        model = learner.model
        self.candidates = [name for name, _ in model.named_parameters() if may(name, is_transformer(model))]
        linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
        self.layers = {path: matrices(path, linear[path]) for path in linear if f"{path}.weight" in self.candidates}
        for count in sorted(set(self.layers.values())):
            alike = [re.escape(path.removeprefix("body.")) for path in self.layers if self.layers[path] == count]
            parts = range(count) if count > 1 else None
            lora(model, "|".join(alike), self.rank, parts=parts, seed=derive(learner.seed, f"lora of {count}"))
        super().start(learner, syllabus)
        if not any(model.get_parameter(name).requires_grad for name in self.candidates):
            raise Mistake("spt trains the most sensitive weights of the body, and of this model's none trains.")

    def learn(self, learner: Learner, experience: Experience) -> None:
        entries, low = self.choose(self.sensitivity(learner, experience))
        for layer, matrix in low:
            for name in (f"{layer}.lora_a", f"{layer}.lora_b"):
                whole = torch.zeros_like(learner.model.get_parameter(name), dtype=torch.bool)
                entries.setdefault(name, whole)[matrix] = True
        with self.masked(learner, entries):
            super().learn(learner, experience)

    def sensitivity(self, learner: Learner, experience: Experience) -> dict[str, Tensor]:
        """Of each weight that may train, the sum over batches of the squared gradient of the loss; nothing is moved."""
        there = {name: learner.model.get_parameter(name) for name in self.candidates}
        weights = [weight for weight in there.values() if weight.requires_grad]
        found = [torch.zeros_like(weight) for weight in weights]
        with resting(learner.model):
            for batch in islice(learner.batches(experience.train), self.probe_batches):
                with learner.spending("sensitivity", batch.x.shape):
                    loss = learner.criterion(learner(batch.x), batch.y)
                    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
                for total, gradient in zip(found, gradients, strict=True):
                    if gradient is not None:
                        total += gradient.square()
        names = [name for name, weight in there.items() if weight.requires_grad]
        return {name: total.detach() for name, total in zip(names, found, strict=True)}

    def choose(self, sensitivity: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[tuple[str, int]]]:
        """What trains: by name masks of entries, and the matrices that are given LoRA, each as its layer's path and its
        number there.

        As many weights are taken as `share` allows, the most sensitive first; one of sensitivity 0 never is.
        """
        values = torch.cat([one.flatten() for one in sensitivity.values()])
        budget = int(self.share * len(values))
        values = values[values > 0].sort(descending=True).values

        def masks(taken: int) -> dict[str, list[Tensor]]:
            least = values[taken - 1] if taken else torch.inf
            return {name: [*(one >= least).chunk(self.within(name))] for name, one in sensitivity.items()}

        def trains(taken: int) -> int:
            return sum(self.worth(name, mask)[0] for name, some in masks(taken).items() for mask in some)

        found = masks(bisect_right(range(len(values) + 1), budget, key=trains) - 1)
        low = [
            (name.removesuffix(".weight"), number)
            for name, some in found.items()
            for number, mask in enumerate(some)
            if self.worth(name, mask)[1]
        ]
        entries = {name: torch.cat([self.entries(name, mask) for mask in some]) for name, some in found.items()}
        return {name: mask for name, mask in entries.items() if mask.any()}, low

    def within(self, name: str) -> int:
        """How many matrices, or vectors, stand one above another in a parameter."""
        return self.layers.get(name.rpartition(".")[0], 1)

    def entries(self, name: str, mask: Tensor) -> Tensor:
        """Which entries of a matrix or a vector train themselves, for those taken of it."""
        count, low = self.worth(name, mask)
        if low or not count:
            return torch.zeros_like(mask)
        return torch.ones_like(mask) if mask.ndim == 1 else mask

    def worth(self, name: str, mask: Tensor) -> tuple[int, bool]:
        """How many weights train for those taken of a matrix or a vector, and whether they are LoRA's."""
        taken, whole = int(mask.sum()), mask.numel()
        if mask.ndim == 1:
            return (whole if taken and taken >= whole / self.beta else 0), False
        if name.removesuffix(".weight") in self.layers:
            low = self.rank * sum(mask.shape)
            if taken and taken >= low / self.alpha:
                return low, True
        return taken, False


def matrices(path: str, layer: nn.Linear) -> int:
    """How many matrices a linear layer has: a fused query, key and value three."""
    return 3 if path.endswith("qkv") and len(layer.weight) % 3 == 0 else 1


def may(name: str, embeds: bool) -> bool:
    """Whether a weight of this name may train by its sensitivity."""
    return not name.startswith(("head.", *(EMBEDDINGS if embeds else ())))
