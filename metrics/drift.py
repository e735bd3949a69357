"""The drift probe: how far each group of weights moves, within experiences and from one to the next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from clbench import modules
from clbench.metric import Look, Probe, Row

FIRST = "nothing was learned before the first experience"
NOT_WITHIN = "these weights never move within an experience"
ONCE = "there were fewer than two looks within the experience"
STILL = "these weights do not move after the first look within the experience"
ZERO = "all weights were 0 before"
INFINITE = "the weights are not finite"


@dataclass
class Drift(Probe):
    """The two measures of Zhao et al. 2023 (ICML; arXiv 2304.04158), by group of weights (`clbench.modules.groups`),
    running statistics included, as the mean absolute change of a scalar; beside each, relative: ||change||_1 by the
    ||weights||_1 from which it went. Scales differ between weights and variances.

    `within`: since the last look, at each tenth of an experience; the first one is since the end of the experience
    before. The paper looks after each epoch; tenths give recipes of one epoch a curve too. `across`: since the end of
    the experience before; the first is since initialisation, which the paper leaves out. `spike`: the first `within` of
    an experience by the mean of its others. `sensitivity`: `clbench.modules.sensitivity` of all since the second
    experience.

    Each experience has its rows, whether the stream is looked at after it or not; in version 1 they were of all since
    the last look.
    """

    when: ClassVar[tuple[str | int, ...]] = ("every", 10)
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self.end: dict[str, Tensor] = {}
        """weights at the end of the last experience"""
        self.last: dict[str, Tensor] = {}
        """weights at the last look within this one; empty: there was none"""
        self.here: list[dict[str, float]] = []
        """drift within this experience, by group"""
        self.within: dict[str, float] = {}
        self.across: dict[str, float] = {}
        """sums since the second experience, by group"""
        self.looks = 0
        """how many looks the sum `within` is of"""

    def __call__(self, look: Look) -> Iterable[Row]:
        model = look.learner.model
        groups, now = modules.groups(model), modules.snapshot(model)
        sizes = {group: sum(now[name].numel() for name in names) for group, names in groups.items()}
        if isinstance(look.when, int):
            moved = modules.drift(self.last or self.end, now, groups)
            self.here.append({group: drift.l1 for group, drift in moved.items()})
            self.last = now
            yield from _rows(look, "within", moved, sizes)
            return
        if look.step == 0:
            self.__post_init__()
        else:
            moved = modules.drift(self.end, now, groups)
            yield from _rows(look, "across", moved, sizes)
            for group, size in sizes.items():
                yield _row(look, "spike", group, *self._spike(group), size)
            if look.step > 1:
                self._sum_up(moved)
            for group, size in sizes.items():
                yield _row(look, "sensitivity", group, *self._sensitivity(look.step, group), size)
        self.end, self.last, self.here = now, {}, []

    def _spike(self, group: str) -> tuple[float | None, str]:
        first, *others = (one[group] for one in self.here) if self.here else (0.0,)
        if not others:
            return None, ONCE
        return (first * len(others) / sum(others), "") if sum(others) else (None, STILL)

    def _sum_up(self, moved: Mapping[str, modules.Drift]) -> None:
        self.looks += len(self.here)
        for group, drift in moved.items():
            self.across[group] = self.across.get(group, 0.0) + drift.l1
            self.within[group] = self.within.get(group, 0.0) + sum(one[group] for one in self.here)

    def _sensitivity(self, step: int, group: str) -> tuple[float | None, str]:
        if step < 2:
            return None, FIRST
        across, within = self.across[group] / (step - 1), self.within[group] / max(self.looks, 1)
        score = modules.sensitivity([{group: across}], [{group: within}])
        return (score[group], "") if group in score else (None, NOT_WITHIN)


def _rows(look: Look, name: str, moved: Mapping[str, modules.Drift], sizes: Mapping[str, int]) -> Iterator[Row]:
    for group, (l1, relative) in moved.items():
        yield _row(look, name, group, l1, "", sizes[group])
        yield _row(look, f"{name}_relative", group, relative, ZERO if relative is None else "", sizes[group])


def _row(look: Look, name: str, group: str, value: float | None, note: str, size: int) -> Row:
    if value is not None and not math.isfinite(value):
        value, note = None, INFINITE
    return Row(look.step, look.at, f"drift/{name}", group, value, size, note)
