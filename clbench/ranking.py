"""Strategies ranked over several streams, and how sure their order is.

Two kinds of chance are told apart. Over seeds: on these streams, would other seeds have led to the same ranks? Over
streams: would other streams have? The first is answered by a bootstrap of the seeds, the second by Friedman's test and
Nemenyi's critical difference (Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006), which
take the streams for independent draws of what one wants to speak about: two streams over one data set are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clbench.configurations import configurations, ranges
from clbench.errors import Mistake
from clbench.leaderboard import by_protocol, on_validation
from clbench.metric import Summary
from clbench.result import Result, summaries, trouble
from clbench.tables import Table, write

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

ROUNDS = 2000
"""of the bootstrap"""
TOLD = 5
"""strategies of which it is said why they are left out"""


@dataclass(frozen=True)
class Place:
    """One strategy over all streams."""

    strategy: str
    rank: float
    """mean over streams; 1 is best"""
    low: float
    """of the 95 % interval over seeds"""
    high: float
    """likewise"""
    ranks: list[float]
    """on each stream"""


@dataclass(frozen=True)
class Ranking:
    """Strategies that stand on every board, best first."""

    metric: Summary
    streams: list[str]
    seeds: list[list[int]]
    """on each stream, those that all strategies have"""
    places: list[Place]
    p: float
    """Friedman's: that on each stream every order is as likely"""
    critical: float
    """how far two mean ranks must lie apart to differ over streams like these, by Nemenyi at .05"""
    notes: list[str]


def rank(results: Iterable[Result], metric: str = "class/final_accuracy") -> Ranking:
    """Mean ranks over streams of the strategies that all of them have, matched by name.

    Of a stream with several protocols the board with most runs counts; boards on validation shares don't. A strategy
    that is not on every board, or stands on one more than once, or has no mean there, is left out, and said to be.

    Raises:
        Mistake: fewer than two streams, or than two strategies, are left.
    """
    import numpy as np

    from clbench.statistics import ENOUGH, friedman, nemenyi

    summary = summaries([metric])[metric]
    boards: dict[str, dict[str, dict[int, float]]] = {}
    notes, reasons = [], {}
    for board in by_protocol(results):
        stream = board[0].stream
        if on_validation(board[0].protocol):
            continue
        if stream in boards:
            notes.append(f"{stream} has a further board of {len(board)} runs under another protocol; it is left out.")
            continue
        boards[stream] = {}
        for group in configurations(board):
            name, found = group[0].strategy, _values(group, metric)
            if name in boards[stream]:
                reasons[name] = f"stands on {stream} with several options"
            elif not found:
                reasons[name] = f"has no mean on {stream}"
            boards[stream][name] = found
    if len(boards) < 2:
        raise Mistake(f"Ranks are over several streams; here is {next(iter(boards), 'none')}.")
    names = sorted({name for board in boards.values() for name in board})
    for name in names:
        absent = [stream for stream, board in boards.items() if name not in board]
        if absent:
            reasons[name] = f"is not on {', '.join(absent)}"
    names = [name for name in names if name not in reasons]
    if len(names) < 2:
        raise Mistake(
            f"Fewer than two strategies stand once on each of {len(boards)} streams: {_told(reasons)}. Ranks take "
            "several strategies that were run on all of them."
        )
    if reasons:
        notes.append(f"Left out: {_told(reasons)}.")
    shared = [sorted(set.intersection(*(set(board[name]) for name in names))) for board in boards.values()]
    if not all(shared):
        without = list(boards)[[bool(s) for s in shared].index(False)]
        raise Mistake(f"There is no seed that all of {', '.join(names)} have on {without}.")
    if min(map(len, shared)) < ENOUGH:
        notes.append(f"With fewer than {ENOUGH} seeds the intervals over seeds are too narrow.")
    sign = 1 if summary.better == "lower" else -1
    values = [
        sign * np.array([[board[name][seed] for seed in there] for name in names])
        for board, there in zip(boards.values(), shared, strict=True)
    ]
    ranks = _ranks([x.mean(-1) for x in values])
    rng = np.random.default_rng(0)
    picks = [rng.integers(0, x.shape[1], (ROUNDS, x.shape[1])) for x in values]
    drawn = _ranks([x[:, pick].mean(-1).T for x, pick in zip(values, picks, strict=True)]).mean(-2)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    places = [
        Place(name, float(ranks[:, i].mean()), float(low[i]), float(high[i]), ranks[:, i].tolist())
        for i, name in enumerate(names)
    ]
    places.sort(key=lambda place: (place.rank, place.strategy))
    critical = nemenyi(len(names), len(boards))
    return Ranking(summary, list(boards), shared, places, friedman(ranks), critical, notes)


def _told(reasons: dict[str, str]) -> str:
    """Why strategies are left out, of those with the shortest reasons first: of so many as a reader takes in."""
    first = sorted(reasons.items(), key=lambda one: (len(one[1]), one))[:TOLD]
    more = f"; and {len(reasons) - TOLD} others" if len(reasons) > TOLD else ""
    return "; ".join(f"{name} {reason}" for name, reason in first) + more


def _values(group: list[Result], metric: str) -> dict[int, float]:
    """By seed; none where one of them has no value."""
    found = {} if trouble(group) else {r.seed: r.summaries([metric])[metric].number for r in group}
    numbers = {seed: number for seed, number in found.items() if number is not None}
    return numbers if len(numbers) == len(found) else {}


def _ranks(values: list[np.ndarray]) -> np.ndarray:
    """Ranks along the last axis, 1 for the smallest, the mean of them for equals; streams last but one."""
    import numpy as np
    from scipy.stats import rankdata

    return np.stack([rankdata(np.round(x, 12), axis=-1) for x in values], axis=-2)


def render_ranking(ranking: Ranking, format: str = "terminal", console: Console | None = None) -> str:
    """A ranking as text, in the formats of a leaderboard but csv.

    Raises:
        Mistake: there is no such format.
    """
    if format == "csv":
        raise Mistake("Mean ranks have no csv; there are: latex, md, terminal.")
    title = ranking.metric.title or ranking.metric.id
    heads = ["", "mean rank", "95 % over seeds", *ranking.streams]
    rows = [
        [place.strategy, f"{place.rank:.2f}", f"{place.low:.2f} to {place.high:.2f}", *(f"{r:g}" for r in place.ranks)]
        for place in ranking.places
    ]
    k, n = len(ranking.places), len(ranking.streams)
    there = ", ".join(f"{s} {ranges(seeds)}" for s, seeds in zip(ranking.streams, ranking.seeds, strict=True))
    notes = [
        f"Over streams: Friedman's p = {ranking.p:.3f} ({n} streams, {k} strategies, by permutation); by Nemenyi two "
        f"mean ranks differ at .05 where they lie {ranking.critical:.2f} apart"
        + (f", which no two of {k} can." if ranking.critical > k - 1 else ".")
        + " Both take the streams for independent draws of those that one speaks about.",
        f"Over seeds: bootstrap, {ROUNDS} times, seeds drawn alike for all strategies; of these streams only.",
        "1 is best; equals share the mean of their ranks; strategies are matched by name, whatever their options.",
        *ranking.notes,
    ]
    lines = [f"by {title}, over the seeds that all have: {there}"]
    return write([Table(f"{k} strategies over {n} streams", lines, heads, rows, notes)], format, console)
