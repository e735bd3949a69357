"""How much compute training may take, of any strategy on any stream."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from clbench.batch import following
from clbench.errors import Mistake
from clbench.maf import MemoryAdjusted
from clbench.strategy import Around, Strategy
from clbench.types import Positive

if TYPE_CHECKING:
    from clbench.batch import Batch
    from clbench.learner import Learner
    from clbench.stream import Experience, Syllabus


@dataclass
class Budget:
    """Floating-point operations of training in the whole stream; at most one of these is given."""

    flops: Positive | None = None
    """operations; null: no limit"""
    naive: Positive | None = None
    """as a multiple of what plain fine-tuning of all parameters would take; null: no limit"""
    maf: Positive | None = None
    """memory-adjusted operations, which decide how many steps an experience takes: clbench/maf.py; null: no limit"""

    def around(self, strategy: Strategy) -> Strategy:
        """The strategy under this budget; itself where there is none.

        Raises:
            Mistake: two budgets are given.
        """
        given = [f"budget.{name}={value:g}" for name, value in vars(self).items() if value]
        if len(given) > 1:
            raise Mistake(f"{' '.join(given)}: give one budget, not {('two', 'three')[len(given) - 2]}.")
        if self.maf:
            return MemoryAdjusted(strategy, self.maf)
        return Budgeted(strategy, self.flops, self.naive) if given else strategy

    def __str__(self) -> str:
        if self.maf:
            return f"{self.maf:g} memory-adjusted operations"
        return f"{self.flops:g} operations" if self.flops else f"{self.naive:g} x naive" if self.naive else "none"


@dataclass
class Budgeted(Around):
    """A strategy whose training on each experience stops when the compute for it is spent.

    An experience's share goes by the cost of fine-tuning on it; what one leaves is there for the next. There is no
    further step where the last one's cost is more than what is left. What is no step (a pass over features, say)
    counts, and is not stopped.
    """

    flops: Positive | None = None
    """operations in all"""
    naive: Positive | None = None
    """as a multiple of plain fine-tuning, where `flops` is not given"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        plain = [learner.plain_cost(size) for size in syllabus.sizes]
        whole = self.flops or (self.naive or 0.0) * sum(plain)
        self.limits = [whole * share / sum(plain) for share in accumulate(plain)]
        self.limit, self.step = 0.0, learner.plain_cost(learner.batch) // learner.epochs
        super().start(learner, syllabus)

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.limit = self.limits[experience.index]
        super().learn(learner, experience)

    def around_batches(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        flops, kept = learner.flops, None
        while (batch := following(batches, kept)) is not None and flops.total + self.step <= self.limit:
            before = flops.total
            kept = yield batch
            self.step = flops.total - before
        batches.close()
