"""How knowledge accumulates on recurring streams, with and without masking: one line for each configuration.

    python benchmarks/recurrence.py results/scole

Of runs of one stream under several loss masks, and of its i.i.d. reference (`stream.draw=iid`), paired by seed. A(t) is
accuracy on all classes after t experiences and KA(t) = A(t) / R(t), R the reference's after as many samples
(`clbench.accumulation`). Each is averaged over the looks of the 25 experiences up to t. Printed: A and KA at t = 25 and
150 (`--late`) and at the end, the rise of KA between these two, the half-time, and what masking adds, all as means over
seeds with 95 % intervals by Student's t. Where a seed has no number, as one that never comes to half, there is no mean,
and it says how many have one; a configuration with a seed that diverged, failed or isn't finished has no number.

A second table, of streams that teach some classes far more often than others: final accuracy of classes by the share of
experiences that taught them, in half powers of ten.

`--against HASH` prints differences in place of values: of each configuration, and of each of its bins, less that of the
one whose hash begins so, by seed, with p of the exact sign-flip test.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clbench.accumulation import by_frequency, curve, half_time
from clbench.configurations import configurations, differences, label, seeds, shown_settings
from clbench.metric import Undefined, valued
from clbench.reference import pairs
from clbench.result import Result, trouble
from clbench.results import find
from clbench.statistics import mean_text, minus, sign_flip

WINDOW, EARLY, LATE = 25, 25, 150
MASK = "learner.loss_mask"
WIDTH = 0.5
"""of a bin of shares, in powers of ten"""

Measures = dict[str, float | None]
"""of one run, by column; None: it has no such number"""


class Configuration(NamedTuple):
    """What a line is of: hash, loss mask, what else tells it from the others, numbers by seed."""

    hash: str
    mask: str
    rest: str
    found: Mapping[int, Measures]

    def names(self, *more: str) -> str:
        return ", ".join(filter(None, (self.mask, self.rest, *more)))


def smoothed(steps: list[int], values: list[float], end: int) -> float | None:
    """The mean over the looks of the last `WINDOW` experiences up to `end`, in percent; None: the stream is shorter."""
    there = [value for step, value in zip(steps, values, strict=True) if 0 <= end - step < WINDOW]
    return 100 * float(np.mean(there)) if there and end <= steps[-1] else None


def measures(runs: list[Result], reference: list[Result], late: int) -> dict[int, Measures]:
    """Of each run, by its seed.

    Raises:
        Undefined: a run and its reference have no curve; why.
    """
    shared = sorted(set(seeds(runs)) & set(seeds(reference)))
    found: dict[int, Measures] = {}
    for seed, pair in zip(shared, pairs(runs, reference), strict=True):
        one, of = curve(*pair), found.setdefault(seed, {})
        for name, values in (("A", one.accuracy), ("KA", one.ka)):
            for when, end in ((str(EARLY), EARLY), (str(late), late), ("end", one.steps[-1])):
                of[f"{name} {when}"] = smoothed(one.steps, values, end)
        of["rise"] = minus(of[f"KA {late}"], of[f"KA {EARLY}"])
        of["half-time"] = valued(lambda one=one: half_time(one)).number
    return found


def nearest(group: list[Result], references: list[list[Result]]) -> list[Result]:
    """The reference that differs from a configuration in the fewest options."""
    config = group[0].config.items()
    return min(references, key=lambda reference: len(config ^ reference[0].config.items()))


def named(groups: list[list[Result]]) -> list[Configuration]:
    """The configurations, without numbers."""
    several = len({group[0].strategy for group in groups}) > 1
    found = []
    for group, settings in zip(groups, differences(groups), strict=True):
        rest = {path: value for path, value in settings.items() if path != MASK}
        text = label(group[0], rest) if several else shown_settings(rest)
        found.append(Configuration(group[0].hash, group[0].config[MASK], text, {}))
    return found


def line(stream: str, names: str, n: int, cells: Iterable[str]) -> str:
    return f"| {stream} | {names} | {n} | {' | '.join(cells)} |"


def gain(values: Sequence[float | None]) -> str:
    return mean_text(values, "+.1f")


def tested(values: Sequence[float | None]) -> str:
    """A gain, and p of the exact sign-flip test where each seed has a number."""
    there = [value for value in values if value is not None]
    return gain(values) + (f" ({sign_flip(there):.3f})" if 1 < len(there) == len(values) else "")


def less(
    stream: str,
    one: Configuration,
    other: Configuration,
    columns: Sequence[str],
    names: str,
    shown: Callable[[Sequence[float | None]], str] = gain,
) -> str:
    """The line of a difference over the seeds that both have."""
    both = sorted(one.found.keys() & other.found.keys())
    gains = ([minus(one.found[seed].get(column), other.found[seed].get(column)) for seed in both] for column in columns)
    return line(stream, names, len(both), map(shown, gains))


def lines(stream: str, found: Iterable[Configuration], columns: Sequence[str], against: str | None) -> list[str]:
    """Of configurations that have numbers: these, and what masking adds; or their differences to the one named."""
    ones = sorted(found, key=lambda one: (one.rest, one.mask))
    if against is not None:
        others = [one for one in ones if one.hash.startswith(against)]
        chosen = [(one, other) for other in others for one in ones if one is not other]
        return [less(stream, one, other, columns, one.names(), tested) for one, other in chosen]
    made = []
    for one in ones:
        cells = (mean_text([of.get(column) for of in one.found.values()]) for column in columns)
        made.append(line(stream, one.names(), len(one.found), cells))
    unmasked = {one.rest: one for one in ones if one.mask == "all"}
    for one in ones:
        if one.mask == "batch" and one.rest in unmasked:
            names = one._replace(mask="batch - all").names()
            made.append(less(stream, one, unmasked[one.rest], columns, names))
    return made


def table(stream: str, runs: Iterable[Result], columns: Sequence[str], late: int, against: str | None) -> list[str]:
    """The lines of a stream; none where it has no reference."""
    groups: dict[bool, list[list[Result]]] = {True: [], False: []}
    for group in configurations(runs):
        groups[group[0].config.get("stream.draw") == "iid"].append(group)
    if not groups[True]:
        print(f"{stream} is left out: it has no i.i.d. reference (stream.draw=iid).", file=sys.stderr)
        return []
    there, without = [], []
    for group, one in zip(groups[False], named(groups[False]), strict=True):
        reference = nearest(group, groups[True])
        reason = trouble(group) or (trouble(reference) and f"its i.i.d. reference: {trouble(reference)}")
        try:
            there += [] if reason else [one._replace(found=measures(group, reference, late))]
        except Undefined as undefined:
            reason = str(undefined)
        without += [line(stream, one.names(reason), len(group), "–" * len(columns))] if reason else []
    return lines(stream, there, columns, against) + without


def shares(stream: str, runs: Iterable[Result], against: str | None) -> list[str]:
    """The second table; none where all classes are taught about as often, or no configuration has numbers."""
    groups = [group for group in configurations(runs) if group[0].config.get("stream.draw") != "iid"]
    there, lows = [], set()
    for group, one in zip(groups, named(groups), strict=True):
        if trouble(group):
            continue
        try:
            bins = {result.seed: by_frequency(result.rows(), WIDTH) for result in group}
        except Undefined:
            continue
        lows |= {each.low for found in bins.values() for each in found}
        there.append(
            one._replace(found={seed: {head(b.low): 100 * b.accuracy for b in found} for seed, found in bins.items()})
        )
    columns = [head(low) for low in sorted(lows)]
    if len(columns) < 3:
        return []
    return ["", *heading(columns), *lines(stream, there, columns, against)]


def head(low: float) -> str:
    """Of the column of classes that this share of experiences teaches, or up to half a power of ten more."""
    return f"{low:.2g} to {low * 10**WIDTH:.2g}"


def heading(columns: Sequence[str]) -> list[str]:
    return [f"| stream | loss over | n | {' | '.join(columns)} |", f"| --- | --- |{' ---: |' * (len(columns) + 1)}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", metavar="HASH", help="the beginning of a configuration's hash")
    parser.add_argument("--late", metavar="T", type=int, default=LATE, help="the second look at the curves")
    given = parser.parse_args()
    streams: dict[str, list[Result]] = defaultdict(list)
    for run in find(given.folder):
        streams[run.stream].append(run)
    if given.against:
        streams = {name: runs for name, runs in streams.items() if any(r.hash.startswith(given.against) for r in runs)}
    if not streams:
        print(f"{given.folder} has no run{f' of {given.against}' if given.against else ''}.", file=sys.stderr)
        return 2
    whens = (EARLY, given.late, "end")
    columns = [*(f"A {when}" for when in whens), *(f"KA {when}" for when in whens), "rise", "half-time"]
    print(*heading(columns), sep="\n")
    for stream, runs in sorted(streams.items()):
        for text in table(stream, runs, columns, given.late, given.against) + shares(stream, runs, given.against):
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
