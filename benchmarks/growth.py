"""Whether a step, an experience, or memory costs more at the end of a long stream than at its start.

    python benchmarks/growth.py [--experiences 200]
    python benchmarks/growth.py --recurring [--experiences 1000]

A stream of random images, each class taught once, 200 experiences, under naive, er and derpp: seconds of a step. Or
SCoLe on scikit-learn's digits, 2 of 10 classes and 64 images an experience, 1,000 experiences, under naive, er and ewc:
the processor's seconds for a whole experience, with all that a run does about it but exams. Printed: medians of these,
and of resident memory, over the first and the last tenth of the stream.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from overhead import Noise

from clbench.catalogue import resolve
from clbench.learner import Learner
from clbench.recorder import Recorder
from clbench.run import Progress, Run
from clbench.stream import Stream
from clbench.streams.recurring import SCoLe


def resident() -> float:
    """Megabytes of memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(
    stream: Stream, strategy: str, model: str, learner: Learner, probes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each experience seconds of a step, the processor's seconds since the one before, and megabytes after it."""
    steps, whole, memory = [], [], []
    last = (0.0, 0, time.process_time())

    def told(progress: Progress) -> None:
        nonlocal last
        now = (learner.seconds, learner.step, time.process_time())
        if now[1]:
            steps.append((now[0] - last[0]) / (now[1] - last[1]))
            whole.append(now[2] - last[2])
            memory.append(resident())
        last = now

    looking = [resolve("metric", name)() for name in probes]
    with tempfile.TemporaryDirectory() as folder, Recorder(Path(folder)) as recorder:
        Run(
            stream, resolve("strategy", strategy)(), resolve("model", model)(), learner, 0, looking, recorder, told=told
        )()
    return np.array(steps), np.array(whole), np.array(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiences", type=int, help="200, or 1000 where they recur")
    parser.add_argument("--recurring", action="store_true", help="SCoLe on digits")
    given = parser.parse_args()
    count = given.experiences or (1000 if given.recurring else 200)
    tenth = max(count // 10, 1)
    unit = "an experience" if given.recurring else "a step"
    print(f"{'':8}{f'ms {unit}: first tenth':>31}{'last tenth':>12}{'ratio':>8}{'MB: first':>12}{'last':>8}")
    for strategy in ("naive", "er", "ewc" if given.recurring else "derpp"):
        began = time.time()
        if given.recurring:
            stream: Stream = SCoLe(data="digits", experiences=count, samples=64, look_every=count)
            probes, learner = ("exams", "cost", "timing", "loss", "online"), Learner(lr=0.01, epochs=1, threads=1)
            _, seconds, memory = measure(stream, strategy, "mlp", learner, probes)
        else:
            stream = Noise(experiences=count, labels=count, normalise="unit", count=count * 320, side=28)
            learner = Learner(lr=0.01, threads=2)
            seconds, _, memory = measure(stream, strategy, "cnn", learner, ("cost", "timing", "loss"))
        first, last = np.median(seconds[1 : tenth + 1]), np.median(seconds[-tenth:])
        print(
            f"{strategy:8}{first * 1e3:31.3f}{last * 1e3:12.3f}{last / first:8.3f}"
            f"{np.median(memory[1 : tenth + 1]):12.0f}{np.median(memory[-tenth:]):8.0f}   ({time.time() - began:.0f} s)"
        )


if __name__ == "__main__":
    main()
