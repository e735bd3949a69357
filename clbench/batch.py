"""What a step trains on, and the stream of it, which is sent what the loss kept."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True)
class Batch:
    """What a step trains on."""

    x: Tensor
    """network input, B x ..., augmented"""
    y: Tensor
    """labels, B"""
    raw: Tensor
    """the same samples as they are stored, un-augmented; of joined batches, those of the first"""
    index: Tensor | None = None
    """their positions in the lesson, beyond its length, or below 0, where they were joined to it; None: they come from
    memory"""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """what memory kept beside the samples"""
    past: tuple[Batch, ...] = ()
    """draws from memory that the loss treats apart"""

    @property
    def shape(self) -> tuple[Any, ...]:
        """The sizes that the cost of a step depends on."""
        return (tuple(self.x.shape), *[p.shape for p in self.past])

    def joined(self, other: Batch | None) -> Batch:
        """This batch and another as one; itself where there is no other."""
        if other is None:
            return self
        return Batch(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]), self.raw, past=self.past)


def following(stream: Generator[Batch, Any, None], kept: Any) -> Batch | None:
    """The next batch of a stream that is sent what the loss kept of the one before; None: there is none."""
    try:
        return stream.send(kept)
    except StopIteration:
        return None


def after_each(batches: Generator[Batch, Any, None], act: Callable[[Batch, Any], None]) -> Generator[Batch, Any, None]:
    """The same batches; after each one's step `act(batch, kept)` is called with what the loss kept."""
    kept = None
    while (batch := following(batches, kept)) is not None:
        kept = yield batch
        act(batch, kept)
