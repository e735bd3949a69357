"""Figures from rows: accuracy as the stream goes by, its matrix, what it cost; what moved, and what mattered; what was
taken for what; what came of a long stream, and whether more can.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING

from clbench.configurations import configurations, differences, label
from clbench.errors import Mistake
from clbench.metric import Row, Undefined
from clbench.result import Result, summaries

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""told apart by colour-blind readers too (Okabe and Ito 2008)"""
MARKS = "osD^vPX"
AMONG = 6
"""as many names stand among the curves; more of them beneath"""
SHORT = 36
"""characters of a name that has room for another beside it"""
FONTS = "system-ui, Helvetica, Arial, DejaVu Sans, sans-serif"
DRIFTS = {
    "drift/within": "mean absolute change\nsince the last look",
    "drift/within_relative": "relative change\nsince the last look",
    "drift/across": "mean absolute change\nover the experience",
    "drift/across_relative": "relative change\nover the experience",
}
"""what the colours of a drift map stand for"""
SWAPS = {
    "gain": ("this group given back", COLOURS[0]),
    "random": ("as many weights given back, drawn from all", "0.7"),
    "loss": ("reverse: what this group alone breaks", COLOURS[1]),
}
"""what was swapped for each measure of restoration, and its colour"""
PLASTIC = {
    "online/accuracy": ("online accuracy, %", 100),
    "plasticity/dormant": ("dormant units, %", 100),
    "plasticity/effective_rank": ("effective rank", 1),
    "plasticity/weight_norm": ("norm of all weights", 1),
}
"""what a figure of plasticity shows, and the factor by which it is shown"""


