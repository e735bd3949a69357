"""RanPAC: a ridge regression on random features of features, the same whatever the order of samples.

McDonnell, Gong, Parvaneh, Abbasnejad and van den Hengel 2023 ("RanPAC: Random Projections and Pre-trained Models for
Continual Learning", NeurIPS), in the form of the authors' code: h = ReLU(f W) with a fixed Gaussian W; G = sum h h^T
and Q = sum h y^T go on over the stream; the ridge is the one of 17 powers of ten whose classifier, from the first 80 %
of the experience at hand, has the least squared error on its other 20 %, in a random order; logits are h Wo.

What differs here, and why. Everything is in double precision, since a ridge of 1e-8 is nothing beside G in single; it
takes twice the memory (10,000 features: 800 MB). All ridges are tried on one singular value decomposition, and where
the chosen one is too small even so, the next is taken. `normalise=true` is the form of PILOT, whose Wo stands in a
cosine head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.config import Preset
from clbench.learner import Learner
from clbench.strategies.cosine import cosines
from clbench.strategies.embedding import embedded
from clbench.strategies.first_session import FirstSession
from clbench.strategies.prototypes import LOWEST
from clbench.strategies.simplecil import features_of
from clbench.stream import Experience, Syllabus
from clbench.types import Natural

RIDGES = [10.0**power for power in range(-8, 9)]


@dataclass
class RanPAC(FirstSession):
    """The network is tuned in the first experience and stands still; ridge regression onto one-hot labels answers."""

    projection: Natural = 10_000
    """random features; 0: the network's own"""
    normalise: bool = False
    """true: the answer is the cosine of h to each class's weights; false: their product"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        with torch.no_grad():
            width = learner.features(learner.blank(1).x).shape[1]
        drawn = learner.rng("projection").standard_normal((width, self.projection))
        self.random = torch.from_numpy(drawn).to(learner.where)
        size = self.projection or width
        self.gram = self.random.new_zeros(size, size)
        self.moments = self.random.new_zeros(size, syllabus.classes)
        self.weight = torch.zeros_like(self.moments)
        self.known = torch.zeros(syllabus.classes, dtype=torch.bool, device=learner.where)
        self.ridge = RIDGES[-1]

    def take(self, learner: Learner, experience: Experience) -> None:
        features, labels = embedded(learner, experience.train, features_of)
        order = torch.from_numpy(learner.rng("ridge").permutation(len(labels))).to(labels.device)
        with learner.spending("ranpac", features.shape):
            h, y = self.project(features[order]), F.one_hot(labels[order], len(self.known)).double()
            self.gram += h.T @ h
            self.moments += h.T @ y
            self.ridge = chosen(h, y)
            self.weight = solved(self.gram, self.moments, self.ridge)
        self.known = self.known | (y.sum(0) > 0)

    def project(self, features: Tensor) -> Tensor:
        """h, in double precision."""
        return (features.double() @ self.random).relu() if self.projection else features.double()

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """h Wo, or cosines, B x classes; of a class never seen the lowest finite number."""
        h = self.project(learner.features(x))
        found = cosines(h, self.weight.T) if self.normalise else h @ self.weight
        return found.float().masked_fill(~self.known, LOWEST)


def solved(gram: Tensor, moments: Tensor, ridge: float) -> Tensor:
    """(G + ridge I)^-1 Q; with the next power of ten as ridge where that is not positive definite in this precision."""
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(gram + ridge * identity)
    return solved(gram, moments, 10 * ridge) if failed else torch.cholesky_solve(moments, factor)


def chosen(h: Tensor, y: Tensor) -> float:
    """The ridge by which the first 80 % of samples (N x features, N x classes) say most about the others."""
    first = len(h) * 4 // 5
    u, s, v = torch.linalg.svd(h[:first], full_matrices=False)
    known, asked = u.T @ y[:first], h[first:] @ v.T
    errors = [(asked @ (known * (s / (s.square() + ridge))[:, None]) - y[first:]).square().sum() for ridge in RIDGES]
    return RIDGES[int(torch.stack(errors).argmin())]


PRESETS = [
    Preset(
        "ranpac",
        "cifar100",
        {"learner.epochs": 20, "learner.batch": 48, "learner.lr": 0.01, "learner.weight_decay": 5e-4},
        "PILOT, exps: ViT-B/16, CIFAR-100 in 10 tasks",
        recipe="pilot",
    ),
    *(
        Preset("ranpac", stream, {"strategy.projection": 2000}, "untuned, for two cores", recipe="pretrained")
        for stream in ("cifar100", "pacs", "digits")
    ),
]
