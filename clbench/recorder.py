"""The folder of a run: rows, timings, answers, what was run, and how it stands.

The files are the truth: everything that is shown of a run is computed from them.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
import socket
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clbench.checkpoint import write_atomically
from clbench.errors import Busy, Mistake
from clbench.metric import Row

HEADER = ",".join(Row._fields) + "\n"
SURROUNDINGS = ("commit", "versions", "python", "host", "system", "device")
"""what meta.json says of where a run was made"""


def line(row: Row) -> str:
    """A row as a line of csv; numbers in full, undefined as nothing."""
    text = io.StringIO()
    value = "" if row.value is None else repr(float(row.value))
    csv.writer(text, lineterminator="\n").writerow([*row[:4], value, *row[5:]])
    return text.getvalue()


class Recorder:
    """Writes a run's folder, and holds it: while it is open no other process can write there.

    Raises:
        Busy: another process holds the folder.
        Mistake: the file system knows no locks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(folder / ".lock", "a+")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "another process"
            self._lock.close()
            raise Busy(f"{folder} is being run by {owner}; wait until it ends, or stop it.") from None
        except OSError as error:
            self._lock.close()
            raise Mistake(f"{folder} can't be locked ({error.strerror}); take results=FOLDER elsewhere.") from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def clear(self) -> None:
        """Forget everything that was recorded here; first what a command would skip the run or go on by."""
        first = ("status.json", "checkpoint")
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name not in first):
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def state(self) -> dict[str, Any]:
        """How the run stands; empty where nothing was recorded."""
        try:
            return json.loads((self.folder / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}

    def describe(self, config: str, meta: dict[str, Any]) -> None:
        """Write down what is run: the configuration, and where it came from."""
        write_atomically(self.folder / "config.yaml", config.encode())
        write_atomically(self.folder / "meta.json", json.dumps(meta, indent=1).encode())

    def goes_on(self, meta: dict[str, Any]) -> None:
        """Write down, as `resumed`, where a run that was interrupted goes on in other surroundings than it was in."""
        told = json.loads((self.folder / "meta.json").read_bytes())
        before: dict[str, Any] = {name: told.get(name) for name in SURROUNDINGS}
        for earlier in told.get("resumed", []):
            before |= earlier
        if changed := {name: meta[name] for name in SURROUNDINGS if name in meta and meta[name] != before[name]}:
            told["resumed"] = [*told.get("resumed", []), changed]
            write_atomically(self.folder / "meta.json", json.dumps(told, indent=1).encode())

    def status(self, state: str, step: int = 0, at: int = 0, error: str = "") -> None:
        """Say how the run stands: running, done, diverged or failed; done, how long rows.csv is."""
        content: dict[str, Any] = {"state": state, "step": step, "at": at, "error": error, "pid": os.getpid()}
        if state == "done":
            content["rows_bytes"] = self.lengths()["rows.csv"]
        write_atomically(self.folder / "status.json", json.dumps(content).encode())

    def write(self, rows: Iterable[Row], file: str = "rows.csv") -> None:
        """Append rows to rows.csv, or to timings.csv: what a second run would not repeat."""
        path = self.folder / file
        text = "".join(map(line, rows))
        with open(path, "a", encoding="utf-8") as out:
            out.write(text if out.tell() else HEADER + text)

    def answers(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Write predictions/`name`.npz, under any keys (`np.savez` has a name of its own for one)."""
        (self.folder / "predictions").mkdir(exist_ok=True)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
            for key, array in arrays.items():
                with file.open(f"{key}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array)
        write_atomically(self.folder / "predictions" / f"{name}.npz", content.getvalue())

    def lengths(self) -> dict[str, int]:
        """Bytes of the files that grow, on the disk when this returns."""
        sizes = {}
        for name in ("rows.csv", "timings.csv"):
            path = self.folder / name
            if path.exists():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            sizes[name] = path.stat().st_size if path.exists() else 0
        return sizes

    def clear_rows(self) -> None:
        """Forget the rows, as a run does that starts from nothing."""
        self.cut({"rows.csv": 0, "timings.csv": 0})

    def cut(self, sizes: dict[str, int]) -> bool:
        """Cut the files that grow back to these lengths; False, and nothing is cut, where one is shorter than that."""
        there = {path: path.stat().st_size if path.exists() else 0 for path in map(self.folder.joinpath, sizes)}
        if any(length < size for length, size in zip(there.values(), sizes.values(), strict=True)):
            return False
        for path, size in zip(there, sizes.values(), strict=True):
            if path.exists():
                os.truncate(path, size)
        return True
