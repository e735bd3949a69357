"""Weights for `model=vit_t6`, learned here: from any data set of colour images, alone or with a teacher.

As the embedded weights were: AdamW on a cosine, random resized crops and flips, cross-entropy with smoothed labels.
With a teacher the divergence of a second head from its softmax is added (Hinton et al. 2015, "Distilling the Knowledge
in a Neural Network"); that head is left out of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.backbones import normalised, vit
from clbench.datasets import Dataset, open_dataset, sha256
from clbench.errors import Mistake
from clbench.pretrained import VIT_T6, teacher
from clbench.seeds import derive
from clbench.types import Count, Fraction, Natural, NonNegative, Positive, Share


@dataclass
class Pretraining:
    """What is learned from what, and how."""

    data: str
    """a data set of colour images, by name or path"""
    out: str
    """the file to write, NAME.safetensors; its card is NAME.md beside it"""
    teacher: str = ""
    """whose softmax is matched too: lite0, or timm:NAME.TAG; empty: nobody's"""
    epochs: Count = 7
    """passes over the training images"""
    batch: Count = 128
    """images in a step"""
    lr: Positive = 1e-3
    """the highest rate, of AdamW; it falls to 0 on a cosine"""
    weight_decay: NonNegative = 0.05
    """of AdamW"""
    clip: Positive = 1.0
    """largest norm of the gradient"""
    smoothing: Share = 0.1
    """share of each label that is spread over all"""
    area: Fraction = 0.5
    """least share of an image's area that a crop shows"""
    seed: Natural = 0
    """decides all draws"""
    threads: Count = 2
    """of the CPU"""

    def __call__(self, say: Callable[[str], None]) -> Path:
        """Learn, and write the weights and their card; `say` is told a line for each epoch.

        Raises:
            Mistake: the images have no colours, the file can't be written, or there is no such teacher.
        """
        out, dataset = Path(self.out).expanduser(), open_dataset(self.data, VIT_T6["side"])
        if dataset.features or dataset.shape[2] != 3:
            raise Mistake(f"model=vit_t6 is pretrained on colour images, and {self.data} holds none.")
        if out.suffix != ".safetensors" or not out.absolute().parent.is_dir():
            raise Mistake(f"out={self.out} must be a .safetensors file in a folder that is there.")
        torch.set_num_threads(self.threads)
        torch.manual_seed(derive(self.seed, "init"))
        body = normalised(vit(**VIT_T6), (0.5,) * 3, (0.5,) * 3)
        head = nn.Linear(VIT_T6["width"], len(dataset.classes))
        master, outputs = teacher(self.teacher) if self.teacher else (None, 0)
        second = nn.Linear(VIT_T6["width"], outputs) if master else None
        self._learn(dataset, body, head, master, second, say)
        _write(out, body, head, dataset, self._card(dataset, accuracy(body, head, dataset)))
        return out

    def _learn(
        self,
        dataset: Dataset,
        body: nn.Module,
        head: nn.Module,
        master: Callable[[Tensor], Tensor] | None,
        second: nn.Module | None,
        say: Callable[[str], None],
    ) -> None:
        weights = [p for module in (body, head, second) if module for p in module.parameters()]
        optimizer = torch.optim.AdamW(weights, self.lr, weight_decay=self.weight_decay)
        x, y = (torch.from_numpy(dataset.splits["train"][name]) for name in ("x", "y"))
        steps = self.epochs * -(-len(x) // self.batch)
        cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: (1 + math.cos(math.pi * n / steps)) / 2)
        rng = np.random.default_rng(derive(self.seed, "pretraining"))
        for epoch in range(self.epochs):
            total = torch.zeros(())
            for index in torch.from_numpy(rng.permutation(len(x))).split(self.batch):
                shown = cropped(x[index].permute(0, 3, 1, 2).float() / 255, self.area, rng)
                features = body(shown)
                loss = F.cross_entropy(head(features), y[index], label_smoothing=self.smoothing)
                if master is not None and second is not None:
                    with torch.no_grad():
                        wanted = master(shown).softmax(1)
                    loss = loss + F.kl_div(second(features).log_softmax(1), wanted, reduction="batchmean")
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(weights, self.clip)
                optimizer.step()
                cosine.step()
                total += loss.detach() * len(index)
            say(f"epoch {epoch + 1} of {self.epochs}: loss {float(total) / len(x):.3f}")

    def _card(self, dataset: Dataset, found: float) -> str:
        train, test = (len(dataset.splits[split]["y"]) for split in ("train", "test"))
        settings = ", ".join(f"{name} {value}" for name, value in asdict(self).items() if name not in ("data", "out"))
        return f"""
| | |
| --- | --- |
| architecture | `timm.models.VisionTransformer`, {", ".join(f"{k} {v}" for k, v in VIT_T6.items())}, class token |
| input | RGB, pixels in [0, 1], (pixel - 0.5) / 0.5 |
| data | {train:,} training images of {dataset.name}, {len(dataset.classes)} classes, content {dataset.checksum[:12]} |
| licence of the data | {dataset.licence}; {dataset.source} |
| recipe | {settings} |
| measured | {100 * found:.1f} % top-1 on the {test:,} test images |
"""


def cropped(images: Tensor, area: float, rng: np.random.Generator) -> Tensor:
    """Random resized crops (Szegedy et al. 2015), each mirrored half of the time: B x C x H x W, as `images`.

    A crop shows a share of the area from `area` to 1, its sides in a ratio of 3/4 to 4/3, as far as the image goes.
    """
    n = len(images)
    share, ratio = rng.uniform(area, 1, n), np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), n))
    wide, high = np.minimum(np.sqrt(share * ratio), 1), np.minimum(np.sqrt(share / ratio), 1)
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = wide * rng.choice([-1, 1], n), high
    theta[:, 0, 2], theta[:, 1, 2] = (1 - wide) * rng.uniform(-1, 1, n), (1 - high) * rng.uniform(-1, 1, n)
    grid = F.affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def accuracy(body: nn.Module, head: nn.Module, dataset: Dataset) -> float:
    """Share of the test images that are labelled rightly."""
    body.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(dataset.splits["test"]["y"]), 128):
            x, y = (torch.from_numpy(dataset.splits["test"][name][start : start + 128]) for name in ("x", "y"))
            right += int((head(body(x.permute(0, 3, 1, 2).float() / 255)).argmax(1) == y).sum())
    return right / len(dataset.splits["test"]["y"])


def _write(out: Path, body: nn.Module, head: nn.Module, dataset: Dataset, card: str) -> None:
    """Half precision, timm's names; each file whole or not at all."""
    from safetensors.torch import save_file

    named = {**body.state_dict(), **{f"head.{name}": value for name, value in head.state_dict().items()}}
    new = out.with_name(f".{out.name}.new")
    try:
        save_file({k: v.half() for k, v in named.items()}, new, {"pretrained on": dataset.name})
        digest = sha256(new)
        new.replace(out)
        out.with_suffix(".md").write_text(f"# {out.stem}\n{card}| sha256 | `{digest}` |\n", "utf-8")
    except OSError as error:
        raise Mistake(f"{out} can't be written: {error.strerror}.") from None
