"""Channels innermost in memory (N x H x W x C), as a CPU convolves faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Innermost(nn.Conv2d):
    """A convolution that lays its input out with channels innermost on a CPU; what follows keeps that layout.

    On a GPU, where a step took a fifth longer in that layout (docs/speed.md), it is a Conv2d. Shapes, and weights in
    memory, are a Conv2d's. For networks whose every convolution was seen to be sound in it: in torch 2.13 the backward
    pass of a 1 x 1 convolution of stride 2 over 4 channels writes past its memory there, so residual networks
    stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu:
            return super().forward(x)
        inner = x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        return super().forward(inner.permute(0, 3, 1, 2))
