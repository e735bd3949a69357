"""Streams in which classes come back: hundreds of short experiences, and one exam for each class.

SCoLe is Lesort et al. 2023 ("Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation",
CoLLAs), with the switches of its official code; CIR is Hemati et al. 2023 ("Class-Incremental Learning with
Repetition", CoLLAs). An experience is the number of samples that it has of each class; which ones is drawn when it is
asked for, from the run's seed and its index, so that a thousand experiences take a table and no more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from clbench.errors import Mistake
from clbench.seeds import derive
from clbench.stream import Exam, Syllabus
from clbench.streams.images import Images
from clbench.types import Count, Fraction, NonNegative

COUNTABLE = 1_000_000
"""so many sets of classes can be listed"""


@dataclass
class Recurring(Images):
    """Classes of a data set, over and over. Subclasses say which ones each experience teaches."""

    classes: Count | None = None
    """how many classes of the data set there are, drawn by the run's seed, with labels from 0; null: all of them, as
    they are"""
    experiences: Count = 500
    """how many"""
    samples: Count | None = None
    """training samples of an experience at the most, in equal shares for its classes, drawn anew each time; null: all
    that the protocol gives it"""
    look_every: Count = 1
    """probes look after every so-many-th experience, before the first and after the last"""

    SCENARIO: ClassVar[str]

    def open(self, seed: int) -> None:
        names = self._load()
        count = self.classes or len(names)
        if count > len(names):
            raise Mistake(f"stream.classes={count}: {self.data} has {len(names)} classes.")
        rng = np.random.default_rng(derive(seed, "classes"))
        chosen = np.sort(rng.choice(len(names), count, replace=False))
        self._names = [names[label] for label in chosen]
        self._place = np.full(len(names), -1)
        self._place[chosen] = np.arange(count)
        self._show()
        self._pools: list[np.ndarray] = []
        self._papers: list[np.ndarray] = []
        for label in range(count):
            train, test = (np.flatnonzero(self._labels(split) == label) for split in ("train", "test"))
            if not len(train) or not len(test):
                raise Mistake(f"Class {self._names[label]} of {self.data} needs samples in both train and test.")
            held = self._hold_out(train, seed, label, "class")
            self._pools.append(train[~held])
            self._papers.append(test if self.exam_on == "test" else train[held])
        self._seed = seed
        self._counts = self._plan(np.random.default_rng(derive(seed, "recurrence")))

    def _labels(self, split: str) -> np.ndarray:
        return self._place[super()._labels(split)]

    def _plan(self, rng: np.random.Generator) -> np.ndarray:
        """How many samples of each class each experience has (int64, experiences x classes)."""
        raise NotImplementedError

    @property
    def _sizes(self) -> np.ndarray:
        """Training samples of each class."""
        return np.array([len(pool) for pool in self._pools])

    def _shares(self, present: np.ndarray, given: np.ndarray) -> np.ndarray:
        """How many samples the classes that are present (bool, N x C) have: what is given, and no more than their share
        of `samples`."""
        if self.samples is None:
            return np.where(present, given, 0)
        together = present.sum(1, keepdims=True)
        if self.samples < together.max():
            raise Mistake(f"stream.samples={self.samples} are too few for the {together.max()} classes together.")
        return np.where(present, np.minimum(given, self.samples // together), 0)

    def __len__(self) -> int:
        return self.experiences

    def looks(self, step: int) -> bool:
        return step % self.look_every == 0

    def _rows(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(derive(self._seed, "samples", index))
        counts = zip(self._pools, self._counts[index], strict=True)
        return np.concatenate([p if n == len(p) else rng.choice(p, n, replace=False) for p, n in counts if n])

    def _classes(self, index: int) -> frozenset[int]:
        return frozenset(np.flatnonzero(self._counts[index]).tolist())

    def exams(self) -> Sequence[Exam]:
        taught = self._counts > 0
        first = np.where(taught.any(0), taught.argmax(0), -1).tolist()
        return [
            self._exam(name, rows, frozenset({label}), since=None if first[label] < 0 else first[label])
            for label, (name, rows) in enumerate(zip(self._names, self._papers, strict=True))
        ]

    def syllabus(self) -> Syllabus:
        taught = self._counts > 0
        return Syllabus(
            lessons=self.experiences,
            classes=len(self._names),
            shape=self._shape,
            sizes=tuple(self._counts.sum(1).tolist()),
            shared=bool(taught.sum() > taught.any(0).sum()),
            answers="all",
        )

    def protocol(self) -> dict[str, Any]:
        shared = {f.name for f in fields(Images)}
        own = {f.name.replace("_", " "): getattr(self, f.name) for f in fields(self) if f.name not in shared}
        plain = {name: str(value) if isinstance(value, list) else value for name, value in own.items()}
        return {"scenario": self.SCENARIO, "answers among": "all labels", **plain, **super().protocol()}


@dataclass
class SCoLe(Recurring):
    """Each experience teaches all samples of a few classes, drawn at random: SCoLe (Lesort et al. 2023)."""

    per_experience: Count = 2
    """K, the classes of an experience, all different"""
    draw: Literal["classes", "cycle", "couples", "iid"] = "classes"
    """classes: K at a time; cycle: all sets of K in turn; couples: one of a share of all sets of K; iid: the reference,
    as many samples as K classes have on average, drawn from all classes together"""
    imbalance: NonNegative = 0.0
    """classes: the exponent e of their probabilities, p ~ (1 - f i)^e for i = 0, 1, …, in an order by the run's seed; f
    is 0.05, from 21 classes on 0.01; 0: uniform"""
    prob_reduction: Annotated[float, Ge(1), Lt(math.inf)] = 1.0
    """classes: what the probability of a class is divided by each time that it was drawn"""
    period: Literal["none", "halves", "forgetting"] = "none"
    """classes: halves: the first half of the classes in the first half of the stream, the others in the second;
    forgetting: all of them in the first half, then the first half of the classes alone"""
    random_slots: Fraction = 0.0
    """cycle: the chance of each slot to get a class drawn at random instead"""
    couples: Annotated[float, Gt(0), Le(1)] = 1.0
    """couples: the share of all sets of K that ever occurs"""

    SCENARIO: ClassVar[str] = "recurring classes (SCoLe)"
    OPTIONS: ClassVar[dict[str, str]] = {
        "imbalance": "classes",
        "prob_reduction": "classes",
        "period": "classes",
        "random_slots": "cycle",
        "couples": "couples",
    }
    """which way of drawing makes use of each option"""

    def _plan(self, rng: np.random.Generator) -> np.ndarray:
        for option, draw in self.OPTIONS.items():
            if draw != self.draw and getattr(self, option) != getattr(SCoLe, option):
                raise Mistake(f"stream.{option} is an option of stream.draw={draw}; stream.draw={self.draw} has none.")
        classes, sizes = len(self._pools), self._sizes
        if self.per_experience > classes:
            raise Mistake(f"stream.per_experience={self.per_experience}: there are {classes} classes.")
        present = np.zeros((self.experiences, classes), bool)
        if self.draw == "iid":
            present[:, : self.per_experience] = True
            average = self._shares(present, np.full(classes, sizes.mean()))[0].sum()
            return rng.multivariate_hypergeometric(sizes, round(average), self.experiences)
        drawn = {"classes": self._drawn, "cycle": self._cycle, "couples": self._couples}[self.draw](rng, classes)
        for row, chosen in zip(present, drawn, strict=True):
            row[list(chosen)] = True
        return self._shares(present, sizes)

    def _drawn(self, rng: np.random.Generator, classes: int) -> Iterator[Sequence[int]]:
        """K different classes, by their probabilities."""
        p = self._probabilities(rng, classes)
        every, first = np.ones(classes, bool), np.arange(classes) < classes // 2
        early, late = {"none": (every, every), "halves": (first, ~first), "forgetting": (every, first)}[self.period]
        if self.per_experience > min(early.sum(), late.sum()):
            raise Mistake(
                f"stream.period={self.period} leaves {min(early.sum(), late.sum())} classes to draw from; "
                f"stream.per_experience={self.per_experience} asks for more."
            )
        for index in range(self.experiences):
            there = early if index < self.experiences // 2 else late
            now = np.where(there, p, 0)
            chosen = rng.choice(classes, self.per_experience, replace=False, p=now / now.sum())
            p[chosen] /= self.prob_reduction
            p[there] /= p[there].sum()
            yield chosen.tolist()

    def _probabilities(self, rng: np.random.Generator, classes: int) -> np.ndarray:
        """Of each class, to be drawn."""
        p = 1 - (0.01 if classes > 20 else 0.05) * np.arange(classes)
        if self.imbalance and p[-1] <= 0:
            raise Mistake(f"stream.imbalance is defined for up to 100 classes; there are {classes}.")
        p = (p / p.sum()) ** self.imbalance
        return rng.permutation(p / p.sum())

    def _cycle(self, rng: np.random.Generator, classes: int) -> Iterator[Sequence[int]]:
        """All sets of K classes in turn; slots replaced at random."""
        rounds = (itertools.combinations(range(classes), self.per_experience) for _ in itertools.count())
        for chosen in itertools.islice(itertools.chain.from_iterable(rounds), self.experiences):
            slots = list(chosen)
            for place in np.flatnonzero(rng.random(self.per_experience) < self.random_slots):
                others = np.setdiff1d(np.arange(classes), np.delete(slots, place))
                slots[place] = int(rng.choice(others))
            yield slots

    def _couples(self, rng: np.random.Generator, classes: int) -> Iterator[Sequence[int]]:
        """One of the sets of K classes that occur at all."""
        there = math.comb(classes, self.per_experience)
        if there > COUNTABLE:
            raise Mistake(
                f"stream.draw=couples lists all sets of {self.per_experience} of {classes} classes: {there} are too "
                f"many (at most {COUNTABLE})."
            )
        sets = list(itertools.combinations(range(classes), self.per_experience))
        used = rng.choice(there, max(round(self.couples * there), 1), replace=False)
        yield from (sets[number] for number in rng.choice(used, self.experiences))


@dataclass
class Slots(Recurring):
    """Every sample is taught once: the samples of each class are cut into slots, and each experience gets K slots of
    different classes, at random (CIR's slot-based generator, Hemati et al. 2023).

    K = C / N is class-incremental, K = C has all classes in every experience.
    """

    per_experience: Count = 20
    """K, the slots of an experience"""

    SCENARIO: ClassVar[str] = "recurring classes (CIR, slots)"

    def _plan(self, rng: np.random.Generator) -> np.ndarray:
        classes, slots = len(self._pools), self.experiences * self.per_experience
        if self.per_experience > classes:
            raise Mistake(f"stream.per_experience={self.per_experience}: there are {classes} classes.")
        if slots % classes:
            raise Mistake(
                f"stream.experiences={self.experiences} times stream.per_experience={self.per_experience} are {slots} "
                f"slots; it must be a multiple of the {classes} classes."
            )
        self._mixed = [rng.permutation(pool) for pool in self._pools]
        left = np.full(classes, slots // classes)
        if self._sizes.min() < left[0]:
            raise Mistake(f"The {self._sizes.min()} samples of a class can't be cut into {left[0]} slots.")
        present = np.zeros((self.experiences, classes), bool)
        for index, row in enumerate(present):
            row[left == self.experiences - index] = True  # what has a slot for each experience that is left
            more, wanted = np.where(row, 0, left), self.per_experience - row.sum()
            if wanted:
                row[rng.choice(classes, wanted, replace=False, p=more / more.sum())] = True
            left -= row
        number = np.cumsum(present, 0) - 1
        self._starts = number * self._sizes // (slots // classes)
        ends = (number + 1) * self._sizes // (slots // classes)
        return self._shares(present, ends - self._starts)

    def _rows(self, index: int) -> np.ndarray:
        parts = zip(self._mixed, self._starts[index], self._counts[index], strict=True)
        return np.concatenate([pool[start : start + count] for pool, start, count in parts if count])


@dataclass
class Sampling(Recurring):
    """A class that has appeared comes back in each later experience with a chance of its own; samples are drawn anew
    (CIR's sampling-based generator, Hemati et al. 2023).

    Where an experience would be empty, one class is drawn for it: from those that have appeared, or for the first
    experience from all; this is ours.
    """

    samples: Count | None = 500
    """S, the training samples of an experience: floor(S / classes present) of each; null: all that there are"""
    first: Fraction = 0.0
    """the chance of a class that has not appeared yet to do so in the next experience (a geometric distribution, cut
    at the last one); 0: each experience is as likely"""
    repeat: Fraction | list[Fraction] = 0.2
    """the chance of a class that has appeared to occur in an experience; a list: of each class"""

    SCENARIO: ClassVar[str] = "recurring classes (CIR, sampling)"

    def _plan(self, rng: np.random.Generator) -> np.ndarray:
        classes, experiences = len(self._pools), self.experiences
        if isinstance(self.repeat, list) and len(self.repeat) != classes:
            raise Mistake(f"stream.repeat has {len(self.repeat)} chances; there are {classes} classes.")
        p = (1 - self.first) ** np.arange(experiences)
        begins = rng.choice(experiences, classes, p=p / p.sum())
        if begins.min():
            begins[rng.integers(classes)] = 0
        after = np.arange(experiences)[:, None] - begins
        present = (after == 0) | ((after > 0) & (rng.random((experiences, classes)) < np.array(self.repeat)))
        for index in np.flatnonzero(~present.any(1)):
            present[index, rng.choice(np.flatnonzero(begins < index))] = True
        return self._shares(present, self._sizes)
