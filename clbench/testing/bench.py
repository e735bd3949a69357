"""Runs to check with: of fresh objects, whatever the global generators hold, interrupted or not, compared by bits."""

from __future__ import annotations

import copy
import json
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from clbench.catalogue import resolve
from clbench.data import Data
from clbench.learner import Learner, Model
from clbench.metric import Probe, Summary
from clbench.recorder import Recorder
from clbench.run import Run
from clbench.state import Unpackable, pack, pack_value
from clbench.strategy import Strategy
from clbench.stream import Experience, Stream

T = TypeVar("T")
Hold = Callable[[bool, str], None]

INTERRUPTIONS = 40
"""an interrupted run stops at every save, or at so many where there are more"""


def maker(kind: str, make: str | T | Callable[[], T]) -> Callable[[], T]:
    """What makes the thing anew, each time it is called."""
    entry: Any = resolve(kind, make) if isinstance(make, str) else make
    if isinstance(entry, Summary):
        return cast(Callable[[], T], lambda: entry)
    is_thing = is_dataclass(entry) and not isinstance(entry, type)
    return cast(Callable[[], T], (lambda: copy.deepcopy(entry)) if is_thing or not callable(entry) else entry)


def holder(who: str) -> Hold:
    """What raises AssertionError with a line about `who`, unless the condition holds."""

    def hold(condition: bool, line: str) -> None:
        if not condition:
            raise AssertionError(f"{who} {line}")

    return hold


def briefly(paths: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def is_inert(thing: Any, begin: str) -> None:
    hold = holder(type(thing).__name__)
    hold(is_dataclass(thing), "is no dataclass; its options are the fields of one.")
    state = briefly(beyond_fields(thing))
    hold(not state, f"has {state} before `{begin}`. Fields are options; `{begin}` creates everything else.")
    hold(copy.deepcopy(thing) == thing, "differs from its copy. Likely a field without a plain value.")


def beyond_fields(thing: Any, path: str = "") -> list[str]:
    """Paths of attributes that are no fields, of a dataclass and of the dataclasses in its fields."""
    held = {f.name for f in fields(thing)}
    found = [path + name for name in vars(thing) if name not in held]
    for name in sorted(held):
        if isinstance(getattr(thing, name), Strategy | Stream):
            found += beyond_fields(getattr(thing, name), f"{path}{name}.")
    return found


def data_of(part: Any) -> Data:
    return part.train if isinstance(part, Experience) else part.data


def bits(learner: Learner, strategy: Strategy) -> dict[str, bytes]:
    """All that a run has learned, by path: model, optimiser, counters and the strategy's state."""
    tree, tensors = pack_value({k: v for k, v in learner.state_dict().items() if k != "seconds"}, "learner")
    nodes = {"learner": tree}
    if strategy.resumable:
        own, more = pack(strategy)
        tensors |= more
        nodes |= {f"strategy.{name}": node for name, node in own.items()}
    found = {path: t.reshape(-1).view(torch.uint8).numpy().tobytes() for path, t in tensors.items()}
    return found | {path: json.dumps(node).encode() for path, node in nodes.items()}


def differing(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    return sorted(path for path in a.keys() | b.keys() if path not in a or path not in b or a[path] != b[path])


def generators() -> list[bytes]:
    """Where the global generators stand."""
    _, key, place, *_ = np.random.get_state()  # noqa: NPY002
    ours = repr(random.getstate()).encode()
    return [torch.get_rng_state().numpy().tobytes(), np.asarray(key).tobytes(), bytes(str(place), "ascii"), ours]


def _scatter(seed: int) -> None:
    """Put the global generators anywhere."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever happens within, the global generators and the number of threads are as before."""
    threads, ours, theirs = torch.get_num_threads(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(ours)
        np.random.set_state(theirs)  # noqa: NPY002


@dataclass
class Outcome:
    """What a run leaves."""

    rows: str
    predictions: dict[str, bytes]
    final: dict[str, bytes]
    saves: int

    def difference(self, other: Outcome) -> str:
        """Where two outcomes differ first; empty: nowhere."""
        mine, theirs = self.rows.splitlines(), other.rows.splitlines()
        if mine != theirs:
            line = len([*takewhile(lambda pair: pair[0] == pair[1], zip(mine, theirs, strict=False))])
            a, b = (lines[line] if line < len(lines) else "nothing" for lines in (mine, theirs))
            return f"line {line + 1} of rows.csv is {a}, or {b}"
        if found := differing(self.predictions, other.predictions):
            return f"{briefly(found)} in predictions differ"
        if found := differing(self.final, other.final):
            return f"{briefly(found)} differ at the end"
        return ""


@dataclass
class Bench:
    """Makes runs of one strategy on one stream, each from fresh objects and with the global generators anywhere."""

    strategy: Callable[[], Strategy]
    stream: Callable[[], Stream]
    model: Model
    learner: Learner
    runs: int = 0

    @property
    def name(self) -> str:
        return type(self.strategy()).__name__

    def run(
        self,
        strategy: Strategy | None = None,
        stream: Stream | None = None,
        *,
        seed: int = 0,
        probes: Sequence[Probe] = (),
        others: Sequence[str] = ("exams", "cost", "loss"),
        every: float = math.inf,
        folder: Path | None = None,
        stop: int = 0,
        told: Callable[[Any], None] = lambda progress: None,
    ) -> Outcome:
        """One run.

        Args:
            probes: these look first.
            others: names of probes that look after them.
            every: seconds between checkpoints.
            folder: goes on from what is there; None: a new one.
            stop: _Interruption comes after so many saves; 0: never.
        """
        self.runs += 1
        _scatter(self.runs)
        looking = [*probes, *(resolve("metric", name)() for name in others)]
        strategy = self.strategy() if strategy is None else strategy
        stream = self.stream() if stream is None else stream
        learner = replace(self.learner)
        with ExitStack() as stack:
            folder = folder or Path(stack.enter_context(TemporaryDirectory()))
            recorder = stack.enter_context(Recorder(folder))
            run = _Interruptible(stream, strategy, self.model, learner, seed, looking, recorder, every, told=told)
            run.stop = stop
            try:
                run()
            except Unpackable as error:
                raise AssertionError(f"The state of {type(strategy).__name__} can't be saved: {error}") from None
            rows = (folder / "rows.csv").read_text() if (folder / "rows.csv").exists() else ""
            answers = {path.name: path.read_bytes() for path in sorted((folder / "predictions").iterdir())}
        return Outcome(rows, answers, bits(learner, strategy), run.saves)


class _Interruption(BaseException):
    """What a kill is, within a process."""


@dataclass
class _Interruptible(Run):
    """A run that is interrupted right after a save."""

    stop: int = 0
    saves: int = 0

    def _write(self, tree: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super()._write(tree, tensors)
        self.saves += 1
        if self.saves == self.stop:
            raise _Interruption


def interrupted(run: Callable[..., Outcome], saves: int) -> Outcome:
    """The end of a run that is interrupted at each of its saves, and gone on with from its folder."""
    with TemporaryDirectory() as folder:
        for _ in range(saves + 1):
            try:
                return run(every=0.0, folder=Path(folder), stop=-(-saves // INTERRUPTIONS))
            except _Interruption:
                continue
    raise AssertionError(
        f"A run with {saves} saves, interrupted at each, never ends: what was learned is learned again."
    )


@dataclass
class Perceptron:
    """One hidden layer, with what makes a model hard to resume: buffers, and draws from the global generator."""

    hidden: int = 32

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), self.hidden),
            nn.BatchNorm1d(self.hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
        )
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(self.hidden, classes)))
