"""Memory for a strategy that goes around another: the base's, where it has one, else one of its own."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from clbench.batch import Batch, after_each
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.memory import Reservoir
from clbench.strategy import Around, memory_of
from clbench.stream import Experience, Syllabus
from clbench.types import Count


@dataclass
class Remembering(Around):
    """A strategy around another that needs samples of the past; `memory_of(self)` gives them.

    A memory of its own is offered what the base trains on from the stream (all that was taught so far, around
    cumulative training), after each step of the experience's own optimiser; what a request says to forget is deleted
    from it.
    """

    memory_size: Count | None = None
    """samples kept where the base keeps none; null: 500 there, and the base's memory elsewhere"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        if memory_of(self.base) is None:
            self.memory = Reservoir(self.memory_size or 500)
        elif self.memory_size is not None:
            raise Mistake(
                f"The base of {self._name()} has a memory of its own: set strategy.base.memory_size, not memory_size."
            )

    def learn(self, learner: Learner, experience: Experience) -> None:
        if experience.forget and hasattr(self, "memory"):
            self.memory.delete(experience.forget)
        super().learn(learner, experience)

    def around_batches(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        if not hasattr(self, "memory"):
            return batches
        assert learner.optim is not None
        rng, own, before = learner.rng(f"{self._name()}'s memory"), learner.optim, learner.optim.done

        def offer(batch: Batch, kept: Any) -> None:
            if batch.index is not None and own.done > before:
                self.memory.add(batch.raw, batch.y, rng)

        return after_each(batches, offer)

    def _name(self) -> str:
        return type(self).__name__.lower()
