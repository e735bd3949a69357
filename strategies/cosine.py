"""A head that answers by directions alone (Hou, Pan, Loy, Wang and Lin 2019, "Learning a Unified Classifier
Incrementally via Rebalancing", CVPR).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.modules import linear_head


class Cosine(nn.Linear):
    """scale * cos(x, w_c) for each class c; `scale` is learned and begins at 1. There is no bias."""

    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return self.scale * cosines(input, self.weight)


def cosines(features: Tensor, directions: Tensor) -> Tensor:
    """The cosine of each of B features to each of C directions: B x C."""
    return F.normalize(features, dim=-1) @ F.normalize(directions, dim=-1).mT


def cosine_head(model: nn.Module) -> None:
    """Make the head a cosine one, in place: `head.weight` stays, `head.bias` goes, `head.scale` comes.

    Raises:
        Mistake: it is no linear layer.
    """
    head = linear_head(model)
    head.__class__ = Cosine
    head.bias = None  # type: ignore[assignment]
    head.scale = nn.Parameter(torch.ones((), device=head.weight.device))
