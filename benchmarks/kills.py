"""Whether a run that is killed at random moments, and started again, leaves the same bytes as one that is left alone.

    python benchmarks/kills.py [--kills 30] [--strategies naive,er,derpp] [--seed 0]

Real SIGKILLs of real processes, `clbench run stream=digits`, with a checkpoint at every epoch. A quarter of the kills
are meant for each of: going on from a checkpoint, training, sitting exams, writing a checkpoint; what the process was
at when it died is read from a file that it keeps mapped. When a run is done its rows, predictions, configuration and
last checkpoint are compared with those of the run that was left alone, and the next one begins. Printed: kills by
what they interrupted, runs, and how many of these left the same bytes. Exit status 1 where one did not.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

PHASES = ("elsewhere", "resuming", "training", "evaluation", "saving")


def child(file: str, words: list[str]) -> int:
    """`clbench run`, with its phase in the first byte of `file`."""
    from clbench.cli import main
    from clbench.learner import Learner
    from clbench.run import Run

    with open(file, "r+b") as opened:
        shared = mmap.mmap(opened.fileno(), 1)

    def noted(phase: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)
        def outer(*given: Any, **named: Any) -> Any:
            before, shared[0] = shared[0], PHASES.index(phase)
            try:
                return inner(*given, **named)
            finally:
                shared[0] = before

        return outer

    Learner.fit = noted("training", Learner.fit)  # type: ignore[method-assign]
    for name, phase in (("_resume", "resuming"), ("_measure", "evaluation"), ("_write", "saving")):
        setattr(Run, name, noted(phase, getattr(Run, name)))
    return main(["run", *words])


def start(phase: Path, results: Path, strategy: str) -> subprocess.Popen[bytes]:
    phase.write_bytes(b"\0")
    words = ["stream=digits", f"strategy={strategy}", f"results={results}", "mlflow=off", "checkpoint=0"]
    return subprocess.Popen([sys.executable, __file__, "--child", str(phase), *words], stdout=subprocess.DEVNULL)


def wait(phase: Path, process: subprocess.Popen[bytes], goals: Sequence[str]) -> None:
    """Until the process is in one of these phases, or over."""
    while process.poll() is None and PHASES[phase.read_bytes()[0]] not in goals:
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


def kill(strategy: str, kills: int, rng: np.random.Generator, where: Path) -> tuple[Counter[str], int, int]:
    """Kill runs of a strategy so many times: (kills by phase, runs that were done, how many of these are the same)."""
    phase, phases, runs, same = where / "phase", Counter[str](), 0, 0
    process = start(phase, where / "whole", strategy)
    wait(phase, process, PHASES[1:])
    began = time.monotonic()
    assert process.wait() == 0, "the run that is left alone fails"
    length, whole = time.monotonic() - began, digest(where / "whole")
    while phases.total() < kills:
        results = where / f"killed-{runs}"
        while True:
            process = start(phase, results, strategy)
            if phases.total() < kills:
                goal = PHASES[rng.integers(1, len(PHASES))]
                wait(phase, process, PHASES[1:])
                time.sleep(rng.uniform(0, length / 3) if goal != "resuming" else 0)
                wait(phase, process, [goal])
                time.sleep(rng.exponential(0.001))
                process.send_signal(signal.SIGKILL)
            ended = process.wait()
            if ended != -signal.SIGKILL:
                assert ended == 0, f"a run that goes on ends with exit status {ended}"
                break
            phases[PHASES[phase.read_bytes()[0]]] += 1
        runs, same = runs + 1, same + (digest(results) == whole)
    return phases, runs, same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--strategies", default="naive,er,derpp")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{'':8}{'kills':>6}" + "".join(f"{phase:>12}" for phase in PHASES) + f"{'runs':>6}{'same bytes':>12}")
    rng, failed = np.random.default_rng(given.seed), False
    for strategy in given.strategies.split(","):
        with tempfile.TemporaryDirectory() as where:
            phases, runs, same = kill(strategy, given.kills, rng, Path(where))
        counts = "".join(f"{phases[phase]:12}" for phase in PHASES)
        print(f"{strategy:8}{phases.total():6}{counts}{runs:6}{f'{same} of {runs}':>12}", flush=True)
        failed |= same != runs
    return int(failed)


if __name__ == "__main__":
    sys.exit(child(sys.argv[2], sys.argv[3:]) if sys.argv[1:2] == ["--child"] else main())
