"""Runs to keep with the sources: an archive of their folders, and the tables that are made of it.

An archive is `runs.zip`, the folders of runs as they are but for what no table needs: answers, checkpoints, and the
rows that no summary reads; and where on its machine a file lay that `tuned=` or `config=` named. `clbench
leaderboard`, `report`, `compare` and `reproduce` read it like any other folder.
README.md and table.csv beside it are made of it and of nothing else, so a number that was changed by hand is found.
Which metrics they show stands in columns.txt, an id a line, the first ranked by; without it a leaderboard's. Commands
that read the folder show these, too, where they are not told others.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Sequence
from itertools import zip_longest
from math import isclose
from pathlib import Path

from clbench.configurations import configurations, provenance
from clbench.errors import Mistake
from clbench.leaderboard import DEFAULT, leaderboard, render
from clbench.metric import Row
from clbench.result import ARCHIVE, Result, find, summaries, summarise

FILES = ("meta.json", "status.json", "config.yaml", "timings.csv", "rows.csv")
"""what is kept of a run"""
ALWAYS = ("exam/", "stream/", "cost/samples")
"""rows that are kept though no summary of one run reads them: measures against a reference do"""
COLUMNS = "columns.txt"
"""the file beside an archive that names the metrics of its tables"""

FOLDER = re.compile(r"(?<=[\s=])/(?:[^\s/]+/)*(?=[^\s/]+\.yaml\b)")
"""where such a file lay, by its whole path: that is of a machine, not of the run"""


def archive(results: Sequence[Result], target: Path, show: Sequence[str] = ()) -> Path:
    """Write an archive of runs into a folder, in place of one that is there, which stays until it is whole.

    Its tables are made, too.

    Args:
        results: finished runs.
        target: the folder.
        show: ids of summaries, the first ranked by; without any those that the folder's tables have had stay.

    Raises:
        Mistake: there is no run, one is not finished, the folder holds runs, there is no such summary, or nothing can
            be written there.
    """
    from clbench.checkpoint import write_atomically

    summaries(show)
    if runs := next(target.rglob("meta.json"), None):
        raise Mistake(f"{target} holds runs ({runs.parent}); name the archive last: results/reference/NAME.")
    unfinished = [str(result.folder) for result in results if result.state == "running"]
    if not results or unfinished:
        raise Mistake(f"Not finished: {unfinished[0]}." if unfinished else "There is no run to keep.")
    groups = configurations(results)
    told = ([result for result in group if result.state == "done"] or group for group in groups)
    kept = frozenset[str]().union(*(needed(group[0].rows()) for group in told))
    trimmed = {"rows.csv": lambda text: _of(text, kept), "status.json": _without_length}
    contents: dict[str, str] = {}
    for result in (result for group in groups for result in group):
        folder = f"{result.stream}/{result.strategy}/{result.hash}/seed-{result.seed}"
        for name in FILES:
            if (result.folder / name).exists():
                text = (result.folder / name).read_text(encoding="utf-8")
                contents[f"{folder}/{name}"] = trimmed.get(name, _without_folders)(text)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            file.writestr(entry, contents[name])
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / ARCHIVE, packed.getvalue())
        if show:
            (target / COLUMNS).write_text("".join(f"{id}\n" for id in show), encoding="utf-8")
    except OSError as error:
        raise Mistake(f"{target} can't be written to: {error.strerror}.") from None
    write_tables(target)
    return target / ARCHIVE


def needed(rows: Sequence[Row]) -> frozenset[str]:
    """The metrics without whose rows a summary of these would be another, and those that are always kept."""
    whole = summarise(rows)
    metrics = {row.metric for row in rows}
    missed = {
        metric
        for metric in metrics
        if metric.startswith(ALWAYS) or summarise([row for row in rows if row.metric != metric]) != whole
    }
    return frozenset(missed if summarise([row for row in rows if row.metric in missed]) == whole else metrics)


def _of(rows: str, metrics: frozenset[str]) -> str:
    """Of the text of a rows.csv the heading and the lines of these metrics."""
    lines = rows.splitlines(keepends=True)
    return "".join(lines[:1] + [line for line in lines[1:] if line.split(",", 3)[2] in metrics])


def _without_folders(text: str) -> str:
    return FOLDER.sub("", text)


def _without_length(status: str) -> str:
    """A status.json that says nothing of the length of rows.csv, which an archive shortens."""
    return json.dumps({key: value for key, value in json.loads(status).items() if key != "rows_bytes"})


def archives(root: Path) -> list[Path]:
    """The folders beneath `root` that hold an archive.

    Raises:
        Mistake: there is none.
    """
    found = sorted(file.parent for file in root.rglob(ARCHIVE))
    if not found:
        raise Mistake(f"There is no archive in {root}: clbench archive FOLDER {root}/NAME makes one.")
    return found


def columns(folder: Path) -> list[str]:
    """The ids that columns.txt of a folder names, the first to rank by; without the file a leaderboard's.

    Raises:
        Mistake: it names a summary that is not there, or cannot be read.
    """
    file = folder / COLUMNS
    try:
        ids = file.read_text(encoding="utf-8").split() if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{file} cannot be read: {error}.") from None
    return list(summaries(ids)) or list(DEFAULT)


def tables(folder: Path) -> dict[str, str]:
    """What is made of an archive to stand beside it, file name to text.

    Raises:
        Mistake: columns.txt names a summary that is not there.
    """
    results, (first, *others) = find(folder), columns(folder)
    boards = leaderboard(results, others, first)
    facts = (
        f"- {key}: {texts[0]}" if len(texts) == 1 else f"- {key}:\n" + "\n".join(f"  - {text}" for text in texts)
        for key, texts in provenance(results).items()
    )
    parts = [
        f"# {folder.resolve().name}",
        "Made from `runs.zip` by `clbench tables`. Not to be changed by hand: the tests make it again and compare.",
        render(boards, "md").strip(),
        "## Where these numbers come from",
        "\n".join(facts),
    ]
    return {"README.md": "\n\n".join(parts) + "\n", "table.csv": render(boards, "csv")}


def write_tables(folder: Path) -> None:
    """Make the tables of an archive anew."""
    for name, text in tables(folder).items():
        (folder / name).write_text(text, encoding="utf-8")


def stale(folder: Path) -> list[str]:
    """Where the tables beside an archive say another thing than the archive: `FILE:LINE: …`, the first of each file."""
    found = []
    for name, text in tables(folder).items():
        path = folder / name
        if not path.exists():
            found.append(f"{path} is not there")
            continue
        given = path.read_text(encoding="utf-8").split("\n")
        for number, (there, made) in enumerate(zip_longest(given, text.split("\n"), fillvalue=""), 1):
            if not _alike(there, made):
                found.append(f"{path}:{number}: {there}\n  the archive says: {made}")
                break
    return found


def _alike(line: str, other: str) -> bool:
    """Whether two lines are equal but for the last bits of numbers, which other versions of scipy may round apart."""
    if line == other:
        return True
    cells, others = (next(csv.reader([text]), []) for text in (line, other))
    try:
        return len(cells) == len(others) and all(
            a == b or isclose(float(a), float(b), rel_tol=1e-9) for a, b in zip(cells, others, strict=True)
        )
    except ValueError:
        return False
