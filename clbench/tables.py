"""A table of text, and how it is written: for a terminal, in Markdown and LaTeX."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

from clbench.errors import unknown
from clbench.metric import Summary

if TYPE_CHECKING:
    from rich.console import Console

NOTHING = "–"
PREFIXES = ("", "k", "M", "G", "T", "P", "E")
GAP = 2
"""blanks between two columns on a terminal"""
SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    title: str
    lines: list[str]
    """what a reader must know first; under the title"""
    heads: list[str]
    rows: list[list[str]]
    """the first column is a label, whose further lines are details; the others are numbers"""
    notes: list[str] = field(default_factory=list)
    """what a reader must know last"""


def counted(count: int, thing: str) -> str:
    """So many of a thing: 1 run, 2 runs."""
    return f"{count} {thing}{'s' * (count != 1)}"


def mark(marks: dict[str, int], note: str) -> str:
    """The superscript number of a note, the next one where `marks` does not hold it yet: joins a cell to its note."""
    number = marks.setdefault(note, len(marks) + 1)
    return str(number).translate(str.maketrans("0123456789", SUPERSCRIPTS))


def heading(metric: Summary, unit: str) -> str:
    """A metric's title, whether more (↑) or less (↓) of it is better, and its unit."""
    arrow = {"higher": "↑", "lower": "↓"}.get(metric.better, "")
    return " ".join(filter(None, (metric.title or metric.id, arrow, unit)))


def quantities(values: Sequence[tuple[float, float | None] | None], unit: str) -> tuple[str, list[str]]:
    """Means with half widths as text, all in one unit; None becomes a dash.

    A share (`%`) is shown times 100 with one decimal, anything else under the prefix that suits the middle between the
    smallest and the largest (geometrically): that would have three digits, and the smallest has one at the least. A
    count that repeats exactly is shown without its interval of 0.

    Returns:
        the unit with its prefix, and a text for each value.
    """
    there = [value for value in values if value is not None]
    sizes = [abs(mean) for mean, _ in there if mean] or [1.0]
    least, middle = min(sizes), math.sqrt(min(sizes) * max(sizes))
    factor, digits, shown = 100.0, 1, unit
    if unit != "%":
        power = 0 if unit == "s" else min(max(math.floor(math.log10(middle) / 3), 0), len(PREFIXES) - 1)
        factor, shown = 1000.0**-power, PREFIXES[power] + unit
        wanted = max(2 - math.floor(math.log10(middle * factor)), -math.floor(math.log10(least * factor)))
        digits = min(max(wanted, 0), 4)
        if not power and all(mean == int(mean) for mean, _ in there):
            digits = 0

    def text(number: float) -> str:
        return f"{round(number * factor, digits) + 0.0:.{digits}f}"

    def cell(mean: float, half: float | None) -> str:
        if half is None or (not half and unit != "%"):
            return text(mean)
        return f"{text(mean)} ± {text(half)}"

    return shown, [NOTHING if value is None else cell(*value) for value in values]


def write(tables: Sequence[Table], format: str, console: Console | None = None) -> str:
    """The tables as text in a format: `terminal` (as wide and as colourful as `console`), `md` or `latex`.

    Raises:
        Mistake: there is no such format.
    """
    if format == "terminal":
        return terminal(tables, console)
    writers = {"md": markdown, "latex": latex}
    if format not in writers:
        raise unknown("format", format, ["terminal", "csv", *writers])
    return writers[format](tables)


