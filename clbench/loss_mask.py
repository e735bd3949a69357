"""Which labels a loss lets compete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from clbench.errors import Mistake

Competing = Literal["all", "seen", "experience", "batch"]
"""which labels do"""
NEEDS: Mapping[Competing, frozenset[str]] = {
    "all": frozenset(),
    "seen": frozenset({"single labels", "unmixed lessons"}),
    "experience": frozenset({"single labels", "unmixed lessons"}),
    "batch": frozenset({"single labels"}),
}
"""what a stream must offer: a sample that is mixed into a lesson may have labels that were not taught"""


class LossMask:
    """Logits with those labels at minus infinity that are not to compete for a sample.

    Those that compete are: `all`; `seen`, those taught so far; `experience`, those taught together with the sample's
    own; `batch`, those present in the batch.
    """

    def __init__(self, kind: Competing, classes: int, where: torch.device) -> None:
        self.kind = kind
        self.seen = torch.zeros(classes, dtype=torch.bool, device=where)
        self.together = torch.zeros(classes, classes, dtype=torch.bool, device=where)

    def teach(self, labels: Tensor) -> None:
        """From now on these labels (int64) have been taught, together."""
        self.seen[labels] = True
        self.together[labels[:, None], labels] = True

    def __call__(self, output: Tensor, y: Tensor) -> Tensor:
        """Logits, B x classes, of samples with labels `y` (B).

        Raises:
            Mistake: there is a mask, and labels are sequences.
        """
        if self.kind == "all":
            return output
        if y.ndim > 1:
            raise Mistake(f"learner.loss_mask={self.kind} is for one label a sample; sequences take `all`.")
        return output.masked_fill(~self._compete(y), -torch.inf)

    def _compete(self, y: Tensor) -> Tensor:
        match self.kind:
            case "seen":
                return self.seen
            case "experience":
                return self.together[y]
            case _:
                return torch.zeros_like(self.seen).index_fill_(0, y, True)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "together": self.together}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.together = state["seen"], state["together"]
