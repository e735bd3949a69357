"""What fine-tuning at the end gains over finished runs, from their last checkpoints; controls at the same compute.

    clbench run stream=cifar100 strategy=er,der,derpp 'seed=range(6)'
    python benchmarks/fpf_at_end.py results/cifar100/er results/cifar100/der results/cifar100/derpp

Each run is revived as it stood at its end, and for each selection of modules fine-tuned on its own memory as FPF does
(strategies/fpf.py), from the same state. Printed: a table of differences to the run itself, paired by seed, with 95 %
intervals by Student's t and the exact sign-flip test's p; `--csv FILE` keeps each run's numbers, and such a file in
place of the folders prints its table again.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clbench.metric import Look
from clbench.metrics.exams import Exams
from clbench.results import find
from clbench.run import Run, revived
from clbench.statistics import mean_text, sign_flip
from clbench.strategies.fpf import FPF
from clbench.strategy import memory_of

SELECTIONS = ("[bn,head]", "head", "all", "[bn.mean,bn.var]")


class Line(NamedTuple):
    """One run, fine-tuned in one way."""

    strategy: str
    hash: str
    seed: int
    modules: str
    """what was fine-tuned; `base`: nothing"""
    accuracy: float
    """class-incremental, over all exams, then"""
    cost: float
    """share of plain training's compute"""


def accuracy(run: Run) -> float:
    """Mean class-incremental accuracy over all exams."""
    syllabus, exams = run.stream.syllabus(), run.stream.exams()
    seen = frozenset(range(syllabus.classes))
    look = Look(len(run.stream), run.learner.step, run.learner, run.strategy, syllabus, exams, seen)
    return float(np.mean([row.value for row in Exams()(look) if row.metric == "class/accuracy"]))


def fine_tuned(folder: Path, select: str, share: float, rate: float) -> tuple[float, float]:
    """Accuracy after FPF over a finished run, and its operations as a share of plain training's."""
    run = revived(folder)
    memory = memory_of(run.strategy)
    if memory is None:
        raise SystemExit(f"{folder} keeps no memory to fine-tune on")
    names = select.strip("[]").split(",")
    fpf = FPF(run.strategy, select=names[0] if len(names) == 1 else names, share=share, share_of="compute", rate=rate)
    sizes = run.stream.syllabus().sizes
    plain = sum(run.learner.plain_cost(size) for size in sizes)
    fpf.prepare(run.learner, run.stream.syllabus())
    before = run.learner.flops.total
    fpf.fine_tune(run.learner, memory, fpf.stream_steps)
    return accuracy(run), (run.learner.flops.total - before) / plain


def measured(folder: Path, selections: Sequence[str], share: float, rate: float) -> list[Line]:
    """Of each run in a folder, as it ended and after each fine-tuning."""
    lines = []
    for result in sorted(find(folder), key=lambda r: r.seed):
        who = (result.strategy, result.hash, result.seed)
        lines.append(Line(*who, "base", accuracy(revived(result.folder)), 0.0))
        lines += [Line(*who, select, *fine_tuned(result.folder, select, share, rate)) for select in selections]
        print(*(f"{of.modules} {100 * of.accuracy:.2f}" for of in lines[-1 - len(selections) :]), file=sys.stderr)
    return lines


def kept(file: Path) -> list[Line]:
    """What `--csv` wrote."""
    with file.open(newline="") as opened:
        _, *rows = csv.reader(opened)
    return [Line(who, hash, int(seed), modules, float(a), float(cost)) for who, hash, seed, modules, a, cost in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="folder")
    parser.add_argument("--share", type=float, default=0.13, help="of plain training's compute")
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--select", nargs="+", default=SELECTIONS)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    lines: list[Line] = []
    for folder in given.folders:
        lines += kept(folder) if folder.suffix == ".csv" else measured(folder, given.select, given.share, given.rate)
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("strategy", "hash", "seed", "modules", "class/final_accuracy", "share of compute"))
            writer.writerows(lines)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        found[line.strategy, line.modules].append(100 * line.accuracy)
    print("| base | modules fine-tuned | n | base % | after % | gain, points | p |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for (strategy, select), values in found.items():
        if select == "base":
            continue
        bases = found[strategy, "base"]
        gains = [after - before for after, before in zip(values, bases, strict=True)]
        means = f"{np.mean(bases):.2f} | {np.mean(values):.2f}"
        print(
            f"| {strategy} | {select} | {len(gains)} | {means} | {mean_text(gains, '+.2f')} | {sign_flip(gains):.3f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
