"""Many runs: checked before the first one starts, then done in this process or shared by local processes.

What happens is told as events, dictionaries that are the same whether a run is here or in another process:

    {"event": "start",    "run": i, "folder": …}
    {"event": "progress", "run": i, "experience", "experiences", "step", "loss", "accuracy", "left": seconds}
    {"event": "say",      "run": i, "line": …}
    {"event": "end",      "run": i, "status": done|skipped|diverged|failed|busy, "folder", "error", "seconds"}
"""

from __future__ import annotations

import gc
import hashlib
import math
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy, deepcopy
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.config import Plan
from clbench.errors import Busy, Mistake
from clbench.words import Options, to_text

if TYPE_CHECKING:
    from clbench.run import Progress

Event = dict[str, Any]


@dataclass
class Task:
    """A run to be done: its plan, its folder, and what is written down about it."""

    plan: Plan
    folder: Path
    meta: dict[str, Any]


def check(plan: Plan) -> None:
    """Whether a run could start: data, options, capabilities, network.

    Raises:
        Mistake: it could not; why.
    """
    from clbench import strategy
    from clbench.loss_mask import NEEDS
    from clbench.pretrained import Pretrained
    from clbench.transform import Transform

    plan.learner.check()
    stream = deepcopy(plan.stream)
    stream.open(plan.seed)
    mask = plan.learner.loss_mask
    asked = {f"strategy={plan.label}": strategy.needs(plan.strategy), f"learner.loss_mask={mask}": NEEDS[mask]}
    for word, needed in asked.items():
        if missing := strategy.lacking(needed, stream, plan.model):
            neither = f"neither stream={plan.values['stream']} nor model={plan.values['model']} offers"
            remedy = " stream.mixture={update:1.0} mixes nothing in." if "unmixed lessons" in missing else ""
            raise Mistake(f"{word} needs {' and '.join(missing)}, which {neither}.{remedy}")
    if isinstance(plan.model, Pretrained):
        plan.model.check(stream)
    learner, syllabus = copy(plan.learner), stream.syllabus()
    learner.open(plan.model, syllabus, Transform(), stream.criterion, plan.seed)
    whole = plan.budget.around(deepcopy(plan.strategy))
    strategy.check(whole)
    whole.start(learner, syllabus)


def tasks(plans: Sequence[Plan], results: Path, words: Sequence[str]) -> list[Task]:
    """The runs of a command, checked. Points that come to the same run are done once.

    Raises:
        Mistake: one of them could not start.
    """
    found: dict[Path, Task] = {}
    checksums: dict[str, dict[str, str]] = {}
    for plan in plans:
        apart = {path: value for path, value in plan.values.items() if not path.startswith("seed")}
        key = repr(apart)
        if key not in checksums:
            check(plan)
            checksums[key] = plan.checksums()
        folder = plan.folder(results, checksums[key])
        found[folder] = Task(plan, folder, _meta(plan, checksums[key], words))
    sweep = hashlib.sha256("\n".join(map(str, sorted(found))).encode()).hexdigest()[:12] if len(found) > 1 else ""
    for task in found.values():
        task.meta["sweep"] = sweep
    return list(found.values())


def _meta(plan: Plan, checksums: dict[str, str], words: Sequence[str]) -> dict[str, Any]:
    from clbench.strategy import whole_stream

    axes = {p.partition(".")[2]: v for p, v in plan.values.items() if p.endswith("memory_size")}
    elsewhere = {option.name for option in fields(Options)}
    return {
        "format": 1,
        "stream": plan.values["stream"],
        "strategy": plan.label,
        "seed": plan.seed,
        "hash": plan.hash(checksums),
        "protocol": plan.protocol(),
        "axes": axes,
        "preset": plan.preset(),
        "whole_stream": whole_stream(plan.strategy),
        "config": {path: to_text(value) for path, value in plan.values.items()},
        "command": shlex.join(word for word in words if word.partition("=")[0] not in elsewhere),
        "data": checksums,
        "versions": {**plan.versions(), **{name: version(name) for name in ("clbench", "torch", "numpy")}},
        "python": platform.python_version(),
        "host": platform.node(),
        "system": platform.platform(),
        "device": plan.learner.hardware(),
        "commit": commit(),
    }


