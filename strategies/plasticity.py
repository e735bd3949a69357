"""Plasticity: what is done so that a network that has learned for long can still learn.

L2 Init is Kumar, Marklund and Van Roy 2023 ("Maintaining Plasticity in Continual Learning via Regenerative
Regularization"; arXiv 2308.11958). Continual backpropagation is Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood and
Sutton 2024 ("Loss of plasticity in deep continual learning", Nature 632): units of little use are replaced by new ones,
all the time.

What differs here, and why. A batch counts by the mean size of a unit's activation, since theirs is written for one
sample at a time. Utilities are corrected for their start at 0 as in their code, by the age of the unit. New weights are
uniform with the variance that the layer's had at the start, and new biases 0: each model here starts in its own way.
Nothing is added to the next layer's biases for the units that go, as in the paper and unlike some of their code.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clbench.batch import Batch, after_each
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.strategies.consolidation import pull, weights
from clbench.strategy import Adjust, Around
from clbench.stream import Syllabus
from clbench.types import Count, Fraction, NonNegative, Share


@dataclass
class L2Init(Around):
    """The base learns under a penalty lambda * ||theta - theta_0||^2, where theta_0 are the initial weights.

    The penalty's gradient is added in its closed form: the loss that is recorded is the base's.
    """

    l2_lambda: NonNegative = 0.001
    """weight of the penalty, without a factor of one half; the paper tries 1e-2 to 1e-5"""

    holds: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.initial = weights(learner.model)

    def around_adjust(self, learner: Learner, adjust: Adjust | None) -> Adjust | None:
        if not self.l2_lambda:
            return adjust

        def drawn(learner: Learner) -> None:
            pull(learner.model, self.initial, self.l2_lambda)
            if adjust is not None:
                adjust(learner)

        return drawn


@dataclass
class Units:
    """The hidden units of one layer: how useful they are and how old. Times are steps."""

    utility: Tensor
    """running mean of the contribution, not yet corrected"""
    born: Tensor
    """when each was made"""
    births: list[int]
    """such times in order, on the host; there a unit that goes is one of the oldest, so that as many are mature as in
    truth, and nobody asks the device"""
    deviation: float
    """of the layer's weights at the start"""
    owed: float = 0.0
    """units to replace, of which the whole ones are due"""


