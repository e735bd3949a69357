"""The contract of metrics: probes change nothing and go on after interruptions; summaries are functions of rows."""

from __future__ import annotations

import copy
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, cast

from torch import Tensor

from clbench.batch import Batch
from clbench.catalogue import names, resolve
from clbench.learner import Learner
from clbench.metric import Look, Probe, Row, Summary, Value
from clbench.strategy import Strategy
from clbench.stream import Experience, Stream
from clbench.testing.bench import (
    Bench,
    Perceptron,
    bits,
    briefly,
    differing,
    generators,
    holder,
    interrupted,
    maker,
    undisturbed,
)

ID = re.compile(r"[\w.-]+/[\w.@-]+")
"""of a metric: group/name, or group/name@library for the definition of another library"""


def check_metric(
    make: str | Probe | Summary | Callable[[], Probe],
    *,
    strategy: str | Strategy | Callable[[], Strategy] = Strategy,
    stream: str | Stream | Callable[[], Stream] = "toy",
    rows: Sequence[Row] | None = None,
) -> None:
    """Hold a probe or a summary to the contract.

    A probe changes nothing, gives the same rows when asked twice, and in a second or an interrupted run. A summary is a
    pure function of rows, and where it is undefined it says why.

    Args:
        strategy: whose runs a probe looks at.
        stream: on what.
        rows: what a summary is computed from; None: the rows of a run under every probe that is installed.

    Raises:
        AssertionError: what is broken, and the likely cause.
    """
    metric = maker("metric", cast(Any, make))
    thing: Any = metric()
    with undisturbed():
        if isinstance(thing, Summary):
            _sums_up(thing, _sample() if rows is None else tuple(rows))
            return
        learner = Learner(epochs=2, batch=16, threads=1, device="cpu")
        _looks(metric, Bench(maker("strategy", strategy), maker("stream", stream), Perceptron(), learner))


def _looks(make: Callable[[], Probe], bench: Bench) -> None:
    probe = make()
    name = type(probe).__name__
    hold = holder(name)
    hold(isinstance(probe, Probe), "is neither a clbench.Probe nor a clbench.Summary; derive it from one.")
    fitting = isinstance(probe.when, tuple) and all(
        entry in ("experience", "every", "epoch") or (type(entry) is int and entry > 0) for entry in probe.when
    )
    hold(
        fitting,
        f"says when={probe.when!r}; it must be a tuple of 'experience', 'every', 'epoch' or looks an experience.",
    )
    first, second = (bench.run(probes=[_Checked(name, make())], others=(), every=0.0) for _ in range(2))
    if not probe.repeats:
        return
    found = first.difference(second)
    hold(not found, f"gives other rows in a second run: {found}. What a run does not repeat says `repeats = False`.")
    ended = interrupted(lambda **how: bench.run(probes=[make()], others=(), **how), first.saves)
    found = first.difference(ended)
    hold(not found, f"gives other rows after an interruption: {found}. Its state must be attributes that can be saved.")


def _are_rows(name: str, rows: Sequence[Row], look: Look) -> None:
    hold = holder(name)
    for row in rows:
        hold(isinstance(row, Row), f"gives a {type(row).__name__}; it must give clbench.Row.")
        hold(row[:2] == (look.step, look.at), f"gives step and at {row[:2]}; the look says {(look.step, look.at)}.")
        hold(bool(ID.fullmatch(row.metric)), f"calls a metric {row.metric!r}; it must be group/name.")
        _is_value(f"{name}, {row.metric} of {row.subject!r}", row.value, row.note)
    named = [(row.metric, row.subject) for row in rows]
    hold(len(set(named)) == len(named), "gives two rows of one metric and subject in one look.")


def _is_value(what: str, value: object, note: str) -> None:
    hold, number = holder(what), isinstance(value, int | float) and math.isfinite(value)
    hold(value is None or number, f"is {value!r}; undefined is None, with a note that says why.")
    hold(value is not None or bool(note), "has no value and no note: say why.")