@cache
def commit() -> str:
    """The commit of the checkout that clbench runs from, `+` where files were changed; empty outside a checkout."""
    where = Path(__file__).parent
    try:
        head = subprocess.run(["git", "-C", where, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
        changed = subprocess.run(
            ["git", "-C", where, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else ""


@contextmanager
def _tidied() -> Iterator[None]:
    """Afterwards the garbage made in here is gone. What was there before is not looked through for any: of many small
    runs that is half the time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


@_tidied()
def perform(number: int, task: Task, every: float, again: bool, tell: Callable[[Event], None]) -> str:
    """Do one run in this process and tell what happens. Returns how it ended."""
    from clbench.recorder import Recorder
    from clbench.run import Run, execute

    plan, started = deepcopy(task.plan), time.monotonic()
    tell({"event": "start", "run": number, "folder": str(task.folder)})
    status, error = "failed", ""
    try:
        with Recorder(task.folder) as recorder:
            (task.folder / "error.txt").unlink(missing_ok=True)
            run = Run(
                plan.stream,
                plan.budget.around(plan.strategy),
                plan.model,
                plan.learner,
                plan.seed,
                plan.probes,
                recorder,
                every,
                say=lambda line: tell({"event": "say", "run": number, "line": line}),
            )
            with watched(number, run.progress, tell):
                status = execute(run, plan.text(), task.meta, again)
            error = recorder.state().get("error", "")
    except Busy as busy:
        status, error = "busy", str(busy)
    except Exception as problem:
        line = f"{type(problem).__name__}: {problem}".splitlines()[0]
        error = f"{line} ({_place(problem)}; {task.folder / 'error.txt'})"
        _log(task.folder)
    tell(_end(number, task, status, error, time.monotonic() - started))
    return status


def _place(problem: Exception) -> str:
    """Where it was raised: the innermost line that is neither clbench's, an installed package's nor Python's own, if
    there is one.
    """
    import traceback

    others, places, theirs = {"clbench", *sys.stdlib_module_names}, [], []
    for frame, line in traceback.walk_tb(problem.__traceback__):
        file, module = Path(frame.f_code.co_filename), str(frame.f_globals.get("__name__"))
        places.append(f"{file.name}:{line}")
        if module.partition(".")[0] not in others and "site-packages" not in file.parts:
            theirs.append(places[-1])
    return (theirs or places)[-1]


def _log(folder: Path) -> None:
    import traceback

    with suppress(OSError):
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")


@contextmanager
def watched(number: int, progress: Progress, tell: Callable[[Event], None]) -> Iterator[None]:
    """While it is open, tells the progress of a run twice a second, from a thread of its own."""
    over, started = threading.Event(), time.monotonic()

    def watch() -> None:
        while not over.wait(0.5):
            if (learner := progress.learner) is None:
                continue
            done, rest = learner.step - (progress.resumed or 0), progress.steps - learner.step
            tell(
                {
                    "event": "progress",
                    "run": number,
                    "experience": progress.experience,
                    "experiences": progress.experiences,
                    "step": learner.step,
                    "loss": learner.last_loss,
                    "accuracy": progress.accuracy,
                    "left": (time.monotonic() - started) * rest / done if done > 0 and rest >= 0 else math.nan,
                }
            )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def in_turn(work: Sequence[Task], every: float, again: bool, tell: Callable[[Event], None]) -> list[str]:
    """Do the runs one after another, in this process."""
    return [perform(number, task, every, again, tell) for number, task in enumerate(work)]


def shared(work: Sequence[Task], workers: int, every: float, again: bool, tell: Callable[[Event], None]) -> list[str]:
    """Do the runs in `workers` local processes. A process that dies takes only its run with it."""
    context = multiprocessing.get_context("spawn")
    queue = list(enumerate(work))
    ends = [""] * len(work)
    busy: dict[Connection, tuple[Any, int]] = {}

    def begin(connection: Connection, process: Any) -> None:
        """Give a process its next run. One that is dead by then is seen when it is listened to."""
        number, task = queue.pop(0)
        busy[connection] = (process, number)
        with suppress(OSError):
            connection.send((number, task))

    def start() -> None:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, every, again), daemon=True)
        process.start()
        there.close()
        begin(here, process)

    try:
        while queue or busy:
            while queue and len(busy) < workers:
                start()
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                process, number = busy[connection]
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    process.join()
                    del busy[connection]
                    if not ends[number]:
                        ends[number] = "failed"
                        error = f"its process ended with exit code {process.exitcode}"
                        tell(_end(number, work[number], "failed", error))
                    continue
                tell(event)
                if event["event"] == "end":
                    ends[number] = event["status"]
                    if queue:
                        begin(connection, process)
                    else:
                        with suppress(OSError):
                            connection.send(None)
    finally:
        for process, _ in busy.values():
            process.terminate()
    return ends


def _end(number: int, task: Task, status: str, error: str, seconds: float = 0.0) -> Event:
    return {
        "event": "end", "run": number, "status": status, "folder": str(task.folder), "error": error, "seconds": seconds
    }  # fmt: skip


def _work(connection: Connection, every: float, again: bool) -> None:
    def tell(event: Event) -> None:
        try:
            connection.send(event)
        except OSError:
            os._exit(1)

    try:
        while (given := connection.recv()) is not None:
            number, task = given
            perform(number, task, every, again, tell)
    except (EOFError, OSError, KeyboardInterrupt):
        os._exit(1)
