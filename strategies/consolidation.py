"""Consolidation: each weight is held where it was, the more the more it matters to what was learned.

EWC is Kirkpatrick et al. 2017 ("Overcoming catastrophic forgetting in neural networks", PNAS) in the online form of
Schwarz et al. 2018 ("Progress & Compress: A scalable framework for continual learning", ICML): one anchor, the last
weights, and one sum of Fisher diagonals. Their lambda has three conventions, which are options here; the defaults are
those of Mammoth, to which the published values of Buzzega et al. 2020 (DER) belong.

What differs here, and why. Mammoth takes the Fisher over augmented samples in training mode, and divides by a number
rounded up to full batches; here it is the mean over the samples as they are stored, in evaluation mode, so that it
depends neither on chance nor on the batch. The penalty's gradient is added in its closed form: the loss that is
recorded is the base's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from clbench.batch import Batch
from clbench.config import Preset
from clbench.data import Data
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.strategy import Adjust, Around, Strategy
from clbench.stream import Experience, Syllabus
from clbench.types import Count, Fraction, NonNegative

HELD = {"cpu": 2**22, "cuda": 2**28}
"""so many entries of gradients, of one sample or of several, are held at once: on a CPU what its caches take"""


@dataclass
class EWC(Around):
    """The base learns under a penalty lambda * sum F (theta - theta*)^2, from the second experience on.

    theta* are the weights that the last experience left; F <- gamma F + F of that experience, the diagonal of the
    Fisher information: the mean over its samples of the squared gradient of log p(y|x), each by itself.
    """

    ewc_lambda: NonNegative = 10.0
    """weight of the penalty; in Mammoth's convention unless the options below say otherwise: no factor of one half,
    gamma 1, no normalisation, the Fisher weighted"""
    half: bool = False
    """true: lambda / 2, as both papers write it"""
    gamma: Fraction = 1.0
    """what is left of the Fisher at each new one; Schwarz et al. take less than 1"""
    normalise: bool = False
    """true: the Fisher of each experience is divided by its largest entry; that Schwarz et al. normalise is theirs, by
    what is ours"""
    fisher: Literal["weighted", "empirical"] = "weighted"
    """of the gradients at true labels; weighted: each sample's square times p(y|x), as in Mammoth; empirical: not"""
    fisher_samples: Count | None = None
    """of how many samples of an experience, drawn at random; null: all"""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders"})
    holds: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        if learner.loss_mask == "batch":
            raise Mistake(
                "ewc takes p(y|x) of one sample from the loss, and learner.loss_mask=batch leaves it one label; choose "
                "learner.loss_mask=experience, seen or all."
            )
        self.anchor: list[Tensor] = []
        self.importance: list[Tensor] = []

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        found = self.information(learner, experience.train)
        if self.normalise:
            largest = torch.stack([one.max() for one in found]).max().clamp(min=1e-30)
            found = [one / largest for one in found]
        old = self.importance or [torch.zeros_like(one) for one in found]
        self.importance = [self.gamma * before + one for before, one in zip(old, found, strict=True)]
        self.anchor = weights(learner.model)

    def around_adjust(self, learner: Learner, adjust: Adjust | None) -> Adjust | None:
        if not self.importance or not self.ewc_lambda:
            return adjust
        strength = self.ewc_lambda / 2 if self.half else self.ewc_lambda

        def held(learner: Learner) -> None:
            pull(learner.model, self.anchor, strength, self.importance)
            if adjust is not None:
                adjust(learner)

        return held

    def information(self, learner: Learner, data: Data) -> list[Tensor]:
        """The diagonal of the Fisher information, one tensor a parameter.

        Counted as the gradient of a batch, which takes as many operations as those of its samples.
        """
        model = learner.model
        values = {name: p.detach() for name, p in model.named_parameters()}

        def log_likelihood(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return -learner.criterion(functional_call(model, values, (x[None],)).float(), y[None])

        each = vmap(grad_and_value(log_likelihood), in_dims=(None, 0, 0))
        total = {name: torch.zeros_like(value) for name, value in values.items()}
        held = HELD.get(learner.where.type, HELD["cpu"])
        size = min(max(held // sum(value.numel() for value in values.values()), 1), learner.eval_batch)
        data, samples = learner.near(data), len(data)
        positions = torch.arange(samples)
        if self.fisher_samples is not None and self.fisher_samples < samples:
            samples = self.fisher_samples
            positions = torch.from_numpy(learner.rng("fisher").permutation(len(data))[:samples])
        for part in positions.to(data.index.device).split(size):
            raw, y = learner.gather(data, part)
            x = learner.encode(raw)
            learner.flops.total += learner.price(Batch(x, y, raw), Strategy().loss)
            with sdpa_kernel(SDPBackend.MATH):  # fused attention has no batched gradient
                gradients, logs = each(values, x, y)
            share = (logs.exp() if self.fisher == "weighted" else torch.ones_like(logs)) / samples
            for name, gradient in gradients.items():
                total[name] += (share @ gradient.reshape(len(gradient), -1).square_()).view_as(total[name])
        return list(total.values())


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of all parameters as they are now."""
    return [p.detach().clone() for p in model.parameters()]


@torch.no_grad()
def pull(
    model: nn.Module, anchor: Sequence[Tensor], strength: float, importance: Sequence[Tensor] | None = None
) -> None:
    """Add the gradient of strength * sum importance * (theta - anchor)^2 to the gradients that are there.

    Args:
        anchor: one tensor a parameter, in the model's order.
        importance: likewise; None: 1 for all.
    """
    there = [(p, p.grad, at) for at, p in enumerate(model.parameters()) if p.requires_grad and p.grad is not None]
    moved = torch._foreach_sub([p for p, _, _ in there], [anchor[at] for _, _, at in there])
    if importance is not None:
        torch._foreach_mul_(moved, [importance[at] for _, _, at in there])
    torch._foreach_add_([gradient for _, gradient, _ in there], moved, alpha=2 * strength)


_DER = "Buzzega et al. 2020 (DER); Mammoth, utils/best_args.py, method ewc_on"
_BEST = {  # stream: (rate, lambda), gamma 1
    "mnist": (0.03, 90.0),
    "cifar10": (0.03, 10.0),
    "permuted_mnist": (0.1, 0.7),
    "rotated_mnist": (0.1, 0.7),
}

PRESETS = [
    *(
        Preset(
            "ewc",
            stream,
            {"learner.lr": rate, "strategy.ewc_lambda": weight},
            _DER,
            recipe="der2020",
            when={"base": "naive"},
        )
        for stream, (rate, weight) in _BEST.items()
    ),
    *(
        Preset("ewc", stream, {"strategy.fisher_samples": 500}, "untuned: a sample's gradient is the whole table's")
        for stream in ("api_evolution", "api_releases")
    ),
    Preset(
        "ewc",
        "cifar100",
        {"learner.lr": 0.1, "strategy.ewc_lambda": 1.0, "strategy.fisher_samples": 500},
        "tuned here on validation (protocol first=3, seed 100, 6 candidates of learner.lr and ewc_lambda)",
        model="convbn",
        when={"base": "naive"},
    ),
]
