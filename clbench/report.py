"""One page of a folder of results: every board with its figures, every row with where it comes from.

The page is one file that needs no other: styles, scripts and figures stand in it, and its own policy forbids it the
network. Nothing is computed here: numbers are the leaderboard's, pictures those of figures.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from clbench import figures
from clbench.configurations import (
    configurations,
    label,
    plain,
    provenance,
    ranges,
    seeds,
)
from clbench.errors import Mistake
from clbench.leaderboard import DEFAULT, Board, Standing, leaderboard, table
from clbench.metric import Summary
from clbench.result import Result
from clbench.tables import heading, quantities

if TYPE_CHECKING:
    from clbench.figures import Figure

DRAWN = 12
"""rows that a figure of many shows: the best"""
SMALL = 0.72
"""how much of its size a figure has where many stand side by side, so that its words can be read"""


class Head(NamedTuple):
    """The heading of a column."""

    text: str
    unit: str
    """with an arrow towards what is better"""
    sorted: str
    """`ascending` or `descending` where the table is sorted by it at first, otherwise `none`"""
    lower: bool
    """whether less is better"""
    width: int
    """characters of its widest half width"""


class Entry(NamedTuple):
    """A number in a table, in parts."""

    mean: str
    half: str
    value: str
    """to sort by, in full; empty where there is none"""


@dataclass(frozen=True)
class Picture:
    """A figure of a page."""

    svg: str
    caption: str
    file: str
    """its name as a file, without an ending"""
    row: str = ""
    """the row that it belongs to; empty: it shows many"""


@dataclass(frozen=True)
class Line:
    """A row of a table, with what its details say."""

    key: str
    """names it on the page"""
    name: str
    details: list[str]
    standing: Standing
    entries: list[Entry]
    by_seed: list[list[str]]
    """seed, state, numbers"""
    facts: dict[str, list[str]]
    config: list[tuple[str, str]]
    """the lines of config.yaml: setting, source"""
    again: list[str]
    """commands"""


@dataclass(frozen=True)
class Part:
    """A board of a page."""

    key: str
    title: str
    protocol: list[str]
    whole: dict[str, str]
    heads: list[Head]
    seed_heads: list[tuple[str, str]]
    lines: list[Line]
    notes: list[str]
    pictures: dict[str, list[Picture]]
    """by the title of their section"""
    missing: list[str]
    """which figures there are not, and why"""


def report(
    results: Sequence[Result],
    metrics: Iterable[str] = DEFAULT,
    rank_by: str = "class/final_accuracy",
    title: str = "Results",
    place: str = "",
) -> str:
    """The page.

    Args:
        results: what was run.
        metrics: the columns, ids of summaries.
        rank_by: the summary by which rows are ranked at first.
        title: the heading.
        place: the options that `clbench reproduce` needs to find these results.

    Raises:
        Mistake: there is no such summary.
    """
    from jinja2 import Environment, StrictUndefined

    boards = leaderboard(results, metrics, rank_by)
    parts = [_part(number, board, boards, results, place) for number, board in enumerate(boards, 1)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("clbench").joinpath("report.html").read_text(encoding="utf-8"))
    strategies = sorted({result.strategy for result in results})
    return template.render(title=title, boards=parts, runs=len(results), strategies=strategies)


def _part(number: int, board: Board, boards: Sequence[Board], results: Sequence[Result], place: str) -> Part:
    groups = configurations(result for result in results if result.protocol == board.protocol)
    by_key = {(group[0].strategy, group[0].hash): group for group in groups}
    ordered = [by_key[row.strategy, row.hash] for row in board.rows]
    text = table(board, boards)
    shown = [id for id in board.metrics if any(row.cells[id].mean is not None for row in board.rows)]
    stream = text.title
    before = sum(other.protocol.get("stream") == stream for other in boards[:number])
    columns = list(zip(*(row[1:] for row in text.rows), strict=True))
    heads = [
        Head(*_parted(head), _order(board, id), id != "" and board.metrics[id].better == "lower", _widest(cells))
        for head, id, cells in zip(text.heads[1:], ["", *shown], columns, strict=True)
    ]
    lines, units = _lines(number, board, text.rows, shown, ordered, place)
    many, missing = _of_many(f"b{number}", stream, ordered, next(iter(board.metrics.values())))
    pictures = {"Against cost, and over the stream": many, **_of_one(stream, lines, ordered)}
    pictures = {section: found for section, found in pictures.items() if found}
    whole = {field: plain(value) for field, value in board.protocol.items()}
    title = stream if before == 1 else f"{stream} {before}"
    return Part(f"b{number}", title, text.lines, whole, heads, units, lines, text.notes, pictures, missing)


def _parted(head: str) -> tuple[str, str]:
    text, *unit = re.split(r" (?=[↑↓])", head, maxsplit=1)
    return text, "".join(unit)


def _order(board: Board, id: str) -> str:
    if id != next(iter(board.metrics)):
        return "none"
    return "ascending" if board.metrics[id].better == "lower" else "descending"


def _widest(cells: Iterable[str]) -> int:
    return max(len(cell.partition(" ± ")[2]) for cell in cells)


def _lines(
    number: int, board: Board, rows: list[list[str]], shown: list[str], groups: list[list[Result]], place: str
) -> tuple[list[Line], list[tuple[str, str]]]:
    """The rows of a board, and the headings of their numbers by seed."""
    lines, told = [], [("seed", ""), ("state", "")]
    flat = [result for group in groups for result in group]
    found = [result.summaries(shown) for result in flat]
    columns = []
    for id in shown:
        numbers = [value[id].number for value in found]
        unit, texts = quantities([None if each is None else (each, None) for each in numbers], board.metrics[id].unit)
        told.append(_parted(heading(board.metrics[id], unit)))
        columns.append(texts)
    by_seed = iter([str(r.seed), r.state, *texts] for r, *texts in zip(flat, *columns, strict=True))
    for rank, (standing, row, group) in enumerate(zip(board.rows, rows, groups, strict=True), 1):
        means = [len(standing.seeds), *(standing.cells[id].mean for id in shown)]
        entries = [
            Entry(*text.partition(" ± ")[::2], "" if mean is None else repr(mean))
            for text, mean in zip(row[1:], means, strict=True)
        ]
        name, *details = row[0].split("\n")
        lines.append(
            Line(
                key=f"b{number}r{rank}",
                name=name,
                details=details,
                standing=standing,
                entries=entries,
                by_seed=[next(by_seed) for _ in group],
                facts=provenance(group),
                config=_config(group[0]),
                again=_again(group, place),
            )
        )
    return lines, told


def _config(result: Result) -> list[tuple[str, str]]:
    """The lines of config.yaml, each parted from its source; without the file what meta.json has of it."""
    file = result.folder / "config.yaml"
    if not file.exists():
        return [(f"{path}: {value}", "") for path, value in result.config.items()]
    return [line.partition("  # ")[::2] for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]


def _again(group: list[Result], place: str) -> list[str]:
    """The commands that run a configuration again."""
    there = seeds(group)
    swept = f"seed=range({len(there)})" if there == [*range(len(there))] else f"seed={','.join(map(str, there))}"
    commits = [commit for result in group if (commit := str(result.meta.get("commit", "")).rstrip("+"))]
    return [
        *(f"git checkout {commit}" for commit in dict.fromkeys(commits[-1:])),
        f"clbench reproduce {group[0].hash}{place}",
        "# or, with the config.yaml of this page:",
        f"clbench run config=config.yaml {shlex.quote(swept)}",
    ]


def _of_many(key: str, stream: str, groups: Sequence[list[Result]], ranked: Summary) -> tuple[list[Picture], list[str]]:
    """The figures that compare the rows of a board, ranked by a summary; and which can't be drawn, with the reason."""
    title = f"{ranked.title or ranked.id} against training compute"
    best = [result for group in groups[:DRAWN] for result in group]
    some = f", the best {DRAWN} rows" if len(groups) > DRAWN else ""
    found, missing = [], []
    for name, caption, draw in (
        ("cost", title[0].upper() + title[1:], partial(figures.cost, metric=ranked.id)),
        ("curves", "Accuracy on what was taught, at each look", figures.curves),
    ):
        try:
            drawn = figures.svg(draw(best), f"{key}-{name}")
            found.append(Picture(drawn, f"{caption}{some}", _file(stream, name)))
        except Mistake as mistake:
            missing.append(f"{caption}: {mistake}")
    return found, missing


