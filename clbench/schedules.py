"""How the rate goes within a task, and from task to task.

The forms are those of the code of FoMo-in-Flux (Roth et al. 2024, NeurIPS, Datasets and Benchmarks): a cosine or an
inverse square root, each after a linear warm-up, the latter with a linear cool-down. A meta-schedule begins each task's
schedule where one schedule over all tasks so far would have come to, in place of at the full rate again. All is in
shares of the full rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """A share of the rate for each step of each task."""

    form: Literal["cosine", "rsqrt"] = "cosine"
    meta: Literal["none", "autoregressive", "continued", "recovered", "dynamic"] = "none"
    """continued, recovered: of rsqrt; dynamic: of cosine"""
    warmup: float = 0.1
    """share of a task's steps; 1 or more, of rsqrt: steps"""
    cooldown: float = 0.2
    """of rsqrt, likewise"""
    floor: float = 0.0
    """the least share"""

    def __call__(self, step: int, steps: int, task: int) -> float:
        """At a step of a task of so many steps; both from 0. Past the last step it stays as it was there."""
        step = min(step, steps - 1)
        warm, cool = self.spans(steps)
        top = self.peak(steps, task)
        if step < warm:
            return top * (step + 1) / warm
        if self.form == "cosine":
            return self._cosine(step, steps, task, warm, top)
        clock = step + task * max(steps - cool - warm, 0) if self.meta == "recovered" else step
        height = 1.0 if self.meta == "recovered" else top
        rate = self.floor + math.sqrt(warm / clock) * (height - self.floor)
        return rate if step < steps - cool else rate * (steps - step - 1) / cool

    def _cosine(self, step: int, steps: int, task: int, warm: int, top: float) -> float:
        if self.meta == "dynamic":
            step, steps, top = task * steps + step, (task + 1) * steps, 1.0
        return self.floor + _half((step - warm + 1) / (steps - warm)) * (top - self.floor)

    def spans(self, steps: int) -> tuple[int, int]:
        """Steps of the warm-up and of the cool-down. The inverse square root needs a step of warm-up to fall from."""
        if self.form == "cosine":
            return math.ceil(self.warmup * steps), 0
        warm, cool = (math.ceil(v if v >= 1 else v * steps) for v in (self.warmup, self.cooldown))
        return max(warm, 1), cool

    def peak(self, steps: int, task: int) -> float:
        """The share that a task's warm-up leads to."""
        warm, cool = self.spans(steps)
        if self.meta == "none" or task == 0 or steps == warm:
            return 1.0
        if self.form == "cosine":
            span = steps - warm
            share = _half((task * span + 1) / ((task + 1) * span))
        elif self.meta == "autoregressive":
            share = math.sqrt((task + 1) * warm / (task * steps + warm))
        elif self.meta == "continued":
            share = math.sqrt(warm / max(task * (steps - cool) - (task - 1) * warm, warm))
        else:
            share = math.sqrt(warm / max(task * (steps - cool - warm), warm))
        return self.floor + share * (1 - self.floor)


def _half(progress: float) -> float:
    """Half a cosine, from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))
