"""Several networks of one architecture made into one, weight by weight. Each is a vector of all its weights.

Interpolation, and slerp between two (Shoemake 1985, SIGGRAPH); task arithmetic (Ilharco et al. 2023, ICLR); TIES (Yadav
et al. 2023, NeurIPS); DARE (Yu et al. 2024, ICML); breadcrumbs (Davari and Belilovsky 2024, ECCV); MagMax (Marczak et
al. 2024, ECCV); model stock (Jang, Yun and Han 2024, ECCV); LiNeS scales a change by depth (Wang et al. 2024). The
forms, and the shares that are cut, are those of FoMo-in-Flux (Roth et al. 2024, NeurIPS, Datasets and Benchmarks): TIES
drops the least fifth of each change, DARE a random fifth, breadcrumbs the least and the greatest fifth; all three then
elect signs. What a change is scaled by is ours where they say nothing: 1.

`models`: N x D, one network a row. `zero`: D, the weights that all of them began from; a row less `zero` is a change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

PARALLEL = 0.9995
"""cosine from which on slerp is a straight line"""


def interpolation(models: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weighted mean; `weights`: N, None: each the same."""
    if weights is None:
        return models.mean(0)
    return (weights / weights.sum()).to(models) @ models


def slerp(one: Tensor, other: Tensor, share: float, sizes: Sequence[int]) -> Tensor:
    """Along the arc from `other` to `one`, so far as `share`, in each tensor apart; `sizes`: of the tensors."""
    found = []
    for a, b in zip(one.split(list(sizes)), other.split(list(sizes)), strict=True):
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=0).clamp(-1, 1)
        angle = cosine.acos()
        near, far = (share * angle).sin() / angle.sin(), ((1 - share) * angle).sin() / angle.sin()
        line = share * a + (1 - share) * b
        found.append(torch.where(cosine.abs() > PARALLEL, line, near * a + far * b))
    return torch.cat(found)


def task_arithmetic(zero: Tensor, models: Tensor, weights: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """zero + scale * the weighted mean of the changes."""
    return zero + scale * (interpolation(models, weights) - zero)


def elected(changes: Tensor) -> Tensor:
    """Of each weight the mean of those changes that have the sign of their sum; 0 where none has (TIES)."""
    agree = (changes.sign() == changes.sum(0).sign()) & (changes != 0)
    return (changes * agree).sum(0) / agree.sum(0).clamp(min=1)


def ties(zero: Tensor, models: Tensor, trim: float, scale: float = 1.0) -> Tensor:
    """Of each change the least `trim` are dropped; then signs are elected."""
    changes = models - zero
    return zero + scale * elected(changes * (changes.abs() >= _order(changes, trim)))


def dare(zero: Tensor, models: Tensor, trim: float, rng: torch.Generator, scale: float = 1.0) -> Tensor:
    """Of each change a random `trim` are dropped, the others divided by 1 - trim; then signs are elected."""
    changes = models - zero
    kept = (torch.rand(changes.shape, generator=rng) >= trim).to(changes.device)
    return zero + scale * elected(changes * kept / (1 - trim))


def breadcrumbs(zero: Tensor, models: Tensor, trim: float, scale: float = 1.0) -> Tensor:
    """Of each change the least `trim` and the greatest `trim` are dropped; then signs are elected."""
    changes = models - zero
    size = changes.abs()
    kept = (size >= _order(changes, trim)) & (size <= _order(changes, 1 - trim))
    return zero + scale * elected(changes * kept)


def _order(changes: Tensor, share: float) -> Tensor:
    """The k-th smallest size in each row, k = share * D; 0 where k is 0: N x 1."""
    k = int(share * changes.shape[1])
    return changes.abs().kthvalue(k, dim=1, keepdim=True).values if k else changes.new_zeros(len(changes), 1)


def magmax(zero: Tensor, models: Tensor, scale: float = 1.0) -> Tensor:
    """Of each weight the greatest change."""
    changes = models - zero
    return zero + scale * changes.gather(0, changes.abs().argmax(0, keepdim=True))[0]


def model_stock(zero: Tensor, models: Tensor, sizes: Sequence[int]) -> Tensor:
    """Between `zero` and the mean, in each tensor apart: t = N cos / ((N - 1) cos + 1) of the way, where cos is the
    mean cosine between two changes, no less than 0.
    """
    number, found = len(models), []
    for start, part in zip(zero.split(list(sizes)), models.split(list(sizes), dim=1), strict=True):
        units = torch.nn.functional.normalize(part - start, dim=1)
        pairs = max(number * (number - 1), 1)
        cosine = ((units @ units.T).sum() - units.square().sum()).div(pairs).clamp(min=0)
        share = number * cosine / ((number - 1) * cosine + 1) if number > 1 else 1.0
        found.append(start + share * (part.mean(0) - start))
    return torch.cat(found)


def scaled(
    zero: Tensor,
    merged: Tensor,
    depths: Tensor,
    form: Literal["linear", "quadratic", "sqrt"],
    alpha: float,
    beta: float,
) -> Tensor:
    """LiNeS: the change times alpha + beta f(depth); `depths`: D, 0 at the input and 1 at the output."""
    power = {"linear": 1.0, "quadratic": 2.0, "sqrt": 0.5}[form]
    return zero + (alpha + beta * depths**power) * (merged - zero)


def depth(names: Sequence[str]) -> list[float]:
    """How deep each parameter lies, from 0 to 1, by its name and its place in the model's order: a transformer's blocks
    lie evenly, what is before them at 0 and what is after them at 1; of other networks the layers do.
    """
    layers = [match[0] if (match := re.match(r".*\bblocks\.\d+\b", name)) else "" for name in names]
    if not any(layers):
        layers = [name.rpartition(".")[0] for name in names]
    blocks = list(dict.fromkeys(filter(None, layers)))
    after, found = 0.0, []
    for layer in layers:
        if layer:
            after = blocks.index(layer) / max(len(blocks) - 1, 1)
        found.append(after)
    return found
