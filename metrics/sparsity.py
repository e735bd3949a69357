"""Which blocks of a network a request to forget changed, and which it let go.

GS-LoRA (Zhao et al. 2024, "Continual Forgetting for Pre-trained Vision Models", CVPR) claims that its group lasso
leaves few of them. No optimiser that steps by Adam brings a norm to exactly 0, so a block counts as let go where its
norm is small beside the largest; how small is ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clbench.metric import Look, Probe, Row
from clbench.strategy import having
from clbench.types import Fraction


@dataclass
class Sparsity(Probe):
    """Right after each request: `sparsity/norm` of each block, what the strategy calls its `norms`: the length of all
    that the request added to it; `sparsity/let_go`: how many of them are at most `below` times the largest. Undefined
    for a strategy that has no such norms.
    """

    below: Fraction = 0.01
    """of the largest norm, what counts as nothing"""

    def __call__(self, look: Look) -> Iterable[Row]:
        if not any(exam.until == look.step - 1 for exam in look.exams):
            return
        grouping = having(look.strategy, "norms")
        if grouping is None:
            note = f"{type(look.strategy).__name__} has no norms of blocks"
            yield Row(look.step, look.at, "sparsity/let_go", "", None, 0, note)
            return
        norms = grouping.norms.tolist()
        for number, norm in enumerate(norms):
            yield Row(look.step, look.at, "sparsity/norm", f"block {number}", norm)
        let_go = sum(norm <= self.below * max(norms) for norm in norms)
        yield Row(look.step, look.at, "sparsity/let_go", "", let_go, len(norms))
