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
import torch

from clbench.data import Data, Source
from clbench.datasets import Dataset, open_dataset
from clbench.errors import Mistake, unknown
from clbench.learner import derive
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.transform import ImageTransform
from clbench.types import Count, Natural, Share


@dataclass
class Images(Stream):
    """Lessons made of images: what class- and domain-incremental streams share."""

    data: str = "digits"
    """a data set by name, or a path: a prepared data set, a folder of images, or an .npz"""
    label: str = "y"
    """the field that is to be learned: `y`, or a further field of the data set (CIFAR-100: `coarse`)"""
    resolution: Count | None = None
    """images are brought to this many pixels a side; null: as they are"""
    normalise: Literal["data", "unit"] = "data"
    """data: channels to mean 0 and deviation 1 over the training set; unit: pixels in [0, 1]"""
    crop: int = 0
    """augmentation of stream and memory: black border, in pixels, from which windows are cut at random"""
    flip: bool = False
    """augmentation of stream and memory: mirrored left to right, half of the time"""
    validation: Share = 0.0
    """share of each experience, of each class, that is held out of training"""
    exam_on: Literal["test", "validation"] = "test"
    """what exams are made of; tuning selects on `validation`, never on `test`"""

    def open(self, seed: int) -> None:
        self._dataset = self._open_dataset()
        if self.exam_on == "validation" and not self.validation:
            raise Mistake("stream.exam_on=validation needs a share to hold out: set stream.validation=0.1, say.")
        views = self._views(seed)
        self._splits = {name: self._source(name, views) for name in ("train", "test")}
        self._lessons = [np.flatnonzero(m) for m in self._members(self._dataset, "train", seed)]
        self._tests = [np.flatnonzero(m) for m in self._members(self._dataset, "test", seed)]
        for number, (lesson, test) in enumerate(zip(self._lessons, self._tests, strict=True)):
            if not len(lesson) or not len(test):
                what = "training" if not len(lesson) else "test"
                raise Mistake(f"Experience {number} of the stream over {self.data} has no {what} sample.")
        self._held = [self._hold_out(lesson, seed, i) for i, lesson in enumerate(self._lessons)]
        for number, held in enumerate(self._held):
            if held.all() or (self.validation and not held.any()):
                much = "holds out all" if held.all() else "holds out none"
                raise Mistake(
                    f"stream.validation={self.validation} {much} of the {len(held)} samples of experience {number}."
                )

    def _open_dataset(self) -> Dataset:
        if not self.data:
            raise Mistake("This stream needs data: stream.data=PATH (a folder of images, an .npz) or stream.data=NAME.")
        return open_dataset(self.data, self.resolution)

    def _labels(self, split: str) -> np.ndarray:
        return self._field(self._dataset, split, self.label)

    def _field(self, dataset: Dataset, split: str, name: str) -> np.ndarray:
        if name not in dataset.splits[split] or name == "x":
            raise unknown(f"field of {dataset.name}", name, [f for f in dataset.splits[split] if f != "x"])
        return dataset.splits[split][name]

    def _values(self, dataset: Dataset, field: str) -> list[str]:
        return dataset.classes if field == "y" else dataset.fields[field]

    def _source(self, split: str, views: torch.Tensor | None) -> Source:
        x, y = self._dataset.splits[split]["x"], np.ascontiguousarray(self._labels(split))
        return Source(torch.from_numpy(x), torch.from_numpy(y), views)

    def _views(self, seed: int) -> torch.Tensor | None:
        return None

    def _members(self, dataset: Dataset, split: str, seed: int) -> list[np.ndarray]:
        """For each experience, which samples of a split belong to it (bool, N)."""
        raise NotImplementedError

    def _hold_out(self, lesson: np.ndarray, seed: int, index: int) -> np.ndarray:
        """Which positions of a lesson are held out (bool): the share of each class."""
        held = np.zeros(len(lesson), bool)
        if self.validation:
            rng = np.random.default_rng(derive(seed, f"validation/{index}"))
            labels = self._labels("train")[lesson]
            for label in np.unique(labels):
                members = rng.permutation(np.flatnonzero(labels == label))
                held[members[: round(self.validation * len(members))]] = True
        return held

    def _view(self, index: int) -> int | None:
        return None

    def __len__(self) -> int:
        return len(self._lessons)

    def __getitem__(self, index: int) -> Experience:
        rows = torch.from_numpy(self._lessons[index][~self._held[index]])
        data = Data(self._splits["train"], rows, view=self._view(index), lesson=index)
        return Experience(index, data, self._classes(index))

    def _classes(self, index: int) -> frozenset[int]:
        return frozenset(np.unique(self._labels("train")[self._lessons[index]]).tolist())

    def exams(self) -> Sequence[Exam]:
        found = []
        for index in range(len(self)):
            if self.exam_on == "test":
                rows, split = self._tests[index], "test"
            else:
                rows, split = self._lessons[index][self._held[index]], "train"
            data = Data(self._splits[split], torch.from_numpy(rows), view=self._view(index))
            found.append(Exam(self._exam_name(index), data, self._classes(index), since=index))
        return found

    def _exam_name(self, index: int) -> str:
        return f"{index:0{len(str(len(self) - 1))}d}"

    def syllabus(self) -> Syllabus:
        height, width, channels = self._dataset.shape
        sets = [self._classes(i) for i in range(len(self))]
        return Syllabus(
            lessons=len(self),
            classes=len(self._values(self._dataset, self.label)),
            shape=(channels, height, width),
            sizes=tuple(int((~held).sum()) for held in self._held),
            shared=sum(map(len, sets)) > len(frozenset().union(*sets)),
        )

    def checksums(self) -> dict[str, str]:
        dataset = self._open_dataset()
        return {dataset.name: dataset.checksum}

    def protocol(self) -> dict[str, Any]:
        dataset = self._open_dataset()
        return {
            "data": dataset.name,
            "data content": dataset.checksum[:12],
            "label": self.label,
            "resolution": self.resolution,
            "normalisation": self.normalise,
            "augmentation": ", ".join(([f"crop {self.crop}"] if self.crop else []) + (["flip"] if self.flip else []))
            or "none",
            "validation": self.validation,
            "exams": self.exam_on,
        }

    def transform(self) -> ImageTransform:
        mean, std = self._dataset.moments() if self.normalise == "data" else ((0.0,), (1.0,))
        return ImageTransform(tuple(mean), tuple(s or 1.0 for s in std), self.crop, self.flip)


