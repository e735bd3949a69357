"""A configuration against a reference: what its numbers are worth beside those of joint, cumulative or i.i.d. training.

Streams and strategies may differ, so the two are on different boards; network and exams are the same. Each run is held
against the reference's run of its seed.
"""

from __future__ import annotations

from collections.abc import Sequence

from clbench.accumulation import accumulation, by_frequency
from clbench.configurations import candidates, configurations, protocol_lines, ranges, seeds
from clbench.errors import Mistake
from clbench.intransigence import intransigence
from clbench.metric import Row, Summary, Undefined
from clbench.result import Result, trouble
from clbench.tables import NOTHING, Table, heading, mark, quantities

ASKED = ("data content", "label", "class order", "exams")
"""fields of a protocol by which exams of the same names ask the same"""
Pair = tuple[list[Row], list[Row]]
"""the rows of a run and of its reference"""


def summaries(reference: Sequence[Row]) -> dict[str, Summary]:
    """All measures against a reference, by id, given its rows: each is a pure function of a run's own rows."""
    return intransigence(reference) | accumulation(reference)


def pairs(runs: Sequence[Result], references: Sequence[Result]) -> list[Pair]:
    """The rows of each run of one configuration and of the reference's run with its seed.

    Raises:
        Mistake: a side is not one configuration or not done, they share no seed, or do not share network and exams.
    """
    sides = [_one(side) for side in (runs, references)]
    for group in sides:
        if text := trouble(group):
            raise Mistake(f"{group[0].strategy} on {group[0].stream} is not all done: {text}.")
    shared = sorted(set(seeds(sides[0])) & set(seeds(sides[1])))
    if not shared:
        raise Mistake(f"There is no seed to pair by: {' and '.join(ranges(seeds(side)) for side in sides)}.")
    asked = [{field: side[0].protocol.get(field) for field in ASKED} for side in sides]
    if apart := [field for field in ASKED if asked[0][field] != asked[1][field]]:
        one, other = (", ".join(f"{field} {of[field]}" for field in apart) for of in asked)
        raise Mistake(f"A reference sits the same exams: {one} is not {other}.")
    models = [{k: v for k, v in side[0].protocol.items() if k.partition(".")[0] == "model"} for side in sides]
    if models[0] != models[1]:
        raise Mistake(f"A reference is of the same network: {models[0]} is not {models[1]}.")
    runs_by, references_by = ({result.seed: result for result in side} for side in sides)
    found = [(runs_by[seed].rows(), references_by[seed].rows()) for seed in shared]
    for run, reference in found:
        here, there = ({row.subject: row.n for row in rows if row.metric == "exam/since"} for rows in (run, reference))
        if here != there:
            raise Mistake(
                f"A reference sits the same exams: one has {len(here)} of {sum(here.values())} samples, the other "
                f"{len(there)} of {sum(there.values())}, or their names differ."
            )
    return found


def _one(side: Sequence[Result]) -> list[Result]:
    found = configurations(side)
    if len(found) != 1:
        raise Mistake(f"One configuration is held against one other; a side has {len(found)}: {candidates(found)}.")
    return found[0]


def against(runs: Sequence[Result], references: Sequence[Result]) -> list[Table]:
    """The measures of one configuration against another as tables: means over seeds with 95 % intervals, and final
    accuracy by how often a class was taught, where classes come again. `clbench.tables.write` makes text of them.

    Raises:
        Mistake: as `pairs`.
    """
    from clbench.statistics import mean_interval

    found = pairs(runs, references)
    run, reference = runs[0], references[0]
    names = [f"{one.stream}/{one.strategy}" for one in (run, reference)]
    about = [*protocol_lines(run.protocol), f"paired by seed, over {len(found)}"]
    rows = []
    marks: dict[str, int] = {}
    for id, metric in summaries([]).items():
        values = [summaries(other)[id].compute(own) for own, other in found]
        missing = "; ".join(dict.fromkeys(value.note for value in values if value.number is None))
        numbers = [value.number for value in values if value.number is not None]
        unit, (text,) = quantities([None if missing else mean_interval(numbers)], metric.unit)
        rows.append([heading(metric, unit), text + (mark(marks, missing) if missing else "")])
    notes = [f"{mark(marks, reason)} {reason}" for reason in list(marks)]
    if reference.config.get("stream.draw") != "iid" and reference.strategy not in ("joint", "cumulative"):
        notes.append(
            f"{reference.strategy} is neither joint, cumulative nor i.i.d. training, which these measures mean."
        )
    tables = [Table(f"{names[0]} against {names[1]}", about, ["", "mean"], rows, notes)]
    try:
        bins = [{(one.low, one.high): one for one in by_frequency(own)} for own, _ in found]
    except Undefined:
        return tables
    lines = []
    for low, high in sorted({edges for each in bins for edges in each}):
        there = [each[low, high] for each in bins if (low, high) in each]
        _, (text,) = quantities([mean_interval([one.accuracy for one in there])], "%")
        exams = sum(one.exams for one in there)
        lines.append([f"{low:.3g} to {high:.3g}", str(len(there)), text or NOTHING, str(exams)])
    title = "Final accuracy by the share of experiences that taught a class"
    return [
        *tables,
        Table(title, ["means over the seeds that have such classes"], ["share", "n", "accuracy %", "exams"], lines),
    ]
