"""MLflow as a mirror: the run folders are the truth, and a child process of low priority follows them.

What MLflow holds of a folder is a function of the folder, so `sync` may be repeated at will: runs are found again by a
tag, rows that were sent are counted, and every point has the same key, step and time whenever it is sent.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from clbench.errors import Mistake
from clbench.metric import Row
from clbench.result import Result, open_result, read_rows

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EVERY = 2.0
"""seconds between two looks at the folders; doubled up to `REST` while MLflow cannot be reached"""
REST = 60.0
LAST_TRIES = 3
"""how often the child tries to reach MLflow once its command has ended"""
SUBJECTS = 50
"""more subjects of one metric in one look than this are mirrored as their mean"""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
STATUS = {"done": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}

Point = tuple[str, float, int, int]
"""a metric's key, value, time in milliseconds, and step"""

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
_PLAIN = {
    "Connection refused": "it refuses the connection",
    "timed out": "it does not answer",
    "Failed to resolve": "there is no such host",
    "unable to open database file": "the file cannot be opened",
    "database is locked": "the file is locked by another process",
}


def default_uri(results: Path) -> str:
    """Where MLflow's store lies unless the user says otherwise: a SQLite file in the results folder."""
    return f"sqlite:///{results.resolve() / 'mlflow.db'}"


def flaw(uri: str) -> str | None:
    """What is wrong with a tracking URI on its face, in one line; None where nothing is."""
    scheme, separator, _ = uri.partition(":")
    if separator and scheme != "file":
        return None
    return (
        f"'{shown(uri)}' is a folder, and MLflow 3.13 and later refuses its file store. "
        "Name a database (sqlite:////path/mlflow.db) or a server (http://host:5000)."
    )


def shown(uri: str) -> str:
    """A tracking URI as it may be printed: without a password."""
    return re.sub(r"//[^/@]*@", "//", uri)


@dataclass
class Report:
    """What a `sync` did."""

    uri: str
    folders: int = 0
    """run folders that MLflow now agrees with"""
    points: int = 0
    """points of metrics sent"""
    behind: dict[Path, str] = field(default_factory=dict)
    """folders that could not be mirrored, and why"""

    def __str__(self) -> str:
        text = f"MLflow at {shown(self.uri)}: {self.folders} runs as in the results, {self.points} points new"
        if self.behind:
            folder, reason = next(iter(self.behind.items()))
            text += f"; {len(self.behind)} runs are behind ({folder}: {reason})"
        return text + "."


def sync(folders: Iterable[Path], uri: str | None, results: Path) -> Report:
    """Brings MLflow up to the state of run folders; what is there already is not sent again.

    One experiment per stream, one run per folder under a parent run per sweep. Seconds and memory are sent when the run
    has ended, because a resumed run measures them anew; summaries, tables and the figure likewise.

    Args:
        folders: run folders; one without `meta.json` has nothing to show yet and is passed over.
        uri: MLflow's tracking URI; None for `default_uri(results)`.
        results: holds the default store, the artefacts of stores that are databases, and the log of what went wrong.

    Raises:
        Mistake: the URI is one that MLflow has given up.
    """
    uri = uri or default_uri(results)
    if wrong := flaw(uri):
        raise Mistake(wrong)
    return _sync(folders, uri, results, set(), last=True)


def _sync(folders: Iterable[Path], uri: str, results: Path, sweeps: set[tuple[str, str]], last: bool) -> Report:
    """As `sync`; gathers the sweeps (experiment, run) of what it mirrors, and at the last brings them to an end."""
    report = Report(uri)
    there = [folder for folder in folders if (folder / "meta.json").exists()]
    if not there and not (last and sweeps):
        return report
    done: set[Path] = set()
    with _settings():
        try:
            with _alone(uri, results):
                client = _open(uri)
            for folder in there:
                try:
                    with _alone(uri, results):
                        report.points += _mirror(client, folder, results, sweeps)
                    done.add(folder)
                except Exception as error:
                    report.behind[folder] = _reason(error, results)
                    client.search_experiments(max_results=1)  # raises where MLflow, not the folder, is to blame
            for experiment, parent in sweeps if last else ():
                _close(client, experiment, parent)
        except Exception as error:
            left = [folder for folder in there if folder not in done] or [results]
            report.behind |= dict.fromkeys(left, _reason(error, results))
    report.folders = len(done)
    return report