@dataclass
class ClassIncremental(Images):
    """Each experience brings classes that were not taught before."""

    experiences: Count = 5
    """into how many experiences the classes are divided, equally"""
    order: Literal["natural", "seed"] | Natural | list[int] = "natural"
    """of the classes: `natural`; a list of all labels; a number, the seed of a shuffle that every run shares; `seed`:
    shuffled by each run's own seed"""

    def open(self, seed: int) -> None:
        dataset = self._open_dataset()
        self._field(dataset, "train", self.label)
        classes = len(self._values(dataset, self.label))
        if classes % self.experiences:
            fits = [n for n in range(1, classes + 1) if classes % n == 0]
            raise Mistake(
                f"stream.experiences={self.experiences} does not divide the {classes} classes of {self.data}. "
                f"These do: {', '.join(map(str, fits))}."
            )
        self._order = self._ordered(classes, seed)
        super().open(seed)

    def _ordered(self, classes: int, seed: int) -> np.ndarray:
        match self.order:
            case "natural":
                return np.arange(classes)
            case "seed":
                return np.random.default_rng(derive(seed, "order of classes")).permutation(classes)
            case int():
                return np.random.default_rng(self.order).permutation(classes)
        if sorted(self.order) != list(range(classes)):
            raise Mistake(f"stream.order must list each label of {self.data} once: 0 to {classes - 1}.")
        return np.array(self.order)

    def _members(self, dataset: Dataset, split: str, seed: int) -> list[np.ndarray]:
        labels = self._labels(split)
        return [np.isin(labels, part) for part in np.split(self._order, self.experiences)]

    def protocol(self) -> dict[str, Any]:
        return {
            "scenario": "class-incremental",
            "experiences": self.experiences,
            "class order": "each run's own" if self.order == "seed" else str(self.order),
            **super().protocol(),
        }


