"""APER: prototypes in the features of a pretrained network beside those of the same network, tuned once.

Zhou, Cai, Ye, Zhan and Liu 2024 ("Revisiting Class-Incremental Learning with Pre-Trained Models: Generalizability and
Adaptivity are All You Need", IJCV; formerly ADAM), in the form of PILOT, their toolbox: tuning under a cosine head
whose scale is learned, prototypes of the first experience taken when that is over.

A class that comes again goes on with its mean, over all samples so far. With `tune=none` it is `simplecil`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from clbench.config import Preset
from clbench.learner import Learner
from clbench.strategies.cosine import cosines
from clbench.strategies.embedding import embedded
from clbench.strategies.first_session import FirstSession
from clbench.strategies.prototypes import LOWEST
from clbench.strategies.simplecil import Prototypes
from clbench.stream import Experience, Syllabus


@dataclass
class APER(FirstSession):
    """The network is tuned in the first experience; the answer is the class whose mean is nearest, by cosine, in the
    features of the network as it was and as it is, side by side.
    """

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.original = copy.deepcopy(learner.model.get_submodule("body")).requires_grad_(False)
        super().start(learner, syllabus)
        with torch.no_grad():
            features = self.embed(learner, learner.blank(1).x)
        self.prototypes = Prototypes.empty(learner, syllabus.classes, features.shape[1])

    def embed(self, learner: Learner, x: Tensor) -> Tensor:
        """Both networks' features, B x twice as many."""
        return torch.cat([learner(x, self.original), learner.features(x)], 1)

    def take(self, learner: Learner, experience: Experience) -> None:
        self.prototypes.add(*embedded(learner, experience.train, self.embed))

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Cosines, B x classes; of a class never seen the lowest finite number."""
        found = cosines(self.embed(learner, x), self.prototypes.means())
        return found.masked_fill(~self.prototypes.known, LOWEST)


_PILOT = "PILOT, exps: ViT-B/16, CIFAR-100 in 10 tasks"

PRESETS = [
    *(
        Preset(
            "aper",
            "cifar100",
            {"learner.epochs": 20, "learner.batch": 48, "learner.lr": 0.01, "learner.weight_decay": 5e-4},
            f"{_PILOT}, {tune}",
            recipe="pilot",
            when={"tune": tune},
        )
        for tune in ("adapter", "ssf", "vpt_shallow", "vpt_deep")
    ),
    Preset(
        "aper",
        "cifar100",
        {"learner.epochs": 6, "learner.batch": 128, "learner.lr": 0.01, "learner.weight_decay": 0.05},
        f"{_PILOT}, finetune",
        recipe="pilot",
        when={"tune": "full"},
    ),
]
