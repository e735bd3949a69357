"""Lessons mixed with what came before: each batch has a share of the lesson, of the past, and of a pretraining pool.

The rules are those of FoMo-in-Flux (Roth et al. 2024, "A Practitioner's Guide to Continual Multimodal Pretraining",
NeurIPS, Datasets and Benchmarks), as its code has them: shares are cut to whole samples, what is left over is handed
out one by one, and while nothing is past its share goes to the two others. A mixture is `Data`, so any strategy trains
on it by `learner.batches(experience.train)` and knows nothing of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clbench.data import Data, Source

Pool = Literal["pretraining", "update", "buffer"]
"""update: the lesson; buffer: all lessons before it; pretraining: what the model began with"""


def split(size: int, shares: Mapping[Pool, float], past: bool) -> dict[Pool, int]:
    """How many samples of each pool a batch of `size` has.

    Args:
        shares: of each pool, summing to 1; the order decides who is first given what rounding leaves over
        past: whether there is a buffer; without one its samples are halved between update, which has an odd one, and
            pretraining, or all update's where pretraining has none
    """
    counts: dict[Pool, int] = {"update": 0, "buffer": 0, "pretraining": 0}
    counts |= {pool: int(size * share) for pool, share in shares.items()}
    for pool in itertools.islice(itertools.cycle(shares), size - sum(counts.values())):
        counts[pool] += 1
    if not past:
        free, parts = counts["buffer"], 1 + (counts["pretraining"] > 0)
        counts["buffer"] = 0
        counts["update"] += free // parts + free % parts
        counts["pretraining"] += free // parts if parts == 2 else 0
    if not shares.get("update"):
        counts["update"] = 0
    return counts


class Mixture(Data):
    """A lesson's samples; `batches` gives each batch its shares of the pools, in the order update, buffer, pretraining.

    Positions 0 to N - 1 are the lesson's own, and its length, labels and cost are those of the lesson alone. Those of
    the buffer and of the pretraining pool follow, and are asked for by none but `batches`. A pass shows as many samples
    as the lesson has, rounded up to whole batches: each pool is gone through in random order, over and over where that
    is more than it holds.
    """

    def __init__(
        self,
        source: Source,
        pools: Mapping[Pool, Tensor],
        shares: Mapping[Pool, float],
        *,
        lesson: int | None = None,
    ) -> None:
        super().__init__(source, pools["update"], lesson=lesson)
        self.pools, self.shares = pools, shares
        self._rows = torch.cat([pools["update"], pools["buffer"], pools["pretraining"]])

    def to(self, device: torch.device) -> Mixture:
        if self.index.device == device and self.source.x.device == device:
            return self
        pools: dict[Pool, Tensor] = {pool: rows.to(device) for pool, rows in self.pools.items()}
        return Mixture(self.source.to(device), pools, self.shares, lesson=self.lesson)

    def gather(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows.index_select(0, positions)
        return self.source.x.index_select(0, rows), self.source.y.index_select(0, rows)

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[Tensor]:
        steps, start = -(-len(self) // size), 0
        counts = split(size, self.shares, past=len(self.pools["buffer"]) > 0)
        parts = []
        for pool in ("update", "buffer", "pretraining"):
            there = len(self.pools[pool])
            drawn = start + around(there, steps * counts[pool], rng)
            parts.append(torch.from_numpy(drawn).to(self.index.device).view(steps, counts[pool]))
            start += there
        yield from torch.cat(parts, 1)


def around(there: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the numbers 0 to `there` - 1: all of them in random order, and again until it is enough."""
    rounds = -(-count // there) if count else 0
    return np.concatenate([np.empty(0, np.int64), *(rng.permutation(there) for _ in range(rounds))])[:count]
