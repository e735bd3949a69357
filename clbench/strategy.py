"""How to learn from a stream."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from clbench.learner import Batch, Learner
    from clbench.stream import Experience, Syllabus


@dataclass
class Strategy:
    """How to learn from a stream. Override what differs; the defaults fine-tune.

    A run calls `start`, `learn` and `predict`; `learn` calls `batches`, `loss` and `adjust`. Fields are
    hyper-parameters and nothing else: state is what `start` creates, and whatever passes from one loop over
    `learner.passes()` to the next lives on `self`, so that a checkpoint can hold it.
    """

    version: ClassVar[int] = 1
    """raised when the same options learn something else than before"""
    needs: ClassVar[frozenset[str]] = frozenset()
    """what the stream must offer"""
    whole_stream: ClassVar[bool] = False
    """whether it learns only at the last experience; until then its exams are undefined"""
    resumable: ClassVar[bool] = True
    """False: its state can't be saved, and an interrupted run starts over"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        """Once, before the first experience: make memories, attach adapters."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        """One experience: what follows is the ordinary loop over epochs."""
        for _ in learner.passes():
            learner.fit(self.batches(learner, experience), self.loss, self.adjust)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        """The batches of one epoch. What `loss` kept of a batch comes back: `kept = yield batch`, after its step."""
        yield from learner.batches(experience.train)

    def loss(self, learner: Learner, batch: Batch) -> Tensor | tuple[Tensor, Any]:
        """The loss of a batch, or (loss, what to send back to `batches`). A function of the learner and the batch."""
        return learner.criterion(learner(batch.x), batch.y)

    def adjust(self, learner: Learner) -> None:
        """Between backward and the optimiser's step: project or mask gradients."""

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Logits, B x classes, for network input `x`. Changes nothing; called in evaluation mode, without gradients."""
        return learner(x)
