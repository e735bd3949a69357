"""Leaderboards: what was run, ranked within each protocol, means over seeds with their intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from clbench.configurations import (
    configurations,
    differences,
    plain,
    protocol_changes,
    protocol_lines,
    ranges,
    seeds,
    shown_settings,
)
from clbench.metric import Summary
from clbench.result import Result, read_rows, summaries, summarise, trouble
from clbench.tables import Table, heading, mark, quantities, sheet, write
from clbench.words import NULL

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT = (
    "class/final_accuracy",
    "class/forgetting",
    "cost/train_flops",
    "cost/train_seconds",
    "cost/bytes_kept",
)
"""what a leaderboard and a comparison show unless told otherwise"""


class Cell(NamedTuple):
    """A summary over the seeds of one configuration."""

    mean: float | None
    half_width: float | None
    """of the 95 % interval by Student's t; None for one seed"""
    n: int
    """seeds"""
    note: str = ""
    """why there is no mean"""


class Rates(NamedTuple):
    """How a configuration's ranked mean varies with the learning rate, all else equal."""

    lowest: float
    """rate"""
    highest: float
    """rate"""
    worst: float | None
    """mean at the worst of the rates between them that were run; None: at one of them there is no mean"""
    best: float | None
    """likewise"""
    n: int
    """how many rates"""


@dataclass(frozen=True)
class Standing:
    """One configuration on a board."""

    strategy: str
    hash: str
    settings: dict[str, str]
    """what tells it from the other rows: axes as memory, options"""
    preset: str
    """where its options come from: a paper, tuned here, untuned"""
    seeds: list[int]
    trouble: str
    """which seeds are not done; there is no mean then"""
    cells: dict[str, Cell]
    rates: Rates | None = None
    """at the best of several rates that were run of the same configuration: what the others come to"""


@dataclass(frozen=True)
class Board:
    """What may be ranked together: runs under one protocol."""

    protocol: dict[str, Any]
    metrics: dict[str, Summary]
    """the columns; the first is the one ranked by"""
    rows: list[Standing]
    """best first; those without a mean last"""
    notes: list[str]


def leaderboard(
    results: Iterable[Result], metrics: Iterable[str] = DEFAULT, rank_by: str = "class/final_accuracy"
) -> list[Board]:
    """One board for each protocol, one row on it for each configuration (strategy and hash), means over its seeds.

    Raises:
        Mistake: there is no such summary.
    """
    columns = summaries(dict.fromkeys((rank_by, *metrics)))
    return [_board(board, columns) for board in by_protocol(results)]


def by_protocol(results: Iterable[Result]) -> list[list[Result]]:
    """Results that may be ranked together: streams by name, in each the larger boards first, those on validation shares
    behind those on test data.
    """
    boards: dict[str, list[Result]] = {}
    for result in results:
        boards.setdefault(json.dumps(result.protocol, sort_keys=True), []).append(result)

    def place(key: str) -> tuple[str, bool, int, str]:
        first = boards[key][0]
        return first.stream, on_validation(first.protocol), -len(boards[key]), key

    return [boards[key] for key in sorted(boards, key=place)]


def on_validation(protocol: dict[str, Any]) -> bool:
    """Whether exams were made of validation shares: to choose by, not to judge by."""
    return protocol.get("exams") == "validation"


def _board(results: list[Result], metrics: dict[str, Summary]) -> Board:
    from clbench.statistics import ENOUGH

    groups = configurations(results)
    ranked = next(iter(metrics.values()))
    found = [means(group, metrics) for group in groups]
    rates = _rates(groups, [cells[ranked.id].mean for cells in found], ranked.better)
    rows = []
    for index, (group, settings) in enumerate(zip(groups, differences(groups), strict=True)):
        one, more = group[0], rates.get(index)
        rows.append(
            Standing(one.strategy, one.hash, settings, one.preset, seeds(group), trouble(group), found[index], more)
        )

    def place(row: Standing) -> tuple[bool, float]:
        mean = row.cells[ranked.id].mean
        return mean is None, 0 if mean is None else mean if ranked.better == "lower" else -mean

    rows.sort(key=place)
    notes = []
    [(usual, _), *others] = Counter(tuple(row.seeds) for row in rows).most_common()
    if others:
        unusual = "; ".join(f"{row.strategy} {ranges(row.seeds)}" for row in rows if tuple(row.seeds) != usual)
        notes.append(f"Not all rows have the same seeds: {unusual}; the others {ranges(usual)}.")
    if len(rows) > 1 and min(len(row.seeds) for row in rows) < ENOUGH:
        notes.append(f"With fewer than {ENOUGH} seeds no difference to another row can be claimed.")
    notes += _hardware(groups, found, metrics)
    if on_validation(results[0].protocol):
        notes.append("Exams are validation shares: to choose options by, not to judge strategies by.")
    return Board(results[0].protocol, metrics, rows, notes)