@dataclass
class ContinualBackprop(Around):
    """The base learns; after each step a small share of the mature hidden units, those of least utility, is made anew.

    The utility of a unit is the running mean of |activation| * sum of |outgoing weights|. A unit is mature when it is
    more than `maturity_threshold` steps old. A new one has random incoming weights and outgoing weights of 0, so that
    it changes no answer, and its entries in the optimiser's state are 0. Channels of convolutions are units too. For
    networks whose layers follow one another (mlp, cnn, convbn); batch normalisation of a new unit begins anew.
    """

    replacement_rate: Fraction = 1e-4
    """share of the mature units of each layer that is replaced at a step; 0: none"""
    maturity_threshold: Count = 100
    """steps for which a new unit is safe"""
    decay: Share = 0.99
    """of the running mean of utilities"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        self.steps = 0
        self.units = []
        for layer, _, _ in chain(learner.model):
            n, where = len(layer.weight), learner.where
            born = torch.zeros(n, dtype=torch.int64, device=where)
            self.units.append(Units(torch.zeros(n, device=where), born, [0] * n, float(layer.weight.detach().std())))

    def around_batches(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        if not self.replacement_rate:
            return batches
        return self.watched(learner, batches)

    def watched(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        """The same batches; meanwhile what each layer is given in training is seen by hooks, gone when this ends."""
        links, inputs = chain(learner.model), dict[nn.Module, Tensor]()

        def see(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            if module.training:
                inputs[module] = given[0].detach()

        hooks = [after.register_forward_pre_hook(see) for _, _, after in links]
        try:
            yield from after_each(batches, lambda batch, kept: self.step(learner, links, inputs))
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def step(self, learner: Learner, links: list[Link], inputs: dict[nn.Module, Tensor]) -> None:
        """After a step: utilities go on, and units that are due are replaced. Nothing waits for the device."""
        self.steps += 1
        for number, (link, units) in enumerate(zip(links, self.units, strict=True)):
            layer, _, after = link
            given = inputs.pop(after, None)
            if given is not None:
                units.utility.lerp_(contribution(given, after.weight, len(units.births)), 1 - self.decay)
            if not (layer.weight.requires_grad and after.weight.requires_grad):
                continue
            mature = bisect_left(units.births, self.steps - self.maturity_threshold)
            units.owed += self.replacement_rate * mature
            due = int(units.owed)
            if due:
                units.owed -= due
                self.replace(learner, link, units, due, learner.rng(f"new units {number}"))

    @torch.no_grad()
    def replace(self, learner: Learner, link: Link, units: Units, due: int, rng: np.random.Generator) -> None:
        """Make the `due` mature units of least utility anew."""
        layer, norm, after = link
        age = self.steps - units.born
        utility = units.utility / (1 - self.decay**age)
        places = utility.masked_fill(age <= self.maturity_threshold, torch.inf).topk(due, largest=False).indices
        bound = 3**0.5 * units.deviation
        fresh = rng.uniform(-bound, bound, (due, *layer.weight.shape[1:]))
        put(learner, layer.weight, 0, places, torch.from_numpy(fresh).to(layer.weight))
        if layer.bias is not None:
            put(learner, layer.bias, 0, places)
        if norm is not None:
            put(learner, norm.weight, 0, places, 1.0)
            put(learner, norm.bias, 0, places)
            norm.running_mean.index_fill_(0, places, 0.0)
            norm.running_var.index_fill_(0, places, 1.0)
        put(learner, after.weight, 1, outgoing(places, len(units.births), after.weight.shape[1]))
        units.utility.index_fill_(0, places, 0.0)
        units.born.index_fill_(0, places, self.steps)
        units.births[:] = units.births[due:] + [self.steps] * due


Link = tuple[Any, Any, Any]
"""a layer, the batch normalisation of its units or None, and the layer that they feed"""
_PASSES = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Identity, _BatchNorm)


def chain(model: nn.Module) -> list[Link]:
    """The layers with hidden units, in order.

    Raises:
        Mistake: the layers do not simply follow one another, or there is no hidden unit.
    """
    layers: list[nn.Module] = []
    norms: dict[int, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            layers.append(module)
        elif isinstance(module, _BatchNorm):
            norms[len(layers)] = module
        elif not isinstance(module, (nn.Sequential, *_PASSES)):
            raise Mistake(
                "continual_backprop replaces units of layers that follow one another (model=mlp, cnn, convbn); "
                f"this model has a {type(module).__name__}."
            )
    if len(layers) < 2:
        raise Mistake("continual_backprop replaces hidden units; this model has none.")
    return [(layer, norms.get(n), after) for n, (layer, after) in enumerate(pairwise(layers), start=1)]


def contribution(x: Tensor, weight: Tensor, units: int) -> Tensor:
    """Mean |activation| * sum of |outgoing weights| of each unit, over what a layer is given and its weight.

    A channel that is flattened before a linear layer is the mean of its positions.
    """
    size, out = x.float().abs(), weight.abs()
    size, out = (size.mean(0), out.sum(0)) if x.ndim == 2 else (size.mean((0, 2, 3)), out.sum((0, 2, 3)))
    return (size * out).view(units, -1).mean(1)


def outgoing(places: Tensor, units: int, inputs: int) -> Tensor:
    """The inputs of the next layer that these units feed: of flattened channels one a position."""
    each = inputs // units
    return (places[:, None] * each + torch.arange(each, device=places.device)).flatten()


def put(learner: Learner, parameter: Tensor, axis: int, places: Tensor, value: Tensor | float = 0.0) -> None:
    """Give these slices of a parameter a value, and the optimiser's state of them 0."""
    if isinstance(value, Tensor):
        parameter.index_copy_(axis, places, value)
    else:
        parameter.index_fill_(axis, places, value)
    assert learner.optim is not None
    for held in learner.optim.torch.state.get(parameter, {}).values():
        if isinstance(held, Tensor) and held.shape == parameter.shape:
            held.index_fill_(axis, places, 0.0)