@dataclass
class DomainIncremental(Images):
    """Each experience brings the same classes from another domain: a further field of the data set."""

    domain: str = "domain"
    """the field that tells domains apart"""
    order: Literal["natural", "seed"] | Natural | list[str] = "natural"
    """of the domains: `natural`; a list of names; a number, the seed of a shuffle that every run shares; `seed`:
    shuffled by each run's own seed"""

    def open(self, seed: int) -> None:
        dataset = self._open_dataset()
        self._field(dataset, "train", self.domain)
        self._field(dataset, "train", self.label)
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
        super().open(seed)

    def _members(self, dataset: Dataset, split: str, seed: int) -> list[np.ndarray]:
        field = self._field(dataset, split, self.domain)
        return [field == domain for domain in self._domains]

    def _exam_name(self, index: int) -> str:
        return self._names[index]

    def protocol(self) -> dict[str, Any]:
        order = "each run's own" if self.order == "seed" else str(self.order)
        return {"scenario": "domain-incremental", "domains": self.domain, "domain order": order, **super().protocol()}


@dataclass
class Permuted(Images):
    """Every experience teaches the whole data set, its pixels in another order (Goodfellow et al. 2014; permuted
    MNIST).

    As in the DER protocol (Buzzega et al. 2020) the first experience is permuted too. Permutations are drawn from the
    run's seed.
    """

    tasks: Count = 20
    """how many experiences"""

    SCENARIO: ClassVar[str] = "domain-incremental, permuted pixels"

    def _views(self, seed: int) -> torch.Tensor:
        height, width, _ = self._dataset.shape
        rng = np.random.default_rng(derive(seed, "permutations"))
        return torch.from_numpy(np.stack([rng.permutation(height * width) for _ in range(self.tasks)]))

    def _members(self, dataset: Dataset, split: str, seed: int) -> list[np.ndarray]:
        return [np.ones(len(dataset.splits[split]["y"]), bool)] * self.tasks

    def _hold_out(self, lesson: np.ndarray, seed: int, index: int) -> np.ndarray:
        return super()._hold_out(lesson, seed, 0)

    def _view(self, index: int) -> int:
        return index

    def _classes(self, index: int) -> frozenset[int]:
        return frozenset(range(len(self._values(self._dataset, self.label))))

    def protocol(self) -> dict[str, Any]:
        return {"scenario": self.SCENARIO, "experiences": self.tasks, **super().protocol()}


@dataclass
class Rotated(Permuted):
    """Every experience teaches the whole data set, turned by another angle (Lopez-Paz and Ranzato 2017; rotated MNIST).

    As in the DER protocol (Buzzega et al. 2020): angles uniform in [0, 180) degrees, nearest neighbour, black corners.
    Angles are drawn from the run's seed.
    """

    SCENARIO: ClassVar[str] = "domain-incremental, rotated images"

    def _views(self, seed: int) -> torch.Tensor:
        from PIL import Image

        height, width, _ = self._dataset.shape
        angles = np.random.default_rng(derive(seed, "angles")).uniform(0, 180, self.tasks)
        places = Image.fromarray(np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width), mode="I")
        turned = [np.asarray(places.rotate(angle, Image.Resampling.NEAREST)) for angle in angles]
        return torch.from_numpy(np.stack(turned).reshape(self.tasks, -1).astype(np.int64) - 1)
