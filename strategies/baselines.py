"""The bounds that every method is read against: fine-tuning below, training on everything above.

Joint training follows the reading of Buzzega et al. 2020 (DER): all lessons together, from the initial weights, for the
epochs of one lesson. Cumulative training keeps its weights and trains on the union at each experience (Lomonaco et al.
2021, Avalanche).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from clbench.batch import Batch
from clbench.config import Preset
from clbench.data import Data
from clbench.learner import Learner
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus


@dataclass
class Naive(Strategy):
    """Fine-tuning: each experience is learned as it comes, and nothing is done against forgetting."""


@dataclass
class Cumulative(Strategy):
    """At each experience, training on everything taught so far, from the weights at hand."""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.taught: list[Data] = []

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.taught.append(experience.train)
        assert learner.optim is not None
        learner.optim.begin(learner.steps(sum(map(len, self.taught))))
        super().learn(learner, experience)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        earlier = len(data := Data.concat(self.taught)) - len(self.taught[-1])
        for batch in learner.batches(data):
            assert batch.index is not None
            yield replace(batch, index=batch.index - earlier)


@dataclass
class Joint(Cumulative):
    """Training on everything at once, at the last experience: what there was to learn without the stream."""

    whole_stream: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"known length"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.lessons = syllabus.lessons

    def learn(self, learner: Learner, experience: Experience) -> None:
        if experience.index + 1 == self.lessons:
            super().learn(learner, experience)
        else:
            self.taught.append(experience.train)


_DER = "Buzzega et al. 2020 (DER); Mammoth, utils/best_args.py, method sgd"
_XDER = "Boschini et al. 2022 (X-DER); Mammoth, utils/best_args.py, method sgd"
_RATES = {"mnist": 0.03, "cifar10": 0.1, "permuted_mnist": 0.2, "rotated_mnist": 0.2}

PRESETS = [
    *(
        Preset(strategy, stream, {"learner.lr": rate}, _DER, recipe="der2020")
        for strategy in ("naive", "cumulative", "joint")
        for stream, rate in _RATES.items()
    ),
    *(
        Preset(strategy, "cifar100", {"learner.lr": 0.03}, _XDER, recipe="xder2022")
        for strategy in ("naive", "cumulative", "joint")
    ),
]