def _mirror(client: MlflowClient, folder: Path, results: Path, sweeps: set[tuple[str, str]]) -> int:
    """Brings one run up to its folder, notes the sweep it belongs to, and returns how many points were sent."""
    result = open_result(folder)
    start = _milliseconds(result.meta["started"])
    run = _run(client, result, start, results)
    run_id, tags = run.info.run_id, run.data.tags
    if "mlflow.parentRunId" in tags:
        sweeps.add((run.info.experiment_id, tags["mlflow.parentRunId"]))

    sent = int(tags.get("clbench.rows", 0))
    rows = _looks(folder / "rows.csv", growing=result.state not in STATUS)
    finished = f"{result.state}, {len(rows)} rows, clbench {version('clbench')}"
    if tags.get("clbench.finished") == finished:
        return 0

    points = _points(rows[sent:], start)
    timings = read_rows(folder / "timings.csv")
    if result.state in ("done", "diverged"):
        points += _points(timings, start)
    if result.state == "done":
        step, when = int(result.status["step"]), start + int(result.status["at"])
        summaries = {id: value.number for id, value in result.summaries().items()}
        points += [(_key(id), number, when, step) for id, number in summaries.items() if number is not None]
    wanted = _tags(result) | {"clbench.rows": str(max(sent, len(rows)))}
    if "error" in tags and "error" not in wanted:
        client.delete_tag(run_id, "error")
    params = {_key(path): value[:6000] for path, value in result.config.items()}
    _send(
        client,
        run_id,
        points,
        params={key: value for key, value in params.items() if key not in run.data.params},
        tags={key: value for key, value in wanted.items() if tags.get(key) != value},
    )

    if result.state in STATUS:
        _artefacts(client, run_id, folder, rows)
        last = {row.metric: row.value or 0.0 for row in timings}
        seconds = sum(last.get(metric, 0.0) for metric in ("cost/train_seconds", "cost/exam_seconds"))
        client.set_terminated(run_id, STATUS[result.state], start + round(1000 * seconds))
        client.set_tag(run_id, "clbench.finished", finished)
    elif run.info.status != "RUNNING":
        client.update_run(run_id, "RUNNING")
    return len(points)


