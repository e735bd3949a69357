"""CoACT: a network with small additions is held to a slow copy without them, by contrast; later classes are prototypes.

Roy et al. 2025 ("Consistency-guided Asynchronous Contrastive Tuning for Few-Shot Class-Incremental Tuning of Foundation
Models", TMLR; arXiv 2405.16625), after their code.

What differs here, and why. Their embedding is the pooler's output, tanh(W z + b) of the class token z; the models here
have no pooler, and z itself is taken. Their momentum is Nesterov's, and the rate falls at each epoch; here it is the
learner's, at each step. Their code keeps the epoch that is best on the test split; here the last one counts. In what
their figure draws for later sessions (`inc_loss=figure`) the form of both terms is our reading.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.adapters import freeze, lora, transformer
from clbench.batch import Batch
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import linear_head
from clbench.seeds import derive
from clbench.strategies.embedding import embedded
from clbench.strategies.simplecil import features_of
from clbench.strategy import Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, Natural, Positive, Share


@dataclass
class CoACT(Strategy):
    """Base session: CE(W z(x1), y) + SupCon(z(x1), k(x2); y) for two augmentations x1, x2 of a batch.

    z is the network with LoRA on queries and values, k a copy without it that follows the weights both have. After some
    epochs the last blocks train as well, slowly. In each session the rows of W of its new classes become their mean
    features; later sessions may then train LoRA and W a little, held to the network of the base session.
    """

    rank: Count = 16
    """of LoRA"""
    dropout: Share = 0.1
    """of LoRA's input"""
    lora_blocks: Count | None = None
    """the first so many blocks have LoRA; null: all"""
    ema: Fraction = 0.999
    """share of itself that the copy keeps before each step"""
    temperature: Positive = 0.07
    """of the contrast"""
    base_epochs: Natural | None = None
    """passes of the base session; 0: prototypes alone; null: the learner's epochs"""
    tune_blocks: Natural | Literal["all"] = 1
    """the last so many blocks train in the base session too, with the last normalisation; all: everything"""
    tune_at: Natural = 0
    """epochs before they do"""
    tune_rate: Positive = 0.01
    """their rate, as a share of the learner's"""
    inc_epochs: Natural = 0
    """passes of each later session; 0: prototypes alone"""
    inc_layers: Literal["lora", "classifier", "both"] = "both"
    """what trains in them"""
    inc_rate: Positive = 0.001
    """their rate, as a share of the learner's"""
    inc_loss: Literal["released", "figure"] = "released"
    """released: CE + SupCon of z, the base session's copy and the pretrained network + MSE of logits to the base
    session's; figure: CE + SupCon of z and the copy + SupCon of z and the base session's network"""

    needs: ClassVar[frozenset[str]] = frozenset({"transformer", "pretrained weights", "task borders"})
    budgeted: ClassVar[bool] = False
    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        learner.renews()
        model: Any = learner.model
        body = transformer(model)
        depth = len(body.blocks)
        if self.tune_blocks != "all" and self.tune_blocks > depth:
            raise Mistake(f"strategy.tune_blocks={self.tune_blocks}: the network has {depth} blocks.")
        self.teacher = still(body)
        blocks = "|".join(map(str, range(min(self.lora_blocks or depth, depth))))
        pattern, seed = rf"blocks\.({blocks})\.attn\.qkv", derive(learner.seed, "lora")
        self.lora = lora(model, pattern, self.rank, dropout=self.dropout, parts=(0, 2), seed=seed)
        names = [name for name, _ in model.named_parameters()]
        if self.tune_blocks != "all":
            after = f"body.blocks.{depth - self.tune_blocks}." if self.tune_blocks else "head."
            names = names[next(at for at, name in enumerate(names) if name.startswith(after)) :]
        self.tuned = [name for name in names if name not in self.lora and not name.startswith("head.")]
        nn.init.zeros_(linear_head(model).bias)
        self.ready(learner)
        self.seen: frozenset[int] = frozenset()
        later = bool(self.inc_epochs)
        released = later and self.inc_loss == "released"
        self.base: nn.Module | None = still(model) if later else None
        self.base_teacher: nn.Module | None = still(self.teacher) if released else None
        self.pretrained: nn.Module | None = still(self.teacher) if released else None

    def ready(self, learner: Learner) -> None:
        """What trains from the beginning: LoRA and the classifier, which has no bias."""
        freeze(learner.model, but=[*self.lora, "head.weight"])

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.insert(learner, experience)
        if experience.index == 0:
            self.begin(learner, experience)
        elif self.inc_epochs:
            self.go_on(learner, experience)
        self.ready(learner)

    def insert(self, learner: Learner, experience: Experience) -> None:
        """The rows of new classes become the mean features of their samples, un-augmented."""
        features, labels = embedded(learner, experience.train, features_of)
        weight = learner.model.get_parameter("head.weight")
        with torch.no_grad():
            for label in sorted(experience.classes - self.seen):
                weight[label] = features[labels == label].mean(0)
        self.seen |= experience.classes

    def begin(self, learner: Learner, experience: Experience) -> None:
        """The base session."""
        epochs = learner.epochs if self.base_epochs is None else self.base_epochs
        rates = dict.fromkeys(self.tuned, self.tune_rate)
        freeze(learner.model, but=[*self.lora, *self.tuned, "head.weight"])
        learner.optim = learner.new_optimizer(learner.steps(len(experience.train), epochs) or 1, rates=rates)
        for epoch in learner.passes(epochs):
            for name in self.tuned:
                learner.model.get_parameter(name).requires_grad_(epoch >= self.tune_at)
            learner.fit(self.batches(learner, experience), self.loss)
        if self.base is not None:
            self.base.load_state_dict(learner.model.state_dict())
        if self.base_teacher is not None:
            self.base_teacher.load_state_dict(self.teacher.state_dict())

    def go_on(self, learner: Learner, experience: Experience) -> None:
        """A later session's training."""
        chosen = {"lora": self.lora, "classifier": ["head.weight"], "both": [*self.lora, "head.weight"]}
        freeze(learner.model, but=chosen[self.inc_layers])
        steps = learner.steps(len(experience.train), self.inc_epochs)
        learner.optim = learner.new_optimizer(steps, learner.lr * self.inc_rate)
        for _ in learner.passes(self.inc_epochs):
            learner.fit(self.batches(learner, experience), self.later_loss)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        """Batches with another view of theirs beside them; the copy follows before each step."""
        rng = learner.rng("second view")
        for batch in learner.batches(experience.train):
            self.follow(learner)
            yield replace(batch, past=(Batch(learner.encode(batch.raw, rng), batch.y, batch.raw),))

    @torch.no_grad()
    def follow(self, learner: Learner) -> None:
        """k <- ema k + (1 - ema) theta, where they can differ."""
        for name in self.tuned:
            own = self.teacher.get_parameter(name.removeprefix("body."))
            own.lerp_(learner.model.get_parameter(name), 1 - self.ema)

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        z = learner.features(batch.x)
        k = says(learner, self.teacher, batch.past[0].x)
        return learner.criterion(self.head(learner, z), batch.y) + self.contrast(batch.y, z, k)

    def later_loss(self, learner: Learner, batch: Batch) -> Tensor:
        second = batch.past[0].x
        z = learner.features(batch.x)
        logits = self.head(learner, z)
        loss = learner.criterion(logits, batch.y)
        assert self.base is not None
        if self.base_teacher is None or self.pretrained is None:
            copies = says(learner, self.teacher, second), says(learner, self.base.body, second)  # type: ignore[arg-type]
            return loss + sum(self.contrast(batch.y, z, k) for k in copies)
        k, old = (says(learner, module, second) for module in (self.base_teacher, self.pretrained))
        return loss + self.contrast(batch.y, z, k, old) + F.mse_loss(logits, says(learner, self.base, batch.x))

    def head(self, learner: Learner, features: Tensor) -> Tensor:
        return learner.model.get_submodule("head")(features)

    def contrast(self, y: Tensor, *views: Tensor) -> Tensor:
        """SupCon over several features of each sample, each scaled to length 1."""
        return supcon(F.normalize(torch.cat(views)), y.repeat(len(views)), self.temperature)


