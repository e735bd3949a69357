"""SUR-LID: old forgeries are kept as islands of the feature space, each with a head of its own, and the heads aligned.

Cheng et al. 2025 ("Stacking Brick by Brick: Aligned Feature Isolation for Incremental Face Forgery Detection", CVPR;
arXiv 2411.11396): sparse uniform replay (SUR), latent-space incremental detection (LID).

What differs here, and why. The formulas are the paper's as a reader of it notes them; the paper itself was not at
hand. What they leave open is as in the released code: samples of memory in a step, temperature, the range of the
centre's weight. The squared distance to the old features is a mean over samples and not a sum, in squared lengths of
the old ones, so that its weight hangs neither on how many samples there are nor on the network's scale; that form was
chosen among two by one run's exams, which no comparison may be read without. The released
code is rough (its heads are in no optimiser and no checkpoint, it picks the epoch on the test set); its other rule of
selection is `select=released`, and its weights can be set (docs/strategies.md). All experiences share `memory_size`,
where the paper keeps 500 samples of each. Any number of classes will do: a head learns and answers among the classes of
its own experience.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.batch import Batch
from clbench.data import Data
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.memory import Memory
from clbench.seeds import derive
from clbench.strategies.contrast import supcon
from clbench.strategies.dfil import classes_of_a_lesson
from clbench.strategies.embedding import embedded
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, NonNegative, Positive


@dataclass
class SURLID(Strategy):
    """isolate · SupCon over (experience, class), re-filled features of memory included, + keep · mean of
    ∥h(x') - h_old(x')∥² by mean of ∥h_old(x')∥² on memory + detect · CE of the head of each sample's own experience.

    After each step every row of a head keeps its length and turns towards that of the head before it. The answer is, of
    each class, the mean of the logits of the heads that learned it.
    """

    memory_size: Count = 500
    """samples kept, an equal share for each class of each experience"""
    replay: Count = 3
    """samples of each class of each earlier experience in a step"""
    isolate: NonNegative = 1.0
    """weight of the contrast"""
    keep: NonNegative = 1.0
    """mu1, of the distance to the old features"""
    detect: NonNegative = 0.1
    """mu2, of the cross-entropy"""
    temperature: Positive = 0.1
    """of the contrast"""
    align: Fraction = 0.001
    """gamma: how far a head turns towards the one before it, at each step"""
    select: Literal["paper", "released", "random"] = "paper"
    """paper: by distance to the centroid and cosines; released: by inner products with it and of features; random"""
    isolate_real: bool = True
    """false: class 0 is one island in all experiences, for streams that share their photographs"""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders", "known length", "shared classes"})

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        assert syllabus.lessons is not None
        self.lessons, self.classes, self.taught = syllabus.lessons, syllabus.classes, 0
        self.share = self.memory_size // self.lessons
        if len(syllabus.shape) != 3:
            raise Mistake("sur_lid measures how features stand a shuffle of the image; this stream has none.")
        least = max(2, classes_of_a_lesson(syllabus))
        if self.share < least:
            raise Mistake(
                f"strategy.memory_size={self.memory_size} is less than {least} for each of {self.lessons} lessons."
            )
        features = learner.model.head.in_features  # type: ignore[union-attr]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(learner.seed, "heads"))
            learner.model.head = nn.Linear(features, self.lessons * self.classes).to(learner.where).eval()  # type: ignore[arg-type]
        self.memory = Memory(self.memory_size)
        self.members = torch.zeros(self.lessons, self.classes, dtype=torch.bool, device=learner.where)
        self.islands: list[tuple[int, int]] = []
        self.centres = torch.zeros(0, features, device=learner.where)  # type: ignore[arg-type]
        self.teacher = copy.deepcopy(learner.model).requires_grad_(False).eval()

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.taught = experience.index + 1
        self.members[experience.index, sorted(experience.classes)] = True
        super().learn(learner, experience)
        self.teacher.load_state_dict(learner.model.state_dict())
        self.remember(learner, learner.near(experience.train), len(experience.classes))

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, None, None]:
        rng = learner.rng("memory")
        for batch in learner.batches(experience.train):
            yield replace(batch, past=(self.recalled(learner, rng),)) if len(self.memory) else batch
            self.aligned(learner)

    def recalled(self, learner: Learner, rng: np.random.Generator) -> Batch:
        """`replay` samples of each island side by side, with their features in the old network, and what re-fills."""
        assert self.memory.x is not None
        assert self.memory.y is not None
        places = np.concatenate([rng.integers(first, last, self.replay) for first, last in self.islands])
        where = torch.from_numpy(places).to(self.memory.x.device, non_blocking=True)
        raw, y = self.memory.x[where], self.memory.y[where]
        x = learner.encode(raw, rng)
        with torch.no_grad(), learner.spending("teacher", x.shape):
            old = self.teacher.body(x)  # type: ignore[operator]
        weights = torch.from_numpy(rng.random((2, len(places), 1), np.float32))
        weights = weights.to(learner.where, non_blocking=True)
        kept = {"lesson": self.memory.kept["lesson"][where], "old": old, "weights": weights}
        return Batch(x, y, raw, kept=kept)

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        x, y, lesson = batch.x, batch.y, torch.full_like(batch.y, self.taught - 1)
        if batch.past:
            past = batch.past[0]
            x, y, lesson = torch.cat([x, past.x]), torch.cat([y, past.y]), torch.cat([lesson, past.kept["lesson"]])
        features = learner.features(x)
        heads = learner.model.head(features).unflatten(1, (self.lessons, self.classes))  # type: ignore[operator]
        own = heads.gather(1, lesson[:, None, None].expand(-1, 1, self.classes))[:, 0]
        island = self.island(lesson, y)
        loss = self.detect * learner.criterion(own.masked_fill(~self.members[lesson], -torch.inf), y)
        if batch.past:
            now, old = features[len(batch.x) :], past.kept["old"]
            loss = loss + self.keep * (now - old).square().sum() / old.square().sum().clamp_min(1e-12)
            features = torch.cat([features, self.refilled(now, past.kept["weights"])])
            island = torch.cat([island, island[len(batch.x) :]])
        return loss + self.isolate * supcon(features, island, self.temperature)

    def island(self, lesson: Tensor, y: Tensor) -> Tensor:
        """A number for each pair of experience and class."""
        return (lesson if self.isolate_real else lesson * (y > 0)) * self.classes + y

    def refilled(self, features: Tensor, weights: Tensor) -> Tensor:
        """b (a f1 + (1 - a) f2) + (1 - b) c: between pairs of an island's features, and towards its centre."""
        a, b = weights[0], 0.5 + weights[1] / 2
        others = features.unflatten(0, (-1, self.replay)).roll(1, 1).flatten(0, 1)
        return b * (a * features + (1 - a) * others) + (1 - b) * self.centres.repeat_interleave(self.replay, 0)

    @torch.no_grad()
    def aligned(self, learner: Learner) -> None:
        """Turn each row of a head by `align` towards that of the head before it; its length stays."""
        rows = learner.model.head.weight.unflatten(0, (self.lessons, self.classes))[: self.taught]  # type: ignore[operator,union-attr]
        length, unit = rows.norm(dim=2, keepdim=True), F.normalize(rows, dim=2)
        turned = F.normalize((1 - self.align) * unit[1:] + self.align * unit[:-1], dim=2)
        rows[1:] = length[1:] * turned

    @torch.no_grad()
    def remember(self, learner: Learner, data: Data, classes: int) -> None:
        """Samples of each class into memory, and its centre."""
        rng = learner.rng("selection")
        order = 1 + int(rng.permutation(23)[0])

        def shuffled(learner: Learner, x: Tensor) -> Tensor:
            return learner.features(quartered(x, order))

        features, labels = embedded(learner, data, Learner.features)
        moved, _ = embedded(learner, data, shuffled)
        stability = (features * moved).sum(1) if self.select == "released" else F.cosine_similarity(features, moved)
        for label in labels.unique():
            rows = (labels == label).nonzero()[:, 0]
            count, centre = self.share // classes, features[rows].mean(0)
            match self.select:
                case "random":
                    chosen = torch.from_numpy(rng.permutation(len(rows))[:count]).to(rows.device)
                case "released":
                    chosen = sparse_uniform(features[rows], -(features[rows] @ centre), stability[rows], count)
                case "paper":
                    distance = (features[rows] - centre).norm(dim=1)
                    chosen = sparse_uniform(features[rows], distance, stability[rows], count)
            x, y = learner.gather(data, rows[chosen].to(data.index.device))
            first = len(self.memory)
            self.memory.add(x, y, rng, lesson=torch.full_like(y, self.taught - 1))
            self.islands.append((first, len(self.memory)))
            self.centres = torch.cat([self.centres, centre[None]])

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        heads = learner(x).unflatten(1, (self.lessons, self.classes))
        return (heads * self.members).sum(1) / self.members.sum(0).clamp_min(1)


def quartered(x: Tensor, order: int) -> Tensor:
    """Images (B x C x H x W) with their four quarters in the `order`-th of 24 orders; an odd row or column stays."""
    high, wide = x.shape[2] // 2, x.shape[3] // 2
    corners = [(slice(a, a + high), slice(b, b + wide)) for a in (0, high) for b in (0, wide)]
    left, places = list(range(4)), []
    for options in (6, 2, 1, 1):
        place, order = divmod(order, options)
        places.append(left.pop(place))
    out = x.clone()
    for corner, place in zip(corners, places, strict=True):
        out[:, :, corner[0], corner[1]] = x[:, :, corners[place][0], corners[place][1]]
    return out


def sparse_uniform(features: Tensor, order: Tensor, stability: Tensor, count: int) -> Tensor:
    """Positions of up to `count` samples of one class, all different: sorted by `order` and cut into count / 2 segments
    of equal size; of each the most stable, and of the others there the one whose feature has the least cosine to it.

    A segment of one gives one, an empty one none; of an odd `count` the last segment gives one.
    """
    chosen: list[Tensor] = []
    unit = F.normalize(features)
    for number, segment in enumerate(order.argsort(stable=True).tensor_split(max((count + 1) // 2, 1))):
        if not len(segment):
            continue
        stable = segment[stability[segment].argmax()]
        chosen.append(stable)
        rest = segment[segment != stable]
        if len(rest) and not (count % 2 and number == count // 2):
            chosen.append(rest[(unit[rest] @ unit[stable]).argmin()])
    return torch.stack(chosen)[:count]