def _rates(groups: list[list[Result]], found: list[float | None], better: str) -> dict[int, Rates]:
    """For each configuration that was run at several rates, by the index of the best one."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, (one, *_) in enumerate(groups):
        rest = {p: value for p, value in one.config.items() if p not in ("learner.lr", "seed") and value != NULL}
        if "learner.lr" in one.config:
            alike.setdefault((one.strategy, *sorted(rest.items()), repr(one.meta.get("versions"))), []).append(index)
    rates = {}
    for same in alike.values():
        if len({groups[index][0].config["learner.lr"] for index in same}) > 1:
            tried = sorted(float(groups[index][0].config["learner.lr"]) for index in same)
            there = {index: mean for index in same if (mean := found[index]) is not None}
            low, high = (min(there.values()), max(there.values())) if len(there) == len(same) else (None, None)
            worst, best = (high, low) if better == "lower" else (low, high)
            pick = min if better == "lower" else max
            at = pick(there, key=lambda index: there[index]) if there else same[0]
            rates[at] = Rates(tried[0], tried[-1], worst, best, len(tried))
    return rates


def means(group: Sequence[Result], metrics: dict[str, Summary]) -> dict[str, Cell]:
    """A mean for each metric, or the reason why there is none: one seed without a value is enough for that, and,
    of what a rerun does not repeat (times, memory), seeds on several devices.
    """
    from clbench.statistics import mean_interval

    n, cells = len(group), {}
    if reason := trouble(group):
        return dict.fromkeys(metrics, Cell(None, None, n, reason))
    values = [result.summaries(metrics) for result in group]
    devices = _devices(group)
    bound = _bound(group[0], metrics) if len(devices) > 1 else []
    for id in metrics:
        numbers = [number for value in values if (number := value[id].number) is not None]
        if id in bound:
            cells[id] = Cell(None, None, n, f"its seeds ran on {' and on '.join(devices)}")
        elif len(numbers) == n:
            cells[id] = Cell(*mean_interval(numbers), n)
        else:
            said = "; ".join(dict.fromkeys(value[id].note for value in values if value[id].number is None))
            cells[id] = Cell(None, None, n, said + (f" ({n - len(numbers)} of {n} seeds)" if numbers else ""))
    return cells


def _hardware(groups: list[list[Result]], found: list[dict[str, Cell]], metrics: dict[str, Summary]) -> list[str]:
    """What times and memory were measured on, where it is not the same for all that are shown."""
    if len({device for group in groups for device in _devices(group)}) < 2:
        return []
    on: dict[str, dict[str, None]] = {}
    for group, cells in zip(groups, found, strict=True):
        if (devices := _devices(group)) and any(cells[id].mean is not None for id in _bound(group[0], metrics)):
            on.setdefault(devices[0], {})[group[0].strategy] = None
    told = "; ".join(f"{', '.join(strategies)} on {device}" for device, strategies in sorted(on.items()))
    return [f"Times and memory are not of one device: {told}."] if len(on) > 1 else []


def _devices(group: Sequence[Result]) -> list[str]:
    """What a configuration's seeds ran on, as far as that is written down."""
    return sorted({device for result in group if (device := result.meta.get("device"))})


def _bound(result: Result, metrics: dict[str, Summary]) -> list[str]:
    """The ids of what a rerun of a run does not repeat."""
    repeated = summarise(read_rows(result.folder / "rows.csv"), metrics)
    return [id for id, value in result.summaries(metrics).items() if value.number != repeated[id].number]


