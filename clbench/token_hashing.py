"""A vector for a sequence of tokens, by hashed n-grams."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HashedGrams(nn.Module):
    """The sum of the vectors of a sequence's n-grams, normalised, after a rectifier."""

    def __init__(self, width: int, table: int, near: int) -> None:
        super().__init__()
        self.table, self.near = table, near
        self.grams = nn.Embedding(table, width)
        self.norm = nn.LayerNorm(width)
        self.relu = nn.ReLU()
        nn.init.normal_(self.grams.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """B x width, of token numbers B x T (0: none)."""
        tokens = x.long()
        distance = torch.arange(1, self.near + 1, device=x.device)
        last = tokens[:, -self.near :]
        features = [tokens, last * 64 + distance[-last.shape[1] :], tokens[:, :-1] * 1_000_003 + tokens[:, 1:]]
        there = [tokens > 0, last > 0, tokens[:, :-1] > 0]
        rows = torch.cat([scattered(f, kind) for kind, f in enumerate(features)], 1) % self.table
        vectors = self.grams(rows) * torch.cat(there, 1)[..., None]
        return self.relu(self.norm(vectors.sum(1)))


def scattered(keys: Tensor, kind: int) -> Tensor:
    """Each number scattered over 0 .. 2^31 - 1, for each kind in another way."""
    keys = (keys + kind * 7_919) * 0x9E3779B1 % 2**40
    keys = (keys ^ (keys >> 15)) * 0x85EBCA6B % 2**40
    return (keys ^ (keys >> 13)) % 2**31
