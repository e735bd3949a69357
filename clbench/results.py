"""Runs read back from their folders, as one table: leaderboards, comparisons, frames. The files are the truth."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NamedTuple

from clbench.catalogue import names, resolve
from clbench.errors import Mistake, unknown
from clbench.metric import Row, Summary, Value

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from clbench.tables import Table

DEFAULT = (
    "class/final_accuracy",
    "class/average_incremental_accuracy",
    "class/forgetting",
    "task/final_accuracy",
    "cost/train_flops",
    "cost/bytes_kept",
)
"""what a leaderboard and a comparison show unless told otherwise"""

FIRST = ("stream", "model", "epochs", "batch", "order")
"""the fields of a protocol that a reader looks for first"""


@dataclass(frozen=True)
class Result:
    """One run: a folder."""

    folder: Path
    meta: dict[str, Any]
    """meta.json: what was run, with what, where"""
    status: dict[str, Any]
    """status.json: how far it came"""

    @property
    def stream(self) -> str:
        return self.meta["stream"]

    @property
    def strategy(self) -> str:
        return self.meta["strategy"]

    @property
    def hash(self) -> str:
        return self.meta["hash"]

    @property
    def seed(self) -> int:
        return self.meta["seed"]

    @property
    def protocol(self) -> dict[str, Any]:
        """What two runs must share to be ranked together."""
        return self.meta["protocol"]

    @property
    def config(self) -> dict[str, str]:
        """Each option's path and its value, as on the command line."""
        return self.meta.get("config", {})

    @property
    def state(self) -> str:
        """`running`, `done`, `diverged` or `failed`."""
        return self.status.get("state", "running")

    def rows(self) -> list[Row]:
        """Every row written so far: what a rerun repeats, then timings."""
        return [row for name in ("rows.csv", "timings.csv") for row in read_rows(self.folder / name)]

    def summaries(self, ids: Iterable[str] | None = None) -> dict[str, Value]:
        """The summaries of the catalogue, or those named; a run that is not done has none."""
        if self.state != "done":
            return {id: Value(None, trouble([self])) for id in chosen(ids)}
        rows = self.rows()
        return {id: summary.compute(rows) for id, summary in chosen(ids).items()}


def known() -> dict[str, Summary]:
    """The summaries of the catalogue. Their names have a group (`class/bwt`); those of probes have none."""
    found = {name: resolve("metric", name) for name in names("metric") if "/" in name}
    return {name: summary for name, summary in found.items() if isinstance(summary, Summary)}


def chosen(ids: Iterable[str] | None) -> dict[str, Summary]:
    """The summaries of these names; None: all.

    Raises:
        Mistake: there is no such summary.
    """
    summaries = known()
    if ids is None:
        return summaries
    ids = list(ids)
    for id in ids:
        if id not in summaries:
            raise unknown("summary", id, summaries)
    return {id: summaries[id] for id in ids}


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, without a last line that is still being written; none where there is no file.

    Raises:
        Mistake: a line is no row.
    """
    if not path.exists():
        return []
    complete = path.read_text(encoding="utf-8").split("\n")[1:-1]
    rows = []
    for number, line in enumerate(csv.reader(complete), 2):
        try:
            step, at, metric, subject, value, n, note = line
            rows.append(Row(int(step), int(at), metric, subject, float(value) if value else None, int(n or 0), note))
        except ValueError:
            raise Mistake(
                f"{path}:{number} is no row (step,at,metric,subject,value,n,note): {','.join(line)}"
            ) from None
    return rows


def open_result(folder: str | Path) -> Result:
    """The run in this folder.

    Raises:
        Mistake: it is no run folder, or its meta.json cannot be read.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        status = folder / "status.json"
        return Result(folder, meta, json.loads(status.read_text(encoding="utf-8")) if status.exists() else {})
    except FileNotFoundError:
        raise Mistake(f"{folder} is no run folder: it has no meta.json.") from None
    except ValueError as error:
        raise Mistake(f"{folder}: meta.json or status.json cannot be read: {error}") from None