def _milliseconds(moment: str) -> int:
    """An ISO-8601 time as milliseconds since 1970; UTC unless it says otherwise."""
    when = datetime.fromisoformat(moment)
    return round(1000 * (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())


def _looks(path: Path, growing: bool) -> list[Row]:
    """The rows of a file; where it has grown since it was read, without the last look, which may be incomplete."""
    size = path.stat().st_size if path.exists() else 0
    rows = read_rows(path)
    if rows and growing:
        time.sleep(0.1)
        if path.stat().st_size != size:
            rows = [row for row in rows if (row.step, row.at) != (rows[-1].step, rows[-1].at)]
    return rows


def _points(rows: Iterable[Row], start: int) -> list[Point]:
    """Rows as points; of a look at many subjects, the mean, where each has a value."""
    looks: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        looks.setdefault((row.metric, row.step, row.at), []).append(row)
    points = []
    for (metric, step, at), group in looks.items():
        values = {f"{metric}/{row.subject}" if row.subject else metric: row.value for row in group}
        if len(values) > SUBJECTS:
            whole = [value for value in values.values() if value is not None]
            values = {f"{metric}/mean": sum(whole) / len(whole) if len(whole) == len(values) else None}
        place = at if metric == "train/loss" else step
        points += [(_key(name), value, start + at, place) for name, value in values.items() if value is not None]
    return points


def _key(name: str) -> str:
    """A name that MLflow takes; where it had to be changed, with a checksum, so that two names never become one."""
    clean = re.sub(r"[^\w/. :-]", "_", name, flags=re.ASCII)
    clean = "/".join(part for part in clean.split("/") if part.strip("."))
    return clean if clean == name and len(name) <= 250 else f"{clean[:240]}-{crc32(name.encode()):08x}"


def _tags(result: Result) -> dict[str, str]:
    """What a reader of MLflow filters by: a tag for each field of the protocol, too."""
    meta = result.meta
    tags = {name: meta.get(name) for name in ("stream", "strategy", "seed", "commit", "host", "device", "preset")}
    tags |= {"state": result.state, "error": result.status.get("error")}
    tags |= {"versions": ", ".join(f"{name} {value}" for name, value in meta.get("versions", {}).items())}
    tags |= {_key(f"axes/{name}"): value for name, value in meta.get("axes", {}).items()}
    tags |= {_key(f"protocol/{name}"): value for name, value in result.protocol.items()}
    tags |= {"mlflow.source.name": "clbench", "mlflow.source.git.commit": meta.get("commit")}
    return {name: str(value)[:5000] for name, value in tags.items() if value not in (None, "")}


def _run(client: MlflowClient, result: Result, start: int, results: Path) -> Run:
    """The MLflow run of a folder, created where there is none. A folder that was run anew is a new run."""
    experiment = _experiment(client, result.stream, results)
    folder = "/".join(Path(str(result.folder)).resolve().parts[-4:])
    identity = {"clbench.folder": folder, "clbench.started": result.meta["started"]}
    if run := _find(client, experiment, identity):
        return run
    if result.meta.get("sweep"):
        identity["mlflow.parentRunId"] = _parent(client, experiment, result.meta, start)
    title = f"{result.strategy} {result.hash[:6]} seed {result.seed}"
    return client.create_run(experiment, start, identity, title)


def _parent(client: MlflowClient, experiment: str, meta: dict[str, Any], start: int) -> str:
    """The id of the run that stands for a sweep, created where there is none."""
    identity = {"clbench.sweep": meta["sweep"]}
    run = _find(client, experiment, identity)
    if run is None:
        command = meta.get("command") or meta["sweep"]
        title = command if isinstance(command, str) else " ".join(command)
        tags = identity | {"stream": meta["stream"], "mlflow.source.name": "clbench"}
        run = client.create_run(experiment, start, tags, title[:250])
    return run.info.run_id


def _close(client: MlflowClient, experiment: str, parent: str) -> None:
    """Gives a sweep the state that follows from its runs."""
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=10000)
    states = {run.info.status for run in runs}
    state = next((name for name in ("RUNNING", "FAILED") if name in states), "FINISHED")
    end = max((run.info.end_time or 0 for run in runs), default=0)
    info = client.get_run(parent).info
    if state == "RUNNING" != info.status:
        client.update_run(parent, state)
    elif state != "RUNNING" and (state, end) != (info.status, info.end_time):
        client.set_terminated(parent, state, end)


def _find(client: MlflowClient, experiment: str, identity: dict[str, str]) -> Run | None:
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in identity.items())
    return next(iter(client.search_runs([experiment], wanted, max_results=1)), None)


def _experiment(client: MlflowClient, stream: str, results: Path) -> str:
    """The id of a stream's experiment, created where there is none. A server keeps artefacts where it likes."""
    from mlflow.exceptions import MlflowException

    name = f"clbench/{stream}"
    found = client.get_experiment_by_name(name)
    if found is None:
        database = client.tracking_uri.startswith(DATABASES)
        place = (results.resolve() / "mlartifacts" / stream).as_uri() if database else None
        note = "A mirror of run folders. The runs are under 'Model training'; + opens a sweep."
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": note}
        with suppress(MlflowException):  # another machine may have created it since
            return client.create_experiment(name, place, tags)
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise Mistake(f"MLflow's experiment '{name}' is deleted; bring it back with: mlflow experiments restore")
    return found.experiment_id


