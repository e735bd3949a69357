"""Class-incremental and domain-incremental streams over any data set.

The scenarios are those of van de Ven and Tolias 2019 ("Three scenarios for continual learning"). Sample order within an
experience, initialisation and everything else that a seed decides are the run's; the stream draws only its own order,
permutations and angles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from clbench.errors import Mistake, unknown
from clbench.seeds import derive
from clbench.stream import Exam, Syllabus
from clbench.streams.images import Images, Order, ordered, turned
from clbench.types import Count, Natural


@dataclass
class Divided(Images):
    """A data set divided among the experiences, each with an exam of its own. Subclasses say by what."""

    per_class: Count | None = None
    """training samples of each class in an experience at the most, the held-out ones included; null: all. Drawn once
    for all runs, fewer from among more"""
    exam_per_class: Count | None = None
    """samples of each class in an exam at the most, drawn likewise; null: all"""

    def _divide(self, seed: int) -> None:
        """Which samples are taught by each experience, and which are asked for by its exam."""
        self._show()
        parts = {split: [np.flatnonzero(m) for m in self._members(split)] for split in ("train", "test")}
        self._lessons: list[np.ndarray] = []
        self._papers: list[np.ndarray] = []
        for number, (lesson, test) in enumerate(zip(parts["train"], parts["test"], strict=True)):
            if not len(lesson) or not len(test):
                what = "training" if not len(lesson) else "test"
                raise Mistake(f"Experience {number} of the stream over {self.data} has no {what} sample.")
            lesson = self._few(lesson, "train", self.per_class)
            held = self._hold_out(lesson, seed, number)
            self._lessons.append(lesson[~held])
            on = ("test", test) if self.exam_on == "test" else ("train", lesson[held])
            self._papers.append(self._few(on[1], on[0], self.exam_per_class))

    def _few(self, rows: np.ndarray, split: str, count: int | None) -> np.ndarray:
        """Of these rows of a split, so many of each class at the most."""
        if count is None:
            return rows
        labels = self._labels(split)
        keys = np.random.PCG64(0).random_raw(len(labels))[rows]
        order = np.lexsort((keys, labels[rows]))
        ordered = labels[rows][order]
        rank = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
        return np.sort(rows[order[rank < count]])

    def protocol(self) -> dict[str, Any]:
        few = {"training samples a class": self.per_class, "exam samples a class": self.exam_per_class}
        return {**{name: count for name, count in few.items() if count}, **super().protocol()}

    def _members(self, split: str) -> list[np.ndarray]:
        """For each experience, which samples of a split belong to it (bool, N)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._lessons)

    def _rows(self, index: int) -> np.ndarray:
        return self._lessons[index]

    def _classes(self, index: int) -> frozenset[int]:
        return frozenset(np.unique(self._labels("train")[self._lessons[index]]).tolist())

    def exams(self) -> Sequence[Exam]:
        return [self._exam(self._name(i), self._papers[i], self._asked(i), since=i) for i in range(len(self))]

    def _name(self, index: int) -> str:
        return f"{index:0{len(str(len(self) - 1))}d}"

    def _asked(self, index: int) -> frozenset[int]:
        """The labels that the exam on an experience leaves open."""
        return self._classes(index)

    def syllabus(self) -> Syllabus:
        sets = [self._classes(i) for i in range(len(self))]
        return Syllabus(
            lessons=len(self),
            classes=len(self._values(self._dataset, self.label)),
            shape=self._shape,
            sizes=tuple(map(len, self._lessons)),
            shared=sum(map(len, sets)) > len(frozenset().union(*sets)),
            names=tuple(self._values(self._dataset, self.label)),
        )


@dataclass
class ClassIncremental(Divided):
    """Each experience brings classes that were not taught before."""

    experiences: Count = 5
    """into how many experiences the classes are divided, equally"""
    order: Order = "natural"
    """of the classes: `natural`; a list of all labels; a number, the seed of a shuffle that every run shares; `seed`:
    shuffled by each run's own seed"""
    take: Count | None = None
    """only the first so many classes of the order are taught; null: all"""

    def open(self, seed: int) -> None:
        there = len(self._load())
        classes = self.take or there
        if classes > there:
            raise Mistake(f"stream.take={classes}: {self.data} has {there} classes.")
        if classes % self.experiences:
            fits = [n for n in range(1, classes + 1) if classes % n == 0]
            raise Mistake(
                f"stream.experiences={self.experiences} does not divide the {classes} classes of {self.data}. "
                f"These do: {', '.join(map(str, fits))}."
            )
        self._parts = np.split(ordered(self.order, there, self.data, seed)[:classes], self.experiences)
        self._divide(seed)

    def _members(self, split: str) -> list[np.ndarray]:
        labels = self._labels(split)
        return [np.isin(labels, part) for part in self._parts]

    def protocol(self) -> dict[str, Any]:
        return {
            "scenario": "class-incremental",
            "experiences": self.experiences,
            "class order": "each run's own" if self.order == "seed" else str(self.order),
            **({"classes taught": self.take} if self.take else {}),
            **super().protocol(),
        }


