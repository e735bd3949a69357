"""How much of a representation stays: linear CKA of each layer between the network of now and earlier ones.

Centred kernel alignment is of Kornblith, Norouzi, Lee and Hinton 2019 (Similarity of Neural Network Representations
Revisited, ICML). HSIC is the unbiased estimator of Song et al. 2012 (Feature Selection via Dependence Maximization,
JMLR), averaged over mini-batches as in Nguyen, Raghu and Kornblith 2021 (Do Wide and Deep Networks Learn the Same
Things?, ICLR), so that the number does not depend on the size of the batches, and memory does not grow with samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from clbench import modules
from clbench.learner import Learner
from clbench.metric import Look, Probe, Row
from clbench.metrics.exams import papers, short
from clbench.strategy import whole_stream
from clbench.types import Count

BATCH = 128
"""samples in a mini-batch"""
LEAST = 4
"""the fewest samples of which the estimator is defined"""
FEW = f"fewer than {LEAST} samples of the exams that the first experience teaches"
STILL = "the layer says the same of every sample, or nearly so"
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers(body: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that a body is made of, by path: those with parameters that are no mere containers of others. A
    residual or a transformer block is one layer, as what it adds to is only whole at its end.
    """
    for name, module in body.named_children():
        here = f"{path}.{name}" if path else name
        if isinstance(module, CONTAINERS):
            yield from layers(module, here)
        elif any(True for _ in module.parameters()):
            yield here, module


def hsic(one: Tensor, other: Tensor) -> Tensor:
    """The unbiased estimator of HSIC from two Gram matrices, n x n, n > 3 (Song et al. 2012, equation 5)."""
    n = len(one)
    k, h = (gram - torch.diag(gram.diagonal()) for gram in (one, other))
    cross = (k * h).sum() + k.sum() * h.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) * h.sum(0)).sum()
    return cross / (n * (n - 3))


def cka(one: Sequence[Tensor], other: Sequence[Tensor]) -> float | None:
    """Linear CKA of two layers from the Gram matrices of their features, one for each mini-batch; None where a layer
    does not vary. At most 1 but for the estimator's noise; features that have nothing to do with one another vary
    about 0.
    """
    means = [
        torch.stack([hsic(k, h) for k, h in zip(*pair, strict=True)]).mean()
        for pair in ((one, other), (one, one), (other, other))
    ]
    cross, own, its = torch.stack(means).tolist()
    return cross / (own * its) ** 0.5 if own > 0 and its > 0 else None


def grams(learner: Learner, batches: Sequence[Tensor], weights: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """The Gram matrix of each layer's output for each batch of network input, where the model has these weights, and
    its own for the rest. Each sample is taken less the first, which changes nothing but rounding.
    """
    found: dict[str, list[Tensor]] = {}

    def keep(path: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        x = output.flatten(1).double()
        x = x - x[:1]
        found.setdefault(path, []).append(x @ x.T)

    body = learner.model.get_submodule("body")
    hooks = [module.register_forward_hook(partial(keep, path)) for path, module in layers(body)]
    try:
        with modules.swapped(learner.model, weights), torch.inference_mode():
            for x in batches:
                learner.features(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass
class CKA(Probe):
    """`cka/before`: linear CKA between each layer of the network now and as it was at the look before; `cka/first`: as
    it was at the first look after anything was learned. The subject is the module's path, without `body.`. Samples are
    fixed: those of the exams that the first experience teaches, so the numbers speak of what was learned then.

    Only the body's weights are taken back; what a strategy keeps beside the model plays no part.
    """

    samples: Count = 1024
    """of those exams together, evenly spread over each"""

    def __post_init__(self) -> None:
        self.before: dict[str, Tensor] = {}
        """weights at the last look"""
        self.first: dict[str, Tensor] = {}
        """weights at the first look"""

    def __call__(self, look: Look) -> Iterable[Row]:
        if look.step == 0:
            self.__post_init__()
        if look.step == 0 or whole_stream(look.strategy):
            return
        weights = modules.tensors(look.learner.model).items()
        now = {name: tensor.detach().clone() for name, tensor in weights if name.startswith("body.")}
        if self.first:
            yield from self._compare(look)
        self.before, self.first = now, self.first or now

    def _compare(self, look: Look) -> Iterator[Row]:
        learner, batches = look.learner, self._batches(look)
        size = sum(map(len, batches))
        if size < LEAST:
            yield from (Row(look.step, look.at, f"cka/{name}", "", None, size, FEW) for name in ("before", "first"))
            return
        now = grams(learner, batches, {})
        for name, weights in (("before", self.before), ("first", self.first)):
            then = grams(learner, batches, weights)
            for path, own in now.items():
                value = cka(own, then[path])
                yield Row(look.step, look.at, f"cka/{name}", path, value, size, STILL if value is None else "")

    def _batches(self, look: Look) -> list[Tensor]:
        """Network input in mini-batches of about one size, each spread over all samples."""
        learner, exams = look.learner, [exam for exam in look.exams if exam.since == 0]
        exams = [short(exam, max(self.samples // len(exams), 1)) for exam in exams]
        raw = [*papers(learner, exams, learner.eval_batch)]
        if not raw:
            return []
        samples = torch.cat(raw)
        count = -(-len(samples) // BATCH)
        return [learner.encode(samples[start::count]) for start in range(count)]