def render(boards: Sequence[Board], format: str = "terminal", console: Console | None = None) -> str:
    """Boards as text.

    Args:
        boards: as `leaderboard` gives them.
        format: `terminal`, `md`, `latex`, or `csv` (one line for each row and metric, numbers as they are).
        console: whose width and colours a terminal's text has; the standard output's unless given.

    Raises:
        Mistake: there is no such format.
    """
    if format != "csv":
        return write([table(board, boards) for board in boards], format, console)
    lines = []
    for number, board in enumerate(boards, 1):
        protocol = json.dumps(board.protocol, sort_keys=True)
        for row in board.rows:
            who = (row.strategy, row.hash, shown_settings(row.settings), row.preset, ranges(row.seeds))
            for id, cell in row.cells.items():
                lines.append(
                    (number, board.protocol.get("stream", ""), *who, id, board.metrics[id].version, *cell, protocol)
                )
    heads = "board,stream,strategy,hash,settings,preset,seeds,metric,version,mean,half_width,n,note,protocol"
    return sheet(heads, lines)


def table(board: Board, boards: Sequence[Board]) -> Table:
    """One of several boards as text: the label of each row, its seeds, and the metrics of which any row has a value."""
    heads, columns = ["", "n"], [[str(len(row.seeds)) for row in board.rows]]
    marks: dict[str, int] = {}
    empty: dict[str, list[str]] = {}
    for id, metric in board.metrics.items():
        cells = [row.cells[id] for row in board.rows]
        if all(cell.mean is None for cell in cells):
            empty.setdefault("; ".join(dict.fromkeys(cell.note for cell in cells)), []).append(metric.title or id)
            continue
        unit, texts = quantities([None if c.mean is None else (c.mean, c.half_width) for c in cells], metric.unit)
        for index, (row, cell) in enumerate(zip(board.rows, cells, strict=True)):
            if cell.note and not row.trouble:
                texts[index] += mark(marks, cell.note)
        heads.append(heading(metric, unit))
        columns.append(texts)
    labels = []
    sources = {row.preset or "source not said" for row in board.rows}
    for row in board.rows:
        name = row.strategy + (mark(marks, f"options: {row.preset or 'source not said'}") if len(sources) > 1 else "")
        labels.append(
            "\n".join(filter(None, (name, shown_settings(row.settings), _shown(row.rates, board), row.trouble)))
        )
    notes = [f"{mark(marks, reason)} {reason}" for reason in list(marks)]
    if len(sources) == 1 and not sources <= {"untuned", "source not said"}:
        notes.append(f"Options: {sources.pop()}.")
    notes += [f"Left out, as no row has a value: {', '.join(titles)} ({reason})." for reason, titles in empty.items()]
    notes += board.notes
    if board is boards[-1]:
        notes.append("n: seeds; means over seeds ± 95 % intervals by Student's t.")
    rows = [list(row) for row in zip(labels, *columns, strict=True)]
    return Table(board.protocol.get("stream", ""), _protocol(board, boards), heads, rows, notes)


def _shown(rates: Rates | None, board: Board) -> str:
    """Rate 0.03–0.3: 18.2–24.1."""
    if rates is None:
        return ""
    span = f"rate {rates.lowest:g}–{rates.highest:g}"
    if rates.worst is None or rates.best is None:
        return f"{span}: not every one has a mean"
    _, texts = quantities([(rates.worst, None), (rates.best, None)], next(iter(board.metrics.values())).unit)
    return f"{span}: {'–'.join(texts)}"


def _protocol(board: Board, boards: Sequence[Board]) -> list[str]:
    """The protocol as text: whole for a stream's first board, what differs from that for the others."""
    stream = board.protocol.get("stream", "")
    first = next(other for other in boards if other.protocol.get("stream", "") == stream)
    if board is first:
        return protocol_lines(board.protocol)
    changes = protocol_changes(board.protocol, first.protocol)
    told = (f"{field} {plain(here)} instead of {plain(there)}" for field, (here, there) in changes.items())
    return [f"as the first board of {stream}, but {' · '.join(told)}"]
