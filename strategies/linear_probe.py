"""Linear probing: what a classifier can read in features that stand still (Alain and Bengio 2017, "Understanding
Intermediate Layers Using Linear Classifier Probes", ICLR workshops).

Alone it is the sequential probe; around `joint` it is trained on everything at once, an upper bound for methods that
leave the network as it was pretrained; around `er` it replays; around `finetune` it trains new logits only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clbench.adapters import freeze
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import of_head
from clbench.strategy import Around
from clbench.stream import Experience, Syllabus


@dataclass
class LinearProbe(Around):
    """The base learns, and of the network only the head moves; batch normalisation goes by its running statistics."""

    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        if not hasattr(learner.model, "head"):
            raise Mistake("linear_probe trains a layer named head, which this model has not.")
        freeze(learner.model, ["head."])
        super().start(learner, syllabus)

    def learn(self, learner: Learner, experience: Experience) -> None:
        with learner.only(of_head(learner.model)):
            super().learn(learner, experience)


PRESETS = [
    Preset(
        "linear_probe",
        "cifar100",
        {
            "learner.epochs": 20,
            "learner.batch": 128,
            "learner.lr": 0.01,
            "learner.weight_decay": 0.0,
            "learner.schedule": "constant",
        },
        "untuned: PILOT has none; epochs and batch as it fine-tunes",
        recipe="pilot",
    ),
]
