"""A small detector of forgeries: what a photograph's noise leaves, then four blocks of convolutions.

The first layer shows what three high-pass filters of the spatial rich model leave (Fridrich and Kodovsky 2012, Rich
Models for Steganalysis of Digital Images, IEEE TIFS), as Zhou et al. (2018, Learning Rich Features for Image
Manipulation Detection, CVPR) put them before a network. The rest is ours, made for two cores: beside each residual its
logarithm, in which noise of one level looks alike in bright and in dark places; and at the end the largest value beside
the mean, for a forgery may be small. Without these two, four epochs on 1,344 images did not come far: on warped ones an
AUC of .54 against .70 (one seed, a rate of 0.003).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clbench.models import image, with_head
from clbench.types import Count

if TYPE_CHECKING:
    from torch import nn

SECOND = ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0))
"""4 times what a 3 x 3 neighbourhood does not predict"""
THIRD = ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1))
"""12 times what a 5 x 5 neighbourhood does not predict"""
LINE = ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 1, -2, 1, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0))
"""2 times what left and right do not predict"""


@dataclass
class SRM:
    """Three residuals of each channel and their logarithms, and four blocks of a 3 x 3 convolution (the first three of
    stride 2), batch normalisation and ReLU; mean and maximum: 0.2 million parameters. The filters do not train.
    """

    width: Count = 24
    """filters of the first block; the others have 2, 4 and 8 times as many"""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (C, H, W), of any size."""
        from torch import nn

        from clbench.resnet import convolution, kaiming

        channels = image(shape)[0]
        layers: OrderedDict[str, nn.Module] = OrderedDict(residuals=_residuals(channels))
        inputs = 6 * channels
        for i, (times, stride) in enumerate(((1, 2), (2, 2), (4, 2), (8, 1)), start=1):
            layers[f"conv{i}"] = convolution(inputs, times * self.width, stride=stride)
            layers[f"bn{i}"], layers[f"relu{i}"] = nn.BatchNorm2d(times * self.width), nn.ReLU()
            inputs = times * self.width
        layers["pool"] = _mean_and_maximum()
        kaiming(body := nn.Sequential(layers))
        return with_head(body, 2 * inputs, classes)


def _residuals(channels: int) -> nn.Module:
    """What gives the three residuals of each channel, clipped, and the logarithms of their size."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    class Residuals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            filters = [torch.tensor(f, dtype=torch.float32) / n for f, n in ((SECOND, 4), (THIRD, 12), (LINE, 2))]
            self.register_buffer("filters", torch.stack(filters)[:, None].repeat(channels, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            residuals = F.conv2d(x, self.filters, padding=2, groups=channels)  # type: ignore[arg-type]
            return torch.cat([4 * residuals.clamp(-0.75, 0.75), (residuals.abs() + 0.01).log() + 3], 1)

    return Residuals()


def _mean_and_maximum() -> nn.Module:
    """What gives the mean and the maximum of each map, side by side."""
    import torch
    from torch import Tensor, nn

    class MeanAndMaximum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)

    return MeanAndMaximum()
