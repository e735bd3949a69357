"""CODA-Prompt: Smith, Karlinsky, Gutta, Cascante-Bonilla, Kim, Arbelle, Panda, Feris and Kira 2023 ("CODA-Prompt:
COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning", CVPR).

The form is that of PILOT (Sun et al., LAMDA-PILOT), as its code has it: no orthogonality penalty by default, the rate
on a cosine of its own. Two things differ. The new components are orthonormalised against the span of the earlier ones,
by a QR decomposition; one by one, as there, they would be so only if training had kept the earlier ones orthogonal. And
the last, smaller batch of an epoch is trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.adapters import prefixes, transformer
from clbench.batch import Batch
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.strategies.own_classes import OwnClasses
from clbench.strategies.prompted import NEEDS, PILOT, attach, check_blocks, prompts, query, steered, training
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Natural, NonNegative

KINDS = ("component", "key", "attention")


@dataclass
class CODAPrompt(OwnClasses):
    """CE(f(x; p), y), where in each block p = sum alpha_k P_k and alpha_k = cos(q * A_k, K_k) for the query q.

    P_k is a prefix of keys and values, K_k its key, A_k what of the query it looks at. Each experience adds components
    of its own, orthonormal to all before; these stand still, and go on being used.
    """

    components: Count = 100
    """in a block, for the whole stream; each experience has an equal share"""
    length: Count = 4
    """keys in a component, and as many values; the authors count both, 8"""
    blocks: tuple[Natural, ...] = (0, 1, 2, 3, 4)
    """that have a prefix, from 0"""
    ortho: NonNegative = 0.0
    """weight of the penalty: in each block, the mean square of the entries of B B' - I, for B = P, K and A"""

    needs: ClassVar[frozenset[str]] = NEEDS | {"task borders", "known length"}
    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        learner.renews()
        check_blocks(learner, self.blocks)
        assert syllabus.lessons is not None
        width, share = transformer(learner.model).embed_dim, self.components // syllabus.lessons
        if not share or self.components > width:
            raise Mistake(
                f"strategy.components={self.components}: with {syllabus.lessons} experiences on a network {width} wide "
                f"it must be {syllabus.lessons} to {width}; each experience has a share, orthogonal to all others."
            )
        super().start(learner, syllabus)
        prefixes(learner.model, self.blocks)
        shapes = {"component": (2, self.length, width), "key": (width,), "attention": (width,)}
        lessons = range(syllabus.lessons)
        attach(learner, {f"{kind}_{n}": (len(self.blocks), share, *shapes[kind]) for n in lessons for kind in KINDS})
        self.lesson = 0

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.lesson = experience.index
        self.orthonormalise(learner)
        learner.optim = learner.new_optimizer(learner.steps(len(experience.train)), factor=cosine(learner.epochs))
        with learner.only(training(learner, [f"{kind}_{self.lesson}" for kind in KINDS])):
            super().learn(learner, experience)

    @torch.no_grad()
    def orthonormalise(self, learner: Learner) -> None:
        """The experience's components, as they were drawn, against one another and all before."""
        for kind in KINDS:
            new = prompts(learner)[f"{kind}_{self.lesson}"]
            basis = orthonormal(self.known(learner, kind).flatten(2))
            new.copy_(basis[:, -new.shape[1] :].view_as(new))

    def known(self, learner: Learner, kind: str) -> Tensor:
        """All of a kind up to the experience, blocks x components x ..."""
        pool = prompts(learner)
        return torch.cat([pool[f"{kind}_{lesson}"] for lesson in range(self.lesson + 1)], 1)

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        loss = self.among(learner, self.predict(learner, batch.x), batch.y)
        return loss + self.ortho * self.penalty(learner) if self.ortho else loss

    def penalty(self, learner: Learner) -> Tensor:
        """How far what is known is from orthonormal, summed over blocks and kinds."""
        rows = [self.known(learner, kind).flatten(2) for kind in KINDS]
        unit = torch.eye(rows[0].shape[1], device=rows[0].device)
        return torch.stack([(b @ b.mT - unit).square().mean((1, 2)).sum() for b in rows]).sum()

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        component, key, attention = (self.known(learner, kind) for kind in KINDS)
        alpha = agreement(query(learner, x), attention, key)
        prefix = torch.einsum("sbk,bkplw->sbplw", alpha, component)
        return steered(learner, x, {block: prefix[:, i] for i, block in enumerate(self.blocks)})


def agreement(queries: Tensor, attention: Tensor, keys: Tensor) -> Tensor:
    """cos(q * A, K) of queries (B x width) with attention and keys (blocks x components x width), as two products of
    matrices: B x blocks x components.
    """
    weighed = torch.einsum("sw,bkw->sbk", queries, attention * F.normalize(keys, dim=-1))
    squares = torch.einsum("sw,bkw->sbk", queries.square(), attention.square())
    return weighed / squares.clamp(min=1e-16).sqrt()


def orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis, row after row: the first k span what the first k rows do. In double precision."""
    return torch.linalg.qr(rows.double().mT).Q.mT.to(rows.dtype)


def cosine(epochs: int) -> Callable[[float], float]:
    """The factor of the rate in epoch e of E, cos(99 pi e / (200 (E - 1))): from 1 to 0.016, constant in an epoch."""
    last = max(epochs - 1, 1)
    return lambda progress: math.cos(0.495 * math.pi * min(int(progress * epochs + 1e-9), epochs - 1) / last)


PRESETS = [
    Preset(
        "coda_prompt",
        "cifar100",
        {"learner.epochs": 20, "learner.batch": 128, "learner.optimizer": "adam", "learner.lr": 0.001},
        PILOT,
        recipe="pilot",
    )
]
