"""The table of docs/strategies.md: what each strategy needs and keeps, told by the strategies themselves.

    python -m clbench.strategies.page docs/strategies.md

writes the part of the page between `<!-- made: needs -->` and `<!-- end -->`. Each strategy with its defaults teaches
a small network four lessons; what it holds after each, and how often it asks a network for an answer, is looked up, not
typed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clbench.catalogue import resolve
from clbench.data import Data, Source
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.memory import Memory
from clbench.models import MLP, ConvBN, ViT
from clbench.state import pack_value
from clbench.strategies import CATALOGUE
from clbench.strategy import Around, Strategy
from clbench.stream import Experience, Stream, Syllabus
from clbench.transform import ImageTransform

SIDE, LESSONS, SAMPLES = 4, 4, 8
SMALL: dict[str, dict[str, Any]] = {
    "coda_prompt": {"components": 6, "blocks": (0, 1)},
    "dual_prompt": {"general_blocks": (0,), "expert_blocks": (1,)},
    "gdumb": {"epochs": 1},
    "ranpac": {"projection": 50},
}
"""options that change nothing in the table, for a quick look at small networks"""
HEAD = ("strategy", "goes around", "needs", "memory, samples", "passes an answer", "keeps beside")


def needs() -> str:
    """A row for each strategy of ours."""
    lines = [f"| {' | '.join(HEAD)} |", f"| {' | '.join(['---'] * len(HEAD))} |"]
    for name in CATALOGUE:
        entry: Any = resolve("strategy", name)
        strategy = replace(entry() if isinstance(entry, type) else entry, **SMALL.get(name, {}))
        if type(strategy).__module__.startswith("clbench.strategies"):
            lines.append(f"| `{name}` | {' | '.join(row(strategy))} |".replace("|  |", "| |").replace("|  |", "| |"))
    return "\n".join(lines)


@dataclass
class Seen:
    """What was seen of a strategy after a lesson."""

    passes: int
    """how often a network is run, its own or a copy, to answer once"""
    kept: dict[str, float]
    """what it holds between experiences, beside samples: by name, how many times the numbers of the network"""


def row(strategy: Strategy) -> list[str]:
    """What the table says of a strategy, beside its name."""
    wants = sorted(strategy.needs) + ["the whole stream"] * strategy.whole_stream
    around = "any" if isinstance(strategy, Around) else ""
    if not (seen := taught(strategy)):
        return [around, ", ".join(wants), "?", "?", "?"]
    kept = (held(name, [one.kept.get(name, 0.0) for one in seen]) for name in seen[-1].kept)
    return [around, ", ".join(wants), samples(strategy), over([one.passes for one in seen]), ", ".join(kept)]


def over(numbers: Sequence[float]) -> str:
    """The last number; where they grow evenly with lessons, by how much, after what is there without any."""
    steps = {later - sooner for sooner, later in pairwise(numbers)}
    if len(steps) > 1 or not (step := steps.pop()) > 0:
        return f"{numbers[-1]:g}"
    rest = numbers[0] - step
    return (f"{rest:g} + " if rest else "") + f"{step:g} an experience"


def held(name: str, times: Sequence[float]) -> str:
    """What is held, and how many times the numbers of the network, where it is a whole number."""
    return f"`{name}`" + (f" (×{over(times)})" if times[-1] % 1 == 0 else "")


def samples(strategy: Strategy) -> str:
    """How many samples it keeps."""
    if any(isinstance(one, Data) for value in vars(strategy).values() if isinstance(value, list) for one in value):
        return "all"
    if hasattr(strategy, "per_class"):
        return f"{strategy.per_class} a class"
    return str(strategy.memory_size or "the base's, or 500") if hasattr(strategy, "memory_size") else ""


def taught(strategy: Strategy) -> list[Seen]:
    """Teach it four lessons of two classes, with the first of three small networks that it takes, and look after each;
    nothing where it takes none.
    """
    size = LESSONS * SAMPLES
    x = torch.arange(size * SIDE**2, dtype=torch.int64).remainder(256).to(torch.uint8)
    labels = torch.arange(size) % 2 + 2 * (torch.arange(size) // SAMPLES)
    source = Source(x.view(size, SIDE, SIDE, 1), labels)
    syllabus = Syllabus(LESSONS, 2 * LESSONS, (1, SIDE, SIDE), (SAMPLES,) * LESSONS, shared=False)
    for model in (MLP(hidden=8), ConvBN(width=2), ViT(patch=2, width=12, depth=2, heads=3)):
        learner = Learner(batch=SAMPLES, lr=0.01, threads=1, device="cpu")
        learner.open(model, syllabus, ImageTransform(), Stream.criterion, seed=0)
        try:
            strategy.start(learner, syllabus)
        except Mistake:
            continue
        seen = []
        for index, places in enumerate(torch.arange(size).split(SAMPLES)):
            data = Data(source, places, lesson=index)
            learner.begin(experience := Experience(index, data, frozenset(data.labels.tolist())))
            strategy.learn(learner, experience)
            learner.end()
            seen.append(Seen(passes(strategy, learner), kept(strategy, learner)))
        return seen
    return []


def passes(strategy: Strategy, learner: Learner) -> int:
    """How often a network is run to answer once."""
    first = next(module for module in learner.model.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    count = 0

    def see(module: nn.Module, given: Any, out: Any) -> None:
        nonlocal count
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape == first.weight.shape:
            count += 1

    handle = nn.modules.module.register_module_forward_hook(see)
    try:
        with torch.no_grad():
            strategy.predict(learner, learner.blank(1).x)
    finally:
        handle.remove()
    return count


def kept(strategy: Strategy, learner: Learner) -> dict[str, float]:
    """What a strategy holds, beside samples and options; where it has no numbers it is left out."""
    weights = sum(p.numel() for p in learner.model.parameters())
    beside = {f.name for f in fields(strategy)}
    beside |= {name for name, value in vars(strategy).items() if isinstance(value, Memory)}
    sizes = {
        name: sum(tensor.numel() for tensor in pack_value(value, name)[1].values())
        for name, value in vars(strategy).items()
        if name not in beside
    }
    return {name: size / weights for name, size in sizes.items() if size}


def updated(page: str) -> str:
    """The page with the table made anew."""
    table = f"<!-- made: needs -->\n\n{needs()}\n\n<!-- end -->"
    return re.sub(r"<!-- made: needs -->.*?<!-- end -->", lambda _: table, page, flags=re.DOTALL)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(updated(file.read_text(encoding="utf-8")), encoding="utf-8")
