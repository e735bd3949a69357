"""One run, read back from its folder: the files are the truth, and every number is computed from them."""

from __future__ import annotations

import csv
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from clbench.catalogue import names, resolve
from clbench.errors import Mistake, unknown
from clbench.metric import Row, Summary, Value, exact

if TYPE_CHECKING:
    import pandas as pd


ARCHIVE = "runs.zip"
"""the file of an archive (clbench/archive.py): folders of runs that stand with the sources"""
NEEDED = {"stream", "strategy", "seed", "hash", "protocol"}
"""what meta.json says at the least"""
DAMAGED = (OSError, ValueError, zipfile.BadZipFile, zlib.error)
"""what reading a damaged file raises, on the disk or in an archive"""


@dataclass(frozen=True)
class Result:
    """A run's folder."""

    folder: Path | zipfile.Path
    """on the disk, or in an archive"""
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
        """What two runs must share to be ranked together; what is null stands for nothing, and is left out."""
        return {field: value for field, value in self.meta["protocol"].items() if value is not None}

    @property
    def config(self) -> dict[str, str]:
        """Each option's path and its value, as on the command line."""
        return self.meta.get("config", {})

    @property
    def preset(self) -> str:
        """Where the strategy's options come from."""
        return self.meta.get("preset", "")

    @property
    def state(self) -> str:
        """`running`, `done`, `diverged` or `failed`."""
        return self.status.get("state", "running")

    def rows(self) -> list[Row]:
        """Every row written so far: what a rerun repeats, then timings."""
        return [row for name in ("rows.csv", "timings.csv") for row in read_rows(self.folder / name)]

    def summaries(self, ids: Iterable[str] | None = None) -> dict[str, Value]:
        """The summaries of the catalogue, or those named. A run that is not done has none, and the reason is said.

        Raises:
            Mistake: there is no such summary, or a line of the files is no row.
        """
        if reason := trouble([self]) or self._short():
            return {id: Value(None, reason) for id in summaries(ids)}
        return summarise(self.rows(), ids)

    def _short(self) -> str:
        """Why rows.csv is not whole; empty where it is, or nobody knows how long it was."""
        file, length = self.folder / "rows.csv", self.status.get("rows_bytes", 0)
        there = file.stat().st_size if isinstance(file, Path) and file.exists() else 0
        return "rows.csv is cut short; clbench run --again makes it anew" if there < length else ""


def summaries(ids: Iterable[str] | None = None) -> dict[str, Summary]:
    """The summaries of these ids; None: all of the catalogue, where a name with a group (`class/bwt`) is a summary's.

    Raises:
        Mistake: there is no such summary.
    """
    found = {name: resolve("metric", name) for name in names("metric") if "/" in name}
    known = {name: summary for name, summary in found.items() if isinstance(summary, Summary)}
    wanted = known if ids is None else list(ids)
    for id in wanted:
        if id not in known:
            raise unknown("summary", id, known)
    return {id: known[id] for id in wanted}


def summarise(rows: Sequence[Row], ids: Iterable[str] | None = None) -> dict[str, Value]:
    """The summaries of the catalogue, or those named, of the rows of one run."""
    return {id: summary.compute(rows) for id, summary in summaries(ids).items()}


def trouble(group: Sequence[Result]) -> str:
    """Which of some runs are not done, and why; empty where all are."""
    texts = []
    for state in sorted({result.state for result in group} - {"done"}):
        there = [result.status for result in group if result.state == state]
        of = f"{len(there)} of {len(group)} " if len(group) > 1 else ""
        if state == "diverged":
            texts.append(f"{of}diverged at step {', '.join(str(status.get('at', '?')) for status in there)}")
        elif state == "failed":
            errors = dict.fromkeys(status.get("error", "") for status in there)
            texts.append(shorten(f"{of}failed: {'; '.join(errors)}", 80, placeholder=" …"))
        else:
            texts.append(f"{of}not finished")
    return "; ".join(texts)


