"""How knowledge accumulates on recurring streams, with and without masking: one line for each stream and loss mask.

    python benchmarks/recurrence.py results/scole

Of runs of one stream under several loss masks, and of its i.i.d. reference (`stream.draw=iid`), paired by seed. A(t) is
accuracy on all classes after t experiences and KA(t) = A(t) / R(t), R the reference's after as many samples
(`clbench.accumulation`). Each is averaged over the looks of the 25 experiences up to t. Printed: A and KA at t = 25 and
150 and at the end, the rise of KA between 25 and 150, the half-time, and what masking adds, all as means over seeds
with 95 % intervals by Student's t.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from clbench.accumulation import curve, half_time
from clbench.metric import valued
from clbench.reference import pairs
from clbench.result import Result
from clbench.results import find
from clbench.statistics import mean_interval

WINDOW, EARLY, LATE = 25, 25, 150


def interval(numbers: list[float], sign: str = "") -> str:
    mean, half = mean_interval(numbers)
    return f"{mean:{sign}.1f} ± {half:.1f}" if half is not None else f"{mean:{sign}.1f}"


def smoothed(steps: list[int], values: list[float], end: int) -> float:
    """The mean over the looks of the last `WINDOW` experiences up to `end`, in percent."""
    return 100 * float(np.mean([value for step, value in zip(steps, values, strict=True) if 0 <= end - step < WINDOW]))


def measures(runs: list[Result], reference: list[Result]) -> dict[str, list[float]]:
    """Each measure, by seed."""
    found: dict[str, list[float]] = defaultdict(list)
    for pair in pairs(runs, reference):
        one = curve(*pair)
        for name, end in (("25", EARLY), ("150", LATE), ("end", one.steps[-1])):
            found[f"A {name}"].append(smoothed(one.steps, one.accuracy, end))
            found[f"KA {name}"].append(smoothed(one.steps, one.ka, end))
        found["rise"].append(found["KA 150"][-1] - found["KA 25"][-1])
        found["half-time"].append(valued(lambda one=one: half_time(one)).number or float("nan"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    streams: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for run in find(parser.parse_args().folder):
        if run.state == "done":
            iid = run.config["stream.draw"] == "iid"
            streams[run.stream]["iid" if iid else run.config["learner.loss_mask"]].append(run)
    columns = ("A 25", "A 150", "A end", "KA 25", "KA 150", "KA end", "rise", "half-time")
    print("| stream | loss over | n |", " | ".join(columns), "|")
    print("| --- | --- |", " | ".join(["---:"] * (len(columns) + 1)), "|")
    for stream, groups in sorted(streams.items()):
        if "iid" not in groups:
            print(f"{stream} is left out: it has no i.i.d. reference (stream.draw=iid).", file=sys.stderr)
            continue
        found = {mask: measures(runs, groups["iid"]) for mask, runs in groups.items() if mask != "iid"}
        for mask, values in found.items():
            cells = (interval(values[name]) for name in columns)
            print(f"| {stream} | {mask} | {len(values['rise'])} |", " | ".join(cells), "|")
        if {"all", "batch"} <= found.keys():
            gains = {name: np.subtract(found["batch"][name], found["all"][name]).tolist() for name in columns}
            cells = (interval(gains[name], "+") for name in columns)
            print(f"| {stream} | batch - all | {len(gains['rise'])} |", " | ".join(cells), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main())