def find(root: str | Path) -> list[Result]:
    """All runs in and beneath a folder, in the order of their paths.

    Raises:
        Mistake: there is no such folder.
    """
    if not Path(root).is_dir():
        raise Mistake(f"There is no folder {root}.")
    results = []
    for folder, inner, files in os.walk(root):
        inner.sort()
        if "meta.json" in files:
            results.append(open_result(folder))
            inner.clear()
    return results


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """One line for each run and summary: stream, strategy, hash, seed, state, metric, value, note."""
    import pandas as pd

    lines = [
        (r.stream, r.strategy, r.hash, r.seed, r.state, metric, value.number, value.note)
        for r in results
        for metric, value in r.summaries().items()
    ]
    table = pd.DataFrame(lines, columns=["stream", "strategy", "hash", "seed", "state", "metric", "value", "note"])
    return table.astype({"value": float})


def rescore(result: Result) -> list[Row]:
    """The rows class/accuracy and task/accuracy again, from predictions/ alone: they must equal those of rows.csv.

    Raises:
        Mistake: an answer is missing or has no truth to go with it.
    """
    import numpy as np

    folder = result.folder / "predictions"
    if not (folder / "truth.npz").exists():
        raise Mistake(f"{result.folder} keeps no predictions: there is no predictions/truth.npz.")
    at = {row.step: row.at for row in reversed(read_rows(result.folder / "rows.csv"))}
    rows = []
    with np.load(folder / "truth.npz") as file:
        truth = dict(file)
    for path in sorted(folder.glob("[0-9]*.npz"), key=lambda path: int(path.stem)):
        with np.load(path) as answers:
            for name in answers:
                readout, _, exam = name.partition("/")
                if readout not in ("class", "task"):
                    continue
                if exam not in truth or len(truth[exam]) != len(answers[name]):
                    raise Mistake(
                        f"{path}: {name} has {len(answers[name])} answers, the truth {len(truth.get(exam, ()))}."
                    )
                n, step = len(truth[exam]), int(path.stem)
                right = int((answers[name] == truth[exam]).sum())
                rows.append(Row(step, at.get(step, 0), f"{readout}/accuracy", exam, right / n, n))
    return rows


class Cell(NamedTuple):
    """A summary over the seeds of one configuration."""

    mean: float | None
    half_width: float | None
    """of the 95 % interval by Student's t; None for one seed"""
    n: int
    """seeds"""
    note: str = ""
    """why there is no mean"""


@dataclass(frozen=True)
class Standing:
    """One configuration on a board."""

    strategy: str
    hash: str
    settings: dict[str, str]
    """what tells it from the other rows: memory, options, the source of its preset"""
    seeds: list[int]
    trouble: str
    """which seeds are not done; there is no mean then"""
    cells: dict[str, Cell]


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
    columns = chosen(dict.fromkeys((rank_by, *metrics)))
    boards: dict[str, list[Result]] = {}
    for result in results:
        boards.setdefault(json.dumps(result.protocol, sort_keys=True), []).append(result)
    order = sorted(boards, key=lambda key: (boards[key][0].stream, -len(boards[key]), key))
    return [_board(boards[key], columns) for key in order]


def _board(results: list[Result], metrics: dict[str, Summary]) -> Board:
    from clbench.statistics import ENOUGH

    groups = configurations(results)
    rows = [
        Standing(group[0].strategy, group[0].hash, settings, seeds(group), trouble(group), _cells(group, metrics))
        for group, settings in zip(groups, differences(groups), strict=True)
    ]
    ranked = next(iter(metrics.values()))

    def place(row: Standing) -> tuple[bool, float]:
        mean = row.cells[ranked.id].mean
        return mean is None, 0 if mean is None else mean if ranked.better == "lower" else -mean

    notes = []
    if len({tuple(row.seeds) for row in rows}) > 1:
        listed = "; ".join(f"{row.strategy} {ranges(row.seeds)}" for row in rows)
        notes.append(f"The rows do not have the same seeds: {listed}.")
    if min(len(row.seeds) for row in rows) < ENOUGH:
        notes.append(f"With fewer than {ENOUGH} seeds no difference between two rows can be claimed.")
    return Board(results[0].protocol, metrics, sorted(rows, key=place), notes)