def _sums_up(summary: Summary, rows: tuple[Row, ...]) -> None:
    name = f"Summary {summary.id}"
    hold = holder(name)
    hold(bool(ID.fullmatch(summary.id)), "must have an id of the form group/name.")
    hold(bool(summary.formula and summary.citation), "needs a formula and a citation (`ours` is one).")
    hold(summary.better in ("higher", "lower", ""), f"says better={summary.better!r}, not higher, lower or nothing.")

    def compute(given: Sequence[Row]) -> Value:
        handed = list(given)
        value = summary.compute(handed)
        hold(handed == list(given), "changes the rows that it is given.")
        hold(isinstance(value, Value), f"gives a {type(value).__name__}; it must give clbench.Value.")
        _is_value(name, *value)
        return value

    def is_same(given: Sequence[Row], change: str) -> None:
        now = compute(given)
        both = value.number is not None and now.number is not None
        same = math.isclose(value.number, now.number, rel_tol=1e-9) if both else value == now  # type: ignore[arg-type]
        hold(same, f"is {value}, but {change} {now}: it must be a function of the rows alone.")

    value = compute(rows)
    is_same(rows, "computed again")
    for seed in range(3):
        mixed = list(rows)
        random.Random(seed).shuffle(mixed)
        is_same(sorted(mixed, key=lambda row: row[:2]), "with the rows of each look in another order")
    is_same([*rows, Row(1, 1, "no/such", "thing", 0.5, 1)], "with a row of another metric added")
    hold(compute([]).number is None, "is a number when there are no rows; it must be undefined, and say why.")
    empty = [row if row.metric.startswith("exam/") else row._replace(value=None, note="why not") for row in rows]
    hold(compute(empty).number is None, "is a number when no row has a value; it must be undefined, and say why.")
    for step in sorted({row.step for row in rows}):
        compute([row for row in rows if row.step <= step])
    for metric in sorted({row.metric for row in rows}):
        compute([row for row in rows if row.metric != metric])


@cache
def _sample() -> tuple[Row, ...]:
    """The rows of a run under every probe that is installed."""
    found: list[Row] = []
    entries = [resolve("metric", name) for name in names("metric")]
    probes = [_Kept(kind(), found) for kind in entries if isinstance(kind, type) and issubclass(kind, Probe)]
    learner = Learner(epochs=2, batch=16, threads=1, device="cpu")
    Bench(Strategy, maker("stream", "toy"), Perceptron(), learner).run(probes=probes, others=())
    return tuple(found)


@dataclass
class _Kept(Probe):
    """Keeps the rows of a probe."""

    probe: Probe
    rows: list[Row]

    def __post_init__(self) -> None:
        self.when, self.repeats = self.probe.when, self.probe.repeats  # type: ignore[misc]

    def begin(self, experience: Experience) -> None:
        self.probe.begin(experience)

    def watch(self, batch: Batch, logits: Tensor) -> None:
        self.probe.watch(batch, logits)

    def __call__(self, look: Look) -> list[Row]:
        rows = list(self.probe(look))
        self.rows += rows
        return rows


@dataclass
class _Checked(Probe):
    """Holds a probe to its contract at every look."""

    name: str
    probe: Probe

    def __post_init__(self) -> None:
        self.when, self.repeats = self.probe.when, self.probe.repeats  # type: ignore[misc]

    def begin(self, experience: Experience) -> None:
        self.probe.begin(experience)

    def watch(self, batch: Batch, logits: Tensor) -> None:
        self.probe.watch(batch, logits)

    def __call__(self, look: Look) -> list[Row]:
        before, chance = bits(look.learner, look.strategy), generators()
        asked = [(copy.deepcopy(self.probe), replace(look, predictions={})) for _ in range(2)]
        twice = [[*probe(at)] for probe, at in asked]
        rows = [*self.probe(look)]
        found, hold = briefly(differing(before, bits(look.learner, look.strategy))), holder(self.name)
        hold(not found, f"changes {found}; a probe may change nothing.")
        hold(chance == generators(), "draws from the global generators; seed a generator of its own.")
        hold(not any(m.training for m in look.learner.model.modules()), "leaves the model in training mode.")
        _are_rows(self.name, rows, look)
        for one, other in pairwise([*twice, rows]):
            same = one == other if self.probe.repeats else [r[:4] for r in one] == [r[:4] for r in other]
            hold(same, "gives different rows when it is asked twice at one look.")
        return rows
