"""DualPrompt: Wang, Zhang, Ebrahimi, Sun, Zhang, Lee, Ren, Su, Perot, Dy and Pfister 2022 ("DualPrompt: Complementary
Prompting for Rehearsal-free Continual Learning", ECCV).

The form is that of PILOT (Sun et al., LAMDA-PILOT), as its code has it. Three things differ. There the expert prompt
that most samples of a batch choose serves them all, so that an answer depends on its neighbours; here each sample has
its own. Of the expert prompts only those that have been trained are chosen from. There are as many as experiences, so
that none is trained twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clbench.adapters import prefixes, transformer
from clbench.batch import Batch
from clbench.config import Preset
from clbench.learner import Learner
from clbench.strategies.own_classes import OwnClasses
from clbench.strategies.prompted import NEEDS, PILOT, attach, check_blocks, cosines, prompts, query, steered, training
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Natural, NonNegative


@dataclass
class DualPrompt(OwnClasses):
    """CE(f(x; G, E), y) - pull * cos(query, key): general prompts G of all experiences, expert prompts E of one each.

    Both are prefixes of keys and values in the attention of some blocks. The experience's own expert is trained; in an
    exam it is the one whose key is nearest to the query.
    """

    general: Count = 5
    """keys in the general prefix of a block, and as many values"""
    expert: Count = 5
    """keys in the expert prefix of a block, and as many values"""
    general_blocks: tuple[Natural, ...] = (0, 1)
    """that have a general prefix, from 0"""
    expert_blocks: tuple[Natural, ...] = (2, 3, 4)
    """that have an expert prefix, others than these"""
    pull: NonNegative = 0.1
    """weight of the cosine, which draws the experience's key to the queries"""

    needs: ClassVar[frozenset[str]] = NEEDS | {"task borders", "known length"}
    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        check_blocks(learner, self.general_blocks + self.expert_blocks)
        assert syllabus.lessons is not None
        super().start(learner, syllabus)
        prefixes(learner.model, self.general_blocks + self.expert_blocks)
        width = transformer(learner.model).embed_dim
        shapes: dict[str, tuple[int, ...]] = {"general": (len(self.general_blocks), 2, self.general, width)}
        for lesson in range(syllabus.lessons):
            shapes[f"expert_{lesson}"] = (len(self.expert_blocks), 2, self.expert, width)
            shapes[f"key_{lesson}"] = (width,)
        attach(learner, shapes)
        self.lesson = 0

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.lesson = experience.index
        if self.lesson:
            self.follow(learner)
        with learner.only(training(learner, ["general", f"expert_{self.lesson}", f"key_{self.lesson}"])):
            super().learn(learner, experience)

    @torch.no_grad()
    def follow(self, learner: Learner) -> None:
        """The expert begins as the one before it ended."""
        pool = prompts(learner)
        pool[f"expert_{self.lesson}"].copy_(pool[f"expert_{self.lesson - 1}"])

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        pool = prompts(learner)
        near = cosines(query(learner, batch.x), pool[f"key_{self.lesson}"][None])
        logits = self.answer(learner, batch.x, pool[f"expert_{self.lesson}"][None])
        return self.among(learner, logits, batch.y) - self.pull * near.mean()

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        experts = torch.stack([prompts(learner)[f"expert_{lesson}"] for lesson in range(self.lesson + 1)])
        return self.answer(learner, x, experts[self.retrieved(learner, x)])

    def retrieved(self, learner: Learner, x: Tensor) -> Tensor:
        """The experience whose key is nearest, B."""
        keys = torch.stack([prompts(learner)[f"key_{lesson}"] for lesson in range(self.lesson + 1)])
        return cosines(query(learner, x), keys).argmax(1)

    def answer(self, learner: Learner, x: Tensor, expert: Tensor) -> Tensor:
        """Logits with the expert of each sample, B x blocks x 2 x length x width; 1 x ...: one for all."""
        general = prompts(learner)["general"]
        found = {block: general[None, i] for i, block in enumerate(self.general_blocks)}
        return steered(learner, x, found | {block: expert[:, i] for i, block in enumerate(self.expert_blocks)})


PRESETS = [
    Preset(
        "dual_prompt",
        "cifar100",
        {
            "learner.epochs": 5,
            "learner.batch": 24,
            "learner.optimizer": "adam",
            "learner.lr": 0.001,
            "learner.schedule": "constant",
        },
        PILOT,
        recipe="pilot",
    )
]
