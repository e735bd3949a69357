"""MLflow mirrors run folders: what it holds, that a second time changes nothing, and that its absence costs nothing."""

import csv
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clbench.errors import Mistake
from clbench.figures import accuracy_matrix
from clbench.metric import Row
from clbench.mirror import Mirror, Report, _key, _looks, default_uri, flaw, shown, sync

STARTED = 1_760_000_000_000
PATIENCE = 200
"""seconds for what takes a few: the child gives way to all else on the machine"""


def look(step: int, exams: int = 3) -> list[Row]:
    """The rows of one look of a run whose accuracy on exam e after t experiences is (t + e) / 10."""
    rows = [Row(0, 0, "exam/since", f"exam {e}", float(e)) for e in range(exams)] if step == 0 else []
    if step:
        rows += [Row(step - 1, 10 * step - 5, "train/loss", "", 2.0 / step)]
    rows += [Row(step, 10 * step, "class/accuracy", f"exam {e}", (step + e) / 10, 100) for e in range(exams)]
    return [*rows, Row(step, 10 * step, "task/accuracy", "", None, 0, "experiences share classes")]


def append(file: Path, rows: list[Row]) -> None:
    with file.open("a", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        if not out.tell():
            writer.writerow(Row._fields)
        writer.writerows(rows)


def write_run(results: Path, stream: str, seed: int = 0, state: str = "done", looks: int = 4, **meta: object) -> Path:
    """A run folder as a run leaves it: `looks` looks of a stream with three exams."""
    folder = results / stream / "er" / "0123456789ab" / f"seed-{seed}"
    folder.mkdir(parents=True)
    described = {
        "format": 1,
        "stream": stream,
        "strategy": "er",
        "seed": seed,
        "hash": "0123456789ab",
        "protocol": {"epochs": 1, "evaluation_mask": "seen", "order": None},
        "axes": {"memory": 500},
        "versions": {"torch": "2.13", "clbench": "0.1"},
        "data": {"digits": "00"},
        "started": "2025-10-09T08:53:20+00:00",
        "host": "here",
        "python": "3.11",
        "commit": "abc123",
        "device": "cpu",
        "sweep": "",
        "config": {"stream": stream, "strategy": "er", "strategy.size": "500", "long": "x" * 7000},
        "whole_stream": False,
        "preset": "untuned",
    }
    (folder / "meta.json").write_text(json.dumps(described | meta))
    (folder / "config.yaml").write_text(f"stream: {stream}  # command line\n")
    for step in range(looks):
        append(folder / "rows.csv", look(step))
        append(
            folder / "timings.csv",
            [
                Row(step, 10 * step, "cost/train_seconds", "", 2.0 * step),
                Row(step, 10 * step, "cost/exam_seconds", "", 0.5 * step),
            ],
        )
    write_status(folder, state, looks - 1)
    return folder


def write_status(folder: Path, state: str, step: int = 0, error: str = "") -> None:
    status = {"state": state, "step": step, "at": 10 * step, "error": error, "pid": 1}
    (folder / "status.json").write_text(json.dumps(status))


def counts(results: Path) -> dict[str, int]:
    with sqlite3.connect(results / "mlflow.db") as store:
        found = {
            table: store.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("experiments", "runs", "metrics", "params", "tags")
        }
    store.close()
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a sweep of two runs, mirrored."""
    results = tmp_path_factory.mktemp("a place") / "results"
    folders = [write_run(results, "sweeping", seed, sweep="s1", command="strategy=er seed=0,1") for seed in (0, 1)]
    report = sync(folders, None, results)
    assert not report.behind, report.behind
    assert report.folders == 2
    return results


@pytest.fixture(scope="module")
def client(results: Path):
    from mlflow import MlflowClient

    return MlflowClient(default_uri(results))


def the_run(client, stream: str, seed: int = 0):
    experiment = client.get_experiment_by_name(f"clbench/{stream}")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.seed = '{seed}'")
    return run


def history(client, run, key: str) -> list[tuple[int, float, int]]:
    return sorted(
        (point.step, point.value, point.timestamp) for point in client.get_metric_history(run.info.run_id, key)
    )


def test_a_run_holds_the_folder(results, client):
    run = the_run(client, "sweeping")
    assert history(client, run, "class/accuracy/exam 2") == [
        (step, (step + 2) / 10, STARTED + 10 * step) for step in range(4)
    ]
    assert history(client, run, "train/loss") == [
        (5, 2.0, STARTED + 5),
        (15, 1.0, STARTED + 15),
        (25, 2 / 3, STARTED + 25),
    ]
    assert history(client, run, "cost/train_seconds")[-1] == (3, 6.0, STARTED + 30)
    assert history(client, run, "class/final_accuracy") == [(3, pytest.approx(0.4), STARTED + 30)]
    assert not any(key.startswith("task/") for key in run.data.metrics)
    assert run.data.params["strategy.size"] == "500"
    assert run.data.params["long"] == "x" * 6000
    tags = run.data.tags
    assert {name: tags[name] for name in ("stream", "strategy", "seed", "commit", "state", "versions")} == {
        "stream": "sweeping",
        "strategy": "er",
        "seed": "0",
        "commit": "abc123",
        "state": "done",
        "versions": "torch 2.13, clbench 0.1",
    }
    assert (tags["axes/memory"], tags["protocol/evaluation_mask"]) == ("500", "seen")
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", STARTED, STARTED + 7500)
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {"config.yaml", "meta.json", "rows.csv", "timings.csv", "accuracy_matrix.png"}
    assert list((results / "mlartifacts" / "sweeping").rglob("accuracy_matrix.png"))


def test_a_sweep_is_the_parent_of_its_runs(client):
    runs = [the_run(client, "sweeping", seed) for seed in (0, 1)]
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    parent = client.get_run(parent)
    assert parent.info.run_name == "strategy=er seed=0,1"
    assert (parent.info.status, parent.info.end_time) == ("FINISHED", STARTED + 7500)


def test_a_second_sync_adds_nothing(results):
    before = counts(results)
    report = sync(sorted(results.glob("sweeping/*/*/*")), None, results)
    assert (report.points, report.folders, report.behind) == (0, 2, {})
    assert counts(results) == before


def test_a_sync_cut_short_is_completed(results, client, monkeypatch):
    from mlflow import MlflowClient

    folder = write_run(results, "cut short")
    monkeypatch.setattr(MlflowClient, "log_artifact", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    report = sync([folder], None, results)
    assert report.behind == {folder: "disk full"}
    assert "disk full" in (results / "mlflow.log").read_text()
    assert the_run(client, "cut short").info.status == "RUNNING"
    before = counts(results)
    monkeypatch.undo()
    assert not sync([folder], None, results).behind
    run = the_run(client, "cut short")
    assert (run.info.status, run.data.metrics["class/final_accuracy"]) == ("FINISHED", pytest.approx(0.4))
    assert len(client.list_artifacts(run.info.run_id)) == 5
    assert counts(results) == before | {"tags": before["tags"] + 1}


def test_a_growing_run_is_followed_and_a_resumed_one_sent_once(results, client):
    folder = write_run(results, "growing", state="running", looks=2)
    rows = folder / "rows.csv"
    with rows.open("a") as out:
        out.write("1,12,train/loss,,0.")
    sync([folder], None, results)
    run = the_run(client, "growing")
    assert (run.info.status, run.info.end_time) == ("RUNNING", None)
    assert [point[0] for point in history(client, run, "class/accuracy/exam 0")] == [0, 1]
    assert [point[0] for point in history(client, run, "train/loss")] == [5]
    assert not history(client, run, "cost/train_seconds")

    rows.unlink()
    append(rows, look(0))
    write_status(folder, "failed", 0, "RuntimeError: out of memory")
    sync([folder], None, results)
    run = the_run(client, "growing")
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "RuntimeError: out of memory")

    for step in (1, 2, 3):
        append(rows, look(step))
    write_status(folder, "running", 0)
    sync([folder], None, results)
    assert the_run(client, "growing").info.status == "RUNNING"
    write_status(folder, "done", 3)
    sync([folder], None, results)
    run = the_run(client, "growing")
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags
    for key, steps in {"class/accuracy/exam 0": [0, 1, 2, 3], "train/loss": [5, 15, 25]}.items():
        assert [point[0] for point in history(client, run, key)] == steps


def test_a_run_done_anew_is_a_new_run(results, client):
    folder = write_run(results, "anew")
    sync([folder], None, results)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"started": "2025-10-09T09:53:20+00:00"}))
    sync([folder], None, results)
    experiment = client.get_experiment_by_name("clbench/anew")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.start_time for run in runs) == [STARTED, STARTED + 3_600_000]


def test_many_subjects_are_mirrored_as_their_mean(results, client):
    folder = write_run(results, "many", looks=1)
    modules = [Row(0, 0, "drift/l2", f"block.{i}", float(i)) for i in range(51)]
    holed = [Row(0, 0, "drift/cosine", f"block.{i}", None if i == 7 else 1.0) for i in range(51)]
    few = [Row(0, 0, "drift/few", f"block.{i}", 1.0) for i in range(50)]
    append(folder / "rows.csv", [*modules, *holed, *few])
    sync([folder], None, results)
    drift = {key: value for key, value in the_run(client, "many").data.metrics.items() if key.startswith("drift")}
    assert drift.pop("drift/l2/mean") == 25.0
    assert set(drift) == {f"drift/few/block.{i}" for i in range(50)}


def test_one_bad_folder_does_not_hold_up_the_others(results):
    bad, good, empty = write_run(results, "bad"), write_run(results, "good"), results / "bad" / "er" / "0" / "seed-0"
    (bad / "meta.json").write_text("{")
    report = sync([bad, empty, good], None, results)
    assert set(report.behind) == {bad}
    assert report.folders == 1
    assert "1 runs are behind" in str(report)


@pytest.mark.parametrize("name", ["a+b", "a*b", "a//b", "../a", "a/./b", "x" * 300, "ünï", "ok: 1.2-3_4/x y"])
def test_keys_are_names_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric_name, _validate_param

    _validate_metric_name(_key(name))
    _validate_param(_key(name), "1")
    assert (_key(name) == name) == name.startswith("ok")


def test_keys_of_two_names_differ():
    assert _key("a+b") != _key("a*b")


def test_rows_added_while_reading_leave_the_last_look_for_later(tmp_path, monkeypatch):
    file = tmp_path / "rows.csv"
    append(file, [*look(0), *look(1)[:2]])
    assert _looks(file, growing=True) == [*look(0), *look(1)[:2]]
    monkeypatch.setattr("clbench.mirror.time.sleep", lambda _: append(file, look(1)[2:]))
    assert _looks(file, growing=True) == [*look(0), look(1)[0]]
    assert _looks(file, growing=False) == [*look(0), *look(1)]


def test_the_figure_shows_the_matrix():
    rows = [row for step in range(4) for row in look(step)]
    rows[4] = rows[4]._replace(value=None)
    figure = accuracy_matrix(rows)
    (axes, _) = figure.axes
    shown_cells = [text.get_text() for text in axes.texts]
    assert shown_cells == ["0.00", "–", "0.20", "0.10", "0.20", "0.30", "0.20", "0.30", "0.40", "0.30", "0.40", "0.50"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["exam 0", "exam 1", "exam 2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("exam", "experiences learned")
    assert accuracy_matrix([Row(0, 0, "train/loss", "", 1.0)]) is None


def test_addresses():
    assert default_uri(Path("/a b/results")) == "sqlite:////a b/results/mlflow.db"
    assert shown("postgresql://me:secret@host/db") == "postgresql://host/db"
    assert flaw("http://localhost:5000") is flaw("sqlite:////x.db") is None
    for store in ("file:///tmp/mlruns", "mlruns", "/tmp/mlruns"):
        assert "sqlite:////path/mlflow.db" in flaw(store)
        with pytest.raises(Mistake):
            sync([], store, Path())


def test_the_module_imports_nothing_heavy():
    code = "import sys, clbench.mirror; print({'mlflow', 'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"set()"


@pytest.fixture
def hanging():
    """The address of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_sync_with_a_server_that_refuses(results, refusing, tmp_path, capfd):
    folders = sorted(results.glob("sweeping/*/*/*"))
    start = time.monotonic()
    report = sync(folders, refusing, tmp_path)
    assert time.monotonic() - start < 20
    assert report.behind == dict.fromkeys(folders, "it refuses the connection")
    assert capfd.readouterr() == ("", "")


def test_sync_with_a_server_that_hangs(results, hanging, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    folders = sorted(results.glob("sweeping/*/*/*"))
    start = time.monotonic()
    report = sync(folders, hanging, tmp_path)
    assert time.monotonic() - start < 20
    assert report.behind == dict.fromkeys(folders, "it does not answer")
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_the_child_mirrors_what_it_is_told(results, client):
    mirror = Mirror(results)
    assert mirror.child is None
    mirror.add(write_run(results, "told", 0))
    mirror.add(write_run(results, "told", 1, "diverged"))
    assert mirror.close(PATIENCE) is None
    for seed, status in enumerate(["FINISHED", "FAILED"]):
        run = the_run(client, "told", seed)
        assert (run.info.status, run.data.metrics["class/accuracy/exam 1"]) == (status, 0.4)
    assert not mirror.listing.exists()


def test_closing_waits_no_longer_than_it_is_told(results, hanging):
    mirror = Mirror(results, hanging)
    start = time.monotonic()
    mirror.add(results / "sweeping" / "er" / "0123456789ab" / "seed-0")
    said = mirror.close(1)
    assert time.monotonic() - start < 10
    assert said == (
        f"MLflow at {hanging} is behind: it needs more than 1 s (it goes on in the background); "
        "the results are complete; later: clbench sync"
    )
    mirror.child.kill()
    mirror.child.wait()


def test_closing_does_not_wait_for_a_server_that_is_away(results, refusing):
    mirror = Mirror(results, refusing)
    mirror.add(results / "sweeping" / "er" / "0123456789ab" / "seed-0")
    said = mirror.close(PATIENCE)
    assert mirror.child.poll() is None
    assert said == (
        f"MLflow at {refusing} is behind: it refuses the connection; the results are complete; later: clbench sync"
    )
    assert mirror.child.wait(PATIENCE) == 0
    assert not mirror.listing.exists()


def test_a_child_that_stops_is_noticed(results):
    mirror = Mirror(results)
    mirror.add(results / "sweeping" / "er" / "0123456789ab" / "seed-0")
    mirror.child.kill()
    assert "its process stopped (see " in mirror.close(PATIENCE)


def test_trouble_at_the_start_is_told_at_the_end(tmp_path):
    mirror = Mirror(tmp_path / "results", "mlruns")
    mirror.add(tmp_path)
    assert "refuses its file store" in mirror.close(0)
    (tmp_path / "file").write_text("")
    mirror = Mirror(tmp_path / "file" / "results")
    mirror.add(tmp_path)
    assert "Not a directory" in mirror.close(0)
    assert Mirror(tmp_path).close(0) is None


def test_the_child_ends_when_its_parent_is_killed(results, client):
    folder = write_run(results, "killed", state="running", looks=2)
    code = f"""
import time, pathlib, clbench.mirror
mirror = clbench.mirror.Mirror(pathlib.Path({str(results)!r}))
mirror.add(pathlib.Path({str(folder)!r}))
print(mirror.child.pid, mirror.listing, flush=True)
time.sleep(100)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child, listing = parent.stdout.readline().decode().strip().split(" ", 1)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and Path(f"/proc/{child}").exists() and not zombie(child):
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists() or zombie(child)
    assert the_run(client, "killed").data.metrics["class/accuracy/exam 0"] == 0.1
    assert not Path(listing).exists()


def zombie(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_several_commands_may_create_the_store_at_once(tmp_path):
    folders = [write_run(tmp_path, "crowd", seed, "failed", sweep="s") for seed in range(3)]
    code = """
import pathlib, sys, clbench.mirror
results, *folders = map(pathlib.Path, sys.argv[1:])
print(clbench.mirror.sync(folders, None, results))
"""
    commands = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path, *folders[n:], *folders[:n]], stdout=subprocess.PIPE)
        for n in range(3)
    ]
    for command in commands:
        said, _ = command.communicate(timeout=PATIENCE)
        assert b"3 runs as in the results" in said
        assert b"behind" not in said
    found = counts(tmp_path)
    assert (found["experiments"], found["runs"]) == (2, 4)
    assert found["metrics"] == 3 * sum(row.value is not None for step in range(4) for row in look(step))


def test_the_report_is_one_line():
    assert str(Report("http://me:pw@host", 3, 12)) == "MLflow at http://host: 3 runs as in the results, 12 points new."
