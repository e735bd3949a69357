"""Half fine-tuning: in each experience a fresh random half of the network trains, the other half stands still.

Hui et al. 2024 ("HFT: Half Fine-Tuning for Large Language Models", arXiv 2404.18466; ACL 2025). In every layer of a
language model they train two of the four attention matrices, half of the feed-forward matrices and half of the
normalisations; embeddings and head always. Known here from accounts of the paper, not from its text.

What differs here, and why: the networks. A transformer's block has two feed-forward layers, and its query, key and
value in one matrix, of which slices stand still (whole, where LoRA is on it); a residual block is halved
likewise, its frozen batch normalisation with its running statistics; a plain stack of layers counts as one block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from clbench.learner import Learner
from clbench.modules import tensors
from clbench.optimizer import Followed, Optimizer
from clbench.strategy import Adjust, Around
from clbench.stream import Experience, Syllabus
from clbench.types import Fraction

T = TypeVar("T")

BLOCK = re.compile(r"(.*\.)?\d+(?=\.)")
"""a path up to the innermost numbered module that what it names is in"""
SHORTCUTS = {"shortcut", "downsample"}


@dataclass
class HFT(Around):
    """The base learns with half of the network: in each block half of the layers of each kind, drawn afresh.

    Whole layers are frozen, which saves their gradients; of a fused query, key and value, what is not drawn has no
    gradient, and is put back after each step.
    """

    narrows: ClassVar[bool] = True

    granularity: Literal["category", "layer", "model"] = "category"
    """what is halved: the layers of each kind (attention, linear, convolution, normalisation, shortcut) in each block;
    the blocks, each whole; or all layers together"""
    ratio: Fraction = 0.5
    """share that trains; where a kind's layers in a block can't be shared out so, more of them train in some blocks and
    fewer in others"""
    redraw: Literal["experience", "epoch"] = "experience"
    """how long a draw lasts"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.held: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}

    def learn(self, learner: Learner, experience: Experience) -> None:
        if self.redraw == "epoch":
            super().learn(learner, experience)
        else:
            with self.half(learner):
                super().learn(learner, experience)

    def around_passes(self, learner: Learner, passes: Iterator[int]) -> Iterator[int]:
        for epoch in passes:
            if self.redraw == "epoch":
                with self.half(learner):
                    yield epoch
            else:
                yield epoch

    @contextmanager
    def half(self, learner: Learner) -> Iterator[None]:
        """Within it, a fresh half of the network trains."""
        everything = parts(learner.model)
        drawn = draw(everything, self.granularity, self.ratio, learner.rng("half"))
        still = [part for part in everything if part not in drawn]
        trains = tensors(learner.model).keys() - {name for part in still for name in part.names}
        trains |= {name for part in drawn for name in part.names}
        self.held = held(learner.model, [part for part in still if trains & set(part.names)])
        with learner.only(trains):
            yield
        self.held, self.values = {}, {}

    def around_adjust(self, learner: Learner, adjust: Adjust | None) -> Adjust | None:
        def masked(learner: Learner) -> None:
            if adjust is not None:
                adjust(learner)
            for name, rows in self.held.items():
                gradient = learner.model.get_parameter(name).grad
                if gradient is not None:
                    gradient.index_fill_(0, rows, 0.0)

        return masked if self.held else adjust

    def around_optimizer(self, learner: Learner, optimizer: Optimizer) -> Optimizer:
        @torch.no_grad()
        def put_back() -> None:
            for name, rows in self.held.items():
                learner.model.get_parameter(name).index_copy_(0, rows, self.values[name])

        if self.held and not self.values:  # by now the base has put the weights where it begins
            self.values = {name: learner.model.get_parameter(name).detach()[rows] for name, rows in self.held.items()}
        return Followed(optimizer, put_back) if self.held else optimizer


class Part(NamedTuple):
    """What trains or stands still as one: a layer; or query, key or value, as one of three slices of the rows."""

    kind: str
    block: str
    """the path of the block that it is in; empty where there is none"""
    names: tuple[str, ...]
    """of parameters and running statistics"""
    slice: int | None = None
    """which third of their rows; None: all"""


def parts(model: nn.Module) -> list[Part]:
    """The parts of a network that may stand still.

    What is in none always trains: the head and, where there are blocks, what is outside of them (stem, embeddings, a
    last normalisation).
    """
    own = grouped(tensors(model), lambda name: name.rpartition(".")[0])
    found: list[Part] = []
    for names in own:
        path = names[0].rpartition(".")[0]
        module, block = model.get_submodule(path), BLOCK.match(path)
        kind, where = kind_of(path, module), block[0] if block else ""
        if kind and path.partition(".")[0] != "head":
            plain = {name.rpartition(".")[2] for name in names} <= {"weight", "bias"}
            fused = isinstance(module, nn.Linear) and plain and path.endswith("qkv") and len(module.weight) % 3 == 0
            found += [Part(kind, where, tuple(names), third) for third in (range(3) if fused else [None])]
    shortcuts = grouped((part for part in found if part.kind == "shortcut"), lambda part: part.block)
    whole = [Part("shortcut", some[0].block, sum((part.names for part in some), ())) for some in shortcuts]
    found = [part for part in found if part.kind != "shortcut"] + whole
    return [part for part in found if part.block] or found


def kind_of(path: str, module: nn.Module) -> str:
    """The kind of a layer; empty where a module is none."""
    norm, words = "norm" in type(module).__name__.lower(), set(path.split("."))
    if not (norm or isinstance(module, nn.Linear | _ConvNd)):
        return ""
    if words & SHORTCUTS:
        return "shortcut"
    if norm:
        return "normalisation"
    if isinstance(module, _ConvNd):
        return "convolution"
    return "attention" if "attn" in words else "linear"


def draw(parts: Sequence[Part], granularity: str, ratio: float, rng: np.random.Generator) -> set[Part]:
    """A random share of the parts, as `HFT.granularity` says."""
    apart, whole = granularity == "category", granularity == "layer"
    units = grouped(parts, lambda part: part.block if whole and part.block else part)
    drawn: set[Part] = set()
    for alike in grouped(units, lambda unit: unit[0].kind if apart else ""):
        pools = grouped(alike, lambda unit: unit[0].block if apart else "")
        drawn.update(part for unit in shared(pools, ratio, rng) for part in unit)
    return drawn


def shared(pools: Sequence[Sequence[T]], ratio: float, rng: np.random.Generator) -> list[T]:
    """A random share of each pool, rounded up in so many of them, at random, that it is the share of all."""
    fair = [ratio * len(pool) for pool in pools]
    counts = [math.floor(count + 1e-9) for count in fair]
    rest = [at for at, count in enumerate(fair) if count - counts[at] > 1e-9]
    up = math.floor(sum(fair) - sum(counts) + rng.random())
    for at in rng.permutation(rest)[:up].astype(int):
        counts[at] += 1
    return [pool[at] for pool, count in zip(pools, counts, strict=True) for at in rng.permutation(len(pool))[:count]]


def held(model: nn.Module, parts: Iterable[Part]) -> dict[str, Tensor]:
    """By parameter, the rows that such parts hold of it."""
    found: dict[str, Tensor] = {}
    for name, third in ((name, part.slice) for part in parts for name in part.names):
        parameter = model.get_parameter(name)
        size = len(parameter) // 3
        rows = torch.arange(size, device=parameter.device) + size * (third or 0)
        found[name] = torch.cat([found[name], rows]) if name in found else rows
    return found


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Items of one key together, in the order in which they come."""
    found: dict[Hashable, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())
