"""Lessons in order, and the exams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from clbench.data import Data
from clbench.errors import Mistake
from clbench.transform import Transform


@dataclass(frozen=True)
class Experience:
    """One lesson."""

    index: int
    """its place in the stream, from 0"""
    train: Data
    """what may be trained on"""
    classes: frozenset[int] = frozenset()
    """labels present in it"""
    forget: frozenset[int] = frozenset()
    """labels to unlearn at this step"""


@dataclass(frozen=True)
class Exam:
    """One question paper, sat before the first lesson and after each."""

    name: str
    data: Data
    classes: frozenset[int]
    """the labels that the task-incremental read-out leaves open"""
    since: int | None = None
    """first experience that teaches it; None: never taught"""
    until: int | None = None
    """experience that asks to forget it"""
    score: str = "accuracy"
    """how it is marked: a name in the metrics wing"""


@dataclass(frozen=True)
class Syllabus:
    """What a strategy may know before it starts. No data, no exam."""

    lessons: int | None
    """how many experiences; None: open-ended"""
    classes: int
    """labels in all, 0 .. classes-1"""
    shape: tuple[int, ...]
    """of one network input, without the batch; images: C x H x W"""
    sizes: tuple[int, ...]
    """training samples of each experience"""
    shared: bool
    """whether experiences share classes, as domain-incremental ones do"""


@dataclass
class Stream:
    """Lessons in order, and the exams. Subclasses say what the lessons are.

    Fields are the options of the protocol; `open` creates everything else.
    """

    version: ClassVar[int] = 1
    """raised when the same options and seed teach something else than before"""
    offers: ClassVar[frozenset[str]] = frozenset({"known length", "task borders"})
    """what strategies may rely on"""

    def open(self, seed: int) -> None:
        """Open the data and draw what the seed decides. Called once, before anything below.

        Raises:
            Mistake: the data is missing or damaged, or does not fit the options.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Experience:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Experience]:
        for index in range(len(self)):
            yield self[index]

    def exams(self) -> Sequence[Exam]:
        raise NotImplementedError

    def syllabus(self) -> Syllabus:
        raise NotImplementedError

    def checksums(self) -> dict[str, str]:
        """Content of each data set used, as name to sha256. Does not need `open`."""
        return {}

    def protocol(self) -> dict[str, Any]:
        """What two rows must share, as far as the stream decides it. Does not need `open`."""
        return {}

    def transform(self) -> Transform:
        """From stored samples to network input, with the augmentation of training."""
        return Transform()

    @staticmethod
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch: cross-entropy unless the stream says otherwise."""
        return F.cross_entropy(output, target)


@dataclass
class Beginning(Stream):
    """The first lessons of a stream: what comes later is neither taught nor asked."""

    whole: Stream
    lessons: int
    """how many"""

    def __post_init__(self) -> None:
        self.version, self.offers = self.whole.version, self.whole.offers  # type: ignore[misc]
        self.criterion = self.whole.criterion  # type: ignore[method-assign]

    def open(self, seed: int) -> None:
        self.whole.open(seed)
        if self.lessons >= (there := len(self.whole)):
            raise Mistake(f"first={self.lessons} leaves nothing out: the stream has {there} experiences.")

    def __len__(self) -> int:
        return self.lessons

    def __getitem__(self, index: int) -> Experience:
        return self.whole[index]

    def exams(self) -> Sequence[Exam]:
        return [exam for exam in self.whole.exams() if exam.since is None or exam.since < self.lessons]

    def syllabus(self) -> Syllabus:
        whole = self.whole.syllabus()
        return replace(whole, lessons=self.lessons, sizes=whole.sizes[: self.lessons])

    def checksums(self) -> dict[str, str]:
        return self.whole.checksums()

    def protocol(self) -> dict[str, Any]:
        return {**self.whole.protocol(), "first experiences": self.lessons}

    def transform(self) -> Transform:
        return self.whole.transform()
