"""Averaged gradient episodic memory: no step may raise the loss on memory, as far as its gradient tells.

Chaudhry, Ranzato, Rohrbach and Elhoseiny 2019 ("Efficient Lifelong Learning with A-GEM", ICLR). Let g be the gradient
on the stream's batch and r that on a batch of memory; where g r < 0, g - (g r / r r) r is stepped along instead.

Memory is filled as in the first version of Mammoth: at each experience's end with memory_size // experiences samples,
drawn at random; its later versions keep one batch an experience, whatever the size. The reference pass is one in
training mode, as there: batch normalisation normalises by memory's batch in it, and its running statistics take that
batch in, after the stream's. Parameters to which the stream's batch gives no gradient are in neither product, and
stay.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from clbench.batch import Batch
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.memory import Memory, Reservoir
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count


@dataclass
class AGEMR(Strategy):
    """A-GEM whose memory is a reservoir, and so needs no task borders (Buzzega et al. 2020, A-GEM-R)."""

    memory_size: Count = 500
    """samples kept"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.memory: Memory = Reservoir(self.memory_size)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        rng = learner.rng("memory")
        for batch in learner.batches(experience.train):
            yield batch
            self.memory.add(batch.raw, batch.y, rng)

    def adjust(self, learner: Learner) -> None:
        past = learner.recall(self.memory, learner.rng("reference"))
        if past is None:
            return
        moved = [p for p in learner.model.parameters() if p.grad is not None]
        with learner.spending("reference", past.shape):
            loss = learner.criterion(learner(past.x), past.y)
            reference = torch.autograd.grad(loss, moved, materialize_grads=True)
        project([p.grad for p in moved], reference)  # type: ignore[misc]


@dataclass
class AGEM(AGEMR):
    """A-GEM: memory takes an equal share from each experience, when it is over."""

    needs: ClassVar[frozenset[str]] = frozenset({"known length", "task borders"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        assert syllabus.lessons is not None
        self.memory = Memory(self.memory_size)
        self.share = self.memory_size // syllabus.lessons
        if not self.share:
            raise Mistake(
                f"agem keeps memory_size // experiences samples of each, and strategy.memory_size={self.memory_size} "
                f"is too small for {syllabus.lessons} experiences. Give it more, or take agem_r."
            )

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        rng, data = learner.rng("memory"), learner.near(experience.train)
        drawn = torch.from_numpy(rng.permutation(len(data))[: self.share]).to(data.index.device)
        self.memory.add(*learner.gather(data, drawn), rng)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        yield from learner.batches(experience.train)


@torch.no_grad()
def project(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> None:
    """Take from gradients, in place, what goes against a reference, likewise in parts; nothing where they agree."""
    along = torch.stack([(g * r).sum() for g, r in zip(gradients, reference, strict=True)]).sum()
    square = torch.stack([r.square().sum() for r in reference]).sum()
    share = torch.where(along < 0, along / square, 0.0)
    for g, r in zip(gradients, reference, strict=True):
        g.sub_(share * r)


_DER = "Buzzega et al. 2020 (DER); Mammoth, utils/best_args.py, method {}"

PRESETS = [
    *(
        Preset(name, "digits", {"strategy.memory_size": 100}, "untuned: a memory of 100, an experience has about 250")
        for name in ("agem", "agem_r")
    ),
    Preset("agem", "mnist", {"learner.lr": 0.1, "learner.replay_batch": 128}, _DER.format("agem"), recipe="der2020"),
    Preset("agem", "permuted_mnist", {"learner.lr": 0.1}, _DER.format("agem"), recipe="der2020"),
    *(
        Preset(
            "agem",
            "rotated_mnist",
            {"learner.lr": rate},
            _DER.format("agem"),
            recipe="der2020",
            when={"memory_size": size},
        )
        for size, rate in {200: 0.1, 500: 0.3, 5120: 0.3}.items()
    ),
    Preset("agem", "cifar10", {"learner.lr": 0.03}, _DER.format("agem"), recipe="der2020"),
    Preset("agem_r", "cifar10", {"learner.lr": 0.03}, _DER.format("agem_r"), recipe="der2020"),
    Preset(
        "agem",
        "cifar100_17",
        {"strategy.memory_size": 1105, "learner.replay_batch": 256, "learner.lr": 0.03},
        "Chaudhry et al. 2019 (A-GEM); the authors' code: memory, 13 a class, the reference batch, the rate",
        recipe="agem2019",
    ),
    Preset(
        "agem",
        "cifar100",
        {"learner.lr": 0.03},
        "tuned here on validation (protocol first=3, seed 100, 2 candidates of learner.lr)",
        model="convbn",
        when={"memory_size": 2000},
    ),
]
