"""CLIP models by name, through open_clip (Ilharco et al. 2021; Cherti et al. 2023, "Reproducible scaling laws for
contrastive language-image learning", CVPR): for a GPU.

`body` is the image tower with its projection, `head` the text tower with the temperature: logits are exp(scale)
cos(image, caption) for the caption of each label. With `text=trained` both towers train, as in FoMo-in-Flux (Roth et
al. 2024), and every step embeds the captions of all labels: what that costs grows with their number. `text=frozen`
embeds them once.

What differs here. Names of modules are open_clip's, whose attention is torch's own: LoRA reaches the linear layers of
the image tower's feed-forward parts alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from clbench.errors import Mistake, unknown
from clbench.models import by, image
from clbench.pretrained import WEIGHTS, Pretrained

if TYPE_CHECKING:
    from torch import nn

    from clbench.data import Data
    from clbench.stream import Syllabus
    from clbench.transform import Transform


@dataclass
class OpenClip(Pretrained):
    """A CLIP model of open_clip, by its name there; `model=open_clip:NAME` is short for it."""

    name: str
    """architecture, as in `open_clip.list_models()`: ViT-B-16"""
    weights: str = ""
    """a tag of `open_clip.list_pretrained()`, downloaded once (laion2b_s34b_b88k), or a file of such weights; empty:
    random ones"""
    text: Literal["trained", "frozen"] = "trained"
    """the text tower"""

    @property
    def offers(self) -> frozenset[str]:
        return WEIGHTS if self.weights else frozenset()

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for square colour images of `shape` (3, H, W).

        Raises:
            Mistake: open_clip is not here, has no such model or weights, or the model can't take the images.
        """
        from clbench.backbones import normalised
        from clbench.towers import Captioned, paired

        clip = open_clip()
        channels, height, width = image(shape)
        if channels != 3 or height != width:
            raise Mistake(f"model=open_clip takes square colour images, not {by(shape)}.")
        if self.name not in clip.list_models():
            raise unknown("model of open_clip", self.name, clip.list_models())
        try:
            whole = clip.create_model(self.name, pretrained=self.weights or None, force_image_size=height)
        except Exception as error:
            raise Mistake(f"open_clip can't make '{self.name}': {' '.join(str(error).split())[:300]}") from error
        body = normalised(whole.visual, whole.visual.image_mean, whole.visual.image_std)
        return paired(body, Captioned(whole, trains=self.text == "trained"))

    def read(self, net: Any, syllabus: Syllabus, pool: Data | None, transform: Transform, loss: Callable) -> None:
        """Tokenise the names of labels; what there is to know of the pool the weights know.

        Raises:
            Mistake: the stream has no names.
        """
        if not syllabus.names:
            raise Mistake("model=open_clip reads what labels are called, and this stream does not say.")
        names = [name.replace("_", " ") for name in syllabus.names]
        net.head.read(open_clip().get_tokenizer(self.name)(names))


def open_clip() -> Any:
    """The package, imported.

    Raises:
        Mistake: it is not here.
    """
    if find_spec("open_clip") is None:
        raise Mistake("model=open_clip needs the package of that name: pip install 'clbench[clip]'.")
    from clbench.vision import torchvision

    torchvision()
    import open_clip

    return open_clip