def sheet(heads: str, lines: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values under `heads`, themselves separated by commas."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads.split(","))
    writer.writerows(lines)
    return file.getvalue()


def terminal(tables: Sequence[Table], console: Console | None = None) -> str:
    """For a terminal as wide and as colourful as `console`; columns that do not fit follow in a further block."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = console or Console()
    with console.capture() as capture:
        for table in tables:
            console.print(Text(table.title, "bold"))
            for index, line in enumerate(table.lines):
                console.print(Text(line, "dim" if index else ""))
            columns = [_aligned(list(cells)) for cells in list(zip(*table.rows, strict=True))[1:]]
            heads = [_stacked(head, cells) for head, cells in zip(table.heads[1:], columns, strict=True)]
            widths = [max(map(_width, (head, *cells))) + GAP for head, cells in zip(heads, columns, strict=True)]
            label = _label_width([row[0] for row in table.rows], console.width, console.width - sum(widths))
            for block in _blocks(widths, console.width - label):
                grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
                grid.add_column(table.heads[0], width=label, overflow="fold")
                for index in block:
                    grid.add_column(heads[index], justify="right", no_wrap=True)
                for row, cells in enumerate(table.rows):
                    name, *details = cells[0].split("\n")
                    text = Text.assemble(name, *((f"\n{detail}", "dim") for detail in details))
                    grid.add_row(text, *(Text(columns[index][row]) for index in block))
                console.print(grid)
            for note in table.notes:
                console.print(Text(note, "dim"))
            console.print()
    return capture.get()


def _width(text: str) -> int:
    return max(len(line) for line in text.split("\n"))


def _label_width(labels: list[str], width: int, room: int) -> int:
    """How wide the labels may be: `room` where that keeps their words whole, else a third of the whole width."""
    longest = max(map(_width, labels), default=0)
    word = max((len(word) for label in labels for word in label.split()), default=0)
    return min(longest, max(room, width // 3) if room < word else room)


def _aligned(cells: list[str]) -> list[str]:
    """The cells of a column with their ± beneath each other."""
    parts = [cell.partition(" ± ") for cell in cells]
    left = max(len(mean) for mean, _, _ in parts)
    right = max(len(half) for _, _, half in parts)
    return [f"{mean:>{left}}{sign}{half:>{right}}".ljust(left + (right and right + 3)) for mean, sign, half in parts]


def _stacked(head: str, cells: list[str]) -> str:
    """A heading broken into lines no wider than its column needs to be; an arrow stays with its unit."""
    width = max(map(len, (*head.split(), *cells)), default=1)
    bound = head.replace("↑ ", "↑\0").replace("↓ ", "↓\0")
    return textwrap.fill(bound, width, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def _blocks(widths: list[int], room: int) -> list[list[int]]:
    """Columns in order, as many to a block as fit in `room`; at least one."""
    blocks: list[list[int]] = [[]]
    used = 0
    for index, width in enumerate(widths):
        if blocks[-1] and used + width > room:
            blocks.append([])
            used = 0
        blocks[-1].append(index)
        used += width
    return blocks


def markdown(tables: Sequence[Table]) -> str:
    """GitHub's Markdown."""
    parts = []
    for table in tables:
        rule = ["---", *["---:"] * (len(table.heads) - 1)]
        rows = [[_line(cell).replace("|", "\\|") or " " for cell in row] for row in (table.heads, rule, *table.rows)]
        parts += [f"### {table.title}", *table.lines, "\n".join(f"| {' | '.join(row)} |" for row in rows), *table.notes]
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """One tabular each, for the booktabs package."""
    parts = []
    for table in tables:
        rows = [" & ".join(_tex(_line(cell)) for cell in row) + r" \\" for row in (table.heads, *table.rows)]
        parts += [f"% {line}" for line in (table.title, *table.lines)]
        parts += [
            rf"\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
        ]
        parts += [
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par{{\footnotesize {_tex(note)}}}" for note in table.notes),
            "",
        ]
    return "\n".join(parts)


TEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {raised: f"$^{digit}$" for digit, raised in enumerate(SUPERSCRIPTS)}
    | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}", "<": "$<$", ">": "$>$", "|": "$|$", "≤": r"$\le$"}
    | {"±": r"$\pm$", "−": "$-$", NOTHING: "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "·": r"$\cdot$"}
)


def _tex(text: str) -> str:
    return f"$-${text[1:].translate(TEX)}" if text.startswith("-") else text.translate(TEX)


def _line(cell: str) -> str:
    return cell.replace("\n", ", ")