def _cells(group: list[Result], metrics: dict[str, Summary]) -> dict[str, Cell]:
    """A mean for each metric, or the reason why there is none: one seed without a value is enough for that."""
    from clbench.statistics import mean_interval

    n, cells = len(group), {}
    values = [result.summaries(metrics) for result in group]
    reason = trouble(group)
    for id in metrics:
        numbers = [value[id].number for value in values if value[id].number is not None]
        if not reason and len(numbers) == n:
            cells[id] = Cell(*mean_interval(numbers), n)
        else:
            said = "; ".join(dict.fromkeys(value[id].note for value in values if value[id].number is None))
            some = f" ({n - len(numbers)} of {n} seeds)" if numbers else ""
            cells[id] = Cell(None, None, n, reason or said + some)
    return cells


def configurations(results: Iterable[Result]) -> list[list[Result]]:
    """The runs of each strategy and hash, by seed. Where a seed is there twice the run started last counts."""
    groups: dict[tuple[str, str], dict[int, Result]] = {}
    for result in sorted(results, key=lambda result: result.meta.get("started", "")):
        groups.setdefault((result.strategy, result.hash), {})[result.seed] = result
    return [[group[seed] for seed in sorted(group)] for _, group in sorted(groups.items())]


def differences(groups: Sequence[list[Result]]) -> list[dict[str, str]]:
    """For each configuration what tells it from the others: axes (memory) and the source of its preset.

    Where a strategy is there in several configurations these are told apart by options, versions and data too, and named
    by their hash.
    """
    metas = [group[0].meta for group in groups]
    axes = _varying([meta.get("axes", {}) for meta in metas])
    presets = _varying([{"preset": meta.get("preset", "")} for meta in metas])
    options: list[dict[str, str]] = [{} for _ in groups]
    for strategy in {group[0].strategy for group in groups}:
        same = [index for index, group in enumerate(groups) if group[0].strategy == strategy]
        for index, varying in zip(same, _varying([_options(metas[index]) for index in same]), strict=True):
            options[index] = varying | ({"hash": groups[index][0].hash[:8]} if len(same) > 1 else {})
    return [a | p | o for a, p, o in zip(axes, presets, options, strict=True)]


def _options(meta: dict[str, Any]) -> dict[str, str]:
    """What a hash covers, by names short enough to show."""
    axes = meta.get("axes", {})
    config = {
        path.removeprefix("strategy."): value
        for path, value in meta.get("config", {}).items()
        if path not in ("seed", "stream", "strategy") and path.rpartition(".")[2] not in axes
    }
    versions = {f"version of {name}": version for name, version in meta.get("versions", {}).items()}
    return config | versions | {f"data {name}": digest[:8] for name, digest in meta.get("data", {}).items()}


