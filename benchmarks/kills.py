"""Whether a run that is killed at random moments, and started again, leaves the same bytes as one that is left alone.

    python benchmarks/kills.py [--kills 30] [--strategies "naive,er,derpp,kfpf,fpf(er)"] [--seed 0] [path=value ...]

Real SIGKILLs of real processes, `clbench run stream=digits path=value ...`, with a checkpoint at every epoch. A quarter
of the kills are meant for each of: going on from a checkpoint, training, sitting exams, writing a checkpoint; what the
process was at when it died is read from a file that it keeps mapped. When a run is done its rows, predictions,
configuration and last checkpoint are compared with those of the run that was left alone, and the next one begins.
Printed: kills by what they interrupted, runs, and how many of these left the same bytes. Exit status 1 where one did
not.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

PHASES = ("elsewhere", "resuming", "training", "evaluation", "saving")
EPOCHS = 16
"""a process is left to itself for fewer epochs than this, at random, before it is killed; a run over digits has 50"""


def child(file: str, words: list[str]) -> int:
    """`clbench run`, with its phase and the number of its saves (255: as many or more) in `file`, a byte each."""
    from clbench.cli import main
    from clbench.learner import Learner
    from clbench.run import Run

    with open(file, "r+b") as opened:
        shared = mmap.mmap(opened.fileno(), 2)

    def noted(phase: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)
        def outer(*given: Any, **named: Any) -> Any:
            before, shared[0] = shared[0], PHASES.index(phase)
            try:
                return inner(*given, **named)
            finally:
                shared[0] = before
                shared[1] = min(shared[1] + (phase == "saving"), 255)

        return outer

    Learner.fit = noted("training", Learner.fit)  # type: ignore[method-assign]
    for name, phase in (("_resume", "resuming"), ("_measure", "evaluation"), ("_write", "saving")):
        setattr(Run, name, noted(phase, getattr(Run, name)))
    return main(["run", *words])


def start(phase: Path, results: Path, strategy: str, more: list[str]) -> subprocess.Popen[bytes]:
    phase.write_bytes(b"\0\0")
    name, _, base = strategy.rstrip(")").partition("(")
    words = [
        *([] if any(word.startswith("stream=") for word in more) else ["stream=digits"]),
        f"strategy={name}",
        *([f"strategy.base={base}"] if base else []),
        f"results={results}",
        "mlflow=off",
        "checkpoint=0",
        *more,
    ]
    return subprocess.Popen([sys.executable, __file__, "--child", str(phase), *words], stdout=subprocess.DEVNULL)


def wait(phase: Path, process: subprocess.Popen[bytes], goal: str, saves: int) -> None:
    """Until the process has saved so often, and is in this phase; or until it is over."""
    while process.poll() is None:
        now, saved = phase.read_bytes()
        if saved >= saves and PHASES[now] == goal:
            return
        time.sleep(0.0002)


def digest(results: Path) -> str:
    """All that a rerun repeats, as one sha256."""
    from clbench.run import final_weights

    (folder,) = results.glob("*/*/*/seed-*")
    found = hashlib.sha256()
    for path in (folder / "rows.csv", folder / "config.yaml", *sorted((folder / "predictions").iterdir())):
        found.update(path.name.encode() + path.read_bytes())
    for name, tensor in sorted(final_weights(folder).items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def kill(
    strategy: str, kills: int, rng: np.random.Generator, where: Path, more: list[str]
) -> tuple[Counter[str], int, int]:
    """Kill runs of a strategy so many times: (kills by phase, runs that were killed, how many of them are the same)."""
    phase, phases, runs, same = where / "phase", Counter[str](), 0, 0
    assert start(phase, where / "whole", strategy, more).wait() == 0, "the run that is left alone fails"
    whole = digest(where / "whole")
    while phases.total() < kills:
        results, before = where / f"killed-{runs}", phases.total()
        while True:
            process = start(phase, results, strategy, more)
            if phases.total() < kills:
                goal = PHASES[rng.integers(1, len(PHASES))]
                wait(phase, process, goal, 0 if goal == "resuming" else int(rng.integers(EPOCHS)))
                time.sleep(rng.exponential(0.001))
                process.send_signal(signal.SIGKILL)
            ended = process.wait()
            if ended != -signal.SIGKILL:
                assert ended == 0, f"a run that goes on ends with exit status {ended}"
                break
            phases[PHASES[phase.read_bytes()[0]]] += 1
        if phases.total() > before:
            runs, same = runs + 1, same + (digest(results) == whole)
        else:
            shutil.rmtree(results)
    return phases, runs, same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--strategies", default="naive,er,derpp,kfpf,fpf(er)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="*", metavar="path=value")
    given = parser.parse_args()
    strategies = given.strategies.split(",")
    width = max(map(len, strategies))
    print(f"{'':{width}}{'kills':>6}" + "".join(f"{phase:>12}" for phase in PHASES) + f"{'runs':>6}{'same bytes':>12}")
    rng, failed = np.random.default_rng(given.seed), False
    for strategy in strategies:
        with tempfile.TemporaryDirectory() as where:
            phases, runs, same = kill(strategy, given.kills, rng, Path(where), given.words)
        counts = "".join(f"{phases[phase]:12}" for phase in PHASES)
        print(f"{strategy:{width}}{phases.total():6}{counts}{runs:6}{f'{same} of {runs}':>12}", flush=True)
        failed |= same != runs
    return int(failed)


if __name__ == "__main__":
    sys.exit(child(sys.argv[2], sys.argv[3:]) if sys.argv[1:2] == ["--child"] else main())
