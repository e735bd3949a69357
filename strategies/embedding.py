"""Samples as a network sees them when nothing trains: without augmentation, batch after batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clbench.data import Data
from clbench.learner import Learner


@torch.no_grad()
def embedded(learner: Learner, data: Data, by: Callable[[Learner, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """What `by` makes of the network input for each sample (N x features), and the labels (N), on the device.

    The cost counts as training, under the name of `by`.
    """
    data = learner.near(data)
    features, labels = [], []
    for positions in torch.arange(len(data), device=data.index.device).split(learner.eval_batch):
        raw, y = learner.gather(data, positions)
        x = learner.encode(raw)
        with learner.spending(by.__qualname__, x.shape):
            features.append(by(learner, x))
        labels.append(y)
    return torch.cat(features), torch.cat(labels)
