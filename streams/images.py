"""Lessons made of images: what the streams over a data set share. Subclasses say which samples each lesson teaches.

Of a data set of features (`clbench data features`) the samples are taken as they are, neither normalised nor augmented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from clbench.data import Data, Source
from clbench.datasets import Dataset, open_dataset
from clbench.errors import Mistake, unknown
from clbench.seeds import derive
from clbench.stream import Exam, Experience, Stream
from clbench.transform import ImageTransform, Transform
from clbench.types import Count, Natural, Share

Order = Literal["natural", "seed"] | Natural | list[int]
"""of classes: `natural`; a list of all labels; a number, the seed of a shuffle that every run shares; `seed`: shuffled
by each run's own seed"""


@dataclass
class Images(Stream):
    """A stream over a data set of images: how they are stored, shown and held out.

    A subclass opens the data (`_load`, then `_show`) and says which rows of the training set an experience teaches.
    """

    data: str = "digits"
    """a data set by name, or a path: a prepared data set, a folder of images, or an .npz"""
    label: str = "y"
    """the field that is to be learned: `y`, or a further field of the data set (CIFAR-100: `coarse`)"""
    resolution: Count | None = None
    """images are brought to this many pixels a side; null: as they are"""
    normalise: Literal["data", "unit"] = "data"
    """data: channels to mean 0 and deviation 1 over the training set; unit: pixels in [0, 1]"""
    crop: Natural = 0
    """augmentation of stream and memory: black border, in pixels, from which windows are cut at random"""
    flip: bool = False
    """augmentation of stream and memory: mirrored left to right, half of the time"""
    validation: Share = 0.0
    """share of each experience, of each class, that is held out of training"""
    exam_on: Literal["test", "validation"] = "test"
    """what exams are made of; tuning selects on `validation`, never on `test`"""

    def _load(self) -> list[str]:
        """Open the data set; the names of the labels."""
        self._dataset = self._open_dataset()
        if self._dataset.features:
            self.offers = type(self).offers | {"pretrained weights"}  # type: ignore[misc]
        if self.exam_on == "validation" and not self.validation:
            raise Mistake("stream.exam_on=validation needs a share to hold out: set stream.validation=0.1, say.")
        self._field(self._dataset, "train", self.label)
        return self._values(self._dataset, self.label)

    def _show(self, views: np.ndarray | None = None) -> None:
        """Make the arrays that lessons and exams look into; `views`: V x pixels, as in `Source`."""
        ways = None if views is None else torch.from_numpy(views)
        self._splits = {}
        for split in ("train", "test"):
            x, y = self._dataset.splits[split]["x"], np.ascontiguousarray(self._labels(split))
            self._splits[split] = Source(torch.from_numpy(x), torch.from_numpy(y), ways)

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

    def _hold_out(self, rows: np.ndarray, seed: int, index: int, of: str = "experience") -> np.ndarray:
        """Which of the rows of an experience, or of another part, are held out (bool).

        Raises:
            Mistake: that is none of them, or all.
        """
        if not self.validation:
            return np.zeros(len(rows), bool)
        held = self._share(rows, seed, index)
        if held.all() or not held.any():
            much = "holds out all" if held.all() else "holds out none"
            raise Mistake(f"stream.validation={self.validation} {much} of the {len(held)} samples of {of} {index}.")
        return held

    def _share(self, rows: np.ndarray, seed: int, index: int) -> np.ndarray:
        """Which of these rows are in the share that is held out (bool): so many of each class."""
        rng = np.random.default_rng(derive(seed, f"validation/{index}"))
        held, labels = np.zeros(len(rows), bool), self._labels("train")[rows]
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            held[members[: round(self.validation * len(members))]] = True
        return held

    def _rows(self, index: int) -> np.ndarray:
        """The rows of the training set that an experience teaches (int64)."""
        raise NotImplementedError

    def _view(self, index: int) -> int | torch.Tensor | None:
        """How its samples are seen."""
        return None

    def _classes(self, index: int) -> frozenset[int]:
        """The labels of its samples."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Experience:
        rows = torch.from_numpy(self._rows(index))
        data = Data(self._splits["train"], rows, view=self._view(index), lesson=index)
        return Experience(index, data, self._classes(index))

    def _exam(
        self,
        name: str,
        rows: np.ndarray,
        classes: frozenset[int],
        since: int | None,
        view: int | torch.Tensor | None = None,
    ) -> Exam:
        """An exam over rows of the test set, or of the training set where exams are made of what is held out."""
        source = self._splits["test" if self.exam_on == "test" else "train"]
        return Exam(name, Data(source, torch.from_numpy(rows), view=view), classes, since=since)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of the network's input: channels, height, width; of features how many."""
        *sides, channels = self._dataset.shape
        return channels, *sides

    @property
    def _sides(self) -> tuple[int, int]:
        """Height and width, for what turns images or permutes their pixels."""
        if self._dataset.features:
            raise Mistake(f"{self.data} holds features; this stream looks at images in other ways.")
        return self._dataset.shape[0], self._dataset.shape[1]

    def checksums(self) -> dict[str, str]:
        dataset = self._open_dataset()
        return {dataset.name: dataset.checksum}

    def protocol(self) -> dict[str, Any]:
        dataset = self._open_dataset()
        return {
            "data": dataset.name,
            "data content": dataset.checksum[:12],
            "label": self.label,
            **self._shown(dataset),
            "validation": self.validation,
            "exams": self.exam_on,
        }

    def _shown(self, dataset: Dataset) -> dict[str, Any]:
        """How samples come to the network, for the protocol."""
        if dataset.features:
            return {"features": ", ".join(f"{name} {value}" for name, value in dataset.features.items())}
        augmentation = ([f"crop {self.crop}"] if self.crop else []) + (["flip"] if self.flip else [])
        return {
            "resolution": self.resolution,
            "normalisation": self.normalise,
            "augmentation": ", ".join(augmentation) or "none",
        }

    def transform(self) -> Transform:
        if self._dataset.features:
            return Transform()
        mean, std = self._dataset.moments() if self.normalise == "data" else ((0.0,), (1.0,))
        return ImageTransform(tuple(mean), tuple(s or 1.0 for s in std), self.crop, self.flip)


def ordered(order: Order, classes: int, data: str, seed: int) -> np.ndarray:
    """The labels 0 .. classes-1 of a data set in this order, for the run with this seed.

    Raises:
        Mistake: a list is not of all labels.
    """
    match order:
        case "natural":
            return np.arange(classes)
        case "seed":
            return np.random.default_rng(derive(seed, "order of classes")).permutation(classes)
        case int():
            return np.random.default_rng(order).permutation(classes)
    if sorted(order) != list(range(classes)):
        raise Mistake(f"stream.order must list each label of {data} once: 0 to {classes - 1}.")
    return np.array(order)


def turned(shape: Sequence[int], angles: Sequence[float] | np.ndarray) -> np.ndarray:
    """Views of images (height x width) turned by these angles, in degrees anti-clockwise: nearest neighbour, black
    corners."""
    from PIL import Image

    height, width = shape
    places = Image.fromarray(np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width), mode="I")
    views = [np.asarray(places.rotate(angle, Image.Resampling.NEAREST)) for angle in angles]
    return np.stack(views).reshape(len(angles), -1).astype(np.int64) - 1
