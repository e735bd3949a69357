"""Parts of a network: its parameters in groups, how far they moved, which train, and other weights in their place.

Groups go by operation and position, so that networks of one kind have the same ones. Names are those of `state_dict`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from clbench.errors import Mistake, unknown

BLOCK = re.compile(r".*\bblocks\.\d+\b")
"""the path of a module up to the transformer's block that it is in"""
STAGE = re.compile(r"\D*\d[^.]*")
"""a path up to its first component with a digit"""
THIRDS = ("early", "middle", "late")
MOMENTS = {"running_mean": "mean", "running_var": "var"}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and floating-point buffers of a model, in its order; a shared one once, under its first name."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = {name: own[name] for name in model.state_dict(keep_vars=True) if name in own}
    return {name: t for name, t in found.items() if isinstance(t, nn.Parameter) or t.is_floating_point()}


def linear_head(model: nn.Module) -> nn.Linear:
    """The linear layer named head, which gives a logit for each class.

    Raises:
        Mistake: there is none.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Linear):
        raise Mistake(f"It takes a linear layer named head, a row for each class; here it is a {type(head).__name__}.")
    return head


def of_head(model: nn.Module) -> list[str]:
    """The names of the head's parameters."""
    return [name for name, _ in model.named_parameters() if name.startswith("head.")]


