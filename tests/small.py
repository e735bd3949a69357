"""Data, models and learners small enough that the right answer is known."""

from __future__ import annotations

import atexit
import copy
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from clbench.data import Data, Source
from clbench.datasets import Dataset
from clbench.learner import Learner
from clbench.models import ViT
from clbench.strategy import Strategy
from clbench.stream import Experience, Stream, Syllabus
from clbench.streams.forgetting import Forgetting
from clbench.streams.incremental import Permuted
from clbench.streams.toy import Toy
from clbench.transform import ImageTransform, Transform
from clbench.vision import torchvision


@dataclass
class Net:
    """One hidden layer; none where it has no units."""

    hidden: int = 8

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        inputs = int(np.prod(shape))
        body = nn.Sequential(nn.Flatten(), *([nn.Linear(inputs, self.hidden), nn.ReLU()] if self.hidden else []))
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(self.hidden or inputs, classes)))


@dataclass
class Linear:
    """A linear map with the weights given, classes x inputs, and no bias."""

    weight: Tensor

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        head = nn.Linear(int(np.prod(shape)), classes, bias=False)
        head.weight = nn.Parameter(self.weight.clone())
        return nn.Sequential(OrderedDict(body=nn.Flatten(), head=head))


@dataclass
class Normed:
    """Two layers, each with batch normalisation, so that one can be chosen and the other not."""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        body = OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(16, 8),
            bn1=nn.BatchNorm1d(8),
            relu=nn.ReLU(),
            fc2=nn.Linear(8, 8),
            bn2=nn.BatchNorm1d(8),
        )
        return nn.Sequential(OrderedDict(body=nn.Sequential(body), head=nn.Linear(8, classes)))


@dataclass
class Transformer:
    """A vision transformer of two blocks, which says that it is pretrained."""

    offers: ClassVar[frozenset[str]] = frozenset({"transformer", "pretrained weights"})

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return ViT(patch=shape[-1] // 2, width=12, depth=2, heads=3).build(shape, classes)


@dataclass
class Requests(Forgetting):
    """The toy stream's six patterns, all taught; then two requests to forget two of them."""

    requests: int = 2
    per_request: int = 2
    data_ratio: float = 0.25

    def _open_dataset(self) -> Dataset:
        return Toy()._open_dataset()


@dataclass
class Reordered(Permuted):
    """Three of the toy stream's patterns, under two orders of their pixels: experiences share their classes."""

    tasks: int = 2

    def _open_dataset(self) -> Dataset:
        return Toy(classes=3, samples=20)._open_dataset()


def vit_b16(classes: int = 100) -> nn.Module:
    """ViT-B/16 without data: only the shapes of its weights."""
    torchvision()
    import timm

    with torch.device("meta"):
        body = timm.create_model("vit_base_patch16_224", num_classes=0)
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(768, classes)))


def images(labels: Sequence[int], side: int = 4, lesson: int | None = None) -> Data:
    """Grey images of noise; the first two pixels spell a sample's number, by which `numbers` tells it again."""
    rng = np.random.default_rng(len(labels))
    x = rng.integers(0, 256, (len(labels), side, side, 1), dtype=np.uint8)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = np.arange(len(labels)) % 256, np.arange(len(labels)) // 256
    return Data(Source(torch.from_numpy(x), torch.tensor(labels)), torch.arange(len(labels)), lesson=lesson)


def numbers(x: Tensor) -> list[int]:
    """The numbers of samples as they are stored."""
    return (x[:, 0, 0, 0].long() + 256 * x[:, 0, 1, 0].long()).tolist()


def syllabus(classes: int = 4, side: int = 4, sizes: Sequence[int] = (), shared: bool = False) -> Syllabus:
    return Syllabus(len(sizes), classes, (1, side, side), tuple(sizes), shared)


def opened(
    classes: int = 4,
    side: int = 4,
    model: Any = None,
    transform: Transform | None = None,
    seed: int = 0,
    **options: Any,
) -> Learner:
    """A learner with a model for grey images, on the CPU with one thread."""
    learner = Learner(**{"device": "cpu", "threads": 1, **options})
    transform = transform or ImageTransform()
    learner.open(model or Net(), syllabus(classes, side), transform, Stream.criterion, seed)
    return learner


def lesson(data: Data, index: int = 0) -> Experience:
    return Experience(index, data, frozenset(data.labels.tolist()))


def teach(learner: Learner, strategy: Strategy, lessons: Iterable[Experience], classes: int = 4) -> Strategy:
    """What a run does, without exams and files."""
    lessons = list(lessons)
    sets = [e.classes for e in lessons]
    shared = sum(map(len, sets)) > len(frozenset().union(*sets))
    strategy.start(learner, syllabus(classes, sizes=[len(e.train) for e in lessons], shared=shared))
    for experience in lessons:
        learner.begin(experience)
        strategy.learn(learner, experience)
        learner.end()
    return strategy


def weights(learner: Learner) -> Tensor:
    """All parameters in one row."""
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


def watched(kind, log, **options):
    """The strategy, with every batch noted before its step: (batch, a copy of the model, the loss)."""

    class Watched(kind):
        def loss(self, learner, batch):
            found = super().loss(learner, batch)
            log.append((batch, copy.deepcopy(learner.model), found))
            return found

    return Watched(**options)


@cache
def libraries() -> list[str]:
    """Two releases of two libraries: folders of files that call what stays, what goes, and what is new."""
    home = Path(mkdtemp())
    atexit.register(rmtree, home)
    folders = []
    for release, changing in enumerate(("old", "fresh")):
        for library in ("alpha", "beta"):
            folder = home / str(release) / library
            folder.mkdir(parents=True)
            for number in range(24):
                a, b, c = (f"{name}{number}" for name in ("first", "second", "third"))
                (folder / f"part{number}.py").write_text(
                    f"from {library} import core\n\n"
                    f"def work{number}({a}, {b}):\n"
                    f"    {a} = core.keep{number % 3}({a}{f' + {b}' * number})\n"
                    f"    {b} = core.{changing}{number % 4}({a}, {c}={a})\n"
                    f"    return core.keep{(number + release) % 3}({b}, {a})\n"
                )
            (folder / "__init__.py").write_text("")
            for file in folder.iterdir():
                os.utime(file, (0, 0))  # one entry of the cache, whenever they are made
            folders.append(str(folder))
    return folders
