"""Killed at any moment and started again, a run leaves the same bits; a damaged checkpoint, a full disk, a second
process and a loss that is no number are survived, and told in a line."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from clbench import cli
from clbench.batch import Batch
from clbench.config import plans
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.recorder import Recorder
from clbench.run import Progress, Run, execute, final_weights
from clbench.strategy import Strategy
from clbench.stream import Experience
from clbench.sweep import tasks

TOY = ["stream=toy", "learner.epochs=3", "learner.threads=1"]
LONG = ["stream=digits", "learner.epochs=12", "learner.threads=1"]


def words(results: Path, *given: str) -> list[str]:
    return [*given, f"results={results}", "mlflow=off", "checkpoint=0"]


def run(results: Path, *given: str) -> int:
    """The command, in this process."""
    return cli.main(["run", *words(results, *given)])


def start(results: Path, *given: str) -> subprocess.Popen:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "clbench.cli", "run", *words(results, *given)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def folder_of(results: Path) -> Path:
    (found,) = results.glob("*/*/*/seed-*")
    return found


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def bits(folder: Path) -> dict[str, str]:
    """What a rerun repeats, file by file and tensor by tensor, as sha256."""
    files = [folder / "rows.csv", folder / "config.yaml", *sorted((folder / "predictions").iterdir())]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    weights = {name: t.reshape(-1).view(torch.uint8).numpy().tobytes() for name, t in final_weights(folder).items()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in (found | weights).items()}


def within(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 60) -> bool:
    """Wait for a condition; False where the process ended before."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "the process does nothing"
        time.sleep(0.002)
    return True


@pytest.mark.parametrize(
    "strategy",
    [["strategy=derpp"], ["strategy=fpf", "strategy.base=er", "strategy.when=each"]],
    ids=["derpp", "fpf(er)"],
)
def test_killed_at_random_moments_and_run_again_it_leaves_the_same_bits(strategy, tmp_path):
    started = time.monotonic()
    assert run(tmp_path / "whole", *LONG, *strategy) == 0
    seconds = time.monotonic() - started
    whole = bits(folder_of(tmp_path / "whole"))
    rng, kills, killed = np.random.default_rng(len(strategy[0])), 0, tmp_path / "killed"
    (killed / "nothing").mkdir(parents=True)
    while kills < 2:
        process = start(killed, *LONG, *strategy)
        has_begun = lambda pid=process.pid: any(  # noqa: E731
            status(path.parent)["pid"] == pid for path in killed.glob("*/*/*/seed-0/status.json")
        )
        assert within(has_begun, process)
        time.sleep(rng.uniform(0, seconds / 8))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run was over before it was killed: make it longer"
        assert status(folder_of(killed))["state"] == "running"
        kills += 1
    assert run(killed, *LONG, *strategy) == 0
    assert bits(folder_of(killed)) == whole
    kept = sorted(path.name for path in (folder_of(killed) / "checkpoint").iterdir())
    assert [Path(name).suffix for name in kept] == [".json", ".safetensors"] * 2
    assert not list(killed.rglob("*.part"))


class Stop(BaseException):
    """What a kill is, within a process."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """The results of a run of er that was stopped before the save after its second experience."""
    results = tmp_path_factory.mktemp("begun")

    def told(progress: Progress) -> None:
        if progress.experience == 2:
            raise Stop

    (task,) = tasks(plans([*TOY, "strategy=er"])[0], results, [])
    plan = task.plan
    with Recorder(task.folder) as recorder:
        probes, learner = plan.probes, plan.learner
        going = Run(plan.stream, plan.strategy, plan.model, learner, 0, probes, recorder, every=0, told=told)
        with pytest.raises(Stop):
            execute(going, plan.text(), task.meta)
    assert len(list((task.folder / "checkpoint").glob("*.safetensors"))) == 2
    return results


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, str]:
    """The bits of that run, not stopped."""
    results = tmp_path_factory.mktemp("whole")
    assert run(results, *TOY, "strategy=er") == 0
    return bits(folder_of(results))


def flip(path: Path, place: float) -> None:
    """Turn one bit over."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


