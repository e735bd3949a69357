"""Few-shot class-incremental streams: a base session, then sessions of N new classes with K training samples each.

In few-shot class-incremental learning (FSCIL; Tao et al. 2020) the base session is large and has all its samples; in
few-shot class-incremental tuning (FSCIT; Roy et al. 2025, "Consistency-guided Asynchronous Contrastive Tuning for
Few-Shot Class-Incremental Tuning of Foundation Models", TMLR; arXiv 2405.16625) every session is few-shot, the base
included, and what is known comes from pretraining.

What differs here, and why. Published lists of shots come with each repository; here they are drawn by a seed that all
runs share, so that they are the same everywhere (`clbench manifest`), and can be drawn anew to see what they matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clbench.errors import Mistake
from clbench.seeds import derive
from clbench.streams.images import Order, ordered
from clbench.streams.incremental import Divided
from clbench.types import Count, Natural


@dataclass
class FewShot(Divided):
    """A base session of many classes, then sessions of `way` classes with `shots` training samples each.

    There is an exam for each session, over all test samples of its classes.
    """

    base: Count = 60
    """classes of the base session"""
    way: Count = 5
    """classes of each session after it"""
    shots: Count = 5
    """training samples of each of these classes"""
    base_shots: Count | None = None
    """training samples of each class of the base session; null: all"""
    shots_seed: Natural | Literal["seed"] = 0
    """a number: draws the shots, the same for every run; `seed`: drawn by each run's own seed"""
    order: Order = "natural"
    """of the classes: `natural`; a list of all labels; a number, the seed of a shuffle that every run shares; `seed`:
    shuffled by each run's own seed"""

    def open(self, seed: int) -> None:
        classes = len(self._load())
        rest = classes - self.base
        if rest < self.way or rest % self.way:
            raise Mistake(
                f"stream.base={self.base} leaves {max(rest, 0)} of the {classes} classes of {self.data}, which are no "
                f"sessions of stream.way={self.way}; stream.base={self.way + classes % self.way} would do."
            )
        order = ordered(self.order, classes, self.data, seed)
        self._parts = [order[: self.base], *np.split(order[self.base :], rest // self.way)]
        self._divide(seed)
        root = seed if self.shots_seed == "seed" else self.shots_seed
        for index, lesson in enumerate(self._lessons):
            self._lessons[index] = self._drawn(lesson, index, root)

    def _drawn(self, lesson: np.ndarray, index: int, seed: int) -> np.ndarray:
        """The samples of a session that are its shots."""
        shots = self.shots if index else self.base_shots
        if shots is None:
            return lesson
        rng, labels = np.random.default_rng(derive(seed, "shots", index)), self._labels("train")[lesson]
        pools = [lesson[labels == label] for label in np.unique(labels)]
        few = min(map(len, pools))
        if few < shots:
            raise Mistake(f"Session {index} takes {shots} samples of each class; {self.data} has one of {few}.")
        return np.sort(np.concatenate([rng.choice(pool, shots, replace=False) for pool in pools]))

    def _members(self, split: str) -> list[np.ndarray]:
        labels = self._labels(split)
        return [np.isin(labels, part) for part in self._parts]

    def protocol(self) -> dict[str, Any]:
        return {
            "scenario": "few-shot class-incremental",
            "base": f"{self.base} classes, {self.base_shots or 'all'} samples of each",
            "sessions": f"{self.way} classes, {self.shots} samples of each",
            "shots": "each run's own" if self.shots_seed == "seed" else f"seed {self.shots_seed}",
            "class order": "each run's own" if self.order == "seed" else str(self.order),
            **super().protocol(),
        }
