"""How knowledge accumulates on recurring streams, with and without masking: one line for each configuration.

    python benchmarks/recurrence.py results/scole

Of runs of one stream under several loss masks, and of its i.i.d. reference (`stream.draw=iid`), paired by seed. A(t) is
accuracy on all classes after t experiences and KA(t) = A(t) / R(t), R the reference's after as many samples
(`clbench.accumulation`). Each is averaged over the looks of the 25 experiences up to t. Printed: A and KA at t = 25 and
150 and at the end, the rise of KA between 25 and 150, the half-time, and what masking adds, all as means over seeds
with 95 % intervals by Student's t. Where a seed has no number, as one that never comes to half, there is no mean, and
it says how many have one; a configuration with a seed that diverged, failed or isn't finished has no number.

A second table, of streams that teach some classes far more often than others: final accuracy of classes by the share of
experiences that taught them, in half powers of ten.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from clbench.accumulation import by_frequency, curve, half_time
from clbench.configurations import configurations, differences, label, seeds, shown_settings
from clbench.metric import Undefined, valued
from clbench.reference import pairs
from clbench.result import Result, trouble
from clbench.results import find
from clbench.statistics import mean_interval

WINDOW, EARLY, LATE = 25, 25, 150
COLUMNS = ("A 25", "A 150", "A end", "KA 25", "KA 150", "KA end", "rise", "half-time")
MASK = "learner.loss_mask"
WIDTH = 0.5
"""of a bin of shares, in powers of ten"""

Measures = dict[str, float | None]
"""of one run, by column; None: it has no such number"""


def cell(numbers: Sequence[float | None], sign: str = "") -> str:
    """Mean and interval; where one is missing how many there are."""
    there = [number for number in numbers if number is not None]
    if len(there) < len(numbers):
        return f"– ({len(there)} of {len(numbers)})"
    mean, half = mean_interval(there)
    return f"{mean:{sign}.1f} ± {half:.1f}" if half is not None else f"{mean:{sign}.1f}"


def line(names: Sequence[str], n: int, found: dict[int, Measures], sign: str = "") -> str:
    """A line of the table: the stream and what the line is of, seeds, measures by seed."""
    stream, *rest = filter(None, names)
    cells = (cell([of[column] for of in found.values()], sign) if found else "–" for column in COLUMNS)
    return f"| {stream} | {', '.join(rest)} | {n} | {' | '.join(cells)} |"


def smoothed(steps: list[int], values: list[float], end: int) -> float | None:
    """The mean over the looks of the last `WINDOW` experiences up to `end`, in percent; None: the stream is shorter."""
    there = [value for step, value in zip(steps, values, strict=True) if 0 <= end - step < WINDOW]
    return 100 * float(np.mean(there)) if there and end <= steps[-1] else None


def minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def measures(runs: list[Result], reference: list[Result]) -> dict[int, Measures]:
    """Of each run, by its seed.

    Raises:
        Undefined: a run and its reference have no curve; why.
    """
    shared = sorted(set(seeds(runs)) & set(seeds(reference)))
    found: dict[int, Measures] = {}
    for seed, pair in zip(shared, pairs(runs, reference), strict=True):
        one, of = curve(*pair), found.setdefault(seed, {})
        for name, end in (("25", EARLY), ("150", LATE), ("end", one.steps[-1])):
            of[f"A {name}"] = smoothed(one.steps, one.accuracy, end)
            of[f"KA {name}"] = smoothed(one.steps, one.ka, end)
        of["rise"] = minus(of["KA 150"], of["KA 25"])
        of["half-time"] = valued(lambda one=one: half_time(one)).number
    return found


def nearest(group: list[Result], references: list[list[Result]]) -> list[Result]:
    """The reference that differs from a configuration in the fewest options."""
    config = group[0].config.items()
    return min(references, key=lambda reference: len(config ^ reference[0].config.items()))


def names(groups: list[list[Result]]) -> list[tuple[str, str]]:
    """Of each configuration the loss mask, and what else tells it from the others."""
    several = len({group[0].strategy for group in groups}) > 1
    found = []
    for group, settings in zip(groups, differences(groups), strict=True):
        rest = {path: value for path, value in settings.items() if path != MASK}
        found.append((group[0].config[MASK], label(group[0], rest) if several else shown_settings(rest)))
    return found


def table(stream: str, runs: Iterable[Result]) -> list[str]:
    """The lines of a stream; none where it has no reference."""
    groups: dict[bool, list[list[Result]]] = {True: [], False: []}
    for group in configurations(runs):
        groups[group[0].config.get("stream.draw") == "iid"].append(group)
    if not groups[True]:
        return []
    lines, found = [], {}
    for group, (mask, rest) in zip(groups[False], names(groups[False]), strict=True):
        reference = nearest(group, groups[True])
        reason, of = trouble(group) or trouble(reference), {}
        try:
            of = {} if reason else measures(group, reference)
        except Undefined as undefined:
            reason = str(undefined)
        found[mask, rest] = of
        lines.append(line((stream, mask, rest, reason), len(of) or len(group), of))
    for mask, rest in found:
        one, other = found[mask, rest], found.get(("all", rest), {})
        if mask == "batch" and (shared := [seed for seed in one if seed in other]):
            gains = {seed: {name: minus(one[seed][name], other[seed][name]) for name in COLUMNS} for seed in shared}
            lines.append(line((stream, "batch - all", rest), len(gains), gains, "+"))
    return lines


def shares(stream: str, runs: Iterable[Result]) -> list[str]:
    """Lines of the second table; none where all classes are taught about as often, or one has no number."""
    groups = [group for group in configurations(runs) if group[0].config.get("stream.draw") != "iid"]
    found = {}
    for group, name in zip(groups, names(groups), strict=True):
        if trouble(group):
            continue
        try:
            bins = {result.seed: by_frequency(result.rows(), WIDTH) for result in group}
        except Undefined:
            continue
        found[name] = {seed: {one.low: 100 * one.accuracy for one in each} for seed, each in bins.items()}
    lows = sorted({low for of in found.values() for each in of.values() for low in each})
    if len(lows) < 3:
        return []
    heads = [f"{low:.2g} to {low * 10**WIDTH:.2g}" for low in lows]
    lines = [f"| stream | loss over | n | {' | '.join(heads)} |", f"| --- | --- |{' ---: |' * (len(lows) + 1)}"]
    for (mask, rest), of in found.items():
        cells = [cell([each.get(low) for each in of.values()]) for low in lows]
        lines.append(f"| {stream} | {', '.join(filter(None, (mask, rest)))} | {len(of)} | {' | '.join(cells)} |")
    for mask, rest in found:
        one, other = found[mask, rest], found.get(("all", rest), {})
        if mask == "batch" and (both := sorted(one.keys() & other.keys())):
            gains = [cell([minus(one[seed].get(low), other[seed].get(low)) for seed in both], "+") for low in lows]
            named = ", ".join(filter(None, ("batch - all", rest)))
            lines.append(f"| {stream} | {named} | {len(both)} | {' | '.join(gains)} |")
    return ["", *lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    streams: dict[str, list[Result]] = defaultdict(list)
    for run in find(parser.parse_args().folder):
        streams[run.stream].append(run)
    print("| stream | loss over | n |", " | ".join(COLUMNS), "|")
    print("| --- | --- |", " | ".join(["---:"] * (len(COLUMNS) + 1)), "|")
    for stream, runs in sorted(streams.items()):
        lines = table(stream, runs)
        if not lines:
            print(f"{stream} is left out: it has no i.i.d. reference (stream.draw=iid).", file=sys.stderr)
        for text in lines + shares(stream, runs):
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
