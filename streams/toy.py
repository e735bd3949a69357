"""A class-incremental stream made in memory, for tests: it needs no data and a run takes a fraction of a second.

Each class is a fixed random pattern of bright and dark pixels; a sample is its pattern under noise. Patterns and
samples are the same for every seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from clbench.datasets import Dataset
from clbench.streams.incremental import ClassIncremental
from clbench.types import Count, NonNegative


@dataclass
class Toy(ClassIncremental):
    """Noisy patterns, a few classes an experience."""

    data: str = "toy"
    """made in memory; the name is only shown"""
    experiences: Count = 3
    """into how many experiences the classes are divided, equally"""
    classes: Count = 6
    """how many patterns"""
    samples: Count = 40
    """of each class for training; half as many for the exam"""
    side: Count = 6
    """pixels a side"""
    noise: NonNegative = 40.0
    """standard deviation of a pixel, of 255"""

    def _open_dataset(self) -> Dataset:
        rng = np.random.default_rng(0)
        patterns = rng.integers(0, 2, (self.classes, self.side, self.side, 1)) * 120 + 60
        splits: dict[str, dict[str, np.ndarray]] = {}
        for split, count in (("train", self.samples), ("test", max(self.samples // 2, 1))):
            y = np.repeat(np.arange(self.classes), count)
            x = patterns[y] + rng.normal(0, self.noise, (len(y), self.side, self.side, 1))
            splits[split] = {"x": np.clip(x, 0, 255).astype(np.uint8), "y": y}
        content = b"".join(a.tobytes() for arrays in splits.values() for a in arrays.values())
        return Dataset(
            name="toy",
            classes=[str(c) for c in range(self.classes)],
            fields={},
            splits=splits,
            shape=(self.side, self.side, 1),
            source="made in memory",
            licence="Apache-2.0",
            checksum=hashlib.sha256(content).hexdigest(),
        )