def taught_accuracy(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Experiences learned at each look, and the mean class-incremental accuracy then over the exams taught so far (NaN:
    undefined).
    """
    import numpy as np

    rows = result.rows()
    since = {row.subject: row.value for row in rows if row.metric == "exam/since" and row.value is not None}
    steps = np.array(sorted({row.step for row in rows if row.metric == "class/accuracy" and row.step}), dtype=int)
    means = []
    for step in steps:
        taught = [
            row.value
            for row in rows
            if row.metric == "class/accuracy" and row.step == step and since.get(row.subject, step) < step
        ]
        means.append(np.mean([np.nan if value is None else value for value in taught]) if taught else np.nan)
    return steps, np.array(means)


def _comparable(results: Sequence[Result]) -> list[list[Result]]:
    """The configurations that one figure may show together.

    Raises:
        Mistake: the runs are not of one protocol, or none is done.
    """
    groups = [group for group in configurations(results) if all(result.state == "done" for result in group)]
    if not groups:
        raise Mistake("There is nothing to draw: no configuration has all its runs done.")
    if len({str(sorted(group[0].protocol.items(), key=str)) for group in groups}) > 1:
        raise Mistake("One figure shows runs of one protocol; choose by --stream, or a folder with one.")
    return groups


def _over(groups: Sequence[list[Result]]) -> str:
    """Over how many seeds means are."""
    seeds = sorted({len(group) for group in groups})
    return f"{seeds[0]} seed{'s' * (seeds[0] > 1)}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"


def _name(group: list[Result], settings: dict[str, str]) -> str:
    """A configuration's name in lines that leave room for the figure."""
    return textwrap.fill(label(group[0], settings), 36, max_lines=3, placeholder=" …")


def curves(results: Sequence[Result]) -> Figure:
    """Accuracy over the exams taught so far, at each look: mean over seeds, band: 95 % interval.

    A method that learns only at the last experience is a dashed line at what it reaches.

    Raises:
        Mistake: the runs are not of one protocol, none is done, or none sat exams.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from clbench.statistics import mean_interval

    groups = _comparable(results)
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    order = []
    for group, settings in zip(groups, differences(groups), strict=True):
        looks = [taught_accuracy(result) for result in group]
        if not all(len(steps) for steps, _ in looks):
            continue
        order.append((-100 * float(np.mean([means[-1] for _, means in looks])), _name(group, settings), looks))
    if not order:
        raise Mistake("There is nothing to draw: no run has accuracy on exams.")
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
        axes.plot(steps, middle, color=colour, marker=_mark(number), markersize=4, label=name)
        axes.fill_between(steps, middle - half, middle + half, color=colour, alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="experiences learned", ylabel="accuracy on what was taught, %", ylim=(0, 100))
    axes.set_title(
        f"{groups[0][0].stream}: class-incremental accuracy, {_over(groups)}, bands: 95 % intervals", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    if len(order) <= AMONG:
        axes.legend(frameon=False, fontsize=9)
    else:
        _named_below(figure, axes)
    return figure


def _named_below(figure: Figure, axes: Axes) -> None:
    """Names beneath the plot, in two columns where they are short, and room for them: narrow enough for a telephone."""
    lines, names = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, names)) <= SHORT else 1
    figure.set_size_inches(5.4, 3.4 + 0.2 * -(-len(names) // columns))
    figure.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _mark(number: int) -> str:
    """Where colours begin again marks are others."""
    return MARKS[(number + number // len(COLOURS)) % len(MARKS)]


def cost(results: Sequence[Result], metric: str = "class/final_accuracy") -> Figure:
    """A summary against training compute: means over seeds, bars: 95 % intervals.

    Raises:
        Mistake: the runs are not of one protocol, none is done, or there is no such summary.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    from clbench.statistics import mean_interval

    groups, summary = _comparable(results), summaries([metric])[metric]
    title, factor = summary.title or metric, 100 if summary.unit == "%" else 1
    points = []
    for group, settings in zip(groups, differences(groups), strict=True):
        found = [result.summaries((metric, "cost/train_flops")) for result in group]
        pairs = [(values[metric].number, values["cost/train_flops"].number) for values in found]
        there = [(number, flops) for number, flops in pairs if number is not None and flops is not None]
        name = _name(group, settings)
        if len(there) < len(pairs):
            points.append((np.nan, f"{name} (undefined)", np.nan, 0.0))
        else:
            numbers, spent = zip(*there, strict=True)
            mean, half = mean_interval([factor * number for number in numbers])
            points.append((mean, name, float(np.mean(spent)), half or 0.0))
    costs = [flops for *_, flops, _ in points if np.isfinite(flops)]
    if not costs:
        raise Mistake(f"There is nothing to draw: no configuration has both {title} and training compute.")
    unit, size = ("TFLOP", 1e12) if min(costs) >= 1e12 else ("GFLOP", 1e9)

    def place(point: tuple[float, str, float, float]) -> tuple[bool, float, str]:
        mean, name, *_ = point
        return bool(np.isnan(mean)), mean if summary.better == "lower" else -mean, name

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    for number, (mean, name, flops, half) in enumerate(sorted(points, key=place)):
        axes.errorbar(
            flops / size, mean, half, color=COLOURS[number % len(COLOURS)], capsize=3, linewidth=1, label=name,
            marker=_mark(number), linestyle="none",
        )  # fmt: skip
    axes.set(xscale="log", xlim=(min(costs) / size / 1.3, max(costs) / size * 1.3))
    near = max(costs) < 10 * min(costs)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 2.5, 3, 4, 5, 7) if near else (1, 2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=f"training compute, {unit}", ylabel=f"{title}, {summary.unit}" if summary.unit else title)
    if summary.unit == "%":
        axes.set_ylim(0, min(axes.get_ylim()[1], 100))
    figure.suptitle(f"{groups[0][0].stream}: {_over(groups)}, bars: 95 % intervals", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    _named_below(figure, axes)
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
            text, colour = ("–", "0.1") if np.isnan(value) else (f"{value:.2f}", "0.1" if value > 0.6 else "white")
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


def drift_map(rows: Sequence[Row], measure: str = "drift/within_relative") -> Figure | None:
    """A figure of how far weights moved: a line per module group, a column per look; None where there are no such rows.

    A bar stands between experiences.
    """
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    seen = [row for row in rows if row.metric == measure]
    groups = list(dict.fromkeys(row.subject for row in seen))
    looks = sorted({(row.at, row.step) for row in seen})
    if not seen:
        return None
    cells = np.full((len(groups), len(looks)), np.nan)
    for row in seen:
        cells[groups.index(row.subject), looks.index((row.at, row.step))] = row.value or np.nan
    height, width = cells.shape
    moved = cells[np.isfinite(cells)]

    figure = Figure(figsize=(min(4 + 0.12 * width, 14), min(2 + 0.3 * height, 12)), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.85")
    scale = LogNorm(moved.min(), moved.max()) if moved.size else LogNorm(0.1, 1)
    image = axes.imshow(cells, cmap="viridis", norm=scale, aspect="auto", interpolation="nearest")
    ticks = LogLocator(subs=(1, 2, 5))
    figure.colorbar(image, label=DRIFTS.get(measure, measure), ticks=ticks, format="{x:g}").minorticks_off()
    steps = np.array([step for _, step in looks])
    borders = [0, *(np.flatnonzero(np.diff(steps)) + 1), width]
    for border in borders[1:-1]:
        axes.axvline(border - 0.5, color="white", linewidth=2)
    every = max(1, len(borders) // 25)
    middles = [(first + last - 1) / 2 for first, last in pairwise(borders)]
    axes.set_xticks(middles[::every], [str(steps[first]) for first in borders[:-1:every]])
    axes.set_yticks(range(height), groups)
    axes.tick_params(length=0)
    grey = " (grey: none)" if np.isnan(cells).any() else ""
    axes.set(xlabel="experiences learned", title=f"Drift of each module group{grey}")
    return figure


def restoration_bars(runs: Sequence[Sequence[Row]], readout: str = "class") -> Figure | None:
    """What each module group gives when it is as it was an experience ago, in percentage points of accuracy.

    Means over experiences, then over runs; lines: 95 % intervals over runs, which may leave the figure. The dashed line
    is what it gives to restore everything. None where no run has such rows.

    Args:
        runs: the rows of each run.
        readout: `class` or `task`.

    Raises:
        Mistake: the runs do not have the same module groups.
    """
    from matplotlib.figure import Figure

    from clbench.statistics import mean_interval

    means = [_restored(rows, readout) for rows in runs]
    subjects = {tuple(group for name, group in mean if name == "gain") for mean in means}
    if subjects <= {()}:
        return None
    if len(subjects) > 1:
        raise Mistake("One figure shows restoration in one network: these runs do not have the same module groups.")
    (groups,) = subjects
    figure = Figure(figsize=(6.4, min(1.8 + 0.45 * len(groups), 12)), layout="constrained")
    axes = figure.subplots()
    whole, _ = mean_interval([mean["before", ""] - mean["after", ""] for mean in means])
    lengths = [0.0, whole]
    for place, (name, (text, colour)) in enumerate(SWAPS.items()):
        ends = [mean_interval([mean[name, group] for mean in means]) for group in groups]
        lengths += [middle for middle, _ in ends]
        axes.barh(
            [line + 0.27 * (place - 1) for line in range(len(groups))],
            [middle for middle, _ in ends],
            height=0.25,
            xerr=[half or 0 for _, half in ends] if len(runs) > 1 else None,
            color=colour,
            error_kw={"linewidth": 1, "ecolor": "0.3"},
            label=text,
        )
    axes.axvline(whole, color="black", linestyle="--", linewidth=1, label="everything given back")
    axes.axvline(0, color="black", linewidth=0.8)
    room = 0.15 * (max(lengths) - min(lengths)) or 1
    axes.set_xlim(min(lengths) - room, max(lengths) + room)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set(xlabel="accuracy, percentage points", title=f"Weights of an experience ago ({readout})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _restored(rows: Sequence[Row], readout: str) -> dict[tuple[str, str], float]:
    """The mean over experiences of each measure of restoration, of each group, in percentage points."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        group, _, name = row.metric.rpartition("_")
        if group == f"restoration/{readout}" and row.value is not None:
            found.setdefault((name, row.subject), []).append(100 * row.value)
    return {key: sum(values) / len(values) for key, values in found.items()}


def confusion_map(rows: Sequence[Row]) -> Figure | None:
    """A figure of which experience's classes were answered to what each experience taught, at the end: a line for each
    experience that was asked about, a column for each that was answered; None where there are no such rows.
    """
    import numpy as np
    from matplotlib.figure import Figure

    found = [(row.subject.split(">"), row.value) for row in rows if row.metric == "confusion/share" and row.subject]
    if not found:
        return None
    places = sorted({int(asked) for (asked, _), _ in found})
    cells = np.full((len(places), len(places)), np.nan)
    for (asked, given), value in found:
        cells[places.index(int(asked)), places.index(int(given))] = np.nan if value is None else value
    size = len(places)
    figure = Figure(figsize=(min(3 + 0.5 * size, 12), min(2 + 0.45 * size, 11)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cells, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, label="share of the answers")
    if size <= 12:
        for (line, column), value in np.ndenumerate(cells):
            colour = "black" if value > 0.6 else "white"
            axes.text(column, line, f"{value:.2f}", color=colour, ha="center", va="center", fontsize=8)
    every = max(1, size // 25)
    axes.set_xticks(range(0, size, every), [str(place) for place in places[::every]])
    axes.set_yticks(range(0, size, every), [str(place) for place in places[::every]])
    axes.set(xlabel="experience that taught the answer", ylabel="experience that taught the sample")
    axes.set_title("Confusion of experiences", fontsize=10)
    return figure


def accumulation(runs: Sequence[Result], references: Sequence[Result]) -> Figure:
    """Knowledge accumulation of configurations against one reference: KA(t) over the stream, and final accuracy by how
    often a class was taught, where some are taught more than three times as often as others. Means over seeds, bands
    and bars: 95 % intervals.

    Raises:
        Mistake: a run and the reference share no seed, network or exams, or KA is undefined, for the reason given.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from clbench.accumulation import curve
    from clbench.reference import pairs
    from clbench.statistics import mean_interval

    groups = configurations(runs)
    named = [label(group[0], settings) for group, settings in zip(groups, differences(groups), strict=True)]
    found = [pairs(group, references) for group in groups]
    bins = [[_by_frequency(rows) for rows, _ in each] for each in found]
    shares = [low for each in bins for one in each for low in one]
    uneven = bool(shares) and max(shares) > 3 * min(shares)
    figure = Figure(figsize=(9.6 if uneven else 6.4, 3.8), layout="constrained")
    panels = figure.subplots(1, 2 if uneven else 1, squeeze=False)[0]
    for number, (name, each) in enumerate(zip(named, found, strict=True)):
        try:
            curves = [curve(*pair) for pair in each]
        except Undefined as reason:
            raise Mistake(f"{name} has no knowledge accumulation against this reference: {reason}.") from None
        steps = [step for step in curves[0].steps if all(step in one.steps for one in curves)]
        ends = [mean_interval([100 * one.ka[one.steps.index(step)] for one in curves]) for step in steps]
        middle, half = np.array([(mean, width or 0.0) for mean, width in ends]).T
        colour = COLOURS[number % len(COLOURS)]
        panels[0].plot(steps, middle, color=colour, linewidth=1.5, label=name)
        panels[0].fill_between(steps, middle - half, middle + half, color=colour, alpha=0.2, linewidth=0)
        for axes in panels[1:]:
            lows = sorted({low for one in bins[number] for low in one})
            ends = [mean_interval([100 * one[low] for one in bins[number] if low in one]) for low in lows]
            middle, half = np.array([(mean, width or 0.0) for mean, width in ends]).reshape(-1, 2).T
            apart = np.array(lows) * 1.06 ** (number - (len(groups) - 1) / 2)
            axes.plot(apart, middle, color=colour, marker=MARKS[number % len(MARKS)], linewidth=1.5)
            axes.errorbar(apart, middle, half, color=colour, linestyle="none", elinewidth=1, alpha=0.4)
    panels[0].axhline(100, color="0.6", linestyle="--", linewidth=1)
    panels[0].set(xlabel="experiences learned", ylabel="KA, % of the reference", ylim=(0, 1.1 * _extent(panels[0])[1]))
    panels[0].legend(frameon=False, fontsize=9)
    for axes in panels[1:]:
        axes.set(
            xlabel="share of experiences that taught a class", ylabel="final accuracy, %", xscale="log", ylim=(0, 102)
        )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, place: f"{share:.2g}"))
        axes.xaxis.set_minor_formatter(
            FuncFormatter(lambda share, place: f"{share:.2g}" if f"{share:e}"[0] in "25" else "")
        )
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    [beside] = configurations(references)
    told = label(beside[0], differences([*groups, beside])[-1])
    figure.suptitle(f"{groups[0][0].stream}\nreference: {beside[0].stream}, {told}", fontsize=10)
    return figure


def _by_frequency(rows: Sequence[Row]) -> dict[float, float]:
    """Final accuracy by the lower end of a bin of shares; empty where it is undefined."""
    from clbench.accumulation import by_frequency

    try:
        return {each.low: each.accuracy for each in by_frequency(rows)}
    except Undefined:
        return {}


def plasticity(results: Sequence[Result]) -> Figure:
    """Whether the network can still learn, after each experience: online accuracy, dormant units, the effective rank of
    the features, the norm of all weights; of the rows that there are. Means over seeds, bands: 95 % intervals.

    Raises:
        Mistake: the runs are not of one protocol, none is done, or none has such rows.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from clbench.statistics import mean_interval

    groups = _comparable(results)
    found = [[_plastic(result.rows()) for result in group] for group in groups]
    shown = [metric for metric in PLASTIC if any(metric in each for group in found for each in group)]
    if not shown:
        raise Mistake("There is nothing to draw: no run was looked at by the probes online and plasticity.")
    figure = Figure(figsize=(3.2 * len(shown) + 1, 3.2), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        title, factor = PLASTIC[metric]
        for number, (group, settings, series) in enumerate(zip(groups, differences(groups), found, strict=True)):
            if not all(metric in each for each in series):
                continue
            steps = sorted(set.intersection(*(set(each[metric]) for each in series)))
            ends = [mean_interval([factor * each[metric][step] for each in series]) for step in steps]
            middle, half = np.array([(mean, width or 0.0) for mean, width in ends]).reshape(-1, 2).T
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(steps, middle, color=colour, label=label(group[0], settings), marker="o", markersize=3)
            axes.fill_between(steps, middle - half, middle + half, color=colour, alpha=0.2, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = _extent(axes)
        margin = 0.3 * (high - low) or 1
        axes.set(xlabel="experiences learned", ylabel=title, ylim=(max(low - margin, 0), high + margin))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    lines, names = axes.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _extent(axes: Axes) -> tuple[float, float]:
    """The least and the largest value of what is drawn as lines. Bands of few seeds may go far beyond."""
    import numpy as np

    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    return float(values.min()), float(values.max())


def _plastic(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Each measure of plasticity by step; norms of groups as that of all weights."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.value is None or row.metric not in PLASTIC:
            continue
        if row.metric == "plasticity/weight_norm":
            there = found.setdefault(row.metric, {})
            there[row.step] = (there.get(row.step, 0.0) ** 2 + row.value**2) ** 0.5
        elif not row.subject:
            found.setdefault(row.metric, {})[row.step] = row.value
    return found


def svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element that can stand in a page beside others, and by itself in a file.

    What is black takes the colour of the text around it, so that it can be read on dark paper; there is no background.
    Words remain words. The same figure gives the same text.

    Args:
        figure: what was drawn.
        name: stands before the names of its parts; another one for each figure of a page.
    """
    from matplotlib import rc_context

    file = StringIO()
    for axes in figure.axes:
        if axes.get_facecolor() == (1, 1, 1, 1):
            axes.set_facecolor("none")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "clbench", "font.sans-serif": ["DejaVu Sans"]}):
        figure.savefig(
            file, format="svg", facecolor="none", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL
    )
    used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", text))

    def lean(found: re.Match[str]) -> str:
        tag = re.sub(r" transform=\"rotate\(-0[^\"]*\"|\s*font-family: [^;\"]*;?", "", found[0])
        tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag).replace("#000000", "currentColor").replace("\n", " ")
        tag = re.sub(r" id=\"([^\"]*)\"", lambda id: f' id="{name}-{id[1]}"' if id[1] in used else "", tag)
        return re.sub(r"(href=\"|url\()#", rf"\1#{name}-", tag)

    text = re.sub(r"\n\s*", "\n", re.sub(r"<[^>]*>", lean, text))
    start = text.index("<svg") + len("<svg")
    return f'<svg font-family="{FONTS}" stroke-linejoin="round" fill="currentColor"{text[start:]}'.strip()
