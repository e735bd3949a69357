"""Memory-adjusted operations: compute that counts a step's memory too, so that methods are compared at equal cost.

FoMo-in-Flux (Roth et al. 2024, "A Practitioner's Guide to Continual Multimodal Pretraining", NeurIPS, Datasets and
Benchmarks) budgets updates so: a step costs its floating-point operations times its memory, as a multiple of what
fine-tuning all weights takes. Half the memory buys twice the steps. How the paper normalises the product was not at
hand; so it is here.

What differs here, and why. They measure peak memory of a GPU. Here it is counted: weights, gradients, what the
optimiser keeps, and what a forward pass saves for the backward one. So it is the same number on each machine of a kind,
and a budget buys the same steps.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from clbench.batch import following
from clbench.errors import Mistake
from clbench.modules import resting
from clbench.strategy import Around, Loss, Strategy, layers
from clbench.types import Positive

if TYPE_CHECKING:
    from clbench.batch import Batch
    from clbench.learner import Learner
    from clbench.stream import Experience, Syllabus


@runtime_checkable
class Stepping(Protocol):
    """A strategy whose own rule moves weights, in the optimiser's place."""

    def remembers(self, learner: Learner) -> int:
        """How many numbers it keeps from step to step."""


MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1}
"""numbers that an optimiser keeps for each that trains; sgd: with momentum"""


@dataclass
class MemoryAdjusted(Around):
    """A strategy whose every experience takes as many steps as its share of the budget buys, all shares being equal.

    steps = floor((share - what is done beside steps) / (operations of a step * its memory / that of fine-tuning)). What
    is done beside steps (a Fisher information, a pass over features), and what a step costs where that is more than its
    price beforehand, is known from the experience before; what is left over or was overspent goes to the next. An
    experience is then as long as that: `learner.epochs` is left out of account, and schedules fit.
    """

    maf: Positive = 1.0
    """operations in all, of fine-tuning's memory"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        if syllabus.lessons is None:
            raise Mistake("budget.maf is shared out equally, and this stream has no end; choose budget.flops.")
        for layer in (layer for layer in layers(self.base) if not layer.budgeted):
            raise Mistake(
                f"{type(layer).__name__} has phases or epochs of its own, which budget.maf would cut off: choose "
                "budget.flops or budget.naive, or none."
            )
        self.lessons = syllabus.lessons
        self.whole = held(learner, Strategy().loss, learner.blank(learner.batch))
        before = learner.flops.total
        super().start(learner, syllabus)
        self.spent, self.beside, self.step = float(learner.flops.total - before), 0.0, 0.0
        self.stepped, self.steps = 0, 0
        self.afforded(learner, 0)

    def learn(self, learner: Learner, experience: Experience) -> None:
        count, multiple = self.afforded(learner, experience.index)
        before, self.stepped, self.steps = learner.flops.total, 0, 0
        with learner.lasting(count):
            super().learn(learner, experience)
        spent = (learner.flops.total - before) * multiple
        self.spent += spent
        self.step = self.stepped * multiple / max(self.steps, 1)
        self.beside = spent - self.stepped * multiple

    def afforded(self, learner: Learner, index: int) -> tuple[int, float]:
        """How many steps experience `index` may take, and the memory of one as a multiple of fine-tuning's.

        Raises:
            Mistake: not one.
        """
        blank, loss = learner.blank(learner.batch), self.whole_loss(learner)
        multiple = held(learner, loss, blank, self.remembered(learner)) / self.whole
        step = self.step or learner.price(blank, loss) * multiple
        left = self.maf * (index + 1) / self.lessons - self.spent - self.beside
        if (count := int(left // step)) < 1:
            least = self.lessons * (step + self.beside)
            raise Mistake(
                f"budget.maf={self.maf:g} leaves no step for experience {index}; one costs {step:.3g}, and all "
                f"{self.lessons} experiences need {least:.3g} at the least."
            )
        return count, multiple

    def around_batches(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        flops, kept = learner.flops, None
        while (batch := following(batches, kept)) is not None and learner.step < learner.until:
            before = flops.total
            kept = yield batch
            self.stepped += flops.total - before
            self.steps += 1
        batches.close()

    def remembered(self, learner: Learner) -> int | None:
        """Numbers that a layer's own rule of stepping keeps; None: the learner's optimiser steps."""
        rules = [layer.remembers(learner) for layer in layers(self.base) if isinstance(layer, Stepping)]
        return rules[0] if rules else None

    def whole_loss(self, learner: Learner) -> Loss:
        """The loss of the innermost strategy, as those around it give it."""
        *outer, inner = layers(self.base)
        loss: Loss = inner.loss
        for layer in reversed(outer):
            assert isinstance(layer, Around)
            loss = layer.around_loss(learner, loss)
        return loss


def held(learner: Learner, loss: Loss, batch: Batch, kept: int | None = None) -> int:
    """Bytes that a step on such a batch needs: weights, gradients, the optimiser's moments, activations.

    Args:
        kept: numbers that a rule of stepping other than the learner's optimiser keeps
    """
    parameters = list(learner.model.parameters())
    trains = [p for p in parameters if p.requires_grad]
    moments = 0 if learner.optimizer == "sgd" and not learner.momentum else MOMENTS[learner.optimizer]
    numbers = moments * sum(p.numel() for p in trains) if kept is None else kept
    size = parameters[0].element_size()
    weights = sum(p.nbytes for p in parameters) + sum(p.nbytes for p in trains)
    return weights + size * numbers + saved(learner, loss, batch)


def saved(learner: Learner, loss: Loss, batch: Batch) -> int:
    """Bytes that the forward pass of a step keeps for its backward pass beside the weights, each storage once."""
    from torch.autograd.graph import saved_tensors_hooks
    from torch.nn.attention import SDPBackend, sdpa_kernel

    own = {t.untyped_storage().data_ptr() for t in (*learner.model.parameters(), *learner.model.buffers())}
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with resting(learner.model), sdpa_kernel(SDPBackend.MATH), saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss(learner, batch)
    del value
    return sum(found.values())
