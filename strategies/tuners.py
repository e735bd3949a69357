"""Tuners: few weights train, the same ones for the whole stream, around any strategy; the network itself stands still.

LoRA is Hu et al. 2022 ("LoRA: Low-Rank Adaptation of Large Language Models", ICLR); SSF Lian, Zhou, Feng and Wang 2022
("Scaling & Shifting Your Features", NeurIPS); the adapter AdaptFormer of Chen et al. 2022 (NeurIPS); VPT Jia et al.
2022 ("Visual Prompt Tuning", ECCV); BitFit Ben Zaken, Goldberg and Ravfogel 2022 (ACL); mask tuning the masks of Zheng
et al. 2023 ("Regularized Mask Tuning", ICCV), without what regularises them: the dropping of gradients and a loss on
masks, weighed by 1e-4 in their code, the formulas of which were not at hand. To train normalisation alone, or the head
alone (a linear probe), is nobody's in particular.

What differs here, and why. The papers tune one network for one task; here one set of weights goes on from experience to
experience, with the head, which trains in all of them. Running statistics of batch normalisation stand still, except
where normalisation is what trains. Their rates are those of pretrained networks: on one that has learned nothing they
train the head on random features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

from clbench.adapters import bottleneck, freeze, lora, masks, prompts, scale_shift, transformer
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import of_head, tensors
from clbench.seeds import derive
from clbench.strategy import Around
from clbench.stream import Experience, Syllabus
from clbench.types import Count, NonNegative, Positive, Share

PLACES = {
    "qv": r"blocks\.\d+\.attn\.qkv",
    "qkv": r"blocks\.\d+\.attn\.qkv",
    "ffn": r"blocks\.\d+\.mlp\.fc[12]",
    "attention": r"blocks\.\d+\.attn\.(qkv|proj)",
    "all": r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])",
}
"""the linear layers of a transformer's blocks; qv: only these two thirds of qkv"""


@dataclass
class Tuner(Around):
    """The base learns with what `attach` names, and the head; all else stands still from the start."""

    chooses: ClassVar[bool] = True

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.trains = [*self.attach(learner), *of_head(learner.model)]
        freeze(learner.model, self.trains)
        super().start(learner, syllabus)

    def learn(self, learner: Learner, experience: Experience) -> None:
        with learner.only(self.trains):
            super().learn(learner, experience)

    def attach(self, learner: Learner) -> Sequence[str]:
        """Make new weights, or choose some: the names of what trains beside the head."""
        return ()


@dataclass
class LoRA(Tuner):
    """Linear layers answer W x + b + (alpha / rank) B A x, of which A and B train; B begins at 0.

    A network without attention has them in all of its linear layers, wherever `where` says.
    """

    rank: Count = 8
    """of B A"""
    alpha: Positive | None = None
    """null: `rank`, a factor of 1"""
    where: str = "qv"
    """of a transformer: `qv`, `qkv`, `attention`, `ffn`, `all`, or a regular expression for paths of linear layers in
    the body"""
    dropout: Share = 0.0
    """of what A is given"""

    def attach(self, learner: Learner) -> Sequence[str]:
        parts = (0, 2) if is_transformer(learner.model) and self.where == "qv" else None
        pattern, seed = linear(learner.model, self.where), derive(learner.seed, "lora")
        return lora(learner.model, pattern, self.rank, alpha=self.alpha, dropout=self.dropout, parts=parts, seed=seed)


@dataclass
class SSF(Tuner):
    """What layers give is multiplied and moved by channel: y = gamma x + beta, of which gamma and beta train.

    In a transformer after the patches' projection, in each block after both normalisations, qkv, proj, fc1 and fc2, and
    after the last normalisation; in other networks after each linear layer, convolution and normalisation of the body.
    """

    deviation: Positive = 0.02
    """of the normal draws of gamma, around 1, and of beta, around 0"""

    def attach(self, learner: Learner) -> Sequence[str]:
        model, seed = learner.model, derive(learner.seed, "ssf")
        pattern = None if is_transformer(model) else paths(model, "layers", _layer)
        return scale_shift(model, pattern, deviation=self.deviation, seed=seed)