def _of_one(stream: str, lines: Sequence[Line], groups: Sequence[list[Result]]) -> dict[str, list[Picture]]:
    """The figures that each row has of its own: of its first run that is done, or of all of these."""
    found: dict[str, list[Picture]] = {"Accuracy matrices": [], "Drift of module groups": [], "Restoration": []}
    for line, group in zip(lines, groups, strict=True):
        done = [result for result in group if result.state == "done"]
        if not done:
            continue
        first, name = done[0].rows(), label(group[0], line.standing.settings)
        one, all_seeds = f"{name}, seed {done[0].seed}", f"{name}, seeds {ranges(seeds(done))}"
        drawn: dict[str, tuple[str, str, Figure | None]] = {
            "Accuracy matrices": ("matrix", one, figures.accuracy_matrix(first)),
            "Drift of module groups": ("drift", one, figures.drift_map(first)),
            "Restoration": ("restoration", all_seeds, figures.restoration_bars([r.rows() for r in done])),
        }
        for section, (kind, caption, figure) in drawn.items():
            if figure is not None:
                figure.set_size_inches(SMALL * figure.get_figwidth(), SMALL * figure.get_figheight())
                file = _file(stream, line.standing.strategy, line.standing.hash[:8], kind)
                found[section].append(Picture(figures.svg(figure, f"{line.key}-{kind}"), caption, file, line.key))
    return found


def _file(*words: str) -> str:
    return re.sub(r"[^\w-]+", "-", "-".join(words)).strip("-")
