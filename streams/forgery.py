"""Forgeries that keep coming: each increment brings another manipulation, and photographs are told from all of them.

The protocols follow those of SUR-LID (Cheng et al., CVPR 2025), which takes data sets of forged faces; here genuine
operators forge real photographs (`clbench/forgeries.py`), so that a run needs no data that can't be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from clbench.config import Recipe
from clbench.datasets import Dataset
from clbench.errors import Mistake, unknown
from clbench.forging import SHARED, Forging
from clbench.photographs import of_data, packaged
from clbench.seeds import derive
from clbench.stream import Exam
from clbench.streams.incremental import Divided
from clbench.types import Count, Natural, Share

CATEGORIES = {
    "hybrid": ("self_blend", "poisson_swap"),
    "reenactment": ("mesh_warp", "resample"),
    "swap": ("splice",),
    "synthesis": ("autoencoder", "checkerboard"),
}
"""kinds of forgery, as the category protocol has them"""
TEN = (
    "splice", "mesh_warp", "checkerboard", "autoencoder", "copy_move", "self_blend", "resample", "inpaint",
    "double_jpeg", "poisson_swap",
)  # fmt: skip
"""all operators that forge something"""


class Forged(Divided):
    """Real (label 0) and forged samples (label 1), divided by the data set's field `increment`; those of the increment
    SHARED belong to every experience.

    What is held out for validation are whole origins (a window with all that was made of it, a video), the same in
    every experience. In version 1, which runs without validation are of, it was single samples of each.
    """

    offers: ClassVar[frozenset[str]] = Divided.offers | {"shared classes"}

    increments: list[str]

    def __post_init__(self) -> None:
        if self.validation:
            self.version = 2  # type: ignore[misc]

    def _origins(self) -> np.ndarray:
        """Of each training sample, what it was made of (int64, N)."""
        raise NotImplementedError

    def _share(self, rows: np.ndarray, seed: int, index: int) -> np.ndarray:
        of = self._origins()
        order = np.random.default_rng(derive(seed, "validation")).permutation(np.unique(of))
        return np.isin(of[rows], order[: round(self.validation * len(order))])

    def _members(self, split: str) -> list[np.ndarray]:
        names, of = self._dataset.fields["increment"], self._field(self._dataset, split, "increment")
        shared = of == names.index(SHARED) if SHARED in names else np.zeros(len(of), bool)
        return [(of == names.index(name)) | shared for name in self.increments]

    def _name(self, index: int) -> str:
        return self.increments[index]


@dataclass
class Forgery(Forged):
    """Photographs (label 0) and forgeries of them (label 1); each experience brings another way to forge."""

    data: str = "photographs"
    """`photographs`: those that come with installed packages, in windows; or a data set by name or path, each image a
    photograph (a tight crop of a face, say)"""
    resolution: Count | None = 64
    """pixels a side of the images"""
    flip: bool = True
    """augmentation of stream and memory: mirrored left to right, half of the time"""
    increments: list[str] = field(default_factory=lambda: ["splice", "mesh_warp", "checkerboard", "autoencoder"])
    """in order: operators, or kinds of forgery (hybrid, reenactment, swap, synthesis)"""
    reals: Literal["apart", "shared"] = "apart"
    """apart: each increment has windows of its own, by another camera; shared: all show the same"""
    per_photograph: Count = 256
    """windows of each of the `photographs`, at the most; of a data set each image is one"""
    held_out: Share = 0.35
    """share of the photographs of which exams are made"""
    draw: Natural = 4
    """the seed of windows, split and forgeries, which all runs share; with 4, training and exams have a portrait and a
    medical image each"""
    take: list[str] = field(default_factory=list)
    """of a data set: only images of these classes; none: all"""
    apart: str | None = None
    """of a data set: the field that tells persons or scenes apart, which are not divided between training and exams;
    null: perceptual hashes do"""

    def open(self, seed: int) -> None:
        self._load()
        self._divide(seed)

    def _open_dataset(self) -> Dataset:
        return self._forging().open()

    def _forging(self) -> Forging:
        known = [*TEN, "noop"]
        if not self.increments or len(set(self.increments)) < len(self.increments):
            raise Mistake("stream.increments must list one or more ways to forge, each at most once.")
        for name in self.increments:
            if name not in known and name not in CATEGORIES:
                raise unknown("way to forge", name, [*known, *CATEGORIES])
        ours = self.data == "photographs"
        photographs = packaged() if ours else of_data(self.data, tuple(self.take), self.apart)
        return Forging(
            self.data,
            photographs,
            {name: CATEGORIES.get(name, (name,)) for name in self.increments},
            self.reals == "shared",
            self.resolution or 64,
            self.per_photograph if ours else 1,
            self.held_out,
            self.draw,
        )

    def _origins(self) -> np.ndarray:
        return self._forging().windows("train")

    def exams(self) -> Sequence[Exam]:
        """With the mask of each sample, under `about`."""
        masks = torch.from_numpy(self._forging().masks("test" if self.exam_on == "test" else "train"))
        return [replace(exam, about={"mask": masks[exam.data.index]}) for exam in super().exams()]

    def protocol(self) -> dict[str, Any]:
        return {
            "scenario": "domain-incremental, forgeries",
            "increments": ", ".join(self.increments),
            "reals": self.reals,
            **super().protocol(),
        }


CATEGORIES_STREAM = Forgery(increments=list(CATEGORIES), reals="shared", per_photograph=64)
"""photographs and forgeries by kind: hybrid, re-enactment, swap, synthesis; the photographs are the same throughout"""
LONG = Forgery(increments=list(TEN), per_photograph=400)
"""photographs and forgeries, all ten operators one after another"""

_HOUSE = {
    "model": "srm",
    "learner.threads": 1,
    "learner.epochs": 6,
    "learner.batch": 32,
    "learner.optimizer": "adamw",
    "learner.lr": 0.003,
    "learner.schedule": "cosine",
    "probes": ["exams", "detection", "cost", "timing", "loss"],
}
_OURS = "clbench's own, for two cores"
RECIPES = {
    "forgery": {"house": Recipe(_HOUSE, _OURS)},
    "forgery_categories": {"house": Recipe(_HOUSE, _OURS)},
    "forgery_long": {"house": Recipe(_HOUSE, _OURS)},
}
