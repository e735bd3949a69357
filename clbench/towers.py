"""Where images and captions meet: the heads of dual encoders."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = math.log(100)
"""of the learned scale of cosines, as in CLIP (Radford et al. 2021)"""


def paired(body: nn.Module, head: nn.Module) -> nn.Sequential:
    """An image tower and the head that knows the captions."""
    return nn.Sequential(OrderedDict(body=body, head=head))


def matched(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """exp(scale) cos of each image and each text: images x texts."""
    return scale.clamp(max=LARGEST).exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T


class Matched(nn.Module):
    """Logits of features for captions embedded once, by a projection of each: N x captions."""

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
        return matched(self.image(features), self.text(self.captions), self.scale)


class Captioned(nn.Module):
    """Logits of image embeddings for captions by the text tower of a CLIP model, whose image tower is let go."""

    captions: Tensor

    def __init__(self, clip: Any, trains: bool) -> None:
        super().__init__()
        clip.visual = nn.Identity()
        self.clip, self.trains = clip, trains
        for name, parameter in clip.named_parameters():
            parameter.requires_grad_(trains or name == "logit_scale")

    def read(self, tokens: Tensor) -> None:
        """Take the captions' tokens, one caption a label; embed them for good where the tower does not train."""
        if not self.trains:
            with torch.no_grad():
                tokens = self.clip.encode_text(tokens)
        self.register_buffer("captions", tokens, persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        texts = self.clip.encode_text(self.captions) if self.trains else self.captions
        return matched(embeddings, texts, self.clip.logit_scale)