def open_result(folder: str | Path | zipfile.Path) -> Result:
    """The run in this folder.

    Raises:
        Mistake: it is no run folder, or meta.json or status.json cannot be read.
    """
    folder = Path(folder) if isinstance(folder, str) else folder
    if not (folder / "meta.json").exists():
        raise Mistake(f"{folder} is no run folder: it has no meta.json.")
    meta, status = (_read(folder / name) for name in ("meta.json", "status.json"))
    if not (isinstance(meta, dict) and meta.keys() >= NEEDED and isinstance(status, dict)):
        raise Mistake(f"{folder} is no run folder: its meta.json is none of clbench's; move it elsewhere.")
    return Result(folder, meta, status)


def _read(file: Path | zipfile.Path) -> Any:
    """What a JSON file holds; nothing where there is none.

    Raises:
        Mistake: it cannot be read.
    """
    try:
        return json.loads(file.read_bytes()) if file.exists() else {}
    except DAMAGED as error:
        raise Mistake(
            f"{file} cannot be read: {error}. Move the folder away, or run it anew: clbench run … --again."
        ) from None


def find(root: str | Path) -> list[Result]:
    """All runs in and beneath a folder, in the order of their paths; those of archives too.

    Beneath `results` the folder `reference` is left out, as what others measured would mix with one's own: it is read
    where it is named.

    Raises:
        Mistake: there is no such folder, or a run's files cannot be read.
    """
    if not Path(root).is_dir():
        raise Mistake(f"There is no folder {root}.")
    results = []
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if name not in ("mlartifacts", "reference"))
        if "meta.json" in files:
            results.append(open_result(folder))
            inner.clear()
        elif ARCHIVE in files:
            results += map(open_result, _archived(Path(folder, ARCHIVE)))
    return results


def _archived(file: Path) -> list[zipfile.Path]:
    """The folders of runs in an archive.

    Raises:
        Mistake: it is none.
    """
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise Mistake(f"{file} is no archive of runs: {error}.") from None
    ends = sorted(name for name in archive.namelist() if name.endswith("/meta.json"))
    return [zipfile.Path(archive, name.removesuffix("meta.json")) for name in ends]


def read_rows(path: Path | zipfile.Path) -> list[Row]:
    """The rows of a file, without a last line that is still being written; none where there is no file.

    Raises:
        Mistake: the file cannot be read, or a line is no row.
    """
    if not path.exists():
        return []
    try:
        complete = path.read_text(encoding="utf-8").split("\n")[1:-1]
    except DAMAGED as error:
        raise Mistake(f"{path} cannot be read: {error}.") from None
    rows = []
    for number, line in enumerate(csv.reader(complete), 2):
        try:
            step, at, metric, subject, value, n, note = line
            rows.append(Row(int(step), int(at), metric, subject, float(value) if value else None, int(n or 0), note))
        except ValueError:
            raise Mistake(f"{path}:{number} is no row ({','.join(Row._fields)}): {','.join(line)}") from None
    return rows


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
        Mistake: there are no predictions, or answers without a truth to go with them.
    """
    import numpy as np

    folder = result.folder / "predictions"
    if isinstance(folder, zipfile.Path) or not (folder / "truth.npz").exists():
        raise Mistake(f"{result.folder} has no predictions: there is no predictions/truth.npz.")
    at = {row.step: row.at for row in reversed(read_rows(result.folder / "rows.csv"))}
    with np.load(folder / "truth.npz", allow_pickle=False) as file:
        truth = dict(file)
    rows = []
    for path in sorted(folder.glob("[0-9]*.npz"), key=lambda path: int(path.stem)):
        with np.load(path, allow_pickle=False) as file:
            answers = dict(file)
        for name, given in answers.items():
            readout, _, exam = name.partition("/")
            if readout not in ("class", "task"):
                continue
            if exam not in truth or len(truth[exam]) != len(given):
                raise Mistake(f"{path}: {name} has {len(given)} answers, the truth {len(truth.get(exam, ()))}.")
            step, right = int(path.stem), int(exact(given, truth[exam]).sum())
            rows.append(Row(step, at.get(step, 0), f"{readout}/accuracy", exam, right / len(given), len(given)))
    return rows