def _varying(settings: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Each dictionary without the entries that all of them share, and without empty ones."""
    keys = {key: None for each in settings for key in each}
    varying = [key for key in keys if len({str(each.get(key)) for each in settings}) > 1]
    return [{key: str(each[key]) for key in varying if each.get(key) not in (None, "")} for each in settings]


def trouble(group: Sequence[Result]) -> str:
    """Which runs of a configuration are not done, and why; empty where all are."""
    texts = []
    for state in dict.fromkeys(result.state for result in group):
        there = [result.status for result in group if result.state == state]
        of = f"{len(there)} of {len(group)} " if len(group) > 1 else ""
        if state == "diverged":
            texts.append(f"{of}diverged at step {', '.join(str(status.get('at', '?')) for status in there)}")
        elif state == "failed":
            errors = dict.fromkeys(status.get("error", "") for status in there)
            texts.append(shorten(f"{of}failed: {'; '.join(errors)}", 80, placeholder=" …"))
        elif state != "done":
            texts.append(f"{of}not finished")
    return "; ".join(texts)


def seeds(group: Iterable[Result]) -> list[int]:
    """The seeds of a configuration, in order."""
    return sorted(result.seed for result in group)


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in order, as short text: 0-5, 8."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


class Difference(NamedTuple):
    """One summary of two configurations, paired by seed."""

    a: float | None
    """mean over the shared seeds"""
    b: float | None
    mean: float | None
    """of a - b"""
    half_width: float | None
    """of the 95 % interval of the mean difference by Student's t"""
    p: float | None
    """two-sided, of the exact sign-flip test"""
    effect: float | None
    """Cohen's d_z"""
    n: int
    note: str = ""
    """why there is no difference"""


@dataclass(frozen=True)
class Comparison:
    """Two configurations under one protocol, seed by seed."""

    a: str
    b: str
    protocol: dict[str, Any]
    seeds: list[int]
    """those that both have"""
    metrics: dict[str, Summary]
    differences: dict[str, Difference]
    notes: list[str]


def compare(a: Sequence[Result], b: Sequence[Result], metrics: Iterable[str] = DEFAULT) -> Comparison:
    """a - b over the seeds that both have.

    Raises:
        Mistake: a side is empty or is no single configuration, they share a configuration or no seed, the protocols differ,
            or there is no such summary.
    """
    from clbench.statistics import ENOUGH, smallest_p

    columns = chosen(metrics)
    groups = []
    for side in (a, b):
        found = configurations(side)
        if len(found) != 1:
            raise Mistake(f"One configuration can be compared with another, not {len(found)}: {candidates(found)}.")
        groups += found
    labels = [_label(group[0], settings) for group, settings in zip(groups, differences(groups), strict=True)]
    one, other = groups[0][0], groups[1][0]
    if (one.strategy, one.hash) == (other.strategy, other.hash):
        raise Mistake(f"{one.strategy} {one.hash} stands on both sides: there is nothing to compare.")
    changes = protocol_changes(one.protocol, other.protocol)
    if changes:
        fields = "; ".join(f"{field} ({_plain(x)}, {_plain(y)})" for field, (x, y) in changes.items())
        raise Mistake(f"{labels[0]} and {labels[1]} do not share a protocol, so they cannot be compared: {fields}.")
    shared = sorted(set(seeds(groups[0])) & set(seeds(groups[1])))
    if not shared:
        had = " and ".join(f"{label} has {ranges(seeds(group))}" for label, group in zip(labels, groups, strict=True))
        raise Mistake(f"There is no seed to pair by: {had}.")
    notes = [
        f"Seeds of {label} that the other does not have are left out: {ranges(alone)}."
        for label, group in zip(labels, groups, strict=True)
        if (alone := [seed for seed in seeds(group) if seed not in shared])
    ]
    if smallest_p(len(shared)) > 0.05:
        one_seed = "1 seed" if len(shared) == 1 else f"{len(shared)} seeds"
        smallest = f"{smallest_p(len(shared)):.3g}".removeprefix("0")
        notes.append(
            f"With {one_seed} no difference can be claimed: the smallest p is {smallest}; {ENOUGH} seeds are needed."
        )
    elif len(columns) > 1:
        notes.append(f"Each p stands for itself: none is corrected for there being {len(columns)} of them.")
    paired = [[result for result in group if result.seed in shared] for group in groups]
    values = [[result.summaries(columns) for result in group] for group in paired]
    reasons = [f"{label}: {reason}" for label, group in zip(labels, paired, strict=True) if (reason := trouble(group))]
    return Comparison(
        *labels,
        one.protocol,
        shared,
        columns,
        {id: _difference([[value[id] for value in side] for side in values], "; ".join(reasons)) for id in columns},
        notes,
    )


def _difference(sides: list[list[Value]], reason: str) -> Difference:
    from clbench.statistics import effect_size, mean_interval, sign_flip

    n = len(sides[0])
    missing = [value.note for side in sides for value in side if value.number is None]
    if missing:
        return Difference(*[None] * 6, n, reason or "; ".join(dict.fromkeys(missing)))
    a, b = ([value.number for value in side if value.number is not None] for side in sides)
    paired = [x - y for x, y in zip(a, b, strict=True)]
    return Difference(sum(a) / n, sum(b) / n, *mean_interval(paired), sign_flip(paired), effect_size(paired), n)


def protocol_changes(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two protocols differ, with both values; None where a protocol lacks the field."""
    return {
        field: (one.get(field), other.get(field))
        for field in dict.fromkeys((*FIRST, *one, *other))
        if one.get(field) != other.get(field)
    }


def select(root: str | Path, spec: str) -> list[Result]:
    """The runs of the one configuration that `spec` names, by seed.

    Args:
        root: the folder under which runs lie.
        spec: a strategy, `stream/strategy`, the beginning of a hash, or a folder of runs.

    Raises:
        Mistake: there is none, or several, which are then listed with what tells them apart.
    """
    results = find(root)
    found = (
        [result for result in results if spec in (result.strategy, f"{result.stream}/{result.strategy}")]
        or [result for result in results if len(spec) > 3 and result.hash.startswith(spec)]
        or next((runs for folder in (Path(root, spec), Path(spec)) if folder.is_dir() and (runs := find(folder))), [])
    )
    if not found:
        there = {name for result in results for name in (result.strategy, f"{result.stream}/{result.strategy}")}
        raise unknown(f"configuration under {root}", spec, there)
    groups = configurations(found)
    if len(groups) > 1:
        raise Mistake(
            f"'{spec}' stands for {len(groups)} configurations: {candidates(groups)}. Name one by the beginning of its hash."
        )
    return groups[0]


def candidates(groups: Sequence[list[Result]]) -> str:
    """Configurations as text: stream, strategy and hash, and what tells those of one stream apart."""
    texts = []
    for stream in sorted({group[0].stream for group in groups}):
        there = [group for group in groups if group[0].stream == stream]
        for group, settings in zip(there, differences(there), strict=True):
            shown = [f"{key} {value}" for key, value in settings.items() if key != "hash"]
            details = f" ({', '.join(shown[:6])}{', …' if len(shown) > 6 else ''})" if shown else ""
            texts.append(f"{stream}/{group[0].strategy} {group[0].hash[:8]}{details}")
    return "; ".join(texts) or "none"


def render(boards: Sequence[Board], format: str = "terminal", console: Console | None = None) -> str:
    """Boards as text.

    Args:
        format: `terminal`, `md`, `html`, `latex`, or `csv` (one line for each row and metric, numbers as they are).
        console: whose width and colours a terminal's text has; the standard output's unless given.

    Raises:
        Mistake: there is no such format.
    """
    if format != "csv":
        return _write([_table(board, boards) for board in boards], format, console)
    head = "board,stream,strategy,hash,settings,seeds,metric,version,mean,half_width,n,note,protocol".split(",")
    return _csv(
        head,
        (
            [number, board.protocol.get("stream", ""), row.strategy, row.hash, _settings(row.settings), ranges(row.seeds)]
            + [id, board.metrics[id].version, *cell, json.dumps(board.protocol, sort_keys=True)]
            for number, board in enumerate(boards, 1)
            for row in board.rows
            for id, cell in row.cells.items()
        ),
    )


def render_comparison(comparison: Comparison, format: str = "terminal", console: Console | None = None) -> str:
    """A comparison as text, in the formats of `render`."""
    from clbench.tables import NOTHING, Table, mark, quantities

    if format == "csv":
        head = "metric,version,a,b,difference,half_width,p,d_z,n,note".split(",")
        return _csv(head, ([id, comparison.metrics[id].version, *d] for id, d in comparison.differences.items()))
    rows, reasons = [], dict[str, int]()
    for id, d in comparison.differences.items():
        metric = comparison.metrics[id]
        values = [None if x is None else (x, half) for x, half in ((d.a, None), (d.b, None), (d.mean, d.half_width))]
        unit, texts = quantities(values, metric.unit)
        if d.note:
            texts[-1] += mark(reasons.setdefault(d.note, len(reasons) + 1))
        p = NOTHING if d.p is None else "< .001" if d.p < 0.001 else f"{d.p:.3f}".removeprefix("0")
        rows.append([_heading(metric, unit), *texts, p, NOTHING if d.effect is None else f"{d.effect:.2f}"])
    table = Table(
        f"{comparison.a} against {comparison.b}",
        [protocol_line(comparison.protocol), f"seeds {ranges(comparison.seeds)}, paired"],
        ["", comparison.a, comparison.b, "difference", "p", "d_z"],
        rows,
        [*(f"{mark(number)} {reason}" for reason, number in reasons.items()), *comparison.notes],
    )
    return _write([table], format, console)


def protocol_line(protocol: dict[str, Any]) -> str:
    """A protocol as one line."""
    fields = [field for field in FIRST if field in protocol] + [field for field in protocol if field not in FIRST]
    return " · ".join(f"{field} {_plain(protocol[field])}" for field in fields)


def _table(board: Board, boards: Sequence[Board]) -> Table:
    from clbench.tables import NOTHING, Table, mark, quantities

    stream = board.protocol.get("stream", "")
    first = next(other for other in boards if other.protocol.get("stream", "") == stream)
    if board is first:
        line = protocol_line(board.protocol)
    else:
        changes = protocol_changes(board.protocol, first.protocol)
        line = f"as the first board of {stream}, but " + " · ".join(
            f"{field} {_plain(x)} instead of {_plain(y)}" for field, (x, y) in changes.items()
        )
    heads, columns = ["", "seeds"], [[str(len(row.seeds)) for row in board.rows]]
    reasons, empty = dict[str, int](), dict[str, list[str]]()
    for id, metric in board.metrics.items():
        cells = [row.cells[id] for row in board.rows]
        if all(cell.mean is None for cell in cells):
            empty.setdefault("; ".join(dict.fromkeys(cell.note for cell in cells)), []).append(metric.title)
            continue
        unit, texts = quantities([None if c.mean is None else (c.mean, c.half_width) for c in cells], metric.unit)
        for index, (row, cell) in enumerate(zip(board.rows, cells, strict=True)):
            if cell.note and not row.trouble:
                texts[index] += mark(reasons.setdefault(cell.note, len(reasons) + 1))
        heads.append(_heading(metric, unit))
        columns.append(texts)
    labels = ["\n".join(filter(None, (r.strategy, _settings(r.settings), r.trouble))) for r in board.rows]
    return Table(
        stream,
        [line],
        heads,
        [list(row) for row in zip(labels, *columns, strict=True)],
        [
            *(f"{mark(number)} {reason}" for reason, number in reasons.items()),
            *(f"No row has a value: {', '.join(titles)} ({reason})." for reason, titles in empty.items()),
            *board.notes,
        ],
    )


def _heading(metric: Summary, unit: str) -> str:
    arrow = {"higher": "↑", "lower": "↓"}.get(metric.better, "")
    return " ".join(filter(None, (metric.title or metric.id, arrow, unit)))


def _settings(settings: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _label(result: Result, settings: dict[str, str]) -> str:
    return f"{result.strategy} ({_settings(settings)})" if settings else result.strategy


def _plain(value: Any) -> str:
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


def _write(tables: list[Table], format: str, console: Console | None) -> str:
    from clbench import tables as form

    if format == "terminal":
        return form.terminal(tables, console)
    writers = {"md": form.markdown, "html": form.page, "latex": form.latex}
    if format not in writers:
        raise unknown("format", format, ["terminal", "csv", *writers])
    return writers[format](tables)


def _csv(head: list[str], lines: Iterable[Sequence[Any]]) -> str:
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return file.getvalue()