@dataclass
class DomainIncremental(Divided):
    """Each experience brings the same classes from another domain: a further field of the data set."""

    offers: ClassVar[frozenset[str]] = Divided.offers | {"shared classes"}

    domain: str = "domain"
    """the field that tells domains apart"""
    order: Literal["natural", "seed"] | Natural | list[str] = "natural"
    """of the domains: `natural`; a list of names; a number, the seed of a shuffle that every run shares; `seed`:
    shuffled by each run's own seed"""

    def open(self, seed: int) -> None:
        self._load()
        dataset = self._dataset
        self._field(dataset, "train", self.domain)
        names = self._values(dataset, self.domain)
        match self.order:
            case "natural":
                chosen = list(range(len(names)))
            case "seed":
                chosen = np.random.default_rng(derive(seed, "order of domains")).permutation(len(names)).tolist()
            case int():
                chosen = np.random.default_rng(self.order).permutation(len(names)).tolist()
            case list():
                for name in self.order:
                    if name not in names:
                        raise unknown(f"{self.domain} in {self.data}", name, names)
                if not self.order or len(set(self.order)) < len(self.order):
                    raise Mistake(f"stream.order must list one or more of {', '.join(names)}, each at most once.")
                chosen = [names.index(name) for name in self.order]
        self._domains, self._names = chosen, [names[d] for d in chosen]
        self._divide(seed)

    def _members(self, split: str) -> list[np.ndarray]:
        field = self._field(self._dataset, split, self.domain)
        return [field == domain for domain in self._domains]

    def _name(self, index: int) -> str:
        return self._names[index]

    def protocol(self) -> dict[str, Any]:
        order = "each run's own" if self.order == "seed" else str(self.order)
        return {"scenario": "domain-incremental", "domains": self.domain, "domain order": order, **super().protocol()}


@dataclass
class Permuted(Images):
    """Every experience teaches the whole data set, its pixels in another order (Goodfellow et al. 2014; permuted
    MNIST).

    As in the DER protocol (Buzzega et al. 2020) the first experience is permuted too. Permutations are drawn from the
    run's seed. For hundreds of tasks, as where plasticity is measured (Dohare et al. 2024), only some have exams, each
    sat for the first time right after its task.
    """

    offers: ClassVar[frozenset[str]] = Images.offers | {"shared classes"}

    tasks: Count = 20
    """how many experiences"""
    samples: Count | None = None
    """training samples of a task, drawn anew for each; null: all"""
    exam_every: Count = 1
    """every so-many-th task has an exam"""
    exam_samples: Count | None = None
    """samples of an exam, the same in all exams; null: all"""
    look_every: Count = 1
    """probes look after every so-many-th task, before the first and after the last; must divide `exam_every`"""

    SCENARIO: ClassVar[str] = "domain-incremental, permuted pixels"
    DRAWN: ClassVar[str] = "permutations"

    def open(self, seed: int) -> None:
        self._load()
        if self.exam_every > self.tasks:
            raise Mistake(f"stream.exam_every={self.exam_every} leaves the {self.tasks} tasks without an exam.")
        if self.exam_every % self.look_every:
            raise Mistake(
                f"stream.look_every={self.look_every} must divide stream.exam_every={self.exam_every}, so that an exam "
                "is sat right after its task."
            )
        self._seed = seed
        self._show(self._views(np.random.default_rng(derive(seed, self.DRAWN))))
        lesson, test = (np.arange(len(self._labels(split))) for split in ("train", "test"))
        held = self._hold_out(lesson, seed, 0)
        self._lesson = lesson[~held]
        self._paper = test if self.exam_on == "test" else lesson[held]
        if self.exam_samples and self.exam_samples < len(self._paper):
            rng = np.random.default_rng(derive(seed, "exam samples"))
            self._paper = np.sort(rng.choice(self._paper, self.exam_samples, replace=False))

    def _views(self, rng: np.random.Generator) -> np.ndarray:
        height, width = self._sides
        return np.stack([rng.permutation(height * width) for _ in range(self.tasks)])

    def __len__(self) -> int:
        return self.tasks

    def looks(self, step: int) -> bool:
        return step % self.look_every == 0

    def _rows(self, index: int) -> np.ndarray:
        if self.samples is None or self.samples >= len(self._lesson):
            return self._lesson
        rng = np.random.default_rng(derive(self._seed, "samples", index))
        return rng.choice(self._lesson, self.samples, replace=False)

    def _view(self, index: int) -> int:
        return index

    def _classes(self, index: int) -> frozenset[int]:
        if self.samples is None:
            return frozenset(range(len(self._values(self._dataset, self.label))))
        return frozenset(np.unique(self._labels("train")[self._rows(index)]).tolist())

    def exams(self) -> Sequence[Exam]:
        width, classes = len(str(self.tasks - 1)), frozenset(range(len(self._values(self._dataset, self.label))))
        return [
            self._exam(f"{i:0{width}d}", self._paper, classes, since=i, view=i)
            for i in range(self.exam_every - 1, self.tasks, self.exam_every)
        ]

    def syllabus(self) -> Syllabus:
        size = min(len(self._lesson), self.samples or len(self._lesson))
        classes = len(self._values(self._dataset, self.label))
        return Syllabus(self.tasks, classes, self._shape, (size,) * self.tasks, shared=self.tasks > 1)

    def protocol(self) -> dict[str, Any]:
        few = {
            "samples an experience": self.samples,
            "exams on": self.exam_every > 1 and f"every {self.exam_every}th experience",
            "samples an exam": self.exam_samples,
            "looks": self.look_every > 1 and f"every {self.look_every}th experience",
        }
        few = {name: value for name, value in few.items() if value}
        return {"scenario": self.SCENARIO, "experiences": self.tasks, **few, **super().protocol()}


@dataclass
class Rotated(Permuted):
    """Every experience teaches the whole data set, turned by another angle (Lopez-Paz and Ranzato 2017; rotated MNIST).

    As in the DER protocol (Buzzega et al. 2020): angles uniform in [0, 180) degrees, nearest neighbour, black corners.
    Angles are drawn from the run's seed.
    """

    SCENARIO: ClassVar[str] = "domain-incremental, rotated images"
    DRAWN: ClassVar[str] = "angles"

    def _views(self, rng: np.random.Generator) -> np.ndarray:
        return turned(self._sides, rng.uniform(0, 180, self.tasks))
