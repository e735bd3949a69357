"""What training costs, counted: floating-point operations of matrix products and convolutions.

Counted by `torch.utils.flop_counter` while a step of a new kind (what trains, batch shapes) runs for the first time,
then multiplied: a step of a known kind costs one look-up. Attention runs in its plain form while it is counted, since
fused kernels on the CPU count as nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Flops:
    """`total` is what was spent so far; `table` what a step of each kind costs."""

    def __init__(self) -> None:
        self.total = 0
        self.table: dict[Any, int] = {}

    @contextmanager
    def counting(self, kind: Any) -> Iterator[None]:
        """Count what runs inside, and remember it as the cost of `kind`."""
        with counted() as count:
            yield
        self.table[kind] = count()

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "table": self.table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.table = state["total"], state["table"]


@contextmanager
def counted() -> Iterator[Any]:
    """Count what runs inside; the value is a function that tells the sum."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        yield counter.get_total_flops
