"""Run folders that nothing ran: what the readers of results are tested on."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clbench.metric import Row

FORGETS = ((0.90,), (0.60, 0.88), (0.70, 0.40, 0.92), (0.62, 0.55, 0.70, 0.90))
"""the matrix R of docs/metrics.md: what was learned is forgotten"""
IMPROVES = ((0.60,), (0.70, 0.50), (0.75, 0.60, 0.90))
"""the matrix Rup of docs/metrics.md: old exams become better"""
HASH = "0123456789ab"
PROTOCOL = {"stream": "toy", "model": "mlp", "epochs": 5, "batch": 32, "order": "natural", "pretrained": None}


def matrix_rows(
    matrix: Sequence[Sequence[float | None]],
    metric: str = "class/accuracy",
    n: int | Sequence[int] = 100,
    untrained: Sequence[float | None] = (),
    note: str = "",
) -> list[Row]:
    """A lower triangular matrix (row t: after t + 1 experiences) as rows, exam j first taught by experience j.

    Args:
        matrix: accuracies; rows may be longer, for exams not taught yet. None: no value, because of `note`.
        n: samples in each exam.
        untrained: accuracies at step 0.
    """
    exams = len(matrix)
    sizes = [n] * exams if isinstance(n, int) else list(n)
    rows = [Row(0, 0, "exam/since", f"e{exam}", exam) for exam in range(exams)]
    rows += [Row(0, 0, "exam/until", f"e{exam}", None, 0, "never") for exam in range(exams)]
    for step, cells in enumerate([untrained, *matrix]):
        rows += [
            Row(step, 10 * step, metric, f"e{exam}", value, sizes[exam], "" if value is not None else note)
            for exam, value in enumerate(cells)
        ]
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Rows as a run writes them."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)


def write_run(
    root: Path,
    strategy: str = "er",
    seed: int = 0,
    matrix: Sequence[Sequence[float | None]] = FORGETS,
    *,
    rows: Iterable[Row] | None = None,
    timings: Iterable[Row] = (),
    hash: str = HASH,
    protocol: dict[str, Any] | None = None,
    state: str = "done",
    at: int = 40,
    error: str = "",
    **meta: Any,
) -> Path:
    """Writes a run folder and returns it. `protocol` and `meta` replace single fields of what is usual."""
    protocol = PROTOCOL | (protocol or {})
    folder = root / str(protocol["stream"]) / strategy / hash / f"seed-{seed}"
    folder.mkdir(parents=True)
    config = {"stream": protocol["stream"], "strategy": strategy, "seed": str(seed)} | meta.pop("config", {})
    about = {
        "format": 1,
        "stream": protocol["stream"],
        "strategy": strategy,
        "seed": seed,
        "hash": hash,
        "protocol": protocol,
        "axes": {},
        "versions": {},
        "data": {},
        "started": "2026-01-01T00:00:00+00:00",
        "sweep": "",
        "config": config,
        "whole_stream": False,
        "preset": "",
    }
    (folder / "meta.json").write_text(json.dumps(about | meta))
    (folder / "status.json").write_text(
        json.dumps({"state": state, "step": len(matrix), "at": at, "error": error, "pid": 1})
    )
    (folder / "config.yaml").write_text("".join(f"{path}: {value}  # command line\n" for path, value in config.items()))
    write_rows(folder / "rows.csv", matrix_rows(matrix) if rows is None else rows)
    write_rows(folder / "timings.csv", timings)
    return folder


def write_predictions(folder: Path, steps: int = 3, exams: int = 2, seed: int = 0) -> None:
    """Answers at chance to exams of two classes each, and the rows that they give."""
    rng = np.random.default_rng(seed)
    truth = {f"e{exam}": rng.integers(0, 2, 30 + exam) + 2 * exam for exam in range(exams)}
    (folder / "predictions").mkdir()
    np.savez(folder / "predictions" / "truth.npz", **truth)  # type: ignore[arg-type]
    rows = [row for row in matrix_rows([[]] * exams) if row.metric.startswith("exam/")]
    for step in range(steps):
        answers = {}
        for readout, classes in (("class", 2 * exams), ("task", 2)):
            for exam, (name, labels) in enumerate(truth.items()):
                given = (rng.integers(0, classes, len(labels)) + (2 * exam if readout == "task" else 0)).astype(
                    np.uint8
                )
                answers[f"{readout}/{name}"] = given
                right = sum(int(a) == int(b) for a, b in zip(given, labels, strict=True))
                rows.append(Row(step, 7 * step, f"{readout}/accuracy", name, right / len(labels), len(labels)))
        np.savez(folder / "predictions" / f"{step:03}.npz", **answers)  # type: ignore[arg-type]
    write_rows(folder / "rows.csv", rows)
