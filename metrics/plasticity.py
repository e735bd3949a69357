"""Whether the network can still learn: units that have gone silent, how many directions its features use, how large
its weights are.

Dormant units: Sokar et al. 2023 (The Dormant Neuron Phenomenon in Deep Reinforcement Learning, ICML). Effective rank:
Roy and Vetterli 2007 (The Effective Rank: A Measure of Effective Dimensionality, EUSIPCO); the stable rank beside it is
||A||_F^2 / ||A||_2^2. What a network loses when it is taught for long shows in these (Dohare et al. 2024, Loss of
Plasticity in Deep Continual Learning, Nature).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clbench import modules
from clbench.metric import Look, Probe, Row
from clbench.metrics.exams import papers, short
from clbench.types import Count

ACTIVATIONS = {F.elu, F.gelu, F.leaky_relu, F.relu, F.relu6, F.silu, Tensor.relu, Tensor.relu_, torch.relu, torch.relu_}
"""what a unit's output is the output of"""
TAU = 0.025
"""a unit is dormant up to this share of its layer's mean activation (Sokar et al. 2023)"""
NONE = "the network has no activation that is known here"
ZERO = "all features are 0"
INFINITE = "not all of it is finite"


class Activations(TorchFunctionMode):
    """Within it, the outputs of activations are kept in their order, whether a module or a function calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS:
            self.outputs.append(output)
        return output


def magnitudes(output: Tensor) -> Tensor:
    """The mean magnitude of each unit over positions, summed over samples. Units are channels of maps (B x C x H x W),
    else the last dimension.
    """
    size = output.detach().abs().double()
    if size.ndim == 4:
        return size.mean((2, 3)).sum(0)
    return (size.flatten(1, -2).mean(1) if size.ndim > 2 else size).sum(0)


def effective_rank(singular: Tensor) -> float:
    """exp of the entropy of singular values as shares of their sum: from 1 to their number; not all are 0."""
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def stable_rank(singular: Tensor) -> float:
    """The sum of squares by the largest square; not all are 0."""
    return float((singular / singular.max()).square().sum())


@dataclass
class Plasticity(Probe):
    """`plasticity/dormant`: share of units whose mean activation is at most .025 of the mean of their layer;
    `plasticity/zero`: exactly 0. Of the whole network, and of each layer, whose subject is the place of its activation
    in the forward pass, from 1. `plasticity/effective_rank` and `plasticity/stable_rank`: of the features, samples x
    features, not centred. `plasticity/weight_norm`: Euclidean norm of each group of weights (`clbench.modules.groups`).

    Samples are of all exams, those to come included, the same at each look, so that only the network changes.
    """

    samples: Count = 1024
    """of all exams together, evenly spread over each"""

    def __call__(self, look: Look) -> Iterable[Row]:
        learner = look.learner
        exams = [short(exam, max(self.samples // len(look.exams), 1)) for exam in look.exams]
        layers: list[Tensor] = []
        features = []
        with torch.inference_mode():
            for raw in papers(learner, exams, learner.eval_batch):
                with Activations() as seen:
                    features.append(learner.features(learner.encode(raw)))
                found = [magnitudes(output) for output in seen.outputs]
                layers = [before + more for before, more in zip(layers, found, strict=True)] if layers else found
        size = sum(map(len, features))
        yield from self._units(look, layers, size)
        yield from self._ranks(look, torch.cat(features).double(), size)
        for group, names in modules.groups(learner.model).items():
            tensors = [modules.tensors(learner.model)[name].detach().double() for name in names]
            norm = float(torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt())
            yield _row(look, "weight_norm", group, norm, sum(tensor.numel() for tensor in tensors))

    def _units(self, look: Look, layers: Sequence[Tensor], size: int) -> Iterator[Row]:
        finite = [bool(layer.isfinite().all()) for layer in layers]
        counts = {
            "dormant": [layer <= TAU * layer.mean() for layer in layers],
            "zero": [layer == 0 for layer in layers],
        }
        for name, marks in counts.items():
            if not marks:
                yield Row(look.step, look.at, f"plasticity/{name}", "", None, size, NONE)
                continue
            shares = [float(m.double().mean()) if f else math.nan for m, f in zip(marks, finite, strict=True)]
            whole = float(torch.cat(marks).double().mean()) if all(finite) else math.nan
            for place, share in {"": whole, **{str(n): share for n, share in enumerate(shares, 1)}}.items():
                yield _row(look, name, place, share, size)

    def _ranks(self, look: Look, features: Tensor, size: int) -> Iterator[Row]:
        singular = torch.linalg.svdvals(features) if features.isfinite().all() else features.new_full((1,), math.nan)
        for name, rank in (("effective_rank", effective_rank), ("stable_rank", stable_rank)):
            if singular.any():
                yield _row(look, name, "", rank(singular), size)
            else:
                yield Row(look.step, look.at, f"plasticity/{name}", "", None, size, ZERO)


def _row(look: Look, name: str, subject: str, value: float, n: int) -> Row:
    note = "" if math.isfinite(value) else INFINITE
    return Row(look.step, look.at, f"plasticity/{name}", subject, None if note else value, n, note)
