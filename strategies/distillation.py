"""Dark experience replay: memory keeps the logits that the network gave, and the network is held to them.

Buzzega, Boschini, Porrello, Abati and Calderara 2020 ("Dark Experience for General Continual Learning: a Strong, Simple
Baseline"). The paper writes the squared distance of logits as a sum over labels; the published weights belong to the
mean over the batch and all labels, which is what is used here.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from clbench.batch import Batch
from clbench.config import Preset
from clbench.learner import Learner
from clbench.memory import Reservoir
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count, NonNegative


@dataclass
class DER(Strategy):
    """CE(f(x), y) + alpha * MSE(f(x'), z'): x' is drawn from memory, z' are the logits that were seen with it."""

    memory_size: Count = 500
    """samples kept, each with its logits"""
    alpha: NonNegative = 0.3
    """weight of the distance to the kept logits"""

    draws: ClassVar[int] = 1

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.memory = Reservoir(self.memory_size)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        rng = learner.rng("memory")
        for batch in learner.batches(experience.train):
            past = [learner.recall(self.memory, rng) for _ in range(self.draws)]
            logits = yield replace(batch, past=tuple(p for p in past if p))
            self.memory.add(batch.raw, batch.y, rng, logits=logits)

    def loss(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = learner(batch.x)
        loss = learner.criterion(logits, batch.y)
        if batch.past:
            loss = loss + self.alpha * F.mse_loss(learner(batch.past[0].x), batch.past[0].kept["logits"])
        return loss, logits


@dataclass
class DERPP(DER):
    """DER++: DER + beta * CE(f(x''), y'') on a second, independent draw."""

    beta: NonNegative = 0.5
    """weight of the cross-entropy on the second draw"""

    draws: ClassVar[int] = 2

    def loss(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, logits = super().loss(learner, batch)
        if batch.past:
            loss = loss + self.beta * learner.criterion(learner(batch.past[1].x), batch.past[1].y)
        return loss, logits


_DER = "Buzzega et al. 2020 (DER); Mammoth, utils/best_args.py, method {}"
_XDER = "Boschini et al. 2022 (X-DER); Mammoth, utils/best_args.py, method {}"

_DER_BEST = {  # stream: {memory: (rate, alpha, replay batch)}
    "mnist": {200: (0.03, 0.2, 10), 500: (0.03, 1.0, 128), 5120: (0.1, 0.5, 128)},
    "cifar10": {200: (0.03, 0.3, 32), 500: (0.03, 0.3, 32), 5120: (0.03, 0.3, 32)},
    "permuted_mnist": {200: (0.2, 1.0, 128), 500: (0.2, 1.0, 128), 5120: (0.2, 0.5, 128)},
    "rotated_mnist": {200: (0.2, 1.0, 128), 500: (0.2, 0.5, 128), 5120: (0.2, 0.5, 128)},
}
_DERPP_BEST = {  # stream: {memory: (rate, alpha, beta, replay batch)}
    "mnist": {200: (0.03, 0.2, 1.0, 128), 500: (0.03, 1.0, 0.5, 10), 5120: (0.1, 0.2, 0.5, 64)},
    "cifar10": {200: (0.03, 0.1, 0.5, 32), 500: (0.03, 0.2, 0.5, 32), 5120: (0.03, 0.1, 1.0, 32)},
    "permuted_mnist": {200: (0.1, 1.0, 1.0, 128), 500: (0.2, 1.0, 0.5, 128), 5120: (0.2, 0.5, 1.0, 128)},
    "rotated_mnist": {200: (0.1, 1.0, 0.5, 128), 500: (0.2, 0.5, 1.0, 128), 5120: (0.2, 0.5, 0.5, 128)},
}

PRESETS = [
    *(
        Preset(name, "digits", {"strategy.memory_size": 100}, "untuned: a memory of 100, an experience has about 250")
        for name in ("der", "derpp")
    ),
    *(
        Preset(
            "der",
            stream,
            {"learner.lr": lr, "strategy.alpha": alpha, "learner.replay_batch": batch},
            _DER.format("der"),
            recipe="der2020",
            when={"memory_size": size},
        )
        for stream, best in _DER_BEST.items()
        for size, (lr, alpha, batch) in best.items()
    ),
    *(
        Preset(
            "derpp",
            stream,
            {"learner.lr": lr, "strategy.alpha": alpha, "strategy.beta": beta, "learner.replay_batch": batch},
            _DER.format("derpp"),
            recipe="der2020",
            when={"memory_size": size},
        )
        for stream, best in _DERPP_BEST.items()
        for size, (lr, alpha, beta, batch) in best.items()
    ),
    Preset("der", "cifar100", {"learner.lr": 0.03, "strategy.alpha": 0.3}, _XDER.format("der"), recipe="xder2022"),
    Preset(
        "derpp",
        "cifar100",
        {"learner.lr": 0.03, "strategy.alpha": 0.1, "strategy.beta": 0.5},
        _XDER.format("derpp"),
        recipe="xder2022",
    ),
]
