"""Orthogonal training: weights move only where the inputs of earlier experiences do not notice.

GPM is Saha, Garg and Roy 2021 ("Gradient Projection Memory for Continual Learning", ICLR): the gradient of each step is
projected. FOT is Bakman, Yaldiz, Ezzeldin and Avestimehr 2024 ("Federated Orthogonal Training: Mitigating Global
Catastrophic Forgetting in Continual Federated Learning", ICLR) with one client: what a round of training moved is
projected, by whatever optimiser it was moved.

What differs here, and why. The authors' networks have no biases, and batch normalisation without running statistics;
networks here have both, so what has no basis (biases, normalisation with its running statistics, positions) stands
still after the first experience, as their normalisation weights do. One head serves all experiences: it is free where
each experience has labels of its own, as their heads are, and projected where experiences share labels, as theirs is on
permuted MNIST. FOT's sketches were not checked in its text.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from clbench.batch import Batch
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import groups
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.subspace import SubspaceProjector, projectable
from clbench.types import Count, Fraction, NonNegative


@dataclass
class Orthogonal(Strategy):
    """What GPM and FOT share: the subspaces of the inputs, when they grow, and what stands still."""

    threshold: Fraction | list[Fraction] = 0.97
    """share of the energy of a layer's inputs that its subspace holds after the first experience; or one for each
    layer, in the network's order; 0: nothing is projected"""
    threshold_step: NonNegative = 0.003
    """added to it at each further experience"""
    samples: Count = 300
    """of an experience, by which the subspaces grow after it"""
    project_head: bool | None = None
    """whether the head is projected as other layers are; null: where experiences share classes"""
    freeze_rest: bool = True
    """what has no subspace (biases, normalisation and its running statistics, positions) stands still after the first
    experience, but for a head that is not projected; false: it trains on"""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        head = set(groups(learner.model).get("head", ()))
        with_head = syllabus.shared if self.project_head is None else self.project_head
        layers = [path for path in projectable(learner.model) if with_head or f"{path}.weight" not in head]
        if isinstance(self.threshold, list) and len(self.threshold) != len(layers):
            raise Mistake(
                f"strategy.threshold={self.threshold}: {len(self.threshold)} values for {len(layers)} layers that are "
                f"projected: {', '.join(layers) or 'none'}. Give one for each, or a single one."
            )
        self.projector = SubspaceProjector(layers, self.sketch_columns())
        self.moving = {f"{path}.weight" for path in layers} | (set() if with_head else head)

    def sketch_columns(self) -> int | None:
        """Columns of a sketch of the inputs; None: there is none."""
        return None

    @contextmanager
    def frozen(self, learner: Learner, experience: Experience) -> Iterator[None]:
        """Within it, after the first experience, only what is projected and a free head train."""
        if experience.index and self.freeze_rest:
            with learner.only(self.moving):
                yield
        else:
            yield

    def remember(self, learner: Learner, experience: Experience) -> None:
        """The subspaces grow by the inputs of samples of an experience that has been learned."""
        train, layers = experience.train, self.projector.layers
        some = torch.from_numpy(learner.rng("samples").permutation(len(train))[: self.samples])
        start = self.threshold if isinstance(self.threshold, list) else [self.threshold] * len(layers)
        thresholds = [min(at + self.threshold_step * experience.index, 1.0) for at in start]
        self.projector.extend(learner, train.subset(some), thresholds)


@dataclass
class GPM(Orthogonal):
    """G <- G - G M M^T for the gradient G of each layer, outputs x inputs, and the basis M of its inputs so far."""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        moves_otherwise = {
            f"learner.optimizer={learner.optimizer}": learner.optimizer != "sgd",
            f"learner.weight_decay={learner.weight_decay:g}": learner.weight_decay > 0,
            f"learner.momentum={learner.momentum:g} with learner.keep_optimizer=true": (
                learner.momentum > 0 and learner.keep_optimizer
            ),
        }
        for setting in (setting for setting, on in moves_otherwise.items() if on):
            raise Mistake(
                f"{setting}: it moves weights within the subspaces that gpm takes out of gradients. "
                "strategy=fot strategy.round=1 takes them out of each step instead."
            )

    def learn(self, learner: Learner, experience: Experience) -> None:
        with self.frozen(learner, experience):
            super().learn(learner, experience)
        self.remember(learner, experience)

    def adjust(self, learner: Learner) -> None:
        weights = {layer: learner.model.get_parameter(f"{layer}.weight") for layer in self.projector.bases}
        self.projector.project(learner, {layer: w.grad for layer, w in weights.items() if w.grad is not None})


@dataclass
class FOT(Orthogonal):
    """D <- D - D M M^T for what a round of training moved each layer by, D, and the basis M of its inputs so far."""

    round: Count | None = 10
    """steps from one projection to the next, counted within an experience, at whose end there always is one; null: only
    there"""
    basis: Literal["exact", "sketch"] = "exact"
    """what directions are found in: all inputs; or their products with a Gaussian matrix, which take less memory"""
    columns: Count = 256
    """of a sketch, at most; a layer with fewer inputs has as many as these"""

    def sketch_columns(self) -> int | None:
        return self.columns if self.basis == "sketch" else None

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.steps, self.before = 0, self.weights(learner)
        with self.frozen(learner, experience):
            super().learn(learner, experience)
        self.project(learner)
        self.before = {}
        self.remember(learner, experience)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, None, None]:
        for batch in super().batches(learner, experience):
            yield batch
            self.steps += 1
            if self.round and self.steps % self.round == 0:
                self.project(learner)
                self.before = self.weights(learner)

    def weights(self, learner: Learner) -> dict[str, Tensor]:
        """Copies of the weights, as they are now, of layers with a basis."""
        model = learner.model
        return {layer: model.get_parameter(f"{layer}.weight").detach().clone() for layer in self.projector.bases}

    @torch.no_grad()
    def project(self, learner: Learner) -> None:
        """Project what has moved since the round began."""
        weights = {layer: learner.model.get_parameter(f"{layer}.weight") for layer in self.before}
        moved = {layer: w - self.before[layer] for layer, w in weights.items()}
        self.projector.project(learner, moved)
        for layer, w in weights.items():
            w.copy_(self.before[layer] + moved[layer])


PRESETS = [
    *(
        Preset(
            "gpm",
            "permuted_mnist",
            {"strategy.threshold": [0.95, 0.99, 0.99], "strategy.threshold_step": 0.0, "strategy.samples": 300},
            "Saha et al. 2021 (GPM), their code for permuted MNIST: thresholds and samples; its rate of 0.01 belongs "
            "to batches of 10",
            recipe=recipe,
            model="mlp",
        )
        for recipe in ("house", "der2020")
    ),
    Preset(
        "gpm",
        "cifar100",
        {"learner.lr": 0.1, "strategy.threshold": 0.9},
        "tuned here on validation (protocol first=3, seed 100, 4 candidates of learner.lr and threshold)",
        model="convbn",
    ),
]
