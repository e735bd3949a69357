"""What methods share whose prompts steer a pretrained transformer that stands still.

An input's query is the feature that the network itself makes of it, without prompts. The pool of prompts stands within
the model (`body.prompts`), so that the learner's optimiser trains it and checkpoints hold it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.adapters import freeze, prefixed, transformer
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import of_head
from clbench.seeds import derive
from clbench.strategies.own_classes import OwnClasses

NEEDS = OwnClasses.needs | {"transformer", "pretrained weights"}
PILOT = "PILOT (LAMDA-PILOT, exps): ViT-B/16, CIFAR-100 in 10 tasks"


def attach(learner: Learner, shapes: Mapping[str, Sequence[int]]) -> None:
    """Prompts of these shapes and the head train, all else stands still. Prompts are drawn from U(-1, 1)."""
    rng = torch.Generator().manual_seed(derive(learner.seed, "prompts"))
    drawn = {name: torch.empty(*shape).uniform_(-1, 1, generator=rng) for name, shape in shapes.items()}
    transformer(learner.model).prompts = nn.ParameterDict(drawn).to(learner.where).eval()
    freeze(learner.model, ["body.prompts.", "head."])


def prompts(learner: Learner) -> Any:
    """The pool, by name."""
    return transformer(learner.model).prompts


def training(learner: Learner, names: Collection[str]) -> list[str]:
    """The names within the model of these prompts and of the head, for `learner.only`."""
    return [*(f"body.prompts.{name}" for name in names), *of_head(learner.model)]


@torch.no_grad()
def query(learner: Learner, x: Tensor) -> Tensor:
    """What the network makes of its input without prompts, B x width."""
    return learner.features(x)


def cosines(queries: Tensor, keys: Tensor) -> Tensor:
    """Of each query (B x width) and each key (K x width), B x K."""
    return F.normalize(queries) @ F.normalize(keys).T


def steered(learner: Learner, x: Tensor, prefixes: Mapping[int, Tensor]) -> Tensor:
    """Logits, where the attention of each block named sees the keys and values of its prefix, B x 2 x length x width;
    1 x ...: the same for all samples.
    """
    with prefixed(learner.model, {block: (both[:, 0], both[:, 1]) for block, both in prefixes.items()}):
        return learner(x)


def check_blocks(learner: Learner, blocks: Sequence[int]) -> None:
    """Whether the network has these blocks.

    Raises:
        Mistake: it has not, or one is named twice.
    """
    depth = len(transformer(learner.model).blocks)
    if not blocks or max(blocks) >= depth or len(set(blocks)) < len(blocks):
        named = ", ".join(map(str, blocks)) or "none"
        raise Mistake(
            f"Prompts would go into the blocks {named}; this network has the blocks 0 to {depth - 1}, and each can be "
            "named once."
        )
