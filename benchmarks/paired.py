"""Every configuration of a folder of results against one of them, paired by seed.

    python benchmarks/paired.py results/cifar100 --against 'kfpf select=head'

The reference is a strategy, with options where it was run with several. Printed: final class-incremental accuracy,
mean ± 95 % interval by Student's t; training compute as a multiple of the reference's; the difference to the reference
over shared seeds with its interval; and p of the exact two-sided sign-flip test. Runs of another protocol are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from clbench.configurations import configurations, differences, label
from clbench.result import Result
from clbench.results import find
from clbench.statistics import mean_interval, sign_flip

ACCURACY, COMPUTE = "class/final_accuracy", "cost/train_flops"


def values(group: list[Result], metric: str) -> dict[int, float]:
    """By seed."""
    found = {result.seed: result.summaries([metric])[metric].number for result in group}
    return {seed: number for seed, number in found.items() if number is not None}


def interval(numbers: list[float], sign: str = "") -> str:
    mean, half = mean_interval(numbers)
    return f"{mean:{sign}.1f} ± {half:.1f}" if half is not None else f"{mean:{sign}.1f}"


def fits(group: list[Result], words: list[str]) -> bool:
    strategy, *options = words
    config = {path.removeprefix("strategy."): value for path, value in group[0].config.items()}
    return group[0].strategy == strategy and all(
        config.get(path) == value for path, _, value in (option.partition("=") for option in options)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--against", required=True, help="a strategy, and option=value where there are several")
    given = parser.parse_args()
    done = [result for folder in given.folders for result in find(folder) if result.state == "done"]
    groups = configurations(done)
    chosen = [group for group in groups if fits(group, given.against.split())]
    if len(chosen) != 1:
        named = ", ".join(label(group[0], {}) for group in chosen) or "none"
        print(f"--against '{given.against}' must choose one configuration; it chooses {named}.", file=sys.stderr)
        return 2
    (reference,) = chosen
    groups = [group for group in groups if group[0].protocol == reference[0].protocol]
    names = [label(group[0], settings) for group, settings in zip(groups, differences(groups), strict=True)]
    ours, cost = values(reference, ACCURACY), np.mean([*values(reference, COMPUTE).values()])
    lines = []
    for group, name in zip(groups, names, strict=True):
        found = values(group, ACCURACY)
        shared = sorted(found.keys() & ours.keys())
        gains = [100 * (found[seed] - ours[seed]) for seed in shared]
        accuracy = interval([100 * number for number in found.values()])
        compute = np.mean([*values(group, COMPUTE).values()]) / cost
        against = ("", "") if group is reference else (interval(gains, "+"), f"{sign_flip(gains):.3f}")
        lines.append(
            (
                -np.mean([*found.values()]),
                f"| {name} | {len(found)} | {accuracy} | {compute:.2f} | {against[0]} | {against[1]} |",
            )
        )
    print("| | n | final accuracy (class) % | compute | difference, points | p |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(*(line for _, line in sorted(lines)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
