"""Two configurations, paired by seed: what difference there is, and whether it may be claimed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from clbench.configurations import (
    candidates,
    configurations,
    differences,
    label,
    plain,
    protocol_changes,
    protocol_lines,
    ranges,
    seeds,
)
from clbench.errors import Mistake
from clbench.leaderboard import DEFAULT
from clbench.metric import Summary, Value
from clbench.result import Result, summaries, trouble
from clbench.tables import NOTHING, Table, heading, mark, quantities, sheet, write

if TYPE_CHECKING:
    from rich.console import Console


class Difference(NamedTuple):
    """One summary of two configurations, paired by seed; nothing but n and a note where a seed has no value."""

    a: float | None
    """mean over the shared seeds"""
    b: float | None
    """likewise"""
    mean: float | None
    """of a - b"""
    half_width: float | None
    """of the 95 % interval of that mean by Student's t; None for one seed"""
    p: float | None
    """two-sided, of the sign-flip test"""
    effect: float | None
    """Cohen's d_z; None where the differences do not vary"""
    detectable: float | None
    """the mean difference that these seeds, with this spread, would show at p <= .05 with 80 % probability; None where
    no claim is possible"""
    n: int
    """seeds"""
    note: str = ""
    """why there is no difference"""


@dataclass(frozen=True)
class Comparison:
    """Two configurations under one protocol, seed by seed."""

    a: str
    """the first, with what tells it from the second"""
    b: str
    """the second, likewise"""
    protocol: dict[str, Any]
    """what both share"""
    seeds: list[int]
    """those that both have"""
    metrics: dict[str, Summary]
    """what was compared, by id"""
    differences: dict[str, Difference]
    """by the id of the metric"""
    notes: list[str]
    """what a reader must know before claiming anything"""


def compare(
    a: Sequence[Result], b: Sequence[Result], metrics: Iterable[str] = DEFAULT, holm: bool = False
) -> Comparison:
    """a - b over the seeds that both have; with `holm`, each p corrected for there being so many metrics.

    Raises:
        Mistake: a side is not one configuration, both are the same one, their protocols differ, they share no seed, or
            there is no such summary.
    """
    columns = summaries(metrics)
    groups = [_one(side) for side in (a, b)]
    one, other = (group[0] for group in groups)
    if (one.strategy, one.hash) == (other.strategy, other.hash):
        raise Mistake(f"{one.strategy} {one.hash[:8]} stands on both sides: there is nothing to compare.")
    names = comparable(*groups)
    shared = sorted(set(seeds(groups[0])) & set(seeds(groups[1])))
    if not shared:
        had = " and ".join(f"{name} has {ranges(seeds(group))}" for name, group in zip(names, groups, strict=True))
        raise Mistake(f"There is no seed to pair by: {had}.")
    paired = [[result for result in group if result.seed in shared] for group in groups]
    values = [[result.summaries(columns) for result in group] for group in paired]
    reason = "; ".join(f"{name}: {trouble(group)}" for name, group in zip(names, paired, strict=True) if trouble(group))
    found = {id: _difference([[value[id] for value in side] for side in values], reason) for id in columns}
    if holm:
        found = dict(zip(found, corrected(list(found.values())), strict=True))
    notes = [*_notes(names, groups, shared), *claims(len(shared), list(found.values()), holm)]
    return Comparison(names[0], names[1], one.protocol, shared, columns, found, notes)


def comparable(a: Sequence[Result], b: Sequence[Result]) -> list[str]:
    """The names of two configurations, each with what tells it from the other.

    Raises:
        Mistake: their protocols differ.
    """
    names = [label(group[0], settings) for group, settings in zip((a, b), differences((a, b)), strict=True)]
    if changes := protocol_changes(a[0].protocol, b[0].protocol):
        fields = "; ".join(f"{field} ({plain(here)}, {plain(there)})" for field, (here, there) in changes.items())
        raise Mistake(f"{names[0]} and {names[1]} do not share a protocol, so they can't be compared: {fields}.")
    return names


def corrected(found: list[Difference]) -> list[Difference]:
    """The same with p corrected by Holm's procedure over those that have one."""
    from clbench.statistics import holm

    ps = iter(holm([difference.p for difference in found if difference.p is not None]))
    return [difference if difference.p is None else difference._replace(p=next(ps)) for difference in found]


