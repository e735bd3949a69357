"""From stored samples to what a network takes: whole batches, on the device they are on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Transform:
    """Stored samples to network input. This one only changes the type to float32."""

    def __call__(self, raw: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        """Network input for `raw`. With `rng`, augmented as in training."""
        return raw.float()

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens in words, where samples are text."""
        raise NotImplementedError


@dataclass
class ImageTransform(Transform):
    """uint8 images N x H x W x C to float32 N x C x H x W: (pixel / 255 - mean) / std."""

    mean: tuple[float, ...] = (0.0,)
    """of each channel, of pixels in [0, 1]"""
    std: tuple[float, ...] = (1.0,)
    """of each channel, likewise"""
    crop: int = 0
    """training: black pixels around the image, from which a window of its size is cut at random; 0: no crop"""
    flip: bool = False
    """training: mirrored left to right, half of the time"""
    _factors: dict[torch.device, tuple[Tensor | float, Tensor | float | None]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def _affine(self, device: torch.device) -> tuple[Tensor | float, Tensor | float | None]:
        """What pixels are multiplied by, and what is added (None: nothing); plain numbers for one channel."""
        if device not in self._factors:
            scales = [1 / (255 * std) for std in self.std]
            shifts = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
            scale, shift = (
                v[0] if len(v) == 1 else torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (scales, shifts)
            )
            self._factors[device] = scale, shift if any(shifts) else None
        return self._factors[device]

    def __call__(self, raw: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        n, height, width, channels = raw.shape
        device = raw.device
        if rng is not None and self.crop:
            edge = self.crop
            windows = F.pad(raw, (0, 0, edge, edge, edge, edge)).unfold(1, height, 1).unfold(2, width, 1)
            corner = torch.from_numpy(rng.integers(0, 2 * edge + 1, (2, n))).to(device, non_blocking=True)
            x = windows[torch.arange(n, device=device), corner[0], corner[1]]
        elif channels == 1:
            x = raw.view(n, 1, height, width)
        else:
            x = raw.permute(0, 3, 1, 2)
        if rng is not None and self.flip:
            mirrored = torch.from_numpy(rng.random(n) < 0.5).to(device, non_blocking=True)
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        scale, shift = self._affine(device)
        x = x.contiguous().float().mul_(scale)
        return x if shift is None else x.add_(shift)
