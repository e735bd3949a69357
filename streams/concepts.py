"""Concepts of a data set: some of its classes, shown in some way, and what they are for in a stream over several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from clbench.datasets import Dataset, open_dataset
from clbench.errors import Mistake, unknown

Samples = tuple[np.ndarray, np.ndarray]
"""images, N x H x W x C, and labels, from 0"""

TURNS = {
    "none": lambda x: x,
    "left": lambda x: np.rot90(x, 1, (1, 2)),
    "over": lambda x: np.rot90(x, 2, (1, 2)),
    "right": lambda x: np.rot90(x, 3, (1, 2)),
    "mirrored": lambda x: x[:, :, ::-1],
    "negative": lambda x: 255 - x,
}
"""of images, N x H x W x C"""


@dataclass(frozen=True)
class Concepts:
    """A data set, or a part of one, and what it is for."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    data: str
    """by name or path"""
    role: Literal["adapt", "eval", "pretraining"] = "adapt"
    """adapt: its classes are taught; eval: only asked for; pretraining: its training samples are the pool, its test
    samples are asked for"""
    name: str = ""
    """of its exam; empty: that of the data"""
    prompt: str = "a photo of a {}."
    """what the name of a class stands in"""
    classes: tuple[int, int] | None = None
    """only those from one place to before another in a shuffle of the data's classes that is always the same; null:
    all"""
    where: str = ""
    """only samples with this value of a field, `domain=photo`; empty: all"""
    turn: Literal["none", "left", "over", "right", "mirrored", "negative"] = "none"
    """how its images are shown"""
    year: int = 0
    """of publication, for the order by time"""

    @property
    def title(self) -> str:
        return self.name or self.data

    def read(
        self, resolution: int | None, most: int | None, asked: int | None, held: float, on_held: bool
    ) -> tuple[list[str], dict[str, Samples]]:
        """The names of the classes, and the samples to learn from (`train`) and of the exam (`test`).

        Args:
            resolution: pixels a side; None: as they are
            most: training samples of a class at the most
            asked: samples of the exam at the most, at least two a class
            held: share of each class's training samples that is held out
            on_held: the exam is made of these, not of the test set

        Raises:
            Mistake: the data is not there, is no images, or has no such classes or samples.
        """
        dataset = open_dataset(self.data, resolution)
        if dataset.features:
            raise Mistake(f"{self.data} holds features; this stream is over images.")
        chosen = np.arange(len(dataset.classes))
        if self.classes is not None:
            chosen = np.sort(np.random.default_rng(0).permutation(len(chosen))[slice(*self.classes)])
        place = np.full(len(dataset.classes), -1)
        place[chosen] = np.arange(len(chosen))
        y = {split: place[dataset.splits[split]["y"]] for split in ("train", "test")}
        rows = {split: np.flatnonzero((y[split] >= 0) & self._where(dataset, split)) for split in y}
        if empty := next((split for split in rows if not len(rows[split])), None):
            raise Mistake(f"{self.title} has no sample in the {empty} split of {self.data}.")
        apart = drawn(y["train"][rows["train"]], share=held)
        lesson, held_out = np.delete(rows["train"], apart), rows["train"][apart]
        lesson = lesson[drawn(y["train"][lesson], most)]
        split, paper = ("train", held_out) if on_held else ("test", rows["test"])
        paper = paper[drawn(y[split][paper], None if asked is None else max(asked // len(chosen), 2))]
        found = {"train": ("train", lesson), "test": (split, paper)}
        return [dataset.classes[label] for label in chosen], {
            part: (TURNS[self.turn](dataset.splits[split]["x"][rows]), y[split][rows])
            for part, (split, rows) in found.items()
        }

    def _where(self, dataset: Dataset, split: str) -> np.ndarray:
        """Which samples have the value of the field."""
        if not self.where:
            return np.ones(len(dataset.splits[split]["y"]), bool)
        name, _, value = self.where.partition("=")
        if name not in dataset.fields:
            raise unknown(f"field of {dataset.name}", name, dataset.fields)
        if value not in dataset.fields[name]:
            raise unknown(f"{name} in {dataset.name}", value, dataset.fields[name])
        return dataset.splits[split][name] == dataset.fields[name].index(value)


def drawn(labels: np.ndarray, most: int | None = None, share: float | None = None) -> np.ndarray:
    """Places of so many samples of each label, or of a share of them; neither: all. In order, the same in every run,
    fewer from among more.
    """
    if most is None and share is None:
        return np.arange(len(labels))
    keys = np.random.PCG64(0).random_raw(len(labels))
    order = np.lexsort((keys, labels))
    ordered = labels[order]
    first, end = (np.searchsorted(ordered, ordered, side) for side in ("left", "right"))
    rank = np.arange(len(labels)) - first
    sizes = end - first
    limit = np.minimum(sizes if most is None else most, sizes if share is None else np.round(share * sizes))
    return np.sort(order[rank < limit])