def _one(side: Sequence[Result]) -> list[Result]:
    found = configurations(side)
    if len(found) != 1:
        listed = f": {candidates(found)}" if found else ""
        raise Mistake(f"One configuration is compared with one other; a side has {len(found)}{listed}.")
    return found[0]


def _difference(sides: list[list[Value]], reason: str) -> Difference:
    from clbench.statistics import detectable, effect_size, mean_interval, sign_flip

    n = len(sides[0])
    missing = dict.fromkeys(value.note for side in sides for value in side if value.number is None)
    if missing:
        return Difference(None, None, None, None, None, None, None, n, reason or "; ".join(missing))
    a, b = ([value.number for value in side if value.number is not None] for side in sides)
    paired = [x - y for x, y in zip(a, b, strict=True)]
    told = sign_flip(paired), effect_size(paired), detectable(paired)
    return Difference(sum(a) / n, sum(b) / n, *mean_interval(paired), *told, n)


def _notes(names: list[str], groups: list[list[Result]], shared: list[int]) -> list[str]:
    notes = []
    for name, group in zip(names, groups, strict=True):
        alone = [seed for seed in seeds(group) if seed not in shared]
        if alone:
            notes.append(f"Seeds of {name} that the other does not have are left out: {ranges(alone)}.")
    if any(group[0].preset for group in groups):
        sources = (f"{name}: {group[0].preset or 'not said'}" for name, group in zip(names, groups, strict=True))
        notes.append(f"Options are from: {'; '.join(sources)}.")
    return notes


def claims(n: int, found: list[Difference], holm: bool) -> list[str]:
    """What n seeds allow one to claim, with so many tests."""
    from clbench.statistics import ENOUGH, smallest_p

    tests, notes = sum(difference.p is not None for difference in found), []
    if n < ENOUGH:
        count = "1 seed" if n == 1 else f"{n} seeds"
        p = f"{smallest_p(n):.3g}".removeprefix("0")
        notes.append(f"With {count} no difference can be claimed: the smallest p is {p}; {ENOUGH} seeds are needed.")
    if any(difference.detectable is not None for difference in found):
        notes.append(
            f"80 % power: the difference that {n} seeds with this spread show at p ≤ .05 with that probability."
        )
    if holm:
        notes.append(f"p: corrected by Holm's procedure for there being {tests}.")
        if n >= ENOUGH and tests * smallest_p(n) > 0.05:
            enough = next(m for m in range(n, 99) if tests * smallest_p(m) <= 0.05)
            notes.append(f"Corrected for {tests}, {n} seeds can't bring the first p to .05; {enough} seeds can.")
    elif tests > 1 and n >= ENOUGH:
        notes.append(f"Each p stands for itself: none is corrected for there being {tests} of them (--holm).")
    return notes


def render_comparison(comparison: Comparison, format: str = "terminal", console: Console | None = None) -> str:
    """A comparison as text, in the formats of `render`.

    Raises:
        Mistake: there is no such format.
    """
    if format == "csv":
        lines = [(id, comparison.metrics[id].version, *found) for id, found in comparison.differences.items()]
        return sheet("metric,version,a,b,difference,half_width,p,d_z,detectable,n,note", lines)
    a, b = (name.partition(" (")[0] for name in (comparison.a, comparison.b))
    heads = ["", *((a, b) if a != b else ("first", "second")), "difference", "p", "d_z", "80 % power"]
    rows = []
    marks: dict[str, int] = {}
    for id, found in comparison.differences.items():
        metric = comparison.metrics[id]
        numbers = ((found.a, None), (found.b, None), (found.mean, found.half_width), (found.detectable, None))
        unit, texts = quantities([None if mean is None else (mean, half) for mean, half in numbers], metric.unit)
        if found.note:
            texts[2] += mark(marks, found.note)
        rows.append([heading(metric, unit), *texts[:3], shown_p(found.p), shown_effect(found.effect), texts[3]])
    notes = [f"{mark(marks, reason)} {reason}" for reason in list(marks)] + comparison.notes
    about = [*protocol_lines(comparison.protocol), f"paired by seed: {ranges(comparison.seeds)}"]
    return write([Table(f"{comparison.a} against {comparison.b}", about, heads, rows, notes)], format, console)


def shown_effect(effect: float | None) -> str:
    """Cohen's d_z as text."""
    return NOTHING if effect is None else f"{effect:.2f}"


def shown_p(p: float | None) -> str:
    """A p as text: .031."""
    return NOTHING if p is None else "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
