"""Streams of requests to forget: everything is taught first, then classes are to be forgotten, a few at a time.

Continual forgetting is Zhao et al. 2024 ("Continual Forgetting for Pre-trained Vision Models", CVPR; arXiv 2403.11530):
a network that knows all classes is asked to forget some of them, one request after another, while little of the data is
at hand and the head keeps an output for every class.

What differs here, and why. The paper starts from weights that were trained beforehand; here experience 0 teaches all
classes, so that a run holds all that its numbers rest on, and any model and data set will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Gt, Le

from clbench.errors import Mistake
from clbench.seeds import derive
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.streams.images import Order, ordered
from clbench.streams.incremental import Divided
from clbench.types import Count, Natural


@dataclass
class Forgetting(Divided):
    """Experience 0 teaches all classes; each one after it is a request.

    A request names the classes to forget (`Experience.forget`), and its training samples are the data at hand: a few of
    these classes and of all that remain, told apart by their labels, none of what was forgotten before. There is an
    exam for the classes of each request, one for those that are never asked for, and one for those without samples.
    All are answered among all labels.
    """

    requests: Count = 4
    """how many"""
    per_request: Count = 20
    """classes that each asks to forget; the last of the order go first"""
    order: Order = "natural"
    """of the classes: `natural`; a list of all labels; a number, the seed of a shuffle that every run shares; `seed`:
    shuffled by each run's own seed"""
    data_ratio: Annotated[float, Gt(0), Le(1)] = 0.1
    """share of the training samples of each class that is at hand in a request, one at the least; drawn for each"""
    shots: Count | None = None
    """training samples of each class that are at hand in a request, instead of a share"""
    missing: Natural = 0
    """so many of the classes that remain, the first of the order, have no samples after experience 0"""

    offers: ClassVar[frozenset[str]] = Stream.offers | {"requests"}

    def open(self, seed: int) -> None:
        classes, asked = len(self._load()), self.requests * self.per_request
        if asked + self.missing >= classes:
            raise Mistake(
                f"{self.requests} requests of {self.per_request} classes and {self.missing} without samples leave none "
                f"of the {classes} classes of {self.data}; set stream.requests, stream.per_request or stream.missing."
            )
        order = ordered(self.order, classes, self.data, seed)
        self._groups = [group.tolist() for group in np.split(order[::-1][:asked], self.requests)]
        self._unseen = order[: self.missing].tolist()
        self._kept = order[self.missing : classes - asked].tolist()
        self._seed = seed
        self._divide(seed)
        labels, (self._lesson,), (self._paper,) = self._labels("train"), self._lessons, self._papers
        self._pools = [self._lesson[labels[self._lesson] == label] for label in range(classes)]
        there = set(self._labels(self._judged)[self._paper].tolist())
        for label, pool in enumerate(self._pools):
            if not len(pool) or label not in there:
                raise Mistake(f"Class {label} of {self.data} needs samples both to learn from and in its exam.")

    def _members(self, split: str) -> list[np.ndarray]:
        return [np.ones(len(self._labels(split)), bool)]

    @property
    def _judged(self) -> str:
        """The split that exams are made of."""
        return "test" if self.exam_on == "test" else "train"

    def __len__(self) -> int:
        return 1 + self.requests

    def __getitem__(self, index: int) -> Experience:
        return replace(super().__getitem__(index), forget=frozenset(self._groups[index - 1] if index else ()))

    def _rows(self, index: int) -> np.ndarray:
        if index == 0:
            return self._lesson
        rng = np.random.default_rng(derive(self._seed, "at hand", index))
        pools = [self._pools[label] for label in sorted(self._classes(index))]
        return np.sort(np.concatenate([rng.choice(pool, self._count(len(pool)), replace=False) for pool in pools]))

    def _count(self, samples: int) -> int:
        """How many of the samples of a class are at hand."""
        return max(round(self.data_ratio * samples), 1) if self.shots is None else min(self.shots, samples)

    def _classes(self, index: int) -> frozenset[int]:
        if index == 0:
            return frozenset(range(len(self._pools)))
        return frozenset(self._kept).union(*self._groups[index - 1 :])

    def exams(self) -> Sequence[Exam]:
        width = len(str(self.requests))
        parts: list[tuple[str, list[int], int | None]] = [
            (f"forget {i:0{width}d}", group, i) for i, group in enumerate(self._groups, 1)
        ]
        parts += [("remaining", self._kept, None), *([("missing", self._unseen, None)] if self._unseen else [])]
        labels = self._labels(self._judged)[self._paper]
        return [
            replace(self._exam(name, self._paper[np.isin(labels, group)], frozenset(group), since=0), until=until)
            for name, group, until in parts
        ]

    def syllabus(self) -> Syllabus:
        sizes = (len(self._lesson), *(len(self._rows(index)) for index in range(1, len(self))))
        return Syllabus(len(self), len(self._pools), self._shape, sizes, shared=True, answers="all")

    def protocol(self) -> dict[str, Any]:
        return {
            "scenario": "continual forgetting",
            "answers among": "all labels",
            "requests": self.requests,
            "classes a request": self.per_request,
            "class order": "each run's own" if self.order == "seed" else str(self.order),
            "at hand": f"{self.data_ratio:g} of each class" if self.shots is None else f"{self.shots} of each class",
            "classes without samples": self.missing,
            **super().protocol(),
        }
