"""Every configuration under one protocol against one of them, paired by seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clbench.comparison import Difference, claims, compare, corrected, shown_effect, shown_p
from clbench.configurations import configurations, differences, label, protocol_lines, seeds
from clbench.errors import Mistake
from clbench.leaderboard import Cell, means
from clbench.metric import Summary
from clbench.result import Result, summaries
from clbench.tables import NOTHING, Table, heading, mark, quantities, sheet, write

if TYPE_CHECKING:
    from rich.console import Console

COMPUTE = "cost/train_flops"


@dataclass(frozen=True)
class Line:
    """One configuration beside the reference."""

    name: str
    seeds: list[int]
    cell: Cell
    """over its own seeds"""
    compute: float | None
    """of training, as a multiple of the reference's; None: not measured, or another run is not done"""
    difference: Difference | None
    """to the reference, over the seeds that both have; None: it is the reference, or they share no seed"""
    preset: str
    """where its options come from"""


@dataclass(frozen=True)
class Paired:
    """All configurations under the reference's protocol, best first."""

    reference: str
    protocol: dict[str, Any]
    metric: Summary
    lines: list[Line]
    notes: list[str]


def paired(
    results: Iterable[Result], reference: Sequence[Result], metric: str = "class/final_accuracy", holm: bool = False
) -> Paired:
    """Each configuration minus the reference; with `holm`, each p corrected for there being so many of them.

    Args:
        results: runs; those under another protocol than the reference's are left out.
        reference: the runs of one configuration.
        metric: a summary.
        holm: whether p is corrected by Holm's procedure.

    Raises:
        Mistake: there is nothing to compare the reference with, or there is no such summary.
    """
    from clbench.statistics import ENOUGH

    columns = summaries(dict.fromkeys((metric, COMPUTE)))
    one = reference[0]
    groups = [g for g in configurations(results) if g[0].protocol == one.protocol and _who(g) != _who(reference)]
    if not groups:
        raise Mistake(f"Nothing else was run under the protocol of {one.strategy} {one.hash[:8]}.")
    groups.append(list(reference))
    cells = [means(group, columns) for group in groups]
    shares = [bool(set(seeds(group)) & set(seeds(reference))) for group in groups[:-1]]
    found = {
        i: compare(group, reference, [metric]).differences[metric] for i, group in enumerate(groups[:-1]) if shares[i]
    }
    if holm:
        found = dict(zip(found, corrected(list(found.values())), strict=True))
    whole = cells[-1][COMPUTE].mean
    names = [label(group[0], settings) for group, settings in zip(groups, differences(groups), strict=True)]
    lines = []
    for index, (group, cell, name) in enumerate(zip(groups, cells, names, strict=True)):
        cost = cell[COMPUTE].mean
        compute = cost / whole if cost is not None and whole else None
        lines.append(Line(name, seeds(group), cell[metric], compute, found.get(index), group[0].preset))
    most = max((d.n for d in found.values()), default=0)
    notes = claims(most, list(found.values()), holm) if found else []
    few = [line.name for line in lines if line.difference and line.difference.n < ENOUGH <= most]
    if few:
        notes.append(f"Fewer than {ENOUGH} seeds are shared with {', '.join(few)}: nothing can be claimed there.")
    if not all(shares):
        apart = [line.name for line, shared in zip(lines, shares, strict=False) if not shared]
        notes.append(f"No seed is shared with {', '.join(apart)}.")
    sign = 1 if columns[metric].better == "lower" else -1
    lines.sort(key=lambda line: (line.cell.mean is None, sign * (line.cell.mean or 0.0)))
    return Paired(names[-1], one.protocol, columns[metric], lines, notes)


def _who(group: Sequence[Result]) -> tuple[str, str]:
    return group[0].strategy, group[0].hash


def render_paired(found: Paired, format: str = "terminal", console: Console | None = None) -> str:
    """A comparison with many as text, in the formats of a leaderboard.

    Raises:
        Mistake: there is no such format.
    """
    none = Difference(None, None, None, None, None, None, None, 0)
    told = [line.difference or none for line in found.lines]
    if format == "csv":
        rows = [
            (line.name, line.cell.mean, line.cell.half_width, line.cell.n, line.compute, *d)
            for line, d in zip(found.lines, told, strict=True)
        ]
        heads = "name,mean,mean_half_width,seeds,compute,a,b,difference,half_width,p,d_z,detectable,n,note"
        return sheet(heads, rows)
    k = len(told)
    numbers = [(line.cell.mean, line.cell.half_width) for line in found.lines]
    numbers += [(d.mean, d.half_width) for d in told] + [(d.detectable, None) for d in told]
    unit, texts = quantities([None if mean is None else (mean, half) for mean, half in numbers], found.metric.unit)
    marks: dict[str, int] = {}
    apart = len({line.preset for line in found.lines}) > 1
    table = []
    for index, (line, d) in enumerate(zip(found.lines, told, strict=True)):
        name = line.name + (mark(marks, f"options: {line.preset or 'source not said'}") if apart else "")
        own = texts[index] + (mark(marks, line.cell.note) if line.cell.note else "")
        compute = NOTHING if line.compute is None else f"{line.compute:.2f}"
        note = f"over the seeds that both have, {d.n}" if d.mean is not None and d.n < line.cell.n else d.note
        gain = texts[k + index] + (mark(marks, note) if note else "")
        tests = [gain, shown_p(d.p), shown_effect(d.effect), texts[2 * k + index]]
        table.append([name, str(line.cell.n), own, compute, *(tests if line.difference else [""] * 4)])
    columns = ["", "n", heading(found.metric, unit), "compute", "difference", "p", "d_z", "80 % power"]
    notes = [f"{mark(marks, reason)} {reason}" for reason in list(marks)] + found.notes
    notes.append("n: seeds; ± 95 % intervals by Student's t; compute: of training, as a multiple of the reference's.")
    about = [*protocol_lines(found.protocol), "differences are paired by seed"]
    return write([Table(f"All against {found.reference}", about, columns, table, notes)], format, console)
