"""A dual encoder: images and captions in one space, where an image is answered by the caption nearest to it.

After CLIP (Radford et al. 2021, "Learning Transferable Visual Models from Natural Language Supervision", ICML), at a
size for two cores. `body` is the image tower; `head` holds the projections of images and captions and the temperature,
which is learned: logits are exp(scale) cos(image, caption), one for each label's caption. So it stands wherever a
classifier does, and answers for labels of which it has seen no image.

What differs here, and why. Captions are the names of labels, one a label, so that the texts are few and are embedded
once; of the text tower only its last layer, the projection, trains. The image tower may bring weights; images and
captions are brought together on the stream's pretraining pool, once for all seeds, and kept by the content of all that
it depends on.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clbench.catalogue import resolve
from clbench.datasets import cache
from clbench.errors import Mistake
from clbench.models import by, image
from clbench.pretrained import EMBEDDED, EMBEDDED_SHA256, VIT_T6, WEIGHTS, Pretrained
from clbench.types import Count, Natural, NonNegative, Positive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clbench.data import Data
    from clbench.stream import Syllabus
    from clbench.transform import Transform


@dataclass
class Dual(Pretrained):
    """A small dual encoder: an image tower, frozen caption embeddings, and a projection of each into one space."""

    tower: Literal["mlp", "convbn", "vit", "vit_t6"] = "mlp"
    """of images: a model of the catalogue without its head, or vit_t6, the embedded ViT, which here takes images of any
    multiple of 8 pixels: its positions are resampled"""
    text: Literal["hashed", "minilm"] = "hashed"
    """caption embeddings: hashed, of words and parts of words; minilm, of meanings (extra `text`)"""
    width: Count = 128
    """of the common space"""
    temperature: Positive = 0.07
    """at first; it is learned"""
    pretraining_epochs: Natural = 10
    """over the stream's pretraining pool; 0: images and captions begin apart"""
    pretraining_rate: Positive = 1e-3
    """of AdamW, on a cosine, for this"""
    pretraining_decay: NonNegative = 0.05
    """weight decay, likewise"""
    pretraining_batch: Count = 128
    """samples in a step, likewise"""

    @property
    def file(self) -> Path | None:
        return EMBEDDED if self.tower == "vit_t6" else None

    @property
    def offers(self) -> frozenset[str]:
        plain = frozenset({"transformer"}) if self.tower.startswith("vit") else frozenset()
        return plain | (WEIGHTS if self.file or self.pretraining_epochs else frozenset())

    @property
    def pretrained_on(self) -> frozenset[str]:
        return frozenset({"tinyimagenet", "tinyimagenet200"}) if self.file else frozenset()

    @property
    def own_input(self) -> bool:
        return self.tower == "vit_t6"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (C, H, W).

        Raises:
            Mistake: the tower does not take them.
        """
        from clbench.captions import LENGTHS
        from clbench.towers import Matched, paired

        body, features = self._tower(shape)
        return paired(body, Matched(features, LENGTHS[self.text], self.width, self.temperature))

    def _tower(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        if self.tower != "vit_t6":
            whole = resolve("model", self.tower)().build(shape, 1)
            return whole.body, whole.head.in_features
        channels, height, width = image(shape)
        if height != width or height % 8 or channels not in (1, 3):
            raise Mistake(f"model.tower=vit_t6 takes square images of a multiple of 8 pixels, not {by(shape)}.")
        from clbench.backbones import filled, normalised, resampled, tensors, vit

        found = tensors(EMBEDDED, EMBEDDED_SHA256)
        found["pos_embed"] = resampled(found["pos_embed"].float(), height // VIT_T6["patch"])
        body = filled(vit(**{**VIT_T6, "side": height}), found, EMBEDDED.name)
        return normalised(body, mean=(0.5,) * 3, std=(0.5,) * 3), VIT_T6["width"]

    def read(self, net: nn.Module, syllabus: Syllabus, pool: Data | None, transform: Transform, loss: Callable) -> None:
        """Embed the names of labels as captions; where there is a pool, begin with what is learned from it.

        Raises:
            Mistake: the stream has no names, or the text embedding is not here.
        """
        from clbench.captions import EMBEDDINGS

        if not syllabus.names:
            raise Mistake("model=dual reads what labels are called, and this stream does not say; choose another.")
        captions = EMBEDDINGS[self.text]([name.replace("_", " ") for name in syllabus.names])
        net.head.read(captions)  # type: ignore[union-attr, operator]
        if pool is None or not self.pretraining_epochs:
            return
        place = cache() / "dual" / f"{self._key(pool, captions)}.safetensors"
        from safetensors.torch import load_file, save_file

        if not place.exists():
            learned = self._pretrained(syllabus, captions, pool, transform, loss)
            place.parent.mkdir(parents=True, exist_ok=True)
            save_file(learned, new := place.with_suffix(f".{os.getpid()}"))
            new.replace(place)
        net.load_state_dict(load_file(place))

    def _key(self, pool: Data, captions: Tensor) -> str:
        """SHA-256 over the options, the images of the pool, and what they are called."""
        import torch

        x, y = pool.gather(torch.arange(len(pool)))
        digest = hashlib.sha256(f"{asdict(self)} {self.checksums()}".encode())
        for part in (x, y, captions[y.unique()]):
            digest.update(part.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _pretrained(
        self, syllabus: Syllabus, captions: Tensor, pool: Data, transform: Transform, loss: Callable
    ) -> dict[str, Any]:
        """All weights after training on the pool; the same whatever the run's seed."""
        import numpy as np
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = self.build(syllabus.shape, syllabus.classes)
            net.head.read(captions)  # type: ignore[union-attr, operator]
            weights, rng = list(net.parameters()), np.random.default_rng(0)
            optimizer = torch.optim.AdamW(weights, self.pretraining_rate, weight_decay=self.pretraining_decay)
            steps = self.pretraining_epochs * -(-len(pool) // self.pretraining_batch)
            cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: (1 + math.cos(math.pi * n / steps)) / 2)
            for _ in range(self.pretraining_epochs):
                for index in pool.batches(rng, self.pretraining_batch):
                    raw, y = pool.gather(index)
                    optimizer.zero_grad()
                    loss(net(transform(raw, rng)), y).backward()
                    torch.nn.utils.clip_grad_norm_(weights, 1.0)
                    optimizer.step()
                    cosine.step()
        return {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
