"""Does drift predict what restoration gives back? Rank correlations over module groups, from finished runs.

    clbench run stream=digits model=mlp,convbn 'seed=range(6)' 'probes=[exams,cost,timing,loss,drift,restoration]'
    python benchmarks/drift_and_restoration.py results

Of each run: for every group of weights the mean over experiences of a measure of drift, and of what restoring the group
gains (metrics/drift.py, metrics/restoration.py); Spearman's rank correlation of the two over groups. Printed: for each
stream and network its mean over seeds with a 95 % interval by Student's t, and below, over streams and networks, the
mean of these means with an interval over them, since runs of one network on one stream are not independent evidence.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clbench.metric import Row
from clbench.results import find
from clbench.statistics import mean_text

DRIFTS = ("drift/across", "drift/across_relative", "drift/spike", "drift/sensitivity")


def means(rows: Sequence[Row], metric: str) -> dict[str, float]:
    """Of each group the mean over the experiences from the second on."""
    found = defaultdict(list)
    for row in rows:
        if row.metric == metric and row.step > 1 and row.value is not None:
            found[row.subject].append(row.value)
    return {group: float(np.mean(values)) for group, values in found.items()}


def correlation(rows: Sequence[Row], drift: str, restoration: str) -> float | None:
    """Spearman's rho over groups; None where fewer than three have both numbers, or one measure does not vary."""
    from scipy.stats import spearmanr

    a, b = means(rows, drift), means(rows, restoration)
    groups = sorted(a.keys() & b.keys())
    x, y = ([side[group] for group in groups] for side in (a, b))
    if len(groups) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--against", default="restoration/class_gain", help="a row of the restoration probe")
    given = parser.parse_args()
    runs = defaultdict(list)
    for folder in given.folders:
        for result in find(folder):
            rows = result.rows() if result.state == "done" else []
            if any(row.metric == given.against for row in rows):
                data = str(result.protocol.get("data", ""))
                runs[result.stream, data, result.config["model"], result.strategy].append(rows)
    if not runs:
        print(f"No finished run has {given.against}: run with probes=[exams,drift,restoration].", file=sys.stderr)
        return 2
    print(f"| stream | data | model | strategy | n | {' | '.join(f'`{drift}`' for drift in DRIFTS)} |")
    print(f"| --- | --- | --- | --- | ---: |{' ---: |' * len(DRIFTS)}")
    over: dict[str, list[float]] = defaultdict(list)
    for names, several in sorted(runs.items()):
        cells = []
        for drift in DRIFTS:
            found = [rho for rows in several if (rho := correlation(rows, drift, given.against)) is not None]
            cells.append(mean_text(found, "+.2f"))
            over[drift] += [float(np.mean(found))] if found else []
        print(f"| {' | '.join(names)} | {len(several)} | {' | '.join(cells)} |")
    print(f"| all | | | | {len(runs)} | {' | '.join(mean_text(over[drift], '+.2f') for drift in DRIFTS)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