def _send(
    client: MlflowClient,
    run_id: str,
    points: list[Point],
    params: dict[str, str],
    tags: dict[str, str],
) -> None:
    """Logs within MLflow's limits for one batch. Tags come last: they say what has been sent."""
    from mlflow.entities import Metric, Param, RunTag

    for some in _batches([Param(*item) for item in params.items()], 100):
        client.log_batch(run_id, params=some)
    for some in _batches([Metric(*point) for point in points], 1000):
        client.log_batch(run_id, metrics=some)
    for some in _batches([RunTag(*item) for item in tags.items()], 100):
        client.log_batch(run_id, tags=some)


def _batches(things: list[Any], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(things), size):
        yield things[first : first + size]


def _artefacts(client: MlflowClient, run_id: str, folder: Path, rows: Sequence[Row]) -> None:
    for name in ("config.yaml", "meta.json", "rows.csv", "timings.csv"):
        if (folder / name).exists():
            client.log_artifact(run_id, str(folder / name))
    from clbench.figures import accuracy_matrix

    if figure := accuracy_matrix(rows):
        client.log_figure(run_id, figure, "accuracy_matrix.png", save_kwargs={"dpi": 150})


@contextmanager
def _settings() -> Iterator[None]:
    """MLflow's own settings for a quiet mirror that does not hang, where the user has not chosen others."""
    ours = {name: value for name, value in _SETTINGS.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's use of its own dependencies
            yield
    finally:
        for name in ours:
            del os.environ[name]


@contextmanager
def _alone(uri: str, results: Path) -> Iterator[None]:
    """Holds the lock of a store: tables, experiments and runs are created by one process at a time."""
    file = uri.partition("?")[0].removeprefix("sqlite:///")
    lock = Path(f"{file}.lock") if uri.startswith("sqlite:///") else results / ".mirror" / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _open(uri: str) -> MlflowClient:
    """A client of a store that answers; a store that is empty gets its tables here."""
    from mlflow import MlflowClient

    if uri.startswith(DATABASES):
        import mlflow.store.db.utils

        mlflow.store.db.utils.MAX_RETRY_COUNT = 3  # ten, which take 100 s, otherwise
    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


def _reason(error: Exception, results: Path) -> str:
    """Why MLflow is behind, in a few plain words; the whole story goes to the log."""
    with suppress(OSError), (results / "mlflow.log").open("a") as log:
        log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} clbench.mirror: ")
        traceback.print_exception(error, file=log)
    text = str(error)
    plain = next((plain for sign, plain in _PLAIN.items() if sign in text), None)
    return plain or shown(text.strip().partition("\n")[0][:200]) or type(error).__name__


def follow(results: Path, listing: Path, uri: str, parent_pid: int) -> None:
    """The child's life: mirrors the folders that `listing` names, until its parent has ended or has said `end`.

    Args:
        results: as `sync` has it.
        listing: a folder per line, appended by the parent. While MLflow is behind, the reason stands beside it.
        uri: MLflow's tracking URI.
        parent_pid: the process whose child this is.
    """
    os.nice(19)
    behind = listing.with_suffix(".behind")
    seen: dict[Path, object] = {}
    sweeps: set[tuple[str, str]] = set()
    pause, tries = EVERY, 0
    while True:
        folders, over = _told(listing, parent_pid)
        marks = {folder: _mark(folder) for folder in folders}
        fresh = [folder for folder in folders if folder not in seen or marks[folder] != seen[folder]]
        report = _sync(fresh, uri, results, sweeps, last=over)
        seen |= {folder: marks[folder] for folder in fresh if folder not in report.behind}
        reason = next(iter(report.behind.values()), "")
        if reason:
            behind.write_text(reason)
        else:
            behind.unlink(missing_ok=True)
        tries += over
        if over and (not reason or tries == LAST_TRIES):
            break
        pause = min(2 * pause, REST) if reason and not over else EVERY
        until = time.monotonic() + pause
        while time.monotonic() < until and (over or not _told(listing, parent_pid)[1]):
            time.sleep(0.2)
    listing.unlink(missing_ok=True)
    behind.unlink(missing_ok=True)