DAMAGE: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "truncated": (lambda data, manifest: truncate(data), "its content is not what was saved"),
    "empty": (lambda data, manifest: data.write_bytes(b""), "its content is not what was saved"),
    "a bit of the header": (lambda data, manifest: flip(data, 0.0001), "its content is not what was saved"),
    "a bit of a tensor": (lambda data, manifest: flip(data, 0.99), "its content is not what was saved"),
    "a bit of the manifest": (lambda data, manifest: flip(manifest, 0.5), "its content is not what was saved"),
    "half a manifest": (lambda data, manifest: truncate(manifest), "Unterminated string"),
    "no manifest": (lambda data, manifest: manifest.unlink(), "it has no manifest"),
    "no tensors": (lambda data, manifest: data.unlink(), "No such file"),
}


@pytest.mark.parametrize(
    ("kind", "both"), [*((kind, False) for kind in DAMAGE), ("truncated", True), ("no manifest", True)]
)
def test_a_damaged_checkpoint_is_passed_over(kind, both, begun, whole, tmp_path, capsys):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    damage, reason = DAMAGE[kind]
    saved = sorted((folder_of(tmp_path) / "checkpoint").glob("*.safetensors"))
    for data in saved if both else saved[1:]:
        damage(data, data.with_suffix(".json"))
    assert run(tmp_path, *TOY, "strategy=er") == 0
    assert bits(folder_of(tmp_path)) == whole
    said = [line for line in capsys.readouterr().out.splitlines() if "The checkpoint " in line]
    assert len(said) == 1 + both
    assert f"{saved[-1].name} is not whole (" in said[0]
    assert reason in said[0]
    assert said[0].endswith("; going on from the one before it.")
    assert not both or said[1].endswith("; there is none before it, so the run starts over.")


def test_it_goes_on_from_where_it_was(begun, whole, tmp_path, monkeypatch):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    learned = []
    monkeypatch.setattr(
        Learner, "fit", lambda self, *given, fit=Learner.fit: (learned.append(self.step), fit(self, *given))
    )
    assert run(tmp_path, *TOY, "strategy=er") == 0
    assert len(learned) == 3, "one epoch or experience too many was learned again, or too few"
    assert bits(folder_of(tmp_path)) == whole


def test_rows_that_are_lost_are_made_anew(begun, whole, tmp_path, capsys):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    truncate(folder_of(tmp_path) / "rows.csv")
    assert run(tmp_path, *TOY, "strategy=er") == 0
    assert "not all there; the run starts over." in capsys.readouterr().out
    assert bits(folder_of(tmp_path)) == whole


@pytest.mark.parametrize("stays", [False, True], ids=["full for a moment", "full"])
def test_a_disk_that_is_full_now_and_then_changes_nothing(stays, whole, tmp_path, monkeypatch, capsys):
    rng, fails, fsync, left = np.random.default_rng(0), 0, os.fsync, 0

    def full(file: int) -> None:
        nonlocal left
        left -= 1
        if left == 0 or (stays and left < 0):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    while True:
        left = int(rng.integers(16, 48))
        ended = run(tmp_path, *TOY, "strategy=er")
        if ended == 0:
            break
        fails += 1
        assert ended == 1
        assert "er seed 0: failed: OSError: [Errno 28] No space left on device" in capsys.readouterr().out
        assert status(folder_of(tmp_path))["state"] == ("running" if stays else "failed")
        assert (folder_of(tmp_path) / "error.txt").exists()
    assert fails > 1
    assert bits(folder_of(tmp_path)) == whole
    assert not (folder_of(tmp_path) / "error.txt").exists()