def of_body(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains of the body, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")}


def groups(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The names of all parameters and floating-point buffers, by group; each name is in one group.

    What stands under `head` is `head`. Batch normalisation of the whole network is in `bn.weight`, `bn.bias`, `bn.mean`
    and `bn.var` (running statistics), other normalisation in `norm.weight` and `norm.bias`. Of the convolutions the
    first is `stem`; the others go by stage: the path up to its first component with a digit (`stage1`, `conv2`,
    `blocks.3`). Anything else is a group by the path of its module (`fc1`). In a transformer, a network with a linear
    `qkv` in its `blocks`, what comes before them is `embedding`, and what is in them goes by the name of the module,
    split by depth: `qkv.early`, `qkv.middle`, `qkv.late`, likewise `proj`, `fc1`, `fc2`, `norm.weight`, `norm.bias`
    and whatever else there is. A normalisation after the last block is late. Paths are without `body.`
    """
    modules = dict(model.named_modules())
    namer = _Namer(modules)
    found: dict[str, list[str]] = {}
    for name in tensors(model):
        path, _, own = name.rpartition(".")
        found.setdefault(namer.group(path, own, modules[path]), []).append(name)
    return {group: tuple(names) for group, names in found.items()}


class _Namer:
    """Names the group of each tensor of a network, which are asked for in the network's order."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.stem = next((path for path, module in modules.items() if isinstance(module, _ConvNd)), None)
        inside = [(path, module, at[0]) for path, module in modules.items() if (at := BLOCK.match(path))]
        attends = any(isinstance(module, nn.Linear) and path.endswith(".qkv") for path, module, _ in inside)
        self.blocks = list(dict.fromkeys(block for _, _, block in inside)) if attends else []
        self.third = ""

    def group(self, path: str, own: str, module: nn.Module) -> str:
        if _is_head(path):
            return "head"
        if isinstance(module, _BatchNorm):
            return f"bn.{MOMENTS.get(own, own)}"
        here = path.removeprefix("body").removeprefix(".") or own
        within = BLOCK.match(path) if self.blocks else None
        if within:
            self.third = f".{THIRDS[3 * self.blocks.index(within[0]) // len(self.blocks)]}"
        if self.blocks and not self.third:
            return "embedding"
        if "norm" in type(module).__name__.lower():
            return f"norm.{MOMENTS.get(own, own)}{self.third}"
        if within:
            words = [word for word in path[within.end() :].split(".") if word and not word.isdigit()]
            return (words[-1] if words else own) + self.third
        if isinstance(module, _ConvNd):
            stage = STAGE.match(here)
            return "stem" if path == self.stem else stage[0] if stage else here
        return here


def _is_head(path: str) -> bool:
    return path == "head" or path.startswith("head.")


def chosen(groups: Mapping[str, Sequence[str]], wanted: Sequence[str]) -> list[str]:
    """The names in the groups wanted. A name chooses its group and all that begin with it and a dot: `bn`, `bn.mean`.

    Raises:
        Mistake: one chooses nothing.
    """
    found: dict[str, None] = {}
    for name in wanted:
        meant = [group for group in groups if group == name or group.startswith(f"{name}.")]
        if not meant:
            raise unknown("module group", name, groups)
        found |= dict.fromkeys(one for group in meant for one in groups[group])
    return list(found)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and floating-point buffers as they are now: float32, on the CPU."""
    return {name: t.detach().to("cpu", torch.float32, copy=True) for name, t in tensors(model).items()}


class Drift(NamedTuple):
    """How far a group of weights moved."""

    l1: float
    """mean absolute change of a scalar, ||after - before||_1 / size (Zhao et al. 2023)"""
    relative: float | None
    """||after - before||_1 / ||before||_1; None where all were 0 before"""


def drift(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], groups: Mapping[str, Sequence[str]]
) -> dict[str, Drift]:
    """How far each group moved from one snapshot to another. Sums are in double precision."""
    found = {}
    for group, names in groups.items():
        moved = sum(float((after[name] - before[name]).abs_().sum(dtype=torch.float64)) for name in names)
        was = sum(float(before[name].abs().sum(dtype=torch.float64)) for name in names)
        size = sum(before[name].numel() for name in names)
        found[group] = Drift(moved / size if size else 0.0, moved / was if was else None)
    return found


def sensitivity(across: Sequence[Mapping[str, float]], within: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How much more each group moves from one experience to the next than it does during one: the mean drift across
    experiences by the mean drift within them.

    Zhao et al. 2023 choose modules by such a ratio; this form is our reading of it, not checked against their text. It
    is 0 for a group that never moves. A group that moves across and never within has none and is left out.

    Args:
        across: by group, for each change of experience.
        within: by group, for each interval within an experience.
    """
    found = {}
    for group in across[0] if across else ():
        between = sum(one[group] for one in across) / len(across)
        during = sum(one[group] for one in within) / len(within) if within else 0.0
        if during or not between:
            found[group] = between / during if during else 0.0
    return found


@contextmanager
def only(model: nn.Module, names: Collection[str]) -> Iterator[list[nn.Module]]:
    """Within it, of the parameters that train only those in `names` do; afterwards all that did.

    Yields the batch-norm modules whose running statistics are not in `names`: the caller keeps them in evaluation mode,
    so that these stay as they are.

    Raises:
        Mistake: none of those that train is in `names`, nor any running statistics.
    """
    trains = {name: p for name, p in model.named_parameters() if p.requires_grad}
    norms = {path: module for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
    still: list[nn.Module] = [module for path, module in norms.items() if f"{path}.running_mean" not in names]
    if not trains.keys() & set(names) and len(still) == len(norms):
        raise Mistake(
            f"Nothing is left to train: of {_some(trains)}, which train, none is among those chosen, {_some(names)}. "
            "What is frozen stays so; choose another module group."
        )
    try:
        for name, parameter in trains.items():
            parameter.requires_grad_(name in names)
        yield still
    finally:
        for parameter in trains.values():
            parameter.requires_grad_(True)


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """In here the model is in evaluation mode; after it every module is in the mode that it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def _some(names: Collection[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(list(names)[:3]) or "nothing") + more


@contextmanager
def swapped(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it, the parameters and buffers named have these values; afterwards their own again, bit for bit.

    Raises:
        KeyError: the model has no such parameter or floating-point buffer; nothing is changed.
    """
    own = tensors(model)
    targets = {name: own[name] for name in weights}
    kept = {name: target.detach().clone() for name, target in targets.items()}
    try:
        _fill(targets, weights)
        yield
    finally:
        _fill(targets, kept)


def _fill(targets: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(weights[name])
