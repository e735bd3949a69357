"""Models that begin with weights learned elsewhere.

They take pixels in [0, 1] (`stream.normalise=unit`) and bring them themselves to what their weights were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clbench.errors import Mistake
from clbench.models import image, with_head

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = Path(__file__).with_name("weights") / "vit_t6_p8_64.tinyimagenet.safetensors"
DIGEST = "647a944defc92179312cd95e97e463dbac5e412c88ee1adf052fb3007948ffe1"


@dataclass
class ViTT6:
    """A small plain ViT (Dosovitskiy et al. 2021, ICLR), pretrained on Tiny-ImageNet: 2.7 million weights, embedded.

    Patches of 8 pixels, 192 wide, 6 blocks of 3 heads, a class token, whose output is the feature; timm's names. Two
    cores train it at about 170 images a second. It is weak beside a ViT-B/16: docs/pretrained.md is its card.
    """

    pretrained: bool = True
    """false: random weights, as timm draws them"""
    normalise: Literal["own", "none"] = "own"
    """own: pixels in [0, 1] to [-1, 1], as in pretraining; none: as the stream gives them"""

    @property
    def offers(self) -> frozenset[str]:
        """What strategies may rely on."""
        return frozenset({"transformer", *(["pretrained weights"] if self.pretrained else [])})

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (3, 64, 64).

        Raises:
            Mistake: they are of another shape, or the weights are damaged.
        """
        channels, height, width = image(shape)
        if (channels, height, width) != (3, 64, 64):
            raise Mistake(
                f"model=vit_t6 takes colour images of 64 x 64, not {channels} x {height} x {width}: "
                + ("set stream.resolution=64." if channels == 3 else "choose a stream of colour images.")
            )
        from clbench.backbones import filled, normalised, weights
        from clbench.vision import torchvision

        torchvision()
        from timm.models.vision_transformer import VisionTransformer

        body: nn.Module = VisionTransformer(64, 8, num_classes=0, embed_dim=192, depth=6, num_heads=3)
        if self.pretrained:
            filled(body, weights(WEIGHTS, DIGEST), WEIGHTS.name)
        if self.normalise == "own":
            normalised(body, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return with_head(body, 192, classes)