HOLD = "import sys, time; from pathlib import Path; from clbench.recorder import Recorder; "
HOLD += "held = Recorder(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def held(begun, tmp_path) -> Iterator[tuple[Path, subprocess.Popen]]:
    """Results of which a process holds the run, and that process."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder_of(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield tmp_path, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_turned_away(held, capsys):
    results, process = held
    before = bits(folder_of(results))
    assert run(results, *TOY, "strategy=er") == 3
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if str(folder_of(results)) in line]
    assert len(lines) == 1
    assert re.search(rf"is being run by process {process.pid} on \S+; wait until it ends, or stop it\.", lines[0])
    assert bits(folder_of(results)) == before


def test_the_lock_of_a_killed_process_is_no_lock(held, whole):
    results, process = held
    process.kill()
    process.wait()
    assert f"process {process.pid} " in (folder_of(results) / ".lock").read_text()
    assert run(results, *TOY, "strategy=er") == 0
    assert bits(folder_of(results)) == whole


def test_a_finished_run_is_left_alone_unless_asked_again(whole, tmp_path, capsys):
    assert run(tmp_path, *TOY, "strategy=er") == 0
    folder = folder_of(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run(tmp_path, *TOY, "strategy=er") == 0
    assert "done before" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert cli.main(["run", "--again", *words(tmp_path, *TOY, "strategy=er")]) == 0
    assert bits(folder) == whole
    assert before != {path: path.stat().st_mtime_ns for path in before}


def test_a_loss_that_is_no_number_ends_a_run_and_not_the_sweep(tmp_path, capsys):
    assert run(tmp_path, *TOY, "strategy=naive,er", "learner.lr=1e30,0.1") == 4
    states = sorted((json.loads(path.read_text())["state"]) for path in tmp_path.rglob("status.json"))
    assert states == ["diverged", "diverged", "done", "done"]
    for path in tmp_path.rglob("status.json"):
        ended = json.loads(path.read_text())
        if ended["state"] == "diverged":
            assert (ended["step"], ended["at"]) == (0, 2)
            assert re.fullmatch(r"the loss was (nan|inf) at step 2", ended["error"])
    assert len(re.findall(r"diverged: the loss was (?:nan|inf) at step 2", capsys.readouterr().out)) == 2


def test_where_it_was_made_is_written_down(begun, tmp_path):
    """Begun anew, of the last attempt alone; gone on with elsewhere, of each."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    folder = folder_of(tmp_path)
    about = folder / "meta.json"
    told = json.loads(about.read_text())
    about.write_text(json.dumps({**told, "commit": "a", "host": "b"}))
    (task,) = tasks(plans([*TOY, "strategy=er"])[0], tmp_path, [])
    with Recorder(folder) as recorder:
        for _ in range(2):
            recorder.goes_on(task.meta)
    assert json.loads(about.read_text())["resumed"] == [{"commit": told["commit"], "host": told["host"]}]
    shutil.rmtree(folder / "checkpoint")
    assert run(tmp_path, *TOY, "strategy=er") == 0
    again = json.loads(about.read_text())
    assert "resumed" not in again
    assert (again["commit"], again["host"]) == (told["commit"], told["host"])


@dataclass
class Bursts(Strategy):
    """Its last step takes the weights where no number is."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        if experience.index == 1:
            next(learner.model.parameters()).data.mul_(float("inf"))


def test_weights_that_are_no_numbers_end_a_run(tmp_path):
    (task,) = tasks(plans(TOY)[0], tmp_path, [])
    plan = task.plan
    with Recorder(task.folder) as recorder:
        going = Run(plan.stream, Bursts(), plan.model, plan.learner, plan.seed, plan.probes, recorder)
        assert execute(going, plan.text(), task.meta) == "diverged"
    ended = status(task.folder)
    assert (ended["step"], ended["error"]) == (1, f"weights were not finite at step {ended['at']}")


def test_an_exam_may_have_any_name(tmp_path):
    arrays = {"file": np.arange(3), "class/self": np.arange(4, dtype=np.uint8)}
    with Recorder(tmp_path) as recorder:
        recorder.answers("truth", arrays)
    with np.load(tmp_path / "predictions" / "truth.npz") as kept:
        assert {name: kept[name].tolist() for name in kept} == {"file": [0, 1, 2], "class/self": [0, 1, 2, 3]}


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def unknown(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unknown)
    with pytest.raises(Mistake, match=r"can't be locked \(No locks available\); take results="):
        Recorder(tmp_path)


@dataclass
class Breaks(Strategy):
    """Its loss at step 27 is no number."""

    def loss(self, learner: Learner, batch: Batch) -> torch.Tensor:
        loss = learner.criterion(learner(batch.x), batch.y)
        return loss * float("nan") if learner.step == 26 else loss


def test_the_step_of_a_loss_that_is_no_number_is_told(tmp_path):
    (task,) = tasks(plans([*TOY, "learner.batch=8"])[0], tmp_path, [])
    plan = task.plan
    with Recorder(task.folder) as recorder:
        going = Run(plan.stream, Breaks(), plan.model, plan.learner, plan.seed, plan.probes, recorder)
        assert execute(going, plan.text(), task.meta) == "diverged"
    assert status(task.folder) == {
        "state": "diverged", "step": 0, "at": 27, "error": "the loss was nan at step 27", "pid": os.getpid()
    }  # fmt: skip
    rows = (task.folder / "rows.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows if ",train/loss," in row] == ["10", "20"]
