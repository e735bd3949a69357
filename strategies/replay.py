"""Replay: a few samples of the past are kept and trained on again.

ER is Chaudhry et al. 2019 ("On tiny episodic memories in continual learning") with reservoir sampling, in the form that
Buzzega et al. 2020 (DER) compare with: stream and memory in one batch and one mean, the batch offered to memory after
its step. GDumb is Prabhu, Torr and Dokania 2020.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from clbench.batch import Batch
from clbench.config import Preset
from clbench.data import Data, Source
from clbench.learner import Learner
from clbench.memory import GreedyBalanced, Memory, Reservoir
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, NonNegative, Positive


@dataclass
class ER(Strategy):
    """Experience replay: a step trains on the stream's batch and on as much of memory."""

    memory_size: Count = 500
    """samples kept"""
    every: Count = 1
    """memory is replayed at every so many steps; more: less compute"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.memory = Reservoir(self.memory_size)
        self.steps = 0

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        rng = learner.rng("memory")
        for batch in learner.batches(experience.train):
            self.steps += 1
            past = None if self.steps % self.every else learner.recall(self.memory, rng)
            yield batch.joined(past)
            self.memory.add(batch.raw, batch.y, rng)


@dataclass
class GDumb(Strategy):
    """Memory is all that is learned from: filled greedily and in balance as the stream goes by, and at its end the
    network is trained on it, from the initial weights.

    One cycle of warm restarts after another, each twice as long (Loshchilov and Hutter 2017), after an epoch at a
    tenth of the rate; CutMix (Yun et al. 2019) on half of the batches.
    """

    memory_size: Count = 500
    """samples kept"""
    sampler: Literal["greedy", "reservoir"] = "greedy"
    """greedy: balanced over classes, as in the paper; reservoir: as in Mammoth"""
    epochs: Count = 256
    """over memory, at the end"""
    batch: Count = 16
    """samples in a step"""
    max_lr: Positive = 0.05
    """rate at the start of a cycle"""
    min_lr: Positive = 0.0005
    """rate at the end of a cycle"""
    momentum: NonNegative = 0.9
    """of its optimiser"""
    weight_decay: NonNegative = 1e-6
    """of its optimiser"""
    cutmix: Fraction = 0.5
    """share of batches that are mixed; the paper mixes none of MNIST"""
    cutmix_alpha: Positive = 1.0
    """area of the patch ~ Beta(alpha, alpha)"""

    whole_stream: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"known length", "single labels"})
    budgeted: ClassVar[bool] = False

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.memory: Memory = {"greedy": GreedyBalanced, "reservoir": Reservoir}[self.sampler](self.memory_size)
        self.lessons = syllabus.lessons
        self.mixes = len(syllabus.shape) == 3

    def learn(self, learner: Learner, experience: Experience) -> None:
        rng, data = learner.rng("memory"), learner.near(experience.train)
        for positions in torch.from_numpy(rng.permutation(len(data))).to(data.index.device).split(1024):
            self.memory.add(*learner.gather(data, positions), rng)
        if experience.index + 1 != self.lessons:
            return
        a_pass = math.ceil(len(self.memory) / self.batch)
        learner.optim = learner.new_optimizer(
            a_pass * self.epochs,
            self.max_lr,
            factor=lambda progress: self.rate(round(progress * a_pass * self.epochs) // a_pass) / self.max_lr,
            kind="sgd",
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        for _ in learner.passes(self.epochs):
            learner.fit(self.batches(learner, experience), self.loss)

    def rate(self, epoch: int) -> float:
        """The rate of an epoch, from 0."""
        if epoch == 0:
            return self.max_lr / 10
        cycle = 2 ** int(math.log2(epoch))
        return self.min_lr + (self.max_lr - self.min_lr) * (1 + math.cos(math.pi * (epoch - cycle) / cycle)) / 2

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        memory, rng = self.memory, learner.rng("cutmix")
        assert memory.x is not None
        assert memory.y is not None
        kept = Source(memory.x[: len(memory)], memory.y[: len(memory)])
        for batch in learner.batches(Data(kept, torch.arange(len(memory))), self.batch):
            yield self.mixed(batch, rng) if self.mixes and rng.random() < self.cutmix else batch

    def mixed(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """A patch of each image replaced by that of another; `kept` says whose, and the share that remains."""
        height, width = batch.x.shape[-2:]
        side = math.sqrt(1 - rng.beta(self.cutmix_alpha, self.cutmix_alpha))
        row, column = rng.integers(height), rng.integers(width)
        top, bottom = np.clip([row - int(height * side) // 2, row + int(height * side) // 2], 0, height)
        left, right = np.clip([column - int(width * side) // 2, column + int(width * side) // 2], 0, width)
        other = torch.from_numpy(rng.permutation(len(batch.y))).to(batch.y.device)
        x = batch.x.clone()
        x[..., top:bottom, left:right] = batch.x[other][..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        kept = {"other": batch.y[other], "share": torch.tensor(share, dtype=torch.float32, device=x.device)}
        return Batch(x, batch.y, batch.raw, batch.index, kept)

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        logits = learner(batch.x)
        if not batch.kept:
            return learner.criterion(logits, batch.y)
        share = batch.kept["share"]
        return share * learner.criterion(logits, batch.y) + (1 - share) * learner.criterion(logits, batch.kept["other"])


_DER = "Buzzega et al. 2020 (DER); Mammoth, utils/best_args.py, method er"
_XDER = "Boschini et al. 2022 (X-DER); Mammoth, utils/best_args.py, method {}"
_RATES = {
    "mnist": {200: 0.01, 500: 0.1, 5120: 0.1},
    "cifar10": {200: 0.1, 500: 0.1, 5120: 0.1},
    "permuted_mnist": {200: 0.2, 500: 0.2, 5120: 0.2},
    "rotated_mnist": {200: 0.2, 500: 0.2, 5120: 0.2},
}

PRESETS = [
    *(
        Preset(name, "digits", {"strategy.memory_size": 100}, "untuned: a memory of 100, an experience has about 250")
        for name in ("er", "gdumb")
    ),
    *(
        Preset("er", stream, {"learner.lr": rate}, _DER, recipe="der2020", when={"memory_size": size})
        for stream, rates in _RATES.items()
        for size, rate in rates.items()
    ),
    *(
        Preset("er", stream, {"strategy.memory_size": 200}, "Weyssow et al. 2023; their code: 200 blocks", recipe="gpt")
        for stream in ("api_evolution", "api_releases")
    ),
    Preset("er", "mnist", {"learner.replay_batch": 10}, _DER, recipe="der2020"),
    Preset(
        "er",
        "cifar100_17",
        {"learner.lr": 0.1},
        "tuned here on validation (protocol first=3, seed 100, 3 candidates of learner.lr, by task/final_accuracy)",
        recipe="agem2019",
    ),
    *(
        Preset("er", "cifar100", {"learner.lr": 0.1}, _XDER.format("er"), recipe="xder2022", when={"memory_size": size})
        for size in (500, 2000)
    ),
    *(
        Preset("gdumb", stream, {"strategy.cutmix": 0.0}, "Prabhu et al. 2020: no CutMix on MNIST", recipe=recipe)
        for stream in ("mnist", "permuted_mnist", "rotated_mnist")
        for recipe in ("house", "der2020")
    ),
    *(
        Preset(
            "gdumb",
            "cifar100",
            {
                "strategy.epochs": 250,
                "strategy.cutmix": 1.0,
                "strategy.sampler": "reservoir",
                "strategy.momentum": momentum,
            },
            _XDER.format("gdumb"),
            recipe="xder2022",
            when={"memory_size": size},
        )
        for size, momentum in ((500, 0.9), (2000, 0.0))
    ),
]
