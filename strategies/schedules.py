"""Meta-schedules: the rate of each task begins where one schedule over all tasks before would have come to.

Roth et al. 2024 ("A Practitioner's Guide to Continual Multimodal Pretraining", NeurIPS, Datasets and Benchmarks). The
formulas stand in clbench/schedules.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.optimizer import Optimizer
from clbench.schedules import Schedule
from clbench.strategy import Around
from clbench.stream import Experience, Syllabus
from clbench.types import NonNegative, Share


@dataclass
class MetaSchedule(Around):
    """The base learns at a rate that knows how many experiences there were; `learner.schedule` is not asked."""

    form: Literal["cosine", "rsqrt"] = "cosine"
    """within an experience, after a linear warm-up: half a cosine; or an inverse square root, then linearly to 0"""
    meta: Literal["none", "autoregressive", "continued", "recovered", "dynamic"] = "autoregressive"
    """none: each experience begins at the full rate; continued and recovered are of rsqrt, dynamic is of cosine"""
    warmup: NonNegative = 0.1
    """share of an experience's steps; 1 or more, of rsqrt: steps"""
    cooldown: NonNegative = 0.2
    """of rsqrt, likewise"""
    floor: Share = 0.0
    """the least rate, as a share of the full one"""

    version: ClassVar[int] = 2

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        others = {"cosine": ("continued", "recovered"), "rsqrt": ("dynamic",)}
        if self.meta in others[self.form]:
            raise Mistake(f"strategy.meta={self.meta} is not of form={self.form}.")
        if learner.keep_optimizer:
            raise Mistake("A schedule needs an optimiser made anew at each experience: learner.keep_optimizer=false.")
        self.task = 0

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.task = experience.index
        super().learn(learner, experience)

    def around_optimizer(self, learner: Learner, optimizer: Optimizer) -> Optimizer:
        assert learner.optim is not None
        if optimizer.torch is learner.optim.torch:
            schedule = Schedule(self.form, self.meta, self.warmup, self.cooldown, self.floor)
            optimizer.follow(lambda progress: schedule(round(progress * optimizer.steps), optimizer.steps, self.task))
        return optimizer
