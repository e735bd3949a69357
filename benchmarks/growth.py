"""Whether a step, or memory, costs more at the end of a long stream than at its start.

    python benchmarks/growth.py [--experiences 200]

A stream of random images, 200 experiences, under naive, er and derpp. Printed: seconds of a step and
resident memory in the first and the last tenth of the stream.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from overhead import Noise

from clbench.catalogue import resolve
from clbench.learner import Learner
from clbench.recorder import Recorder
from clbench.run import Progress, Run


def resident() -> float:
    """Megabytes of memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(strategy: str, experiences: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of a step in each experience, and megabytes after it."""
    stream = Noise(experiences=experiences, labels=experiences, normalise="unit", count=experiences * 320, side=28)
    learner = Learner(lr=0.01, threads=2)
    seconds, memory, last = [], [], (0.0, 0)

    def told(progress: Progress) -> None:
        nonlocal last
        now = (learner.seconds, learner.step)
        if now[1]:
            seconds.append((now[0] - last[0]) / (now[1] - last[1]))
            memory.append(resident())
        last = now

    probes = [resolve("metric", name)() for name in ("cost", "timing", "loss")]
    with tempfile.TemporaryDirectory() as folder, Recorder(Path(folder)) as recorder:
        model = resolve("model", "cnn")()
        Run(stream, resolve("strategy", strategy)(), model, learner, 0, probes, recorder, told=told)()
    return np.array(seconds), np.array(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiences", type=int, default=200)
    given = parser.parse_args()
    tenth = max(given.experiences // 10, 1)
    print(f"{'':8}{'ms a step: first tenth':>24}{'last tenth':>12}{'ratio':>8}{'MB: first':>12}{'last':>8}")
    for strategy in ("naive", "er", "derpp"):
        began = time.time()
        seconds, memory = measure(strategy, given.experiences)
        first, last = np.median(seconds[1 : tenth + 1]), np.median(seconds[-tenth:])
        print(
            f"{strategy:8}{first * 1e3:24.3f}{last * 1e3:12.3f}{last / first:8.3f}"
            f"{np.median(memory[1 : tenth + 1]):12.0f}{np.median(memory[-tenth:]):8.0f}   ({time.time() - began:.0f} s)"
        )


if __name__ == "__main__":
    main()