def _told(listing: Path, parent_pid: int) -> tuple[list[Path], bool]:
    """The folders named so far, and whether there will be no more."""
    over = os.getppid() != parent_pid
    lines = listing.read_text().split("\n")[:-1] if listing.exists() else ["end"]
    return [Path(line) for line in dict.fromkeys(lines) if line != "end"], over or "end" in lines


def _mark(folder: Path) -> object:
    """What changes when there is something new to mirror in a folder."""
    files = [folder / name for name in ("meta.json", "status.json", "rows.csv")]
    return [(stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in files if file.exists())]


@dataclass
class Mirror:
    """MLflow for one command: a child process that follows its run folders. Nothing here waits for MLflow or raises.

    The child starts with the first folder, so a command that runs nothing starts nothing.
    """

    results: Path
    uri: str = ""
    """MLflow's tracking URI; empty for `default_uri(results)`"""
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)
    listing: Path | None = field(default=None, init=False)
    trouble: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.uri = self.uri or default_uri(self.results)

    def add(self, folder: Path) -> None:
        """From now on `folder` is mirrored."""
        try:
            if self.listing is None and not self.trouble:
                self._start()
            self._tell(str(folder.resolve()))
        except OSError as error:
            self.trouble = str(error)

    def close(self, wait: float) -> str | None:
        """Lets the child finish, for at most `wait` seconds, or until it fails to; after that it goes on alone.

        Returns:
            One line for the user where MLflow is behind, else None.
        """
        reason = self.trouble
        if self.child is not None and self.listing is not None:
            behind = self.listing.with_suffix(".behind")
            until = time.monotonic() + wait
            try:
                known = behind.read_text() if behind.exists() else ""
                behind.unlink(missing_ok=True)
                self._tell("end")
                while self.child.poll() is None and not behind.exists() and time.monotonic() < until:
                    time.sleep(0.05)
                if behind.exists():
                    reason = behind.read_text()
                elif self.child.poll() is None:
                    reason = known or f"it needs more than {wait:g} s (it goes on in the background)"
                elif self.child.returncode:
                    reason = f"its process stopped (see {self.results / 'mlflow.log'})"
            except OSError as error:
                reason = str(error)
        if not reason:
            return None
        return f"MLflow at {shown(self.uri)} is behind: {reason}; the results are complete; later: clbench sync"

    def _start(self) -> None:
        """The child has its own process group, so Ctrl-C is not meant for it, but no session of its own: Linux shares
        processor time between sessions before it looks at priorities."""
        self.trouble = flaw(self.uri) or ""
        if self.trouble:
            return
        place = self.results / ".mirror"
        place.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(".listing", dir=place)
        os.close(number)
        self.listing = Path(name)
        with (self.results / "mlflow.log").open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-P", "-m", "clbench.mirror", self.results, self.listing, str(os.getpid())],
                env=os.environ | {"MLFLOW_TRACKING_URI": self.uri, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def _tell(self, line: str) -> None:
        if self.listing is not None:
            with self.listing.open("a") as file:
                file.write(f"{line}\n")


if __name__ == "__main__":
    follow(Path(sys.argv[1]), Path(sys.argv[2]), os.environ["MLFLOW_TRACKING_URI"], int(sys.argv[3]))