@dataclass
class BottleneckAdapter(Tuner):
    """In each block beside the feed-forward part: x + MLP(LN(x)) + factor * Up(drop(ReLU(Down(x)))); Up begins at 0."""

    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})

    rank: Count = 64
    """width of the bottleneck"""
    factor: Positive = 0.1
    """of what the adapter gives"""
    dropout: Share = 0.1
    """within the bottleneck"""

    def attach(self, learner: Learner) -> Sequence[str]:
        seed = derive(learner.seed, "adapter")
        return bottleneck(learner.model, self.rank, factor=self.factor, dropout=self.dropout, seed=seed)


@dataclass
class MaskTuning(Tuner):
    """Binary masks of weights train: one real number each, 1 where it is above the threshold, else 0, straight through.

    A mask has to go `start_at` - `threshold` before anything changes: that is five steps of Adam at a rate of 1e-3, and
    more than plain SGD goes; and weight decay closes masks.
    """

    start_at: Positive = 0.01
    """of all these numbers"""
    threshold: NonNegative = 0.005
    """above which a weight counts"""
    where: str = "attention"
    """which linear layers, as in `lora`"""

    def attach(self, learner: Learner) -> Sequence[str]:
        pattern = linear(learner.model, self.where)
        return masks(learner.model, pattern, start=self.start_at, threshold=self.threshold)


@dataclass
class VPT(Tuner):
    """Further tokens at the end of the sequence train, zeros at first."""

    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})

    length: Count = 5
    """tokens"""
    form: Literal["deep", "shallow"] = "deep"
    """deep: new ones for each block, taken away after it; shallow: one set, from the first block to the last"""

    def attach(self, learner: Learner) -> Sequence[str]:
        return prompts(learner.model, self.length, deep=self.form == "deep")


@dataclass
class BitFit(Tuner):
    """Biases train, those of normalisation included."""

    def attach(self, learner: Learner) -> Sequence[str]:
        return [name for name, _ in learner.model.named_parameters() if name.endswith(".bias")]


@dataclass
class NormOnly(Tuner):
    """Normalisation trains: scale and shift, and where it keeps running statistics, these too."""

    def attach(self, learner: Learner) -> Sequence[str]:
        """Names of all that normalisation has.

        Raises:
            Mistake: the network has none.
        """
        norms = [path for path, module in learner.model.named_modules() if normalises(module)]
        found = [name for name in tensors(learner.model) if name.rpartition(".")[0] in norms]
        if not found:
            raise Mistake("norm_only trains normalisation, and this model has none: choose another model, or bitfit.")
        return found


def is_transformer(model: nn.Module) -> bool:
    """Whether its body is a vision transformer as timm makes them."""
    try:
        transformer(model)
    except Mistake:
        return False
    return True


def normalises(module: nn.Module) -> bool:
    """Whether a module is one of normalisation."""
    return "norm" in type(module).__name__.lower()


def linear(model: nn.Module, where: str) -> str:
    """A pattern of the linear layers in such places of a transformer, or of all of another network's body."""
    if is_transformer(model):
        return PLACES.get(where, where)
    return paths(model, "linear layers", lambda module: isinstance(module, nn.Linear))


def paths(model: Any, what: str, wanted: Callable[[nn.Module], bool]) -> str:
    """A pattern of the paths of such modules in the body.

    Raises:
        Mistake: there is none.
    """
    found = [re.escape(path) for path, module in model.body.named_modules() if path and wanted(module)]
    if not found:
        raise Mistake(f"This tunes {what}, and the body of this model has none: choose another model or strategy.")
    return "|".join(found)


def _layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | _ConvNd) or normalises(module)


_APER = {
    "learner.epochs": 20,
    "learner.batch": 48,
    "learner.lr": 0.01,
    "learner.weight_decay": 5e-4,
    "learner.schedule": "cosine",
}

PRESETS = [
    Preset("lora", "fomo_images", {"learner.lr": 1e-3}, "untuned: ten times the rate of all weights"),
    *(
        Preset(tuner, "cifar100", _APER, "untuned: what PILOT has for APER's first experience", recipe="pilot")
        for tuner in ("adapter", "lora", "ssf", "vpt")
    ),
]
