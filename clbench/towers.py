"""Where images and captions meet: the head of a dual encoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = math.log(100)
"""of the learned scale of cosines, as in CLIP (Radford et al. 2021)"""


class Matched(nn.Module):
    """Logits of images for captions: exp(scale) cos(P x, Q c), N x captions, where `read` gave the captions c."""

    captions: Tensor

    def __init__(self, features: int, length: int, width: int, temperature: float) -> None:
        super().__init__()
        self.image = nn.Linear(features, width, bias=False)
        self.text = nn.Linear(length, width, bias=False)
        self.scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def read(self, captions: Tensor) -> None:
        """Take caption embeddings, one a label: captions x length."""
        self.register_buffer("captions", captions, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        images, texts = F.normalize(self.image(features), dim=-1), F.normalize(self.text(self.captions), dim=-1)
        return self.scale.clamp(max=LARGEST).exp() * images @ texts.T
