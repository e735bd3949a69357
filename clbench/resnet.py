"""Residual networks for small images (He et al. 2016, Deep Residual Learning for Image Recognition, CVPR): bodies only.

Their stem is one 3 x 3 convolution at full resolution, without max-pooling, as in the paper's CIFAR networks (section
4.2); torchvision and timm offer the ImageNet stem. Convolutions start as Kaiming normal (He et al. 2015: fan-out, gain
of ReLU), batch normalisations as the identity, both from torch's global generator.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def kaiming(net: nn.Module) -> None:
    """Draws the convolutions of a net anew: normal, variance 2 / (output channels x kernel area)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Without bias, for a batch normalisation follows; padded so that stride 1 keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Padded(nn.Module):
    """Option A of He et al.: the input, subsampled, with zeros for the channels that it lacks. It has no parameters."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class Block(nn.Module):
    """The basic block: two 3 x 3 convolutions around which the input is added."""

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = Padded(outputs - inputs, stride)
            if projection:
                conv = convolution(inputs, outputs, kernel=1, stride=stride)
                self.shortcut = nn.Sequential(OrderedDict(conv1=conv, bn1=nn.BatchNorm2d(outputs)))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet(channels: int, blocks: Sequence[int], width: int, projection: bool) -> nn.Sequential:
    """A stem, stages of basic blocks, and the mean over positions: N x channels x H x W to N x features.

    The first stage has `width` filters and the input's resolution; each further one twice the filters and half the
    resolution of the one before. The last stage's filters are the features.

    Args:
        channels: of the input.
        blocks: how many in each stage.
        width: filters of the stem and of the first stage.
        projection: a shortcut that changes shape is a 1 x 1 convolution with batch normalisation (option B of He et
            al.); otherwise it is padded with zeros (option A).
    """
    stem = OrderedDict(conv1=convolution(channels, width), bn1=nn.BatchNorm2d(width), relu=nn.ReLU())
    body: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
    inputs = width
    for i, count in enumerate(blocks):
        outputs, stride = width * 2**i, 1 if i == 0 else 2
        first = Block(inputs, outputs, stride, projection)
        rest = [Block(outputs, outputs, 1, projection) for _ in range(count - 1)]
        body[f"stage{i + 1}"] = nn.Sequential(first, *rest)
        inputs = outputs
    body["pool"], body["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    net = nn.Sequential(body)
    kaiming(net)
    return net
