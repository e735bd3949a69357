"""Figures from rows: accuracy as the stream goes by, and the accuracy matrix of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clbench.configurations import configurations, differences, label
from clbench.errors import Mistake
from clbench.metric import Row
from clbench.result import Result

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""told apart by colour-blind readers too (Okabe and Ito 2008)"""
MARKS = "osD^vPX"


def taught_accuracy(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Experiences learned, and the mean class-incremental accuracy over the exams taught so far (NaN: undefined)."""
    import numpy as np

    rows = result.rows()
    since = {row.subject: row.value for row in rows if row.metric == "exam/since" and row.value is not None}
    steps = np.arange(1, 1 + max((row.step for row in rows), default=0))
    means = []
    for step in steps:
        taught = [
            row.value
            for row in rows
            if row.metric == "class/accuracy" and row.step == step and since.get(row.subject, step) < step
        ]
        means.append(np.mean([np.nan if value is None else value for value in taught]) if taught else np.nan)
    return steps, np.array(means)


def curves(results: Sequence[Result]) -> Figure:
    """Accuracy over the exams taught so far, after each experience: mean over seeds, band: 95 % interval.

    A method that learns only at the last experience is a dashed line at what it reaches.

    Raises:
        Mistake: the runs are not of one protocol, or none is done.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from clbench.statistics import mean_interval

    groups = [group for group in configurations(results) if all(result.state == "done" for result in group)]
    if not groups:
        raise Mistake("There is nothing to draw: no configuration has all its runs done.")
    if len({str(sorted(group[0].protocol.items(), key=str)) for group in groups}) > 1:
        raise Mistake("One figure shows runs of one protocol; choose by --stream, or a folder with one.")
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    order = []
    for group, settings in zip(groups, differences(groups), strict=True):
        looks = [taught_accuracy(result) for result in group]
        order.append((-100 * float(np.mean([means[-1] for _, means in looks])), label(group[0], settings), looks))
    for number, (_, name, looks) in enumerate(sorted(order, key=lambda entry: entry[:2])):
        steps, values = looks[0][0], 100 * np.stack([means for _, means in looks])
        whole = [np.isfinite(column).all() for column in values.T]
        ends = [mean_interval(column) if ok else (np.nan, 0) for column, ok in zip(values.T, whole, strict=True)]
        middle, half = np.array(ends, dtype=float).T
        colour, half = COLOURS[number % len(COLOURS)], np.nan_to_num(half)
        if np.isnan(middle[:-1]).all() and len(steps) > 1:
            axes.axhline(middle[-1], color=colour, linestyle="--", label=f"{name} (at the end)")
            axes.axhspan(middle[-1] - half[-1], middle[-1] + half[-1], color=colour, alpha=0.15, linewidth=0)
            continue
        axes.plot(steps, middle, color=colour, marker=MARKS[number % len(MARKS)], markersize=4, label=name)
        axes.fill_between(steps, middle - half, middle + half, color=colour, alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    seeds = sorted({len(group) for group in groups})
    over = f"{seeds[0]} seed{'s' * (seeds[0] > 1)}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    axes.set(xlabel="experiences learned", ylabel="accuracy on what was taught, %", ylim=(0, 100))
    axes.set_title(f"{groups[0][0].stream}: class-incremental accuracy, {over}, bands: 95 % intervals", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    return figure


def accuracy_matrix(rows: Sequence[Row]) -> Figure | None:
    """A figure of class-incremental accuracy: a line per step, a column per exam; None where there are no such rows.

    A bar stands in each column where the exam is first taught: above it is transfer, below it what is remembered.
    """
    import numpy as np
    from matplotlib.figure import Figure

    seen = [row for row in rows if row.metric == "class/accuracy"]
    exams = list(dict.fromkeys(row.subject for row in seen))
    steps = sorted({row.step for row in seen})
    if not seen:
        return None
    since = {row.subject: row.value for row in rows if row.metric == "exam/since" and row.value is not None}
    cells = np.full((len(steps), len(exams)), np.nan)
    for row in seen:
        cells[steps.index(row.step), exams.index(row.subject)] = np.nan if row.value is None else row.value
    height, width = cells.shape

    figure = Figure(figsize=(min(3 + 0.62 * width, 14), min(1.8 + 0.42 * height, 12)), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.85")
    image = axes.imshow(cells, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    figure.colorbar(image, label="accuracy")
    for column, exam in enumerate(exams):
        if exam in since:
            axes.plot([column - 0.5, column + 0.5], [since[exam] + 0.5] * 2, color="white", linewidth=2)
    if height <= 12 and width <= 12:
        for (line, column), value in np.ndenumerate(cells):
            text, colour = ("–", "black") if np.isnan(value) else (f"{value:.2f}", "black" if value > 0.6 else "white")
            axes.text(column, line, text, color=colour, ha="center", va="center", fontsize=9)
    every = max(1, width // 25)
    axes.set_xticks(range(0, width, every), exams[::every])
    if max(map(len, exams)) > 4:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right")
    every = max(1, height // 25)
    axes.set_yticks(range(0, height, every), [str(step) for step in steps[::every]])
    undefined = " (grey: undefined)" if np.isnan(cells).any() else ""
    axes.set(xlabel="exam", ylabel="experiences learned", title=f"Class-incremental accuracy{undefined}")
    return figure
