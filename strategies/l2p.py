"""L2P: Wang, Zhang, Lee, Zhang, Sun, Ren, Su, Perot, Dy and Pfister 2022 ("Learning to Prompt for Continual Learning",
CVPR).

The form is that of PILOT (Sun et al., LAMDA-PILOT), as its code has it. One thing differs: there the prompts that most
samples of a batch have chosen serve them all, at exams too, so that an answer depends on its neighbours. Here each
sample has its own, in exams always, and in training unless `batchwise` says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from clbench.adapters import inserted, tokens, transformer
from clbench.batch import Batch
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.strategies.own_classes import OwnClasses
from clbench.strategies.prompted import NEEDS, PILOT, attach, cosines, prompts, query
from clbench.stream import Syllabus
from clbench.types import Count, NonNegative


@dataclass
class L2P(OwnClasses):
    """CE(f(x; P), y) - pull * sum cos(query, key) over the `top` prompts P whose keys are nearest to the query.

    The chosen prompts are tokens before the patches; the head is given the mean of what the network makes of them.
    """

    pool: Count = 10
    """prompts, each with a key"""
    length: Count = 5
    """tokens of a prompt"""
    top: Count = 5
    """prompts that a sample is given"""
    pull: NonNegative = 0.1
    """weight of the cosines, which draw the chosen keys to the queries"""
    batchwise: bool = False
    """true: in training all samples of a batch are given the prompts that most of them choose, as in the released
    codes"""

    needs: ClassVar[frozenset[str]] = NEEDS
    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        if self.top > self.pool:
            raise Mistake(
                f"strategy.top={self.top}: there are only {self.pool} prompts to choose from (strategy.pool)."
            )
        super().start(learner, syllabus)
        tokens(learner.model)
        width = transformer(learner.model).embed_dim
        attach(learner, {"token": (self.pool, self.length, width), "key": (self.pool, width)})

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        near = cosines(query(learner, batch.x), prompts(learner)["key"])
        chosen = self.choose(near)
        if self.batchwise:
            votes = F.one_hot(chosen, self.pool).sum((0, 1))
            chosen = votes.topk(self.top).indices.expand(len(near), -1)
        pulled = near.gather(1, chosen).sum(1).mean()
        return self.among(learner, self.answer(learner, batch.x, chosen), batch.y) - self.pull * pulled

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        return self.answer(learner, x, self.choose(cosines(query(learner, x), prompts(learner)["key"])))

    def choose(self, near: Tensor) -> Tensor:
        """The nearest prompts by the cosines to their keys, B x pool: B x top, the nearest first."""
        return near.topk(self.top).indices

    def answer(self, learner: Learner, x: Tensor, chosen: Tensor) -> Tensor:
        """Logits, each sample with the prompts chosen for it, B x top."""
        with inserted(learner.model, prompts(learner)["token"][chosen].flatten(1, 2)):
            return learner(x)


PRESETS = [
    Preset(
        "l2p",
        "cifar100",
        {
            "learner.epochs": 5,
            "learner.batch": 16,
            "learner.optimizer": "adam",
            "learner.lr": 0.001875,
            "learner.schedule": "constant",
        },
        PILOT,
        recipe="pilot",
    )
]