def supcon(features: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Supervised contrast (Khosla et al. 2020, NeurIPS) of features of length 1 (N x features) and labels (N): of each,
    the mean log-probability of the others of its label among all others, negated; 0 where there are none; the mean.
    """
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    same = (y[:, None] == y) & ~itself
    logs = (features @ features.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    return -(logs.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)).mean()


@torch.no_grad()
def says(learner: Learner, module: nn.Module, x: Tensor) -> Tensor:
    """What a module that stands still makes of network input."""
    return learner(x, module)


def still(module: nn.Module) -> Any:
    """A copy of a module that does not train."""
    return copy.deepcopy(module).requires_grad_(False).eval()


_CODE = "their values for ViT-B/16; Roy et al. 2025 (CoACT), {}"

PRESETS = [
    Preset(
        "coact",
        "fewtune_cifar100",
        {
            "learner.epochs": 50,
            "learner.batch": 64,
            "learner.lr": 0.1,
            "learner.weight_decay": 5e-4,
            "strategy.tune_blocks": 3,
            "strategy.tune_rate": 0.001,
            "strategy.inc_epochs": 1,
            "strategy.inc_layers": "classifier",
            "strategy.inc_rate": 0.001,
        },
        _CODE.format("utils/constants.py, CIFAR-100 with 10 samples of each class"),
        recipe="coact2025",
    ),
    Preset(
        "coact",
        "fewshot_cifar100",
        {
            "learner.epochs": 25,
            "learner.batch": 64,
            "learner.lr": 0.001,
            "learner.weight_decay": 5e-4,
            "strategy.tune_blocks": 1,
            "strategy.tune_at": 10,
            "strategy.tune_rate": 0.01,
        },
        _CODE.format("utils/constants.py, CIFAR-100 with 60 classes at first"),
        recipe="coact2025",
    ),
]
