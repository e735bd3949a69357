"""Adaptation in the first experience only: what the two methods share that lay a fixed classifier over a network tuned
once (Zhou, Cai, Ye, Zhan and Liu 2024, APER, IJCV; McDonnell, Gong, Parvaneh, Abbasnejad and van den Hengel 2023,
RanPAC, NeurIPS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

from clbench.adapters import bottleneck, freeze, prompts, scale_shift
from clbench.learner import Learner
from clbench.seeds import derive
from clbench.strategies.cosine import cosine_head
from clbench.strategies.own_classes import OwnClasses
from clbench.stream import Experience, Syllabus
from clbench.types import Count


def _needs(strategy: FirstSession) -> frozenset[str]:
    """What stream and model must offer, which depends on what is tuned."""
    if strategy.tune == "none":
        return frozenset({"single labels"})
    return OwnClasses.needs | (frozenset() if strategy.tune == "full" else {"transformer"})


def _fits(strategy: FirstSession) -> bool:
    """Whether anything trains, and so whether anything can be put around it."""
    return strategy.tune != "none"


@dataclass
class FirstSession(OwnClasses):
    """In the first experience the network is tuned under a cosine head, which is then left aside."""

    tune: Literal["none", "adapter", "ssf", "vpt_shallow", "vpt_deep", "full"] = "adapter"
    """what is tuned: nothing; adapters beside the feed-forward parts; scale and shift; prompts before the first block,
    or before each; the whole network. All but none and full need a vision transformer"""
    rank: Count = 64
    """adapter: its inner width"""
    tokens: Count = 5
    """vpt: prompts"""

    needs: ClassVar[frozenset[str]] = cast(frozenset[str], property(_needs))
    fits: ClassVar[bool] = cast(bool, property(_fits))
    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        cosine_head(learner.model)
        tuned = self.grow(learner)
        freeze(learner.model, [*tuned, "head."] if tuned else [])

    def grow(self, learner: Learner) -> list[str]:
        """Give the network what is tuned: its names."""
        seed = derive(learner.seed, "adapters")
        match self.tune:
            case "none":
                return []
            case "adapter":
                return bottleneck(learner.model, self.rank, seed=seed)
            case "ssf":
                return scale_shift(learner.model, seed=seed)
            case "full":
                return ["body."]
        return prompts(learner.model, self.tokens, deep=self.tune == "vpt_deep")

    def learn(self, learner: Learner, experience: Experience) -> None:
        if experience.index == 0 and self.tune != "none":
            super().learn(learner, experience)
        self.take(learner, experience)

    def take(self, learner: Learner, experience: Experience) -> None:
        """Let the classifier take an experience in, which the network no longer changes."""
        raise NotImplementedError
