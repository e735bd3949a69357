"""Who keeps learning, and who forgets less: one line for each configuration of a long stream of tasks.

    clbench run stream=permuted_mnist_long strategy=naive,l2_init 'probes=[exams,cost,timing,online,plasticity]'
    python benchmarks/plasticity.py results/permuted_mnist_long --against naive

Printed, as means over seeds with 95 % intervals by Student's t: online accuracy over the first and the last tenth of
the tasks, its change, and that of the reference subtracted by seed with p of the exact sign-flip test; dormant units,
effective rank of the features at the end; final accuracy over all exams; training compute as a multiple of the
reference's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from clbench.configurations import configurations, differences, label
from clbench.metric import Row
from clbench.result import Result
from clbench.results import find
from clbench.statistics import mean_interval, sign_flip

TENTH = 0.1
LAST = ("plasticity/dormant", "plasticity/effective_rank", "cost/train_flops")


def interval(numbers: list[float], sign: str = "") -> str:
    mean, half = mean_interval(numbers)
    return f"{mean:{sign}.1f} ± {half:.1f}" if half is not None else f"{mean:{sign}.1f}"


def measures(result: Result) -> dict[str, float]:
    """Of one run; shares in percent."""
    rows = result.rows()
    online = {row.step: row for row in rows if row.metric == "online/accuracy" and row.value is not None}
    end = max(online)
    first = mean([row for step, row in online.items() if step <= TENTH * end])
    last = mean([row for step, row in online.items() if step > (1 - TENTH) * end])
    found = {"first": first, "last": last, "change": last - first}
    for metric in LAST:
        found[metric] = next(row.value for row in reversed(rows) if row.metric == metric and not row.subject) or 0.0
    accuracy = result.summaries(["class/final_accuracy"])["class/final_accuracy"].number
    return {**found, "final": float("nan") if accuracy is None else 100 * accuracy}


def mean(rows: list[Row]) -> float:
    return 100 * float(np.mean([row.value for row in rows]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", default="naive", help="a strategy")
    given = parser.parse_args()
    groups = configurations([result for result in find(given.folder) if result.state == "done"])
    found = [{result.seed: measures(result) for result in group} for group in groups]
    references = [values for group, values in zip(groups, found, strict=True) if group[0].strategy == given.against]
    if len(references) != 1:
        print(
            f"--against {given.against} chooses {len(references)} configurations; it must choose one.", file=sys.stderr
        )
        return 2
    (reference,) = references
    cost = np.mean([values["cost/train_flops"] for values in reference.values()])
    print(
        "|  | n | first tenth | last tenth | change | beside the reference | p | dormant % | rank | exams | compute |"
    )
    print("| --- |" + " ---: |" * 10)
    for group, settings, values in zip(groups, differences(groups), found, strict=True):
        of = {name: [one[name] for one in values.values()] for name in next(iter(values.values()))}
        beside = ("", "")
        if values is not reference:
            more = [values[seed]["change"] - reference[seed]["change"] for seed in values.keys() & reference.keys()]
            beside = (interval(more, "+"), f"{sign_flip(more):.3f}")
        cells = (
            str(len(group)),
            interval(of["first"]),
            interval(of["last"]),
            interval(of["change"], "+"),
            *beside,
            interval([100 * value for value in of["plasticity/dormant"]]),
            interval(of["plasticity/effective_rank"]),
            interval(of["final"]),
            f"{np.mean(of['cost/train_flops']) / cost:.2f}",
        )
        print(f"| {label(group[0], settings)} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
