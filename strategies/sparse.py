"""Sparse tuning: some entries of a network's weights train, in place, and all others stand still.

S2FT is Yang et al. 2024 ("S2FT: Efficient, Scalable and Generalizable LLM Fine-tuning by Structured Sparsity",
NeurIPS): random channels of the feed-forward part, random heads of the attention, of which the weights on their output
side train. LT-SFT is Ansell, Ponti, Korhonen and Vulić 2022 ("Composable Sparse Fine-Tuning for Cross-Lingual
Transfer", ACL): fine-tune, keep the weights that changed most, rewind, fine-tune those alone.

What differs here, and why. S2FT permutes channels so that what trains lies together, which saves time, and no weight
moves otherwise for it; here gradients are masked. Both tune for one task: here at each experience, from the weights
that the one before left. Known from their code's settings, not from the papers' texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from clbench.adapters import transformer
from clbench.batch import Batch
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import of_body, of_head, tensors
from clbench.optimizer import Followed, Optimizer
from clbench.strategies.values import copied
from clbench.strategy import Adjust, Around
from clbench.stream import Experience, Syllabus
from clbench.types import Fraction


@dataclass
class Sparse(Around):
    """A strategy around another, which trains some entries of some weights: within `masked`.

    What is not among them has no gradient, and is put back after each step, which momentum and weight decay would move.
    """

    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.masks: dict[str, Tensor] = {}
        self.anchors: dict[str, Tensor] = {}

    @contextmanager
    def masked(self, learner: Learner, masks: Mapping[str, Tensor], whole: Collection[str] = ()) -> Iterator[None]:
        """Within it the head trains, what is named in `whole`, and of other weights the entries at which their mask is
        true.
        """
        self.masks = dict(masks)
        with learner.only({*masks, *whole, *of_head(learner.model)}):
            yield
        self.masks, self.anchors = {}, {}

    def around_adjust(self, learner: Learner, adjust: Adjust | None) -> Adjust | None:
        def masked(learner: Learner) -> None:
            if adjust is not None:
                adjust(learner)
            for name, mask in self.masks.items():
                gradient = learner.model.get_parameter(name).grad
                if gradient is not None:
                    gradient.masked_fill_(~mask, 0.0)

        return masked if self.masks else adjust

    def around_optimizer(self, learner: Learner, optimizer: Optimizer) -> Optimizer:
        @torch.no_grad()
        def put_back() -> None:
            for name, mask in self.masks.items():
                parameter = learner.model.get_parameter(name)
                parameter.copy_(torch.where(mask, parameter, self.anchors[name]))

        if self.masks and not self.anchors:  # by now the base has put the weights where it begins
            self.anchors = copied(learner.model, self.masks)
        return Followed(optimizer, put_back) if self.masks else optimizer


@dataclass
class S2FT(Sparse):
    """The base learns with random channels and heads: the columns of `fc2` that random hidden units feed, and those of
    `proj` that random heads feed, in each block; and with the head of the network.

    A share above 0 is one unit, or one head, of each block at least.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})

    channels: Fraction = 0.02
    """share of each block's hidden units"""
    heads: Fraction = 0.052
    """share of each block's heads"""
    redraw: bool = True
    """whether each experience has a draw of its own; false: one for the whole stream"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.drawn = self.draw(learner)

    def learn(self, learner: Learner, experience: Experience) -> None:
        if self.redraw:
            self.drawn = self.draw(learner)
        with self.masked(learner, self.drawn):
            super().learn(learner, experience)

    def draw(self, learner: Learner) -> dict[str, Tensor]:
        """Masks of what trains, by name."""
        rng, found = learner.rng("channels and heads"), {}
        for number, block in enumerate(transformer(learner.model).blocks):
            units = chosen(block.mlp.fc2.weight.shape[1], self.channels, rng)
            heads = chosen(block.attn.num_heads, self.heads, rng)
            columns = heads.repeat_interleave(block.attn.proj.weight.shape[1] // block.attn.num_heads)
            for path, mask in (("mlp.fc2", units), ("attn.proj", columns)):
                name = f"body.blocks.{number}.{path}.weight"
                if mask.any():
                    found[name] = mask.to(learner.where).expand_as(learner.model.get_parameter(name)).contiguous()
        return found


def chosen(size: int, share: float, rng: np.random.Generator) -> Tensor:
    """Which of so many: a random share, one at least where it is above 0."""
    count = max(round(share * size), 1) if share else 0
    return torch.zeros(size, dtype=torch.bool).index_fill_(0, torch.from_numpy(rng.permutation(size)[:count]), True)


@dataclass
class LTSFT(Sparse):
    """Each experience is fine-tuned on plainly; the weights are put back; then the base learns it with those alone that
    had changed most. The head trains in both, and is not counted.

    It takes the passes of plain fine-tuning beside the base's. Normalisation's running statistics are put back too, and
    go on in the second phase.
    """

    share: Fraction = 0.05
    """of the body's weights that train in the second phase"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        if not of_body(learner.model):
            raise Mistake("lt_sft trains some weights of the body, and of this model's none trains.")
        self.phase: Optimizer | None = None

    def learn(self, learner: Learner, experience: Experience) -> None:
        before = {name: value.clone() for name, value in learner.model.state_dict().items()}
        self.phase = learner.new_optimizer(learner.steps(len(experience.train)))
        for _ in learner.passes():
            learner.fit(learner.batches(experience.train), self.plain_loss, optimizer=self.phase)
        self.phase = None
        changes = {name: (p.detach() - before[name]).abs_() for name, p in of_body(learner.model).items()}
        learner.model.load_state_dict(before)
        statistics = tensors(learner.model).keys() - dict(learner.model.named_parameters()).keys()
        with self.masked(learner, largest(changes, self.share), statistics):
            super().learn(learner, experience)

    def plain_loss(self, learner: Learner, batch: Batch) -> Tensor:
        """What the first phase minimises."""
        return learner.criterion(learner(batch.x), batch.y)


def largest(values: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """By name, which entries are among this share of all, the largest first; of equal ones those that come first."""
    flat = torch.cat([value.flatten() for value in values.values()])
    order = flat.argsort(descending=True, stable=True)[: round(share * len(flat))]
    mask = torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, order, True)
    parts = mask.split([value.numel() for value in values.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(values.items(), parts, strict=True)}
