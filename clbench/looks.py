"""When to look within an experience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clbench.optimizer import Optimizer


class Looks:
    """`look(n)` is called n times an experience for each n in `counts`, evenly over the steps of its optimiser."""

    def __init__(self, counts: Sequence[int] = (), look: Callable[[int], None] = lambda count: None) -> None:
        self.counts, self.look = counts, look

    def next(self, optimizer: Optimizer) -> int:
        """The step of an optimiser at which a look is next due; -1: none is."""
        done, steps = optimizer.done - optimizer.first, optimizer.steps
        after = [-(-(done * n // steps + 1) * steps // n) for n in self.counts]
        return min((optimizer.first + step for step in after if step <= steps), default=-1)

    def due(self, optimizer: Optimizer) -> list[int]:
        """The counts whose look is due after the step that an optimiser has just done."""
        done, steps = optimizer.done - optimizer.first, optimizer.steps
        return [n for n in self.counts if done <= steps and done * n // steps > (done - 1) * n // steps]
