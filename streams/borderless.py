"""Streams in which no task ends at a border: classes that run into one another, and images that turn gradually.

They do not offer task borders, so that strategies that live by them are refused. An experience is a stretch of the
stream, after which exams may be sat; nothing else marks its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from clbench.errors import Mistake
from clbench.seeds import derive
from clbench.stream import Exam, Syllabus
from clbench.streams.images import Images, turned
from clbench.streams.incremental import ClassIncremental
from clbench.types import Count, Fraction


@dataclass
class Blurry(ClassIncremental):
    """Class-incremental, but a share of the samples of each class is taught in the other experiences.

    After the blurry setup of Bang et al. 2021 ("Rainbow Memory", CVPR), where each task takes a share of its samples
    from the classes of the other tasks. Here: of each class `blur` of the training samples, at random, leave their
    experience and are dealt evenly to all others, so that every sample is taught once. An exam asks for the classes of
    one experience, and counts as taught from it on, though a few of their samples came before.
    """

    blur: Fraction = 0.1
    """share of each class that is taught elsewhere"""

    offers: ClassVar[frozenset[str]] = Images.offers - {"task borders"}

    def open(self, seed: int) -> None:
        super().open(seed)
        if self.experiences == 1:
            raise Mistake("stream.experiences=1: there is no other experience for samples to be taught in.")
        self._lessons = self._mixed(np.random.default_rng(derive(seed, "blur")))

    def _mixed(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The rows of each experience, guests from the others included."""
        labels = self._labels("train")
        found: list[list[np.ndarray]] = [[] for _ in self._lessons]
        for number, lesson in enumerate(self._lessons):
            others = [other for other in range(len(found)) if other != number]
            for label in self._parts[number]:
                members = rng.permutation(lesson[labels[lesson] == label])
                leave = round(self.blur * len(members))
                found[number].append(members[leave:])
                guests = np.array_split(members[:leave], len(others))
                for place, some in zip(rng.permutation(others), guests, strict=True):
                    found[place].append(some)
        return [np.sort(np.concatenate(parts)) for parts in found]

    def _asked(self, index: int) -> frozenset[int]:
        return frozenset(self._parts[index].tolist())

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "scenario": "class-incremental, blurry", "blur": self.blur}


@dataclass
class Turning(Images):
    """Two consecutive classes at a time, 0 and 1, 1 and 2, …, the last and 0, in rounds, while all images turn.

    MNIST-360 (Buzzega et al. 2020, "Dark Experience for General Continual Learning", NeurIPS), as its code has it.

    Every training sample is taught once: a class is cut into two parts for each round, one for each of its pairs. Over
    the stream its samples turn by 360 degrees, starting at (c - 1) times 60 for class c. The angle of the i-th of n
    samples, start + 360 i / n, is rounded down to a multiple of `degrees`; images of an experience are shuffled, so
    order is kept from one experience to the next only. Exams: the test samples of a class, over one whole turn.
    """

    data: str = "mnist"
    """a data set by name, or a path: a prepared data set, a folder of images, or an .npz"""
    classes: Count = 9
    """only the first so many labels occur: of MNIST all but 9, which is a 6 upside down"""
    rounds: Count = 3
    """how often all pairs are gone through"""
    stretches: Count = 10
    """into how many experiences the time of a pair is cut"""
    degrees: Count = 1
    """steps of the angle; must divide 360"""
    look_every: Count = 10
    """probes look after every so-many-th experience, before the first and after the last"""

    offers: ClassVar[frozenset[str]] = Images.offers - {"task borders"}

    def open(self, seed: int) -> None:
        there = len(self._load())
        if not 3 <= self.classes <= there:
            raise Mistake(f"stream.classes={self.classes}: pairs take 3 classes or more, and {self.data} has {there}.")
        if 360 % self.degrees:
            raise Mistake(f"stream.degrees={self.degrees} does not divide 360.")
        self._show(turned(self._sides, np.arange(0, 360, self.degrees)))
        self._stretches: list[tuple[np.ndarray, np.ndarray]] = []
        """of each experience: rows, and the view of each"""
        self._papers: list[tuple[np.ndarray, np.ndarray]] = []
        parts = [self._open_class(label, seed) for label in range(self.classes)]
        for round_ in range(self.rounds):
            for pair in range(self.classes):
                # A class is the second of a pair first, but for class 0: its round begins with it as the first.
                second = (pair + 1) % self.classes
                visits = (2 * round_ + (pair > 0), 2 * round_ + (second == 0))
                both = [parts[label][visit] for label, visit in zip((pair, second), visits, strict=True)]
                cut = [np.array_split(part, self.stretches, axis=1) for part in both]
                for one, other in zip(*cut, strict=True):
                    rows, views = np.concatenate([one, other], axis=1)
                    self._stretches.append((rows, views))
        if not all(len(rows) for rows, _ in self._stretches):
            raise Mistake(f"stream.stretches={self.stretches} are more than there are samples for.")

    def _open_class(self, label: int, seed: int) -> list[np.ndarray]:
        """The samples of a class in the order in which they are taught, cut into two parts a round: rows and views, 2 x
        part."""
        train, test = (np.flatnonzero(self._labels(split) == label) for split in ("train", "test"))
        if not len(train) or not len(test):
            raise Mistake(f"Class {label} of {self.data} needs samples in both train and test.")
        held = self._hold_out(train, seed, label, "class")
        asked = test if self.exam_on == "test" else train[held]
        self._papers.append((asked, self._angles(len(asked), 0)))
        order = np.random.default_rng(derive(seed, "order of samples", label)).permutation(train[~held])
        taught = np.stack([order, self._angles(len(order), 60 * (label - 1))])
        return np.array_split(taught, 2 * self.rounds, axis=1)

    def _angles(self, count: int, start: int) -> np.ndarray:
        """The view of each of so many samples over a whole turn."""
        return (start + 360 * np.arange(count) // count) % 360 // self.degrees

    def __len__(self) -> int:
        return len(self._stretches)

    def looks(self, step: int) -> bool:
        return step % self.look_every == 0

    def _rows(self, index: int) -> np.ndarray:
        return self._stretches[index][0]

    def _view(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self._stretches[index][1])

    def _classes(self, index: int) -> frozenset[int]:
        return frozenset(np.unique(self._labels("train")[self._rows(index)]).tolist())

    def exams(self) -> Sequence[Exam]:
        first = [0, *(self.stretches * (label - 1) for label in range(1, self.classes))]
        return [
            self._exam(str(label), rows, frozenset({label}), first[label], torch.from_numpy(views))
            for label, (rows, views) in enumerate(self._papers)
        ]

    def syllabus(self) -> Syllabus:
        sizes = tuple(len(rows) for rows, _ in self._stretches)
        return Syllabus(len(self), self.classes, self._shape, sizes, shared=True, answers="all")

    def protocol(self) -> dict[str, Any]:
        return {
            "scenario": "pairs of classes, turning",
            "answers among": "all labels",
            "classes": self.classes,
            "rounds": self.rounds,
            "stretches": self.stretches,
            "degrees": self.degrees,
            "looks": self.look_every,
            **super().protocol(),
        }
