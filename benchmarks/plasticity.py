"""Who keeps learning, and who forgets less: one line for each configuration of a long stream of tasks.

    clbench run stream=permuted_mnist_long strategy=naive,l2_init 'probes=[exams,cost,timing,online,plasticity]'
    python benchmarks/plasticity.py results/permuted_mnist_long --against naive

Printed, as means over seeds with 95 % intervals by Student's t: online accuracy over the first and the last tenth of
the tasks, its change, and that of the reference subtracted by seed with p of the exact sign-flip test; dormant units,
effective rank of the features at the end; final accuracy over all exams; training compute as a multiple of the
reference's. Where a seed has no number there is no mean, and it says how many have one; a configuration with a seed
that diverged, failed or isn't finished has no number.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from clbench.configurations import configurations, differences, label
from clbench.metric import Row
from clbench.result import Result, trouble
from clbench.results import find
from clbench.statistics import mean_text, minus, sign_flip

TENTH = 0.1
LAST = {"dormant": ("plasticity/dormant", 100), "rank": ("plasticity/effective_rank", 1),
        "compute": ("cost/train_flops", 1)}  # fmt: skip
"""the rows whose last value counts, and the factor by which it is shown"""

Measures = dict[str, float | None]
"""of one run; None: it has no such number"""


def measures(result: Result) -> Measures:
    """Of one run; shares in percent. A row of online accuracy may be of one task, or of all since the row before."""
    rows = result.rows()
    online = [row for row in rows if row.metric == "online/accuracy"]
    end = max((row.step for row in online), default=0)
    first = mean([row for row in online if row.step <= TENTH * end])
    last = mean([row for row in online if row.step > (1 - TENTH) * end])
    found = {"first": first, "last": last, "change": minus(last, first)}
    for name, (metric, factor) in LAST.items():
        value = next((row.value for row in reversed(rows) if row.metric == metric and not row.subject), None)
        found[name] = None if value is None else factor * value
    accuracy = result.summaries(["class/final_accuracy"])["class/final_accuracy"].number
    return {**found, "exams": None if accuracy is None else 100 * accuracy}


def mean(rows: list[Row]) -> float | None:
    values = [row.value for row in rows if row.value is not None]
    return 100 * float(np.mean(values)) if values and len(values) == len(rows) else None


def beside(found: dict[int, Measures], reference: dict[int, Measures]) -> tuple[str, str]:
    """How much more the change is than the reference's, by seed, and p."""
    more = [minus(found[seed]["change"], reference[seed]["change"]) for seed in found if seed in reference]
    there = [number for number in more if number is not None]
    return mean_text(more, "+.1f"), f"{sign_flip(there):.3f}" if there and len(there) == len(more) else "–"


def times(found: dict[int, Measures], reference: dict[int, Measures]) -> str:
    """Training compute as a multiple of the reference's."""
    ours, theirs = ([one["compute"] for one in runs.values()] for runs in (found, reference))
    spent = [number for number in (*ours, *theirs) if number is not None]
    if len(spent) < len(ours) + len(theirs) or not theirs:
        return "–"
    return f"{np.mean(spent[: len(ours)]) / np.mean(spent[len(ours) :]):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", default="naive", help="a strategy, or the beginning of a hash")
    given = parser.parse_args()
    groups = configurations(find(given.folder))
    found = [{} if trouble(group) else {result.seed: measures(result) for result in group} for group in groups]
    references = [
        values
        for group, values in zip(groups, found, strict=True)
        if group[0].strategy == given.against or group[0].hash.startswith(given.against)
    ]
    if len(references) != 1:
        print(
            f"--against {given.against} chooses {len(references)} configurations; it must choose one.", file=sys.stderr
        )
        return 2
    (reference,) = references
    print(
        "|  | n | first tenth | last tenth | change | beside the reference | p | dormant % | rank | exams | compute |"
    )
    print("| --- |" + " ---: |" * 10)
    for group, settings, values in zip(groups, differences(groups), found, strict=True):
        name = ", ".join(filter(None, (label(group[0], settings), trouble(group))))
        cells = ["–"] * 9
        if values:
            of = {column: [one[column] for one in values.values()] for column in next(iter(values.values()))}
            cells = [
                mean_text(of["first"]),
                mean_text(of["last"]),
                mean_text(of["change"], "+.1f"),
                *(("", "") if values is reference else beside(values, reference)),
                *(mean_text(of[column]) for column in ("dormant", "rank", "exams")),
                times(values, reference),
            ]
        print(f"| {name} | {len(group)} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
